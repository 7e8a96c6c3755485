package raftfsmtest

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2" //nolint:depguard // a package for tests: all chance comes from its seed

	"ha/raftfsm"
)

// generator writes a schedule. It does not look at the world: who is meant and
// when is said in words like "P" and "on commit:promote", so that an entry means
// the same when others are left out.
type generator struct {
	rng     *rand.Rand
	s       *Schedule
	t       int64 // when the next episode begins
	writes  int
	members int
}

// profiles are kinds of faults: general walks do not find everything. Each is a
// weight for each kind of episode.
var profiles = []struct {
	name  string
	nodes []int // with a mysqld, one of these
	gap   int64 // between episodes, at most
	write int64 // between writes, on average
	mix   map[string]int
}{
	{"general", []int{3, 3, 4}, 3000, 40, map[string]int{"mysqld": 3, "agent": 2, "host": 3, "cut": 4, "lag": 2, "lead": 2, "drop": 1, "trap": 3, "freeze": 2, "step": 3, "slow": 1}},
	{"members", []int{3, 4, 4}, 2500, 40, map[string]int{"mysqld": 2, "deaf": 3, "drop": 2, "cut": 2, "lag": 2, "lead": 2, "trap": 4, "killP": 2, "away": 4, "leave": 2, "acks": 1, "step": 1, "ghost": 1}},
	{"double", []int{3, 4}, 900, 30, map[string]int{"double": 6, "sleeper": 1, "lag": 2, "lead": 2, "agent": 1, "step": 2, "trap": 1, "narrow": 2}},
	{"agents", []int{3, 4}, 2500, 40, map[string]int{"agent": 5, "stale": 1, "freeze": 3, "cut": 2, "lead": 1, "mysqld": 2, "host": 1, "step": 2, "deaf": 2}},
	{"operator", []int{3, 4}, 1500, 40, map[string]int{"switchover": 5, "failover": 1, "leave": 1, "policy": 1, "lead": 1, "mysqld": 1, "cut": 1, "step": 3, "trap": 2}},
	{"return", []int{3, 4, 4}, 2500, 40, map[string]int{"tail": 6, "back": 4, "reinit": 1, "switchover": 2, "lead": 1, "agent": 1, "lag": 1, "step": 1}},
	{"frozen", []int{3, 4}, 2500, 30, map[string]int{"freeze": 6, "lag": 1, "cut": 1, "lead": 1, "trap": 2, "narrow": 1, "switchover": 1}},
	{"slow", []int{3, 3, 4}, 2000, 25, map[string]int{"slow": 5, "narrow": 4, "lag": 2, "switchover": 3, "mysqld": 2, "host": 1, "lead": 1}},
	{"witness", []int{2, 2, 3}, 3000, 40, map[string]int{"mysqld": 2, "host": 3, "agent": 2, "cut": 3, "lead": 1, "freeze": 1, "step": 1, "switchover": 1}},
	{"quiet", []int{2, 3, 4}, 0, 40, nil},
	{"loss", []int{3, 4}, 3000, 40, map[string]int{"allow": 3, "tail": 3, "away": 2, "host": 1, "switchover": 1}},
	{"copies", []int{3, 4, 4}, 2500, 40, map[string]int{"rebuild": 8, "stands": 2, "tail": 2, "allow": 2, "switchover": 1, "mysqld": 1, "agent": 1, "lead": 1, "step": 1, "reinit": 1, "freeze": 1}},
	{"astray", []int{3}, 15000, 40, map[string]int{"astray": 6, "allow": 1, "tail": 1, "lead": 1}},
	{"late", []int{3, 4}, 3000, 40, map[string]int{"again": 8, "sleeper": 2, "away": 4, "lead": 2, "trap": 2, "killP": 1, "drop": 1, "agent": 1}},
	{"relay", []int{3, 4}, 15000, 40, map[string]int{"relay": 6, "allow": 1, "lead": 1}},
}

// Generate makes the schedule of a seed; no profile: one by the seed.
func Generate(seed uint64, profile string) (Schedule, string) {
	i := int(seed % uint64(len(profiles)))
	for j, p := range profiles {
		if p.name == profile {
			i = j
		}
	}
	p := profiles[i]
	h := fnv.New64a()
	h.Write([]byte(p.name))
	g := &generator{rng: rand.New(rand.NewPCG(seed, h.Sum64())), s: &Schedule{Seed: seed, Acks: -1}}
	n := p.nodes[g.rng.IntN(len(p.nodes))]
	g.s.Nodes = []raftfsm.NodeID{"a", "b", "c", "d"}[:n]
	g.members = n
	if n == 2 || g.chance(10) {
		g.s.Witness = []raftfsm.NodeID{"w"}
	}
	if p.mix["astray"]+p.mix["relay"] > 0 { // two data hosts may be away
		g.s.Witness = []raftfsm.NodeID{"v", "w"}
	}
	if p.mix["leave"] > 0 && g.chance(50) {
		g.s.Spare = []raftfsm.NodeID{"e"}
	}
	g.s.Strict, g.s.Early = g.chance(20), g.chance(25)
	g.s.Mends = p.mix["stands"] > 0
	g.s.For = g.span(8000, 35000)
	if p.mix["relay"] > 0 { // it begins when the cluster is whole
		g.s.For = g.span(28000, 40000)
	}
	for t := int64(0); t < g.s.For; t += g.span(1, 2*p.write) {
		g.write(t, string(g.node()))
	}
	total := 0
	for _, k := range episodeOrder {
		total += p.mix[k]
	}
	for g.t = g.span(1, 1500); total > 0 && g.t < g.s.For; g.t += g.span(min(50, p.gap), p.gap) {
		pick := g.rng.IntN(total)
		for _, k := range episodeOrder {
			if pick -= p.mix[k]; pick < 0 {
				episodes[k](g)
				break
			}
		}
	}
	g.s.sort()
	return *g.s, p.name
}

func (g *generator) span(lo, hi int64) int64 { return lo + g.rng.Int64N(hi-lo+1) }

func (g *generator) chance(percent int) bool { return g.rng.IntN(100) < percent }

func (g *generator) of(words ...string) string { return words[g.rng.IntN(len(words))] }

func (g *generator) node() raftfsm.NodeID { return g.s.Nodes[g.rng.IntN(len(g.s.Nodes))] }

// any is some member, mostly one with a mysqld.
func (g *generator) any() string {
	if len(g.s.Witness) > 0 && g.chance(15) {
		return "w"
	}
	return string(g.node())
}

func (g *generator) replica() string { return fmt.Sprintf("R%d", g.rng.IntN(g.members-1)) }

func (g *generator) at(t int64, format string, args ...any) {
	if t < g.s.For {
		g.s.Entries = append(g.s.Entries, Entry{At: t, Do: fmt.Sprintf(format, args...)})
	}
}

// on waits for an event from t on.
func (g *generator) on(t int64, event string, n int, delay int64, format string, args ...any) {
	if t < g.s.For {
		g.s.Entries = append(g.s.Entries, Entry{At: t, On: event, N: n, Delay: delay, Do: fmt.Sprintf(format, args...)})
	}
}

func (g *generator) write(t int64, at string) {
	g.writes++
	if g.chance(2) {
		g.at(t, "write T%d at %s lasting", g.writes, at)
		return
	}
	g.at(t, "write T%d at %s", g.writes, at)
}

// burst writes n rows at P in a few milliseconds.
func (g *generator) burst(t int64, n int) {
	for range n {
		g.write(t, "P")
		t += g.span(0, 4)
	}
}

// host kills a host, which comes back.
func (g *generator) host(t int64, who string) {
	g.at(t, "kill host %s", who)
	g.at(t+g.span(50, 9000), "start %s", who)
}

// step is some point in what the cluster does by itself.
func (g *generator) step() string {
	return g.of("commit:revoke", "commit:promote", "commit:promote", "commit:settle", "commit:acks", "commit:intent",
		"sent:seal", "sent:promote", "sent:follow", "sent:barrier", "sent:set_acks", "sent:prepare",
		"token:seal", "token:promote", "token:barrier", "token:follow", "token:set_acks", "token:exclude", "token:lock_out", "token:start", "token:prepare",
		"done:seal", "done:promote", "done:barrier", "done:follow", "done:set_acks", "done:prepare",
		"answer:seal", "answer:promote", "answer:barrier", "answer:prepare", "answer:exclude", "answer:lock_out", "ok", "ack", "commit:rebuild", "commit:request")
}

// hit is a fault at once, at some point or at some time.
func (g *generator) hit(who string) string {
	return g.of("kill mysqld "+who, "kill agent "+who, "kill host "+who, "kill mysqld "+who, "drop "+who, "isolate "+who,
		"freeze agent "+who, "lead "+string(g.node()), "lead "+string(g.node()))
}

// episodeOrder keeps a seed's choice the same.
var episodeOrder = []string{"mysqld", "killP", "agent", "host", "cut", "lag", "slow", "lead", "drop", "trap", "again", "freeze", "step",
	"double", "narrow", "deaf", "away", "leave", "acks", "switchover", "failover", "policy", "tail", "back", "allow", "ghost", "reinit", "sleeper", "stale", "rebuild", "astray", "stands", "relay"}

var episodes = map[string]func(g *generator){
	"mysqld": func(g *generator) {
		g.at(g.t, "kill mysqld %s", g.of("P", string(g.node()), g.replica()))
	},
	"killP": func(g *generator) {
		if g.chance(50) {
			g.at(g.t, "kill mysqld P")
		} else {
			g.host(g.t, "P")
		}
		g.at(g.t+9500, "start F")
	},
	"agent": func(g *generator) {
		who := g.any()
		g.at(g.t, "kill agent %s", who)
		g.at(g.t+g.span(50, 9000), "start %s", who)
	},
	"host": func(g *generator) { g.host(g.t, g.any()) },
	"cut": func(g *generator) {
		who := g.any()
		switch g.rng.IntN(4) {
		case 0:
			g.at(g.t, "isolate %s", who)
		case 1:
			g.at(g.t, "oneway %s %s", who, g.any())
		case 2:
			g.at(g.t, "cut %s %s", who, g.any())
		default:
			g.at(g.t, "cut P %s", g.replica())
			who = ""
		}
		g.at(g.t+g.span(50, 9000), "heal %s", who)
	},
	"lag": func(g *generator) {
		who := g.of(g.replica(), string(g.node()))
		g.at(g.t, "lag %s", who)
		g.at(g.t+g.span(50, 9000), "catchup %s", g.of(who, who, "a"))
	},
	"slow": func(g *generator) {
		who := g.node()
		g.at(g.t, "slow %s %d", who, g.span(20, 400))
		g.at(g.t+g.span(500, 9000), "slow %s 0", who)
	},
	"lead": func(g *generator) { g.at(g.t, "lead %s", g.any()) },
	"drop": func(g *generator) { g.at(g.t, "drop %s", g.replica()) },
	"trap": func(g *generator) {
		for range 1 + g.rng.IntN(3) {
			who := g.of("any", "P", g.replica())
			switch g.rng.IntN(6) {
			case 0, 1:
				g.at(g.t, "trap order any %s %s %d", who, g.of("lose", "late", "late", "again"), g.span(5, 4000))
			case 2:
				g.at(g.t, "trap answer any %s %s %d", who, g.of("lose", "late"), g.span(5, 4000))
			case 3:
				g.at(g.t, "trap %s any %s %s %d for %d", g.of("report", "grant"), who, g.of("lose", "late"), g.span(5, 3000), g.span(50, 3000))
			case 4:
				g.at(g.t, "trap ack any %s late %d for %d", who, g.span(5, 1500), g.span(50, 2000))
			default:
				g.at(g.t, "trap ack any %s lose", who)
			}
		}
	},
	"again": func(g *generator) { // orders come again, or very late, after others of the same epoch
		op := g.of("any", "set_acks", "follow", "exclude", "lock_out", "accounts", "barrier", "promote", "start", "seal")
		g.at(g.t, "trap order %s any %s %d", op, g.of("again", "again", "late"), g.span(100, 8000))
	},
	"freeze": func(g *generator) {
		what, who := g.of("agent", "agent", "mysqld", "host"), g.of("P", "L", string(g.node()), g.replica())
		if who == "L" {
			what = "agent"
		}
		if g.chance(40) {
			g.burst(g.t-5, 3)
		}
		g.at(g.t, "freeze %s %s", what, who)
		end := g.t + g.span(30, 9000)
		for _, id := range g.s.Nodes {
			g.at(end, "thaw %s %s", what, id)
		}
	},
	"step": func(g *generator) {
		who := g.of("it", "P", "L", "F", string(g.node()))
		do := g.hit(who)
		g.on(g.t, g.step(), 1+g.rng.IntN(3), g.span(0, 8), "%s", do)
		end := g.t + g.span(1000, 9000)
		for _, id := range g.s.Nodes {
			g.at(end, "thaw agent %s", id)
			g.at(end, "start %s", id)
		}
		g.at(end, "heal")
	},
	"double": func(g *generator) { // the next failover before the last one is settled
		g.burst(g.t-3, 2)
		if g.chance(50) {
			g.at(g.t, "kill mysqld P")
		} else {
			g.at(g.t, "kill host P")
		}
		g.on(g.t, g.of("commit:promote", "token:promote", "done:promote", "commit:settle", "commit:revoke"), 1, g.span(0, 60),
			"kill %s P", g.of("mysqld", "host", "agent", "host"))
		g.at(g.t+g.span(200, 9000), "start %s", g.node())
		g.at(g.t+g.span(2000, 9000), "start F")
		g.at(g.t+9000, "start P")
	},
	"narrow": func(g *generator) { // one acker alone holds the last rows
		r := g.replica()
		end := g.t + g.span(10, 2500)
		for i := range g.members - 1 {
			if o := fmt.Sprintf("R%d", i); o != r {
				g.at(g.t, "lag %s", o)
			}
		}
		g.burst(g.t+5, 3)
		switch g.rng.IntN(4) {
		case 0:
			g.at(g.t+g.span(8, 40), "kill host P")
		case 1:
			g.at(g.t+g.span(8, 40), "kill mysqld P")
		case 2:
			g.at(g.t+g.span(8, 40), "isolate P")
			g.at(g.t+g.span(3000, 9000), "heal")
		default:
			g.at(g.t+g.span(8, 40), "freeze host P")
			g.at(g.t+g.span(2000, 9000), "thaw host F")
		}
		if g.chance(30) {
			g.at(g.t+g.span(8, 60), "kill %s %s", g.of("agent", "mysqld", "host"), r)
		}
		for _, id := range g.s.Nodes {
			g.at(end, "catchup %s", id)
			g.at(g.t+9000, "start %s", id)
		}
	},
	"deaf": func(g *generator) { // an acker without an agent acknowledges on
		who := g.node()
		g.at(g.t, "kill agent %s", who)
		if g.chance(50) {
			o := g.node()
			g.at(g.t+g.span(0, 5000), "lag %s", o)
			g.at(g.t+g.span(5000, 9000), "catchup %s", o)
		}
		g.on(g.t+2000, g.of("commit:intent", "commit:acks", "done:lock_out"), 1, g.span(0, 300), "%s", g.of("kill mysqld P", "kill host P", "drop "+string(who), "lead "+string(g.node())))
		if g.chance(50) {
			g.at(g.t+g.span(5500, 9000), "kill %s P", g.of("mysqld", "host"))
		}
		g.at(g.t+g.span(5000, 12000), "start %s", who)
		g.at(g.t+12000, "start F")
	},
	"away": func(g *generator) { // ackers go and come back: k falls and rises
		n := 1 + g.rng.IntN(g.members-1)
		for i := range n {
			who := fmt.Sprintf("R%d", i)
			t := g.t + g.span(0, 300)
			back := t + g.span(1200, 7000)
			switch g.rng.IntN(3) {
			case 0:
				g.at(t, "cut P %s", who)
				g.at(back, "heal")
			case 1:
				g.at(t, "kill host %s", who)
			default:
				g.at(t, "kill agent %s", who)
				g.at(t, "kill mysqld %s", who)
			}
			for _, id := range g.s.Nodes {
				g.at(back, "start %s", id)
			}
		}
		if g.chance(60) {
			o := g.replica()
			g.at(g.t+g.span(0, 6000), "lag %s", o)
			g.at(g.t+g.span(4000, 9000), "catchup %s", o)
		}
		g.on(g.t, g.of("commit:acks", "commit:intent", "done:set_acks", "sent:barrier"), 1+g.rng.IntN(4), g.span(0, 400), "%s",
			g.of("kill mysqld P", "kill host P", "lead "+string(g.node()), "kill agent P"))
		g.at(g.t+12000, "start F")
		g.at(g.t+12000, "start P")
	},
	"leave": func(g *generator) {
		who := string(g.node())
		if len(g.s.Spare) > 0 && g.chance(60) {
			who = string(g.s.Spare[0])
			g.at(g.t, "join %s", who)
			if g.chance(50) {
				return
			}
		} else if len(g.s.Nodes) < 4 {
			return
		}
		g.at(g.t+g.span(1000, 4000), "leave %s", who)
		if g.chance(50) {
			g.on(g.t, g.of("commit:intent", "commit:acks", "commit:remove_member", "done:exclude"), 1, g.span(0, 300), "kill %s P", g.of("mysqld", "host"))
		}
		g.at(g.t+g.span(6000, 12000), "join %s", who)
		g.at(g.t+12000, "start F")
	},
	"acks": func(g *generator) {
		g.at(g.t, "acks %d", g.span(0, 2))
		g.at(g.t+g.span(2000, 9000), "acks -1")
	},
	"policy": func(g *generator) { g.at(g.t, "policy %s", g.of("strict", "available")) },
	"switchover": func(g *generator) {
		g.at(g.t, "switchover %s", g.of(g.replica(), string(g.node())))
		if g.chance(50) {
			g.on(g.t, g.of("commit:request", "commit:revoke", "commit:promote", "done:seal", "token:seal", "done:promote", "sent:follow", "commit:resume"), 1, g.span(0, 30),
				"%s", g.hit(g.of("it", "P", "L", "F", g.replica())))
			end := g.t + g.span(1000, 9000)
			for _, id := range g.s.Nodes {
				g.at(end, "thaw agent %s", id)
				g.at(end, "start %s", id)
			}
			g.at(end, "heal")
		}
	},
	"failover": func(g *generator) { g.at(g.t, "failover %s", g.of("any", g.replica())) },
	"tail": func(g *generator) { // the primary dies with commits that nobody, or too few, have
		t := g.t
		deaf := ""
		if g.chance(40) { // one that has them is not heard of until much later
			deaf = string(g.node())
			g.at(t, "kill agent %s", deaf)
			t += 20
		}
		for _, id := range g.s.Nodes {
			if string(id) != deaf {
				g.at(t, "lag %s", id)
			}
		}
		g.burst(t+2, 1+g.rng.IntN(4))
		if g.chance(30) {
			g.write(t+4, "P")
			last := &g.s.Entries[len(g.s.Entries)-1]
			last.Do = fmt.Sprintf("write T%d at P lasting", g.writes)
		}
		dead := t + g.span(8, 60)
		g.at(dead, "kill %s P", g.of("mysqld", "host"))
		for _, id := range g.s.Nodes {
			g.at(dead+2, "catchup %s", id)
		}
		switch g.rng.IntN(3) {
		case 0:
			g.on(dead, g.of("commit:revoke", "commit:promote", "commit:settle", "done:seal"), 1, g.span(0, 300), "start F")
		default:
			g.at(dead+g.span(100, 5000), "start F")
		}
		g.at(dead+5000, "start F")
		if g.chance(60) { // and then it is the primary again
			g.at(dead+g.span(4000, 7000), "switchover F")
		}
		if deaf != "" {
			g.at(dead+g.span(500, 14000), "start %s", deaf)
		}
	},
	"back": func(g *generator) { // a crashed primary is back in each phase
		g.burst(g.t-4, 3)
		g.at(g.t, "kill %s P", g.of("host", "mysqld"))
		g.on(g.t, g.of("commit:revoke", "sent:seal", "done:seal", "commit:promote", "done:promote", "commit:settle", "sent:start", "token:start"), 1, g.span(0, 500),
			"%s", g.of("start F", "start P", "kill mysqld P", "start F"))
		g.at(g.t+6000, "start F")
		g.at(g.t+6000, "start P")
	},
	"ghost": func(g *generator) { // a member without an agent is to be forgotten; its server follows on
		who := string(g.node())
		g.at(g.t, "kill agent %s", who)
		g.at(g.t+g.span(50, 2000), "kill mysqld P")
		g.at(g.t+g.span(1000, 4000), "leave %s", who)
		g.at(g.t+g.span(4000, 7000), "switchover F")
		g.at(g.t+g.span(6000, 14000), "start %s", who)
	},
	"reinit": func(g *generator) {
		who := g.replica()
		if g.chance(50) {
			g.at(g.t-20, "lag %s", who)
			g.burst(g.t-10, 2)
			g.at(g.t+500, "catchup %s", who)
		}
		g.at(g.t, "reinit %s", who)
		g.at(g.t+g.span(0, 4000), "kill %s P", g.of("mysqld", "host"))
		g.at(g.t+9000, "start F")
		g.at(g.t+9000, "start P")
	},
	"stale": func(g *generator) { // the last grants are long under way
		g.at(g.t, "trap grant any P late %d for 2000", g.span(1000, 4000))
		g.at(g.t+g.span(500, 2000), "%s P", g.of("mute", "mute", "isolate"))
		g.at(g.t+g.span(6000, 9500), "heal")
	},
	"sleeper": func(g *generator) { // the candidate sleeps over its promotion, and has it in its socket
		g.at(g.t, "kill %s P", g.of("mysqld", "host"))
		g.on(g.t, "sent:promote", 1, 0, "freeze agent it")
		g.on(g.t, "sent:promote", 1, 0, "trap order seal it lose 0 for 9000")
		g.on(g.t, "sent:promote", 1, g.span(200, 9000), "thaw agent it")
		g.at(g.t+g.span(1000, 9000), "start F")
	},
	"astray": func(g *generator) { // an async primary goes away with rows of the reign before it, and those are given up
		g.at(g.t, "kill host %s", g.replica())
		g.burst(g.t+g.span(0, 1500), 2) // another one acknowledges them
		dead := g.t + g.span(2500, 5000)
		for _, id := range g.s.Nodes {
			g.at(dead, "lag %s", id)
			g.at(dead+20, "catchup %s", id)
		}
		g.burst(dead+2, 2) // nobody does
		g.on(dead+18, "commit:promote", 1, g.span(0, 500), "isolate P")
		g.at(dead+19, "kill host P")
		back := dead + g.span(2500, 6000)
		for _, id := range g.s.Nodes {
			g.at(back, "start %s", id)
		}
		back += g.span(500, 5000)
		g.at(back, "failover any allow")
		g.on(back, "commit:settle", 1, 0, "reinit F") // its disk is lost too
	},
	"relay": func(g *generator) { // who alone acknowledged the last rows has them in a relay log, and their loss is accepted
		who := g.replica()
		t := g.t + 5000
		g.at(t, "break %s", who)
		for i := range g.members - 1 {
			if o := fmt.Sprintf("R%d", i); o != who {
				g.at(t, "lag %s", o)
			}
		}
		g.burst(t+5, 3)
		dead := t + g.span(20, 60)
		g.at(dead, "kill host %s", who)
		g.at(dead, "kill host P")
		for _, id := range g.s.Nodes {
			g.at(dead+5, "catchup %s", id)
			g.at(dead+5, "mend %s", id)
		}
		g.at(dead+g.span(2500, 4000), "failover any allow")
		g.on(dead+2500, "commit:settle", 1, 0, "reinit F") // its disk is lost too
		back := dead + g.span(9500, 14000)                 // after the last lease
		for _, id := range g.s.Nodes {
			g.at(back, "start %s", id)
		}
		if g.chance(40) { // a person has one copied anew, which may be it
			g.at(back+g.span(1500, 4000), "rebuild %s", g.node())
		}
		g.t = back // whoever is left is left alone
	},
	"stands": func(g *generator) { // on an error, till it ends by itself or there is a copy
		who := g.of(g.replica(), string(g.node()))
		g.at(g.t, "break %s", who)
		if g.chance(30) {
			g.at(g.t+g.span(0, 3000), "mend %s", who)
		}
		if g.chance(50) {
			g.on(g.t, g.of("commit:rebuild", "sent:swap", "token:swap", "commit:intent"), 1, g.span(0, 1500), "%s", g.hit(g.of("it", "P", "L", who)))
			g.at(g.t+g.span(2500, 9000), "start %s", who)
			g.at(g.t+g.span(2500, 9000), "heal")
		}
	},
	"rebuild": func(g *generator) { // asked for, often canceled or hit at one of its steps
		who := g.of(g.replica(), string(g.node()))
		g.at(g.t, "rebuild %s %s", who, g.of("", "", "P", string(g.node())))
		if g.chance(40) {
			g.at(g.t+g.span(0, 4000), "cancel %s", who)
		}
		if g.chance(30) {
			g.on(g.t, "commit:rebuild", 1, g.span(0, 3000), "cancel it")
		}
		if g.chance(60) {
			g.on(g.t, g.of("commit:rebuild_wish", "commit:rebuild", "token:rebuild", "sent:swap", "token:swap", "done:swap", "commit:rebuild_end", "commit:rebuild_cancel", "commit:intent"),
				1, g.span(0, 1500), "%s", g.hit(g.of("it", "P", "L", who, g.replica())))
			end := g.t + g.span(1500, 9000)
			for _, id := range g.s.Nodes {
				g.at(end, "thaw agent %s", id)
				g.at(end, "start %s", id)
			}
			g.at(end, "heal")
		}
		if g.chance(20) {
			g.at(g.t, "trap order %s any %s %d", g.of("swap", "rebuild", "end_rebuild"), g.of("late", "again", "lose"), g.span(100, 5000))
		}
		if g.chance(20) { // canceled when the copy is about to be put in place
			g.on(g.t, "commit:rebuild", 1, 0, "trap order swap it late %d", g.span(50, 2000))
			g.on(g.t, "commit:rebuild", 1, 0, "trap order end_rebuild it late %d", g.span(50, 4000))
			g.on(g.t, "sent:swap", 1, g.span(0, 50), "cancel it")
		}
		if g.chance(20) {
			g.on(g.t, g.of("commit:rebuild", "token:swap"), 1, g.span(0, 2500), "switchover %s", g.replica())
		}
	},
	"allow": func(g *generator) { // a loss is accepted
		g.at(g.t, "kill host P")
		r := g.replica()
		g.at(g.t+g.span(0, 50), "kill host %s", r)
		g.at(g.t+g.span(500, 2500), "failover any allow")
		for _, id := range g.s.Nodes {
			g.at(g.t+g.span(9000, 14000), "start %s", id)
		}
	},
}
