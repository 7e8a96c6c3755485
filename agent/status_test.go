package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
)

const (
	uuid1 = "11111111-1111-1111-1111-111111111111"
	uuid2 = "22222222-2222-2222-2222-222222222222"
	uuid3 = "33333333-3333-3333-3333-333333333333"
)

// statusOf gives a healthy cluster of three, changed by change.
func statusOf(change func(*StatusInput)) api.Status {
	member := func(id, uuid, ip string) raftfsm.Member {
		return raftfsm.Member{ID: raftfsm.NodeID(id), Name: "n" + id[1:], Address: ip + ":8801", MySQLHost: ip, MySQLPort: 3306, ServerUUID: uuid}
	}
	set := gtid.MustParse(uuid1 + ":1-10")
	replica := func(uuid string) *raftfsm.Report {
		return &raftfsm.Report{Mysqld: raftfsm.MysqldRunning, Version: "9.7.4", ServerUUID: uuid, ReadOnly: true, SuperReadOnly: true, Executed: set,
			Replica: &raftfsm.ReplicaReport{SourceHost: "10.0.0.1", SourcePort: 3306, SourceUUID: uuid1, IORunning: true, IOWanted: true, SQLRunning: true, Ack: true, AckWanted: true}}
	}
	in := StatusInput{
		Self: "a2", Leader: "a2", Quorum: true,
		State: raftfsm.State{
			Cluster: "c", Members: []raftfsm.Member{member("a1", uuid1, "10.0.0.1"), member("a2", uuid2, "10.0.0.2"), member("a3", uuid3, "10.0.0.3")},
			Policy: raftfsm.DefaultPolicy(), Epoch: 4, Primary: "a1", PrimaryUUID: uuid1, K: 1, Phase: raftfsm.PhaseSettled,
			Ackers: []raftfsm.Acker{{Node: "a2", ServerUUID: uuid2}, {Node: "a3", ServerUUID: uuid3}},
		},
		Reports: map[raftfsm.NodeID]SeenReport{
			"a1": {Report: &raftfsm.Report{Mysqld: raftfsm.MysqldRunning, ServerUUID: uuid1, Executed: set, SourceOn: true, WaitFor: 1,
				Attached: []string{uuid2, uuid3}, Dumps: []string{uuid2, uuid3}, LeaseEpoch: 4}},
			"a2": {Report: replica(uuid2)},
			"a3": {Report: replica(uuid3)},
		},
		Raft: []api.RaftServer{{ID: "a1", Voter: true}, {ID: "a2", Voter: true}, {ID: "a3", Voter: true}},
	}
	if change != nil {
		change(&in)
	}
	return BuildStatus(in)
}

// Who is copied from can give no backup, and says so.
func TestStatusOfADonor(t *testing.T) {
	st := statusOf(func(in *StatusInput) {
		in.State.Ackers = in.State.Ackers[:1]
		in.State.Rebuilds = []raftfsm.Rebuild{{Recipient: "a3", Donor: "a2"}}
	})
	for _, n := range st.Nodes {
		if want := map[string]string{"n2": "is being copied to n3"}[n.Name]; n.Doing != want {
			t.Errorf("%s: %q, want %q", n.Name, n.Doing, want)
		}
	}
}

func silence(in *StatusInput, id raftfsm.NodeID, age time.Duration) {
	in.Reports[id] = SeenReport{Report: in.Reports[id].Report, Age: age}
}

func TestStatus(t *testing.T) {
	lost := func(in *StatusInput) { // the primary's host is gone
		silence(in, "a1", 2*time.Second)
		for _, id := range []raftfsm.NodeID{"a2", "a3"} {
			in.Reports[id].Report.Replica.IORunning = false
		}
	}
	tests := []struct {
		name   string
		change func(*StatusInput)
		health api.Health
		issues []string // code words, in order
	}{
		{"healthy", nil, api.HealthOK, nil},
		{"never founded", func(in *StatusInput) { *in = StatusInput{Self: "a1"} }, api.HealthNoQuorum, []string{IssueNoQuorum}},
		{"majority silent", func(in *StatusInput) {
			in.Quorum, in.Leader = false, ""
			delete(in.Reports, "a1")
			delete(in.Reports, "a3")
		}, api.HealthNoQuorum, []string{IssueNoQuorum, IssueAgentDown, IssueNodeDown}},
		{"between two leaders", func(in *StatusInput) { in.Quorum, in.Leader = false, "" }, api.HealthNoQuorum, []string{IssueNoQuorum}},
		{"no quorum wins over degraded", func(in *StatusInput) {
			in.Quorum = false
			in.Reports["a3"].Report.Mysqld = raftfsm.MysqldDown
		}, api.HealthNoQuorum, []string{IssueNoQuorum, IssueMysqldDown}},

		{"no epoch yet", func(in *StatusInput) {
			in.State.Phase, in.State.Primary, in.State.PrimaryUUID, in.State.Ackers, in.State.K = raftfsm.PhaseNone, "", "", nil, 0
			in.Reports["a1"].Report.SuperReadOnly = true
			for _, id := range []raftfsm.NodeID{"a2", "a3"} {
				in.Reports[id].Report.Replica = nil
			}
		}, api.HealthNoPrimary, []string{IssueNoPrimary}},
		{"primary's mysqld died", func(in *StatusInput) {
			in.Reports["a1"].Report.Mysqld, in.Reports["a1"].Report.MysqldErr = raftfsm.MysqldDown, "signal: killed"
		}, api.HealthNoPrimary, []string{IssueNoPrimary, IssueMysqldDown}},
		{"epoch being closed", func(in *StatusInput) {
			in.State.Phase, in.State.Why = raftfsm.PhaseRevoke, "mysqld of n1 is gone"
			in.Reports["a1"].Report.Mysqld = raftfsm.MysqldDown
		}, api.HealthNoPrimary, []string{IssueNoPrimary, IssueMysqldDown}},
		{"epoch opened, not writable", func(in *StatusInput) {
			in.State.Phase = raftfsm.PhasePromote
			in.Reports["a1"].Report.SuperReadOnly = true
		}, api.HealthNoPrimary, []string{IssueNoPrimary}},
		{"epoch opened, writable under an older lease", func(in *StatusInput) {
			in.State.Phase = raftfsm.PhasePromote
			in.Reports["a1"].Report.LeaseEpoch = 3
		}, api.HealthNoPrimary, []string{IssueNoPrimary}},
		{"epoch opened, writable with its lease", func(in *StatusInput) { in.State.Phase = raftfsm.PhasePromote }, api.HealthDegraded, []string{IssueChanging}},
		{"primary with another server_uuid", func(in *StatusInput) { in.Reports["a1"].Report.ServerUUID = uuid3 }, api.HealthNoPrimary, []string{IssueNoPrimary}},
		{"primary's host lost", lost, api.HealthNoPrimary, []string{IssueNoPrimary, IssueNodeDown}},
		{"a switchover under way", func(in *StatusInput) {
			in.State.Request = &raftfsm.Request{Kind: raftfsm.RequestSwitchover, Target: "a2", Index: 9}
		}, api.HealthOK, []string{IssueRequest}},
		{"a node that is to leave", func(in *StatusInput) { in.State.Members[2].Leaving = true }, api.HealthOK, []string{IssueLeaving}},
		{"host lost, nobody can take over", func(in *StatusInput) { lost(in); silence(in, "a3", time.Minute) }, api.HealthNoPrimary,
			[]string{IssueNoPrimary, IssueCannotClose, IssueNodeDown, IssueNodeDown}},
		{"paused and lost", func(in *StatusInput) { lost(in); in.State.Policy.Paused = true }, api.HealthNoPrimary,
			[]string{IssueNoPrimary, IssueNodeDown, IssuePaused}},

		{"primary's agent killed", func(in *StatusInput) { silence(in, "a1", 2*time.Second) }, api.HealthDegraded, []string{IssueAgentDown}},
		{"primary's agent silent beyond its lease", func(in *StatusInput) { silence(in, "a1", 6*time.Second) }, api.HealthNoPrimary,
			[]string{IssueNoPrimary, IssueAgentDown}},
		{"replica's agent killed", func(in *StatusInput) { silence(in, "a3", 2*time.Second) }, api.HealthDegraded, []string{IssueAgentDown}},
		{"replica's host lost", func(in *StatusInput) {
			silence(in, "a3", time.Minute)
			in.Reports["a1"].Report.Attached, in.Reports["a1"].Report.Dumps = []string{uuid2}, []string{uuid2}
		}, api.HealthDegraded, []string{IssueNodeDown}},
		{"replica's mysqld down", func(in *StatusInput) { in.Reports["a3"].Report.Mysqld = raftfsm.MysqldDown }, api.HealthDegraded, []string{IssueMysqldDown}},
		{"replica's mysqld starting", func(in *StatusInput) { in.Reports["a3"].Report.Mysqld = raftfsm.MysqldStarting }, api.HealthDegraded, []string{IssueMysqldStarting}},
		{"replica's mysqld hung", func(in *StatusInput) { in.Reports["a3"].Report.Mysqld = raftfsm.MysqldHung }, api.HealthDegraded, []string{IssueMysqldHung}},
		{"replica cannot connect", func(in *StatusInput) {
			r := in.Reports["a3"].Report.Replica
			r.IORunning, r.IOError = false, "error 2003"
		}, api.HealthDegraded, []string{IssueNotReplicating}},
		{"replica cannot apply", func(in *StatusInput) {
			r := in.Reports["a3"].Report.Replica
			r.SQLRunning, r.SQLError = false, "error 1062"
		}, api.HealthDegraded, []string{IssueNotReplicating}},
		{"replica without a source", func(in *StatusInput) { in.Reports["a3"].Report.Replica = nil }, api.HealthDegraded, []string{IssueNotReplicating}},
		{"replica follows another", func(in *StatusInput) { in.Reports["a3"].Report.Replica.SourceUUID = uuid2 }, api.HealthDegraded, []string{IssueNotReplicating}},
		{"replica writable", func(in *StatusInput) {
			in.Reports["a3"].Report.ReadOnly, in.Reports["a3"].Report.SuperReadOnly = false, false
		}, api.HealthDegraded, []string{IssueWritable}},
		{"replica errant", func(in *StatusInput) {
			in.Reports["a3"].Report.Executed = gtid.MustParse(uuid1 + ":1-10," + uuid3 + ":1-2")
		}, api.HealthDegraded, []string{IssueErrant}},
		{"replica ahead of the primary's report", func(in *StatusInput) {
			in.Reports["a3"].Report.Executed = gtid.MustParse(uuid1 + ":1-12")
		}, api.HealthOK, nil},
		{"replica lags", func(in *StatusInput) { in.Reports["a3"].Report.Replica.Lag = time.Minute }, api.HealthOK, []string{IssueLag}},
		{"replica not in the ack set", func(in *StatusInput) {
			in.State.Ackers = in.State.Ackers[:1]
		}, api.HealthOK, []string{IssueNotAcking}},
		{"old data kept", func(in *StatusInput) { in.Reports["a3"].Report.OldWhy = "what they hold could not be read" }, api.HealthOK, []string{IssueOldData}},
		{"old data on a full disk", func(in *StatusInput) { in.Reports["a3"].Report.OldData, in.Reports["a3"].Report.DiskFree = 1<<20, 1 }, api.HealthOK, []string{IssueOldData}},
		{"replica rebuilt", func(in *StatusInput) {
			in.State.Ackers = in.State.Ackers[:1]
			in.State.Rebuilds = []raftfsm.Rebuild{{Recipient: "a3", Donor: "a2", Why: "errant"}}
			in.Reports["a3"].Report.Rebuild = &raftfsm.RebuildReport{Phase: "copy", Bytes: 1 << 20, Total: 4 << 20}
		}, api.HealthDegraded, []string{IssueRebuild}},

		{"no acker attached, k lowered", func(in *StatusInput) {
			in.State.K, in.Reports["a1"].Report.Attached = 0, nil
		}, api.HealthDegraded, []string{IssueAsync, IssueNotAcking, IssueNotAcking}},
		{"no acker attached, k kept", func(in *StatusInput) {
			r := in.Reports["a1"].Report
			r.Attached, r.Waiting, r.WaitingFor = nil, 3, 2*time.Second
		}, api.HealthDegraded, []string{IssueAcksShort, IssueWaiting, IssueNotAcking, IssueNotAcking}},
		{"one of two wanted acks", func(in *StatusInput) {
			in.State.Policy.Acks, in.Reports["a1"].Report.Attached = 2, []string{uuid2}
		}, api.HealthDegraded, []string{IssueAcksShort, IssueNotAcking}},
		{"a stranger acknowledges", func(in *StatusInput) {
			r := in.Reports["a1"].Report
			r.Attached = append(r.Attached, "5eebe0f2-0000-0000-0000-000000000009")
		}, api.HealthDegraded, []string{IssueStrayAcker}},
		{"async by policy", func(in *StatusInput) {
			in.State.Policy.Acks, in.State.K = 0, 0
		}, api.HealthOK, []string{IssueAsync}},

		{"paused", func(in *StatusInput) { in.State.Policy.Paused = true }, api.HealthOK, []string{IssuePaused}},
		{"a problem reported", func(in *StatusInput) {
			in.Reports["a3"].Report.Problems = []raftfsm.Problem{{Code: "HA-DISK", Text: "the disk is full"}}
		}, api.HealthOK, []string{"HA-DISK"}},
		{"a replica's full disk", func(in *StatusInput) {
			in.Reports["a3"].Report.Problems = []raftfsm.Problem{{Code: "HA-DISK-FULL", Text: "the disk is full"}}
		}, api.HealthDegraded, []string{"HA-DISK-FULL"}},
		{"an archive that stands", func(in *StatusInput) {
			in.Reports["a3"].Report.Problems = []raftfsm.Problem{{Code: "HA-ARCHIVE-GAP", Text: "it has a gap"}}
		}, api.HealthOK, []string{"HA-ARCHIVE-GAP"}},
		{"binary logs that are kept", func(in *StatusInput) {
			in.Reports["a3"].Report.Problems = []raftfsm.Problem{{Code: "HA-BINLOGS-KEPT", Text: "n2 lacks some"}}
		}, api.HealthOK, []string{"HA-BINLOGS-KEPT"}},
		{"two nodes", func(in *StatusInput) {
			in.State.Members, in.State.Ackers = in.State.Members[:2], in.State.Ackers[:1]
			in.Raft, in.Reports["a1"].Report.Attached = in.Raft[:2], []string{uuid2}
		}, api.HealthOK, []string{IssueNoWitness}},
		{"two nodes and a witness", func(in *StatusInput) {
			w := &in.State.Members[2]
			w.Witness, w.ServerUUID, w.MySQLHost = true, "", ""
			in.State.Ackers, in.Reports["a1"].Report.Attached = in.State.Ackers[:1], []string{uuid2}
			in.Reports["a3"] = SeenReport{Report: &raftfsm.Report{Mysqld: raftfsm.MysqldNone}}
		}, api.HealthOK, nil},
		{"witness down", func(in *StatusInput) {
			in.State.Members[2].Witness, in.State.Ackers = true, in.State.Ackers[:1]
			delete(in.Reports, "a3")
		}, api.HealthDegraded, []string{IssueAgentDown}},
		{"one node", func(in *StatusInput) {
			in.State.Members, in.State.Ackers, in.State.K, in.Raft = in.State.Members[:1], nil, 0, in.Raft[:1]
		}, api.HealthOK, []string{IssueSingle}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st := statusOf(tt.change)
			var codes []string
			for _, i := range st.Issues {
				codes = append(codes, i.Code)
				if i.Text == "" || i.Severity == "" {
					t.Errorf("issue without text or severity: %+v", i)
				}
			}
			if st.Health != tt.health || !slices.Equal(codes, tt.issues) {
				t.Errorf("health %s, issues %v; want %s, %v\n%+v", st.Health, codes, tt.health, tt.issues, st.Issues)
			}
		})
	}
}

func TestStatusNodes(t *testing.T) {
	st := statusOf(func(in *StatusInput) {
		silence(in, "a3", time.Minute)
		in.Reports["a1"].Report.Dumps = nil
		in.State.Checkpoints = []raftfsm.Checkpoint{{Node: "a3", Set: gtid.MustParse(uuid1 + ":1-7")}}
		in.Raft = append(in.Raft, api.RaftServer{ID: "a9"})
	})
	if len(st.Nodes) != 4 {
		t.Fatalf("%d nodes", len(st.Nodes))
	}
	primary, replica, lost, stranger := st.Nodes[0], st.Nodes[1], st.Nodes[2], st.Nodes[3]
	if primary.Role != "primary" || primary.ReadOnly || primary.LagSeconds != nil || primary.MySQL != "10.0.0.1:3306" || primary.Raft != "voter" {
		t.Errorf("primary: %+v", primary)
	}
	if replica.Role != "replica" || !replica.ReadOnly || replica.LagSeconds == nil || !replica.Acker || !replica.Attached || replica.Raft != "leader" {
		t.Errorf("replica: %+v", replica)
	}
	if lost.Agent != "down" || lost.Mysqld != raftfsm.MysqldDown || lost.SeenMS != 60000 || lost.GTIDExecuted != uuid1+":1-10" {
		t.Errorf("lost: %+v", lost)
	}
	if stranger.Role != "leaving" || stranger.Raft != "nonvoter" {
		t.Errorf("stranger: %+v", stranger)
	}
	if st.Coordinator != "n2" || st.Primary != "n1" || !slices.Equal(st.AckSet, []string{"n2", "n3"}) || st.AcksWanted != 1 {
		t.Errorf("status: %+v", st)
	}
}

// What would do to close an epoch is named (R1).
func TestStatusNamesWhoWouldDo(t *testing.T) {
	for _, tt := range []struct {
		silent []raftfsm.NodeID
		k      int
		next   string
	}{
		{[]raftfsm.NodeID{"a1"}, 1, "wait: a new primary is being chosen"},
		{[]raftfsm.NodeID{"a1", "a3"}, 1, "start n1, or n3"},
		{[]raftfsm.NodeID{"a1"}, 0, "start n1: only it has every acknowledged row"},
	} {
		st := statusOf(func(in *StatusInput) {
			in.State.Phase, in.State.K = raftfsm.PhaseRevoke, tt.k
			for _, id := range tt.silent {
				delete(in.Reports, id)
			}
		})
		if i := st.Issues[0]; i.Code != IssueNoPrimary || i.Next != tt.next {
			t.Errorf("silent %v: %+v, want next %q", tt.silent, i, tt.next)
		}
		told := slices.ContainsFunc(st.Issues, func(i api.Issue) bool { return i.Code == IssueCannotClose && i.Next == tt.next })
		if told != strings.HasPrefix(tt.next, "start") {
			t.Errorf("silent %v: %+v", tt.silent, st.Issues)
		}
	}
}

// The primary of an epoch that is being closed is shown while it serves only.
func TestStatusPrimaryInRevoke(t *testing.T) {
	revoke := func(in *StatusInput) { in.State.Phase = raftfsm.PhaseRevoke }
	if st := statusOf(revoke); st.Primary != "n1" || st.Health != api.HealthDegraded {
		t.Errorf("serving: %q %s", st.Primary, st.Health)
	}
	st := statusOf(func(in *StatusInput) { revoke(in); in.Reports["a1"].Report.SuperReadOnly = true })
	if st.Primary != "" || st.Health != api.HealthNoPrimary || st.Nodes[0].Role != "replica" {
		t.Errorf("sealed: %q %s %s", st.Primary, st.Health, st.Nodes[0].Role)
	}
}

// Whoever reads of a sick disk is told what to do about it.
func TestDiskHints(t *testing.T) {
	for _, code := range raftfsm.DiskProblems {
		if diskHints[code] == "" {
			t.Errorf("%s has no hint", code)
		}
	}
	if len(diskHints) != len(raftfsm.DiskProblems) {
		t.Error(diskHints)
	}
}
