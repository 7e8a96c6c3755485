package raftnode

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// poolSize is how many idle connections are kept to a peer: one for entries, one for heartbeats, one
// for votes.
const poolSize = 3

func newTransport(n *Node) *patient {
	ctx, cancel := context.WithCancel(context.Background())
	tc := &raft.NetworkTransportConfig{
		Stream:          &streamLayer{Listener: n.cfg.Listener, addr: n.cfg.Addr, dial: n.cfg.Dial, ctx: ctx, cancel: cancel},
		MaxPool:         poolSize,
		Timeout:         n.cfg.Timing.RPC,
		MaxRPCsInFlight: 1,                            // pipelining can wedge a follower for ever (hashicorp/raft#612)
		Logger:          newQuietLogger(n.cfg.Logger), // Raft reports what matters, once more
	}
	if n.cfg.Resolve != nil {
		tc.ServerAddressProvider = resolver{n}
	}
	return &patient{NetworkTransport: raft.NewNetworkTransportWithConfig(tc), n: n, lost: map[raft.ServerID]bool{}}
}

// streamLayer is how Raft dials and listens.
type streamLayer struct {
	net.Listener
	addr   string
	dial   func(ctx context.Context, addr string) (net.Conn, error)
	ctx    context.Context
	cancel context.CancelFunc
}

// Addr returns the address that peers use, not the one that is bound (which may be 0.0.0.0): Raft tells
// it to them.
func (s *streamLayer) Addr() net.Addr { return address(s.addr) }

func (s *streamLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	return s.dial(ctx, string(addr))
}

func (s *streamLayer) Close() error {
	s.cancel()
	return s.Listener.Close()
}

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

var errNoAddress = errors.New("no newer address is known")

// resolver finds a member's address at the time of dialling, so that a host may move.
type resolver struct{ n *Node }

func (r resolver) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if string(id) == r.n.cfg.ID {
		return raft.ServerAddress(r.n.cfg.Addr), nil
	}
	if addr, ok := r.n.cfg.Resolve(string(id)); ok {
		return raft.ServerAddress(addr), nil
	}
	return "", errNoAddress // Raft then takes the one in its configuration
}
