package node

import (
	"sync"
	"time"
)

// reader is the lease of the readers' address. The coordinator gives it to one
// healthy replica, from report to report.
type reader struct {
	mu     sync.Mutex
	sentAt time.Duration // of the report that was answered last
	known  bool          // whether this node is the one is known
	on     bool
}

// takeReader notes what the answer to a report says. Answers may overtake each
// other: one to an earlier report is worth nothing.
func (n *Node) takeReader(lease, sentAt time.Duration) {
	r := &n.read
	r.mu.Lock()
	defer r.mu.Unlock()
	if n.cfg.Reader == nil || sentAt < r.sentAt {
		return
	}
	r.sentAt = sentAt
	until := sentAt + lease
	if lease <= 0 || until <= n.clock.Boottime() {
		until = 0
	}
	if until > 0 || r.on || !r.known {
		n.cfg.Reader(until)
	}
	r.known, r.on = true, until > 0
}

// stopReading gives the address up at once: mysqld is gone.
func (n *Node) stopReading() {
	r := &n.read
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.on {
		r.on, r.sentAt = false, n.clock.Boottime()
		n.cfg.Reader(0)
	}
}
