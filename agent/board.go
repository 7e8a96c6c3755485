package agent

import (
	"cmp"
	"slices"
	"time"

	"ha/raftfsm"
)

// board is what a coordinator has seen since it leads: the last report of each
// node, its orders and their answers. Its clock is the coordinator's own and
// leaves out the coordinator's own pauses, so that it does not take them for
// others' silence. Not safe for concurrent use.
type board struct {
	self  raftfsm.NodeID
	clock time.Duration // active time since this coordinator leads
	last  time.Time     // when the clock was last moved
	seen  uint64        // counts reports and answers

	nodes      map[raftfsm.NodeID]*seenNode
	phase      phaseKey
	phaseSince time.Duration
	ackers     []raftfsm.Acker // of the last view
}

type phaseKey struct {
	epoch, index uint64
	phase        raftfsm.Phase
}

type seenNode struct {
	report     *raftfsm.Report
	at         time.Duration // when the report came
	seen       uint64
	orders     map[raftfsm.Op]*sentOrder
	attachedAt time.Duration // when it was last seen attached
	checkAt    time.Duration // when its checkpoint was last committed
	checked    bool
}

type sentOrder struct {
	order    raftfsm.Order
	answer   *raftfsm.Answer
	at       time.Duration // sent, or answered
	deadline time.Duration
	seen     uint64
	failed   int
}

// maxStep is the most that the clock moves at once: a longer gap between two
// looks was a pause of this process or host.
const maxStep = 250 * time.Millisecond

func newBoard(self raftfsm.NodeID, now time.Time) *board {
	return &board{self: self, last: now, nodes: map[raftfsm.NodeID]*seenNode{}}
}

// tick moves the clock.
func (b *board) tick(now time.Time) {
	if step := now.Sub(b.last); step > 0 {
		b.clock += min(step, maxStep)
	}
	b.last = now
}

func (b *board) node(id raftfsm.NodeID) *seenNode {
	n := b.nodes[id]
	if n == nil {
		n = &seenNode{orders: map[raftfsm.Op]*sentOrder{}, attachedAt: b.clock}
		b.nodes[id] = n
	}
	return n
}

// reported notes a report; one that was overtaken by a later one is dropped.
func (b *board) reported(r *raftfsm.Report) {
	n := b.node(r.Node)
	if n.report != nil && n.report.Run == r.Run && r.Seq <= n.report.Seq {
		return
	}
	b.seen++
	n.report, n.at, n.seen = r, b.clock, b.seen
}

// sent notes an order that goes out; failures of the same operation are kept.
func (b *board) sent(o raftfsm.Order, timeout time.Duration) {
	n := b.node(o.To)
	s := &sentOrder{order: o, at: b.clock, deadline: b.clock + timeout}
	if old := n.orders[o.Op]; old != nil && old.order.Token.Epoch == o.Token.Epoch {
		s.failed = old.failed
	}
	n.orders[o.Op] = s
}

// answered notes the answer to an order, if it is still the last of its kind.
func (b *board) answered(o raftfsm.Order, a raftfsm.Answer) {
	s := b.node(o.To).orders[o.Op]
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

// checkpointed notes that checkpoints of these nodes were committed.
func (b *board) checkpointed(ps []raftfsm.Checkpoint) {
	for _, p := range ps {
		n := b.node(p.Node)
		n.checkAt, n.checked = b.clock, true
	}
}

// view is what Decide sees.
func (b *board) view(s *raftfsm.State, servers []raftfsm.RaftServer) raftfsm.View {
	if k := (phaseKey{s.Epoch, s.PhaseIndex, s.Phase}); k != b.phase {
		b.phase, b.phaseSince = k, b.clock
		for _, n := range b.nodes {
			n.attachedAt = b.clock // a new reign starts to count anew
		}
	}
	v := raftfsm.View{Self: b.self, Leading: b.clock, PhaseAge: b.clock - b.phaseSince}
	for _, m := range s.Members {
		v.Nodes = append(v.Nodes, b.nodeView(m.ID, servers))
	}
	for _, a := range s.Ackers {
		n := b.node(a.Node)
		if !slices.Contains(b.ackers, a) {
			n.attachedAt = b.clock // it has just entered
		}
		if raftfsm.IsAttached(s, &v, a) {
			n.attachedAt = b.clock
		}
		v.Node(a.Node).Detached = b.clock - n.attachedAt
	}
	b.ackers = slices.Clone(s.Ackers)
	return v
}

func (b *board) nodeView(id raftfsm.NodeID, servers []raftfsm.RaftServer) raftfsm.NodeView {
	n := b.node(id)
	nv := raftfsm.NodeView{ID: id, Report: n.report, Age: b.clock, Seen: n.seen, CheckpointAge: time.Hour}
	if n.report != nil {
		nv.Age = b.clock - n.at
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
		ov := raftfsm.OrderView{Order: o.order, Answer: o.answer, Age: b.clock - o.at, Seen: o.seen, Failed: o.failed}
		if o.answer == nil {
			ov.Flight = b.clock < o.deadline
			if !ov.Flight {
				ov.Failed++
			}
		}
		nv.Orders = append(nv.Orders, ov)
	}
	slices.SortFunc(nv.Orders, func(a, b raftfsm.OrderView) int { return cmp.Compare(a.Order.Op, b.Order.Op) })
	return nv
}
