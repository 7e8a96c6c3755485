// Package nettest is a network in memory, for tests inside synctest bubbles: no
// call blocks on anything outside of the bubble, and no time passes but that of
// cuts and deadlines.
//
// What is sent over a cut is not refused. Packets are lost; what is written to a
// connection, and its end, arrive when the cut is healed; who dials waits.
package nettest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
)

// Network connects hosts, which are named by their IP addresses.
type Network struct {
	mu      sync.Mutex
	cut     func(from, to string) bool
	changed chan struct{} // closed and replaced when something is cut, healed, bound or closed
	socks   map[string]*socket
	conns   map[*conn]struct{} // open, or with something on its way
}

// New makes a network in which everything reaches everything.
func New() *Network {
	return &Network{changed: make(chan struct{}), socks: map[string]*socket{}, conns: map[*conn]struct{}{}}
}

// Cut says between which hosts nothing passes from now on; nil: all is healed.
func (n *Network) Cut(cut func(from, to string) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
	for c := range n.conns {
		if !n.isCut(c.host, c.peer.host) {
			c.deliver()
		}
	}
	n.notify()
}

// Isolate cuts these hosts off from all others, both ways.
func (n *Network) Isolate(hosts ...string) {
	in := func(h string) bool {
		for _, x := range hosts {
			if x == h {
				return true
			}
		}
		return false
	}
	n.Cut(func(from, to string) bool { return in(from) != in(to) })
}

// Reaches says that what from sends to another host arrives.
func (n *Network) Reaches(from, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.isCut(from, to)
}

// Changed is closed when hosts are cut off or healed, or something is bound or closed.
func (n *Network) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

func (n *Network) isCut(from, to string) bool { return from != to && n.cut != nil && n.cut(from, to) }

func (n *Network) notify() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// Process is one program's use of the network, until it dies.
type Process struct {
	net  *Network
	host string

	dead  bool // under the network's lock, as what follows
	socks []*socket
	conns map[*conn]struct{}
	done  chan struct{}
}

// Process starts one on a host.
func (n *Network) Process(host string) *Process {
	return &Process{net: n, host: host, conns: map[*conn]struct{}{}, done: make(chan struct{})}
}

// Dead is closed when the process is killed.
func (p *Process) Dead() <-chan struct{} { return p.done }

// Kill ends everything that the process has on the network, at once; it can do
// nothing there any more.
func (p *Process) Kill() {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.dead {
		return
	}
	p.dead = true
	close(p.done)
	for _, s := range p.socks {
		s.close()
	}
	for c := range p.conns {
		c.close(true)
	}
	p.net.notify()
}

// Listen binds host:port for connections and for packets.
func (p *Process) Listen(_ context.Context, addr string) (net.Listener, net.PacketConn, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, nil, err
	}
	n := p.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.dead {
		return nil, nil, errDead("listen", addr)
	}
	if n.socks[addr] != nil {
		return nil, nil, &net.OpError{Op: "listen", Net: "tcp", Err: syscall.EADDRINUSE}
	}
	s := &socket{p: p, addr: addr, at: at, queue: make(chan *conn, 128), packets: make(chan packet, 256), done: make(chan struct{}), deadline: newDeadline()}
	n.socks[addr] = s
	p.socks = append(p.socks, s)
	n.notify()
	return listener{s}, packetConn{s}, nil
}

// Dial connects to host:port. Nobody there refuses it; across a cut it waits.
func (p *Process) Dial(ctx context.Context, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n := p.net
	for {
		n.mu.Lock()
		switch s := n.socks[addr]; {
		case p.dead:
			n.mu.Unlock()
			return nil, errDead("dial", addr)
		case n.isCut(p.host, host) || n.isCut(host, p.host):
		case s == nil || len(s.queue) == cap(s.queue):
			n.mu.Unlock()
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errAt{addr, syscall.ECONNREFUSED}}
		default:
			a, b := n.pair(p, s)
			s.queue <- b
			n.mu.Unlock()
			return a, nil
		}
		changed := n.changed
		n.mu.Unlock()
		select {
		case <-changed:
		case <-p.done:
		case <-ctx.Done():
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errAt{addr, ctx.Err()}}
		}
	}
}

// errAt names the address, as a real connection's error does.
type errAt struct {
	addr string
	err  error
}

func (e errAt) Error() string { return e.addr + ": " + e.err.Error() }
func (e errAt) Unwrap() error { return e.err }

func errDead(op, addr string) error {
	return &net.OpError{Op: op, Net: "tcp", Err: errAt{addr, errors.New("this process is dead")}}
}

// socket is a bound port, TCP and UDP.
type socket struct {
	p        *Process
	addr     string
	at       netip.AddrPort
	queue    chan *conn
	packets  chan packet
	done     chan struct{} // closed with the listener and the packet connection, or one of them
	closed   bool
	deadline deadline
}

type packet struct {
	from netip.AddrPort
	b    []byte
}

// close refuses what waits in the queue; the network's lock is held.
func (s *socket) close() {
	if s.closed {
		return
	}
	s.closed = true
	close(s.done)
	if s.p.net.socks[s.addr] == s {
		delete(s.p.net.socks, s.addr)
	}
	for len(s.queue) > 0 {
		(<-s.queue).close(true)
	}
}

type listener struct{ *socket }

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

func (l listener) Close() error {
	l.p.net.mu.Lock()
	defer l.p.net.mu.Unlock()
	l.close()
	return nil
}

type packetConn struct{ *socket }

func (c packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case <-c.done:
		return 0, nil, net.ErrClosed
	default:
	}
	select {
	case p := <-c.packets:
		return copy(b, p.b), net.UDPAddrFromAddrPort(p.from), nil
	case <-c.deadline.wait():
		return 0, nil, errTimeout
	case <-c.done:
		return 0, nil, net.ErrClosed
	}
}

func (c packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	n := c.p.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	host, _, err := net.SplitHostPort(to.String())
	if err != nil {
		return 0, err
	}
	if peer := n.socks[to.String()]; peer != nil && !n.isCut(c.p.host, host) {
		select {
		case peer.packets <- packet{c.at, []byte(strings.Clone(string(b)))}:
		default: // lost
		}
	}
	return len(b), nil
}

func (c packetConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.at) }
func (c packetConn) Close() error        { return listener(c).Close() }
