package wire

import (
	"context"
	"net"
	"sync"
	"time"
)

// acceptor is a net.Listener of connections that somebody else has accepted.
type acceptor struct {
	addr  net.Addr
	owns  bool // Close closes what was accepted, too
	queue chan net.Conn
	done  chan struct{}

	mu    sync.Mutex
	conns map[*ownedConn]struct{} // accepted and still open, if owns
}

// ownedConn is a connection that its acceptor closes if nobody else has.
type ownedConn struct {
	net.Conn
	by *acceptor
}

func (c *ownedConn) Close() error {
	c.by.mu.Lock()
	delete(c.by.conns, c)
	c.by.mu.Unlock()
	return c.Conn.Close()
}

func newAcceptor(addr net.Addr, owns bool) *acceptor {
	return &acceptor{
		addr:  addr,
		owns:  owns,
		queue: make(chan net.Conn),
		done:  make(chan struct{}),
		conns: map[*ownedConn]struct{}{},
	}
}

func (a *acceptor) Accept() (net.Conn, error) {
	select {
	case c := <-a.queue:
		return a.own(c)
	case <-a.done:
		return nil, net.ErrClosed
	}
}

func (a *acceptor) own(c net.Conn) (net.Conn, error) {
	if !a.owns {
		return c, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed() {
		c.Close()
		return nil, net.ErrClosed
	}
	oc := &ownedConn{Conn: c, by: a}
	a.conns[oc] = struct{}{}
	return oc, nil
}

func (a *acceptor) Addr() net.Addr { return a.addr }

func (a *acceptor) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed() {
		return nil
	}
	close(a.done)
	for c := range a.conns {
		c.Conn.Close()
	}
	clear(a.conns)
	return nil
}

func (a *acceptor) closed() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// offer waits until c is accepted; false means that it was not and is still the caller's.
func (a *acceptor) offer(ctx context.Context, c net.Conn) bool {
	select {
	case a.queue <- c:
		return true
	case <-a.done:
		return false
	case <-ctx.Done():
		return false
	}
}

// throttle lets one event of a kind through per minute.
type throttle struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const throttleKinds = 1024 // bounds the memory that strangers can make us use

func (t *throttle) allow(kind string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.last[kind]) < time.Minute {
		return false
	}
	if t.last == nil || len(t.last) >= throttleKinds {
		t.last = map[string]time.Time{}
	}
	t.last[kind] = time.Now()
	return true
}
