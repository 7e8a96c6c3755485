package agent

import (
	"testing"
	"time"

	"ha/raftfsm"
)

func boardState() raftfsm.State {
	s := raftfsm.State{Cluster: "c", Policy: raftfsm.DefaultPolicy(), Epoch: 3, Primary: "a", PrimaryUUID: "ua", Phase: raftfsm.PhaseSettled, PhaseIndex: 9, AuthIndex: 9, K: 1}
	for _, id := range []raftfsm.NodeID{"a", "b", "c"} {
		s.Members = append(s.Members, raftfsm.Member{ID: id, Name: string(id), ServerUUID: "u" + string(id)})
	}
	s.Ackers = []raftfsm.Acker{{Node: "b", ServerUUID: "ub"}}
	return s
}

func replicaReport(id raftfsm.NodeID, seq uint64) *raftfsm.Report {
	return &raftfsm.Report{Node: id, Run: "r", Seq: seq, Mysqld: raftfsm.MysqldRunning, ServerUUID: "u" + string(id),
		Replica: &raftfsm.ReplicaReport{IORunning: true, SQLRunning: true, SourceUUID: "ua"}}
}

// A coordinator that was paused must not take its pause for others' silence.
func TestBoardLeavesOutItsOwnPauses(t *testing.T) {
	start := time.Unix(1000, 0)
	b := newBoard("a", start)
	b.reported(replicaReport("b", 1))
	b.tick(start.Add(time.Minute)) // one look after a minute: we slept
	s := boardState()
	v := b.view(&s, nil)
	if age := v.Node("b").Age; age > maxStep {
		t.Errorf("after a pause of ours the report is %v old, want at most %v", age, maxStep)
	}
	for i := range 20 { // awake: time counts
		b.tick(start.Add(time.Minute + time.Duration(i+1)*100*time.Millisecond))
	}
	v = b.view(&s, nil)
	if age := v.Node("b").Age; age < 2*time.Second {
		t.Errorf("awake for 2 s, the report is only %v old", age)
	}
}

func TestBoardDropsOvertakenReports(t *testing.T) {
	b := newBoard("a", time.Unix(0, 0))
	b.reported(replicaReport("b", 5))
	old := replicaReport("b", 4)
	old.Mysqld = raftfsm.MysqldDown
	b.reported(old)
	s := boardState()
	if v := b.view(&s, nil); v.Node("b").Report.Seq != 5 {
		t.Errorf("report %d replaced 5", v.Node("b").Report.Seq)
	}
	again := replicaReport("b", 1) // the agent was started again: another run
	again.Run = "s"
	b.reported(again)
	if v := b.view(&s, nil); v.Node("b").Report.Run != "s" {
		t.Error("the first report of a new run was dropped")
	}
}

func TestBoardCountsDetachment(t *testing.T) {
	now := time.Unix(0, 0)
	b := newBoard("a", now)
	s := boardState()
	primary := &raftfsm.Report{Node: "a", Run: "r", Seq: 1, Mysqld: raftfsm.MysqldRunning, Attached: []string{"ub", "uc"}}
	seq := uint64(1)
	pass := func(d time.Duration) raftfsm.View {
		for range int(d / (100 * time.Millisecond)) {
			now = now.Add(100 * time.Millisecond)
			seq++
			p := *primary
			p.Seq = seq
			b.tick(now)
			b.reported(&p)
			b.reported(replicaReport("b", seq))
			b.reported(replicaReport("c", seq))
		}
		return b.view(&s, nil)
	}
	if v := pass(5 * time.Second); v.Node("b").Detached != 0 {
		t.Errorf("attached, yet detached for %v", v.Node("b").Detached)
	}
	// c enters after 5 s: what was before does not count against it.
	s.Ackers = append(s.Ackers, raftfsm.Acker{Node: "c", ServerUUID: "uc"})
	primary.Attached = []string{"ub"}
	if v := b.view(&s, nil); v.Node("c").Detached != 0 {
		t.Errorf("just entered, detached for %v", v.Node("c").Detached)
	}
	if v := pass(time.Second); v.Node("c").Detached != time.Second || v.Node("b").Detached != 0 {
		t.Errorf("detached: b %v, c %v; want 0, 1s", v.Node("b").Detached, v.Node("c").Detached)
	}
	// A new phase starts to count anew.
	s.Epoch, s.PhaseIndex = 4, 20
	if v := b.view(&s, nil); v.Node("c").Detached != 0 || v.PhaseAge != 0 {
		t.Errorf("new phase: detached %v, age %v", v.Node("c").Detached, v.PhaseAge)
	}
}

func TestBoardOrders(t *testing.T) {
	now := time.Unix(0, 0)
	b := newBoard("a", now)
	s := boardState()
	o := raftfsm.Order{To: "b", Op: raftfsm.OpFollow, Token: raftfsm.Token{Epoch: 3, Index: 9, Step: 1}}
	b.sent(o, 200*time.Millisecond)
	look := func() raftfsm.OrderView { v := b.view(&s, nil); return v.Node("b").Orders[0] }
	if ov := look(); !ov.Flight || ov.Failed != 0 {
		t.Errorf("sent: %+v", ov)
	}
	now = now.Add(250 * time.Millisecond)
	b.tick(now)
	if ov := look(); ov.Flight || ov.Failed != 1 {
		t.Errorf("its deadline is over: flight %v failed %d, want lost once", ov.Flight, ov.Failed)
	}
	b.answered(o, raftfsm.Answer{Code: raftfsm.CodeFailed})
	again := o
	again.Token.Step = 2
	b.sent(again, time.Second)
	b.answered(o, raftfsm.Answer{OK: true}) // late, of the order before: not the answer to this one
	if ov := look(); ov.Answer != nil || ov.Failed != 1 {
		t.Errorf("sent again: %+v", ov)
	}
	b.answered(again, raftfsm.Answer{OK: true})
	if ov := look(); !ov.Answer.OK || ov.Failed != 0 || ov.Flight {
		t.Errorf("answered: %+v", ov)
	}
}
