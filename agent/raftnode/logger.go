package raftnode

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// logger gives Raft's messages to slog. Raft talks a lot: what it calls info is debug here, and a
// warning that repeats (a peer that is down gives several a second) comes once a minute.
type logger struct {
	to    *slog.Logger
	args  []any
	name  string
	limit slog.Level // nothing is logged above it
	seen  *repeats   // shared with all that With and Named make
}

func newLogger(to *slog.Logger) hclog.Logger {
	return &logger{to: to, limit: slog.LevelError, seen: &repeats{}}
}

// newQuietLogger logs everything as debug.
func newQuietLogger(to *slog.Logger) hclog.Logger {
	return &logger{to: to, limit: slog.LevelDebug, seen: &repeats{}}
}

// ordinary are warnings of a healthy start.
var ordinary = []string{
	"no known peers, aborting election",
	"not part of stable configuration, aborting election",
	"heartbeat timeout reached, not part of a stable configuration or a non-voter, not triggering a leader election",
	"skipping application of old log",
}

func (l *logger) Log(level hclog.Level, msg string, args ...any) {
	lvl := slog.LevelDebug
	if level >= hclog.Warn && !slices.Contains(ordinary, msg) {
		lvl = slog.LevelWarn
	}
	lvl = min(lvl, l.limit)
	if !l.to.Enabled(context.Background(), lvl) {
		return
	}
	args = append(slices.Clone(l.args), args...)
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	if lvl >= slog.LevelWarn && !l.seen.first(msg+about(args), time.Now()) {
		return
	}
	l.to.Log(context.Background(), lvl, "raft", append([]any{"text", msg}, args...)...)
}

// about returns whom a message is about.
func about(args []any) string {
	for i := 0; i+1 < len(args); i += 2 {
		switch args[i] {
		case "peer", "server-id", "target", "from", "candidate":
			return fmt.Sprintf(" %v", args[i+1])
		}
	}
	return ""
}

// repeats remembers what was said in the last minute.
type repeats struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (r *repeats) first(what string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, ok := r.last[what]; ok && now.Sub(t) < time.Minute {
		return false
	}
	if r.last == nil || len(r.last) > 256 {
		r.last = map[string]time.Time{}
	}
	r.last[what] = now
	return true
}

func (l *logger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *logger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *logger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *logger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *logger) debugs() bool         { return l.to.Enabled(context.Background(), slog.LevelDebug) }
func (l *logger) IsTrace() bool        { return false }
func (l *logger) IsDebug() bool        { return l.debugs() }
func (l *logger) IsInfo() bool         { return l.debugs() }
func (l *logger) IsWarn() bool         { return true }
func (l *logger) IsError() bool        { return true }
func (l *logger) SetLevel(hclog.Level) {}

func (l *logger) GetLevel() hclog.Level {
	if l.debugs() {
		return hclog.Debug
	}
	return hclog.Warn
}

func (l *logger) ImpliedArgs() []any { return l.args }
func (l *logger) Name() string       { return l.name }

func (l *logger) With(args ...any) hclog.Logger {
	c := *l
	c.args = append(slices.Clone(l.args), args...)
	return &c
}

func (l *logger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

func (l *logger) ResetNamed(name string) hclog.Logger {
	c := *l
	c.name = name
	return &c
}

func (l *logger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(nil), "", 0)
}

func (l *logger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return io.Discard }
