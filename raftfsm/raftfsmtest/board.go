package raftfsmtest

import (
	"cmp"
	"slices"
	"time"

	"ha/raftfsm"
)

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// orderBounds are the agent package's.
var orderBounds = map[raftfsm.Op]int64{
	raftfsm.OpSeal: 15000, raftfsm.OpPrepare: 120000, raftfsm.OpPromote: 10000, raftfsm.OpBarrier: 10000,
	raftfsm.OpFollow: 60000, raftfsm.OpSetAcks: 5000, raftfsm.OpExclude: 5000, raftfsm.OpLockOut: 5000,
	raftfsm.OpAccounts: 10000, raftfsm.OpStart: 120000, raftfsm.OpRebuild: 10000,
}

// board is what a coordinator has seen since it leads: agent/board.go on the
// world's clock (raftfsm may not import it).
type board struct {
	w     *World
	self  raftfsm.NodeID
	began int64
	seen  uint64
	nodes map[raftfsm.NodeID]*seenNode

	epoch, index uint64
	phase        raftfsm.Phase
	phaseSince   int64
	ackers       []raftfsm.Acker
}

type seenNode struct {
	report     *raftfsm.Report
	at         int64
	seen       uint64
	orders     map[raftfsm.Op]*sentOrder
	attachedAt int64
	checkAt    int64
	checked    bool
}

type sentOrder struct {
	order    raftfsm.Order
	answer   *raftfsm.Answer
	at       int64
	deadline int64
	seen     uint64
	failed   int
}

func newBoard(w *World, self raftfsm.NodeID) *board {
	return &board{w: w, self: self, began: w.now, phaseSince: w.now, nodes: map[raftfsm.NodeID]*seenNode{}}
}

func (b *board) node(id raftfsm.NodeID) *seenNode {
	n := b.nodes[id]
	if n == nil {
		n = &seenNode{orders: map[raftfsm.Op]*sentOrder{}, attachedAt: b.w.now}
		b.nodes[id] = n
	}
	return n
}

func (b *board) reported(r *raftfsm.Report) {
	n := b.node(r.Node)
	if n.report != nil && n.report.Run == r.Run && r.Seq <= n.report.Seq {
		return
	}
	b.seen++
	n.report, n.at, n.seen = r, b.w.now, b.seen
}

func (b *board) sent(o raftfsm.Order) {
	n := b.node(o.To)
	s := &sentOrder{order: o, at: b.w.now, deadline: b.w.now + orderBounds[o.Op]}
	if old := n.orders[o.Op]; old != nil && old.order.Token.Epoch == o.Token.Epoch {
		s.failed = old.failed
	}
	n.orders[o.Op] = s
}

func (b *board) answered(o raftfsm.Order, a raftfsm.Answer) {
	s := b.node(o.To).orders[o.Op]
	if s == nil || s.order.Token != o.Token || s.answer != nil {
		return
	}
	b.seen++
	s.answer, s.at, s.seen = &a, b.w.now, b.seen
	if a.OK {
		s.failed = 0
	} else {
		s.failed++
	}
}

func (b *board) view(s *raftfsm.State) raftfsm.View {
	if s.Epoch != b.epoch || s.PhaseIndex != b.index || s.Phase != b.phase {
		b.epoch, b.index, b.phase, b.phaseSince = s.Epoch, s.PhaseIndex, s.Phase, b.w.now
		for _, n := range b.nodes {
			n.attachedAt = b.w.now
		}
	}
	v := raftfsm.View{Self: b.self, Leading: ms(b.w.now - b.began), PhaseAge: ms(b.w.now - b.phaseSince)}
	for _, m := range s.Members {
		v.Nodes = append(v.Nodes, b.nodeView(m.ID))
	}
	for _, a := range s.Ackers {
		n := b.node(a.Node)
		if !slices.Contains(b.ackers, a) || raftfsm.IsAttached(s, &v, a) {
			n.attachedAt = b.w.now
		}
		v.Node(a.Node).Detached = ms(b.w.now - n.attachedAt)
	}
	b.ackers = slices.Clone(s.Ackers)
	return v
}

func (b *board) nodeView(id raftfsm.NodeID) raftfsm.NodeView {
	n := b.node(id)
	nv := raftfsm.NodeView{ID: id, Report: n.report, Age: ms(b.w.now - b.began), Seen: n.seen, CheckpointAge: time.Hour, Voter: true}
	if n.report != nil {
		nv.Age = ms(b.w.now - n.at)
	}
	if n.checked {
		nv.CheckpointAge = ms(b.w.now - n.checkAt)
	}
	for _, o := range n.orders {
		ov := raftfsm.OrderView{Order: o.order, Answer: o.answer, Age: ms(b.w.now - o.at), Seen: o.seen, Failed: o.failed}
		if o.answer == nil {
			ov.Flight = b.w.now < o.deadline
			if !ov.Flight {
				ov.Failed++
			}
		}
		nv.Orders = append(nv.Orders, ov)
	}
	slices.SortFunc(nv.Orders, func(a, b raftfsm.OrderView) int { return cmp.Compare(a.Order.Op, b.Order.Op) })
	return nv
}
