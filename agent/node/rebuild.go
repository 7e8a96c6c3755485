package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
	"ha/xtra"
)

const (
	// progressEvery bounds how often progress causes a report of its own.
	progressEvery = time.Second
	// copyStall ends a copy of which nothing has come for that long: CLONE itself
	// waits for a frozen donor for ever. DDL on the donor may hold it up for a while.
	copyStall = 2 * time.Minute
	// copySpare is what a copy leaves free on the disk, in bytes: the server beside
	// it goes on writing.
	copySpare = 64 << 20
	// deniedFor is how long a donor may not know the recipient's account yet: that of
	// a new member is made at the primary and replicated.
	deniedFor   = 10 * time.Second
	deniedPause = 300 * time.Millisecond
)

// Phases of a rebuild beside raftfsm's.
const (
	phasePrepare = "prepare"
	phaseVerify  = "verify"
	phaseSwap    = "swap"
	phaseStart   = "start"
)

// rebuilder is the one copy that is being made, or was made last.
type rebuilder struct {
	// dirs is held while the directories beside the data belong to a copy.
	dirs sync.Mutex

	mu      sync.Mutex
	state   *raftfsm.RebuildReport // nil: none in this run of the agent
	running bool
	floor   gtid.Set // what the copy must hold
	cancel  context.CancelCauseFunc
	done    chan struct{}
	swapped chan struct{} // closed when the copy is in place
}

// report gives a copy of the state.
func (r *rebuilder) report() *raftfsm.RebuildReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == nil {
		return nil
	}
	state := *r.state
	return &state
}

func (r *rebuilder) mustHold() gtid.Set {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.floor
}

func (r *rebuilder) change(f func(*raftfsm.RebuildReport)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.state)
}

func (n *Node) phase(name string) {
	n.copy.change(func(r *raftfsm.RebuildReport) { r.Phase = name })
	n.Trigger()
}

// active says that a copy is being made.
func (r *rebuilder) active() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running
}

var errEnded = errors.New("the rebuild was ended")

// end ends the copy that is being made.
func (r *rebuilder) end(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel(why)
}

// stop ends the copy and waits, until ctx ends, for it to have left nothing behind
// that moves.
func (r *rebuilder) stop(ctx context.Context) error {
	r.mu.Lock()
	cancel, done := r.cancel, r.done
	r.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel(errEnded)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// beginRebuild starts the copy under a lease, once; another lease ends the copy
// that is being made.
func (n *Node) beginRebuild(o raftfsm.Order) error {
	switch {
	case o.Source == nil || o.Lease == 0:
		return refuse(raftfsm.CodeFailed, "the order names no donor or no lease")
	case o.Engine.Streams() && n.cfg.Stream == nil:
		return refuse(raftfsm.CodeFailed, "engine %q is not known to this agent", o.Engine)
	}
	if now := n.copy.report(); now != nil && now.Index == o.Lease {
		return nil // its report says how it goes, or went
	}
	_ = n.copy.stop(context.Background())
	if err := n.mayReplace(o.Token.Epoch); err != nil {
		return err
	}
	run := n.running()
	if run == nil {
		return refuse(raftfsm.CodeBusy, "the agent is stopping")
	}
	copying, cancel := context.WithCancelCause(run)
	done := make(chan struct{})
	n.copy.mu.Lock()
	n.copy.state = &raftfsm.RebuildReport{Index: o.Lease, Phase: phasePrepare}
	n.copy.floor = o.Keep
	n.copy.running, n.copy.cancel, n.copy.done, n.copy.swapped = true, cancel, done, make(chan struct{})
	n.copy.mu.Unlock()
	go func() {
		defer close(done)
		defer cancel(nil)
		n.copy.dirs.Lock()
		defer n.copy.dirs.Unlock()
		n.rebuild(copying, o)
	}()
	return nil
}

// endRebuild ends the copy under a lease that has ended, if it goes on still.
func (n *Node) endRebuild(ctx context.Context, o raftfsm.Order) error {
	if now := n.copy.report(); now == nil || now.Index != o.Lease {
		return nil
	}
	return n.copy.stop(ctx)
}

// mayReplace refuses where the node's own data must not go: it reigns in the
// epoch of the order or a later one, or its server is open.
func (n *Node) mayReplace(epoch uint64) error {
	if s := n.tokens.Now(); s.Role == RolePrimary && s.Reign >= epoch {
		return refuse(raftfsm.CodeFailed, "the primary of epoch %d is not rebuilt", s.Reign)
	}
	if n.fence.armed() != 0 {
		return refuse(raftfsm.CodeFailed, "a writable server is not rebuilt")
	}
	return nil
}

// rebuild runs to its end and notes how it ended.
func (n *Node) rebuild(ctx context.Context, o raftfsm.Order) {
	n.log.Info("rebuild begins", "lease", o.Lease, "donor", o.Source.Host, "port", o.Source.Port)
	began := time.Now()
	err := n.tryRebuild(ctx, o)
	if cause := context.Cause(ctx); cause != nil && err != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	if err != nil {
		n.log.Warn("rebuild failed", "lease", o.Lease, "err", err)
		if n.running() != nil { // leftovers: a copy may be as big as the disk
			if err := n.discard(); err != nil {
				n.log.Warn("leftovers of the rebuild not removed", "err", err)
			}
		}
	} else {
		n.log.Info("rebuild done", "lease", o.Lease, "took", time.Since(began).Round(time.Millisecond))
	}
	n.room.forget()
	n.copy.mu.Lock()
	n.copy.running = false
	if n.copy.state.Rate = 0; err != nil {
		n.copy.state.Err = err.Error()
	} else {
		n.copy.state.Done = true
	}
	n.copy.mu.Unlock()
	n.Trigger()
}

// discard removes an unfinished copy, or finishes a swap that stopped half way,
// when mysqld is not about to be started on the data.
func (n *Node) discard() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := n.hold(ctx); err != nil {
		return err
	}
	defer n.release()
	_, err := n.place.Recover()
	return err
}

// tryRebuild makes the copy and waits for the order that puts it in place.
func (n *Node) tryRebuild(ctx context.Context, o raftfsm.Order) error {
	if n.place.Lease() == o.Lease { // an agent before this one had it put in place
		old, _ := n.place.Replaced()
		floor, err := gtid.Parse(old.Floor)
		if err != nil {
			return err
		}
		return n.startCopy(ctx, o, floor)
	}
	if err := n.place.Prepare(); err != nil {
		return err
	}
	copier := n.cloner
	if o.Engine.Streams() {
		copier = n.streamer
	}
	clone, cleanUp, err := copier(ctx, o)
	if err != nil {
		return err
	}
	err = n.place.Take(ctx, clone, nil)
	cleanUp()
	if err != nil {
		return err
	}
	n.phase(raftfsm.CopyReady)
	select {
	case <-n.copy.swapped:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return n.startCopy(ctx, o, o.Keep)
}

// cloner gives what copies: the node's own mysqld, or if that does not start, or
// its data go first, a throw-away one.
func (n *Node) cloner(ctx context.Context, o raftfsm.Order) (xtra.CloneFunc, func(), error) {
	by, cleanUp := n.md, func() {}
	err := errors.New("its data are removed first")
	if !o.InPlace {
		err = n.ensureUp(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, err
		}
		scratch, end, scratchErr := n.scratch(ctx, o)
		if scratchErr != nil {
			return nil, nil, fmt.Errorf("mysqld does not start (%w), and no other can copy: %w", err, scratchErr)
		}
		by, cleanUp = scratch, end
	}
	src := mysqlctl.Source{Host: o.Source.Host, Port: o.Source.Port, User: o.Source.User, Password: o.Source.Password}
	return func(ctx context.Context, dir string, _ xtra.Progress) error {
		n.phase(raftfsm.CopyRunning)
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		watch := n.newCopyWatch(cancel)
		began := n.clock.Boottime()
		err := by.Clone(ctx, src, dir, o.Throttle, watch.progress)
		for errors.Is(err, mysqlctl.ErrDenied) && n.clock.Boottime()-began < deniedFor && sleep(ctx, deniedPause) {
			if err = os.RemoveAll(dir); err == nil {
				err = by.Clone(ctx, src, dir, o.Throttle, watch.progress)
			}
		}
		if errors.Is(err, mysqlctl.ErrAbandoned) && by == n.md {
			// A frozen donor holds it, and every later copy. It serves nobody: it is
			// under a lease.
			err = errors.Join(err, n.kill(context.WithoutCancel(ctx)))
		}
		if ctx.Err() != nil && err != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		n.phase(phaseVerify)
		return err
	}, cleanUp, nil
}

// scratch starts a throw-away server below the unfinished copy. The node's own
// is not tried again meanwhile.
func (n *Node) scratch(ctx context.Context, o raftfsm.Order) (Mysqld, func(), error) {
	if n.cfg.Scratch == nil {
		return nil, nil, errors.New("no throw-away server is configured")
	}
	if err := n.hold(ctx); err != nil {
		return nil, nil, err
	}
	if o.InPlace {
		if err := n.empty(ctx, o); err != nil {
			n.release()
			return nil, nil, err
		}
	}
	dir := n.place.Scratch()
	md := n.cfg.Scratch(dir)
	end := func() {
		dead, cancel := context.WithTimeout(context.Background(), killTimeout)
		defer cancel()
		err := errors.Join(md.Kill(dead), md.Close(), os.RemoveAll(dir))
		if err != nil {
			n.log.Warn("throw-away server not ended", "err", err)
		}
		n.release()
	}
	limited, cancel := context.WithTimeout(ctx, n.cfg.StartTimeout)
	defer cancel()
	err := md.Initialize(limited)
	if err == nil {
		err = md.Start(limited)
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return md, end, nil
}

// endScratch ends throw-away servers that an agent before this one left.
func (n *Node) endScratch(ctx context.Context) {
	for _, dir := range []string{n.place.Scratch(), n.place.Unfinished()} {
		if _, err := os.Stat(dir); err != nil || n.cfg.Scratch == nil {
			continue
		}
		md := n.cfg.Scratch(dir)
		limited, cancel := context.WithTimeout(ctx, killTimeout)
		found, _ := md.Adopt(limited)
		err := md.Close()
		if found {
			err = errors.Join(md.Kill(limited), err)
		}
		cancel()
		if err != nil {
			n.log.Warn("throw-away server of an earlier agent not ended", "err", err)
		}
	}
}
