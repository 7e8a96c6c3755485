package raftfsmtest

import (
	"fmt"

	"ha/raftfsm"
)

// Sim is one random run.
type Sim struct {
	World   *World
	Profile string
	faults  int
}

// profiles are kinds of faults: general walks do not find everything.
var profiles = []string{"general", "members", "double", "agents", "quiet", "operator"}

// NewSim prepares the run of a seed.
func NewSim(seed uint64, profile string) *Sim {
	if profile == "" {
		profile = profiles[seed%uint64(len(profiles))]
	}
	return &Sim{World: New(seed), Profile: profile}
}

// Play runs it; the error is the first violation or what did not become well.
func (s *Sim) Play() error {
	w := s.World
	n := 3
	if w.chance(35) {
		n = 4
	}
	p := raftfsm.DefaultPolicy()
	if w.chance(20) {
		p.Availability = raftfsm.Strict
	}
	ids := []raftfsm.NodeID{"a", "b", "c", "d"}[:n]
	for _, id := range ids {
		w.AddNode(id, false)
	}
	w.Found("a", p)
	s.clients()
	early := w.chance(30)
	for _, id := range ids[1:] {
		w.after(w.jitter(100, 3000), func() { w.Join(id) })
	}
	if !early {
		if err := s.settle("at first", 60000); err != nil {
			return err
		}
	}
	w.slow, w.reckless = s.Profile != "quiet" && w.chance(70), w.chance(50)
	if s.Profile != "quiet" {
		s.strike(ids)
	}
	w.Run(w.jitter(10000, 40000))
	w.slow, w.reckless = false, false
	s.faults = -1
	w.say("--- heal")
	w.Heal()
	for _, id := range ids {
		w.StartAgent(id)
		m := w.mysqld(id)
		m.hung, m.lagging = false, false
	}
	if err := s.settle("after healing", 180000); err != nil {
		return err
	}
	for _, id := range ids {
		if lost := w.lacking(w.mysqld(id)); len(lost) > 0 {
			return fmt.Errorf("%w: S2: %s lacks acknowledged rows %v after healing", errUnsafe, id, lost)
		}
	}
	w.checkContents()
	return s.quiet()
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
		for _, m := range w.machine.State.Members {
			if w.now > operator && m.RebuildsFailed >= 3 { // a person looked at it
				m.RebuildsFailed = 0
				w.append(raftfsm.Command{Kind: raftfsm.CmdMember, Member: &m})
			}
		}
		if p := w.machine.State.Policy; w.now > operator && p.Availability == raftfsm.Strict {
			// Strict: a person decides when no acker can be had.
			p.Availability = raftfsm.Available
			w.append(raftfsm.Command{Kind: raftfsm.CmdPolicy, On: w.machine.State.Version, Policy: &p})
		}
	}
	return fmt.Errorf("L1: not well %s: %s\n%s", when, why, w.Describe())
}

// quiet is L4: a healthy idle cluster decides nothing.
func (s *Sim) quiet() error {
	w := s.World
	s.faults = -2 // clients rest
	w.Run(12000)  // a last checkpoint is due
	commits, orders, term := w.commits, w.orders, w.term
	w.Run(20000)
	switch {
	case w.bad != nil:
		return w.bad
	case w.commits != commits || w.orders != orders:
		return fmt.Errorf("L4: an idle cluster made %d commits and %d orders: %s", w.commits-commits, w.orders-orders, w.lastWhy)
	case w.term != term:
		return fmt.Errorf("L4: an idle cluster changed its coordinator")
	case w.Unhealthy() != "":
		return fmt.Errorf("L4: an idle cluster became unwell: %s", w.Unhealthy())
	}
	return nil
}

// clients write wherever a server takes writes.
func (s *Sim) clients() {
	w := s.World
	n := 0
	var next func()
	next = func() {
		if s.faults == -2 {
			return
		}
		id := w.order[w.rng.IntN(len(w.order))]
		if m := w.mysqld(id); m != nil && len(m.waiters) < 6 {
			n++
			w.Write(id, fmt.Sprintf("T%d", n))
		}
		w.after(w.jitter(5, 60), next)
	}
	w.after(10, next)
}

// strike makes faults and repairs some of them.
func (s *Sim) strike(ids []raftfsm.NodeID) {
	w := s.World
	pick := func() raftfsm.NodeID { return ids[w.rng.IntN(len(ids))] }
	repair := func(f func()) {
		w.after(w.jitter(50, 9000), func() {
			if s.faults >= 0 {
				f()
			}
		})
	}
	agent := func(id raftfsm.NodeID) {
		w.say("--- kill agent %s", id)
		w.KillAgent(id)
		repair(func() { w.say("--- start agent %s", id); w.StartAgent(id) })
	}
	mysqld := func(id raftfsm.NodeID) {
		w.say("--- kill mysqld %s", id)
		w.KillMysqld(id)
	}
	host := func(id raftfsm.NodeID) {
		w.say("--- kill host %s", id)
		w.KillHost(id)
		repair(func() { w.say("--- start host %s", id); w.StartAgent(id) })
	}
	cut := func(id raftfsm.NodeID) {
		switch w.rng.IntN(3) {
		case 0:
			w.say("--- isolate %s", id)
			w.Isolate(id)
		case 1:
			o := pick()
			w.say("--- cut %s to %s", id, o)
			w.Cut(id, o)
		default:
			o := pick()
			w.say("--- cut %s and %s", id, o)
			w.Cut(id, o)
			w.Cut(o, id)
		}
		repair(func() { w.say("--- network well"); w.Heal() })
	}
	lag := func(id raftfsm.NodeID) {
		w.say("--- %s receives nothing", id)
		w.mysqld(id).lagging = true
		repair(func() { w.say("--- %s receives", id); w.mysqld(id).lagging = false })
	}
	lead := func() {
		if id := pick(); w.agents[id].up && w.majority(id) {
			w.Lead(id)
		}
	}
	primary := func() raftfsm.NodeID {
		if p := w.machine.State.Primary; p != "" && w.chance(80) {
			return p
		}
		return pick()
	}
	replica := func() raftfsm.NodeID {
		id := pick()
		if id == w.machine.State.Primary {
			id = pick()
		}
		return id
	}
	drop := func(id raftfsm.NodeID) {
		if m := w.mysqld(id); m.link != nil {
			m.linkTo.killDump(m.uuid)
		}
	}
	var next func()
	next = func() {
		if s.faults < 0 {
			return
		}
		s.faults++
		switch s.Profile {
		case "members": // ack set and k
			switch w.rng.IntN(8) {
			case 0, 1:
				mysqld(replica())
			case 2:
				agent(replica())
			case 3:
				drop(replica())
			case 4:
				cut(replica())
			case 5:
				lag(replica())
			case 6:
				lead()
			default:
				if w.chance(50) {
					mysqld(primary())
				} else {
					host(primary())
				}
			}
		case "double": // the next failover before the last one is settled
			switch w.rng.IntN(6) {
			case 0, 1, 2:
				if w.machine.State.Phase != raftfsm.PhaseSettled || w.chance(30) {
					if w.chance(50) {
						mysqld(primary())
					} else {
						host(primary())
					}
				}
			case 3:
				lag(replica())
			case 4:
				lead()
			default:
				agent(pick())
			}
			w.after(w.jitter(5, 400), next)
			return
		case "operator": // people ask for things, and other things go wrong
			switch w.rng.IntN(8) {
			case 0, 1, 2, 3:
				id := pick()
				w.say("--- switchover to %s", id)
				w.Ask(raftfsm.RequestSwitchover, id, false)
			case 4:
				w.say("--- failover")
				w.Ask(raftfsm.RequestFailover, "", false)
			case 5:
				w.after(w.jitter(1, 60), lead)
			case 6:
				mysqld(pick())
			default:
				cut(pick())
			}
			w.after(w.jitter(5, 1500), next)
			return
		case "agents": // mysqlds live on while agents die
			switch w.rng.IntN(6) {
			case 0, 1, 2:
				agent(pick())
			case 3:
				cut(pick())
			case 4:
				lead()
			default:
				mysqld(pick())
			}
		default:
			switch w.rng.IntN(8) {
			case 0:
				mysqld(primary())
			case 1:
				mysqld(pick())
			case 2:
				agent(pick())
			case 3:
				host(pick())
			case 4, 5:
				cut(pick())
			case 6:
				lag(replica())
			default:
				lead()
			}
		}
		w.after(w.jitter(50, 3000), next)
	}
	w.after(w.jitter(1, 1500), next)
}
