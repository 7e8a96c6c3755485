package wire

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// Network carries the connections and packets of an [Identity]: its host's own, but in tests.
type Network interface {
	// Listen binds addr (host:port) for TCP and UDP.
	Listen(ctx context.Context, addr string) (net.Listener, net.PacketConn, error)
	// Dial opens a TCP connection; the context bounds that, not the connection's life.
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// hostNetwork is the kernel's.
type hostNetwork struct{}

// Dead peers are noticed by TCP within about 10 s, by HTTP/2 within about 2 s.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 4 * time.Second, Interval: 2 * time.Second, Count: 3}

const (
	portTries = 20              // for a port of the kernel's choice that is free for TCP but not for UDP
	portWait  = 2 * time.Second // for the former agent's: the kernel closes the sockets of a process that was killed after all else
	portRetry = 20 * time.Millisecond
)

// Listen binds an address; port 0 lets the kernel choose.
func (hostNetwork) Listen(ctx context.Context, addr string) (net.Listener, net.PacketConn, error) {
	_, port, _ := net.SplitHostPort(addr)
	began := time.Now()
	for try := 1; ; try++ {
		tcp, udp, err := listen(ctx, addr)
		switch {
		case !errors.Is(err, syscall.EADDRINUSE):
			return tcp, udp, err
		case port == "0" && try < portTries:
		case port == "0" || time.Since(began) > portWait:
			return nil, nil, err
		default:
			select {
			case <-ctx.Done():
				return nil, nil, err
			case <-time.After(portRetry):
			}
		}
	}
}

func listen(ctx context.Context, addr string) (net.Listener, net.PacketConn, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	tcp, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	udp, err := lc.ListenPacket(ctx, "udp", tcp.Addr().String())
	if err != nil {
		tcp.Close()
		return nil, nil, err
	}
	return tcp, udp, nil
}

// Dial connects.
func (hostNetwork) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive}
	return d.DialContext(ctx, "tcp", addr)
}
