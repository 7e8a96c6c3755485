package node

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"ha/mysqlctl"
	"ha/raftfsm"
)

const (
	restartFirst = time.Second      // before the first restart that follows a failed one
	restartMost  = 30 * time.Second // between two
	restartReset = time.Minute      // up for that long, a mysqld is not crash-looping
	adoptTimeout = 5 * time.Second
	ownSessions  = time.Second // to end the sessions of an earlier agent
	killTimeout  = 10 * time.Second
)

// supervisor knows whether mysqld runs. It alone starts it: an order that needs
// it up asks and waits, and may give up waiting while the start goes on.
type supervisor struct {
	mu       sync.Mutex
	up       bool // SQL has answered since this mysqld was started or found
	starting bool
	held     bool   // nobody may start it: its data are being swapped
	down     bool   // nor ever again: the host is being stopped
	ordered  bool   // an order wants it up, whatever the role
	failed   uint64 // attempts that failed, ever
	inRow    uint64 // and since the last that did not
	err      error  // why it is not up
	upSince  time.Duration
	stopping bool // its end is wanted: no news
	changed  chan struct{}
	wake     chan struct{}
}

func (s *supervisor) init() {
	s.changed = make(chan struct{})
	s.wake = make(chan struct{}, 1)
}

// change changes the state and tells all who wait for it.
func (s *supervisor) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// mysqldState is how mysqld is, but for whether it answers.
func (n *Node) mysqldState() (raftfsm.MysqldState, error) {
	n.sup.mu.Lock()
	defer n.sup.mu.Unlock()
	switch {
	case n.sup.starting:
		return raftfsm.MysqldStarting, n.sup.err
	case !n.md.Alive():
		return raftfsm.MysqldDown, n.sup.err
	case n.sup.up:
		return raftfsm.MysqldRunning, nil
	case n.tokens.Now().Role == RolePrimary:
		return raftfsm.MysqldHung, n.sup.err
	}
	return raftfsm.MysqldStarting, n.sup.err // found alive in its crash recovery
}

// isUp says that mysqld runs and that SQL has answered once.
func (n *Node) isUp() bool {
	s, _ := n.mysqldState()
	return s == raftfsm.MysqldRunning
}

// takeOver is what an agent does first: it ends what an earlier agent left in
// the server, and fences a server that may be writable without a valid lease.
func (n *Node) takeOver(ctx context.Context) {
	defer func() {
		if !n.isOpen() && n.cfg.Closed != nil {
			n.cfg.Closed(false) // what an earlier agent left
		}
	}()
	n.adopt(ctx)
	n.endScratch(ctx)
	if !n.md.Alive() {
		return
	}
	epoch, left := n.lease.left()
	role := n.tokens.Now().Role
	st, err := n.status(ctx, lookTimeout)
	switch {
	case err == nil && st.SuperReadOnly:
		// The variable reads 1 while its SET still waits, but then that SET was
		// an earlier agent's and its session has been ended: it reads 0.
	case err != nil && role != RolePrimary:
		// It may be in its crash recovery. Once it answers it is looked at.
	case left > 0:
		n.fence.arm()
		n.log.Info("mysqld goes on serving under the lease", "epoch", epoch, "left", left)
		n.opened(n.lease.get())
	default:
		n.log.Warn("mysqld may be writable and no lease lasts: fencing", "epoch", epoch)
		n.fence.arm()
		n.fenceNow(ctx)
	}
}

// adopt connects to a mysqld that runs already, if there is one.
func (n *Node) adopt(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	found, err := n.md.Adopt(ctx)
	if found && err == nil {
		n.lookInside()
		own, cancel := context.WithTimeout(ctx, ownSessions)
		err = n.md.KillOwnSessions(own)
		cancel()
	}
	n.sup.change(func() {
		n.sup.up, n.sup.err = found && err == nil, err
		if n.sup.up || found && n.sup.upSince == 0 {
			n.sup.upSince = n.clock.Boottime()
		}
	})
	if found && err == nil {
		n.log.Info("mysqld found running", "pid", n.md.PID())
	}
}

// supervise starts mysqld when it may be started, and notices its end.
func (n *Node) supervise(ctx context.Context) error {
	fails := 0
	for ctx.Err() == nil {
		up := n.isUp()
		switch {
		case n.md.Alive() && !up: // found, but SQL does not answer yet
			if n.adopt(ctx); !n.isUp() {
				n.waitFor(ctx, n.md.Exited(), restartFirst)
			}
		case up:
			select {
			case <-n.md.Exited():
				fails = n.exited(fails)
			case <-ctx.Done():
			}
		case !n.mayStart():
			n.waitFor(ctx, nil, 0)
		case n.backoff(fails) > 0 && !n.orderedUp():
			if n.waitFor(ctx, nil, n.backoff(fails)) && !n.orderedUp() {
				continue // woken for something else: mayStart may have changed
			}
			fallthrough
		default:
			if n.start(ctx) {
				continue
			}
			fails++
		}
	}
	return ctx.Err()
}

func (n *Node) backoff(fails int) time.Duration {
	if fails == 0 {
		return 0
	}
	return min(restartFirst<<min(fails-1, 10), restartMost)
}

// waitFor waits for a wake, for ch or for d (0: for ever); true if woken.
func (n *Node) waitFor(ctx context.Context, ch <-chan struct{}, d time.Duration) bool {
	var after <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		after = t.C
	}
	select {
	case <-n.sup.wake:
		return true
	case <-ch:
	case <-after:
	case <-ctx.Done():
	}
	return false
}

func (n *Node) orderedUp() bool {
	n.sup.mu.Lock()
	defer n.sup.mu.Unlock()
	return n.sup.ordered
}

// mayStart: a mysqld that was never opened as primary is started by the agent
// itself; a former primary only by an order, as its last transactions may have
// to be cut off before they are recovered.
func (n *Node) mayStart() bool {
	role := n.tokens.Now().Role
	n.sup.mu.Lock()
	defer n.sup.mu.Unlock()
	return !n.sup.held && !n.sup.down && (n.sup.ordered || role != RolePrimary)
}

// exited takes note of mysqld's end. One that was up for long, or was ended by
// the agent itself, is no failure to be backed off from.
func (n *Node) exited(fails int) int {
	now := n.clock.Boottime()
	var wanted bool
	n.sup.change(func() {
		wanted = n.sup.stopping
		switch {
		case now-n.sup.upSince > restartReset:
			fails = 0
		case !wanted:
			fails++
		}
		n.sup.up, n.sup.stopping = false, false
		n.sup.upSince, n.sup.err = 0, errors.New("mysqld exited")
	})
	n.fence.disarm(n.fence.armed())
	if !wanted {
		n.log.Warn("mysqld exited")
	}
	n.closed(true)
	n.stopReading()
	n.Trigger()
	return fails
}

// start makes one attempt.
func (n *Node) start(ctx context.Context) bool {
	n.sup.change(func() { n.sup.starting, n.sup.up, n.sup.stopping = true, false, false })
	n.Trigger()
	limited, cancel := context.WithTimeout(ctx, n.cfg.StartTimeout)
	err := n.tryStart(limited)
	cancel()
	if err != nil && ctx.Err() == nil && n.md.Alive() {
		// It did not come up in the time it was given.
		dead, cancel := context.WithTimeout(ctx, killTimeout)
		err = errors.Join(err, n.md.Kill(dead))
		cancel()
	}
	n.sup.change(func() {
		n.sup.starting, n.sup.ordered = false, false
		if err == nil {
			n.sup.up, n.sup.upSince = true, n.clock.Boottime()
			n.sup.inRow, n.sup.err = 0, nil
			return
		}
		n.sup.failed++
		n.sup.inRow++
		// A mysqld that never starts is announced each time the number of
		// attempts doubles.
		if bits.OnesCount64(n.sup.inRow) == 1 && ctx.Err() == nil {
			n.log.Warn("mysqld does not start", "attempts", n.sup.inRow, "err", err)
		}
		n.sup.err = err
	})
	n.obs.forget()
	n.Trigger()
	return err == nil
}

func (n *Node) tryStart(ctx context.Context) error {
	n.sup.mu.Lock()
	down := n.sup.down
	n.sup.mu.Unlock()
	if down { // since it was looked at
		return errKeptDown
	}
	if !n.copy.active() {
		swapped, err := n.place.Recover()
		if err != nil {
			return err
		}
		if swapped {
			n.log.Info("an interrupted swap of the data was finished")
			if err := n.tokens.SetRole(n.tokens.Now().Token, RoleNone); err != nil {
				return err
			}
		}
	}
	ok, err := n.md.Initialized()
	if err != nil {
		return err
	}
	if !ok {
		if n.tokens.Now().Role == RolePrimary {
			return errors.New("the data of a former primary are gone")
		}
		if err := n.md.Initialize(ctx); err != nil {
			return err
		}
		n.log.Info("data directory initialised", "dir", n.cfg.MysqlDir)
	}
	n.lookInside()
	uuid, err := n.md.ServerUUIDOnDisk()
	if err != nil {
		return err
	}
	err = n.md.Start(ctx)
	if errors.Is(err, mysqlctl.ErrRunning) { // started by somebody else meanwhile
		_, err = n.md.Adopt(ctx)
	}
	if err == nil && uuid == "" {
		// The data are a copy: a channel in them is the donor's, its relay logs
		// were not copied, and it cannot be started or repointed (error 1872).
		err = n.md.DiscardReceived(ctx)
	}
	return err
}

// ensureUp has mysqld started if it is down, on behalf of an order, and waits
// until it is up, the attempt failed, or ctx ends.
func (n *Node) ensureUp(ctx context.Context) error {
	first := true
	var failed uint64
	for {
		if n.isUp() {
			return nil
		}
		n.sup.mu.Lock()
		if first {
			failed, first = n.sup.failed, false
			n.sup.ordered = true
			signal(n.sup.wake)
		}
		err, changed, now, down := n.sup.err, n.sup.changed, n.sup.failed, n.sup.down
		n.sup.mu.Unlock()
		if down {
			return errKeptDown
		}
		if now > failed {
			return fmt.Errorf("start mysqld: %w", err)
		}
		if n.isUp() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for mysqld: %w", context.Cause(ctx))
		}
	}
}

// kill ends mysqld with SIGKILL, which nothing waits behind.
func (n *Node) kill(ctx context.Context) error {
	if !n.md.Alive() {
		return nil
	}
	n.sup.mu.Lock()
	n.sup.stopping = true
	n.sup.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	n.log.Warn("killing mysqld", "pid", n.md.PID())
	return n.md.Kill(ctx)
}

// hold keeps mysqld from being started until release.
func (n *Node) hold(ctx context.Context) error {
	for {
		n.sup.mu.Lock()
		starting, changed := n.sup.starting, n.sup.changed
		if !starting {
			n.sup.held = true
		}
		n.sup.mu.Unlock()
		if !starting {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (n *Node) release() {
	n.sup.change(func() { n.sup.held = false })
	signal(n.sup.wake)
}
