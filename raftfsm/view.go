package raftfsm

import "time"

// View is what a coordinator sees: observations with ages on its own clock
// (from which its own pauses are taken), never a foreign wall clock.
type View struct {
	Self NodeID
	// Leading is how long this coordinator has been leading.
	Leading time.Duration
	// PhaseAge is how long it has known the current phase.
	PhaseAge time.Duration
	// RequestAge is how long it has known the present request.
	RequestAge time.Duration
	Nodes      []NodeView // by id
}

// NodeView is what is seen of one node.
type NodeView struct {
	ID     NodeID
	Report *Report       // the last one; nil: none since this coordinator leads
	Age    time.Duration // of the last report; without one, since this coordinator leads
	// Seen is the report's place in the order in which reports and answers
	// came, so that two can be compared ("read after").
	Seen uint64
	// Detached is for how long the primary has not had the node attached as an
	// acker; 0 while it is.
	Detached time.Duration
	// Broken is for how long its applier has stood on an error.
	Broken time.Duration
	// CheckpointAge is how long ago a checkpoint of the node was committed.
	CheckpointAge time.Duration
	// Voter says that the node is a Raft voter.
	Voter bool
	// Orders are the last orders of each operation given to the node by this
	// coordinator.
	Orders []OrderView
}

// OrderView is an order and what became of it.
type OrderView struct {
	Order  Order
	Answer *Answer       // nil: in flight, or lost
	Flight bool          // no answer yet and its deadline not over
	Age    time.Duration // since it was sent; once answered, since the answer
	Seen   uint64        // the answer's place in the order of things seen
	Failed int           // how often in a row the same operation failed
}

// Node gives the view of one node; never nil.
func (v *View) Node(id NodeID) *NodeView {
	for i := range v.Nodes {
		if v.Nodes[i].ID == id {
			return &v.Nodes[i]
		}
	}
	return &NodeView{ID: id, Age: v.Leading}
}

// inFlight says that some order is under way that o has to wait for: one at a
// time per mysqld. The agent ends what it does for an older order when a newer
// one comes, so nothing waits for the answer to an order of an earlier epoch; and
// what others depend on waits for none of an earlier command.
func (n *NodeView) inFlight(o Op, epoch, index uint64) bool {
	// A rebuild does not wait for a start that hangs, nor its end for its swap.
	urgent := o == OpPromote || o == OpSetAcks || o == OpExclude || o == OpLockOut || o == OpRebuild || o == OpEndRebuild
	for i := range n.Orders {
		t := n.Orders[i].Order.Token
		if n.Orders[i].Flight && t.Epoch == epoch && (t.Index >= index || !urgent) && o != OpSeal {
			return true
		}
	}
	return false
}

// Decision is what Decide wants.
type Decision struct {
	// Commit is committed in this order before anything in Do is sent, and Do
	// is then decided anew: a decision has one or the other.
	Commit []Command
	Do     []Order
	// Handover asks to hand Raft leadership to this node.
	Handover NodeID
	// Recheck is when time alone may change the decision; 0: only events can.
	Recheck time.Duration
	// Why is for people: what is waited for or done, and why.
	Why string
}

// last gives the last order of this operation.
func (n *NodeView) last(op Op) *OrderView {
	for i := range n.Orders {
		if n.Orders[i].Order.Op == op {
			return &n.Orders[i]
		}
	}
	return nil
}

// nextStep counts the orders to this node under one command: above what the
// agent has stored and above what this coordinator has sent.
func (n *NodeView) nextStep(epoch, index uint64) uint64 {
	var step uint64
	see := func(t Token) {
		if t.Epoch == epoch && t.Index == index {
			step = max(step, t.Step)
		}
	}
	if n.Report != nil {
		see(n.Report.Token)
	}
	for i := range n.Orders {
		see(n.Orders[i].Order.Token)
	}
	return step + 1
}

// given is the order, if it was given while the present phase lasts.
func (o *OrderView) given(s *State) *OrderView {
	if o == nil || o.Order.Token.Epoch != s.Epoch || o.Order.Token.Index < s.PhaseIndex {
		return nil
	}
	return o
}
