package raftfsmtest

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var (
	runMutants = flag.Int("mutants", 0, "see that each mutant is caught within this number of seeds")
	oneMutant  = flag.String("mutant", "", "only the mutants whose name contains this")
)

// mutant is a rule switched off: changes of raftfsm's files, or rules of the
// agents in this package by their names, or both.
type mutant struct {
	name    string
	changes []change
	agents  string
	profile string // empty: all kinds of faults
}

type change struct{ file, old, new string }

var mutants = []mutant{
	// R1, closed.
	{name: "closed by a mysqld that is gone", profile: "double", changes: []change{
		{"revoke.go", "return closedBy(d.s, ids(f)) }", "p := d.v.Node(d.s.Primary).Report; return closedBy(d.s, ids(f)) || len(f) > 0 && p != nil && p.Mysqld == MysqldDown }"},
		bareProof,
	}},
	{name: "closed by the end of the lease", profile: "agents", changes: []change{
		{"revoke.go", "return closedBy(d.s, ids(f)) }", "return closedBy(d.s, ids(f)) || len(f) > 0 && d.v.PhaseAge > d.s.Policy.Lease+FenceSlack && !d.fresh(d.v.Node(d.s.Primary)) }"},
		bareProof,
	}},
	{name: "need - 1", changes: []change{{"state.go", "return len(ackers) - k + 1", "return len(ackers) - k"}}},
	{name: "committed target not closed", profile: "double", changes: []change{ // the reign before it is closed instead, as long as it has not settled
		{"state.go", "type State struct {", "type State struct {\n	Before *State `json:\"-\"`\n"},
		{"machine.go", "	if n := len(s.History); n > 0 {\n		s.History[n-1].Why", "	if b := *s; s.Before == nil {\n		s.Before = &b\n	}\n	if n := len(s.History); n > 0 {\n		s.History[n-1].Why"},
		{"machine.go", "	s.Phase, s.PhaseIndex, s.Why = PhaseSettled, index, \"\"\n	return", "	s.Phase, s.PhaseIndex, s.Why = PhaseSettled, index, \"\"\n	s.Before = nil\n	return"},
		{"decide.go", "	case PhaseRevoke:\n", "	case PhaseRevoke:\n		if b := s.Before; b != nil && b.Primary != \"\" {\n			s.Primary, s.PrimaryUUID, s.Ackers, s.K = b.Primary, b.PrimaryUUID, b.Ackers, b.K\n		}\n"},
	}},
	{name: "A' and k' recorded after opening", profile: "double", changes: []change{ // k' = 1 stands there until they are counted
		{"revoke.go", "if k == 0 && d.s.K > 0 && d.s.KPolicy() > 0 && d.s.Policy.Availability == Strict {", "if k == 0 && d.s.KPolicy() > 0 {"},
		{"promote.go", "Op: OpPromote, K: d.s.K}", "Op: OpPromote, K: func() (n int) {\n		for _, a := range d.s.Ackers {\n			if d.fresh(d.v.Node(a.Node)) {\n				n++\n			}\n		}\n		return min(n, d.s.K)\n	}()}"},
	}},
	{name: "members not sealed are not counted", profile: "agents", changes: []change{
		{"revoke.go", "		for _, a := range d.unsealed(c.m.ID, f) {", "		for _, a := range d.unsealed(c.m.ID, f)[:0] {"}}},
	{name: "ackers under a switchover's target are not counted", profile: "operator", changes: []change{
		{"revoke.go", " && !slices.Contains(d.s.Targets, candidate) {", " {"}}},

	// R2, candidate.
	{name: "candidate need not hold what the ackers hold", changes: []change{{"revoke.go", "			byAckers = byAckers.Union(x.a.Position().Minus(d.formerTail(x.a)))", "			_ = x"}}},
	{name: "floor ignored", profile: "double", changes: []change{
		{"revoke.go", "	byAckers := d.s.Floor\n", "	byAckers := gtid.Set{}\n"},
		{"revoke.go", "out = append(out, d.s.Floor.Union(x.a.Position()))", "out = append(out, x.a.Position())"},
		{"machine.go", "if !c.Lossy && !c.Floor.Contains(s.Floor) {", "if false {"},
	}},
	{name: "acker with other data counts", profile: "return", changes: []change{
		{"revoke.go", "if acker, ok := d.s.Acker(m.ID); ok && a.ServerUUID != acker.ServerUUID {", "if false {"}}},

	// R3, final position.
	{name: "position without what was received", changes: []change{
		{"report.go", "func (a *Answer) Position() gtid.Set { return a.Executed.Union(a.Received) }", "func (a *Answer) Position() gtid.Set { return a.Executed }"}}},
	{name: "position from before the seal", agents: "position-before-seal"},
	{name: "a report counts as a seal", profile: "agents", changes: []change{
		{"revoke.go", "		case a == nil:\n", "		case a == nil && d.v.Node(m.ID).Report != nil && d.v.Node(m.ID).Report.Mysqld == MysqldRunning && m.ID != d.s.Primary:\n			r := d.v.Node(m.ID).Report\n			f = append(f, sealed{m: m, a: &Answer{OK: true, Executed: r.Executed, Received: r.Received, ServerUUID: r.ServerUUID, Running: true}})\n		case a == nil:\n"}}},
	{name: "empty position of a dead server", profile: "slow", changes: []change{
		{"revoke.go", "		case a == nil:\n", "		case a == nil && acker && d.v.Node(m.ID).Report != nil && d.v.Node(m.ID).Report.Mysqld != MysqldRunning:\n			f = append(f, sealed{m: m, a: &Answer{OK: true, ServerUUID: m.ServerUUID}})\n		case a == nil:\n"}}},
	{name: "the variable is taken for fenced", agents: "variable-is-fenced"},
	{name: "Connecting is taken for sealed", agents: "connecting-is-sealed", profile: "late"},
	{name: "SIGTERM for SIGKILL", agents: "sigterm"},

	// R5 and R6, changes of (A, k).
	{name: "k raised by commit first", profile: "members", changes: []change{
		{"acks.go", "		if carriedOut(d.give(Order{To: d.s.Primary, Op: OpSetAcks, K: i.K})) == nil ||\n			carriedOut(d.give(Order{To: d.s.Primary, Op: OpBarrier, Allowed: uuids(d.s.Ackers)})) == nil {", "		if false {"}}},
	{name: "k raised without a barrier", profile: "members", changes: []change{
		{"acks.go", " ||\n			carriedOut(d.give(Order{To: d.s.Primary, Op: OpBarrier, Allowed: uuids(d.s.Ackers)})) == nil {", " {"}}},
	{name: "removal without exclusion", profile: "members", changes: []change{{"acks.go", "if !d.excluded(i.Node) {", "if false {"}}},
	{name: "removal without a barrier", profile: "members", changes: []change{
		{"acks.go", "if carriedOut(d.give(Order{To: d.s.Primary, Op: OpBarrier, Allowed: uuids(rest)})) == nil {", "if false {"}}},
	{name: "flag off without a restart of the receiver", agents: "flag-without-restart", profile: "members"},
	{name: "a server that hangs is harmless", profile: "frozen", changes: []change{{"reign.go", "n.Report.Mysqld != MysqldHung && ", ""}}},
	{name: "let in while an order to acknowledge is under way", profile: "late", changes: []change{{"reign.go", " && !d.mayBeTold(n)\n", "\n"}}},
	{name: "rebuilt though it may acknowledge", profile: "return", changes: []change{{"follow.go", "	case !d.harmless(m.ID): // nobody", "	case false: // nobody"}}},
	{name: "let in while a copy may be put in place", profile: "copies", changes: []change{{"acks.go", "	if r.Rebuild.underWay() {", "	if false {"}}},
	{name: "old data removed with the swap", agents: "old-data-removed", profile: "relay"},
	{name: "forgotten though it may acknowledge", profile: "members", changes: []change{{"reign.go", "if !m.Witness && !d.harmless(m.ID) {", "if false {"}}},
	{name: "acker added after it acknowledges", changes: []change{
		{"promote.go", "d.give(Order{To: m.ID, Op: OpFollow, Source: d.source(m), Discard: !d.s.Floor.Contains(n.Report.Received)})",
			"d.give(Order{To: m.ID, Op: OpFollow, Source: d.source(m), Ack: true, Discard: !d.s.Floor.Contains(n.Report.Received)})"}}},
	{name: "k lowered before it is recorded", profile: "members", changes: []change{ // done, then committed
		{"promote.go", "	d.commit(Command{Kind: CmdAcks, Ackers: d.s.Ackers, K: have,", "	if carriedOut(d.give(Order{To: d.s.Primary, Op: OpSetAcks, K: have})) == nil {\n		return true\n	}\n	d.commit(Command{Kind: CmdAcks, Ackers: d.s.Ackers, K: have,"}}},

	// R7, tokens.
	{name: "answers of an earlier epoch count", changes: []change{
		{"decide.go", "last.Order.Token.Epoch != d.s.Epoch || last.Order.Token.Index < since || !sameOrder(last.Order, o)", "since == 0 || !sameOrder(last.Order, o)"}}},
	{name: "epoch-only token", agents: "epoch-only-token", profile: "late"},
	{name: "abandoned statements go on", agents: "abandoned-sql"},

	// R8, grants.
	{name: "read-only off without a grant", agents: "no-grant", profile: "late"},
	{name: "lease counted from the grant's receipt", agents: "lease-from-receipt", profile: "agents"},

	// R9, the cut.
	{name: "cut without a new server_uuid", agents: "cut-without-new-uuid", profile: "return"},
	{name: "cut before the next reign", agents: "cut-early", profile: "return", changes: []change{
		{"revoke.go", "	f, waitFor, declined := d.sealAll()\n", "	f, waitFor, declined := d.sealAll()\n	if p := d.v.Node(d.s.Primary).Report; p != nil && p.Mysqld == MysqldDown {\n		for _, x := range f {\n			if x.m.ID != d.s.Primary {\n				d.give(Order{To: d.s.Primary, Op: OpStart, Cut: true, Keep: x.a.Position()})\n				break\n			}\n		}\n	}\n"}}},
	{name: "cut after a lossy or async reign", profile: "loss", changes: []change{
		{"follow.go", "	return reigned && !lossy &&", "	_ = lossy\n	return reigned &&"}}},
	{name: "cut with a tail that is not transactional", agents: "cut-lasting", profile: "return"},
	{name: "rebuilt after a lossy reign", agents: "old-data-removed", profile: "loss", changes: []change{{"rebuild.go", "	_, lossy := d.lossySince(uuid)\n	return lossy\n", "	return false\n"}}},
	{name: "a loss takes no rows of earlier reigns", profile: "astray", changes: []change{{"follow.go", "		lossy = lossy || r.Lossy\n", "		lossy = r.Lossy\n"}}},
	{name: "received rows thrown away after a loss", profile: "relay", changes: []change{
		{"follow.go", "	case d.lossyEnd(surplus): // once", "	case false: // once"},
		{"promote.go", "		case d.lossyEnd(n.Report.Received.Minus(d.s.Floor)): // not", "		case false: // not"}}},

	// Facts of MySQL.
	{name: "both threads stopped for CHANGE", agents: "both-threads-stopped"},
}

// bareProof: whoever has answered says what a candidate has to hold.
var bareProof = change{"revoke.go", "	if d.s.Primary != \"\" && sealedAckers(d.s, ids(f)) >= Need(d.s.Ackers, d.s.K) {", "	if d.s.Primary != \"\" {"}

var (
	seedLine = regexp.MustCompile(`: seed (\d+) \((\w+)\), .*?: (.*)`)
	violated = regexp.MustCompile(`: unsafe at \d+ ms: (.*)`)
)

// TestMutants switches each rule off in turn: the simulator must see it. The files
// themselves stay as they are; the compiler is given others.
func TestMutants(t *testing.T) {
	if *runMutants == 0 {
		t.Skip("-mutants=SEEDS runs it")
	}
	for _, m := range mutants {
		if !strings.Contains(m.name, *oneMutant) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			began := time.Now()
			binary := buildMutant(t, m)
			args := []string{"-test.run", "TestSim$", "-test.timeout", "1h", fmt.Sprintf("-sim.runs=%d", *runMutants), "-sim.safety", "-sim.shrink=0",
				"-sim.profile=" + m.profile, "-sim.mutant=" + m.agents, fmt.Sprintf("-sim.blunt=%t", *simBlunt)}
			out, err := exec.Command(binary, args...).CombinedOutput()
			if err == nil {
				t.Fatalf("not caught within %d seeds", *runMutants)
			}
			hit := seedLine.FindStringSubmatch(string(out))
			if hit == nil || !strings.Contains(hit[0], "unsafe") {
				t.Fatalf("it failed in another way:\n%s", out)
			}
			what := hit[3]
			if v := violated.FindStringSubmatch(hit[0]); v != nil {
				what = v[1]
			}
			t.Logf("%5s seeds of %-8s %4.0f s  %s", hit[1], cmp.Or(m.profile, "all"), time.Since(began).Seconds(), what)
			for _, file := range schedulesOf(t, m) {
				args := []string{"-test.run", "TestSchedules/^" + file + "$", "-sim.safety"}
				if out, err := exec.Command(binary, args...).CombinedOutput(); err == nil || !strings.Contains(string(out), "unsafe") {
					t.Errorf("its schedule %s does no harm any more: write another\n%s", file, out)
				}
			}
		})
	}
}

// schedulesOf are those in testdata/sim that say that they were made for this mutant.
func schedulesOf(t *testing.T, m mutant) []string {
	t.Helper()
	var out []string
	files, err := filepath.Glob("../testdata/sim/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "# mutant: "+m.name+"\n") {
			out = append(out, strings.TrimSuffix(filepath.Base(file), ".txt"))
		}
	}
	return out
}

func buildMutant(t *testing.T, m mutant) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{}
	for _, c := range m.changes {
		src, changed := files[c.file]
		if !changed {
			b, err := os.ReadFile("../" + c.file)
			if err != nil {
				t.Fatal(err)
			}
			src = string(b)
		}
		if strings.Count(src, c.old) != 1 {
			t.Fatalf("%s does not have the text once:\n%s", c.file, c.old)
		}
		files[c.file] = strings.Replace(src, c.old, c.new, 1)
	}
	replace := map[string]string{}
	for file, text := range files {
		path, err := filepath.Abs("../" + file)
		if err != nil {
			t.Fatal(err)
		}
		replace[path] = filepath.Join(dir, file)
		if err := os.WriteFile(replace[path], []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "sim.test")
	if out, err := exec.Command("go", "test", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}
