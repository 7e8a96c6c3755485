package node

import (
	"context"
	"sync"
	"time"

	"ha/raftfsm"
)

const (
	// fenceTimeout is what the SET of super_read_only may take; then SIGKILL.
	fenceTimeout = 500 * time.Millisecond
	// cutTimeout is what ending the clients' sessions may take. They cannot
	// write any more by then.
	cutTimeout = time.Second
	// fenceTick bounds how late a suspended machine's timers fire, as they
	// stand still in suspend and the lease does not.
	fenceTick = 250 * time.Millisecond
)

// fencer watches the lease of a server that may be writable.
type fencer struct {
	mu    sync.Mutex
	gen   uint64 // counts the times it was armed; 0 when disarmed
	last  uint64
	wake  chan struct{}
	doing sync.Mutex // one fence at a time
	open  bool       // Opened was called, Closed not yet

	// telling keeps Opened and Closed in order: a grant that is being noted must
	// not put the VIP back on a server that has just been closed.
	telling sync.Mutex
}

func (f *fencer) init() { f.wake = make(chan struct{}, 1) }

// arm says that the server may be writable from now on.
func (f *fencer) arm() {
	f.mu.Lock()
	f.last++
	f.gen = f.last
	f.mu.Unlock()
	signal(f.wake)
}

// armed gives the number to disarm with; 0 if it is not armed.
func (f *fencer) armed() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gen
}

// disarm says that the server is known to be closed, unless it was armed again
// since gen.
func (f *fencer) disarm(gen uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gen == gen {
		f.gen = 0
	}
}

// keepFenced fences at the end of the lease. It runs on its own, whatever order
// is being carried out.
func (n *Node) keepFenced(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		renewed := n.lease.changed()
		var due <-chan time.Time
		if n.fence.armed() != 0 {
			epoch, left := n.lease.left()
			if left == 0 {
				n.log.Warn("mysqld may be writable and no lease lasts: fencing", "epoch", epoch)
				if !n.fenceNow(ctx) {
					sleep(ctx, fenceTick)
				}
				continue
			}
			timer.Reset(min(left, fenceTick))
			due = timer.C
		}
		select {
		case <-due:
		case <-renewed:
		case <-n.fence.wake:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// fenceNow takes the VIP off and makes the server read-only, or kills it if that
// does not return in time, as when commits wait. False: neither can be said.
func (n *Node) fenceNow(ctx context.Context) bool {
	n.fence.doing.Lock()
	defer n.fence.doing.Unlock()
	gen := n.fence.armed()
	if gen == 0 {
		return true
	}
	n.closed(false) // who reaches this server from now on may read what is stale
	limited, cancel := context.WithTimeout(ctx, fenceTimeout)
	err := n.md.Fence(limited)
	cancel()
	if err == nil {
		n.cutClients(ctx)
		n.log.Warn("fenced: mysqld is read-only")
	} else if ctx.Err() != nil {
		return false
	} else if killed := n.kill(ctx); killed != nil {
		n.log.Error("not fenced", "err", err, "kill", killed)
		return false
	} else {
		n.log.Warn("fenced: mysqld was killed", "why", err)
	}
	n.fence.disarm(gen)
	n.Trigger()
	return true
}

// cutClients ends the clients' sessions, so that they look for the new primary.
func (n *Node) cutClients(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, cutTimeout)
	defer cancel()
	if err := n.md.KillClients(ctx); err != nil {
		n.log.Warn("client sessions not ended", "err", err)
	}
}

// opened and closed tell the VIP, once each; renewed does again while it is open.
func (n *Node) opened(epoch uint64, until time.Duration) {
	n.fence.telling.Lock()
	defer n.fence.telling.Unlock()
	n.fence.mu.Lock()
	n.fence.open = true
	n.fence.mu.Unlock()
	if n.cfg.Opened != nil {
		n.cfg.Opened(epoch, until)
	}
}

func (n *Node) closed(succession bool) {
	n.fence.telling.Lock()
	defer n.fence.telling.Unlock()
	n.fence.mu.Lock()
	was := n.fence.open
	n.fence.open = false
	n.fence.mu.Unlock()
	if was && n.cfg.Closed != nil {
		n.cfg.Closed(succession)
	}
}

func (n *Node) renewed(epoch uint64, until time.Duration) {
	n.fence.telling.Lock()
	defer n.fence.telling.Unlock()
	if n.isOpen() && until > 0 && n.cfg.Opened != nil {
		n.cfg.Opened(epoch, until)
	}
}

func (n *Node) isOpen() bool {
	n.fence.mu.Lock()
	defer n.fence.mu.Unlock()
	return n.fence.open
}

// take applies the grant that answered a report sent at sentAt.
func (n *Node) take(g raftfsm.Grant, sentAt time.Duration) {
	switch {
	case g.Epoch < n.tokens.Now().Token.Epoch: // of a reign that is over
	case g.Primary != n.cfg.ID:
		// Another reigns in a later epoch: nothing is left to wait for.
		if epoch, _ := n.lease.get(); g.Epoch > epoch && n.lease.end() {
			signal(n.fence.wake)
		}
	case g.Lease > 0:
		n.lease.grant(g.Epoch, sentAt, g.Lease)
		n.renewed(n.lease.get())
	}
	n.takeReader(g.Reader, sentAt)
}
