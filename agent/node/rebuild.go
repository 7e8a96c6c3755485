package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"ha/mysqlctl"
	"ha/raftfsm"
	"ha/xtra"
)

const (
	// stopTimeout is what a clean end of mysqld may take before the swap; it is
	// killed then. Its data are kept beside the new ones either way.
	stopTimeout = 20 * time.Second
	// progressEvery bounds how often progress causes a report of its own.
	progressEvery = time.Second
)

// rebuilder is the one copy that is being made, or was made last.
type rebuilder struct {
	mu      sync.Mutex
	state   *raftfsm.RebuildReport // nil: none in this run of the agent
	running bool
	cancel  context.CancelCauseFunc
	done    chan struct{}
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

func (r *rebuilder) change(f func(*raftfsm.RebuildReport)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.state)
}

// active says that a copy is being made.
func (r *rebuilder) active() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running
}

// stop ends the copy and waits until it has left nothing behind that moves.
func (r *rebuilder) stop() {
	r.mu.Lock()
	cancel, done := r.cancel, r.done
	r.mu.Unlock()
	if cancel != nil {
		cancel(errors.New("the rebuild was ended"))
		<-done
	}
}

// beginRebuild starts the copy under a lease, once; another lease ends the copy
// that is being made.
func (n *Node) beginRebuild(ctx context.Context, o raftfsm.Order) error {
	if o.Source == nil || o.Lease == 0 {
		return refuse(raftfsm.CodeFailed, "the order names no donor or no lease")
	}
	if now := n.copy.report(); now != nil && now.Index == o.Lease {
		return nil // its report says how it goes, or went
	}
	n.copy.stop()
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
	n.copy.state = &raftfsm.RebuildReport{Index: o.Lease, Phase: "copy"}
	n.copy.running, n.copy.cancel, n.copy.done = true, cancel, done
	n.copy.mu.Unlock()
	go func() {
		defer close(done)
		defer cancel(nil)
		n.rebuild(copying, o)
	}()
	return nil
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
	if ctx.Err() != nil && err != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	n.copy.mu.Lock()
	n.copy.running = false
	if err != nil {
		n.copy.state.Err = err.Error()
	} else {
		n.copy.state.Done = true
	}
	n.copy.mu.Unlock()
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

func (n *Node) tryRebuild(ctx context.Context, o raftfsm.Order) error {
	if err := n.place.Prepare(); err != nil {
		return err
	}
	clone, cleanUp, err := n.cloner(ctx, o)
	if err != nil {
		return err
	}
	err = n.place.Take(ctx, clone, nil)
	cleanUp()
	if err != nil {
		return err
	}
	if err := n.swap(ctx, o); err != nil {
		return err
	}
	n.copy.change(func(r *raftfsm.RebuildReport) { r.Phase = "start" })
	n.Trigger()
	return n.ensureUp(ctx)
}

// cloner gives what copies: the node's own mysqld, or if that does not start a
// throw-away one.
func (n *Node) cloner(ctx context.Context, o raftfsm.Order) (xtra.CloneFunc, func(), error) {
	by, cleanUp := n.md, func() {}
	if err := n.ensureUp(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, nil, err
		}
		scratch, end, scratchErr := n.scratch(ctx)
		if scratchErr != nil {
			return nil, nil, fmt.Errorf("mysqld does not start (%w), and no other can copy: %w", err, scratchErr)
		}
		by, cleanUp = scratch, end
	}
	src := mysqlctl.Source{Host: o.Source.Host, Port: o.Source.Port, User: o.Source.User, Password: o.Source.Password}
	var told time.Duration
	return func(ctx context.Context, dir string, _ xtra.Progress) error {
		return by.Clone(ctx, src, dir, func(p mysqlctl.CloneProgress) {
			n.copy.change(func(r *raftfsm.RebuildReport) { r.Bytes, r.Total = p.Done, p.Estimate })
			if now := n.clock.Boottime(); now-told > progressEvery {
				told = now
				n.Trigger()
			}
		})
	}, cleanUp, nil
}

// scratch starts a throw-away server below the unfinished copy. The node's own
// is not tried again meanwhile.
func (n *Node) scratch(ctx context.Context) (Mysqld, func(), error) {
	if n.cfg.Scratch == nil {
		return nil, nil, errors.New("no throw-away server is configured")
	}
	if err := n.hold(ctx); err != nil {
		return nil, nil, err
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

// swap stops mysqld and puts the copy in place of its data. No order is carried
// out meanwhile, and what forbade the rebuild at its start forbids it here.
func (n *Node) swap(ctx context.Context, o raftfsm.Order) error {
	n.copy.change(func(r *raftfsm.RebuildReport) { r.Phase = "swap" })
	n.Trigger()
	select {
	case n.exec.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-n.exec.turn }()
	if err := n.hold(ctx); err != nil {
		return err
	}
	defer n.release()
	if n.isUp() {
		st, err := n.status(ctx, lookTimeout)
		if err == nil && !st.SuperReadOnly {
			return refuse(raftfsm.CodeFailed, "a writable server is not rebuilt")
		}
	}
	token := n.tokens.Now().Token
	if err := n.mayReplace(o.Token.Epoch); err != nil {
		return err
	}
	if err := n.stopMysqld(ctx); err != nil {
		return err
	}
	if err := n.place.Swap(); err != nil {
		return err
	}
	n.obs.forget()
	return n.tokens.SetRole(token, RoleNone)
}

// stopMysqld ends mysqld cleanly, else by SIGKILL.
func (n *Node) stopMysqld(ctx context.Context) error {
	if !n.md.Alive() {
		return nil
	}
	n.sup.mu.Lock()
	n.sup.stopping = true
	n.sup.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, stopTimeout)
	err := n.md.Stop(limited)
	cancel()
	if err == nil && !n.md.Alive() {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return n.kill(ctx)
}
