package raftfsm

import (
	"testing"
	"time"
)

func boardState() State {
	s := State{Cluster: "c", Policy: DefaultPolicy(), Epoch: 3, Primary: "a", PrimaryUUID: "ua", Phase: PhaseSettled, PhaseIndex: 9, AuthIndex: 9, K: 1}
	for _, id := range []NodeID{"a", "b", "c"} {
		s.Members = append(s.Members, Member{ID: id, Name: string(id), ServerUUID: "u" + string(id)})
	}
	s.Ackers = []Acker{{Node: "b", ServerUUID: "ub"}}
	return s
}

func replicaReport(id NodeID, seq uint64) *Report {
	return &Report{Node: id, Run: "r", Seq: seq, Mysqld: MysqldRunning, ServerUUID: "u" + string(id),
		Replica: &ReplicaReport{IORunning: true, SQLRunning: true, SourceUUID: "ua"}}
}

// A coordinator that was paused must not take its pause for others' silence.
func TestBoardLeavesOutItsOwnPauses(t *testing.T) {
	b := NewBoard("a", 0)
	b.Reported(replicaReport("b", 1))
	b.Tick(time.Minute) // one look after a minute: we slept
	s := boardState()
	v := b.View(&s, nil)
	if age := v.Node("b").Age; age > maxStep {
		t.Errorf("after a pause of ours the report is %v old, want at most %v", age, maxStep)
	}
	for i := range 20 { // awake: time counts
		b.Tick(time.Minute + time.Duration(i+1)*100*time.Millisecond)
	}
	v = b.View(&s, nil)
	if age := v.Node("b").Age; age < 2*time.Second {
		t.Errorf("awake for 2 s, the report is only %v old", age)
	}
}

func TestBoardDropsOvertakenReports(t *testing.T) {
	b := NewBoard("a", 0)
	b.Reported(replicaReport("b", 5))
	old := replicaReport("b", 4)
	old.Mysqld = MysqldDown
	b.Reported(old)
	s := boardState()
	if v := b.View(&s, nil); v.Node("b").Report.Seq != 5 {
		t.Errorf("report %d replaced 5", v.Node("b").Report.Seq)
	}
	again := replicaReport("b", 1) // the agent was started again: another run
	again.Run = "s"
	b.Reported(again)
	if v := b.View(&s, nil); v.Node("b").Report.Run != "s" {
		t.Error("the first report of a new run was dropped")
	}
}

func TestBoardCountsDetachment(t *testing.T) {
	var now time.Duration
	b := NewBoard("a", now)
	s := boardState()
	primary := &Report{Node: "a", Run: "r", Seq: 1, Mysqld: MysqldRunning, Attached: []string{"ub", "uc"}}
	seq := uint64(1)
	pass := func(d time.Duration) View {
		for range int(d / (100 * time.Millisecond)) {
			now += 100 * time.Millisecond
			seq++
			p := *primary
			p.Seq = seq
			b.Tick(now)
			b.Reported(&p)
			b.Reported(replicaReport("b", seq))
			b.Reported(replicaReport("c", seq))
		}
		return b.View(&s, nil)
	}
	if v := pass(5 * time.Second); v.Node("b").Detached != 0 {
		t.Errorf("attached, yet detached for %v", v.Node("b").Detached)
	}
	// c enters after 5 s: what was before does not count against it.
	s.Ackers = append(s.Ackers, Acker{Node: "c", ServerUUID: "uc"})
	primary.Attached = []string{"ub"}
	if v := b.View(&s, nil); v.Node("c").Detached != 0 {
		t.Errorf("just entered, detached for %v", v.Node("c").Detached)
	}
	if v := pass(time.Second); v.Node("c").Detached != time.Second || v.Node("b").Detached != 0 {
		t.Errorf("detached: b %v, c %v; want 0, 1s", v.Node("b").Detached, v.Node("c").Detached)
	}
	// A new phase starts to count anew.
	s.Epoch, s.PhaseIndex = 4, 20
	if v := b.View(&s, nil); v.Node("c").Detached != 0 || v.PhaseAge != 0 {
		t.Errorf("new phase: detached %v, age %v", v.Node("c").Detached, v.PhaseAge)
	}
}

func TestBoardOrders(t *testing.T) {
	b := NewBoard("a", 0)
	s := boardState()
	o := Order{To: "b", Op: OpFollow, Token: Token{Epoch: 3, Index: 9, Step: 1}}
	b.Sent(o)
	look := func() OrderView { v := b.View(&s, nil); return v.Node("b").Orders[0] }
	if ov := look(); !ov.Flight || ov.Failed != 0 {
		t.Errorf("sent: %+v", ov)
	}
	for now := time.Duration(0); now <= OrderBound(OpFollow); now += 100 * time.Millisecond {
		b.Tick(now)
	}
	if ov := look(); ov.Flight || ov.Failed != 1 {
		t.Errorf("its deadline is over: flight %v failed %d, want lost once", ov.Flight, ov.Failed)
	}
	b.Answered(o, Answer{Code: CodeFailed})
	again := o
	again.Token.Step = 2
	b.Sent(again)
	b.Answered(o, Answer{OK: true}) // late, of the order before: not the answer to this one
	if ov := look(); ov.Answer != nil || ov.Failed != 1 {
		t.Errorf("sent again: %+v", ov)
	}
	b.Answered(again, Answer{OK: true})
	if ov := look(); !ov.Answer.OK || ov.Failed != 0 || ov.Flight {
		t.Errorf("answered: %+v", ov)
	}
}

// The answer to follow was lost. When a newer order was carried out, the agent has
// ended that: nothing waits a minute for it.
func TestBoardLostAnswer(t *testing.T) {
	b := NewBoard("a", 0)
	follow := Order{To: "c", Op: OpFollow, Token: Token{3, 10, 1}}
	exclude := Order{To: "c", Op: OpExclude, Token: Token{3, 11, 1}}
	s := boardState()
	flies := func(want bool) {
		t.Helper()
		v := b.View(&s, nil)
		if o := v.Node("c").last(OpFollow); o == nil || o.Flight != want || o.Answer != nil {
			t.Errorf("%+v, want in flight: %v", o, want)
		}
	}
	b.Sent(follow)
	b.Sent(exclude)
	b.Tick(time.Second)
	b.Answered(exclude, Answer{Code: CodeBusy}) // it waited for the other one
	flies(true)
	b.Sent(exclude)
	b.Answered(exclude, Answer{OK: true})
	flies(false)
}

// An agent that was started anew answers nothing that its predecessor was told.
func TestBoardNewRunEndsOrders(t *testing.T) {
	b := NewBoard("a", 0)
	follow := Order{To: "c", Op: OpFollow, Token: Token{3, 10, 1}}
	s := boardState()
	flies := func(what string, want bool) {
		t.Helper()
		v := b.View(&s, nil)
		if o := v.Node("c").last(OpFollow); o == nil || o.Flight != want || o.Answer != nil {
			t.Errorf("%s: %+v, want in flight: %v", what, o, want)
		}
	}
	b.Reported(&Report{Node: "c", Run: "1", Seq: 1})
	b.Sent(follow)
	b.Tick(50 * time.Millisecond)
	b.Reported(&Report{Node: "c", Run: "1", Seq: 2})
	flies("the same run", true)
	b.Reported(&Report{Node: "c", Run: "2", Seq: 1})
	flies("another one", false)
	b.Sent(follow)
	b.Reported(&Report{Node: "c", Run: "2", Seq: 2})
	flies("told to that", true)
}

// A phase that a new coordinator finds is as old as its lead, not younger: it did
// not see it begin.
func TestBoardFindsAPhase(t *testing.T) {
	b := NewBoard("a", 0)
	b.Tick(100 * time.Millisecond)
	s := boardState()
	if v := b.View(&s, nil); v.PhaseAge != v.Leading {
		t.Errorf("found: %v old, leading for %v", v.PhaseAge, v.Leading)
	}
	b.Tick(200 * time.Millisecond)
	s.PhaseIndex++
	if v := b.View(&s, nil); v.PhaseAge != 0 {
		t.Errorf("just begun: %v old", v.PhaseAge)
	}
}

// An acker whose disk is full, or to which there is no way, stays in the primary's
// list; what it says itself is believed where commits wait.
func TestAckerThatHearsNothingIsNotAttached(t *testing.T) {
	for _, c := range []struct {
		waiting, silence time.Duration
		want             bool
	}{
		{0, time.Minute, true}, // nobody is hurt
		{900 * time.Millisecond, time.Minute, true},
		{time.Second, time.Second, true}, // it hears, and writes slowly
		{time.Second, 1500 * time.Millisecond, false},
	} {
		s := boardState()
		b := NewBoard("c", 0)
		r := replicaReport("b", 1)
		r.Replica.Silence = c.silence
		b.Reported(r)
		b.Reported(&Report{Node: "a", Run: "r", Seq: 1, Mysqld: MysqldRunning, ServerUUID: "ua", Attached: []string{"ub"}, Waiting: 1, WaitingFor: c.waiting})
		v := b.View(&s, nil)
		if got := IsAttached(&s, &v, s.Ackers[0]); got != c.want {
			t.Errorf("commits wait for %s, the acker heard nothing for %s: attached %v", c.waiting, c.silence, got)
		}
	}
}

// How long an applier has stood counts from the last report without an error. A server
// that is down says nothing of its applier.
func TestBoardBroken(t *testing.T) {
	b, s := NewBoard("a", 0), boardState()
	at, seq := time.Duration(0), uint64(0)
	report := func(change func(r *Report)) {
		seq++
		r := replicaReport("b", seq)
		change(r)
		for range 10 {
			at += 100 * time.Millisecond
			b.Tick(at)
		}
		b.Reported(r)
	}
	stands := func(r *Report) { r.Replica.SQLError = "1062" }
	for i, step := range []struct {
		change func(r *Report)
		want   time.Duration
	}{
		{stands, 0}, {stands, time.Second}, {func(*Report) {}, 0}, {stands, time.Second},
		{func(r *Report) { stands(r); r.Mysqld = MysqldDown }, 0}, {stands, time.Second}, {func(r *Report) { r.Replica = nil }, 0},
	} {
		report(step.change)
		v := b.View(&s, nil)
		if got := v.Node("b").Broken; got != step.want {
			t.Errorf("report %d: it has stood for %s, want %s", i, got, step.want)
		}
	}
}
