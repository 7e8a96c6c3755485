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
	Nodes    []NodeView // by id
}

// NodeView is what is seen of one node.
type NodeView struct {
	ID     NodeID
	Report *Report       // the last one; nil: none since this coordinator leads
	Age    time.Duration // of the last report; without one, since this coordinator leads
	// Since counts coordinator ticks: Seen is the order in which reports came,
	// so that two reports can be compared ("read after").
	Seen uint64
	// Detached is for how long the primary has not had the node attached as an
	// acker; 0 while it is.
	Detached time.Duration
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

// order gives the last order of this operation under this index.
func (n *NodeView) order(op Op, epoch, index uint64) *OrderView {
	for i := range n.Orders {
		o := &n.Orders[i]
		if o.Order.Op == op && o.Order.Token.Epoch == epoch && o.Order.Token.Index == index {
			return o
		}
	}
	return nil
}

// inFlight says that some order is under way: one at a time per mysqld.
func (n *NodeView) inFlight() bool {
	for i := range n.Orders {
		if n.Orders[i].Flight {
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
