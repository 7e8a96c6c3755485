// Package hook runs the commands that a node's operator wants to be run when it
// becomes primary and when it ceases to be: one at a time, in order, each for a
// limited time, and never in the way of what it is told of.
package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Kind is what a command is run for.
type Kind string

// The kinds.
const (
	Promote Kind = "promote" // the server is open for writes
	Demote  Kind = "demote"  // it is not any more
)

const (
	// maxQueue events wait at most, the oldest are dropped: what a node is at last
	// is what matters.
	maxQueue = 16
	// maxOutput is how many bytes of a command's output are kept, the last ones.
	maxOutput = 4096
	// pipeWait is for output of processes that a command left behind.
	pipeWait = time.Second
)

// Event is one change of this node's role.
type Event struct {
	Kind  Kind   `json:"kind"`
	Epoch uint64 `json:"epoch"` // of its reign
	// Ended: its command has ended, well or not.
	Ended bool `json:"ended"`
}

// Result is how a command ended.
type Result struct {
	Event
	Took   time.Duration
	Output string // its last bytes, stdout and stderr as they came
	Err    error  // nil: it exited with 0
}

// Config is what a [Runner] is made from.
type Config struct {
	// Commands are the argument lists; none for a kind: nothing is run then.
	Commands map[Kind][]string
	Timeout  time.Duration // for one command
	// State is a file that tells the next run of the agent what has been run.
	State string
	// Env gives the environment that is added for an event.
	Env func(Event) []string
	// Ended is called after each command.
	Ended func(Result)
	Log   *slog.Logger
}

// Runner runs the hooks of one node. An agent that is started again runs what has
// not ended, and on_promote once for each reign otherwise.
type Runner struct {
	cfg  Config
	wake chan struct{}

	mu    sync.Mutex
	last  Event // that was told of
	queue []Event
}

// New reads what an earlier run of the agent has done. A state that cannot be read
// is none: too much is run rather than too little.
func New(cfg Config) *Runner {
	r := &Runner{cfg: cfg, wake: make(chan struct{}, 1)}
	if b, err := os.ReadFile(cfg.State); err == nil && json.Unmarshal(b, &r.last) != nil {
		r.last = Event{}
	}
	return r
}

// Opened says that this node reigns in an epoch. It may be said again and again, and
// returns at once.
func (r *Runner) Opened(epoch uint64) {
	r.tell(func(last Event) (Event, bool) {
		known := last.Kind == Promote && last.Epoch == epoch && last.Ended
		return Event{Kind: Promote, Epoch: epoch, Ended: true}, !known
	})
}

// Closed says that it does not, or not any more. It returns at once.
func (r *Runner) Closed() {
	r.tell(func(last Event) (Event, bool) {
		known := last.Kind == "" || last.Kind == Demote && last.Ended
		return Event{Kind: Demote, Epoch: last.Epoch, Ended: true}, !known
	})
}

// tell queues the next event if there is one. In memory an event counts as ended
// once it is queued; only one that an earlier run began does not.
func (r *Runner) tell(next func(last Event) (Event, bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, news := next(r.last)
	if !news {
		return
	}
	r.last = e
	if len(r.queue) == maxQueue {
		r.cfg.Log.Error("too many hooks wait: not run", "hook", r.queue[0].Kind, "epoch", r.queue[0].Epoch)
		r.queue = r.queue[1:]
	}
	r.queue = append(r.queue, e)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Runner) next() (Event, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return Event{}, false
	}
	e := r.queue[0]
	r.queue = r.queue[1:]
	return e, true
}

// Run runs what is queued until ctx ends. A command that runs then is killed, and
// run anew by the next agent.
func (r *Runner) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
		}
		for e, ok := r.next(); ok && ctx.Err() == nil; e, ok = r.next() {
			r.do(ctx, e)
		}
	}
}

func (r *Runner) do(ctx context.Context, e Event) {
	e.Ended = false
	r.save(e)
	if argv := r.cfg.Commands[e.Kind]; len(argv) > 0 {
		res := r.run(ctx, e, argv)
		if ctx.Err() != nil {
			return
		}
		res.Ended = true
		r.cfg.Ended(res)
	}
	e.Ended = true
	r.save(e)
}

// run runs one command in a process group of its own, which is killed when its time
// is over.
func (r *Runner) run(ctx context.Context, e Event, argv []string) Result {
	limited, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	began := time.Now()
	var out tail
	cmd := exec.CommandContext(limited, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), r.cfg.Env(e)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = pipeWait
	err := cmd.Run()
	switch {
	case limited.Err() != nil && ctx.Err() == nil && err != nil:
		err = fmt.Errorf("killed, as it had not ended after %s", r.cfg.Timeout)
	case errors.Is(err, exec.ErrWaitDelay): // it ended well and left somebody behind
		err = nil
	}
	return Result{Event: e, Took: time.Since(began), Output: out.String(), Err: err}
}

// save notes how far it is, for the next agent. Without a disk that one runs too much.
func (r *Runner) save(e Event) {
	b, err := json.Marshal(e)
	if err == nil {
		err = os.WriteFile(r.cfg.State+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(r.cfg.State+".tmp", r.cfg.State)
	}
	if err != nil {
		r.cfg.Log.Warn("not noted which hook was run", "err", err)
	}
}

// tail keeps the last bytes that are written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - maxOutput; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(strings.ToValidUTF8(string(t.b), "?")) }
