package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"ha/raftfsm"
)

// takenOver is a node whose agent takes its mysqld over in a while.
type takenOver struct {
	nodeSide
	at     time.Time
	report raftfsm.Report
}

func (n takenOver) Report() raftfsm.Report {
	r := n.report
	if r.Mysqld == "" {
		if r.Mysqld = raftfsm.MysqldStarting; !time.Now().Before(n.at) {
			r.Mysqld = raftfsm.MysqldRunning
		}
	}
	return r
}

// An agent that has just been started ends the sessions of the one before it, and so would
// those of a copy: a backup begun then failed (TestArchive saw it).
func TestNoCopyBeforeMysqldIsTakenOver(t *testing.T) {
	for name, tc := range map[string]struct {
		in     time.Duration
		report raftfsm.Report
		waits  time.Duration
		says   string
	}{
		"long ago":      {},
		"in a moment":   {in: time.Second, waits: time.Second},
		"too late":      {in: time.Minute, waits: takeOverTime, says: "its mysqld is starting"},
		"mysqld down":   {report: raftfsm.Report{Mysqld: raftfsm.MysqldDown}, waits: takeOverTime, says: "its mysqld is down"},
		"being rebuilt": {in: time.Minute, report: raftfsm.Report{Rebuild: &raftfsm.RebuildReport{Phase: "copy"}}, says: "it is being rebuilt"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var n nodeSide = takenOver{at: began.Add(tc.in), report: tc.report}
				a := &Agent{}
				a.node.Store(&n)
				says := a.noCopying()
				if took := time.Since(began); says != tc.says || took < tc.waits || took > tc.waits+50*time.Millisecond {
					t.Errorf("%q after %s", says, took)
				}
			})
		})
	}
}
