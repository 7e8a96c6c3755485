package raftfsmtest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ha/raftfsm"
)

var rewrite = flag.Bool("rewrite", false, "write the output of the scripts into raftfsm/testdata")

// TestScripts plays raftfsm/testdata/*.txt: commands, a line of dashes, what
// happened. The commands are in (*script).do.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("../testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{t: t, w: New(0)}
			s.w.trace = s.line
			got := s.play(string(b))
			switch {
			case *rewrite:
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			case got != string(b):
				t.Errorf("%s differs (go test ./raftfsm/raftfsmtest -run TestScripts -rewrite, and look at the diff):\n%s", file, firstDifference(string(b), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(a), len(b)) {
		x, y := "(end)", "(end)"
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			return fmt.Sprintf("line %d\nwant %s\ngot  %s", i+1, x, y)
		}
	}
	return ""
}

type script struct {
	t   *testing.T
	w   *World
	out []string
}

// line takes what the world says, without what only makes a story longer.
func (s *script) line(text string) {
	if strings.Contains(text, " checkpoint ") || strings.HasPrefix(text, "  answer ") &&
		!strings.Contains(text, "HA-") && !strings.Contains(text, "answer seal") && !strings.Contains(text, "answer prepare") {
		return
	}
	s.out = append(s.out, text)
}

// play runs each block's commands and puts what happened below its dashes.
func (s *script) play(text string) string {
	var out strings.Builder
	for i, block := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			out.WriteString("\n")
		}
		cmds, _, _ := strings.Cut(block, "\n----")
		commands := false
		for line := range strings.Lines(cmds) {
			line = strings.TrimRight(line, "\n")
			fmt.Fprintln(&out, line)
			if line != "" && !strings.HasPrefix(line, "#") {
				commands = true
				s.do(line)
			}
		}
		if commands && len(s.out) > 0 {
			out.WriteString("----\n" + strings.Join(s.out, "\n") + "\n")
		}
		s.out = nil
	}
	return out.String()
}

func (s *script) do(line string) {
	f := strings.Fields(line)
	arg := func(i int) string {
		if i < len(f) {
			return f[i]
		}
		return ""
	}
	id := func(i int) raftfsm.NodeID { return raftfsm.NodeID(arg(i)) }
	w := s.w
	switch f[0] {
	case "cluster": // NODE... [strict]: founded by the first, and settled
		p := raftfsm.DefaultPolicy()
		var ids []raftfsm.NodeID
		for _, n := range f[1:] {
			if n == "strict" {
				p.Availability = raftfsm.Strict
				continue
			}
			ids = append(ids, raftfsm.NodeID(n))
			w.AddNode(raftfsm.NodeID(n), false)
		}
		quiet := len(ids) > 1 && arg(len(f)-1) != "loud"
		if quiet {
			w.trace = nil
		}
		w.Found(ids[0], p)
		for _, n := range ids[1:] {
			w.Join(n)
		}
		s.settle()
		w.Run(10000)
		w.trace = s.line
	case "big": // the data are so many that an empty node is filled by a copy
		w.big = true
	case "node": // NODE [witness]
		w.AddNode(id(1), arg(2) == "witness")
	case "found": // NODE [strict]
		p := raftfsm.DefaultPolicy()
		if arg(2) == "strict" {
			p.Availability = raftfsm.Strict
		}
		w.Found(id(1), p)
	case "join":
		w.Join(id(1))
	case "settle":
		s.settle()
	case "run": // MILLISECONDS
		n, err := strconv.ParseInt(arg(1), 10, 64)
		s.must(err == nil, line)
		w.Run(n)
	case "until": // revoke|promote|settled
		began := w.machine.State.PhaseIndex
		for end := w.now + 60000; w.now < end && w.bad == nil; w.Run(1) {
			if st := &w.machine.State; st.PhaseIndex != began && string(st.Phase) == arg(1) {
				return
			}
		}
		s.line("not reached: " + w.lastWhy)
	case "write": // BODY at NODE [seen by NODE]
		if arg(4) == "seen" {
			for _, o := range w.order {
				if m := w.mysqld(o); m != nil && o != id(3) {
					m.lagging = o != id(6)
				}
			}
		}
		if _, ok := w.Write(id(3), arg(1)); !ok {
			s.out = append(s.out, fmt.Sprintf("%s takes no writes", arg(3)))
		}
		w.Run(50)
	case "lag": // NODE receives nothing
		w.mysqld(id(1)).lagging = true
	case "catchup": // all receive again
		for _, o := range w.order {
			if m := w.mysqld(o); m != nil {
				m.lagging = false
			}
		}
	case "hang", "thaw": // the mysqld of NODE
		w.mysqld(id(1)).hung = f[0] == "hang"
	case "stray": // at NODE: a semi-sync replica that is no member
		m := w.mysqld(id(2))
		m.dumps = append(m.dumps, &dump{uuid: "stray", ack: true, replica: &Mysqld{w: w}})
	case "break": // the applier of NODE stands on an error
		w.mysqld(id(1)).broken = true
	case "mend":
		w.mysqld(id(1)).broken = false
	case "kill": // mysqld|agent|host NODE
		switch arg(1) {
		case "mysqld":
			w.KillMysqld(id(2))
		case "agent":
			w.KillAgent(id(2))
		case "host":
			w.KillHost(id(2))
		default:
			s.must(false, line)
		}
	case "start": // the agent of NODE, which starts its mysqld as far as it may
		w.StartAgent(id(1))
	case "cut": // NODE [NODE]
		if arg(2) == "" {
			w.Isolate(id(1))
		} else {
			w.Cut(id(1), id(2))
			w.Cut(id(2), id(1))
		}
	case "heal":
		w.Heal()
	case "hold": // OP to NODE: such orders stay under way
		w.holds = append(w.holds, hold{raftfsm.Op(arg(1)), id(3)})
	case "release", "deliver", "drop": // the held orders; deliver goes on holding new ones
		h := hold{raftfsm.Op(arg(1)), id(3)}
		held := w.held
		w.held = nil
		if f[0] != "deliver" {
			w.holds = slices.DeleteFunc(w.holds, func(o hold) bool { return o == h })
		}
		for _, o := range held {
			switch {
			case o.hold != h:
				w.held = append(w.held, o)
			case f[0] != "drop":
				o.go1()
			}
		}
		w.Run(20)
	case "lead": // NODE becomes the coordinator
		w.Lead(id(1))
	case "policy": // strict|available [ACKS]
		p := w.machine.State.Policy
		p.Availability = raftfsm.Availability(arg(1))
		if n, err := strconv.Atoi(arg(2)); err == nil {
			p.Acks = n
		}
		w.append(raftfsm.Command{Kind: raftfsm.CmdPolicy, On: w.machine.State.Version, Policy: &p})
	case "switchover", "failover": // [to NODE] [allow-data-loss]
		var to raftfsm.NodeID
		if arg(1) == "to" {
			to = id(2)
		}
		w.Ask(raftfsm.RequestKind(f[0]), to, f[len(f)-1] == "allow-data-loss")
	case "lose", "keep": // acks
		w.loseAcks = f[0] == "lose"
	case "rebuild": // NODE [from NODE]
		w.Rebuild(id(1), id(3))
	case "cancel": // the rebuild of NODE
		w.Cancel(id(1))
	case "leave": // NODE is to be forgotten
		w.Leave(id(1))
	case "state":
		s.out = append(s.out, strings.Split(strings.TrimSpace(w.Describe()), "\n")...)
	case "expect":
		s.expect(f[1:], line)
	default:
		s.t.Fatalf("unknown command %q", line)
	}
	if w.bad != nil {
		s.t.Fatalf("after %q: %v", line, w.bad)
	}
}

func (s *script) settle() {
	for end := s.w.now + 60000; s.w.now < end && s.w.bad == nil; {
		s.w.Run(100)
		if s.w.Unhealthy() == "" {
			return
		}
	}
	s.line("not well: " + s.w.text(s.w.Unhealthy()))
}

func (s *script) must(ok bool, line string) {
	s.t.Helper()
	if !ok {
		s.t.Errorf("%s: it is not so\n%s\n%s", line, strings.Join(s.out, "\n"), s.w.Describe())
	}
}

// expect checks what no -rewrite can rewrite.
func (s *script) expect(f []string, line string) {
	st := &s.w.machine.State
	row := func(body string) *Row {
		for _, r := range s.w.rows {
			if r.Body == body {
				return r
			}
		}
		s.t.Fatalf("%s: no such row", line)
		return nil
	}
	at := func(n string) *Mysqld { return s.w.mysqld(raftfsm.NodeID(n)) }
	switch f[0] {
	case "primary":
		s.must(string(st.Primary) == f[1], line)
	case "epoch":
		s.must(strconv.FormatUint(st.Epoch, 10) == f[1], line)
	case "phase":
		s.must(string(st.Phase) == f[1], line)
	case "k":
		s.must(strconv.Itoa(st.K) == f[1], line)
	case "ackers":
		s.must(ackText(st.Ackers) == f[1], line)
	case "row": // T at NODE
		s.must(at(f[3]).holds(row(f[1])), line)
	case "no": // no row T at NODE
		s.must(!at(f[4]).holds(row(f[2])), line)
	case "OK":
		s.must(row(f[1]).OK, line)
	case "waits":
		s.must(!row(f[1]).OK && !row(f[1]).Gone, line)
	case "unknown":
		s.must(row(f[1]).Gone, line)
	case "stray": // at NODE
		s.must(slices.ContainsFunc(at(f[2]).dumps, func(d *dump) bool { return d.uuid == "stray" }), line)
	case "shut": // out at NODE
		s.must(!slices.ContainsFunc(at(f[3]).dumps, func(d *dump) bool { return d.uuid == "stray" }), line)
	case "well":
		s.must(s.w.Unhealthy() == "", line)
	case "idle": // decides nothing for a minute
		commits, orders := s.w.commits, s.w.orders
		s.w.Run(60000)
		s.must(s.w.commits == commits && s.w.orders == orders, line)
	default:
		s.t.Fatalf("unknown %q", line)
	}
}
