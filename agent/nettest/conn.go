package nettest

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

var errTimeout = os.ErrDeadlineExceeded

// conn is one end of a connection. Writing never waits: a lock that is held by
// who writes would stop a bubble's clock.
type conn struct {
	p     *Process // whose end it is; nil: nobody's yet
	host  string
	peer  *conn
	local net.Addr
	read  deadline

	// Under the network's lock.
	out    []segment // not arrived yet
	closed bool

	mu    sync.Mutex
	buf   []byte
	end   error         // after buf; nil: none yet
	shut  bool          // closed here
	ready chan struct{} // closed and replaced when something has arrived
}

// segment is what is on its way: bytes or, without any, the end.
type segment struct {
	b   []byte
	end error
}

// pair makes a connection; the lock is held.
func (n *Network) pair(from *Process, to *socket) (dialled, accepted *conn) {
	a := &conn{p: from, host: from.host, local: ephemeral(from.host), read: newDeadline(), ready: make(chan struct{})}
	b := &conn{p: to.p, host: to.p.host, local: net.TCPAddrFromAddrPort(to.at), read: newDeadline(), ready: make(chan struct{})}
	a.peer, b.peer = b, a
	from.conns[a], to.p.conns[b] = struct{}{}, struct{}{}
	n.conns[a], n.conns[b] = struct{}{}, struct{}{}
	return a, b
}

func ephemeral(host string) net.Addr {
	ip, _ := netip.ParseAddr(host)
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 40000))
}

// Write sends; what cannot pass now is kept.
func (c *conn) Write(b []byte) (int, error) {
	n := c.p.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if err := c.broken(); err != nil {
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: err}
	}
	c.out = append(c.out, segment{b: append([]byte(nil), b...)})
	if !n.isCut(c.host, c.peer.host) {
		c.deliver()
	}
	return len(b), nil
}

// broken says that the other end has answered with a reset.
func (c *conn) broken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil && c.end != io.EOF { //nolint:errorlint // it is one of two values
		return c.end
	}
	return nil
}

// deliver brings what was sent to the other end; the network's lock is held.
func (c *conn) deliver() {
	if len(c.out) > 0 {
		c.peer.take(c.out)
		c.out = nil
	}
	if c.closed {
		delete(c.p.net.conns, c)
	}
}

func (c *conn) take(segments []segment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range segments {
		if c.end == nil {
			c.buf = append(c.buf, s.b...)
		}
		if s.end != nil && c.end != syscall.ECONNRESET { //nolint:errorlint // it is one of two values
			c.end = s.end
		}
	}
	close(c.ready)
	c.ready = make(chan struct{})
}

func (c *conn) Read(b []byte) (int, error) {
	for {
		c.mu.Lock()
		ready := c.ready
		switch {
		case c.shut:
			c.mu.Unlock()
			return 0, net.ErrClosed
		case isClosed(c.read.wait()):
			c.mu.Unlock()
			return 0, &net.OpError{Op: "read", Net: "tcp", Err: errTimeout}
		case len(c.buf) > 0:
			n := copy(b, c.buf)
			c.buf = c.buf[n:]
			c.mu.Unlock()
			return n, nil
		case c.end != nil:
			err := c.end
			c.mu.Unlock()
			if err != io.EOF { //nolint:errorlint // io.Reader wants the bare value
				err = &net.OpError{Op: "read", Net: "tcp", Err: err}
			}
			return 0, err
		}
		c.mu.Unlock()
		select {
		case <-ready:
		case <-c.read.wait():
		}
	}
}

// Close ends the connection in order.
func (c *conn) Close() error {
	c.p.net.mu.Lock()
	defer c.p.net.mu.Unlock()
	c.close(false)
	return nil
}

// close tells the other end, when it can be reached; the network's lock is held.
func (c *conn) close(reset bool) {
	if c.closed {
		return
	}
	c.closed = true
	delete(c.p.conns, c)
	s := segment{end: io.EOF}
	if reset {
		s.end = syscall.ECONNRESET
	}
	c.out = append(c.out, s)
	if !c.p.net.isCut(c.host, c.peer.host) {
		c.deliver()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut = true
	close(c.ready)
	c.ready = make(chan struct{})
}

func (c *conn) LocalAddr() net.Addr                { return c.local }
func (c *conn) RemoteAddr() net.Addr               { return c.peer.local }
func (c *conn) SetDeadline(t time.Time) error      { c.read.set(t); return nil }
func (c *conn) SetReadDeadline(t time.Time) error  { c.read.set(t); return nil }
func (c *conn) SetWriteDeadline(time.Time) error   { return nil }
func (s *socket) SetDeadline(t time.Time) error    { s.deadline.set(t); return nil }
func (s *socket) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline bounds reads of packets.
func (s *socket) SetReadDeadline(t time.Time) error { s.deadline.set(t); return nil }

// deadline is a channel that is closed while a point in time is passed.
type deadline struct{ *deadlineState }

type deadlineState struct {
	mu    sync.Mutex
	timer *time.Timer
	over  chan struct{}
}

func newDeadline() deadline { return deadline{&deadlineState{over: make(chan struct{})}} }

func (d deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}

func (d deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.over // it has fired, or is about to
	}
	d.timer = nil
	if isClosed(d.over) {
		d.over = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	if left := time.Until(t); left > 0 {
		over := d.over
		d.timer = time.AfterFunc(left, func() { close(over) })
	} else {
		close(d.over)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
