package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"ha/agent/api"
	"ha/raftfsm"
)

// oneNodeGroup is a Raft group whose only log is this process's, for tests of
// the coordinator's loop. It notes what happens in which order.
type oneNodeGroup struct {
	mu     sync.Mutex
	fsm    *fsm
	index  uint64
	events []string
	verify error
}

func (g *oneNodeGroup) note(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, fmt.Sprintf(format, args...))
}

func (g *oneNodeGroup) all() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.events...)
}

func (g *oneNodeGroup) Apply(_ context.Context, b []byte) (uint64, any, error) {
	c, err := raftfsm.Decode(b)
	if err != nil {
		return 0, nil, err
	}
	g.mu.Lock()
	g.index++
	index := g.index
	g.mu.Unlock()
	r, _ := g.fsm.Apply(&raft.Log{Index: index, Data: b}).(raftfsm.Result)
	if r.Dropped == "" {
		g.note("commit %s", c.Kind)
	}
	return index, r, nil
}

func (g *oneNodeGroup) Barrier(context.Context) error { g.note("barrier"); return nil }

func (g *oneNodeGroup) VerifyLeader(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.verify
}

func (g *oneNodeGroup) LastIndex() uint64 { return 0 }

func (g *oneNodeGroup) TransferLeadership(_ context.Context, id, _ string) error {
	g.note("handover %s", id)
	return nil
}

// newTestCoordinator has a founded cluster of data members; orders go to answer.
func newTestCoordinator(t *testing.T, answer func(raftfsm.Order) (raftfsm.Answer, error), members ...string) (*coordinator, *oneNodeGroup) {
	t.Helper()
	f := newFSM()
	g := &oneNodeGroup{fsm: f}
	policy := raftfsm.DefaultPolicy()
	cmds := []raftfsm.Command{{Kind: raftfsm.CmdFound, Cluster: "c1", Policy: &policy, AgentPassword: "p"}}
	for _, m := range members {
		cmds = append(cmds, raftfsm.Command{Kind: raftfsm.CmdMember, Member: &raftfsm.Member{ID: raftfsm.NodeID(m), Name: m, Address: m + ":8801", MySQLHost: m, MySQLPort: 3306}})
	}
	for _, c := range cmds {
		if _, _, err := g.Apply(t.Context(), c.Encode()); err != nil {
			t.Fatal(err)
		}
	}
	c := &coordinator{self: "a", fsm: f, raft: g, log: testLog(t), now: time.Now, kick: make(chan struct{}, 1),
		servers: func() []raftfsm.RaftServer { return nil },
		change:  func(context.Context, raftfsm.VoterChange, raftfsm.State) error { return errors.New("not in this test") },
		answers: func(context.Context, raftfsm.Member) bool { return false },
		order: func(_ context.Context, o raftfsm.Order) (raftfsm.Answer, error) {
			g.note("order %s to %s under %d", o.Op, o.To, o.Token.Index)
			return answer(o)
		}}
	return c, g
}

// leading runs the coordinator inside a bubble until the test's function ends.
func leading(t *testing.T, c *coordinator, f func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.lead(ctx) }()
	synctest.Wait()
	f()
	cancel()
	<-done
}

func up(id string, seq uint64) *raftfsm.Report {
	return &raftfsm.Report{Node: raftfsm.NodeID(id), Run: "r", Seq: seq, Mysqld: raftfsm.MysqldRunning, ServerUUID: "u" + id, SuperReadOnly: true}
}

// Founding one node: each order is given under a command that is in the log
// already, and the reign ends settled.
func TestCoordinatorRecordsThenActs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ok := func(o raftfsm.Order) (raftfsm.Answer, error) {
			return raftfsm.Answer{Token: o.Token, Op: o.Op, OK: true, ServerUUID: "ua", Running: true}, nil
		}
		c, g := newTestCoordinator(t, ok, "a")
		leading(t, c, func() {
			if _, err := c.report(t.Context(), up("a", 1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			synctest.Wait()
		})
		s := c.fsm.State()
		if s.Phase != raftfsm.PhaseSettled || s.Epoch != 1 || s.Primary != "a" || s.K != 0 {
			t.Errorf("epoch %d, phase %s, primary %s, k %d; events %q", s.Epoch, s.Phase, s.Primary, s.K, g.all())
		}
		want := []string{"commit revoke", "order seal to a under 3", "commit promote", "order promote to a under 4", "order barrier to a under 4", "commit settle"}
		i := 0
		for _, e := range g.all() {
			if i < len(want) && e == want[i] {
				i++
			}
		}
		if i < len(want) {
			t.Errorf("%q did not happen in this order: %q", want[i:], g.all())
		}
	})
}

// A lease is granted to the primary only, and only by a leader that was verified
// after the report came.
func TestCoordinatorGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, g := newTestCoordinator(t, func(raftfsm.Order) (raftfsm.Answer, error) { return raftfsm.Answer{}, errors.New("no") }, "a", "b")
		s := c.fsm.State()
		for _, cmd := range []raftfsm.Command{
			{Kind: raftfsm.CmdRevoke, On: s.Version},
			{Kind: raftfsm.CmdPromote, On: s.Version + 1, Epoch: 1, Primary: "a", PrimaryUUID: "ua"},
		} {
			if _, r, _ := g.Apply(t.Context(), cmd.Encode()); r.(raftfsm.Result).Dropped != "" {
				t.Fatal(r)
			}
		}
		if _, err := c.report(t.Context(), up("a", 1)); !errors.Is(err, errNotCoordinator) {
			t.Errorf("before leading: %v", err)
		}
		leading(t, c, func() {
			if grant, err := c.report(t.Context(), up("a", 2)); err != nil || grant.Lease != raftfsm.DefaultPolicy().Lease || grant.Epoch != 1 {
				t.Errorf("the primary got %+v, %v", grant, err)
			}
			if grant, err := c.report(t.Context(), up("b", 1)); err != nil || grant.Lease != 0 {
				t.Errorf("a replica got %+v, %v", grant, err)
			}
			g.mu.Lock()
			g.verify = errors.New("deposed")
			g.mu.Unlock()
			if grant, err := c.report(t.Context(), up("a", 3)); err == nil || grant.Lease != 0 {
				t.Errorf("from a leader that could not be verified: %+v, %v", grant, err)
			}
		})
	})
}

// An unverified leader gives no orders.
func TestCoordinatorProvesLeadershipBeforeOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, g := newTestCoordinator(t, func(raftfsm.Order) (raftfsm.Answer, error) { return raftfsm.Answer{}, errors.New("lost") }, "a")
		s := c.fsm.State()
		if _, r, _ := g.Apply(t.Context(), raftfsm.Command{Kind: raftfsm.CmdRevoke, On: s.Version}.Encode()); r.(raftfsm.Result).Dropped != "" {
			t.Fatal(r)
		}
		leading(t, c, func() {
			time.Sleep(2 * time.Second) // orders are lost and given again
			before := len(g.all())
			g.mu.Lock()
			g.verify = errors.New("deposed")
			g.mu.Unlock()
			time.Sleep(time.Second)
			mid := len(g.all())
			time.Sleep(20 * time.Second)
			synctest.Wait()
			if after := g.all(); len(after) != mid || before < 2 {
				t.Errorf("orders of an unverified leader: %q", after[mid:])
			}
		})
	})
}

// A dead member's name is taken over; a live one's is refused, and that of a
// node on which something rests has to wait.
func TestCoordinatorTakesOverNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newTestCoordinator(t, func(raftfsm.Order) (raftfsm.Answer, error) { return raftfsm.Answer{}, errors.New("no") }, "a", "b")
		alive := true
		c.answers = func(context.Context, raftfsm.Member) bool { return alive }
		req := api.JoinRequest{Member: raftfsm.Member{ID: "b2", Name: "b", Address: "b:8801"}}
		leading(t, c, func() {
			if r := c.join(t.Context(), req); !r.Refused || r.Code != "HA-NAME-TAKEN" {
				t.Errorf("alive: %+v", r)
			}
			alive = false
			if r := c.join(t.Context(), req); r.OK || r.Refused {
				t.Errorf("just leading, nothing is known yet: %+v", r)
			}
			time.Sleep(3 * time.Second)
			if r := c.join(t.Context(), req); r.OK || r.Refused {
				t.Errorf("first the dead one is forgotten: %+v", r)
			}
			if r := c.join(t.Context(), req); !r.OK {
				t.Errorf("then it joins: %+v", r)
			}
			if r := c.join(t.Context(), api.JoinRequest{Cluster: "c2", Member: raftfsm.Member{ID: "x", Name: "x"}}); !r.Refused || r.Code != "HA-OTHER-CLUSTER" {
				t.Errorf("of another cluster: %+v", r)
			}
		})
		if s := c.fsm.State(); len(s.Members) != 2 {
			t.Errorf("members %+v", s.Members)
		}
	})
}
