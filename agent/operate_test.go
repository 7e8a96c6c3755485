package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ha/agent/api"
	"ha/agent/wire"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
)

// fakeServers are the servers of a cluster of which a coordinator under test sees
// reports: they do at once what they are ordered, as far as reports show it.
type fakeServers struct {
	c *coordinator
	g *oneNodeGroup

	turn    sync.Mutex // one round of reports at a time
	mu      sync.Mutex
	reports map[raftfsm.NodeID]*raftfsm.Report
	silent  map[raftfsm.NodeID]bool
	alone   map[raftfsm.NodeID]bool // mysqld of a silent node goes on
	refuse  map[raftfsm.Op]raftfsm.Answer
	hold    map[raftfsm.Op]bool // no answer comes
}

func uuidOf(id raftfsm.NodeID) string {
	return strings.Repeat(fmt.Sprint(int(id[0]-'a')+1), 8) + "-1111-1111-1111-111111111111"
}

// settledCluster runs f while the coordinator of settled members leads; the first
// is the primary, "w" is a witness. The coordinator is none of the servers that die.
func settledCluster(t *testing.T, f func(t *testing.T, c *coordinator, srv *fakeServers), members ...string) {
	synctest.Test(t, func(t *testing.T) {
		srv := &fakeServers{reports: map[raftfsm.NodeID]*raftfsm.Report{}, silent: map[raftfsm.NodeID]bool{}, alone: map[raftfsm.NodeID]bool{},
			refuse: map[raftfsm.Op]raftfsm.Answer{}, hold: map[raftfsm.Op]bool{}}
		c, g := newTestCoordinator(t, srv.answer, members...)
		srv.c, srv.g, c.self = c, g, raftfsm.NodeID(members[len(members)-1])
		c.servers = func() []raftfsm.RaftServer {
			var out []raftfsm.RaftServer
			s := c.fsm.State()
			for _, m := range s.Members {
				out = append(out, raftfsm.RaftServer{ID: m.ID, Voter: true})
			}
			return out
		}
		srv.prepare(t, members)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() {
			for ctx.Err() == nil {
				srv.report(ctx)
				_ = pause(ctx, 200*time.Millisecond)
			}
		})
		leading(t, c, func() {
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if s := c.fsm.State(); s.Phase != raftfsm.PhaseSettled || s.K != 1 && len(members) > 1 || s.Epoch != 1 {
				t.Fatalf("not settled: %+v; %q", s, g.all())
			}
			f(t, c, srv)
		})
	})
}

// prepare commits the first reign as if it had come about.
func (srv *fakeServers) prepare(t *testing.T, members []string) {
	t.Helper()
	set := gtid.MustParse(uuidOf("a") + ":1-10")
	var ackers []raftfsm.Acker
	for _, m := range members {
		id := raftfsm.NodeID(m)
		member, _ := srv.state().Member(id)
		r := &raftfsm.Report{Node: id, Run: "r", Mysqld: raftfsm.MysqldRunning, ServerUUID: uuidOf(id), SuperReadOnly: true, ReadOnly: true, Executed: set, Version: "9.7.4"}
		if m == "w" {
			member.Witness, member.MySQLHost = true, ""
			r = &raftfsm.Report{Node: id, Run: "r", Mysqld: raftfsm.MysqldNone}
		}
		member.ServerUUID = r.ServerUUID
		srv.commit(t, raftfsm.Command{Kind: raftfsm.CmdMember, Member: &member})
		srv.reports[id] = r
		if m != "a" && m != "w" {
			ackers = append(ackers, raftfsm.Acker{Node: id, ServerUUID: r.ServerUUID})
			srv.follow(id, "a", true)
		}
	}
	k := min(1, len(ackers))
	srv.commit(t, raftfsm.Command{Kind: raftfsm.CmdRevoke})
	srv.commit(t, raftfsm.Command{Kind: raftfsm.CmdPromote, Epoch: 1, Primary: "a", PrimaryUUID: uuidOf("a"), Ackers: ackers, K: k, Floor: set})
	srv.commit(t, raftfsm.Command{Kind: raftfsm.CmdSettle, Epoch: 1})
	srv.open("a", k, raftfsm.Token{Epoch: 1, Index: 1, Step: 1})
}

func (srv *fakeServers) state() *raftfsm.State {
	s := srv.c.fsm.State()
	return &s
}

func (srv *fakeServers) commit(t *testing.T, cmd raftfsm.Command) {
	t.Helper()
	cmd.On = srv.state().Version
	if _, dropped, err := srv.c.apply(t.Context(), cmd); err != nil || dropped != "" {
		t.Fatal(cmd.Kind, dropped, err)
	}
}

func (srv *fakeServers) follow(id, source raftfsm.NodeID, ack bool) {
	r := srv.reports[id]
	m, _ := srv.state().Member(source)
	r.SuperReadOnly, r.ReadOnly, r.SourceOn, r.WaitFor = true, true, false, 0
	r.Replica = &raftfsm.ReplicaReport{SourceHost: m.MySQLHost, SourcePort: m.MySQLPort, SourceUUID: uuidOf(source),
		IORunning: true, IOWanted: true, SQLRunning: true, Ack: ack, AckWanted: ack}
}

func (srv *fakeServers) open(id raftfsm.NodeID, k int, token raftfsm.Token) {
	r := srv.reports[id]
	r.SuperReadOnly, r.ReadOnly, r.SourceOn, r.WaitFor, r.Replica, r.Token, r.LeaseEpoch = false, false, k > 0, k, nil, token, token.Epoch
}

// report lets every server that is not silent report once, the first one last.
func (srv *fakeServers) report(ctx context.Context) {
	srv.turn.Lock()
	defer srv.turn.Unlock()
	srv.mu.Lock()
	var out []*raftfsm.Report
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(srv.reports))) {
		r := srv.reports[id]
		if srv.silent[id] {
			continue
		}
		r.Seq++
		c := *r
		c.Attached, c.Dumps = nil, nil
		if r.Replica != nil {
			replica := *r.Replica
			c.Replica = &replica
		}
		for other, o := range srv.reports {
			if o.Replica != nil && o.Replica.IORunning && o.Replica.SourceUUID == r.ServerUUID && (!srv.silent[other] || srv.alone[other]) {
				c.Dumps = append(c.Dumps, o.ServerUUID)
				if o.Replica.Ack {
					c.Attached = append(c.Attached, o.ServerUUID)
				}
			}
		}
		out = append(out, &c)
	}
	srv.mu.Unlock()
	for _, r := range out {
		_, _ = srv.c.report(ctx, r)
	}
}

func (srv *fakeServers) answer(o raftfsm.Order) (raftfsm.Answer, error) {
	defer func() { go srv.report(context.Background()) }()
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.silent[o.To] || srv.hold[o.Op] {
		return raftfsm.Answer{}, errors.New("no answer")
	}
	r := srv.reports[o.To]
	r.Token = o.Token
	a := raftfsm.Answer{Token: o.Token, Op: o.Op, OK: true, Running: true, ServerUUID: r.ServerUUID, Executed: r.Executed}
	if no, ok := srv.refuse[o.Op]; ok {
		no.Token, no.Op = o.Token, o.Op
		return no, nil
	}
	switch o.Op {
	case raftfsm.OpSeal:
		r.SuperReadOnly, r.ReadOnly = true, true
		if r.Replica != nil {
			r.Replica.IORunning, r.Replica.IOWanted, r.Replica.Ack = false, false, false
		}
	case raftfsm.OpPromote:
		srv.open(o.To, o.K, o.Token)
	case raftfsm.OpFollow:
		srv.follow(o.To, o.Source.Node, o.Ack)
	case raftfsm.OpExclude:
		r.Replica.Ack, r.Replica.AckWanted = false, false
	case raftfsm.OpSetAcks:
		r.SourceOn, r.WaitFor = o.K > 0, o.K
	}
	return a, nil
}

// end waits for the outcome of what was begun.
func end(t *testing.T, c *coordinator, b api.Begun) api.Outcome {
	t.Helper()
	var o api.Outcome
	for range 600 {
		s := c.fsm.State()
		if o = outcome(&s, b.Index, b.Target, ""); o.Done {
			return o
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("no outcome: %+v", o)
	return o
}

func wantCode(t *testing.T, err error, exit int, word string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != exit || e.Word != word {
		t.Errorf("%v, want exit code %d %s", err, exit, word)
	}
}

func TestSwitchoverThereAndBack(t *testing.T) {
	settledCluster(t, func(t *testing.T, c *coordinator, _ *fakeServers) {
		plan, err := c.ask(t.Context(), raftfsm.RequestSwitchover, api.Ask{DryRun: true})
		if err != nil || plan.Index != 0 || plan.Name != "b" || len(plan.Plan) < 4 || c.fsm.State().Request != nil {
			t.Fatalf("dry run: %+v %v", plan, err)
		}
		for _, to := range []string{"b", "a", "b"} {
			b, err := c.ask(t.Context(), raftfsm.RequestSwitchover, api.Ask{Node: to, Timeout: 10 * time.Second})
			if err != nil || b.Index == 0 || b.Name != to {
				t.Fatalf("%+v %v", b, err)
			}
			if o := end(t, c, b); !o.OK || o.Primary != to || o.Text != fmt.Sprintf("%s is the primary of epoch %d", to, o.Epoch) {
				t.Fatalf("to %s: %+v", to, o)
			}
		}
		b, err := c.ask(t.Context(), raftfsm.RequestSwitchover, api.Ask{Node: "b"})
		if err != nil || !b.Already || b.Index != 0 {
			t.Errorf("again: %+v %v", b, err)
		}
		for _, e := range c.fsm.State().Events {
			if e.At == 0 && e.Epoch > 0 {
				t.Errorf("no time: %+v", e)
			}
		}
	}, "a", "b", "c")
}

// Whoever lost the answer asks again, and is told of the same request, under way
// or done.
func TestAnswerLost(t *testing.T) {
	settledCluster(t, func(t *testing.T, c *coordinator, srv *fakeServers) {
		plan, err := c.ask(t.Context(), raftfsm.RequestSwitchover, api.Ask{DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		ask := api.Ask{Node: plan.Name, Seen: plan.Seen, Timeout: time.Minute}
		hold := func(on bool) {
			srv.mu.Lock()
			defer srv.mu.Unlock()
			srv.hold[raftfsm.OpReady] = on
		}
		hold(true) // it takes no time else, and may be done before the next question
		first, err := c.ask(t.Context(), raftfsm.RequestSwitchover, ask)
		if err != nil {
			t.Fatal(err)
		}
		second, err := c.ask(t.Context(), raftfsm.RequestSwitchover, ask)
		if err != nil || second.Index != first.Index {
			t.Errorf("under way: %+v %v", second, err)
		}
		if _, err := c.ask(t.Context(), raftfsm.RequestSwitchover, api.Ask{Node: "c", Seen: plan.Seen}); api.ExitCode(err) != api.ExitBusy {
			t.Errorf("another one meanwhile: %v", err)
		}
		hold(false)
		end(t, c, first)
		third, err := c.ask(t.Context(), raftfsm.RequestSwitchover, ask)
		if err != nil || third.Index != first.Index {
			t.Errorf("done: %+v %v", third, err)
		}
	}, "a", "b", "c")
}

func TestSwitchoverRefused(t *testing.T) {
	settledCluster(t, func(t *testing.T, c *coordinator, srv *fakeServers) {
		ask := func(in api.Ask) error {
			_, err := c.ask(t.Context(), raftfsm.RequestSwitchover, in)
			return err
		}
		wantCode(t, ask(api.Ask{Node: "bb"}), api.ExitUsage, "")
		wantCode(t, ask(api.Ask{Node: "w"}), api.ExitRefused, raftfsm.CodeNotDataNode)
		time.Sleep(reignBegins)
		policy := raftfsm.DefaultPolicy()
		policy.RebuildDiverged = false
		srv.commit(t, raftfsm.Command{Kind: raftfsm.CmdPolicy, Policy: &policy})
		srv.mu.Lock()
		srv.reports["b"].Executed = srv.reports["b"].Executed.Union(gtid.MustParse(uuidOf("b") + ":1"))
		srv.reports["c"].Replica.Lag = time.Hour
		srv.mu.Unlock()
		time.Sleep(time.Second)
		wantCode(t, ask(api.Ask{Node: "b"}), api.ExitRefused, raftfsm.CodeErrant)
		wantCode(t, ask(api.Ask{Node: "c"}), api.ExitRefused, raftfsm.CodeBehind)
		wantCode(t, ask(api.Ask{}), api.ExitRefused, raftfsm.CodeNoCandidate)
		srv.g.mu.Lock()
		srv.g.verify = errors.New("deposed")
		srv.g.mu.Unlock()
		wantCode(t, ask(api.Ask{Node: "c"}), api.ExitNoQuorum, "")
	}, "a", "b", "c", "w")
}

// A primary that does not become read-only goes on, and the asker learns why.
func TestSwitchoverBlocked(t *testing.T) {
	settledCluster(t, func(t *testing.T, c *coordinator, srv *fakeServers) {
		srv.mu.Lock()
		srv.refuse[raftfsm.OpSeal] = raftfsm.Answer{Code: raftfsm.CodeBlocked, Err: "session 7 of app"}
		srv.mu.Unlock()
		b, err := c.ask(t.Context(), raftfsm.RequestSwitchover, api.Ask{Node: "b", Timeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		o := end(t, c, b)
		if o.OK || o.Exit != api.ExitBusy || o.Code != raftfsm.CodeBlocked || !strings.Contains(o.Text, "session 7 of app") || !strings.Contains(o.Next, "--end-blockers") {
			t.Errorf("%+v", o)
		}
		if s := c.fsm.State(); s.Primary != "a" || s.Epoch != 1 || s.Phase != raftfsm.PhaseSettled {
			t.Errorf("%s, epoch %d, %s", s.Primary, s.Epoch, s.Phase)
		}
	}, "a", "b", "c")
}

func TestSwitchoverNotPrepared(t *testing.T) {
	settledCluster(t, func(t *testing.T, c *coordinator, srv *fakeServers) {
		srv.mu.Lock()
		srv.hold[raftfsm.OpReady] = true
		srv.mu.Unlock()
		b, err := c.ask(t.Context(), raftfsm.RequestSwitchover, api.Ask{Node: "b", Timeout: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if o := end(t, c, b); o.OK || o.Exit != api.ExitFailed || o.Code != codeGivenUp {
			t.Errorf("%+v", o)
		}
	}, "a", "b", "c")
}

// A failover that was not allowed to lose rows is refused where the epoch cannot
// be closed; one that was waits for the lease.
func TestFailoverByHand(t *testing.T) {
	settledCluster(t, func(t *testing.T, c *coordinator, srv *fakeServers) {
		srv.commit(t, raftfsm.Command{Kind: raftfsm.CmdPolicy, Policy: paused()})
		srv.mu.Lock()
		srv.silent["a"], srv.silent["b"] = true, true
		srv.mu.Unlock()
		time.Sleep(3 * time.Second)
		_, err := c.ask(t.Context(), raftfsm.RequestFailover, api.Ask{})
		wantCode(t, err, api.ExitRefused, raftfsm.CodeCannotClose)
		if !strings.Contains(err.Error(), "start a or b, or accept") {
			t.Errorf("names not those that are missing: %v", err)
		}
		plan, err := c.ask(t.Context(), raftfsm.RequestFailover, api.Ask{DryRun: true, AllowLoss: true})
		if err != nil || !strings.Contains(plan.Loss, "only b may have") || !strings.Contains(strings.Join(plan.Plan, "\n"), "6.5s") {
			t.Errorf("%+v %v", plan, err)
		}
		b, err := c.ask(t.Context(), raftfsm.RequestFailover, api.Ask{AllowLoss: true})
		if err != nil {
			t.Fatal(err)
		}
		o := end(t, c, b)
		if !o.OK || o.Primary != "c" || !strings.Contains(o.Text, "may be lost") || o.TookMS < 6500 {
			t.Errorf("%+v", o)
		}
	}, "a", "b", "c", "w")
	settledCluster(t, func(t *testing.T, c *coordinator, _ *fakeServers) {
		b, err := c.ask(t.Context(), raftfsm.RequestFailover, api.Ask{Node: "c"})
		if err != nil {
			t.Fatal(err)
		}
		if o := end(t, c, b); !o.OK || o.Primary != "c" {
			t.Errorf("of a living primary: %+v", o)
		}
		_, err = c.ask(t.Context(), raftfsm.RequestFailover, api.Ask{Node: "c"})
		wantCode(t, err, api.ExitRefused, raftfsm.CodeIsPrimary)
	}, "a", "b", "c")
}

func paused() *raftfsm.Policy {
	p := raftfsm.DefaultPolicy()
	p.Paused = true
	return &p
}

func TestSetPolicy(t *testing.T) {
	settledCluster(t, func(t *testing.T, c *coordinator, _ *fakeServers) {
		p, err := c.setPolicy(t.Context(), api.SetPolicy{Set: []string{"paused=true", "lease=6s", "acks=half"}})
		if err != nil || len(p.Changed) != 2 || p.Changed[0] != (api.Change{Name: "lease", From: "5s", To: "6s"}) {
			t.Errorf("%+v %v", p, err)
		}
		if p, err = c.setPolicy(t.Context(), api.SetPolicy{Set: []string{"paused=true"}}); err != nil || len(p.Changed) != 0 {
			t.Errorf("again: %+v %v", p, err)
		}
		_, err = c.setPolicy(t.Context(), api.SetPolicy{Set: []string{"lease=3s", "dead_after=4s", "acks=1"}})
		wantCode(t, err, api.ExitUsage, "")
		_, err = c.setPolicy(t.Context(), api.SetPolicy{Set: []string{"acks=x", "leese=4s"}})
		wantCode(t, err, api.ExitUsage, "")
		if err != nil && (!strings.Contains(err.Error(), "acks:") || !strings.Contains(err.Error(), "did you mean lease")) {
			t.Error(err)
		}
		if s := c.fsm.State(); !s.Policy.Paused || s.Policy.Lease != 6*time.Second || s.Policy.Acks != -1 {
			t.Errorf("%+v", s.Policy)
		}
	}, "a", "b", "c")
}

func TestRemove(t *testing.T) {
	removed := func(t *testing.T, c *coordinator, b api.Begun) bool {
		t.Helper()
		for range 200 {
			s := c.fsm.State()
			if o := removal(&s, b.Index, b.Target, ""); o.Done {
				return o.OK
			}
			time.Sleep(50 * time.Millisecond)
		}
		return false
	}
	settledCluster(t, func(t *testing.T, c *coordinator, srv *fakeServers) {
		_, err := c.remove(t.Context(), api.Ask{Node: "a"})
		wantCode(t, err, api.ExitRefused, raftfsm.CodeIsPrimary)
		b, err := c.remove(t.Context(), api.Ask{Node: "b"})
		if err != nil || !removed(t, c, b) {
			t.Fatalf("%+v %v %q", b, err, srv.g.all())
		}
		if b, err = c.remove(t.Context(), api.Ask{Node: "b"}); err != nil || !b.Already {
			t.Errorf("again: %+v %v", b, err)
		}
		b, err = c.remove(t.Context(), api.Ask{Node: "c"})
		if err != nil || !removed(t, c, b) {
			t.Errorf("the last but one: %+v %v", b, err)
		}
		_, err = c.remove(t.Context(), api.Ask{Node: "a"})
		wantCode(t, err, api.ExitRefused, raftfsm.CodeNeeded)
	}, "a", "b", "c", "w")
}

// A node that does not answer stays, unless a person says that its host is gone
// and nobody sees its server.
func TestRemoveSilent(t *testing.T) {
	settledCluster(t, func(t *testing.T, c *coordinator, srv *fakeServers) {
		srv.mu.Lock()
		srv.silent["b"] = true
		srv.mu.Unlock()
		time.Sleep(10 * time.Second)
		_, err := c.remove(t.Context(), api.Ask{Node: "b"})
		wantCode(t, err, api.ExitRefused, raftfsm.CodeSilent)
		var b api.Begun
		for range 100 {
			if b, err = c.remove(t.Context(), api.Ask{Node: "b", Gone: true}); err != nil || b.Already {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil || !b.Already {
			t.Errorf("%+v %v %q", b, err, srv.g.all())
		}
	}, "a", "b", "c", "w")
}

// The name of a silent node whose mysqld is seen to live is not given away: it may
// acknowledge, and nobody would count it any more.
func TestNameOfALivingServer(t *testing.T) {
	settledCluster(t, func(t *testing.T, c *coordinator, srv *fakeServers) {
		c.answers = func(context.Context, raftfsm.Member) bool { return false }
		srv.mu.Lock()
		srv.silent["b"] = true
		srv.mu.Unlock()
		time.Sleep(10 * time.Second) // it leaves the ack set
		srv.mu.Lock()
		srv.alone["b"] = true
		srv.mu.Unlock()
		time.Sleep(time.Second)
		req := api.JoinRequest{Member: raftfsm.Member{ID: "b2", Name: "b", Address: "b:8801"}}
		if r := c.join(t.Context(), req); r.OK || r.Refused || !strings.Contains(r.Err, "not gone") {
			t.Errorf("%+v", r)
		}
		srv.mu.Lock()
		srv.alone["b"] = false
		srv.mu.Unlock()
		time.Sleep(time.Second)
		if r := c.join(t.Context(), req); !strings.Contains(r.Err, "forgotten") {
			t.Errorf("%+v", r)
		}
	}, "a", "b", "c", "w")
}

// Without the node too few voters would be left that answer.
func TestRemoveKeepsQuorum(t *testing.T) {
	settledCluster(t, func(t *testing.T, c *coordinator, srv *fakeServers) {
		srv.mu.Lock()
		srv.silent["b"] = true
		srv.mu.Unlock()
		time.Sleep(3 * time.Second)
		_, err := c.remove(t.Context(), api.Ask{Node: "w"})
		wantCode(t, err, api.ExitRefused, raftfsm.CodeNeeded)
	}, "a", "b", "w")
}

// What a node says of itself does not make it stay, and one that was removed does
// not come back by itself.
func TestJoinAndLeaving(t *testing.T) {
	settledCluster(t, func(t *testing.T, c *coordinator, srv *fakeServers) {
		m, _ := srv.state().Member("w")
		m.Leaving = true
		cmd := raftfsm.Command{Kind: raftfsm.CmdMember, Member: &m}
		srv.mu.Lock()
		for id := range srv.reports { // nothing is decided meanwhile
			srv.silent[id] = true
		}
		srv.mu.Unlock()
		time.Sleep(2 * time.Second)
		srv.commit(t, cmd)
		self := m
		self.Leaving, self.Zone = false, "z2"
		if r := c.join(t.Context(), api.JoinRequest{Member: self, Cluster: "c1", Was: true}); !r.OK {
			t.Fatalf("%+v", r)
		}
		if m, ok := srv.state().Member("w"); !ok || !m.Leaving || m.Zone != "z2" {
			t.Errorf("%+v", m)
		}
		if r := c.join(t.Context(), api.JoinRequest{Member: raftfsm.Member{ID: "x", Name: "x"}, Cluster: "c1", Was: true}); !r.Refused || r.Code != codeRemoved {
			t.Errorf("%+v", r)
		}
	}, "a", "b", "w")
}

func TestOutcomeOfAnOldRequest(t *testing.T) {
	s := raftfsm.State{Events: []raftfsm.Event{{Index: 5, Kind: raftfsm.CmdSettle}, {Index: 9, Kind: raftfsm.CmdRequest, Text: "switchover asked for to b"}}}
	if o := outcome(&s, 3, "b", ""); !o.Done || o.OK || o.Exit != api.ExitTimeout {
		t.Errorf("forgotten: %+v", o)
	}
	if o := outcome(&s, 12, "b", "x"); o.Done || o.Doing == "x" {
		t.Errorf("not known yet: %+v", o)
	}
	if o := outcome(&s, 9, "b", "x"); o.Done || o.Doing != "x" {
		t.Errorf("under way: %+v", o)
	}
	s.Members = []raftfsm.Member{{ID: "b", Name: "b"}, {ID: "c", Name: "c"}}
	s.History = []raftfsm.Reign{{Epoch: 2, Primary: "c"}}
	s.Events = append(s.Events, raftfsm.Event{Index: 10, Kind: raftfsm.CmdPromote, Epoch: 2}, raftfsm.Event{Index: 11, Kind: raftfsm.CmdSettle, Epoch: 2})
	if o := outcome(&s, 9, "b", ""); !o.Done || o.OK || o.Code != codeOtherPrimary || !strings.Contains(o.Text, "and not b") {
		t.Errorf("another one: %+v", o)
	}
}

// Any agent answers for the coordinator, and the agent of a removed node stays up,
// says so and does not come back by itself.
func TestOperateThroughAnyAgent(t *testing.T) {
	addrs := []string{testAddr(t), testAddr(t), testAddr(t)}
	agents := []*runningAgent{mustStart(t, witness(t, "n1", addrs[0]))}
	for i := 1; i < 3; i++ {
		agents = append(agents, mustStart(t, witness(t, fmt.Sprintf("n%d", i+1), addrs[i], addrs[0])))
	}
	oneCluster(t, agents, 3)
	client := clientFor(t, agents[0].cfg.Secret)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i, addr := range addrs {
		client.Addrs = []string{addr}
		var p api.Policy
		value := []string{"true", "false", "true"}[i]
		if err := client.Post(ctx, api.PathPolicy, api.SetPolicy{Set: []string{"paused=" + value}}, &p); err != nil || len(p.Changed) != 1 {
			t.Errorf("%s: %+v %v", addr, p, err)
		}
		var e api.Events
		if _, err := client.Get(ctx, api.PathEvents+"?n=1", &e); err != nil || len(e.Events) != 1 || e.Events[0].Text != "policy: paused="+value {
			t.Errorf("%s: %+v %v", addr, e, err)
		}
		var b api.Begun
		wantCode(t, client.Post(ctx, api.PathSwitchover, api.Ask{}, &b), api.ExitBusy, raftfsm.CodeNotSettled)
		wantCode(t, client.Post(ctx, api.PathRemove, api.Ask{Node: "n7"}, &b), api.ExitUsage, "")
	}

	last := agents[2]
	var b api.Begun
	if err := client.Post(ctx, api.PathRemove, api.Ask{Node: string(last.id)}, &b); err != nil || b.Name != "n3" {
		t.Fatalf("%+v %v", b, err)
	}
	// Without a settled primary nothing is forgotten; TestRemove has that part.
	eventually(t, 20*time.Second, "n3 is forgotten", func() (bool, string) {
		for _, a := range agents[:2] {
			s := a.fsm.State()
			_, _, _ = a.coord.apply(ctx, raftfsm.Command{Kind: raftfsm.CmdRemoveMember, Node: last.id, On: s.Version})
		}
		s := agents[0].fsm.State()
		return len(s.Members) == 2, fmt.Sprint(s.Members)
	})
	wantRemoved := func(when string) {
		t.Helper()
		eventually(t, 20*time.Second, "n3 says that it was removed, "+when, func() (bool, string) {
			var st api.Status
			client.Addrs = []string{last.cfg.Listen}
			_, err := client.Get(ctx, api.PathStatus, &st)
			return err == nil && slices.ContainsFunc(st.Issues, func(i api.Issue) bool { return i.Code == codeRemoved }), fmt.Sprint(st, err)
		})
	}
	wantRemoved("while it runs")
	last.halt(t)
	last = mustStart(t, last.cfg)
	wantRemoved("after a start")
	if s := agents[0].fsm.State(); len(s.Members) != 2 {
		t.Errorf("it came back: %+v", s.Members)
	}
	eventually(t, 20*time.Second, "two servers in the Raft group", func() (bool, string) {
		return len(agents[0].raftServers()) == 2 && len(agents[1].raftServers()) == 2, fmt.Sprint(agents[0].raftServers())
	})
}

// clientFor makes a command line's client.
func clientFor(t *testing.T, secret string) *api.Client {
	t.Helper()
	id, err := wire.NewIdentity(wire.DeriveKeys(secret), clientName)
	if err != nil {
		t.Fatal(err)
	}
	return &api.Client{HTTP: wire.HTTPClient(id)}
}

// docs/DEFAULTS.md says what is so.
func TestDefaultsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/DEFAULTS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings(raftfsm.DefaultPolicy()) {
		if row := fmt.Sprintf("\n| `%s` | `%s` |", s.Name, s.Default); !strings.Contains(string(text), row) {
			t.Errorf("docs/DEFAULTS.md has no row %q", row)
		}
	}
}

// What asks for a lease only says nothing of mysqld: it may be older than what others
// have said since.
func TestGrantOnlyIsNoReport(t *testing.T) {
	a := mustStart(t, witness(t, "w1", testAddr(t)))
	oneCluster(t, []*runningAgent{a}, 1)
	known := func() string {
		_, v, ok := a.coord.look()
		if r := v.Node(a.id).Report; ok && r != nil {
			return r.AgentVersion
		}
		return ""
	}
	seq := uint64(1 << 40)
	send := func(r raftfsm.Report) string {
		seq++
		r.Node, r.Run, r.Seq = a.id, "another", seq
		if _, err := a.coord.report(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
		return known()
	}
	if got := send(raftfsm.Report{GrantOnly: true, AgentVersion: "asks"}); got == "asks" {
		t.Error("it is taken for a report")
	}
	eventually(t, 5*time.Second, "others are", func() (bool, string) { // its own come in between
		got := send(raftfsm.Report{AgentVersion: "tells"})
		return got == "tells", got
	})
}
