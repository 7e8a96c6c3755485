// Package gossip knows which agents exist, what they say of themselves and which seem alive. It wraps
// memberlist. All of it is a hint: a peer that it calls dead may be cut off from us only, and nothing
// that matters may be decided by it.
package gossip

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"
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
	// Logger receives what memberlist says. May be nil: nothing is logged.
	Logger *slog.Logger
}

// Peer is another agent of our cluster, as far as gossip knows.
type Peer struct {
	Meta
	// Alive is false if the peer does not answer, or has left.
	Alive bool
	// Since is when Alive took its value, on our clock.
	Since time.Time
}

// Gossip is one agent's membership. Its methods may be used from any goroutine.
type Gossip struct{}

// Start begins to listen and to join the seeds.
func Start(cfg Config) (*Gossip, error) { panic("todo") }

// Peers returns the other agents of our cluster, dead ones included for an hour, sorted by ID. Peers
// that name another cluster are in [Gossip.Foreign].
func (g *Gossip) Peers() []Peer { panic("todo") }

// Foreign returns peers with our secret that say they belong to another cluster.
func (g *Gossip) Foreign() []Peer { panic("todo") }

// Join contacts the agents at addrs (host:port, all addresses of a name) at once. It returns nil if one
// of them answered.
func (g *Gossip) Join(ctx context.Context, addrs ...string) error { panic("todo") }

// SetMeta changes what this agent says of itself; ID must stay. An invalid Meta changes nothing.
func (g *Gossip) SetMeta(m Meta) error { panic("todo") }

// Events signals that [Gossip.Peers] or [Gossip.Foreign] may have changed; many changes may be one signal.
func (g *Gossip) Events() <-chan struct{} { panic("todo") }

// Conflict brings a description when another agent uses our node ID: a copied data directory.
func (g *Gossip) Conflict() <-chan string { panic("todo") }

// Leave tells the peers that this agent leaves on purpose, waiting up to timeout for that to go out,
// and stops.
func (g *Gossip) Leave(timeout time.Duration) error { panic("todo") }

// Stop stops without a word: to its peers the agent looks dead until it starts again.
func (g *Gossip) Stop() error { panic("todo") }
