package raftfsm

import (
	"slices"
	"time"
)

// entryBehind is how many transactions a node may lack that enters the ack set.
const entryBehind = 1000

// changeAcks moves (A, k) towards the policy, one step at a time (R5). It says
// whether anything else has to wait.
func (d *decider) changeAcks(p *NodeView) bool {
	raising := d.s.Intent != nil && d.s.Intent.Kind == IntentRaise
	if k := d.waitedFor(p); !raising && d.acksDiffer(p) && enforced(p.Report) != k {
		// More acks enforced than recorded: a raise that was given up. Before anything
		// else, for the barrier of a removal would wait for acks that nobody gives.
		d.keep(Order{To: d.s.Primary, Op: OpSetAcks, K: k})
		return true
	} else if have := len(d.attached()); k > d.s.K && have < k {
		d.writesWait(have, k)
	}
	if d.s.Intent != nil {
		return d.continueIntent(p)
	}
	return d.addAcker(p) || d.removeAcker(p) || d.raiseK()
}

// waitedFor is how many acks the server is to wait for while that is not being raised:
// the recorded k. Under strict it is never told to wait for fewer than it does and the
// policy wants, though it has let a commit go and k is 0 until it was raised again.
func (d *decider) waitedFor(p *NodeView) int {
	if d.s.Policy.Availability != Strict || !d.acksDiffer(p) {
		return d.s.K
	}
	return max(d.s.K, min(enforced(p.Report), d.s.KPolicy()))
}

// addAcker: committed, then done. The follower is told to acknowledge because
// its report does not show that it does.
func (d *decider) addAcker(p *NodeView) bool {
	for _, m := range d.s.DataMembers() {
		if _, acker := d.s.Acker(m.ID); acker || m.ID == d.s.Primary || m.Leaving || !d.mayEnter(p, m) {
			continue
		}
		d.commit(Command{Kind: CmdAcks, K: d.s.K, Why: m.Name + " enters the ack set",
			Ackers: append(slices.Clone(d.s.Ackers), Acker{Node: m.ID, ServerUUID: m.ServerUUID})})
		return true
	}
	return false
}

// mayEnter: follows the primary, its set is within the primary's, its applier
// is well and near, its settings are right.
func (d *decider) mayEnter(p *NodeView, m Member) bool {
	n := d.v.Node(m.ID)
	_, leased := d.s.Rebuild(m.ID)
	_, wished := d.s.Wish(m.ID)
	if leased || wished || !d.fresh(n) || n.Report.Mysqld != MysqldRunning {
		return false
	}
	r := n.Report
	if r.Rebuild.underWay() {
		return false // also without a lease, until its end is confirmed
	}
	c := r.Replica
	if m.ServerUUID == "" || r.ServerUUID != m.ServerUUID || !d.follows(r, false) || !c.IORunning || c.SQLError != "" ||
		len(durability(r.Problems)) > 0 {
		return false
	}
	// An applier that is far behind makes a slow failover, no lost row: where
	// ackers are too few, a late one is better than none. (An async primary can
	// outrun its replicas' appliers for ever.)
	if c.Lag > d.s.Policy.MaxAckerLag/2 && len(d.attached()) >= d.s.KPolicy() {
		return false
	}
	return d.errantOf(p, r).IsEmpty() && p.Report.Executed.Minus(r.Position()).Count() <= entryBehind
}

// AckProblems are the codes of the problems, as agents report them, with which a
// node's acknowledgement is worth nothing: what it acknowledges it may lose in a
// power loss or a restart, or never hold.
var AckProblems = []string{
	"HA-SYNC-BINLOG", "HA-FLUSH-LOG", "HA-DOUBLEWRITE", "HA-SYNC-RELAY", "HA-RELAY-RECOVERY",
	"HA-GTID-OFF", "HA-BINLOG-OFF", "HA-CHANNELS", "HA-DELAY", "HA-FILTER", "HA-AUTO-POSITION", "HA-NO-SEMISYNC",
}

// durability picks the problems that make an ack worthless.
func durability(ps []Problem) []Problem {
	return slices.DeleteFunc(slices.Clone(ps), func(p Problem) bool { return !slices.Contains(AckProblems, p.Code) })
}

// removeAcker begins to remove an acker that is detached, whose applier stands
// or lags, but never so that fewer than k attached ones remain.
func (d *decider) removeAcker(p *NodeView) bool {
	for _, a := range d.s.Ackers {
		if !d.shouldLeave(p, a) {
			continue
		}
		rest := d.attachedBut(a.Node)
		if rest < d.s.K && d.heldFromCopy(p, a) {
			d.commit(Command{Kind: CmdAcks, Ackers: d.s.Ackers, K: rest, Why: d.name(a.Node) + " has diverged and is to be copied anew"})
			return true
		}
		if rest >= d.waitedFor(p) {
			// Also while k is 0: once it is raised, an acknowledgement by a node
			// that was not excluded would count on the primary and not in need.
			d.commit(Command{Kind: CmdIntent, Intent: &Intent{Kind: IntentRemove, Node: a.Node}})
			return true
		}
	}
	return false
}

// heldFromCopy says that an acker has diverged and that nothing but its being needed
// stands between it and a copy. It could not succeed the primary (S5): where the policy
// wants availability, k is lowered for as long as the copy takes.
func (d *decider) heldFromCopy(p *NodeView, a Acker) bool {
	m, _ := d.s.Member(a.Node)
	n := d.v.Node(a.Node)
	if d.s.Policy.Availability == Strict || !d.leased(p) || m.Leaving || !d.fresh(n) || d.provenErrant(p, n).IsEmpty() {
		return false
	}
	_, no := d.copyRefused(m, "has diverged")
	return no == ""
}

// attachedBut counts the attached ackers but for one that is to leave. Of those
// that are as silent as that one, none counts.
func (d *decider) attachedBut(id NodeID) int {
	return len(slices.DeleteFunc(d.attached(), func(a Acker) bool {
		return a.Node == id || d.v.Node(a.Node).Age > d.s.Policy.Lease
	}))
}

func (d *decider) shouldLeave(p *NodeView, a Acker) bool {
	n := d.v.Node(a.Node)
	if m, ok := d.s.Member(a.Node); ok && m.Leaving {
		return true
	}
	if _, wished := d.s.Wish(a.Node); wished {
		return true
	}
	// An acker without an agent acknowledges, but cannot be sealed: with it in A
	// a dead primary could not be succeeded.
	if n.Detached >= d.s.Policy.AckerGone || n.Age > d.s.Policy.Lease {
		return true
	}
	if !d.fresh(n) || n.Report.Mysqld != MysqldRunning || n.Report.Replica == nil || d.v.PhaseAge < d.s.Policy.AckerGone {
		return false
	}
	if !d.provenErrant(p, n).IsEmpty() {
		return true
	}
	c := n.Report.Replica
	// A late one stays where there are too few, as it could enter there: else it
	// would leave and enter for ever.
	late := c.Lag > d.s.Policy.MaxAckerLag && d.attachedBut(a.Node) >= d.s.KPolicy()
	return !c.SQLRunning && c.SQLError != "" || late || len(durability(n.Report.Problems)) > 0
}

// raiseK begins to raise k when enough ackers are attached.
func (d *decider) raiseK() bool {
	attached := 0
	for _, a := range d.s.Ackers {
		if IsAttached(d.s, d.v, a) && d.v.Node(a.Node).Detached == 0 && d.receives(a.Node) {
			attached++
		}
	}
	if d.s.K >= min(d.s.KPolicy(), attached) {
		if d.s.K > d.s.KPolicy() { // the policy or the membership asks for less
			d.commit(Command{Kind: CmdAcks, Ackers: d.s.Ackers, K: d.s.KPolicy(), Why: "policy"})
			return true
		}
		return false
	}
	d.commit(Command{Kind: CmdIntent, Intent: &Intent{Kind: IntentRaise, K: d.s.K + 1}})
	return true
}

// receives says that the acker takes in what the primary sends. One whose disk
// stalls is attached and does not: commits would wait for it again.
func (d *decider) receives(id NodeID) bool {
	n := d.v.Node(id)
	return n.Report == nil || n.Report.Replica == nil || n.Report.Replica.Silence < d.s.Policy.DeadAfter
}

// continueIntent: what lowers need is done, proven by a barrier, then committed.
func (d *decider) continueIntent(p *NodeView) bool {
	switch i := d.s.Intent; i.Kind {
	case IntentRemove:
		rest := without(d.s.Ackers, i.Node)
		d.why("%s leaves the ack set", d.name(i.Node))
		if d.attachedBut(i.Node) < d.waitedFor(p) {
			d.commit(Command{Kind: CmdIntent}) // given up: its acknowledgements are needed
			return true
		}
		if !d.excluded(i.Node) {
			return true
		}
		if carriedOut(d.give(Order{To: d.s.Primary, Op: OpBarrier, Allowed: uuids(rest)})) == nil {
			d.recheck(retryStep)
			return true
		}
		d.commit(Command{Kind: CmdAcks, Ackers: rest, K: d.s.K, Why: d.name(i.Node) + " left the ack set"})
	case IntentRaise:
		d.why("from now on %d acks are waited for", i.K)
		if len(d.attached()) < i.K {
			d.commit(Command{Kind: CmdIntent}) // given up; the recorded k is restored
			return true
		}
		if carriedOut(d.give(Order{To: d.s.Primary, Op: OpSetAcks, K: i.K})) == nil ||
			carriedOut(d.give(Order{To: d.s.Primary, Op: OpBarrier, Allowed: uuids(d.s.Ackers)})) == nil {
			d.recheck(retryStep)
			return true
		}
		d.commit(Command{Kind: CmdAcks, Ackers: d.s.Ackers, K: i.K})
	}
	return true
}

// excluded says that the node acknowledges no more: its agent confirmed that the
// IO thread was restarted with the flag off, or the primary's agent that the
// node's account is locked and its dump thread gone.
func (d *decider) excluded(id NodeID) bool {
	if carriedOut(d.v.Node(id).under(OpExclude, d.s)) != nil || carriedOut(d.v.Node(d.s.Primary).under(OpLockOut, d.s)) != nil {
		return true
	}
	n := d.v.Node(id)
	if d.fresh(n) && n.Report.Mysqld == MysqldRunning {
		o := d.give(Order{To: id, Op: OpExclude})
		if o == nil || o.Answer == nil || o.Answer.OK || o.Failed < maxExcludeFailures {
			return carriedOut(o) != nil
		}
	}
	m, _ := d.s.Member(id)
	a, _ := d.s.Acker(id)
	d.recheck(time.Second)
	return carriedOut(d.give(Order{To: d.s.Primary, Op: OpLockOut, Account: m.ReplicationUser(), UUID: a.ServerUUID})) != nil
}

// maxExcludeFailures is how often in a row a node may fail to exclude itself
// before the primary locks it out.
const maxExcludeFailures = 3

// under gives the last order of the operation if it was given under the present
// authorisation.
func (n *NodeView) under(op Op, s *State) *OrderView {
	o := n.last(op)
	if o == nil || o.Order.Token.Epoch != s.Epoch || o.Order.Token.Index != s.AuthIndex {
		return nil
	}
	return o
}

func without(as []Acker, id NodeID) []Acker {
	return slices.DeleteFunc(slices.Clone(as), func(a Acker) bool { return a.Node == id })
}
