// Package gossip knows which agents exist, what they say of themselves and which seem alive. It wraps
// memberlist. All of it is a hint: a peer that it calls dead may be cut off from us only, and nothing
// that matters may be decided by it.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Config is what [Start] needs. All fields are required unless they say otherwise.
type Config struct {
	// Meta is what this agent says of itself; Meta.ID is its name among its peers, unique for all time.
	Meta Meta
	// Advertise is the address, TCP and UDP, by which peers reach this agent. It is never guessed: a
	// guess could be a virtual IP.
	Advertise netip.AddrPort
	// Packets sends and receives the UDP packets. It stays open after [Gossip.Stop].
	Packets net.PacketConn
	// Streams brings the connections that peers open; closed by [Gossip.Stop].
	Streams net.Listener
	// Dial opens a stream to a peer (host:port).
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Key encrypts packets and streams (AES-256: 32 bytes). A peer with another key is not heard.
	Key []byte
	// Seeds returns addresses (host:port) of agents that should be peers: configured seeds, members of
	// the Raft group. It is asked once a second and those that are missing are joined; this alone heals
	// a partition, memberlist by itself does not. May be nil.
	Seeds func() []string
	// Logger receives what happens: peers that come and go as info, trouble as warnings. May be nil:
	// nothing is logged.
	Logger *slog.Logger

	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error) // DNS, but in tests
}

// label keeps other programs' memberlist traffic out.
const label = "ha"

// streamTimeout bounds each exchange over a stream.
const streamTimeout = 2 * time.Second

// memberlistConfig is tuned so that a dead peer is noticed within about 1 s; the defaults take 6.
func (c Config) memberlistConfig() *memberlist.Config {
	mc := memberlist.DefaultLANConfig()
	mc.Name = c.Meta.ID
	mc.Label = label
	mc.SecretKey = c.Key
	mc.AdvertiseAddr = c.Advertise.Addr().String()
	mc.AdvertisePort = int(c.Advertise.Port())
	mc.BindPort = mc.AdvertisePort
	mc.TCPTimeout = streamTimeout
	mc.ProbeInterval = 200 * time.Millisecond
	mc.ProbeTimeout = 100 * time.Millisecond
	mc.SuspicionMult = 3
	mc.SuspicionMaxTimeoutMult = 2
	mc.AwarenessMaxMultiplier = 2
	mc.GossipInterval = 50 * time.Millisecond
	mc.PushPullInterval = 10 * time.Second
	mc.DeadNodeReclaimTime = time.Second // a host may come back under another address
	mc.EnableCompression = false         // the messages are small
	mc.Logger = log.New(&logWriter{to: c.Logger}, "", 0)
	return mc
}

// Gossip is one agent's membership. Its methods may be used from any goroutine.
type Gossip struct {
	cfg      Config
	list     *memberlist.Memberlist
	tr       *transport
	events   chan struct{}
	conflict chan string

	ctx      context.Context // ends with Stop
	cancel   context.CancelFunc
	stopOnce sync.Once
	wg       sync.WaitGroup

	update sync.Mutex // one SetMeta at a time

	mu     sync.Mutex
	meta   Meta
	peers  map[string]*peer // by ID
	rivals map[netip.AddrPort]time.Time
}

// Start begins to listen and to join the seeds. It does not wait for them.
func Start(cfg Config) (*Gossip, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.lookup == nil {
		cfg.lookup = net.DefaultResolver.LookupNetIP
	}
	if err := cfg.Meta.Validate(); err != nil {
		return nil, err
	}
	if len(cfg.Key) != 32 {
		return nil, fmt.Errorf("gossip key: %d bytes instead of 32", len(cfg.Key))
	}
	if !cfg.Advertise.IsValid() || cfg.Advertise.Addr().IsUnspecified() || cfg.Advertise.Port() == 0 {
		return nil, fmt.Errorf("gossip: %s is no address that peers could reach", cfg.Advertise)
	}
	cfg.Advertise = unmap(cfg.Advertise)

	g := &Gossip{
		cfg:      cfg,
		events:   make(chan struct{}, 1),
		conflict: make(chan string, 1),
		meta:     cfg.Meta,
		peers:    map[string]*peer{},
		rivals:   map[netip.AddrPort]time.Time{},
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.tr = startTransport(g.ctx, cfg)
	mc := cfg.memberlistConfig()
	mc.Transport = g.tr
	mc.Delegate = delegate{g}
	mc.Events = delegate{g}
	mc.Conflict = delegate{g}
	list, err := memberlist.Create(mc)
	if err != nil {
		g.cancel()
		g.tr.Shutdown()
		return nil, fmt.Errorf("gossip: %w", err)
	}
	g.list = list
	g.wg.Go(g.rejoin)
	return g, nil
}

// SetMeta changes what this agent says of itself; ID must stay. An invalid Meta changes nothing. Peers
// hear of it within a few tenths of a second.
func (g *Gossip) SetMeta(m Meta) error {
	return g.setMeta(m, time.Millisecond)
}

// setMeta waits up to patience for the news to go out, which it does anyway.
func (g *Gossip) setMeta(m Meta, patience time.Duration) error {
	if err := m.Validate(); err != nil {
		return err
	}
	if m.ID != g.cfg.Meta.ID {
		return fmt.Errorf("%w: the node id %s cannot become %s", ErrMeta, g.cfg.Meta.ID, m.ID)
	}
	g.update.Lock()
	defer g.update.Unlock()
	g.mu.Lock()
	same := g.meta == m
	g.meta = m
	g.mu.Unlock()
	if !same && g.ctx.Err() == nil {
		g.list.UpdateNode(patience) // its only error is that patience ended
		g.changed()                 // another cluster id makes other peers foreign
	}
	return nil
}

// Leave tells the peers that this agent leaves on purpose, waiting up to timeout for that to go out,
// and stops. Peers see it with Leaving set and not alive.
func (g *Gossip) Leave(timeout time.Duration) error {
	g.mu.Lock()
	m := g.meta
	g.mu.Unlock()
	m.Leaving = true
	// memberlist's own leave message cannot be told from a death, hence the flag before it. Without
	// room for the flag the message alone has to do.
	_ = g.setMeta(m, timeout/2)
	var err error
	if g.ctx.Err() == nil { // Leave after Shutdown panics
		err = g.list.Leave(timeout / 2)
	}
	return errors.Join(err, g.Stop())
}

// Stop stops without a word: to its peers the agent looks dead until it starts again. It may be called
// more than once.
func (g *Gossip) Stop() error {
	var err error
	g.stopOnce.Do(func() {
		g.cancel()
		g.wg.Wait()
		err = g.list.Shutdown() // closes the transport
	})
	return err
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
