package gossip

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// memnet is a network in memory, so that a test inside synctest needs no real time.
type memnet struct {
	mu    sync.Mutex
	hosts map[netip.AddrPort]*memhost
	cut   func(from, to netip.AddrPort) bool // nil: all is connected
}

// memhost is one address of a memnet: a PacketConn and, as its streams(), a Listener.
type memhost struct {
	net     *memnet
	addr    netip.AddrPort
	packets chan mempacket
	conns   chan net.Conn
	down    chan struct{} // closed with the host

	mu      sync.Mutex
	expired chan struct{} // closed while the read deadline is over
	lost    chan struct{} // closed with the listener
}

type mempacket struct {
	from netip.AddrPort
	b    []byte
}

func (n *memnet) host(addr string) *memhost {
	h := &memhost{
		net:     n,
		addr:    netip.MustParseAddrPort(addr),
		packets: make(chan mempacket, 256),
		conns:   make(chan net.Conn),
		down:    make(chan struct{}),
		expired: make(chan struct{}),
		lost:    make(chan struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = map[netip.AddrPort]*memhost{}
	}
	n.hosts[h.addr] = h
	return h
}

func (n *memnet) setCut(cut func(from, to netip.AddrPort) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
}

// reach returns the host at to if from can reach it.
func (n *memnet) reach(from, to netip.AddrPort) *memhost {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut != nil && n.cut(from, to) {
		return nil
	}
	return n.hosts[to]
}

func (h *memhost) ReadFrom(b []byte) (int, net.Addr, error) {
	h.mu.Lock()
	expired := h.expired
	h.mu.Unlock()
	select {
	case p := <-h.packets:
		return copy(b, p.b), net.UDPAddrFromAddrPort(p.from), nil
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded
	case <-h.down:
		return 0, nil, net.ErrClosed
	}
}

func (h *memhost) WriteTo(b []byte, to net.Addr) (int, error) {
	if peer := h.net.reach(h.addr, to.(*net.UDPAddr).AddrPort()); peer != nil {
		select {
		case peer.packets <- mempacket{h.addr, append([]byte(nil), b...)}:
		default: // lost
		}
	}
	return len(b), nil
}

func (h *memhost) SetReadDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.IsZero() {
		h.expired = make(chan struct{})
	} else {
		close(h.expired)
	}
	return nil
}

func (h *memhost) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(h.addr) }
func (h *memhost) SetDeadline(time.Time) error      { return nil }
func (h *memhost) SetWriteDeadline(time.Time) error { return nil }
func (h *memhost) Close() error                     { return nil }

func (h *memhost) dial(ctx context.Context, addr string) (net.Conn, error) {
	peer := h.net.reach(h.addr, netip.MustParseAddrPort(addr))
	if peer == nil {
		return nil, &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}
	}
	a, b := net.Pipe()
	select {
	case peer.conns <- namedConn{b, h.LocalAddr()}:
		return namedConn{a, peer.LocalAddr()}, nil
	case <-ctx.Done():
	case <-peer.closed():
	}
	a.Close()
	return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
}

// namedConn is a pipe with the other end's address.
type namedConn struct {
	net.Conn
	remote net.Addr
}

func (c namedConn) RemoteAddr() net.Addr { return c.remote }

func (h *memhost) closed() chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost
}

// streams returns a new listener on the host.
func (h *memhost) streams() net.Listener {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost = make(chan struct{})
	return &memlistener{h: h, done: h.lost}
}

type memlistener struct {
	h    *memhost
	done chan struct{}
	once sync.Once
}

func (l *memlistener) Accept() (net.Conn, error) {
	select {
	case c := <-l.h.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memlistener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.h.addr) }
func (l *memlistener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }

var testKey = []byte("0123456789abcdef0123456789abcdef")

// config returns the configuration of an agent on the host; seeds may be nil.
func (h *memhost) config(id string, seeds ...string) Config {
	return Config{
		Meta:      Meta{ID: id, Name: "name-" + id, Addr: h.addr.String()},
		Advertise: h.addr,
		Packets:   h,
		Streams:   h.streams(),
		Dial:      h.dial,
		Key:       testKey,
		Seeds:     func() []string { return seeds },
		Logger:    slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func mustStart(t *testing.T, cfg Config) *Gossip {
	t.Helper()
	g, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Stop() })
	return g
}
