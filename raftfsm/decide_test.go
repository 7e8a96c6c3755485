package raftfsm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ha/mysqlctl/gtid"
)

// raised is a settled reign in which k was just raised to 1, seen with a report of
// the primary from before semi-sync was switched on.
func raised(t *testing.T) (State, View) {
	m := reigning(t)
	m.must(Command{Kind: CmdAcks, Ackers: []Acker{ackB}})
	m.must(Command{Kind: CmdIntent, Intent: &Intent{Kind: IntentRaise, K: 1}})
	token := Token{Epoch: 1, Index: m.State.AuthIndex, Step: 1}
	m.must(Command{Kind: CmdAcks, Ackers: []Acker{ackB}, K: 1})
	replica := &ReplicaReport{SourceUUID: uuidA, IORunning: true, IOWanted: true, SQLRunning: true, Ack: true, AckWanted: true}
	v := View{Self: "c", Leading: time.Hour, PhaseAge: time.Hour, Nodes: []NodeView{
		{ID: "a", Seen: 5, Report: &Report{Node: "a", Token: token, Mysqld: MysqldRunning, ServerUUID: uuidA, LeaseEpoch: 1, Attached: []string{uuidB}},
			Orders: []OrderView{{Order: Order{Token: token, To: "a", Op: OpSetAcks, K: 1}, Answer: &Answer{Token: token, Op: OpSetAcks, OK: true}, Seen: 7, Age: 10 * time.Millisecond}}},
		{ID: "b", Seen: 6, Report: &Report{Node: "b", Mysqld: MysqldRunning, ServerUUID: uuidB, SuperReadOnly: true, Replica: replica, Executed: gtid.Set{}}},
		{ID: "c", Age: time.Hour},
	}}
	return m.State, v
}

func lowersK(d Decision) bool {
	return len(d.Commit) == 1 && d.Commit[0].Kind == CmdAcks && d.Commit[0].K == 0
}

func TestReportFromBeforeTheOrderIsNoFact(t *testing.T) {
	s, v := raised(t)
	if d := Decide(s, v); lowersK(d) {
		t.Fatal("k is lowered because of an old report")
	}
	v.Nodes[0].Seen, v.Nodes[0].Orders[0].Age = 9, time.Second
	if d := Decide(s, v); !lowersK(d) {
		t.Fatalf("the server waits for nobody, and this is not recorded: %+v", d)
	}
}

// A commit that was under way when the server was told to wait is counted as let go
// (TestAckersFrozen saw it): the barrier of the raise holds for it, and only a report
// from after that barrier tells of one that was not acknowledged.
func TestCommitFromBeforeTheBarrierIsNoFact(t *testing.T) {
	s, v := raised(t)
	p := &v.Nodes[0]
	p.Seen, p.Orders[0].Age = 8, time.Second // newer than SetAcks
	p.Report.SourceOn, p.Report.WaitFor, p.Report.Unacked = true, 1, 1
	barrier := OrderView{Order: Order{Token: p.Report.Token, To: "a", Op: OpBarrier}, Seen: 9, Age: 20 * time.Millisecond,
		Answer: &Answer{Token: p.Report.Token, Op: OpBarrier, OK: true}}
	p.Orders = append(p.Orders, barrier)
	if d := Decide(s, v); lowersK(d) {
		t.Fatal("k is lowered for a commit that the barrier's acknowledgement holds for")
	}
	p.Seen, p.Orders[1].Age = 10, time.Second
	if d := Decide(s, v); !lowersK(d) {
		t.Fatalf("a commit went without its ack after the barrier, and this is not recorded: %+v", d)
	}
	p.Seen, p.Orders[1].Answer.OK = 8, false
	if d := Decide(s, v); !lowersK(d) {
		t.Fatalf("a barrier that failed holds for nothing: %+v", d)
	}
}

// Under strict the server is told to wait for no fewer than it does, whatever was
// recorded of it; under available the record, k = 0, is carried out.
func TestStrictServerIsNeverToldToWaitForFewer(t *testing.T) {
	told := func(d Decision) (ks []int) {
		for _, o := range d.Do {
			if o.Op == OpSetAcks {
				ks = append(ks, o.K)
			}
		}
		return ks
	}
	for _, c := range []struct {
		availability Availability
		want         []int
	}{{Strict, nil}, {Available, []int{0}}} {
		s, v := raised(t)
		s.Policy.Availability, s.K = c.availability, 0
		v.Nodes[0].Seen, v.Nodes[0].Orders = 9, nil
		v.Nodes[0].Report.SourceOn, v.Nodes[0].Report.WaitFor, v.Nodes[0].Report.Unacked = true, 1, 1
		v.Nodes[0].Report.Attached, v.Nodes[1].Detached, v.Nodes[1].Age = nil, 8*time.Second, 9*time.Second
		d := Decide(s, v)
		if got := told(d); !slices.Equal(got, c.want) {
			t.Errorf("%s: told to wait for %v, want %v", c.availability, got, c.want)
		}
		removes := slices.ContainsFunc(d.Commit, func(c Command) bool { return c.Kind == CmdIntent && c.Intent != nil && c.Intent.Kind == IntentRemove })
		if c.availability == Strict && (removes || !strings.Contains(d.Why, "writes wait: 0 of 1 ackers")) {
			t.Errorf("strict: %+v", d)
		}
	}
}

// The ackers of a primary whose host has just died are detached too.
func TestPrimaryNotHeardOfKeepsItsAcks(t *testing.T) {
	s, v := raised(t)
	v.Nodes[0].Report.SourceOn, v.Nodes[0].Report.WaitFor = true, 1
	v.Nodes[1].Detached = 1100 * time.Millisecond
	v.Nodes[0].Age = 1200 * time.Millisecond
	if d := Decide(s, v); lowersK(d) {
		t.Fatal("k is lowered")
	}
	v.Nodes[0].Age = 100 * time.Millisecond
	if d := Decide(s, v); !lowersK(d) {
		t.Fatalf("k is not lowered: %+v", d)
	}
}

// Reports come at even intervals: the primary's perhaps always just before the
// member's. Neither entry nor following may hang on that.
func TestMemberFollowsWhateverTheOrderOfReports(t *testing.T) {
	for _, seen := range []uint64{1, 9} { // of the primary; b's is 6
		s, v := raised(t)
		v.Nodes[0].Report.SourceOn, v.Nodes[0].Report.WaitFor = true, 1
		v.Nodes[0].Seen = seen
		v.Nodes[0].Orders = nil
		v.Nodes[1].Report.Replica.IOWanted = false
		v.Nodes[1].Report.Replica.IORunning = false
		found := false
		for _, o := range Decide(s, v).Do {
			found = found || o.To == "b" && o.Op == OpFollow && o.Ack
		}
		if !found {
			t.Errorf("b is not told to follow when the primary's report is number %d", seen)
		}
	}
}

// An async primary outran its only acker's applier. That acker stays, and k is
// raised: it does not enter and leave for ever.
func TestLateAckerStaysWhereThereAreTooFew(t *testing.T) {
	m := reigning(t)
	m.must(Command{Kind: CmdAcks, Ackers: []Acker{ackB}})
	_, v := raised(t)
	v.Nodes[0].Orders, v.Nodes[0].Report.Token = nil, Token{Epoch: 1}
	v.Nodes[1].Report.Replica.Lag = time.Hour
	d := Decide(m.State, v)
	if len(d.Commit) != 1 || d.Commit[0].Kind != CmdIntent || d.Commit[0].Intent.Kind != IntentRaise {
		t.Fatalf("not a raise of k: %+v", d.Commit)
	}
}

// An account that is there with another password than recorded is mended like one
// that is not there; one that was locked says so and is another matter.
func TestReplicationPasswordIsMended(t *testing.T) {
	for ioError, want := range map[string]bool{
		"": false,
		"Error connecting to source. Message: Can't connect to MySQL server":                                    false,
		"Error connecting to source. Message: Access denied for user 'ha_r_b'@'10.0.0.2' (using password: YES)": true,
	} {
		s, v := raised(t)
		var users []string
		for _, m := range s.DataMembers() {
			users = append(users, m.ReplicationUser())
		}
		v.Nodes[0].Report.SourceOn, v.Nodes[0].Report.WaitFor, v.Nodes[0].Report.Accounts = true, 1, users
		v.Nodes[0].Seen, v.Nodes[0].Orders = 9, nil
		v.Nodes[1].Report.Replica.IORunning, v.Nodes[1].Report.Replica.IOError = ioError == "", ioError
		found := false
		for _, o := range Decide(s, v).Do {
			found = found || o.To == "a" && o.Op == OpAccounts
		}
		if found != want {
			t.Errorf("%q: accounts ordered: %v", ioError, found)
		}
	}
}

// Who cannot apply what it receives does not enter, though its applier runs for a moment
// whenever it is started: else it enters and leaves for ever.
func TestBrokenApplierDoesNotEnter(t *testing.T) {
	for _, broken := range []bool{false, true} {
		m := reigning(t)
		_, v := raised(t)
		v.Nodes[0].Orders, v.Nodes[0].Report.Token = nil, Token{Epoch: 1}
		b := v.Nodes[1].Report
		p, _ := m.State.Member("a")
		b.Replica.SourceHost, b.Replica.SourcePort = p.MySQLHost, p.MySQLPort
		b.Replica.Ack, b.Replica.AckWanted = false, false
		if broken {
			b.Replica.SQLError = "could not parse relay log event entry"
		}
		d := Decide(m.State, v)
		if enters := len(d.Commit) == 1 && d.Commit[0].Kind == CmdAcks && len(d.Commit[0].Ackers) == 1; enters == broken {
			t.Errorf("broken %v: %+v", broken, d.Commit)
		}
	}
}

// The only one left to promote was never filled: nothing of the data would be left. That
// is for somebody to say who names it.
func TestFailoverToAnEmptyMemberIsAskedForByName(t *testing.T) {
	s, v := raised(t)
	v.Nodes[0].Age = time.Hour
	set, err := gtid.Parse(uuidA + ":1-8")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		to     NodeID
		lossy  bool
		change func(r *Report)
		want   string // code
	}{
		{"empty", "", true, func(*Report) {}, CodeNoCandidate},
		{"named", "b", true, func(*Report) {}, ""},
		{"nothing is given up", "", false, func(*Report) {}, ""},
		{"holds rows", "", true, func(r *Report) { r.Executed = set }, ""},
		{"received rows", "", true, func(r *Report) { r.Received = set }, ""},
		{"nobody knows", "", true, func(r *Report) { r.Mysqld = MysqldDown }, ""},
	} {
		r := *v.Nodes[1].Report
		c.change(&r)
		w := v
		w.Nodes = slices.Clone(v.Nodes)
		w.Nodes[1].Report = &r
		if _, no := PlanFailover(&s, &w, c.to, c.lossy); no.Code != c.want {
			t.Errorf("%s: refused with %q (%s), want %q", c.name, no.Code, no.Text, c.want)
		}
	}
}

// A candidate whose applier stood on an error when it was sealed is the last choice, and one
// all the same: the error may be gone, and nobody else may hold what is required.
func TestStuckCandidateIsTheLastChoice(t *testing.T) {
	s, v := raised(t)
	all, err := gtid.Parse(uuidA + ":1-8")
	if err != nil {
		t.Fatal(err)
	}
	some, err := gtid.Parse(uuidA + ":1-7")
	if err != nil {
		t.Fatal(err)
	}
	of := func(id NodeID, executed gtid.Set, applierError string) sealed {
		m, _ := s.Member(id)
		return sealed{m: m, a: &Answer{OK: true, Running: true, ServerUUID: v.Node(id).Report.ServerUUID, Executed: executed, Received: all, ApplierError: applierError}}
	}
	for name, tc := range map[string]struct {
		f    []sealed
		want []NodeID
	}{
		"stuck":                     {[]sealed{of("b", some, "1205")}, []NodeID{"b"}},
		"another one is not":        {[]sealed{of("a", some, "1205"), of("b", some, "")}, []NodeID{"b", "a"}},
		"it has what it needs":      {[]sealed{of("a", all, "1205"), of("b", all, "")}, []NodeID{"a", "b"}},
		"the other one lacks a row": {[]sealed{of("b", some, "1205"), {m: of("a", some, "").m, a: &Answer{OK: true, Running: true, Executed: some}}}, []NodeID{"b"}},
	} {
		d := &decider{s: &s, v: &v}
		if got := ids(d.candidates(tc.f, requirement{all}, false)); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// A primary that is closed for its disk does not stay: it would be replaced again and
// again. Where all disks are as bad it does.
func TestSickPrimaryDoesNotStay(t *testing.T) {
	s, v := raised(t)
	full := func(id NodeID, d time.Duration) {
		v.Node(id).Report.Problems = []Problem{{Code: "HA-DISK-FULL", Text: "full", For: d}}
	}
	best := func() NodeID {
		f := []sealed{}
		for _, id := range []NodeID{"a", "b"} {
			m, _ := s.Member(id)
			f = append(f, sealed{m: m, a: &Answer{OK: true, Running: true, ServerUUID: v.Node(id).Report.ServerUUID}})
		}
		d := &decider{s: &s, v: &v}
		return d.candidates(f, requirement{gtid.Set{}}, false)[0].m.ID
	}
	if got := best(); got != "a" {
		t.Errorf("well: %s", got)
	}
	full("a", s.Policy.HungAfter/2)
	if got := best(); got != "a" {
		t.Errorf("full for a moment: %s", got)
	}
	full("a", s.Policy.HungAfter)
	if got := best(); got != "b" {
		t.Errorf("full: %s", got)
	}
	full("b", s.Policy.HungAfter)
	if got := best(); got != "a" {
		t.Errorf("both full: %s", got)
	}
}

// A sick disk costs the primary its role where another one could take over and has none;
// one for which only mysqld's death is missing does so in any case, if that lasts.
func TestDiskTrigger(t *testing.T) {
	for name, tc := range map[string]struct {
		code   string
		change func(s *State, v *View)
		want   bool
	}{
		"full":                     {"HA-DISK-FULL", func(*State, *View) {}, true},
		"for a moment":             {"HA-DISK-FULL", func(s *State, v *View) { v.Nodes[0].Report.Problems[0].For = s.Policy.HungAfter - 1 }, false},
		"the other's too":          {"HA-DISK-FULL", func(_ *State, v *View) { v.Nodes[1].Report.Problems = v.Nodes[0].Report.Problems }, false},
		"nobody else":              {"HA-DISK-FULL", func(_ *State, v *View) { v.Nodes[1].Age = time.Hour }, false},
		"cannot be closed":         {"HA-DISK-FULL", func(s *State, _ *View) { s.Ackers, s.K = nil, 0 }, false},
		"waits":                    {"HA-DISK-WAIT", func(*State, *View) {}, true},
		"waits for a moment":       {"HA-DISK-WAIT", func(s *State, v *View) { v.Nodes[0].Report.Problems[0].For = s.Policy.HungAfter - 1 }, false},
		"waits, and nobody else":   {"HA-DISK-WAIT", func(_ *State, v *View) { v.Nodes[1].Age = time.Hour }, true},
		"waits, and nobody's acks": {"HA-DISK-WAIT", func(s *State, _ *View) { s.Ackers, s.K = nil, 0 }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, v := raised(t)
			v.Nodes[0].Report.Problems = []Problem{{Code: tc.code, For: s.Policy.HungAfter}}
			tc.change(&s, &v)
			d := &decider{s: &s, v: &v}
			if why, dead := d.trigger(&v.Nodes[0]); (why != "") != tc.want || dead || tc.want && !strings.Contains(why, tc.code) {
				t.Errorf("%q, dead %v", why, dead)
			}
		})
	}
}
