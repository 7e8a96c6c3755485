package gossip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// transport carries memberlist's packets and streams over the agent's one port.
type transport struct {
	cfg     Config
	ctx     context.Context
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	wg      sync.WaitGroup

	mu     sync.Mutex
	failed map[string]error // the last error of dialling an address
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func startTransport(ctx context.Context, cfg Config) *transport {
	t := &transport{
		cfg:     cfg,
		ctx:     ctx,
		packets: make(chan *memberlist.Packet, 64),
		streams: make(chan net.Conn),
		done:    make(chan struct{}),
		failed:  map[string]error{},
	}
	cfg.Packets.SetReadDeadline(time.Time{}) // an earlier Stop has set one
	t.wg.Go(t.readPackets)
	t.wg.Go(t.acceptStreams)
	return t
}

func (t *transport) readPackets() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := t.cfg.Packets.ReadFrom(buf)
		now := time.Now()
		switch {
		case t.stopped() || errors.Is(err, net.ErrClosed):
			return
		case err != nil: // the kernel tells of an earlier packet that was refused
			t.pause()
		default:
			t.pass(&memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: now})
		}
	}
}

func (t *transport) pass(p *memberlist.Packet) {
	select {
	case t.packets <- p:
	case <-t.done:
	}
}

func (t *transport) acceptStreams() {
	for {
		conn, err := t.cfg.Streams.Accept()
		switch {
		case t.stopped() || errors.Is(err, net.ErrClosed):
			if conn != nil {
				conn.Close()
			}
			return
		case err != nil:
			t.pause()
			continue
		}
		select {
		case t.streams <- conn:
		case <-t.done:
			conn.Close()
			return
		}
	}
}

// pause keeps a loop whose errors repeat from spinning.
func (t *transport) pause() {
	select {
	case <-time.After(50 * time.Millisecond):
	case <-t.done:
	}
}

func (t *transport) stopped() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// Shutdown ends the loops and leaves the socket open.
func (t *transport) Shutdown() error {
	if t.stopped() {
		return nil
	}
	close(t.done)
	t.cfg.Streams.Close()
	t.cfg.Packets.SetReadDeadline(time.Now())
	t.wg.Wait()
	return nil
}

func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.cfg.Advertise.Addr().AsSlice(), int(t.cfg.Advertise.Port()), nil
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = t.cfg.Packets.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return time.Now(), err
}

func (t *transport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, addr.Addr)
}

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	conn, err := t.cfg.Dial(ctx, addr)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		delete(t.failed, addr)
	} else {
		t.failed[addr] = err
	}
	return conn, err
}

func (t *transport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(addr.Addr, timeout)
}

// cause returns the error of dialling addr if there was one: memberlist keeps only its text.
func (t *transport) cause(addr string, err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if dialled := t.failed[addr]; dialled != nil {
		return dialled
	}
	return err
}
