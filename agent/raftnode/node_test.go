package raftnode

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestFormingAGroup(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		a := g.start("a")
		if a.HasState() || a.LastContact() >= 0 {
			t.Errorf("new node: state %v, last contact %v", a.HasState(), a.LastContact())
		}
		time.Sleep(5 * time.Second)
		if id, _ := a.Leader(); a.IsLeader() || id != "" {
			t.Error("leads nobody's group")
		}
		if err := a.Bootstrap(); err != nil {
			t.Fatal(err)
		}
		took := within(t, 5*time.Second, "the founder leads", a.IsLeader)
		t.Logf("the founder leads after %v", took)
		if !<-a.Leadership() {
			t.Error("not told so")
		}
		if !a.HasState() || a.LastContact() != 0 || a.Term() == 0 {
			t.Errorf("founder: state %v, last contact %v, term %d", a.HasState(), a.LastContact(), a.Term())
		}
		if err := a.Bootstrap(); err == nil {
			t.Error("founded twice")
		}
		g.apply("a", "1")

		b, ctx := g.start("b"), ctxFor(t, 5*time.Second)
		if err := a.AddNonvoter(ctx, "b", "host-b"); err != nil {
			t.Fatal(err)
		}
		g.agree("1")
		if s := b.Servers(); !slices.Equal(s, []Server{{"a", "host-a", true}, {"b", "host-b", false}}) {
			t.Errorf("members %v", s)
		}
		if err := a.Promote(ctx, "b", "host-b"); err != nil {
			t.Fatal(err)
		}
		if s := a.Servers(); !s[1].Voter {
			t.Errorf("members %v", s)
		}
		if id, addr := b.Leader(); id != "a" || addr != "host-a" {
			t.Errorf("leader of b: %s at %s", id, addr)
		}
		if err := a.AddNonvoter(ctx, "c", "host-b"); err == nil || errors.Is(err, ErrNotLeader) {
			t.Errorf("an address twice: %v", err)
		}
		if err := errors.Join(a.Demote(ctx, "b"), a.Remove(ctx, "b")); err != nil {
			t.Error(err)
		}
		if s := a.Servers(); len(s) != 1 {
			t.Errorf("members %v", s)
		}
	})
}

func TestApply(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a", "b", "c")
		ctx := ctxFor(t, time.Second)
		i1, resp, err := g.nodes["a"].Apply(ctx, []byte("x"))
		if err != nil || resp != 1 {
			t.Errorf("%v, %v", resp, err)
		}
		i2, resp, err := g.nodes["a"].Apply(ctx, []byte("y"))
		if err != nil || resp != 2 || i2 <= i1 {
			t.Errorf("%v, %v, index %d after %d", resp, err, i2, i1)
		}
		g.agree("x", "y")
		a, b := g.nodes["a"], g.nodes["b"]
		if a.CommitIndex() < i2 || a.AppliedIndex() < i2 || b.LastIndex() < i2 {
			t.Errorf("committed %d, applied %d, b has %d, want %d", a.CommitIndex(), a.AppliedIndex(), b.LastIndex(), i2)
		}
		for what, err := range map[string]error{
			"Apply":        func() error { _, _, err := b.Apply(ctx, []byte("z")); return err }(),
			"Barrier":      b.Barrier(ctx),
			"VerifyLeader": b.VerifyLeader(ctx),
			"Add":          b.AddNonvoter(ctx, "d", "host-d"),
			"Transfer":     b.TransferLeadership(ctx, "c", "host-c"),
		} {
			if !errors.Is(err, ErrNotLeader) {
				t.Errorf("%s on a follower: %v", what, err)
			}
		}
		if err := errors.Join(a.Barrier(ctx), a.VerifyLeader(ctx)); err != nil {
			t.Error(err)
		}
	})
}

func TestIsolatedLeader(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a", "b", "c")
		g.apply("a", "1")
		a := g.nodes["a"]
		g.net.isolate("host-a")
		// Neither is the answer "no": the others could have got it.
		_, _, err := a.Apply(ctxFor(t, 50*time.Millisecond), []byte("short"))
		if !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("deadline: %v", err)
		}
		_, _, err = a.Apply(ctxFor(t, 5*time.Second), []byte("long"))
		if !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("leadership lost: %v", err)
		}
		if err := a.VerifyLeader(ctxFor(t, time.Second)); !errors.Is(err, ErrNotLeader) {
			t.Errorf("VerifyLeader: %v", err)
		}
		within(t, 5*time.Second, "another leads", func() bool { return g.nodes["b"].IsLeader() || g.nodes["c"].IsLeader() })
		leader := "b"
		if g.nodes["c"].IsLeader() {
			leader = "c"
		}
		g.apply(leader, "2")
		g.net.isolate()
		g.agree("1", "2")
		if !strings.Contains(g.log.take(), "failed to contact quorum") {
			t.Error("nothing was logged")
		}
	})
}

func TestLeaderGone(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a", "b", "c")
		var sum, most time.Duration
		const rounds = 10
		for i := range rounds {
			old := g.leader(5 * time.Second)
			g.apply(old, fmt.Sprint(i))
			g.crash(old)
			start := time.Now()
			g.leader(5 * time.Second)
			took := time.Since(start)
			sum, most = sum+took, max(most, took)
			g.start(old)
		}
		t.Logf("a new leader after %v on average, %v at most", sum/rounds, most)
	})
}

func TestTransferLeadership(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a", "b", "c")
		a, b, ctx := g.nodes["a"], g.nodes["b"], ctxFor(t, 5*time.Second)
		within(t, time.Second, "b knows the group", func() bool { return b.LastIndex() == a.LastIndex() })
		start := time.Now()
		if err := a.TransferLeadership(ctx, "b", "host-b"); err != nil {
			t.Fatal(err)
		}
		within(t, time.Second, "b leads", b.IsLeader)
		t.Logf("b leads after %v", time.Since(start))
		if err := b.TransferLeadership(ctx, "nobody", "host-x"); err == nil || errors.Is(err, ErrNotLeader) {
			t.Errorf("to nobody: %v", err)
		}
		if !b.IsLeader() {
			t.Error("b stepped down for nobody")
		}
		// The change that nobody read is replaced by the latest.
		synctest.Wait() // Raft tells a by a goroutine of its own
		if <-a.Leadership() {
			t.Error("a still hears that it leads")
		}
	})
}

// Raft stands still if its notifications are not taken, so they are, whether or not anybody reads ours.
func TestNobodyReadsLeadership(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a", "b", "c")
		for i := range 60 {
			from := g.leader(5 * time.Second)
			to := string("abc"[i%3])
			if from != to {
				if err := g.nodes[from].TransferLeadership(ctxFor(t, 5*time.Second), to, "host-"+to); err != nil {
					t.Fatalf("%d: %v", i, err)
				}
			}
		}
		leader := g.leader(5 * time.Second)
		time.Sleep(time.Second)
		for id, n := range g.nodes {
			if got := <-n.Leadership(); got != (id == leader) {
				t.Errorf("%s last heard %v, leader is %s", id, got, leader)
			}
			select {
			case <-n.Leadership():
				t.Errorf("%s heard more", id)
			default:
			}
		}
		g.stop(leader)
	})
}

func TestShutdownTellsLeadership(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a")
		a := g.nodes["a"]
		<-a.Leadership()
		g.stop("a")
		if <-a.Leadership() {
			t.Error("leads after Shutdown")
		}
		if _, _, err := a.Apply(ctxFor(t, time.Second), nil); !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("Apply: %v", err)
		}
	})
}

// What Raft has in a queue when it is shut down gets an answer too: a bubble does not end
// while somebody waits for one.
func TestShutdownLeavesNobodyWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a")
		a := g.nodes["a"]
		<-a.Leadership()
		var wg sync.WaitGroup
		for range 300 {
			wg.Go(func() { _ = a.VerifyLeader(t.Context()) })
			wg.Go(func() { _, _, _ = a.Apply(t.Context(), []byte("x")) })
		}
		g.stop("a")
		wg.Wait()
	})
}

// A voter that was away for long counts at once when it is back. Raft by itself would not send it an
// entry for up to 10 s.
func TestReturningVoterCountsAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a", "b", "c")
		g.stop("b")
		time.Sleep(time.Minute)
		if err := g.nodes["a"].TransferLeadership(ctxFor(t, time.Second), "b", "host-b"); err == nil {
			t.Error("leadership handed to a node that is down")
		}
		g.start("b")
		g.stop("c")
		start := time.Now()
		g.apply("a", "1")
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("committed after %v", took)
		}
		// To a peer that is gone for good nothing is sent for ever.
		ctx := ctxFor(t, 5*time.Second)
		if err := g.nodes["a"].Remove(ctx, "c"); err != nil {
			t.Error(err)
		}
		if err := g.nodes["a"].TransferLeadership(ctx, "b", "host-b"); err != nil {
			t.Error(err)
		}
	})
}

// A host may move: Resolve knows before the configuration does.
func TestResolve(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.tune = func(c *Config) {
			c.Resolve = func(id string) (string, bool) { return "host-" + id, id != "a" }
		}
		a := g.start("a")
		if err := a.Bootstrap(); err != nil {
			t.Fatal(err)
		}
		g.leader(5 * time.Second)
		g.start("b")
		if err := a.AddNonvoter(ctxFor(t, time.Second), "b", "where-it-was"); err != nil {
			t.Fatal(err)
		}
		g.apply("a", "1")
		g.agree("1")
	})
}

func TestIdleGroupIsQuiet(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		g.found("a", "b", "c")
		g.agree()
		time.Sleep(2 * time.Second)
		g.log.take()
		before := g.nodes["a"].LastIndex()
		time.Sleep(20 * time.Second)
		if text := g.log.take(); text != "" {
			t.Errorf("an idle group logs:\n%s", text)
		}
		if after := g.nodes["a"].LastIndex(); after != before {
			t.Errorf("an idle group wrote %d entries", after-before)
		}
		g.stop("c")
		time.Sleep(20 * time.Second)
		if text := g.log.take(); text == "" || strings.Count(text, "\n") > 8 {
			t.Errorf("about a dead peer:\n%s", text)
		}
	})
}
