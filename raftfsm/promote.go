package raftfsm

import (
	"slices"
)

// open carries out a committed promotion: the primary is opened, the others are
// repointed to it in parallel, and its first barrier settles the reign.
func (d *decider) open() {
	p := d.v.Node(d.s.Primary)
	if why := d.promotedDied(p); why != "" {
		d.commit(Command{Kind: CmdRevoke, Epoch: d.s.Epoch, Why: why})
		return
	}
	opened := carriedOut(d.give(Order{To: d.s.Primary, Op: OpPromote, K: d.s.K})) != nil
	d.followAll()
	if !opened {
		d.why("opening %s for epoch %d%s", d.name(d.s.Primary), d.s.Epoch, lastError(p.last(OpPromote)))
		d.recheck(retryStep)
		return
	}
	if d.lowerShort() {
		return
	}
	if d.acksDiffer(p) {
		d.keep(Order{To: d.s.Primary, Op: OpSetAcks, K: d.s.K})
		return
	}
	if p.Report != nil && p.Report.Token.Epoch == d.s.Epoch && d.addAcker(p) {
		return // others than those of A' may be the first to come
	}
	d.accounts(p) // an acker may be locked out here since an earlier reign
	if carriedOut(d.give(Order{To: d.s.Primary, Op: OpBarrier, Allowed: uuids(d.s.Ackers)})) == nil {
		d.why("waiting for the first acknowledged row of epoch %d on %s%s", d.s.Epoch, d.name(d.s.Primary), lastError(p.last(OpBarrier)))
		d.recheck(retryStep)
		return
	}
	d.commit(Command{Kind: CmdSettle, Epoch: d.s.Epoch})
}

// promotedDied says why a committed target has to be closed like a primary
// before it ever opened.
func (d *decider) promotedDied(p *NodeView) string {
	name := d.name(d.s.Primary)
	o := p.last(OpPromote)
	mine := o != nil && o.Order.Token.Epoch == d.s.Epoch
	opened := mine && carriedOut(o) != nil && p.Seen > o.Seen && o.Age >= 2*retryStep
	switch {
	case p.Age > d.s.Policy.DeadAfter && d.v.PhaseAge > d.s.Policy.DeadAfter:
		return name + " was lost while it was being promoted"
	case p.Report != nil && p.Report.Token.Epoch == d.s.Epoch && p.Report.Mysqld == MysqldDown:
		return mysqldGone + name + " died while it was being promoted"
	case d.fresh(p) && p.Report.Token.Epoch == d.s.Epoch && d.hangs(p):
		return mysqldGone + name + " hangs while it is being promoted"
	case opened && d.fresh(p) && p.Report.Mysqld == MysqldRunning && p.Report.SuperReadOnly:
		return name + " is read-only: its agent fenced it"
	case mine && !o.Flight && o.Failed >= maxPromoteFailures:
		return name + " could not be promoted" + lastError(o)
	}
	if d.fresh(p) && p.Report.Token.Epoch == d.s.Epoch {
		return d.diskTrigger(p.Report)
	}
	return ""
}

// hangs says that the node's mysqld has not answered for too long.
func (d *decider) hangs(n *NodeView) bool {
	return n.Report.Mysqld == MysqldHung && n.Report.HungFor >= d.s.Policy.HungAfter
}

// maxPromoteFailures is how often in a row a promotion may fail before another
// candidate is tried.
const maxPromoteFailures = 3

// followAll repoints the others while the new primary is being opened. What a
// sealed member of A' holds is proven to be within the floor; of the others the
// last report says whether they may follow yet.
func (d *decider) followAll() {
	for _, m := range d.s.DataMembers() {
		if m.ID == d.s.Primary {
			continue
		}
		if _, leased := d.s.Rebuild(m.ID); leased {
			continue
		}
		n := d.v.Node(m.ID)
		a, acker := d.s.Acker(m.ID)
		acker = acker && (n.Report == nil || n.Report.ServerUUID == a.ServerUUID || n.Report.Mysqld != MysqldRunning)
		switch {
		case !d.fresh(n):
		case acker && n.Report.Mysqld == MysqldDown:
			d.keep(Order{To: m.ID, Op: OpStart})
		case n.Report.Mysqld != MysqldRunning || !d.s.Floor.Contains(n.Report.Executed):
		case acker:
			d.give(Order{To: m.ID, Op: OpFollow, Source: d.source(m), Ack: true})
		case d.lossyEnd(n.Report.Received.Minus(d.s.Floor)): // not thrown away: the settled reign sees to it
		case d.s.Epoch > 1:
			d.give(Order{To: m.ID, Op: OpFollow, Source: d.source(m), Discard: !d.s.Floor.Contains(n.Report.Received)})
		}
	}
}

// acksDiffer says that a writable primary of this epoch enforces another number
// of acks than is recorded.
func (d *decider) acksDiffer(p *NodeView) bool {
	r := p.Report
	if r == nil || r.SuperReadOnly || r.ReadOnly || r.Token.Epoch != d.s.Epoch || r.Mysqld != MysqldRunning {
		return false
	}
	return enforced(r) != d.s.K
}

// enforced is the number of acks that the server waits for.
func enforced(r *Report) int {
	if !r.SourceOn {
		return 0
	}
	return r.WaitFor
}

// attached are the ackers that the primary has had attached, but for less than
// short.
func (d *decider) attached() []Acker {
	var out []Acker
	for _, a := range d.s.Ackers {
		if d.v.Node(a.Node).Detached < d.s.Policy.AcksShort {
			out = append(out, a)
		}
	}
	return out
}

// IsAttached says that the last reports show the acker attached to the primary
// and alive. A dump thread to a host that is gone stays listed: with commits
// waiting, an acker whose agent is silent too is not counted, nor one that hears
// nothing (its disk is full, the way between the servers is cut).
func IsAttached(s *State, v *View, a Acker) bool {
	p := v.Node(s.Primary).Report
	if p == nil || !slices.Contains(p.Attached, a.ServerUUID) {
		return false
	}
	n, short := v.Node(a.Node), p.WaitingFor >= s.Policy.AcksShort
	if n.Report != nil && n.Age <= s.Policy.DeadAfter {
		r := n.Report.Replica
		// Of one that hangs the report says how it was before.
		return n.Report.Mysqld == MysqldRunning && r != nil && r.IORunning && r.SourceUUID == s.PrimaryUUID &&
			(!short || r.Silence < s.Policy.DeadAfter)
	}
	return !short
}

// lowerShort lowers k when fewer ackers than k are to be had and the policy
// wants availability (R5: what raises need is committed, then done).
func (d *decider) lowerShort() bool {
	have := len(d.attached())
	if r := d.v.Node(d.s.Primary).Report; d.s.K > 0 && r != nil && r.Waiting > 0 && r.WaitingFor >= d.s.Policy.AckStalled {
		have = min(have, d.s.K-1) // they are there and do not acknowledge
	}
	if have >= d.s.K {
		return false
	}
	if d.s.Policy.Availability == Strict {
		d.writesWait(have, d.s.K)
		return false
	}
	if !d.leased(d.v.Node(d.s.Primary)) {
		d.recheck(retryStep)
		return false
	}
	d.commit(Command{Kind: CmdAcks, Ackers: d.s.Ackers, K: have,
		Why: "only " + plural(have) + " of the ackers attached"})
	return true
}

func (d *decider) writesWait(have, k int) {
	d.why("writes wait: %d of %d ackers are attached to %s, and the policy is strict", have, k, d.name(d.s.Primary))
}

// leased says that the primary lives, answers and holds its lease. Only then k is
// lowered: the ackers of one that has just died are detached too, and with k = 0
// nobody could succeed it.
func (d *decider) leased(p *NodeView) bool {
	return d.fresh(p) && p.Report.Mysqld == MysqldRunning && p.Report.LeaseEpoch == d.s.Epoch && p.Age <= d.s.Policy.AcksShort/2
}

func lastError(o *OrderView) string {
	if o == nil || o.Answer == nil || o.Answer.Err == "" {
		return ""
	}
	return " (last try: " + o.Answer.Err + ")"
}
