// Package raftfsmtest is a world for raftfsm: a logical Raft log, coordinators,
// agents with their token rules, a network, and a model of mysqld that keeps the
// contents of transactions. It drives the real Decide and Apply; nothing else
// uses it but tests.
package raftfsmtest

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2" //nolint:depguard // a package for tests: all chance comes from its seed
	"slices"
	"sort"
	"strings"
	"time"

	"ha/raftfsm"
)

// errUnsafe is a violation of a promise to be safe.
var errUnsafe = errors.New("unsafe")

const clusterID = "cluster-1"

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// World is one cluster and all that surrounds it. Time is in milliseconds.
type World struct {
	now    int64
	events eventHeap
	seq    uint64
	seed   uint64
	owners map[string]*owner
	own    *owner     // whose event this is
	rng    *rand.Rand // its chance; nil: scripts; everything takes its shortest time

	order  []raftfsm.NodeID
	agents map[raftfsm.NodeID]*Agent
	cut    map[[2]raftfsm.NodeID]bool // no packet from, to
	conns  int
	uuids  int
	names  map[string]string // server uuid → text

	// The Raft log.
	machine  raftfsm.Machine
	index    uint64
	leader   *coord
	term     uint64
	commits  int
	orders   int
	electing bool

	triggers   []*trigger
	traps      []*trap
	writing    bool // the next write is of a kind that no rollback undoes
	loseAcks   bool // scripts: acknowledgements do not come
	looks      int
	healed     bool // the schedule is over
	promotedAt int64
	blunt      bool // see a loss only when it has come
	mutants    map[string]bool
	held       []*heldOrder // scripts
	holds      []hold
	noKick     bool
	big        bool // data are so many that an empty member gets a copy

	// What clients know.
	rows []*Row

	trace   func(string) // nil: not wanted
	lastWhy string
	bad     error // first violation
}

// Row is one client's write.
type Row struct {
	Body string
	Node raftfsm.NodeID
	t    *Txn
	OK   bool
	Gone bool // no OK will come
	Kept bool // acknowledged, then given up by a person who accepted a loss: what copies there are stay
}

type hold struct {
	op raftfsm.Op
	to raftfsm.NodeID
}

type heldOrder struct {
	hold
	go1 func()
}

// coord is a node that leads the Raft group, or thinks so.
type coord struct {
	id    raftfsm.NodeID
	term  uint64
	board *raftfsm.Board
	busy  bool
	state *raftfsm.State // of a deposed one: as it was
	until int64          // a deposed one gives orders that long
	run   int            // of its agent
}

// tick gives the board at the present time.
func (c *coord) tick(w *World) *raftfsm.Board {
	c.board.Tick(ms(w.now))
	return c.board
}

// servers are the Raft servers: all members vote.
func (w *World) servers() []raftfsm.RaftServer {
	out := make([]raftfsm.RaftServer, 0, len(w.machine.State.Members))
	for _, m := range w.machine.State.Members {
		out = append(out, raftfsm.RaftServer{ID: m.ID, Voter: true})
	}
	return out
}

// gone says that the coordinator's process is no more.
func (c *coord) gone(w *World) bool {
	a := w.agents[c.id]
	return !a.up || a.run != c.run || c.state != nil && w.now > c.until
}

// New makes an empty world; seed 0 is the one of scripts, in which nothing is
// left to chance.
func New(seed uint64) *World {
	w := &World{agents: map[raftfsm.NodeID]*Agent{}, cut: map[[2]raftfsm.NodeID]bool{}, names: map[string]string{}, mutants: map[string]bool{},
		seed: seed, owners: map[string]*owner{}, big: seed%4 == 2}
	w.own = w.owner("world")
	w.rng = w.own.rng
	return w
}

// Mutant says that a rule is switched off.
func (w *World) Mutant(name string) bool { return w.mutants[name] }

// Run lets d milliseconds pass.
func (w *World) Run(d int64) {
	end := w.now + d
	for len(w.events) > 0 && w.events[0].at <= end && w.bad == nil {
		e := w.events.pop()
		w.now = e.at
		if e.own.frozen {
			e.own.kept = append(e.own.kept, e)
			continue
		}
		w.own, w.rng = e.own, e.own.rng
		e.f()
	}
	w.own = w.owner("world")
	w.rng = w.own.rng
	w.now = end
}

func (w *World) jitter(lo, hi int64) int64 {
	if w.rng == nil {
		return (lo + hi) / 2
	}
	return lo + w.rng.Int64N(hi-lo+1)
}

func (w *World) chance(percent int) bool { return w.rng != nil && w.rng.IntN(100) < percent }

// transit is how long a message is under way.
func (w *World) transit() int64 {
	if w.rng == nil {
		return 1
	}
	return w.rng.Int64N(4)
}

func (w *World) newUUID(id raftfsm.NodeID) string {
	w.uuids++
	h := string(id)
	if !strings.Contains("abcdef", h) {
		h = "f"
	}
	u := fmt.Sprintf("%s0000000-0000-0000-0000-%012x", h, w.uuids)
	name := string(id)
	for n := 2; ; n++ {
		taken := false
		for _, o := range w.names {
			taken = taken || o == name
		}
		if !taken {
			break
		}
		name = fmt.Sprintf("%s%d", id, n)
	}
	w.names[u] = name
	return u
}

// text puts names for server uuids.
func (w *World) text(s string) string {
	us := make([]string, 0, len(w.names))
	for u := range w.names {
		us = append(us, u)
	}
	sort.Strings(us)
	for _, u := range us {
		s = strings.ReplaceAll(s, u, w.names[u])
	}
	return s
}

func (w *World) say(format string, args ...any) {
	if w.trace != nil {
		w.trace(w.text(fmt.Sprintf(format, args...)))
	}
}

// fault is a violation that harms no data.
func (w *World) fault(format string, args ...any) {
	if w.bad == nil {
		w.bad = fmt.Errorf("at %d ms: %s", w.now, w.text(fmt.Sprintf(format, args...)))
		w.say("VIOLATION %s", w.bad)
	}
}

func (w *World) violate(format string, args ...any) {
	if w.bad == nil {
		w.bad = fmt.Errorf("%w at %d ms: %s", errUnsafe, w.now, w.text(fmt.Sprintf(format, args...)))
		w.say("VIOLATION %s", w.bad)
	}
}

func (w *World) mysqld(id raftfsm.NodeID) *Mysqld {
	if a := w.agents[id]; a != nil {
		return a.md
	}
	return nil
}

// AddNode makes a host with an agent and a mysqld that runs.
func (w *World) AddNode(id raftfsm.NodeID, witness bool) {
	a := &Agent{w: w, id: id}
	w.agents[id] = a
	w.order = append(w.order, id)
	slices.Sort(w.order)
	if !witness {
		a.md = newMysqld(w, id)
		a.md.start()
		w.as(w.mysqldOf(id), func() { w.pump(a.md) })
	}
	w.as(w.agentOf(id), a.start)
}

func (w *World) pump(m *Mysqld) {
	n := 100
	if w.rng != nil {
		n = 1 + w.rng.IntN(8)
	}
	busy := m.pump(n)
	if w.rng != nil && !busy && len(m.relay) == 0 {
		w.pumpIn(m, w.jitter(20, 60)) // until it is woken
		return
	}
	w.pumpIn(m, w.jitter(1, 12))
}

func (w *World) pumpIn(m *Mysqld, d int64) {
	m.pumpAt = w.now + d
	m.pumps++
	turn := m.pumps
	w.after(d, func() {
		if m.pumps == turn {
			w.pump(m)
		}
	})
}

func (w *World) ackDelay() int64 {
	if w.rng == nil {
		return 1
	}
	return w.rng.Int64N(3)
}

// linked says that packets pass both ways.
func (w *World) linked(a, b raftfsm.NodeID) bool {
	return !w.cut[[2]raftfsm.NodeID{a, b}] && !w.cut[[2]raftfsm.NodeID{b, a}]
}

func (w *World) passes(from, to raftfsm.NodeID) bool { return !w.cut[[2]raftfsm.NodeID{from, to}] }

// --- Raft.

// majority says that the node reaches a majority of the agents.
func (w *World) majority(id raftfsm.NodeID) bool {
	members := w.machine.State.Members
	n := 0
	for _, m := range members {
		if a := w.agents[m.ID]; a != nil && a.up && (m.ID == id || w.linked(id, m.ID)) && !w.agentOf(m.ID).frozen {
			n++
		}
	}
	return len(members) == 0 || n*2 > len(members)
}

// Found makes the node found the cluster.
func (w *World) Found(id raftfsm.NodeID, p raftfsm.Policy) {
	w.append(raftfsm.Command{Kind: raftfsm.CmdFound, Cluster: clusterID, Policy: &p})
	w.Join(id)
	w.Lead(id)
	w.watchLeader()
}

// Join makes the node a member.
func (w *World) Join(id raftfsm.NodeID) {
	a := w.agents[id]
	m := raftfsm.Member{ID: id, Name: string(id), Address: string(id) + ":8801", Witness: a.md == nil, ReplicationPassword: "secret"}
	if a.md != nil {
		m.MySQLHost, m.MySQLPort = string(id), 3306
	}
	w.append(raftfsm.Command{Kind: raftfsm.CmdMember, Member: &m})
}

// Lead makes the node the coordinator; the one before may not know it yet.
func (w *World) Lead(id raftfsm.NodeID) {
	if old := w.leader; old != nil {
		w.depose(old)
	}
	w.term++
	w.index++ // Raft's own entry
	c := &coord{id: id, term: w.term, board: raftfsm.NewBoard(id, ms(w.now)), run: w.agents[id].run}
	w.leader, w.lastWhy = c, ""
	w.say("coordinator %s", id)
	w.as(w.agentOf(id), func() { w.loop(c) })
	for _, o := range w.order {
		w.tell(w.agentOf(o), 0, func() {
			if a := w.agents[o]; a.up {
				a.report(nil)
			}
		})
	}
}

func (w *World) depose(c *coord) {
	s := w.machine.State.Clone()
	c.state, c.until = &s, w.now+w.jitter(0, 500)
	if w.rng == nil {
		c.until = 0
	}
	if w.agentOf(c.id).frozen { // it notices when it goes on
		c.until = 1 << 60
		w.tell(w.agentOf(c.id), 0, func() { c.until = w.now + w.jitter(0, 300) })
	}
	w.leader = nil
}

func (w *World) watchLeader() {
	if c := w.leader; c != nil {
		o := w.agentOf(c.id)
		if c.gone(w) || o.frozen && w.now-o.since > 800 || !o.frozen && !w.majority(c.id) {
			w.depose(c)
		}
	}
	if w.leader == nil && !w.electing {
		w.electing = true
		w.after(w.jitter(300, 900), func() {
			w.electing = false
			var can []raftfsm.NodeID
			for _, m := range w.machine.State.Members {
				if a := w.agents[m.ID]; a.up && !w.agentOf(m.ID).frozen && w.majority(m.ID) {
					can = append(can, m.ID)
				}
			}
			if w.leader == nil && len(can) > 0 {
				i := 0
				if w.rng != nil {
					i = w.rng.IntN(len(can))
				}
				w.Lead(can[i])
			}
		})
	}
	w.looks++
	for i := len(w.rows) - 1; w.looks%4 == 0 && !w.healed && i >= max(0, len(w.rows)-50); i-- {
		if r := w.rows[i]; r.OK {
			w.checkHeld(r)
		}
	}
	w.after(w.jitter(40, 60), w.watchLeader)
}

// append commits an entry.
func (w *World) append(c raftfsm.Command) raftfsm.Result {
	w.index++
	w.commits++
	before := w.machine.State
	d, err := raftfsm.Decode(c.Encode())
	if err != nil {
		panic(err)
	}
	r := w.machine.Apply(w.index, d)
	if w.trace != nil {
		w.say("%s", w.describe(c, r))
	}
	w.checkApplied(&before, c, r)
	if r.Dropped == "" {
		it := c.Node
		switch c.Kind {
		case raftfsm.CmdPromote:
			it = c.Primary
		case raftfsm.CmdRebuild:
			it = c.Rebuild.Recipient
		case raftfsm.CmdWish:
			it = c.Wish.Recipient
		}
		w.happened("commit", string(c.Kind), it)
	}
	return r
}

func (w *World) describe(c raftfsm.Command, r raftfsm.Result) string {
	s := &w.machine.State
	var b strings.Builder
	fmt.Fprintf(&b, "commit %d %s", w.index, c.Kind)
	switch c.Kind {
	case raftfsm.CmdMember:
		fmt.Fprintf(&b, " %s", c.Member.Name)
	case raftfsm.CmdRevoke:
		fmt.Fprintf(&b, " epoch %d: %s", c.Epoch, c.Why)
	case raftfsm.CmdPromote:
		fmt.Fprintf(&b, " epoch %d: %s A=%s k=%d floor %s", c.Epoch, c.Primary, ackText(c.Ackers), c.K, c.Floor)
	case raftfsm.CmdSettle:
		fmt.Fprintf(&b, " epoch %d", c.Epoch)
	case raftfsm.CmdIntent:
		switch i := c.Intent; {
		case i == nil:
			b.WriteString(" none")
		case i.Kind == raftfsm.IntentRemove:
			fmt.Fprintf(&b, " remove %s", i.Node)
		default:
			fmt.Fprintf(&b, " raise k to %d", i.K)
		}
	case raftfsm.CmdAcks:
		fmt.Fprintf(&b, " A=%s k=%d", ackText(c.Ackers), c.K)
		if c.Why != "" {
			b.WriteString(": " + c.Why)
		}
	case raftfsm.CmdCheckpoint:
		for _, p := range c.Checkpoints {
			fmt.Fprintf(&b, " %s %s", p.Node, p.Set)
		}
	case raftfsm.CmdRebuild:
		fmt.Fprintf(&b, " %s from %s: %s", c.Rebuild.Recipient, c.Rebuild.Donor, c.Rebuild.Why)
	case raftfsm.CmdWish:
		fmt.Fprintf(&b, " %s from %s", c.Wish.Recipient, orBest(c.Wish.From))
	case raftfsm.CmdRequest:
		if c.Request == nil {
			fmt.Fprintf(&b, " none: %s", c.Why)
		} else {
			fmt.Fprintf(&b, " %s to %s chain %v", c.Request.Kind, c.Request.Target, c.Request.Chain)
		}
	case raftfsm.CmdResume:
		fmt.Fprintf(&b, ": %s", c.Why)
	case raftfsm.CmdRebuildEnd, raftfsm.CmdRemoveMember, raftfsm.CmdCancel:
		fmt.Fprintf(&b, " %s %s", c.Node, c.Why)
	}
	if r.Dropped != "" {
		fmt.Fprintf(&b, " — dropped: %s", r.Dropped)
	}
	_ = s
	return b.String()
}

func orBest(id raftfsm.NodeID) raftfsm.NodeID { return cmp.Or(id, "the best") }

func ackText(as []raftfsm.Acker) string {
	var ids []string
	for _, a := range as {
		ids = append(ids, string(a.Node))
	}
	return "{" + strings.Join(ids, ",") + "}"
}

// --- coordinator.

func (w *World) loop(c *coord) {
	if c.gone(w) {
		return
	}
	w.decide(c)
	w.after(w.jitter(90, 110), func() { w.loop(c) })
}

// kick makes the coordinator look again.
func (w *World) kick(c *coord) {
	if !w.noKick {
		w.tell(w.agentOf(c.id), 0, func() { w.decide(c) })
	}
}

func (w *World) decide(c *coord) {
	if c.busy || c.gone(w) {
		return
	}
	s := c.state
	if s == nil {
		s = &w.machine.State
	}
	state := s.Clone()
	d := raftfsm.Decide(state, c.tick(w).View(&state, w.servers()))
	if len(d.Commit) > 0 && len(d.Do) > 0 {
		w.violate("a decision has both commands and orders")
	}
	if c.state == nil && d.Why != w.lastWhy {
		w.lastWhy = d.Why
		if d.Why != "" {
			w.say("  (%s)", d.Why)
		}
	}
	if len(d.Commit) > 0 {
		if c.state == nil {
			c.busy = true
			w.after(w.jitter(1, 8), func() { w.commit(c, d.Commit) })
		}
		return
	}
	for _, o := range d.Do {
		w.send(c, o)
	}
	if d.Handover != "" && c.state == nil {
		w.say("handover to %s", d.Handover)
		w.Lead(d.Handover)
	}
}

func (w *World) commit(c *coord, cmds []raftfsm.Command) {
	c.busy = false
	for _, cmd := range cmds {
		if w.leader != c {
			// Its entry may still be in the log of the next leader, or not.
			if w.chance(50) && c.term+1 == w.term {
				w.append(cmd)
			}
			return
		}
		version := w.machine.State.Version
		if r := w.append(cmd); r.Dropped != "" && cmd.On == version {
			w.fault("L1: Decide wants %s, and Apply refuses it on the same state: %s", cmd.Kind, r.Dropped)
		}
		if cmd.Kind == raftfsm.CmdCheckpoint {
			c.tick(w).Checkpointed(cmd.Checkpoints)
		}
	}
	w.kick(c)
}

func orderText(o raftfsm.Order) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s to %s", o.Op, o.To)
	switch o.Op {
	case raftfsm.OpPromote, raftfsm.OpSetAcks:
		fmt.Fprintf(&b, " k=%d", o.K)
	case raftfsm.OpFollow:
		fmt.Fprintf(&b, " source %s", o.Source.Node)
		if o.Ack {
			b.WriteString(" acknowledging")
		}
		if o.Discard {
			b.WriteString(" discarding what was received")
		}
	case raftfsm.OpBarrier:
		fmt.Fprintf(&b, " within {%s}", strings.Join(o.Allowed, ","))
	case raftfsm.OpLockOut:
		fmt.Fprintf(&b, " of %s", o.Account)
	case raftfsm.OpAccounts:
		for _, a := range o.Accounts {
			fmt.Fprintf(&b, " %s", a.User)
		}
	case raftfsm.OpRebuild:
		fmt.Fprintf(&b, " from %s", o.Source.Node)
	case raftfsm.OpStart:
		if o.Cut {
			fmt.Fprintf(&b, " keeping %s", o.Keep)
		}
	case raftfsm.OpSeal:
		if o.Gentle {
			b.WriteString(" gently")
		}
	}
	return b.String()
}

func (w *World) send(c *coord, o raftfsm.Order) {
	w.orders++
	c.tick(w).Sent(o)
	if w.trace != nil {
		w.say("  order %s", orderText(o))
	}
	deliver := func() { w.deliver(c, o) }
	w.after(raftfsm.OrderBound(o.Op).Milliseconds(), func() { // an answer that was lost
		if !c.gone(w) {
			c.tick(w).Answered(o, raftfsm.Answer{Token: o.Token, Op: o.Op, Code: raftfsm.CodeUnreachable, Err: "no answer"})
		}
	})
	if i := slices.IndexFunc(w.holds, func(h hold) bool { return h.op == o.Op && h.to == o.To }); i >= 0 {
		w.say("  held: %s", orderText(o))
		w.held = append(w.held, &heldOrder{w.holds[i], deliver})
		return
	}
	w.happened("sent", string(o.Op), o.To)
	f := w.fate("order", string(o.Op), o.To)
	if f.lost {
		return // the coordinator sees it at the deadline
	}
	w.tell(w.agentOf(o.To), w.transit()+f.late, deliver)
	if f.again > 0 {
		w.tell(w.agentOf(o.To), f.again, deliver)
	}
}

func (w *World) deliver(c *coord, o raftfsm.Order) {
	a := w.agents[o.To]
	answer := func(ans raftfsm.Answer) {
		f := w.fate("answer", string(o.Op), o.To)
		w.tell(w.agentOf(c.id), w.transit()+f.late, func() {
			if c.gone(w) || !w.passes(o.To, c.id) || f.lost {
				return
			}
			if c.state == nil && w.trace != nil {
				w.say("  answer %s", answerText(o, ans))
			}
			w.happened("answer", string(o.Op), o.To)
			c.tick(w).Answered(o, ans)
			w.kick(c)
		})
	}
	if !w.passes(c.id, o.To) {
		return
	}
	if a == nil || !a.up {
		answer(raftfsm.Answer{Token: o.Token, Op: o.Op, Code: raftfsm.CodeUnreachable, Err: "connection refused"})
		return
	}
	a.execute(o, answer)
}

func answerText(o raftfsm.Order, a raftfsm.Answer) string {
	if !a.OK {
		return fmt.Sprintf("%s of %s: %s %s", a.Op, o.To, a.Code, a.Err)
	}
	text := fmt.Sprintf("%s of %s", a.Op, o.To)
	if a.Op == raftfsm.OpSeal || a.Op == raftfsm.OpPrepare {
		text += fmt.Sprintf(": executed %s", a.Executed)
		if !a.Executed.Contains(a.Received) {
			text += fmt.Sprintf(" received %s", a.Received)
		}
		if !a.Running {
			text += ", down"
		}
	}
	return text
}

// sendReport gives a report to the coordinator and its grant to then.
func (w *World) sendReport(a *Agent, r *raftfsm.Report, then func(raftfsm.Grant, bool)) {
	c := w.leader
	if c == nil {
		w.after(w.transit(), func() { then(raftfsm.Grant{}, false) })
		return
	}
	f := w.fate("report", "any", a.id)
	w.tell(w.agentOf(c.id), w.transit()+f.late, func() {
		if f.lost || c.gone(w) || !w.passes(a.id, c.id) {
			w.tell(w.agentOf(a.id), 0, func() { then(raftfsm.Grant{}, false) })
			return
		}
		c.tick(w).Reported(r)
		w.kickOn(c, r)
		if w.leader != c || !w.majority(c.id) { // VerifyLeader
			return
		}
		g := raftfsm.GrantFor(&w.machine.State, r.Node)
		f := w.fate("grant", "any", a.id)
		w.tell(w.agentOf(a.id), w.transit()+f.late, func() {
			if w.passes(c.id, a.id) && !f.lost {
				then(g, true)
			}
		})
	})
}

func (w *World) kickOn(c *coord, r *raftfsm.Report) {
	if r.Mysqld == raftfsm.MysqldDown || w.chance(20) {
		w.kick(c)
	}
}

// --- faults.

// KillMysqld is SIGKILL; its agent notices at once.
func (w *World) KillMysqld(id raftfsm.NodeID) {
	if m := w.mysqld(id); m != nil {
		m.kill()
		if a := w.agents[id]; a.up {
			w.tell(w.agentOf(id), w.jitter(1, 3), func() {
				if a.up {
					a.report(nil)
				}
			})
		}
	}
}

// KillAgent is SIGKILL; its mysqld goes on.
func (w *World) KillAgent(id raftfsm.NodeID) {
	if w.agents[id].up {
		w.agents[id].kill()
		w.thaw(w.agentOf(id))
	}
}

// StartAgent starts a dead agent.
func (w *World) StartAgent(id raftfsm.NodeID) {
	if !w.agents[id].up {
		w.as(w.agentOf(id), w.agents[id].start)
	}
}

// KillHost loses power: nothing that is in memory or in /run is left.
func (w *World) KillHost(id raftfsm.NodeID) {
	w.KillAgent(id)
	w.agents[id].leaseEnd = 0
	if m := w.mysqld(id); m != nil {
		m.end(true)
	}
}

// Cut stops packets; ids alone means from all others and to them.
func (w *World) Cut(from, to raftfsm.NodeID) { w.cut[[2]raftfsm.NodeID{from, to}] = true }

// Isolate cuts a host off.
func (w *World) Isolate(id raftfsm.NodeID) {
	for _, o := range w.order {
		if o != id {
			w.Cut(id, o)
			w.Cut(o, id)
		}
	}
}

// Heal restores the network.
func (w *World) Heal() { clear(w.cut) }

// Ask is a person's request: a switchover or failover to a node, or to the best.
func (w *World) Ask(kind raftfsm.RequestKind, to raftfsm.NodeID, allowLoss bool) raftfsm.Refusal {
	c := w.leader
	if c == nil {
		return raftfsm.Refusal{Code: "no coordinator"}
	}
	s := w.machine.State.Clone()
	v := c.tick(w).View(&s, w.servers())
	var r raftfsm.Request
	var no raftfsm.Refusal
	if kind == raftfsm.RequestSwitchover {
		r, no = raftfsm.PlanSwitchover(&s, &v, to)
		r.Timeout = ms(10000)
	} else {
		r, no = raftfsm.PlanFailover(&s, &v, to, allowLoss)
	}
	if no.Code != "" {
		w.say("  refused: %s %s", no.Code, no.Text)
		return no
	}
	w.append(raftfsm.Command{Kind: raftfsm.CmdRequest, On: s.Version, Request: &r})
	w.kick(c)
	return no
}

// Leave is a person's wish that a member be forgotten.
func (w *World) Leave(id raftfsm.NodeID) {
	if m, ok := w.machine.State.Member(id); ok {
		m.Leaving = true
		w.append(raftfsm.Command{Kind: raftfsm.CmdMember, Member: &m})
	}
}

// --- clients.

// Write is one client's insert; false if the server takes none.
func (w *World) Write(id raftfsm.NodeID, body string) (*Row, bool) {
	m := w.mysqld(id)
	if m == nil || !m.usable() || m.sro || m.setting != nil {
		return nil, false
	}
	w.checkServing(m)
	r := &Row{Body: body, Node: id}
	w.rows = append(w.rows, r)
	r.t = m.commit(body, func(ok bool) {
		r.OK, r.Gone = ok, !ok
		if ok {
			w.checkAcknowledged(r, m)
		}
	})
	if r.OK {
		w.checkAcknowledged(r, m)
	}
	return r, true
}

// --- checkers.

// holds says that the server has the row with this content: in its engine, or it
// will when it has started.
func (m *Mysqld) holds(r *Row) bool {
	t := m.rows[r.t.key]
	if t == nil && !m.up {
		t = m.logged[r.t.key]
	}
	return t != nil && t.Body == r.Body
}

// checkAcknowledged is S1: an OK from a server that does not reign is legal only
// for a row that the one that reigns holds.
func (w *World) checkAcknowledged(r *Row, m *Mysqld) {
	s := &w.machine.State
	if r.t == nil { // committed at once: looked at when Write has it
		return
	}
	w.happened("ok", "", r.Node)
	if w.trace != nil {
		w.say("  OK %s from %s", r.Body, r.Node)
	}
	if s.Primary != m.node && !w.mysqld(s.Primary).holds(r) {
		w.violate("S1: %s acknowledged %s while %s reigns in epoch %d and does not hold it", m.node, r.Body, s.Primary, s.Epoch)
	}
	w.checkHeld(r)
}

// opened: a server is not opened for a reign that is over and has no lease (R8).
func (w *World) opened(a *Agent, epoch uint64) {
	if s := &w.machine.State; s.Epoch > epoch && w.now > a.proven {
		w.violate("S6: %s was opened for epoch %d, %d ms after epoch %d had begun", a.id, epoch, w.now-w.promotedAt, s.Epoch)
	}
}

// checkServing is S6: a server with a living agent takes no writes after its lease.
func (w *World) checkServing(m *Mysqld) {
	a := w.agents[m.node]
	since := max(a.proven, a.upSince, w.agentOf(m.node).thawed, w.mysqldOf(m.node).thawed)
	if a.up && !w.agentOf(m.node).frozen && w.now-since > 1500 {
		w.violate("S6: %s takes writes %d ms after its lease", m.node, w.now-a.proven)
	}
}

// checkApplied looks at each committed command.
func (w *World) checkApplied(before *raftfsm.State, c raftfsm.Command, r raftfsm.Result) {
	s := &w.machine.State
	if s.Epoch < before.Epoch {
		w.violate("S3: epoch went back from %d to %d", before.Epoch, s.Epoch)
	}
	if s.Epoch == before.Epoch && s.Primary != before.Primary {
		w.violate("S3: two primaries in epoch %d", s.Epoch)
	}
	if r.Dropped != "" {
		return
	}
	if c.Kind == raftfsm.CmdAcks {
		for _, r := range w.rows {
			if r.OK {
				w.checkHeld(r)
			}
		}
	}
	if c.Kind != raftfsm.CmdPromote {
		return
	}
	w.promotedAt = w.now
	m := w.mysqld(s.Primary)
	if c.Lossy { // a person accepted that
		for _, r := range w.rows {
			if r.OK && !m.holds(r) {
				r.OK, r.Gone, r.Kept = false, true, true
			}
		}
	}
	for _, r := range w.rows {
		if r.OK && !m.holds(r) {
			w.violate("S2: %s was acknowledged by %s and is not on %s, promoted in epoch %d", r.Body, r.Node, m.node, s.Epoch)
		}
	}
	if !c.Floor.Contains(before.Floor) && !c.Lossy && !w.blunt {
		w.violate("S2: the floor fell")
	}
	w.checkContents()
}

// checkContents: no GTID has two contents.
func (w *World) checkContents() {
	all := map[string]*Txn{}
	for _, id := range w.order {
		m := w.mysqld(id)
		if m == nil {
			continue
		}
		for k, t := range m.rows {
			if o := all[k]; o != nil && o.Body != t.Body {
				w.violate("S5: %s is %q and %q", k, o.Body, t.Body)
			}
			all[k] = t
		}
	}
}

// checkLastCopy is S7: what is about to be thrown away is not the last of it.
func (w *World) checkLastCopy(m *Mysqld, r *Row) {
	if !r.OK && !r.Kept {
		return
	}
	for _, id := range w.order {
		if o := w.mysqld(id); o != nil && o != m && o.has(r) {
			return
		}
	}
	if w.keptBy(r, m) {
		return
	}
	w.violate("S7: the data of %s were the last copy of %s", m.node, r.Body)
}

// has says that the row is on the server's disk, in whatever log.
func (m *Mysqld) has(r *Row) bool {
	same := func(t *Txn) bool { return t != nil && t.Body == r.Body }
	if same(m.rows[r.t.key]) || same(m.logged[r.t.key]) {
		return true
	}
	return m.received.Contains(r.t.set) && slices.ContainsFunc(m.relay, func(t *Txn) bool { return t.key == r.t.key && same(t) })
}

// checkEffects: what no rollback undoes is where its record is.
func (w *World) checkEffects() {
	for _, m := range w.machine.State.DataMembers() {
		d := w.mysqld(m.ID)
		for k, t := range d.effects {
			if o := d.rows[k]; o == nil || o.Body != t.Body {
				w.violate("S5: the effect of %s (%q) is on %s without its record", k, t.Body, m.ID)
			}
		}
	}
}

// checkHeld is S2 before it is too late: no set of members of A that is enough to
// close the epoch lacks a row that was acknowledged and is not in the floor. (One
// whose data are others than those it entered A with closes nothing.)
func (w *World) checkHeld(r *Row) {
	s := &w.machine.State
	if s.K == 0 || w.blunt || w.rng == nil || s.Floor.Contains(r.t.set) {
		return
	}
	lack := 0
	for _, a := range s.Ackers {
		if m := w.mysqld(a.Node); m.uuid == a.ServerUUID && !m.has(r) {
			lack++
		}
	}
	if lack > len(s.Ackers)-s.K {
		w.violate("S2, latent: %s was acknowledged by %s, and %d of A=%s lack it, k is %d", r.Body, r.Node, lack, ackText(s.Ackers), s.K)
	}
}

// lacking gives acknowledged rows that a server does not hold.
func (w *World) lacking(m *Mysqld) []string {
	var out []string
	for _, r := range w.rows {
		if r.OK && !m.holds(r) {
			out = append(out, r.Body)
		}
	}
	return out
}

// Unhealthy says what is missing to a cluster that is well; empty: nothing.
func (w *World) Unhealthy() string {
	s := &w.machine.State
	p := w.mysqld(s.Primary)
	switch {
	case w.leader == nil:
		return "no coordinator"
	case s.Phase != raftfsm.PhaseSettled:
		return fmt.Sprintf("phase is %q: %s", s.Phase, w.lastWhy)
	case p == nil || !p.usable() || p.sro || len(p.waiters) > 0:
		return "the primary is not open or commits wait"
	case s.Intent != nil || s.Request != nil:
		return "an intent or a request is under way"
	case s.K != s.KPolicy():
		return fmt.Sprintf("k is %d, not %d: %s", s.K, s.KPolicy(), w.lastWhy)
	case p.sourceOn && p.k != s.K || p.sourceOn != (s.K > 0):
		return "the primary enforces another k"
	case len(s.Rebuilds) > 0 || len(s.Wishes) > 0:
		return "a rebuild is under way or asked for: " + w.lastWhy
	}
	for _, m := range s.DataMembers() {
		d := w.mysqld(m.ID)
		if m.Leaving {
			if m.ID == s.Primary {
				continue
			}
			return fmt.Sprintf("%s has not left: %s", m.ID, w.lastWhy)
		}
		if m.ID == s.Primary {
			continue
		}
		if d.link == nil || d.linkTo != p || !d.executed.Equal(p.executed) {
			return fmt.Sprintf("%s does not follow: %s %s", m.ID, d.ioErr, w.lastWhy)
		}
		if _, acker := s.Acker(m.ID); !acker || !d.link.ack {
			return fmt.Sprintf("%s does not acknowledge: %s", m.ID, w.lastWhy)
		}
	}
	return ""
}

// Describe shows the state and each server on a line.
func (w *World) Describe() string {
	s := &w.machine.State
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %d %s, primary %s, A=%s k=%d, floor %s, %s\n", s.Epoch, s.Phase, s.Primary, ackText(s.Ackers), s.K, s.Floor, s.Policy.Availability)
	for _, id := range w.order {
		a, m := w.agents[id], w.mysqld(id)
		fmt.Fprintf(&b, "%s:", id)
		if !a.up {
			b.WriteString(" agent dead,")
		}
		switch {
		case m == nil:
			b.WriteString(" witness")
		case m.starting:
			b.WriteString(" mysqld starting")
		case !m.up:
			fmt.Fprintf(&b, " mysqld down, binlog %s", m.loggedS.Union(m.executed))
		default:
			b.WriteString(" executed " + m.executed.String())
			if !m.executed.Contains(m.received) {
				b.WriteString(", received " + m.received.String())
			}
			if len(m.waiters) > 0 {
				fmt.Fprintf(&b, ", %d commits wait", len(m.waiters))
			}
			if !m.sro {
				b.WriteString(", writable")
			}
			if m.sourceOn {
				fmt.Fprintf(&b, ", waits for %d", m.k)
			}
			if m.channel != "" {
				fmt.Fprintf(&b, ", from %s", m.channel)
				switch {
				case !m.io:
					b.WriteString(" (stopped)")
				case m.link == nil:
					fmt.Fprintf(&b, " (%s)", m.ioErr)
				case m.link.ack:
					b.WriteString(" acknowledging")
				}
			}
		}
		b.WriteString("\n")
	}
	return w.text(b.String())
}
