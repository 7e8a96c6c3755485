package raftnode

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRestartOfAll(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a", "b", "c")
		var want []string
		for round := range 3 {
			leader := g.leader(5 * time.Second)
			for i := range 5 {
				want = append(want, fmt.Sprintf("%d.%d", round, i))
				g.apply(leader, want[len(want)-1])
			}
			g.agree(want...)
			for _, id := range []string{"a", "b", "c"} {
				g.stop(id)
			}
			for _, id := range []string{"a", "b", "c"} {
				n := g.start(id)
				if !n.HasState() || len(n.Servers()) != 3 {
					t.Errorf("%s: state %v, members %v", id, n.HasState(), n.Servers())
				}
			}
		}
		g.apply(g.leader(5*time.Second), "end")
		g.agree(append(want, "end")...)
	})
}

// A node whose peers are all down knows what was committed, as soon as Open returns; and the group
// finds a leader afterwards (with Raft's own RestoreCommittedLogs it does not: no members are left).
func TestLoneNodeKnowsTheState(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a", "b", "c")
		g.apply("a", "1")
		g.apply("a", "2")
		g.agree("1", "2")
		for _, id := range []string{"a", "b", "c"} {
			g.stop(id)
		}
		for _, id := range []string{"c", "a"} {
			g.start(id)
			if got := g.fsms[id].all(); !slices.Equal(got, []string{"1", "2"}) {
				t.Errorf("%s alone: %v", id, got)
			}
			g.stop(id)
		}
		g.start("b")
		g.start("c")
		g.apply(g.leader(5*time.Second), "3")
		g.start("a")
		g.agree("1", "2", "3")
	})
}

func TestCrashLosesASecondAtMost(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a", "b", "c")
		g.apply("a", "1")
		g.agree("1")
		time.Sleep(1100 * time.Millisecond)
		g.apply("a", "2")
		for _, id := range []string{"a", "b", "c"} {
			g.crash(id)
		}
		g.start("b")
		if got := g.fsms["b"].all(); !slices.Equal(got, []string{"1"}) && !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("b alone: %v", got)
		}
		g.start("a")
		g.leader(5 * time.Second)
		g.agree("1", "2")
	})
}

func TestSnapshots(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a")
		var want []string
		say := func(s string) { want = append(want, s); g.apply("a", s) }
		for i := range 20 {
			say(fmt.Sprint(i))
		}
		a := g.nodes["a"]
		if err := a.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		say("after the snapshot")
		g.stop("a")
		a = g.start("a")
		if got := g.fsms["a"].all(); !slices.Equal(got, want) {
			t.Errorf("from snapshot and log: %v", got)
		}
		g.leader(5 * time.Second)

		// While Raft lags behind the state, a snapshot would carry the wrong index.
		f := &replayedFSM{FSM: g.fsms["a"], upTo: 9, seen: 8}
		if _, err := f.Snapshot(); err == nil {
			t.Error("snapshot of a state from the future")
		}

		// A newcomer gets the snapshot once the log before it is gone.
		rc := a.raft.ReloadableConfig()
		rc.TrailingLogs = 1
		if err := a.raft.ReloadConfig(rc); err != nil {
			t.Fatal(err)
		}
		say("more")
		if err := a.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		if first, _ := a.store.log.FirstIndex(); first < 10 {
			t.Fatalf("the log still begins at %d", first)
		}
		g.start("b")
		if err := a.AddNonvoter(ctxFor(t, 5*time.Second), "b", "host-b"); err != nil {
			t.Fatal(err)
		}
		g.agree(want...)
		say("again")
		g.agree(want...)
		g.stop("b")
		g.start("b")
		if got := g.fsms["b"].all(); !slices.Equal(got, want) {
			t.Errorf("b from an installed snapshot: %v", got)
		}
	})
}

// Nodes crash, restart, are cut off and take snapshots at random. No acknowledged command is lost, none
// is applied twice (the journal panics), and in the end all agree.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, g *group) { randomFaults(t, g, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func randomFaults(t *testing.T, g *group, r *rand.Rand) {
	ids := []string{"a", "b", "c"}
	g.marked() // they refuse no store that was only crashed
	g.found(ids...)
	var acked []string
	for step := range 60 {
		id := ids[r.IntN(3)]
		n, up := g.nodes[id]
		switch r.IntN(8) {
		case 0:
			if up {
				g.crash(id)
			}
		case 1:
			if up {
				g.stop(id)
			}
		case 2, 3:
			if !up {
				g.start(id)
			}
		case 4:
			g.net.isolate("host-" + ids[r.IntN(3)])
		case 5:
			g.net.isolate()
		case 6:
			if up {
				_ = n.raft.Snapshot().Error() // there may be nothing new
			}
		}
		for _, n := range g.nodes {
			cmd := fmt.Sprint(step)
			if _, _, err := n.Apply(ctxFor(t, time.Second), []byte(cmd)); err == nil {
				acked = append(acked, cmd)
				break
			}
		}
		time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond)
	}
	g.net.isolate()
	for _, id := range ids {
		if g.nodes[id] == nil {
			g.start(id)
		}
	}
	leader := g.leader(10 * time.Second)
	g.apply(leader, "end")
	g.agree(g.fsms[leader].all()...)
	final := g.fsms[leader].all()
	at := 0
	for _, cmd := range acked { // final may hold more: outcomes that were unknown
		i := slices.Index(final[at:], cmd)
		if i < 0 {
			t.Fatalf("%s was acknowledged and is lost:\n%s\n%s", cmd, strings.Join(acked, " "), strings.Join(final, " "))
		}
		at += i
	}
	t.Logf("%d acknowledged, %d in the end", len(acked), len(final))
}
