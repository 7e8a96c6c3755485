package node

import (
	"context"
	"errors"
	"time"
)

// errKeptDown is why mysqld is not started.
var errKeptDown = errors.New("mysqld is kept down: this host is being stopped")

// Reigns says that this node's server may be writable, or may have commits that
// wait for their acknowledgement.
func (n *Node) Reigns() bool {
	return n.md != nil && (n.tokens.Now().Role == RolePrimary && n.md.Alive() || n.fence.armed() != 0)
}

// EndForGood sees to it that this server acknowledges nothing any more, without
// answering those that wait: poison, SIGKILL, and nothing starts it again as long
// as this agent runs. SIGTERM would answer OK to commits that nobody else has.
func (n *Node) EndForGood(ctx context.Context) error {
	if n.md == nil {
		return nil
	}
	n.sup.change(func() { n.sup.down, n.sup.ordered = true, false })
	signal(n.sup.wake)
	gen := n.fence.armed()
	for {
		poison, cancel := context.WithTimeout(ctx, poisonTimeout)
		_ = n.md.Poison(poison)
		cancel()
		if err := n.kill(ctx); err != nil {
			return err
		}
		n.sup.mu.Lock()
		starting, changed := n.sup.starting, n.sup.changed
		n.sup.mu.Unlock()
		if !starting && !n.md.Alive() {
			break
		}
		select { // a start was under way: it may bring one up yet
		case <-changed:
		case <-time.After(poisonTimeout):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	n.fence.disarm(gen)
	n.closed(false)
	n.Trigger()
	return nil
}
