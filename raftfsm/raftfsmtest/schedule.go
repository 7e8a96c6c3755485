package raftfsmtest

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ha/raftfsm"
)

// Schedule is all that is done to a cluster, in a form that can be printed, read
// again, and run with some of it left out. What is not in it (how long a message
// takes, how fast a server applies) comes from the seed, for each process alone.
type Schedule struct {
	Seed    uint64
	Nodes   []raftfsm.NodeID // with a mysqld; the first founds
	Witness []raftfsm.NodeID
	Spare   []raftfsm.NodeID // hosts that are no members at first
	Strict  bool
	Mends   bool // a member is rebuilt soon after its applier has broken
	Acks    int  // the policy's; negative: half
	Early   bool // do not wait for the cluster to settle first
	Mutants []string
	For     int64 // then all is healed
	Entries []Entry
}

// Entry is one thing that is done. At is in milliseconds after the cluster has
// settled. With On it waits, from At on, for the Nth such event (World.happened)
// and is done Delay after it. Do is in the words of (*World).do.
type Entry struct {
	At    int64
	On    string
	N     int
	Delay int64
	Do    string
}

func (e Entry) String() string {
	on := ""
	if e.On != "" {
		on = "on " + e.On + " "
		if e.N > 1 {
			on += fmt.Sprintf("#%d ", e.N)
		}
		if e.Delay > 0 {
			on += fmt.Sprintf("+%d ", e.Delay)
		}
	}
	return fmt.Sprintf("%d %s%s", e.At, on, e.Do)
}

func (s *Schedule) String() string {
	var b strings.Builder
	list := func(word string, ids []raftfsm.NodeID) {
		if len(ids) > 0 {
			b.WriteString(word)
			for _, id := range ids {
				b.WriteString(" " + string(id))
			}
			b.WriteString("\n")
		}
	}
	fmt.Fprintf(&b, "seed %d\n", s.Seed)
	list("nodes", s.Nodes)
	list("witness", s.Witness)
	list("spare", s.Spare)
	if s.Strict {
		b.WriteString("strict\n")
	}
	if s.Mends {
		b.WriteString("mends\n")
	}
	if s.Acks >= 0 {
		fmt.Fprintf(&b, "acks %d\n", s.Acks)
	}
	if s.Early {
		b.WriteString("early\n")
	}
	for _, m := range s.Mutants {
		fmt.Fprintf(&b, "mutant %s\n", m)
	}
	fmt.Fprintf(&b, "for %d\n", s.For)
	for _, e := range s.Entries {
		b.WriteString(e.String() + "\n")
	}
	return b.String()
}

// ParseSchedule reads what String writes; lines that begin with # are comments.
func ParseSchedule(text string) (Schedule, error) {
	s := Schedule{Acks: -1}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		var err error
		switch f[0] {
		case "seed":
			s.Seed, err = strconv.ParseUint(f[1], 10, 64)
		case "nodes":
			s.Nodes = nodeIDs(f[1:])
		case "witness":
			s.Witness = nodeIDs(f[1:])
		case "spare":
			s.Spare = nodeIDs(f[1:])
		case "strict":
			s.Strict = true
		case "mends":
			s.Mends = true
		case "early":
			s.Early = true
		case "acks":
			s.Acks, err = strconv.Atoi(f[1])
		case "mutant":
			s.Mutants = append(s.Mutants, f[1])
		case "for":
			s.For, err = strconv.ParseInt(f[1], 10, 64)
		default:
			var e Entry
			e, err = parseEntry(f)
			s.Entries = append(s.Entries, e)
		}
		if err != nil {
			return s, fmt.Errorf("%q: %w", strings.TrimSpace(line), err)
		}
	}
	return s, nil
}

func parseEntry(f []string) (e Entry, err error) {
	if e.At, err = strconv.ParseInt(f[0], 10, 64); err != nil {
		return e, err
	}
	f = f[1:]
	if len(f) > 2 && f[0] == "on" {
		e.On, e.N, f = f[1], 1, f[2:]
		if n, ok := strings.CutPrefix(f[0], "#"); ok {
			e.N, err = strconv.Atoi(n)
			f = f[1:]
		}
		if n, ok := strings.CutPrefix(f[0], "+"); ok && err == nil {
			e.Delay, err = strconv.ParseInt(n, 10, 64)
			f = f[1:]
		}
	}
	e.Do = strings.Join(f, " ")
	return e, err
}

func nodeIDs(names []string) []raftfsm.NodeID {
	var ids []raftfsm.NodeID
	for _, n := range names {
		ids = append(ids, raftfsm.NodeID(n))
	}
	return ids
}

// trigger is an entry that waits for its event.
type trigger struct {
	e    Entry
	left int
}

// begin starts the schedule now.
func (w *World) begin(s *Schedule) {
	sim := w.owner("sim")
	for _, e := range s.Entries {
		w.tell(sim, e.At, func() {
			if e.On != "" {
				w.triggers = append(w.triggers, &trigger{e, max(e.N, 1)})
				return
			}
			w.do(e.Do, "")
		})
	}
}

// happened fires what waits for this event.
func (w *World) happened(kind, what string, id raftfsm.NodeID) {
	if len(w.triggers) == 0 {
		return
	}
	name := kind + ":" + what
	w.triggers = slices.DeleteFunc(w.triggers, func(t *trigger) bool {
		if t.e.On != name && t.e.On != kind && t.e.On != name+":"+string(id) {
			return false
		}
		if t.left--; t.left > 0 {
			return false
		}
		w.tell(w.owner("sim"), t.e.Delay, func() { w.do(t.e.Do, id) })
		return true
	})
}

// who says which node is meant: by its name, or P, the primary; L, the
// coordinator; F, the primary before; A0, A1, ..., the ackers; R0, R1, ..., the
// data members but the primary; X0, ..., those of them that are no ackers; it,
// the one of the event.
func (w *World) who(word string, it raftfsm.NodeID) raftfsm.NodeID {
	s := &w.machine.State
	nth := func(ids []raftfsm.NodeID) raftfsm.NodeID {
		n, err := strconv.Atoi(word[1:])
		if err != nil || n >= len(ids) {
			return ""
		}
		return ids[n]
	}
	var ids []raftfsm.NodeID
	switch {
	case word == "it":
		return it
	case word == "P":
		return s.Primary
	case word == "L":
		if w.leader != nil {
			return w.leader.id
		}
		return ""
	case word == "F":
		if n := len(s.History); n > 1 {
			return s.History[n-2].Primary
		}
		return ""
	case len(word) < 2:
	case word[0] == 'A':
		for _, a := range s.Ackers {
			ids = append(ids, a.Node)
		}
		return nth(ids)
	case word[0] == 'R':
		for _, m := range s.DataMembers() {
			if m.ID != s.Primary {
				ids = append(ids, m.ID)
			}
		}
		return nth(ids)
	case word[0] == 'X':
		for _, m := range s.DataMembers() {
			if _, acker := s.Acker(m.ID); !acker && m.ID != s.Primary {
				ids = append(ids, m.ID)
			}
		}
		return nth(ids)
	}
	return raftfsm.NodeID(word)
}

// do carries out one entry; what does not apply now does nothing.
func (w *World) do(text string, it raftfsm.NodeID) {
	f := strings.Fields(text)
	arg := func(i int) string {
		if i < len(f) {
			return f[i]
		}
		return ""
	}
	number := func(i int) int64 {
		n, err := strconv.ParseInt(arg(i), 10, 64)
		if err != nil && arg(i) != "" {
			panic(text)
		}
		return n
	}
	id := func(i int) raftfsm.NodeID { return w.who(arg(i), it) }
	if w.healed {
		return
	}
	if w.trace != nil && f[0] != "write" {
		w.say("--- %s %s", text, it)
	}
	onMysqld := func(id raftfsm.NodeID, f func(m *Mysqld)) {
		if m := w.mysqld(id); m != nil {
			f(m)
		}
	}
	host := func(id raftfsm.NodeID, f func()) {
		if w.agents[id] != nil {
			f()
		}
	}
	switch f[0] {
	case "kill": // mysqld|agent|host NODE
		host(id(2), func() {
			switch f[1] {
			case "mysqld":
				w.KillMysqld(id(2))
			case "agent":
				w.KillAgent(id(2))
			case "host":
				w.KillHost(id(2))
			}
		})
	case "start": // NODE's agent
		host(id(1), func() { w.StartAgent(id(1)) })
	case "freeze", "thaw": // mysqld|agent|host NODE
		host(id(2), func() { w.stop(id(2), f[1], f[0] == "freeze") })
	case "cut": // both ways
		w.Cut(id(1), id(2))
		w.Cut(id(2), id(1))
	case "oneway": // no packet from the first to the second
		w.Cut(id(1), id(2))
	case "mute": // nothing comes from NODE
		for _, o := range w.order {
			if o != id(1) {
				w.Cut(id(1), o)
			}
		}
	case "isolate":
		w.Isolate(id(1))
	case "heal": // [NODE]
		if arg(1) == "" {
			w.Heal()
		}
		for k := range w.cut {
			if k[0] == id(1) || k[1] == id(1) {
				delete(w.cut, k)
			}
		}
	case "lag", "catchup": // NODE receives nothing
		onMysqld(id(1), func(m *Mysqld) { m.lagging = f[0] == "lag" })
	case "slow": // NODE MS: so long it takes to apply one transaction
		onMysqld(id(1), func(m *Mysqld) { m.applyTime = number(2) })
	case "break", "mend": // the applier of NODE
		onMysqld(id(1), func(m *Mysqld) { m.broken = f[0] == "break" })
	case "drop": // the connection of the replica NODE
		onMysqld(id(1), func(m *Mysqld) {
			if m.link != nil {
				m.linkTo.killDump(m.uuid)
			}
		})
	case "reinit": // NODE, unless it is the primary
		onMysqld(id(1), func(m *Mysqld) {
			if st := &w.machine.State; st.Phase == raftfsm.PhaseSettled && st.Primary != id(1) {
				m.reinit()
			}
		})
	case "flush": // somebody types FLUSH on NODE, which makes a transaction
		onMysqld(id(1), (*Mysqld).flush)
	case "lead": // NODE becomes the coordinator
		host(id(1), func() {
			if w.agents[id(1)].up && w.majority(id(1)) {
				w.Lead(id(1))
			}
		})
	case "write": // BODY at NODE [lasting]
		w.writing = arg(4) == "lasting"
		w.Write(id(3), arg(1))
		w.writing = false
	case "switchover":
		w.Ask(raftfsm.RequestSwitchover, id(1), false)
	case "failover": // NODE|any [allow]
		to := id(1)
		if arg(1) == "any" {
			to = ""
		}
		w.Ask(raftfsm.RequestFailover, to, arg(2) == "allow")
	case "leave":
		w.Leave(id(1))
	case "rebuild": // NODE [DONOR]
		w.Rebuild(id(1), id(2))
	case "cancel": // the rebuild of NODE
		w.Cancel(id(1))
	case "join":
		host(id(1), func() {
			if _, member := w.machine.State.Member(id(1)); !member {
				w.Join(id(1))
			}
		})
	case "policy": // strict|available
		p := w.machine.State.Policy
		p.Availability = raftfsm.Availability(arg(1))
		w.append(raftfsm.Command{Kind: raftfsm.CmdPolicy, On: w.machine.State.Version, Policy: &p})
	case "acks": // N
		p := w.machine.State.Policy
		p.Acks = int(number(1))
		w.append(raftfsm.Command{Kind: raftfsm.CmdPolicy, On: w.machine.State.Version, Policy: &p})
	case "trap": // order|answer|report|grant|ack OP|any NODE|any lose|late|again [MS [for MS]]
		t := &trap{kind: arg(1), op: arg(2), id: id(3), effect: arg(4), by: number(5), until: w.now + 5000}
		if arg(3) == "any" {
			t.id = ""
		}
		if arg(6) == "for" {
			t.until, t.all = w.now+number(7), true
		}
		w.traps = append(w.traps, t)
	default:
		panic("unknown entry " + text)
	}
}

// trap waits for a message: the next one that it fits, or all until its end.
type trap struct {
	kind, op string
	id       raftfsm.NodeID // empty: any
	effect   string
	by       int64
	until    int64
	all      bool
}

// fate is what becomes of a message.
type fate struct {
	lost  bool
	late  int64
	again int64 // that much later it comes once more
}

func (w *World) fate(kind, op string, id raftfsm.NodeID) (f fate) {
	if len(w.traps) == 0 {
		return f
	}
	w.traps = slices.DeleteFunc(w.traps, func(t *trap) bool {
		if w.now > t.until {
			return true
		}
		if t.kind != kind || t.op != "any" && t.op != op || t.id != "" && t.id != id || f != (fate{}) {
			return false
		}
		switch t.effect {
		case "lose":
			f.lost = true
		case "late":
			f.late = w.jitter(t.by/2, t.by)
		case "again":
			f.again = t.by
		}
		return !t.all
	})
	if f != (fate{}) {
		w.say("  %s %s %s: %+v", kind, op, id, f)
	}
	return f
}

// stop freezes or thaws what: an agent, a mysqld, or a host with both.
func (w *World) stop(id raftfsm.NodeID, what string, freeze bool) {
	if what != "mysqld" && w.agents[id].up {
		if freeze {
			w.freeze(w.agentOf(id))
		} else {
			w.thaw(w.agentOf(id))
		}
	}
	if m := w.mysqld(id); m != nil && what != "agent" {
		if freeze && m.up {
			w.freeze(w.mysqldOf(id))
			m.hung, m.hungAt = true, w.now
		} else if !freeze {
			m.thaw()
		}
	}
}

func (s *Schedule) sort() {
	slices.SortStableFunc(s.Entries, func(a, b Entry) int { return cmp.Compare(a.At, b.At) })
}
