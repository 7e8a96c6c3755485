package raftfsm

import (
	"cmp"
	"slices"
	"time"
)

// Board is what a coordinator has seen since it leads: the last report of each
// node, its orders and their answers. Its clock is the coordinator's own and
// leaves out the coordinator's own pauses, so that it does not take them for
// others' silence. Not safe for concurrent use.
type Board struct {
	self  NodeID
	clock time.Duration // active time since this coordinator leads
	last  time.Duration // the reading at which the clock was last moved
	seen  uint64        // counts reports and answers

	nodes      map[NodeID]*seenNode
	phase      phaseKey
	phaseSince time.Duration
	request    uint64
	asked      time.Duration // when that request was first seen
	ackers     []Acker       // of the last view
}

type phaseKey struct {
	epoch, index uint64
	phase        Phase
}

type seenNode struct {
	report     *Report
	at         time.Duration // when the report came
	seen       uint64
	orders     map[Op]*sentOrder
	attachedAt time.Duration // when it was last seen attached
	applyingAt time.Duration // when its applier was last seen without an error
	checkAt    time.Duration // when its checkpoint was last committed
	checked    bool
}

type sentOrder struct {
	order    Order
	answer   *Answer
	at       time.Duration // sent, or answered
	deadline time.Duration
	seen     uint64
	failed   int
}

// maxStep is the most that the clock moves at once: a longer gap between two
// looks was a pause of this process or host.
const maxStep = 250 * time.Millisecond

// NewBoard makes the board of a node that begins to coordinate. Now is a reading
// of any clock of its own that only goes forward.
func NewBoard(self NodeID, now time.Duration) *Board {
	return &Board{self: self, last: now, nodes: map[NodeID]*seenNode{}}
}

// Tick moves the board's clock to a later reading. It is to be called before each
// of the methods below, and at least every tenth of a second.
func (b *Board) Tick(now time.Duration) {
	if step := now - b.last; step > 0 {
		b.clock += min(step, maxStep)
	}
	b.last = now
}

func (b *Board) node(id NodeID) *seenNode {
	n := b.nodes[id]
	if n == nil {
		n = &seenNode{orders: map[Op]*sentOrder{}, attachedAt: b.clock, applyingAt: b.clock}
		b.nodes[id] = n
	}
	return n
}

// Reported notes a report and gives the one before it, nil if there was none. One
// that was overtaken by a later one is dropped.
func (b *Board) Reported(r *Report) (before *Report) {
	n := b.node(r.Node)
	before = n.report
	if before != nil && before.Run == r.Run && r.Seq <= before.Seq {
		return before
	}
	if before != nil && before.Run != r.Run { // what that process was told has ended with it
		for _, o := range n.orders {
			if o.answer == nil {
				o.deadline = min(o.deadline, b.clock)
			}
		}
	}
	b.seen++
	n.report, n.at, n.seen = r, b.clock, b.seen
	if r.Mysqld != MysqldRunning || r.Replica == nil || r.Replica.SQLError == "" {
		n.applyingAt = b.clock
	}
	return before
}

// Sent notes an order that goes out; failures of the same operation are kept.
func (b *Board) Sent(o Order) {
	n := b.node(o.To)
	s := &sentOrder{order: o, at: b.clock, deadline: b.clock + OrderBound(o.Op)}
	if old := n.orders[o.Op]; old != nil && old.order.Token.Epoch == o.Token.Epoch {
		s.failed = old.failed
	}
	n.orders[o.Op] = s
}

// Answered notes the answer to an order, if it is still the last of its kind. An agent
// that carried it out has ended what it did for older ones: their answers were lost.
func (b *Board) Answered(o Order, a Answer) {
	n := b.node(o.To)
	if a.OK {
		for _, older := range n.orders {
			if older.answer == nil && older.order.Token.Compare(o.Token) < 0 {
				older.deadline = min(older.deadline, b.clock)
			}
		}
	}
	s := n.orders[o.Op]
	if s == nil || s.order.Token != o.Token || s.answer != nil {
		return
	}
	b.seen++
	s.answer, s.at, s.seen = &a, b.clock, b.seen
	if a.OK {
		s.failed = 0
	} else {
		s.failed++
	}
}

// Checkpointed notes that checkpoints of these nodes were committed.
func (b *Board) Checkpointed(ps []Checkpoint) {
	for _, p := range ps {
		n := b.node(p.Node)
		n.checkAt, n.checked = b.clock, true
	}
}

// View is what Decide sees.
func (b *Board) View(s *State, servers []RaftServer) View {
	if k := (phaseKey{s.Epoch, s.PhaseIndex, s.Phase}); k != b.phase {
		if b.phase != (phaseKey{}) { // else it has lasted for longer than we look
			b.phaseSince = b.clock
		}
		b.phase = k
		for _, n := range b.nodes {
			n.attachedAt = b.clock // a new reign starts to count anew
		}
	}
	var request uint64
	if s.Request != nil {
		request = s.Request.Index
	}
	if request != b.request {
		b.request, b.asked = request, b.clock
	}
	v := View{Self: b.self, Leading: b.clock, PhaseAge: b.clock - b.phaseSince, RequestAge: b.clock - b.asked}
	for _, m := range s.Members {
		v.Nodes = append(v.Nodes, b.nodeView(m.ID, servers))
	}
	for _, a := range s.Ackers {
		n := b.node(a.Node)
		if !slices.Contains(b.ackers, a) {
			n.attachedAt = b.clock // it has just entered
		}
		if IsAttached(s, &v, a) {
			n.attachedAt = b.clock
		}
		v.Node(a.Node).Detached = b.clock - n.attachedAt
	}
	b.ackers = slices.Clone(s.Ackers)
	return v
}

func (b *Board) nodeView(id NodeID, servers []RaftServer) NodeView {
	n := b.node(id)
	nv := NodeView{ID: id, Report: n.report, Age: b.clock, Seen: n.seen, CheckpointAge: time.Hour}
	if n.report != nil {
		nv.Age = b.clock - n.at
		nv.Broken = n.at - n.applyingAt
	}
	if n.checked {
		nv.CheckpointAge = b.clock - n.checkAt
	}
	for _, r := range servers {
		if r.ID == id {
			nv.Voter = r.Voter
		}
	}
	for _, o := range n.orders {
		ov := OrderView{Order: o.order, Answer: o.answer, Age: b.clock - o.at, Seen: o.seen, Failed: o.failed}
		if o.answer == nil {
			ov.Flight = b.clock < o.deadline
			if !ov.Flight {
				ov.Failed++
			}
		}
		nv.Orders = append(nv.Orders, ov)
	}
	slices.SortFunc(nv.Orders, func(a, b OrderView) int { return cmp.Compare(a.Order.Op, b.Order.Op) })
	return nv
}

// OrderBound is how long a coordinator waits for the answer to an order. The agent
// has bounds of its own; these are for answers that get lost.
func OrderBound(op Op) time.Duration {
	switch op {
	case OpPrepare, OpStart: // crash recovery, or an applier that is behind
		return 2 * time.Minute
	case OpFollow, OpSwap: // mysqld's clean end
		return time.Minute
	case OpSeal:
		return 15 * time.Second
	case OpSetAcks, OpExclude, OpLockOut:
		return 5 * time.Second
	}
	return 10 * time.Second
}
