package agent

import (
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
)

// Each refusal of a rebuild has its word, a reason and its exit code, and nothing is
// recorded.
func TestRebuildRefused(t *testing.T) {
	const big = 100 << 30
	only := []string{"a", "b"}
	all := []string{"a", "b", "c", "w"}
	for name, tc := range map[string]struct {
		members []string
		change  func(r map[raftfsm.NodeID]*raftfsm.Report)
		ask     api.AskRebuild
		exit    int
		word    string
		text    string
	}{
		"the primary":        {all, nil, api.AskRebuild{Node: "a"}, api.ExitRefused, raftfsm.CodeIsPrimary, "ha switchover"},
		"a witness":          {all, nil, api.AskRebuild{Node: "w"}, api.ExitRefused, raftfsm.CodeNotDataNode, "no data"},
		"the last acker":     {only, nil, api.AskRebuild{Node: "b"}, api.ExitRefused, raftfsm.CodeNeeded, "commits would wait"},
		"from a diverged":    {all, errantRow, api.AskRebuild{Node: "b", From: "c"}, api.ExitRefused, raftfsm.CodeErrant, "that the primary lacks: " + uuidOf("c") + ":1"},
		"in place, diverged": {all, errantRow, api.AskRebuild{Node: "c", Copying: raftfsm.Copying{InPlace: true}}, api.ExitRefused, raftfsm.CodeErrant, "--in-place would remove them"},
		"the only good copy": {only, func(r map[raftfsm.NodeID]*raftfsm.Report) { r["b"].Replica.AckWanted = false },
			api.AskRebuild{Node: "b", Copying: raftfsm.Copying{InPlace: true}}, api.ExitRefused, raftfsm.CodeNeeded, "b"},
		"no space": {all, func(r map[raftfsm.NodeID]*raftfsm.Report) {
			for _, one := range r {
				one.DataSize, one.DiskFree = big, big/2
			}
		}, api.AskRebuild{Node: "b"}, api.ExitRefused, raftfsm.CodeNoSpace, "make room, or have its old data removed first"},
		"a full disk": {all, func(r map[raftfsm.NodeID]*raftfsm.Report) {
			r["a"].DataSize, r["c"].DataSize, r["b"].DiskFree = big, big, 1
		},
			api.AskRebuild{Node: "b"}, api.ExitRefused, raftfsm.CodeNoSpace, "b has 0 MB free"},
		"another series": {all, func(r map[raftfsm.NodeID]*raftfsm.Report) { r["b"].Version = "8.4.6" },
			api.AskRebuild{Node: "b"}, api.ExitRefused, raftfsm.CodeVersion, "CLONE needs the same series"},
		"no place": {all, func(r map[raftfsm.NodeID]*raftfsm.Report) { r["b"].NoCopy = "a mount point" },
			api.AskRebuild{Node: "b"}, api.ExitRefused, raftfsm.CodePlace, "a mount point"},
		"no plugin": {all, func(r map[raftfsm.NodeID]*raftfsm.Report) {
			r["b"].Engines = []raftfsm.EngineReport{{Engine: raftfsm.EngineClone, No: "no plugin"}}
		}, api.AskRebuild{Node: "b"}, api.ExitRefused, raftfsm.CodeNoEngine, "b cannot copy with clone: no plugin"},
		"none is fit": {all, func(r map[raftfsm.NodeID]*raftfsm.Report) {
			r["a"].Version, r["c"].Executed = "8.4.6", gtid.Set{}
		}, api.AskRebuild{Node: "b"}, api.ExitRefused, raftfsm.CodeNoCandidate, "c has not applied all that the primary began with"},
	} {
		t.Run(name, func(t *testing.T) {
			settledCluster(t, func(t *testing.T, c *coordinator, srv *fakeServers) {
				policy := raftfsm.DefaultPolicy()
				if policy.RebuildDiverged = false; len(tc.members) > len(only) {
					policy.Acks = 0 // nobody is needed
				}
				srv.commit(t, raftfsm.Command{Kind: raftfsm.CmdPolicy, Policy: &policy})
				time.Sleep(2 * time.Second)
				if tc.change != nil {
					srv.mu.Lock()
					tc.change(srv.reports)
					srv.mu.Unlock()
					time.Sleep(time.Second)
				}
				_, err := c.askRebuild(t.Context(), tc.ask)
				wantCode(t, err, tc.exit, tc.word)
				if err != nil && !strings.Contains(err.Error(), tc.text) {
					t.Errorf("%q is not in %q", tc.text, err)
				}
				if s := c.fsm.State(); len(s.Wishes)+len(s.Rebuilds) > 0 {
					t.Errorf("recorded: %+v, %+v", s.Wishes, s.Rebuilds)
				}
			}, tc.members...)
		})
	}
}

// errantRow gives c a row that nobody else has.
func errantRow(r map[raftfsm.NodeID]*raftfsm.Report) {
	r["c"].Executed = r["c"].Executed.Union(gtid.MustParse(uuidOf("c") + ":1"))
}

// A rebuild is done when its node acknowledges or follows, and has failed where it does
// not; what the node has then is said.
func TestHowARebuildEnded(t *testing.T) {
	at := time.UnixMilli(1_800_000_000_000)
	good := raftfsm.ReplicaReport{IORunning: true, SQLRunning: true}
	for name, tc := range map[string]struct {
		rebuilt raftfsm.Rebuilt
		replica *raftfsm.ReplicaReport
		down    bool
		after   time.Duration
		phase   string
		ok      bool
		text    string // in what it says of its end
	}{
		"at once":        {raftfsm.Rebuilt{OK: true}, &good, false, time.Second, api.PhaseFollowing, false, ""},
		"follows":        {raftfsm.Rebuilt{OK: true}, &good, false, 2 * backBound, api.PhaseDone, true, ""},
		"far behind":     {raftfsm.Rebuilt{OK: true}, &raftfsm.ReplicaReport{IORunning: true, SQLRunning: true, Lag: time.Hour}, false, 2 * backBound, api.PhaseFollowing, false, ""},
		"for long":       {raftfsm.Rebuilt{OK: true}, &raftfsm.ReplicaReport{IORunning: true, SQLRunning: true, Lag: time.Hour}, false, 2 * followBound, api.PhaseDone, true, ""},
		"cannot connect": {raftfsm.Rebuilt{OK: true}, &raftfsm.ReplicaReport{IOError: "1236 purged", SQLRunning: true}, false, 2 * backBound, api.PhaseDone, false, "does not follow: 1236 purged the copy is in place"},
		"cannot apply":   {raftfsm.Rebuilt{OK: true}, &raftfsm.ReplicaReport{IORunning: true, SQLError: "1062 dup"}, false, 2 * backBound, api.PhaseDone, false, "does not follow: 1062 dup"},
		"no channel":     {raftfsm.Rebuilt{OK: true}, nil, false, 2 * backBound, api.PhaseDone, false, "does not replicate"},
		"mysqld is down": {raftfsm.Rebuilt{OK: true}, &good, true, 2 * backBound, api.PhaseDone, false, "its mysqld does not run"},
		"history":        {raftfsm.Rebuilt{OK: true}, nil, true, 2 * followBound, api.PhaseDone, true, ""},
		"failed":         {raftfsm.Rebuilt{Err: "no room"}, &good, false, 0, api.PhaseDone, false, "no room it has its old data"},
		"in place":       {raftfsm.Rebuilt{Err: "no way", InPlace: true}, &good, false, 0, api.PhaseDone, false, "no way its old data may be gone"},
		"canceled":       {raftfsm.Rebuilt{Canceled: true, Err: "by me"}, &good, false, 0, api.PhaseDone, false, "by me it has its old data"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.rebuilt.Recipient, tc.rebuilt.At = "b", at.UnixMilli()
			s := raftfsm.State{Members: []raftfsm.Member{{ID: "a", Name: "a"}, {ID: "b", Name: "b"}}, Policy: raftfsm.DefaultPolicy(), Primary: "a", Rebuilt: []raftfsm.Rebuilt{tc.rebuilt}}
			r := &raftfsm.Report{Mysqld: raftfsm.MysqldRunning, Replica: tc.replica}
			if tc.down {
				r.Mysqld = raftfsm.MysqldDown
			}
			v := raftfsm.View{Nodes: []raftfsm.NodeView{{ID: "b", Report: r}}}
			st := rebuildsOf(&s, &v, "", "a", at.Add(tc.after)).Rebuilds[0]
			if st.Phase != tc.phase || st.OK != tc.ok || st.Done != (tc.phase == api.PhaseDone) || !strings.Contains(st.Err+" "+st.Holds, tc.text) {
				t.Errorf("%+v", st)
			}
		})
	}
}
