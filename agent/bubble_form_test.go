package agent

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// formRuns is how many random formations are tried.
func formRuns() int {
	switch {
	case raceEnabled:
		return 30
	case testing.Short():
		return 60
	}
	return 200
}

// Agents that are started in any order, at any time, with the same seeds or with
// some of them, while the network is cut in two or one way here and there and an
// agent or two is killed and started again: always exactly one cluster, with all.
func TestBubbleForm(t *testing.T) {
	for seed := range formRuns() {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(b *bubble) { b.form(rand.New(rand.NewPCG(uint64(seed), 2))) })
		})
	}
}

// event is something that happens at a time.
type event struct {
	at   time.Duration
	what string
	do   func()
}

func (b *bubble) form(r *rand.Rand) {
	n := 3 + r.IntN(3)
	between := func(from, to time.Duration) time.Duration { return from + time.Duration(r.Int64N(int64(to-from))) }
	var all []string
	for i := range n {
		all = append(all, hostIP(i+1)+":8801")
	}
	var events []event
	add := func(at time.Duration, what string, do func()) { events = append(events, event{at, what, do}) }
	sameSeeds := r.IntN(3) > 0
	for i := range n {
		var join []string
		switch {
		case i == 0: // founds
		case sameSeeds:
			join = all
		default: // some of those before it
			for _, j := range r.Perm(i)[:1+r.IntN(i)] {
				join = append(join, all[j])
			}
		}
		h := b.host(join...)
		at := between(0, time.Duration(1+r.IntN(8))*time.Second)
		add(at, fmt.Sprintf("start %s, seeds %v", h.name, join), h.start)
		if r.IntN(4) == 0 {
			dies := at + between(0, 5*time.Second)
			add(dies, "kill "+h.name, h.kill)
			add(dies+between(0, 3*time.Second), "start "+h.name+" again", func() { h.join(); h.start() })
		}
	}
	var last time.Duration
	for at := between(0, 4*time.Second); r.IntN(4) > 0; at = last + between(0, 4*time.Second) {
		last = at + between(100*time.Millisecond, 6*time.Second)
		what, cut := randomCut(r, n)
		add(at, what, func() { b.net.Cut(cut) })
		add(last, "heal", func() { b.net.Cut(nil) })
	}
	slices.SortStableFunc(events, func(a, b event) int { return int(a.at - b.at) })
	clusters := map[string]bool{}
	for _, e := range events {
		time.Sleep(e.at - b.now())
		b.t.Logf("%v: %s", b.now(), e.what)
		e.do()
		b.noteClusters(clusters)
	}
	took := b.within(formBound, fmt.Sprintf("one cluster of %d", n), func() (bool, string) { return b.oneCluster() })
	b.t.Logf("%v: one cluster, %v after the last event", b.now(), took)
	if b.noteClusters(clusters); len(clusters) != 1 {
		b.t.Errorf("there were clusters %v", clusters)
	}
}

// formBound is the longest that forming may take once all runs and is connected.
const formBound = 30 * time.Second

// randomCut cuts the hosts in two, or one host from another in one direction.
func randomCut(r *rand.Rand, n int) (string, func(from, to string) bool) {
	if r.IntN(3) == 0 {
		p := r.Perm(n)
		a, b := hostIP(p[0]+1), hostIP(p[1]+1)
		return fmt.Sprintf("cut %s → %s", a, b), func(from, to string) bool { return from == a && to == b }
	}
	in := map[string]bool{}
	for _, i := range r.Perm(n)[:1+r.IntN(n-1)] {
		in[hostIP(i+1)] = true
	}
	return fmt.Sprintf("cut off %v", in), func(from, to string) bool { return in[from] != in[to] }
}

// noteClusters notes the clusters that somebody belongs to.
func (b *bubble) noteClusters(seen map[string]bool) {
	for _, h := range b.hosts {
		if h.Agent != nil && h.cluster() != "" {
			seen[h.cluster()] = true
		}
	}
}

// oneCluster says that all agents are members of the same cluster with the same
// coordinator and as many voters as there should be; else what is seen.
func (b *bubble) oneCluster() (bool, string) {
	var first looked
	for i, h := range b.hosts {
		if !h.alive() || h.node.Load() == nil {
			return false, h.name + " has no node side yet"
		}
		s := h.fsm.State()
		l := looked{cluster: s.Cluster, members: len(s.Members)}
		l.leader, _ = h.raft.Leader()
		for _, srv := range h.raftServers() {
			if srv.Voter {
				l.voters++
			}
		}
		if i == 0 {
			first = l
		}
		n := len(b.hosts)
		if l != first || l.cluster == "" || l.leader == "" || l.members != n || l.voters != n-(n+1)%2 {
			return false, fmt.Sprintf("%s: %+v, n1: %+v", h.name, l, first)
		}
	}
	return true, ""
}
