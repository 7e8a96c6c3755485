package hook

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// bench runs a runner whose hooks are shell scripts.
type bench struct {
	*testing.T
	*Runner
	dir  string
	stop func()

	mu      sync.Mutex
	results []Result
}

func run(t *testing.T, dir string, timeout time.Duration, promote, demote string) *bench {
	t.Helper()
	b := &bench{T: t, dir: dir}
	b.Runner = New(Config{
		Commands: map[Kind][]string{Promote: {"/bin/sh", "-c", promote}, Demote: {"/bin/sh", "-c", demote}},
		Timeout:  timeout, State: filepath.Join(dir, "hooks.json"),
		Env: func(e Event) []string {
			return []string{"HA_EVENT=" + string(e.Kind), fmt.Sprintf("HA_EPOCH=%d", e.Epoch)}
		},
		Ended: func(r Result) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.results = append(b.results, r)
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Runner.Run(ctx) })
	b.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(b.stop)
	return b
}

// ended waits for n results in all, and gives them.
func (b *bench) ended(n int) []Result {
	b.Helper()
	b.eventually(fmt.Sprintf("%d hooks ended", n), func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.results) >= n
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.results
}

func (b *bench) eventually(what string, ok func() bool) {
	b.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); !ok(); <-tick.C {
		if time.Since(began) > 10*time.Second {
			b.Fatalf("not within 10 s: %s", what)
		}
	}
}

const say = "echo $HA_EVENT $HA_EPOCH"

func said(rs []Result) string {
	var out []string
	for _, r := range rs {
		out = append(out, r.Output)
	}
	return strings.Join(out, ", ")
}

// Once for each reign, in order; also by an agent that was started again.
func TestOnce(t *testing.T) {
	dir := t.TempDir()
	b := run(t, dir, time.Minute, say, say)
	b.Closed() // never was primary
	b.Opened(3)
	b.Opened(3)
	b.Closed()
	b.Closed()
	b.Opened(4)
	b.Opened(5) // restart in place
	if got := said(b.ended(4)); got != "promote 3, demote 3, promote 4, promote 5" {
		t.Errorf("%s", got)
	}
	b.eventually("noted", func() bool { return strings.Contains(b.state(), `"epoch":5,"ended":true`) })
	b.stop()

	b = run(t, dir, time.Minute, say, say)
	b.Opened(5) // goes on
	b.Closed()
	if got := said(b.ended(1)); got != "demote 5" {
		t.Errorf("again: %s", got)
	}
}

func (b *bench) state() string {
	text, _ := os.ReadFile(filepath.Join(b.dir, "hooks.json"))
	return string(text)
}

// What an agent did not see the end of is run by the next one.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	mark := filepath.Join(dir, "mark")
	b := run(t, dir, time.Minute, "touch "+mark+"; sleep 100", say)
	b.Opened(7)
	b.eventually("it runs", func() bool { _, err := os.Stat(mark); return err == nil })
	b.stop()
	b = run(t, dir, time.Minute, say, say)
	b.Opened(7)
	b.Closed()
	if got := said(b.ended(2)); got != "promote 7, demote 7" {
		t.Errorf("%s", got)
	}
}

// A hook that hangs is killed with all that it started, and the next one is run.
func TestHangs(t *testing.T) {
	dir := t.TempDir()
	mark := filepath.Join(dir, "pid")
	b := run(t, dir, 300*time.Millisecond, "sleep 100 & echo $! >"+mark+"; echo waiting; wait", say)
	b.Opened(1)
	b.eventually("it runs", func() bool { _, err := os.Stat(mark); return err == nil })
	began := time.Now()
	b.Closed()
	for range 3 * maxQueue { // nothing waits for it
		b.Opened(1)
		b.Closed()
	}
	if took := time.Since(began); took > 200*time.Millisecond {
		t.Errorf("telling took %s", took)
	}
	rs := b.ended(1)
	if rs[0].Err == nil || !strings.Contains(rs[0].Err.Error(), "killed") || rs[0].Output != "waiting" {
		t.Errorf("%+v", rs[0])
	}
	if rs := b.ended(1 + maxQueue); rs[maxQueue].Kind != Demote { // the last one told
		t.Errorf("%+v", rs)
	}
	pid, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	b.eventually("its child is gone", func() bool {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		return err != nil || bytes.Contains(stat, []byte(") Z "))
	})
}

func TestEnds(t *testing.T) {
	for name, c := range map[string]struct{ script, err, output string }{
		"well":                {"echo out; echo err >&2", "", "out\nerr"},
		"badly":               {"echo no; exit 3", "exit status 3", "no"},
		"with much to say":    {"yes | head -c 100000; echo; echo end", "", "end"},
		"leaving one behind":  {"sleep 3 & echo done", "", "done"},
		"no such command":     {"/nonexistent/command", "exit status 127", "not found"},
		"in the root of disk": {"pwd", "", "/"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := run(t, t.TempDir(), 10*time.Second, c.script, "")
			b.Opened(1)
			r := b.ended(1)[0]
			if c.err == "" && r.Err != nil || c.err != "" && (r.Err == nil || r.Err.Error() != c.err) {
				t.Errorf("%v, want %q", r.Err, c.err)
			}
			if !strings.HasSuffix(r.Output, c.output) || len(r.Output) > maxOutput {
				t.Errorf("%d bytes: %.100q", len(r.Output), r.Output)
			}
			if r.Took > 2500*time.Millisecond {
				t.Errorf("took %s", r.Took)
			}
		})
	}
}
