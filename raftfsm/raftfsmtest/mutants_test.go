package raftfsmtest

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var (
	runMutants = flag.Int("mutants", 0, "see that each mutant is caught within this number of seeds")
	oneMutant  = flag.String("mutant", "", "only the mutant of this name")
)

// mutant is a rule switched off: a change of one of raftfsm's files, or the name
// of a rule of the agents in this package.
type mutant struct {
	name     string
	file     string
	old, new string
	agents   string
	profile  string
}

var mutants = []mutant{
	{name: "closed by a dead mysqld and whoever answers", file: "revoke.go",
		old: "		if slices.Contains(f, a.Node) {\n			n++", new: "		if slices.Contains(f, a.Node) {\n			n += 9"},
	{name: "need - 1", file: "state.go", old: "return len(ackers) - k + 1", new: "return len(ackers) - k"},
	{name: "floor ignored", file: "revoke.go",
		old: "	byAckers := d.s.Floor\n", new: "	byAckers := gtid.Set{}\n", profile: "double"},
	{name: "k raised by commit first", file: "acks.go",
		old: "		if carriedOut(d.give(Order{To: d.s.Primary, Op: OpSetAcks, K: i.K})) == nil ||\n			carriedOut(d.give(Order{To: d.s.Primary, Op: OpBarrier, Allowed: uuids(d.s.Ackers)})) == nil {",
		new: "		if false {", profile: "members"},
	{name: "k raised without barrier", file: "acks.go",
		old: " ||\n			carriedOut(d.give(Order{To: d.s.Primary, Op: OpBarrier, Allowed: uuids(d.s.Ackers)})) == nil {\n			d.recheck(retryStep)\n			return true\n		}\n		d.commit(Command{Kind: CmdAcks, Ackers: d.s.Ackers, K: i.K})",
		new: " {\n			d.recheck(retryStep)\n			return true\n		}\n		d.commit(Command{Kind: CmdAcks, Ackers: d.s.Ackers, K: i.K})", profile: "members"},
	{name: "removal without exclusion", file: "acks.go",
		old: "if !d.excluded(i.Node) {", new: "if false {", profile: "members"},
	{name: "removal without barrier", file: "acks.go",
		old: "if carriedOut(d.give(Order{To: d.s.Primary, Op: OpBarrier, Allowed: uuids(rest)})) == nil {", new: "if false {", profile: "members"},
	{name: "unsealed members not counted", file: "revoke.go",
		old: "ackers = append(ackers, d.unsealed(c.m.ID, f)...)", new: "_ = d.unsealed", profile: "agents"},
	{name: "acker added after it acknowledges", file: "promote.go", // A' recorded too small
		old: "d.give(Order{To: m.ID, Op: OpFollow, Source: d.source(m), Discard: !d.s.Floor.Contains(n.Report.Received)})",
		new: "d.give(Order{To: m.ID, Op: OpFollow, Source: d.source(m), Ack: true, Discard: !d.s.Floor.Contains(n.Report.Received)})"},
	{name: "candidate need not hold what the ackers hold", file: "revoke.go",
		old: "			byAckers = byAckers.Union(x.a.Position())", new: "			_ = x"},
	{name: "position without what was received", file: "report.go",
		old: "func (a *Answer) Position() gtid.Set { return a.Executed.Union(a.Received) }", new: "func (a *Answer) Position() gtid.Set { return a.Executed }"},
	{name: "answers of an earlier epoch count", file: "decide.go",
		old: "last.Order.Token.Epoch != d.s.Epoch || last.Order.Token.Index < since || !sameOrder(last.Order, o)", new: "since == 0 || !sameOrder(last.Order, o)"},
	{name: "committed target need not be closed", file: "revoke.go",
		old: "	if s.Primary == \"\" {\n		return slices.Contains(f, s.Founder)\n	}\n",
		new: "	if s.Primary == \"\" {\n		return slices.Contains(f, s.Founder)\n	}\n	if n := len(s.History); n > 1 && s.History[n-1].Why == \"\" && len(f) > 0 && s.Phase == PhaseRevoke && strings.Contains(s.Why, \"promoted\") {\n		return true\n	}\n", profile: "double"},
	{name: "epoch-only token", agents: "epoch-only-token", profile: "members"},
	{name: "read-only off without a grant", agents: "no-grant", profile: "double"},
	{name: "the variable is taken for fenced", agents: "variable-is-fenced"},
	{name: "flag off without a restart of the receiver", agents: "flag-without-restart", profile: "members"},
	{name: "both threads stopped for CHANGE", agents: "both-threads-stopped"},
}

// TestMutants switches each rule off in turn: the simulator must see it. The files
// themselves stay as they are; the compiler is given others.
func TestMutants(t *testing.T) {
	if *runMutants == 0 {
		t.Skip("-mutants=SEEDS runs it")
	}
	for _, m := range mutants {
		if *oneMutant != "" && *oneMutant != m.name {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			dir := t.TempDir()
			args := []string{"test", "."}
			if m.file != "" {
				path, err := filepath.Abs("../" + m.file)
				if err != nil {
					t.Fatal(err)
				}
				src, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if strings.Count(string(src), m.old) != 1 {
					t.Fatalf("%s does not have the text once:\n%s", m.file, m.old)
				}
				changed := filepath.Join(dir, m.file)
				overlay, _ := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
				if err := os.WriteFile(changed, []byte(strings.Replace(string(src), m.old, m.new, 1)), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644); err != nil {
					t.Fatal(err)
				}
				args = append(args, "-overlay", filepath.Join(dir, "overlay.json"))
			}
			args = append(args, "-run", "TestSim$", "-timeout", "1h", "-args", fmt.Sprintf("-sim.runs=%d", *runMutants),
				"-sim.safety", "-sim.profile="+m.profile, "-sim.mutant="+m.agents)
			out, err := exec.Command("go", args...).CombinedOutput()
			if err == nil {
				t.Fatalf("not caught within %d seeds", *runMutants)
			}
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, ": seed ") {
					t.Log(strings.TrimSpace(line))
					return
				}
			}
			t.Fatalf("it failed in another way:\n%s", out)
		})
	}
}
