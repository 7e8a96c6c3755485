package wire_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"ha/agent/wire"
	"ha/gossip"
)

func startGossip(t *testing.T, secret, name string, seeds ...string) (*gossip.Gossip, string) {
	t.Helper()
	keys := wire.DeriveKeys(secret)
	id, err := wire.NewIdentity(keys, name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := wire.Listen(t.Context(), "127.0.0.1:0", id, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	addr := s.Addr().String()
	g, err := gossip.Start(gossip.Config{
		Meta:      gossip.Meta{ID: name, Addr: addr},
		Advertise: netip.MustParseAddrPort(addr),
		Packets:   s.Packets(),
		Streams:   s.Gossip(),
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			return wire.Dial(ctx, addr, wire.ProtoGossip, id)
		},
		Key:   keys.GossipKey(),
		Seeds: func() []string { return seeds },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Stop() })
	return g, addr
}

// Gossip over the one port: TLS streams and UDP packets, and an error that tells a wrong secret.
func TestGossipOverTheWire(t *testing.T) {
	t.Parallel()
	a, seed := startGossip(t, "right", "a")
	b, _ := startGossip(t, "right", "b", seed)
	c, _ := startGossip(t, "right", "c", seed)
	all := []*gossip.Gossip{a, b, c}
	alive := func(want int) func() bool {
		return func() bool {
			for _, g := range all {
				n := 0
				for _, p := range g.Peers() {
					if p.Alive {
						n++
					}
				}
				if n != want {
					return false
				}
			}
			return true
		}
	}
	wait(t, "three see each other", alive(2))
	stranger, _ := startGossip(t, "wrong", "d")
	if err := stranger.Join(t.Context(), seed); !errors.Is(err, wire.ErrWrongSecret) {
		t.Errorf("Join with another secret: %v", err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	all = all[:2]
	start := time.Now()
	wait(t, "c is dead", alive(1))
	t.Logf("noticed after %v", time.Since(start).Round(time.Millisecond))
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 5 s: %s", what)
		}
	}
}
