package gossip

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
)

// Peer is another agent of our cluster, as far as gossip knows.
type Peer struct {
	Meta
	// Alive is false if the peer does not answer, or has left.
	Alive bool
	// Since is when Alive took its value, on our clock.
	Since time.Time
}

// deadKept is how long a dead peer is remembered.
const deadKept = time.Hour

// peer is a Peer with the address that memberlist has for it.
type peer struct {
	Peer
	at netip.AddrPort
}

// Peers returns the other agents of our cluster, dead ones included for an hour, sorted by ID. Peers
// that name another cluster are in [Gossip.Foreign].
func (g *Gossip) Peers() []Peer { return g.listed(false) }

// Foreign returns peers with our secret that say they belong to another cluster, sorted by ID. While we
// belong to none ourselves, nobody is foreign.
func (g *Gossip) Foreign() []Peer { return g.listed(true) }

func (g *Gossip) listed(foreign bool) []Peer {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []Peer
	for id, p := range g.peers {
		if !p.Alive && time.Since(p.Since) > deadKept {
			delete(g.peers, id)
			continue
		}
		if g.foreign(p.Meta) == foreign {
			list = append(list, p.Peer)
		}
	}
	slices.SortFunc(list, func(a, b Peer) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// foreign needs g.mu.
func (g *Gossip) foreign(m Meta) bool {
	return m.Cluster != "" && g.meta.Cluster != "" && m.Cluster != g.meta.Cluster
}

// Events signals that [Gossip.Peers] or [Gossip.Foreign] may have changed; many changes may be one signal.
func (g *Gossip) Events() <-chan struct{} { return g.events }

func (g *Gossip) changed() {
	select {
	case g.events <- struct{}{}:
	default: // one is waiting to be read
	}
}

// Conflict brings a description when another live agent uses our node ID: a copied data directory.
func (g *Gossip) Conflict() <-chan string { return g.conflict }

// saw takes what memberlist says of a peer.
func (g *Gossip) saw(n *memberlist.Node, alive bool) {
	if n.Name == g.cfg.Meta.ID {
		return
	}
	m, err := decodeMeta(n.Meta)
	if err != nil {
		g.cfg.Logger.Warn("gossip: peer ignored", "node", n.Name, "addr", n.Address(), "err", err)
		return
	}
	m.ID = n.Name

	g.mu.Lock()
	old := g.peers[m.ID]
	p := &peer{Peer: Peer{Meta: m, Alive: alive, Since: time.Now()}, at: nodeAddr(n)}
	if old != nil && old.Alive == alive {
		p.Since = old.Since
	}
	g.peers[m.ID] = p
	foreign := g.foreign(m)
	g.mu.Unlock()

	g.report(old, p, foreign)
	g.changed()
}

// report logs that a peer has come, gone, or belongs to others.
func (g *Gossip) report(old, p *peer, foreign bool) {
	log := g.cfg.Logger.With("node", p.ID, "name", p.Name, "addr", p.at)
	came := p.Alive && (old == nil || !old.Alive)
	switch {
	case foreign && (came || old != nil && old.Cluster != p.Cluster):
		log.Warn("gossip: peer of another cluster", "cluster", p.Cluster)
	case foreign:
	case came:
		log.Info("gossip: peer is alive")
	case !p.Alive && old != nil && old.Alive && p.Leaving:
		log.Info("gossip: peer has left")
	case !p.Alive && old != nil && old.Alive:
		log.Info("gossip: peer does not answer")
	}
}

// rivalCheck is how long after the first sight a rival must still be there. A host that has just changed
// its address meets the memory of its former self, which passes.
const rivalCheck = 2 * time.Second

// sawRival takes that somebody at another address uses our ID.
func (g *Gossip) sawRival(n *memberlist.Node) {
	at, now := nodeAddr(n), time.Now()
	g.mu.Lock()
	first, known := g.rivals[at]
	if !known {
		g.rivals[at] = now
	}
	g.mu.Unlock()
	if !known || now.Sub(first) < rivalCheck {
		return
	}
	select {
	case g.conflict <- fmt.Sprintf("node id %s is also used by the agent at %s", n.Name, at):
	default:
	}
}

// rivalsDue returns the rivals to look at again, and forgets those that did not show up any more.
func (g *Gossip) rivalsDue() []netip.AddrPort {
	g.mu.Lock()
	defer g.mu.Unlock()
	var due []netip.AddrPort
	for at, first := range g.rivals {
		switch age := time.Since(first); {
		case age > 5*rivalCheck:
			delete(g.rivals, at)
		case age > rivalCheck:
			due = append(due, at)
		}
	}
	return due
}

func nodeAddr(n *memberlist.Node) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(ip.Unmap(), n.Port)
}

// delegate is what memberlist calls, some of it with its locks held: nothing here calls back.
type delegate struct{ g *Gossip }

func (d delegate) NodeMeta(int) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	b, _ := d.g.meta.encode() // validated when it was set
	return b
}

func (d delegate) NotifyJoin(n *memberlist.Node)   { d.g.saw(n, true) }
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.g.saw(n, true) }
func (d delegate) NotifyLeave(n *memberlist.Node)  { d.g.saw(n, false) }

func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	if existing.Name == d.g.cfg.Meta.ID {
		d.g.sawRival(other)
	}
}

func (delegate) NotifyMsg([]byte)                {}
func (delegate) GetBroadcasts(_, _ int) [][]byte { return nil }
func (delegate) LocalState(bool) []byte          { return nil }
func (delegate) MergeRemoteState([]byte, bool)   {}
