package raftfsm

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDecideVoters: v a voter, n a non-voter, upper case: dead for long, lower
// case: alive and caught up; behind: "n-". The first is the coordinator.
func TestDecideVoters(t *testing.T) {
	for _, c := range []struct {
		name, servers string
		max           int
		want          string
	}{
		{"one alone", "v", 5, ""},
		{"a second stays a non-voter", "v n", 5, ""},
		{"a third makes two voters", "v n n", 5, "promote b"},
		{"and the last", "v v n", 5, "promote c"},
		{"three at rest", "v v v", 5, ""},
		{"a fourth stays a non-voter", "v v v n", 5, ""},
		{"four grow to five", "v v v n n", 5, "promote d"},
		{"five at rest", "v v v v v", 5, ""},
		{"no more than five", "v v v v v n n", 5, ""},
		{"max is three", "v v v n n", 3, ""},
		{"max was lowered to three", "v v v v v", 3, "demote e"},
		{"max was lowered to one", "v v v", 1, "demote c"},
		{"one by one", "v v n", 1, "demote b"},
		{"an even maximum", "v v v n n", 4, ""},
		{"not caught up", "v n- n-", 5, ""},
		{"one of them caught up", "v n- n", 5, ""},
		{"a dead voter is replaced first", "v v V n", 5, "promote d"},
		{"and demoted after", "v v V v", 5, "demote c"},
		{"never below three", "v v V", 5, ""},
		{"two voters, one dead", "v V", 5, ""},
		{"two voters, one dead, one ready", "v V n", 5, "promote c"},
		{"four voters all alive", "v v v v", 5, "demote d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := State{Policy: DefaultPolicy()}
			s.Policy.MaxVoters = c.max
			v := View{Self: "a", Leading: time.Hour}
			var servers []RaftServer
			for i, f := range strings.Fields(c.servers) {
				id := NodeID(rune('a' + i))
				s.Members = append(s.Members, Member{ID: id, Name: string(id)})
				r := &Report{Node: id, LastIndex: 1000}
				if strings.HasSuffix(f, "-") {
					r.LastIndex = 10
				}
				n := NodeView{ID: id, Report: r}
				if strings.ToUpper(f) == f {
					n.Age = time.Hour
				}
				v.Nodes = append(v.Nodes, n)
				servers = append(servers, RaftServer{ID: id, Voter: strings.EqualFold(f[:1], "v")})
			}
			got := ""
			if ch, ok := DecideVoters(s, v, servers, 1000); ok {
				got = string(ch.Kind) + " " + string(ch.Node)
			}
			if got != c.want {
				t.Errorf("%q, not %q", got, c.want)
			}
		})
	}
}

// Whatever fails and comes back, the changes end, and they never leave fewer than
// a majority of the voters alive that was alive before.
func TestDecideVotersComesToRest(t *testing.T) {
	for n := 1; n <= 7; n++ {
		for dead := range 1 << n {
			if dead&1 != 0 {
				continue // the coordinator lives
			}
			s, v := State{Policy: DefaultPolicy()}, View{Self: "a", Leading: time.Hour}
			servers := []RaftServer{{ID: "a", Voter: true}}
			alive := map[NodeID]bool{}
			for i := range n {
				id := NodeID(rune('a' + i))
				s.Members = append(s.Members, Member{ID: id, Name: string(id)})
				v.Nodes = append(v.Nodes, NodeView{ID: id, Report: &Report{Node: id, LastIndex: 9}})
				alive[id] = true
			}
			rest := func() {
				t.Helper()
				for range 50 {
					ch, ok := DecideVoters(s, v, servers, 9)
					if !ok {
						return
					}
					i := slices.IndexFunc(servers, func(r RaftServer) bool { return r.ID == ch.Node })
					switch ch.Kind {
					case VoterAdd:
						servers = append(servers, RaftServer{ID: ch.Node})
					case VoterRemove:
						servers = slices.Delete(servers, i, i+1)
					default:
						servers[i].Voter = ch.Kind == VoterPromote
					}
				}
				t.Fatalf("no rest: %+v", servers)
			}
			count := func() (voters, living int) {
				for _, r := range servers {
					if r.Voter {
						voters++
						if alive[r.ID] {
							living++
						}
					}
				}
				return voters, living
			}
			rest()
			if voters, _ := count(); voters%2 == 0 || voters > 5 || voters < min(n, 5)-1 {
				t.Fatalf("%d voters of %d nodes", voters, n)
			}
			for i := range v.Nodes {
				if dead>>i&1 != 0 {
					v.Nodes[i].Age, alive[v.Nodes[i].ID] = time.Hour, false
				}
			}
			if voters, living := count(); living*2 <= voters {
				continue // no quorum: nothing can be changed
			}
			rest()
			if voters, living := count(); living*2 <= voters {
				t.Fatalf("%d of %d voters alive of %d nodes, dead %b", living, voters, n, dead)
			}
			for i := range v.Nodes {
				v.Nodes[i].Age, alive[v.Nodes[i].ID] = 0, true
			}
			rest()
			if voters, _ := count(); voters%2 == 0 {
				t.Fatalf("%d voters of %d nodes after dead %b returned", voters, n, dead)
			}
		}
	}
}
