package raftfsmtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ha/raftfsm"
)

// Sim plays one schedule.
type Sim struct {
	World *World
	s     *Schedule
	rest  bool // clients rest
	// unfired are the entries whose events did not happen.
	unfired []Entry
}

// NewSim prepares it.
func NewSim(s *Schedule) *Sim {
	sim := &Sim{World: New(s.Seed), s: s}
	for _, m := range s.Mutants {
		sim.World.mutants[m] = true
	}
	return sim
}

// Play does all that is in the schedule, with the checkers at every step; then all
// is healed, and the cluster has to become well, and then quiet. The error is the
// first violation, or what did not become well.
func (s *Sim) Play(safetyOnly bool) error {
	w := s.World
	p := raftfsm.DefaultPolicy()
	if s.s.Strict {
		p.Availability = raftfsm.Strict
	}
	if s.s.Mends {
		p.RebuildBroken = time.Second
	}
	p.Acks = s.s.Acks
	for _, id := range slices.Concat(s.s.Nodes, s.s.Spare) {
		w.AddNode(id, false)
	}
	for _, id := range s.s.Witness {
		w.AddNode(id, true)
	}
	w.Found(s.s.Nodes[0], p)
	for i, id := range slices.Concat(s.s.Nodes[1:], s.s.Witness) {
		w.after(w.jitter(100, 1500)*int64(1+i%2), func() { w.Join(id) })
	}
	s.clients()
	if !s.s.Early {
		if err := s.settle("at first", 60000); err != nil {
			return err
		}
	}
	s.rest = true // the schedule writes
	w.say("--- begin")
	w.begin(s.s)
	w.Run(s.s.For)
	if w.bad != nil {
		return w.bad
	}
	w.say("--- heal")
	for _, t := range w.triggers {
		s.unfired = append(s.unfired, t.e)
	}
	s.heal()
	s.rest = false
	s.clients()
	if err := s.settle("after healing", 180000); err != nil {
		return err
	}
	for _, m := range w.machine.State.DataMembers() {
		if lost := w.lacking(w.mysqld(m.ID)); len(lost) > 0 {
			return fmt.Errorf("%w: S2: %s lacks acknowledged rows %v after healing", errUnsafe, m.ID, lost)
		}
	}
	w.checkContents()
	w.checkEffects()
	if w.bad != nil || safetyOnly {
		return w.bad
	}
	switch s.s.Seed % 3 {
	case 0:
		return s.quiet()
	case 1:
		return s.upgrade()
	}
	return nil
}

func (s *Sim) heal() {
	w := s.World
	w.Heal()
	w.healed, w.triggers, w.traps = true, nil, nil
	for _, id := range w.order {
		w.thaw(w.agentOf(id))
		w.StartAgent(id)
		if m := w.mysqld(id); m != nil {
			m.thaw()
			m.lagging, m.broken, m.applyTime = false, false, 0
		}
	}
	if p := w.machine.State.Policy; p.Acks != s.s.Acks {
		p.Acks = s.s.Acks
		w.append(raftfsm.Command{Kind: raftfsm.CmdPolicy, On: w.machine.State.Version, Policy: &p})
	}
}

func (s *Sim) settle(when string, bound int64) error {
	w := s.World
	why := ""
	operator := w.now + bound/2
	for end := w.now + bound; w.now < end; {
		w.Run(200)
		if w.bad != nil {
			return w.bad
		}
		if why = w.Unhealthy(); why == "" {
			return nil
		}
		if w.now > operator {
			w.person()
		}
	}
	return fmt.Errorf("L1: not well %s: %s\n%s", when, why, w.Describe())
}

// person looks at what the cluster leaves to people.
func (w *World) person() {
	st := &w.machine.State
	for _, m := range st.Members {
		if m.RebuildsFailed >= 3 {
			m.RebuildsFailed = 0
			w.append(raftfsm.Command{Kind: raftfsm.CmdMember, Member: &m})
		}
	}
	if p := st.Policy; p.Availability == raftfsm.Strict {
		// Strict: a person decides when no acker can be had.
		p.Availability = raftfsm.Available
		w.append(raftfsm.Command{Kind: raftfsm.CmdPolicy, On: st.Version, Policy: &p})
	}
	// A diverged node that may hold the last copy of acknowledged rows: the person
	// has saved them and copies it anew.
	if st.Phase != raftfsm.PhaseSettled || len(st.Rebuilds) > 0 || !strings.Contains(w.lastWhy, "without a person") {
		return
	}
	for _, m := range st.DataMembers() {
		if _, acker := st.Acker(m.ID); !acker && m.ID != st.Primary && strings.HasPrefix(w.lastWhy, m.Name+" ") {
			for _, r := range w.rows {
				r.Kept = false
			}
			w.append(raftfsm.Command{Kind: raftfsm.CmdRebuild, On: st.Version, Rebuild: &raftfsm.Rebuild{Recipient: m.ID, Donor: st.Primary, Why: "a person"}})
			return
		}
	}
}

// upgrade is L3: an agent that is away for less than its lease changes nothing for
// clients.
func (s *Sim) upgrade() error {
	w := s.World
	id := w.machine.State.Primary
	if w.chance(50) {
		id = w.order[w.rng.IntN(len(w.order))]
	}
	w.Run(1000) // it may have been away just now: let it have its lease renewed
	epoch, from := w.machine.State.Epoch, len(w.rows)
	w.KillAgent(id)
	w.Run(w.jitter(50, 3000))
	w.StartAgent(id)
	w.Run(3000)
	if w.bad != nil {
		return w.bad
	}
	if w.machine.State.Epoch != epoch {
		return fmt.Errorf("L3: the agent of %s was away for a moment, and another reign began: %s", id, w.machine.State.Why)
	}
	for _, r := range w.rows[from:] {
		if r.Gone {
			return fmt.Errorf("L3: the agent of %s was away for a moment, and the client of %s got an error", id, r.Body)
		}
	}
	if err := s.settle("after an agent was away", 30000); err != nil {
		return err
	}
	return nil
}

// quiet is L4: a healthy idle cluster decides nothing.
func (s *Sim) quiet() error {
	w := s.World
	s.rest = true
	w.Run(11000) // a last checkpoint is due
	commits, orders, term := w.commits, w.orders, w.term
	span := int64(6000)
	if s.s.Seed%30 == 0 {
		span = 40000
	}
	w.Run(span)
	switch {
	case w.bad != nil:
		return w.bad
	case w.commits != commits || w.orders != orders:
		return fmt.Errorf("L4: an idle cluster made %d commits and %d orders: %s", w.commits-commits, w.orders-orders, w.lastWhy)
	case w.term != term:
		return errors.New("L4: an idle cluster changed its coordinator")
	case w.Unhealthy() != "":
		return fmt.Errorf("L4: an idle cluster became unwell: %s", w.Unhealthy())
	}
	return nil
}

// clients write wherever a server takes writes, while no schedule does.
func (s *Sim) clients() {
	w := s.World
	o := w.owner("clients")
	n := 0
	var next func()
	next = func() {
		if s.rest {
			return
		}
		id := w.order[w.rng.IntN(len(w.order))]
		if m := w.mysqld(id); m != nil && len(m.waiters) < 6 {
			n++
			w.Write(id, fmt.Sprintf("C%d at %d", n, w.now))
		}
		w.after(w.jitter(5, 60), next)
	}
	w.tell(o, 10, next)
}
