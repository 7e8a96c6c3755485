package gossip

import (
	"log/slog"
	"strings"
	"sync"
	"time"
)

// logWriter gives memberlist's lines ("[WARN] memberlist: …") to slog. What it says while peers come
// and go is debug: we report that ourselves. Other trouble is a warning, each kind at most once a
// minute: a stranger could write as many as he likes.
type logWriter struct {
	to   *slog.Logger
	mu   sync.Mutex
	last map[string]time.Time
}

// ordinary are the beginnings of warnings that say no more than that a peer does not answer.
var ordinary = []string{
	"Refuting a",
	"Failed to send",
	"Failed fallback TCP ping",
	"Failed to forward ack",
	"Push/Pull with",
	"failed to receive: EOF",
	"Conflicting address", // see Gossip.Conflict
}

func (w *logWriter) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level, msg := slog.LevelDebug, line
	if l, rest, ok := strings.Cut(line, " "); ok && strings.HasPrefix(l, "[") {
		msg = strings.TrimPrefix(rest, "memberlist: ")
		if l == "[WARN]" || l == "[ERR]" || l == "[ERROR]" {
			level = slog.LevelWarn
		}
	}
	for _, o := range ordinary {
		if strings.HasPrefix(msg, o) {
			level = slog.LevelDebug
		}
	}
	if level == slog.LevelDebug {
		w.to.Debug("gossip: memberlist", "text", msg)
	} else if w.first(kind(msg), time.Now()) {
		w.to.Warn("gossip: memberlist", "text", msg)
	}
	return len(p), nil
}

// kind is what lines of one sort have in common: their first three words.
func kind(msg string) string {
	words := strings.Fields(msg)
	return strings.Join(words[:min(3, len(words))], " ")
}

func (w *logWriter) first(what string, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t, ok := w.last[what]; ok && now.Sub(t) < time.Minute {
		return false
	}
	if w.last == nil || len(w.last) > 64 {
		w.last = map[string]time.Time{}
	}
	w.last[what] = now
	return true
}
