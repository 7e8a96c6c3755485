package raftfsm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ha/mysqlctl/gtid"
)

const bigData = 5 << 30

// replicated is a settled reign of a with a replica b, and c and d, which have nothing.
func replicated(t *testing.T) (State, View) {
	m := reigning(t)
	m.must(Command{Kind: CmdMember, Member: &Member{ID: "d", Name: "d", ServerUUID: "dddddddd-0000-0000-0000-000000000000"}})
	rows, err := gtid.Parse(uuidA + ":1-100")
	if err != nil {
		t.Fatal(err)
	}
	report := func(id NodeID, uuid string) *Report {
		return &Report{Node: id, Mysqld: MysqldRunning, ServerUUID: uuid, Version: "9.7.4", SuperReadOnly: true, DiskFree: 10 * bigData}
	}
	a, b, c, d := report("a", uuidA), report("b", uuidB), report("c", uuidC), report("d", "dddddddd-0000-0000-0000-000000000000")
	a.SuperReadOnly, a.Executed, a.DataSize, a.ClusterOnDisk = false, rows, bigData, "x"
	a.Accounts = []string{Member{ID: "c"}.ReplicationUser(), Member{ID: "d"}.ReplicationUser()}
	b.Executed, b.DataSize, b.ClusterOnDisk = rows, bigData, "x"
	b.Replica = &ReplicaReport{SourceUUID: uuidA, IORunning: true, IOWanted: true, SQLRunning: true}
	c.Blank, d.Blank = true, true
	return m.State, View{Self: "b", Leading: time.Hour, PhaseAge: time.Hour, Nodes: []NodeView{
		{ID: "a", Report: a}, {ID: "b", Report: b}, {ID: "c", Report: c}, {ID: "d", Report: d}}}
}

// Who has nothing gets a copy, where there is much to be copied and somebody to copy
// from; else it replicates from the first binary log.
func TestEmptyMemberIsFilled(t *testing.T) {
	lease := func(to, from NodeID) func(s *State, v *View) {
		return func(s *State, v *View) { s.Rebuilds = append(s.Rebuilds, Rebuild{Recipient: to, Donor: from}) }
	}
	for name, tc := range map[string]struct {
		change func(s *State, v *View)
		from   NodeID // a lease is granted
		alone  bool   // it is left alone, though there is none yet
	}{
		"from the replica":              {func(*State, *View) {}, "b", false},
		"from the primary, if alone":    {func(_ *State, v *View) { v.Nodes[1].Report.Replica = nil }, "a", false},
		"little data":                   {func(_ *State, v *View) { v.Nodes[0].Report.DataSize = 70 << 20 }, "", false},
		"it has something":              {func(_ *State, v *View) { v.Nodes[2].Report.Executed = v.Nodes[0].Report.Executed }, "", false},
		"rows without GTIDs":            {func(_ *State, v *View) { v.Nodes[2].Report.Blank = false }, "", false},
		"it has received something":     {func(_ *State, v *View) { v.Nodes[2].Report.Received = v.Nodes[0].Report.Executed }, "", false},
		"of another cluster":            {func(_ *State, v *View) { v.Nodes[2].Report.ClusterOnDisk = "y" }, "", false},
		"no account yet":                {func(_ *State, v *View) { v.Nodes[0].Report.Accounts = nil }, "", true},
		"no place for a copy":           {func(_ *State, v *View) { v.Nodes[2].Report.NoCopy = "a mount point" }, "", false},
		"no plugin":                     {func(_ *State, v *View) { v.Nodes[2].Report.Engines = []EngineReport{{Engine: EngineClone, No: "x"}} }, "", false},
		"no room":                       {func(_ *State, v *View) { v.Nodes[2].Report.DiskFree = 1 << 30 }, "", false},
		"another series":                {func(_ *State, v *View) { v.Nodes[2].Report.Version = "8.4.3" }, "", false},
		"copies failed":                 {func(s *State, _ *View) { s.change("c", func(m *Member) { m.RebuildsFailed = maxRebuilds }) }, "", false},
		"acknowledges":                  {func(s *State, _ *View) { s.Ackers = []Acker{ackC} }, "", false},
		"may acknowledge":               {func(_ *State, v *View) { v.Nodes[2].Report.Replica = &ReplicaReport{AckWanted: true} }, "", true},
		"the replica copies already":    {lease("d", "b"), "", true}, // and the primary is spared
		"all copies are in use":         {func(s *State, v *View) { s.Policy.MaxRebuilds = 1; lease("d", "a")(s, v) }, "", true},
		"the primary alone, and busy":   {func(s *State, v *View) { v.Nodes[1].Report.Replica = nil; lease("d", "a")(s, v) }, "", true},
		"the primary copies, b is free": {lease("d", "a"), "b", false},
	} {
		t.Run(name, func(t *testing.T) {
			s, v := replicated(t)
			tc.change(&s, &v)
			d := &decider{s: &s, v: &v}
			m, _ := s.Member("c")
			alone := d.fill(&v.Nodes[0], &v.Nodes[2], m)
			var from NodeID
			if len(d.out.Commit) == 1 && d.out.Commit[0].Kind == CmdRebuild && d.out.Commit[0].Rebuild.Recipient == "c" {
				from = d.out.Commit[0].Rebuild.Donor
			}
			if from != tc.from || alone != (tc.alone || tc.from != "") {
				t.Errorf("copied from %q, left alone: %v; want %q, %v; %+v", from, alone, tc.from, tc.alone, d.out)
			}
		})
	}
}

// The primary is spared until only one attempt is left: there may be no way from the
// recipient to the replica that is best.
func TestDonorOfTheLastAttempt(t *testing.T) {
	s, v := replicated(t)
	d := &decider{s: &s, v: &v}
	for failed, want := range []NodeID{"b", "b", "a"} {
		s.change("c", func(m *Member) { m.RebuildsFailed = failed })
		m, _ := s.Member("c")
		w := Wish{Recipient: "c"}
		if failed > 0 {
			w.Failed = "b"
		}
		cands := d.donors(m, w)
		if cands[0].m.ID != want || !slices.ContainsFunc(cands, func(c donor) bool { return c.m.ID == "d" && c.no.Code == CodeNotFollowing }) {
			t.Errorf("after %d failures: %+v", failed, cands)
		}
	}
}

// A server that copies its data for a backup gives no other copy: another one does, and who
// asks for it by name is told that it is busy.
func TestDonorThatGivesABackup(t *testing.T) {
	s, v := replicated(t)
	v.Nodes[1].Report.Giving = true
	if _, cands, no := PlanRebuild(&s, &v, Wish{Recipient: "c"}); no.Code != "" || cands[0].Node != "a" {
		t.Errorf("best: %+v, %+v", no, cands)
	}
	if _, _, no := PlanRebuild(&s, &v, Wish{Recipient: "c", From: "b"}); no.Code != CodeDonorBusy {
		t.Errorf("by name: %+v", no)
	}
	d := &decider{s: &s, v: &v}
	m, _ := s.Member("c")
	if alone := d.fill(&v.Nodes[0], &v.Nodes[2], m); !alone || len(d.out.Commit) > 0 {
		t.Errorf("an empty member does not wait for it: %v, %+v", alone, d.out)
	}
}

// Nor does it take one meanwhile: the copy would fail at once, and so would the next two.
func TestRecipientThatGivesABackup(t *testing.T) {
	s, v := replicated(t)
	v.Nodes[2].Report.Giving = true
	if _, _, no := PlanRebuild(&s, &v, Wish{Recipient: "c"}); no.Code != CodeDonorBusy {
		t.Errorf("%+v", no)
	}
	d := &decider{s: &s, v: &v}
	m, _ := s.Member("c")
	if alone := d.fill(&v.Nodes[0], &v.Nodes[2], m); !alone || len(d.out.Commit) > 0 {
		t.Errorf("an empty member does not wait for it: %v, %+v", alone, d.out)
	}
	s.Wishes = []Wish{{Recipient: "c"}}
	if d.wished(&v.Nodes[2], m); len(d.out.Commit) > 0 {
		t.Errorf("a wish does not wait for it: %+v", d.out)
	}
	if donor, no := d.copyRefused(m, "has diverged"); donor != "" || no == "" {
		t.Errorf("one that has diverged is copied anew from %q", donor)
	}
}

// A copy that its node could not put in place, and would not again, ends its lease in
// whichever phase the node is by now.
func TestASwapThatFailedEndsTheLease(t *testing.T) {
	for _, phase := range []string{CopyReady, "swap"} {
		for code, ends := range map[string]bool{CodeFailed: true, CodeBusy: false} {
			s, v := replicated(t)
			lease := Rebuild{Recipient: "c", Donor: "b", Index: 9}
			s.Rebuilds = []Rebuild{lease}
			n := &v.Nodes[2]
			n.Report.Rebuild = &RebuildReport{Index: 9, Phase: phase}
			o := Order{To: "c", Op: OpSwap, Lease: 9, Token: Token{Epoch: s.Epoch}}
			n.Orders = []OrderView{{Order: o, Answer: &Answer{Op: OpSwap, Token: o.Token, Code: code, Err: "no space left"}, Age: time.Minute}}
			d := &decider{s: &s, v: &v}
			m, _ := s.Member("c")
			d.rebuild(lease, n, m)
			if got := len(d.out.Commit) == 1 && d.out.Commit[0].Kind == CmdRebuildEnd; got != ends {
				t.Errorf("in phase %q, answered %s: %+v", phase, code, d.out)
			}
		}
	}
}

// In place old data are looked at again before the first copy, not once they are gone.
func TestInPlaceLooksAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(s *State, v *View)
		kind   Kind
	}{
		"as asked":     {func(*State, *View) {}, CmdRebuild},
		"errant since": {func(_ *State, v *View) { v.Nodes[2].Report.Executed = gtid.MustParse(uuidC + ":1") }, CmdRebuildEnd},
		"the only good copy": {func(_ *State, v *View) {
			v.Nodes[1].Report.Replica = nil
			v.Nodes[2].Report.Replica = v.Nodes[3].Report.Replica
		}, ""},
		"gone already": {func(s *State, _ *View) {
			s.change("c", func(m *Member) { m.RebuildsFailed = 1 })
			s.Checkpoints = []Checkpoint{{Node: "c", Set: gtid.MustParse(uuidC + ":1")}}
		}, CmdRebuild},
	} {
		t.Run(name, func(t *testing.T) {
			s, v := replicated(t)
			v.Nodes[3].Report.Replica = &ReplicaReport{SourceUUID: uuidA, IORunning: true, IOWanted: true, SQLRunning: true}
			s.Wishes = []Wish{{Recipient: "c", Copying: Copying{Engine: EngineClone, InPlace: true}}}
			if name == "the only good copy" {
				v.Nodes[3].Age = time.Hour
			}
			tc.change(&s, &v)
			d := &decider{s: &s, v: &v}
			m, _ := s.Member("c")
			d.wished(&v.Nodes[2], m)
			var kind Kind
			if len(d.out.Commit) == 1 {
				kind = d.out.Commit[0].Kind
			}
			if kind != tc.kind {
				t.Errorf("%q, want %q: %+v", kind, tc.kind, d.out)
			}
		})
	}
}

// A tool has to be on both hosts, and who lacks it is named. CLONE asks for none.
func TestEngineOfARebuild(t *testing.T) {
	const tool = EngineXtraBackup
	none, can := []EngineReport(nil), []EngineReport{{Engine: EngineMariaDBBackup, No: "other"}, {Engine: tool}}
	missing := []EngineReport{{Engine: tool, No: "xbstream is not installed"}}
	for name, tc := range map[string]struct {
		want              Engine
		recipient, a, b   []EngineReport
		donor             NodeID
		code, text, other string
	}{
		"on all":                   {tool, can, can, can, "b", "", "", ""},
		"only the primary has":     {tool, can, can, missing, "a", "", "", ""},
		"not on the recipient":     {tool, missing, can, can, "", CodeNoEngine, "c cannot copy with xtrabackup: xbstream is not installed", ""},
		"only there":               {tool, can, missing, missing, "", CodeNoEngine, "b cannot copy with xtrabackup: xbstream is not installed; a cannot", ""},
		"an agent that is old":     {tool, none, can, can, "", CodeNoEngine, "c cannot copy with xtrabackup: its agent has not said", ""},
		"CLONE":                    {EngineClone, none, none, none, "b", "", "", ""},
		"no such":                  {"tar", can, can, can, "", CodeNoEngine, "there is no engine tar", ""},
		"by CLONE, another series": {EngineClone, can, can, can, "", CodeVersion, "CLONE needs the same series", "8.4.3"},
		"no plugin":                {EngineClone, []EngineReport{{Engine: EngineClone, No: "no plugin"}}, can, can, "", CodeNoEngine, "c cannot copy with clone: no plugin", ""},
		"one without a plugin":     {EngineClone, can, can, []EngineReport{{Engine: EngineClone, No: "no plugin"}}, "a", "", "", ""},
		"another series":           {tool, can, can, can, "", CodeVersion, "of another series cannot be prepared", "8.4.3"},
	} {
		t.Run(name, func(t *testing.T) {
			s, v := replicated(t)
			v.Nodes = v.Nodes[:3]
			s.Members = s.Members[:3]
			v.Nodes[0].Report.Engines, v.Nodes[1].Report.Engines, v.Nodes[2].Report.Engines = tc.a, tc.b, tc.recipient
			if tc.other != "" {
				v.Nodes[2].Report.Version = tc.other
			}
			w, cands, no := PlanRebuild(&s, &v, Wish{Recipient: "c", Copying: Copying{Engine: tc.want}})
			if no.Code != tc.code || !strings.Contains(no.Text, tc.text) || w.Engine != tc.want {
				t.Fatalf("%+v", no)
			}
			if no.Code == "" && cands[0].Node != tc.donor {
				t.Errorf("from %s: %+v", cands[0].Node, cands)
			}
		})
	}
}

// Where no engine is asked for it is CLONE, or where that goes from nobody the first
// tool that does. The refusal says of each why not, where it is about engines at all.
func TestEngineIsChosen(t *testing.T) {
	can := []EngineReport{{Engine: EngineXtraBackup}}
	old := func(v *View, versions ...string) {
		for i, version := range versions {
			v.Nodes[i].Report.Version = version
		}
	}
	all := func(v *View) {
		for i := range v.Nodes {
			v.Nodes[i].Report.Engines = can
		}
	}
	for name, tc := range map[string]struct {
		change func(s *State, v *View)
		engine Engine
		donor  NodeID
		code   string
		texts  []string
	}{
		"CLONE":                      {func(_ *State, v *View) { all(v) }, EngineClone, "b", "", nil},
		"CLONE without tools":        {func(*State, *View) {}, EngineClone, "b", "", nil},
		"the tool, to a newer patch": {func(_ *State, v *View) { all(v); old(v, "8.0.30", "8.0.30", "8.0.36") }, EngineXtraBackup, "b", "", nil},
		"not to an older one":        {func(_ *State, v *View) { all(v); old(v, "8.0.30", "8.0.30", "8.0.28") }, "", "", CodeVersion, []string{"before 8.0.37 CLONE", "data of a newer one", "c cannot copy with mariadb-backup"}},
		"CLONE from another":         {func(_ *State, v *View) { all(v); old(v, "8.0.36", "8.0.30", "8.0.36") }, EngineClone, "a", "", nil},
		"the tool, without a plugin": {func(_ *State, v *View) {
			all(v)
			v.Nodes[2].Report.Engines = append([]EngineReport{{Engine: EngineClone, No: "no plugin"}}, can...)
		}, EngineXtraBackup, "b", "", nil},
		"no plugin, no tool": {func(_ *State, v *View) {
			v.Nodes[2].Report.Engines = []EngineReport{{Engine: EngineClone, No: "no plugin"}}
		}, "", "", CodeNoEngine, []string{"c cannot copy with clone: no plugin", "c cannot copy with xtrabackup"}},
		"a mount point":                {func(_ *State, v *View) { all(v); v.Nodes[2].Report.NoCopy = "a mount point" }, "", "", CodePlace, []string{"data of c: a mount point"}},
		"older, where servers can":     {func(_ *State, v *View) { all(v); old(v, "8.0.40", "8.0.40", "8.0.39") }, EngineClone, "b", "", nil},
		"no tool":                      {func(_ *State, v *View) { old(v, "8.0.30", "8.0.30", "8.0.36") }, "", "", CodeVersion, []string{"CLONE needs equal", "c cannot copy with xtrabackup: its agent"}},
		"another series":               {func(_ *State, v *View) { all(v); old(v, "8.4.6", "8.4.6") }, "", "", CodeVersion, []string{"CLONE needs the same series", "cannot be prepared"}},
		"one is late, the other older": {func(_ *State, v *View) { all(v); old(v, "8.0.30", "8.0.36", "8.0.36"); v.Nodes[1].Report.Replica = nil }, EngineXtraBackup, "a", "", nil},
		"no engine helps":              {func(_ *State, v *View) { all(v); v.Nodes[2].Report.DiskFree = 1 << 20 }, "", "", CodeNoSpace, []string{"make room"}},
		"mixed, and no engine helps": {func(_ *State, v *View) {
			old(v, "8.0.30", "8.0.30", "8.0.36")
			v.Nodes[1].Report.Replica = nil
		}, "", "", CodeNoCandidate, []string{"CLONE needs equal", "b does not replicate"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, v := replicated(t)
			v.Nodes, s.Members = v.Nodes[:3], s.Members[:3]
			tc.change(&s, &v)
			w, cands, no := PlanRebuild(&s, &v, Wish{Recipient: "c"})
			if no.Code != tc.code || no.Code == "" && (w.Engine != tc.engine || cands[0].Node != tc.donor) {
				t.Fatalf("%s, %+v, %+v", w.Engine, no, cands)
			}
			for _, text := range tc.texts {
				if strings.Count(no.Text, text) == 0 {
					t.Errorf("%q is not in %q", text, no.Text)
				}
			}
		})
	}
}

// An applier that stands on an error for as long as the policy says has its node copied
// anew, but where that would do harm or come to nothing: there it goes on being started.
func TestBrokenMemberIsRebuilt(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(s *State, v *View)
		from   NodeID
		alone  bool
	}{
		"for long":              {func(*State, *View) {}, "b", true},
		"not long enough":       {func(_ *State, v *View) { v.Nodes[2].Broken -= time.Second }, "", false},
		"it goes on":            {func(_ *State, v *View) { v.Nodes[2].Report.Replica.SQLError = "" }, "", false},
		"never by policy":       {func(s *State, _ *View) { s.Policy.RebuildBroken = 0 }, "", false},
		"left to a person":      {func(s *State, _ *View) { s.Policy.RebuildDiverged = false }, "", false},
		"it has failed":         {func(s *State, _ *View) { s.change("c", func(m *Member) { m.RebuildsFailed = maxRebuilds }) }, "", false},
		"copies did not help":   {func(s *State, _ *View) { s.change("c", func(m *Member) { m.Mended = maxRebuilds }) }, "", false},
		"asked for already":     {func(s *State, _ *View) { s.Wishes = []Wish{{Recipient: "c"}} }, "", false},
		"in the ack set yet":    {func(s *State, _ *View) { s.Ackers = []Acker{ackC} }, "", false},
		"may acknowledge":       {func(_ *State, v *View) { v.Nodes[2].Report.Replica.AckWanted = true }, "", true},
		"foreign data":          {func(_ *State, v *View) { v.Nodes[2].Report.ClusterOnDisk = "y" }, "", false},
		"no room":               {func(_ *State, v *View) { v.Nodes[2].Report.DiskFree = 1 << 20 }, "", false},
		"all copies are in use": {func(s *State, _ *View) { s.Policy.MaxRebuilds, s.Rebuilds = 1, []Rebuild{{Recipient: "d", Donor: "a"}} }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s, v := replicated(t)
			s.Cluster, s.Policy.RebuildDiverged, s.Policy.RebuildBroken = "x", true, time.Minute
			r := v.Nodes[2].Report
			r.Blank, r.ClusterOnDisk, r.Executed, v.Nodes[2].Broken = false, "x", v.Nodes[1].Report.Executed, time.Minute
			r.Replica = &ReplicaReport{SourceUUID: uuidA, IORunning: true, IOWanted: true, SQLError: "1062 duplicate"}
			tc.change(&s, &v)
			d := &decider{s: &s, v: &v}
			m, _ := s.Member("c")
			alone := d.broken(&v.Nodes[2], m)
			var got Rebuild
			if len(d.out.Commit) == 1 && d.out.Commit[0].Kind == CmdRebuild {
				got = *d.out.Commit[0].Rebuild
			}
			if got.Donor != tc.from || alone != tc.alone {
				t.Errorf("copied from %q, left alone: %v; want %q, %v; %+v", got.Donor, alone, tc.from, tc.alone, d.out)
			}
			if tc.from != "" && (got.Recipient != "c" || !strings.Contains(got.Why, "for 1m0s its applier has stood on: 1062 duplicate")) {
				t.Errorf("%+v", got)
			}
			if name == "not long enough" && d.out.Recheck != time.Second {
				t.Errorf("looked at again after %s", d.out.Recheck)
			}
		})
	}
}

// In place the old data go before there is a copy: not those that may hold what nobody
// else has, by what is reported or, where mysqld is down, by what was noted of them.
func TestInPlaceKeepsASurplus(t *testing.T) {
	own, lost := gtid.MustParse(uuidC+":1"), gtid.MustParse(uuidD+":7")
	down := func(v *View) { v.Nodes[2].Report.Mysqld = MysqldDown }
	note := func(s *State, set gtid.Set) { s.Checkpoints = append(s.Checkpoints, Checkpoint{Node: "c", Set: set}) }
	reigned := func(s *State, async bool) {
		s.History = append([]Reign{{Epoch: s.Epoch - 1, UUID: uuidC, Async: async}}, s.History...)
	}
	for name, tc := range map[string]struct {
		change func(s *State, v *View)
		code   string
	}{
		"broken":                  {func(_ *State, v *View) { down(v) }, ""},
		"errant":                  {func(_ *State, v *View) { v.Nodes[2].Report.Executed = own }, CodeErrant},
		"noted, and down":         {func(s *State, v *View) { down(v); note(s, own) }, CodeErrant},
		"the primary's own":       {func(s *State, v *View) { down(v); note(s, gtid.MustParse(uuidA+":1-200")) }, ""},
		"lossy reign, and down":   {func(s *State, v *View) { down(v); reigned(s, true) }, CodeNeeded},
		"a reign that was closed": {func(s *State, v *View) { down(v); reigned(s, false) }, ""},
		// Of an acker that applied no more, when a loss was accepted without it: its relay
		// log has the last copy.
		"received, not applied": {func(_ *State, v *View) { v.Nodes[2].Report.Received = lost }, CodeErrant},
		"received from the primary": {func(_ *State, v *View) {
			v.Nodes[2].Report.Received = gtid.MustParse(uuidA + ":1-200")
			v.Nodes[2].Report.Replica = nil // not following
		}, ""},
		"a loss since it was noted, and down": {func(s *State, v *View) {
			down(v)
			s.History = append([]Reign{{Epoch: s.Epoch - 1, UUID: uuidD, Lossy: true}}, s.History...)
		}, CodeNeeded},
		"a loss that is forgotten, and down": {func(s *State, v *View) { down(v); s.LossForgotten = true }, CodeNeeded},
	} {
		t.Run(name, func(t *testing.T) {
			s, v := replicated(t)
			s.change("c", func(m *Member) { m.ServerUUID = uuidC })
			v.Nodes[2].Report.Blank = false
			tc.change(&s, &v)
			if _, _, no := PlanRebuild(&s, &v, Wish{Recipient: "c", Copying: Copying{InPlace: true}}); no.Code != tc.code {
				t.Errorf("%+v, want %q", no, tc.code)
			}
		})
	}
}

// Copies that were made for a broken applier are counted when they end well, until a
// person asks for one.
func TestMendedIsCounted(t *testing.T) {
	s, _ := replicated(t)
	mended := func() int { m, _ := s.Member("c"); return m.Mended }
	for i, r := range []struct {
		lease Rebuild
		err   string
		want  int
	}{
		{Rebuild{Broken: true}, "", 1}, {Rebuild{Broken: true}, "no room", 1}, {Rebuild{}, "", 1}, {Rebuild{Broken: true}, "", 2},
	} {
		r.lease.Recipient, r.lease.Donor = "c", "b"
		if no := s.startRebuild(uint64(100+i), Command{Rebuild: &r.lease}); no != "" {
			t.Fatal(no)
		}
		if no := s.endRebuild(Command{Node: "c", Why: r.err}); no != "" || mended() != r.want {
			t.Errorf("%d: %q, counted %d, want %d", i, no, mended(), r.want)
		}
	}
	if no := s.recordWish(200, Command{Wish: &Wish{Recipient: "c"}}); no != "" || mended() != 0 {
		t.Errorf("%q, counted %d", no, mended())
	}
}
