package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inBubble runs f with virtual time and sees to it that nothing is left behind.
func inBubble(t *testing.T, f func(t *testing.T, n *memnet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// Registered first, so run last: what memberlist has begun ends within its time limits.
		t.Cleanup(func() { time.Sleep(time.Minute) })
		f(t, &memnet{})
	})
}

// poll waits until ok holds; it reports whether that was within d.
func poll(d time.Duration, ok func() bool) bool {
	for end := time.Now().Add(d); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// within fails the test if ok does not come to hold in d, and returns how long it took.
func within(t *testing.T, d time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	if !poll(d, ok) {
		t.Fatalf("not within %v: %s", d, what)
	}
	return time.Since(start)
}

// buffer is a bytes.Buffer that may be written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// take returns what was written since the last take.
func (b *buffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.b.Reset()
	return b.b.String()
}

// sees tells whether g sees exactly these peers alive.
func sees(g *Gossip, ids ...string) bool {
	var got []string
	for _, p := range g.Peers() {
		if p.Alive {
			got = append(got, p.ID)
		}
	}
	return fmt.Sprint(got) == fmt.Sprint(ids)
}

const seedA, seedB, seedC = "10.0.0.1:8801", "10.0.0.2:8801", "10.0.0.3:8801"

func trio(t *testing.T, n *memnet) (a, b, c *Gossip) {
	t.Helper()
	a = mustStart(t, n.host(seedA).config("a", seedA))
	b = mustStart(t, n.host(seedB).config("b", seedA))
	c = mustStart(t, n.host(seedC).config("c", seedA))
	within(t, 2*time.Second, "three see each other", func() bool {
		return sees(a, "b", "c") && sees(b, "a", "c") && sees(c, "a", "b")
	})
	return a, b, c
}

func TestThreeFindEachOther(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		a, _, _ := trio(t, n)
		p := a.Peers()[0]
		if p.Name != "name-b" || p.Addr != seedB || p.Since.IsZero() {
			t.Errorf("peer %+v", p)
		}
		select {
		case <-a.Events():
		default:
			t.Error("no event")
		}
	})
}

func TestDeadPeerIsNoticedAndComesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		a, b, c := trio(t, n)
		c.Stop()
		took := within(t, 2*time.Second, "c is dead", func() bool { return sees(a, "b") && sees(b, "a") })
		t.Logf("noticed after %v", took)
		for _, p := range a.Peers() {
			if p.ID == "c" && (p.Alive || p.Leaving || time.Since(p.Since) > took) {
				t.Errorf("c: %+v", p)
			}
		}
		// On the same port, with the same id, as an agent that was restarted.
		mustStart(t, n.hosts[netip.MustParseAddrPort(seedC)].config("c", seedA))
		within(t, 2*time.Second, "c is back", func() bool { return sees(a, "b", "c") && sees(b, "a", "c") })
	})
}

func TestQuickRestartIsNoConflict(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		a, b, c := trio(t, n)
		c.Stop() // and back under another address before anyone has noticed: others call it a conflict
		c = mustStart(t, n.host("10.0.0.9:8801").config("c", seedA))
		took := within(t, 10*time.Second, "c is seen at its new address", func() bool {
			for _, g := range []*Gossip{a, b} {
				if p := g.Peers()[1]; p.ID != "c" || !p.Alive || p.Addr != "10.0.0.9:8801" {
					return false
				}
			}
			return true
		})
		t.Logf("seen after %v", took)
		time.Sleep(30 * time.Second)
		for _, g := range []*Gossip{a, b, c} {
			select {
			case why := <-g.Conflict():
				t.Errorf("conflict: %s", why)
			default:
			}
		}
	})
}

func TestConflict(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		_, b, _ := trio(t, n)
		twin := mustStart(t, n.host("10.0.0.9:8801").config("b", seedA))
		for name, g := range map[string]*Gossip{"the old": b, "the new": twin} {
			if !poll(20*time.Second, func() bool { return len(g.conflict) > 0 }) {
				t.Errorf("%s one did not notice", name)
			} else if why := <-g.Conflict(); !strings.Contains(why, "10.0.0.") {
				t.Errorf("%s one: %q", name, why)
			}
		}
	})
}

func TestPartitionHeals(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		a, b, c := trio(t, n)
		isC := func(x netip.AddrPort) bool { return x == netip.MustParseAddrPort(seedC) }
		n.setCut(func(from, to netip.AddrPort) bool { return isC(from) != isC(to) })
		within(t, 3*time.Second, "the cut shows", func() bool { return sees(a, "b") && sees(b, "a") && sees(c) })
		time.Sleep(5 * time.Minute) // far longer than memberlist gossips to the dead
		n.setCut(nil)
		took := within(t, 2*time.Second, "healed", func() bool { return sees(a, "b", "c") && sees(b, "a", "c") && sees(c, "a", "b") })
		t.Logf("healed after %v", took)
	})
}

func TestMetaChangeSpreads(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		a, b, c := trio(t, n)
		if err := b.SetMeta(Meta{ID: "b", Cluster: "k", Witness: true}); err != nil {
			t.Fatal(err)
		}
		took := within(t, time.Second, "the change is seen", func() bool { return a.Peers()[0].Witness && c.Peers()[1].Witness })
		t.Logf("seen after %v", took)
		if p := a.Peers()[0]; p.Cluster != "k" || p.Name != "" {
			t.Errorf("b: %+v", p)
		}
	})
}

func TestLeave(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		a, _, c := trio(t, n)
		if err := c.Leave(time.Second); err != nil {
			t.Errorf("Leave: %v", err)
		}
		within(t, 500*time.Millisecond, "c has left", func() bool {
			p := a.Peers()[1]
			return p.ID == "c" && p.Leaving && !p.Alive
		})
		if err := c.Leave(time.Second); err != nil {
			t.Errorf("second Leave: %v", err)
		}
		if err := c.SetMeta(Meta{ID: "c", Name: "x"}); err != nil {
			t.Errorf("SetMeta after Leave: %v", err)
		}
	})
}

func TestForeignCluster(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		ca, cb, cc := n.host(seedA).config("a"), n.host(seedB).config("b", seedA), n.host(seedC).config("c", seedA)
		ca.Meta.Cluster, cb.Meta.Cluster = "one", "two" // c belongs to none yet
		var log buffer
		ca.Logger = slog.New(slog.NewTextHandler(&log, nil))
		a, b, c := mustStart(t, ca), mustStart(t, cb), mustStart(t, cc)
		within(t, 2*time.Second, "foreigners are kept apart", func() bool {
			return sees(a, "c") && sees(b, "c") && sees(c, "a", "b")
		})
		if f := a.Foreign(); len(f) != 1 || f[0].ID != "b" {
			t.Errorf("foreign to a: %v", f)
		}
		if err := c.SetMeta(Meta{ID: "c", Cluster: "one"}); err != nil {
			t.Fatal(err)
		}
		within(t, 2*time.Second, "c is foreign to b", func() bool { return sees(a, "c") && sees(b) && sees(c, "a") })
		a.Stop()
		if text := log.take(); strings.Count(text, "peer of another cluster") != 1 {
			t.Errorf("not reported once:\n%s", text)
		}
	})
}

func TestWrongKey(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		a := mustStart(t, n.host(seedA).config("a"))
		cfg := n.host(seedB).config("b")
		cfg.Key = []byte(strings.Repeat("x", 32))
		b := mustStart(t, cfg)
		if err := b.Join(t.Context(), seedA); err == nil {
			t.Error("joined")
		}
		if !sees(a) || !sees(b) {
			t.Error("they see each other")
		}
	})
}

func TestJoin(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		a := mustStart(t, n.host(seedA).config("a"))
		b := mustStart(t, n.host(seedB).config("b"))
		if err := b.Join(t.Context(), seedC, seedA); err != nil {
			t.Errorf("one of two answers: %v", err)
		}
		within(t, time.Second, "they see each other", func() bool { return sees(a, "b") && sees(b, "a") })
		err := b.Join(t.Context(), seedC, "no-port")
		if op := new(net.OpError); !errors.As(err, &op) || !strings.Contains(err.Error(), "no-port") {
			t.Errorf("nobody answers: %v", err)
		}
		if b.Join(t.Context()) == nil {
			t.Error("joined nobody")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.Join(ctx, seedC); err == nil {
			t.Error("no error after cancel")
		}
	})
}

// A seed's name may have addresses that never answer: they are asked seldom, and nothing is logged.
func TestNameWithSeveralAddresses(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		mustStart(t, n.host(seedB).config("b"))
		cfg := n.host(seedA).config("a", "name:8801")
		cfg.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("10.0.0.2")}, nil
		}
		var log buffer
		var dials atomic.Int32
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		dial := cfg.Dial
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			if addr == seedC {
				dials.Add(1)
			}
			return dial(ctx, addr)
		}
		a := mustStart(t, cfg)
		time.Sleep(5 * time.Minute)
		if !sees(a, "b") {
			t.Error("not joined")
		}
		if got := dials.Load(); got > 300/30+1 {
			t.Errorf("the dead address was dialled %d times in 5 minutes", got)
		}
		if text := log.take(); strings.Contains(text, "seed") {
			t.Errorf("logged:\n%s", text)
		}
	})
}

// A seed that is down is tried all the time, and told once when it goes and when it comes.
func TestSeedDown(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		cfg := n.host(seedA).config("a", seedB)
		var log buffer
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		a := mustStart(t, cfg)
		time.Sleep(3 * time.Minute)
		if text := log.take(); strings.Count(text, "seed does not answer") != 1 || strings.Count(text, "\n") != 1 {
			t.Errorf("not logged once:\n%s", text)
		}
		mustStart(t, n.host(seedB).config("b"))
		within(t, 2*time.Second, "joined", func() bool { return sees(a, "b") })
		time.Sleep(2 * time.Second)
		if text := log.take(); !strings.Contains(text, "seed answers") || strings.Contains(text, "WARN") {
			t.Errorf("not logged:\n%s", text)
		}
	})
}

// A healthy idle cluster logs nothing and dials nobody, whatever the seeds are called.
func TestHealthyIsQuiet(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		var dials atomic.Int32
		var log buffer
		cfg := n.host(seedA).config("a", seedA, seedB, seedC)
		dial := cfg.Dial
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			dials.Add(1)
			return dial(ctx, addr)
		}
		h := slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo})
		cfg.Logger = slog.New(h)
		a := mustStart(t, cfg)
		b := mustStart(t, n.host(seedB).config("b", seedA, seedB, seedC))
		within(t, 2*time.Second, "two of three are up", func() bool { return sees(a, "b") && sees(b, "a") })
		mustStart(t, n.host(seedC).config("c", seedA, seedB, seedC))
		within(t, 2*time.Second, "all are up", func() bool { return sees(a, "b", "c") })
		time.Sleep(5 * time.Second)
		dials.Store(0)
		log.take()
		time.Sleep(3 * time.Minute)
		a.Stop()
		if text := log.take(); text != "" {
			t.Errorf("logged:\n%s", text)
		}
		if pushPulls := 3 * 6 * 2; int(dials.Load()) > pushPulls {
			t.Errorf("%d dials in 3 minutes, more than %d exchanges of state", dials.Load(), pushPulls)
		}
	})
}

func TestStartRefusesNonsense(t *testing.T) {
	n := &memnet{}
	good := n.host(seedA).config("a")
	for name, spoil := range map[string]func(*Config){
		"no id":       func(c *Config) { c.Meta.ID = "" },
		"huge meta":   func(c *Config) { c.Meta.Name = strings.Repeat("n", 512) },
		"short key":   func(c *Config) { c.Key = c.Key[:16] },
		"no address":  func(c *Config) { c.Advertise = netip.AddrPort{} },
		"unspecified": func(c *Config) { c.Advertise = netip.MustParseAddrPort("0.0.0.0:8801") },
		"no port":     func(c *Config) { c.Advertise = netip.MustParseAddrPort("10.0.0.1:0") },
	} {
		cfg := good
		spoil(&cfg)
		if g, err := Start(cfg); err == nil {
			g.Stop()
			t.Errorf("%s: started", name)
		}
	}
}

func TestMetaLimits(t *testing.T) {
	inBubble(t, func(t *testing.T, n *memnet) {
		a := mustStart(t, n.host(seedA).config("a"))
		for _, m := range []Meta{{ID: "a", Name: strings.Repeat("ü", 400)}, {}, {ID: "b"}} {
			if err := a.SetMeta(m); !errors.Is(err, ErrMeta) {
				t.Errorf("%.20v…: %v", m, err)
			}
		}
		// What every field needs at its longest fits.
		m := Meta{ID: strings.Repeat("f", 16), Name: strings.Repeat("n", 63), Addr: strings.Repeat("h", 63) + ":65535",
			Cluster: strings.Repeat("c", 36), Version: "v10.20.30-rc.1+" + strings.Repeat("9", 40), Witness: true, Leaving: true}
		b, err := m.encode()
		if err != nil {
			t.Error(err)
		}
		if back, err := decodeMeta(b); err != nil || back != m {
			t.Errorf("back: %+v, %v", back, err)
		}
		if _, err := decodeMeta([]byte("{")); !errors.Is(err, ErrMeta) {
			t.Errorf("broken: %v", err)
		}
	})
}

// Over real sockets, once.
func TestRealSockets(t *testing.T) {
	t.Parallel()
	start := func(id string, seeds ...string) *Gossip {
		var tcp net.Listener
		var udp net.PacketConn
		for udp == nil { // a port that is free for both
			var err error
			if tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
				t.Fatal(err)
			}
			if udp, err = net.ListenPacket("udp", tcp.Addr().String()); err != nil {
				tcp.Close()
			}
		}
		t.Cleanup(func() { udp.Close() })
		addr := tcp.Addr().String()
		return mustStart(t, Config{
			Meta:      Meta{ID: id, Addr: addr},
			Advertise: netip.MustParseAddrPort(addr),
			Packets:   udp,
			Streams:   tcp,
			Dial: func(ctx context.Context, a string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", a)
			},
			Key:   testKey,
			Seeds: func() []string { return seeds },
		})
	}
	a := start("a")
	seed := a.cfg.Advertise.String()
	b, c := start("b", seed), start("c", seed)
	within(t, 5*time.Second, "three see each other", func() bool { return sees(a, "b", "c") && sees(b, "a", "c") && sees(c, "a", "b") })
	c.Stop()
	took := within(t, 3*time.Second, "c is dead", func() bool { return sees(a, "b") && sees(b, "a") })
	t.Logf("noticed after %v", took)
}
