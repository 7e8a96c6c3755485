package raftfsm

import (
	"slices"
	"strings"
	"time"
)

// reign looks after a settled primary: is it to be replaced, do the others
// follow, who may acknowledge.
func (d *decider) reign() {
	p := d.v.Node(d.s.Primary)
	if r := d.s.Request; r != nil && r.Kind == RequestFailover {
		d.request(p)
		return
	}
	if why, dead := d.trigger(p); why != "" {
		switch wait := d.coolDown(); {
		case d.s.Policy.Paused:
			d.why("paused; would fail over: %s", why)
		case !dead && wait > 0:
			d.why("%s; it took over only a moment ago, waiting for %s", why, wait.Truncate(time.Second)+time.Second)
			d.recheck(wait)
		default:
			d.commit(Command{Kind: CmdRevoke, Epoch: d.s.Epoch, Why: why})
		}
		return
	}
	if !d.fresh(p) || p.Report.Mysqld != MysqldRunning || p.Report.Token.Epoch != d.s.Epoch {
		if d.s.Request != nil && p.Age > d.s.Policy.DeadAfter { // a new coordinator has heard of nobody yet
			d.commit(Command{Kind: CmdRequest, Why: "nothing is heard of " + d.name(d.s.Primary)})
		}
		if d.out.Why == "" {
			d.why("waiting for a report of %s", d.name(d.s.Primary))
		}
		d.recheck(retryStep)
		return
	}
	if d.request(p) || d.describe() || d.checkpoints() || d.lowerShort() || d.recordFact(p) || d.changeAcks(p) || d.forget() {
		return
	}
	d.shutOut(p)
	d.cureLostAck(p)
	d.accounts(p)
	if p.Report.SleepingEvents > 0 {
		d.keep(Order{To: d.s.Primary, Op: OpEvents})
	}
	for _, m := range d.s.DataMembers() {
		if m.ID != d.s.Primary {
			d.replica(p, m)
		}
	}
	d.handover()
}

// lostAckAfter is how long a commit may wait while enough ackers are attached: its
// acknowledgement was lost then, and that of any later commit releases it.
const lostAckAfter = time.Second

// cureLostAck writes a row for what waits on a quiet primary.
func (d *decider) cureLostAck(p *NodeView) {
	if d.s.K > 0 && p.Report.Waiting > 0 && p.Report.WaitingFor >= lostAckAfter && len(d.attached()) >= d.s.K {
		d.why("a commit on %s waits though enough ackers are attached", d.name(d.s.Primary))
		d.keep(Order{To: d.s.Primary, Op: OpBarrier, Allowed: uuids(d.s.Ackers)})
	}
}

// shutOut ends what acknowledges to the primary and is not in the ack set: it releases
// commits, and need does not count it. Accounts that no member has any more are
// locked, as is that of a member without an agent; others are told by their own
// orders. A stranger comes back: status names it.
func (d *decider) shutOut(p *NodeView) {
	members := d.s.DataMembers()
	for _, user := range p.Report.Accounts {
		if !slices.ContainsFunc(members, func(m Member) bool { return m.ReplicationUser() == user }) {
			d.keep(Order{To: d.s.Primary, Op: OpLockOut, Account: user})
			return
		}
	}
	if o := p.last(OpBarrier); d.s.K == 0 || carriedOut(o) != nil && p.Seen < o.Seen {
		return // the report is from before they were ended
	}
	for _, uuid := range p.Report.Attached {
		if slices.ContainsFunc(d.s.Ackers, func(a Acker) bool { return a.ServerUUID == uuid }) {
			continue
		}
		d.why("server %s acknowledges commits of %s and is not in the ack set", uuid, d.name(d.s.Primary))
		i := slices.IndexFunc(members, func(m Member) bool { return m.ServerUUID == uuid })
		if i >= 0 && !d.fresh(d.v.Node(members[i].ID)) {
			d.keep(Order{To: d.s.Primary, Op: OpLockOut, Account: members[i].ReplicationUser(), UUID: uuid})
			return
		}
		d.keep(Order{To: d.s.Primary, Op: OpBarrier, Allowed: uuids(d.s.Ackers)})
		return
	}
}

// forget removes members that are to leave and that nothing rests on. One that may
// acknowledge yet stays: it would be at a later primary what nobody counts.
func (d *decider) forget() bool {
	for _, m := range d.s.Members {
		if _, acker := d.s.Acker(m.ID); !m.Leaving || acker || m.ID == d.s.Primary {
			continue
		}
		if !m.Witness && !d.harmless(m.ID) {
			d.why("%s is to leave, but nobody knows whether its server acknowledges: start its agent", m.Name)
			continue
		}
		d.commit(Command{Kind: CmdRemoveMember, Node: m.ID})
		return true
	}
	return false
}

// harmless says that the member's server acknowledges nothing, to whomever it
// replicates from. Of one that hangs nothing is seen: it may when it goes on.
func (d *decider) harmless(id NodeID) bool {
	n := d.v.Node(id)
	return d.fresh(n) && n.Report.Mysqld != MysqldHung && (n.Report.Replica == nil || !n.Report.Replica.AckWanted) && !d.mayBeTold(n)
}

// mayBeTold says that the order to acknowledge, given to the member before it left
// the ack set, may reach it still: its agent has stored no token of after that.
func (d *decider) mayBeTold(n *NodeView) bool {
	return slices.ContainsFunc(d.s.Left, func(l Left) bool { return l.Node == n.ID && n.Report.Token.Index < l.Index })
}

// hears says that some acker still receives from the primary.
func (d *decider) hears() bool {
	for _, a := range d.s.Ackers {
		n := d.v.Node(a.Node)
		if !d.fresh(n) {
			continue
		}
		if r := n.Report.Replica; r != nil && r.IORunning && r.SourceUUID == d.s.PrimaryUUID && r.Silence < d.s.Policy.DeadAfter {
			return true
		}
	}
	return false
}

// closable says that enough ackers are heard of to close the epoch without the
// primary: nobody is sealed for nothing.
func (d *decider) closable() bool { return closedBy(d.s, d.liveAckers()) }

// liveAckers gives the ackers that are heard of.
func (d *decider) liveAckers() []NodeID {
	var live []NodeID
	for _, a := range d.s.Ackers {
		if n := d.v.Node(a.Node); d.fresh(n) {
			live = append(live, a.Node)
		}
	}
	return live
}

// describe records what members say of themselves.
func (d *decider) describe() bool {
	for _, m := range d.s.DataMembers() {
		r := d.v.Node(m.ID).Report
		if r == nil || r.ServerUUID == "" || r.ServerUUID == m.ServerUUID || r.Mysqld != MysqldRunning {
			continue
		}
		if _, acker := d.s.Acker(m.ID); acker {
			continue // it has to leave the ack set first; its old uuid is detached
		}
		m.ServerUUID = r.ServerUUID
		d.commit(Command{Kind: CmdMember, Member: &m})
		return true
	}
	return false
}

// checkpoints records how far the members have come, now and then.
func (d *decider) checkpoints() bool {
	var ps []Checkpoint
	for _, m := range d.s.DataMembers() {
		n := d.v.Node(m.ID)
		if !d.fresh(n) || n.Report.Mysqld != MysqldRunning || n.CheckpointAge < checkpointEvery {
			continue
		}
		if _, leased := d.s.Rebuild(m.ID); leased {
			continue
		}
		if set := n.Report.Executed; !d.s.Checkpoint(m.ID).Contains(set) {
			ps = append(ps, Checkpoint{Node: m.ID, Set: set})
		}
	}
	if len(ps) == 0 {
		return false
	}
	d.commit(Command{Kind: CmdCheckpoint, Checkpoints: ps})
	return true
}

// recordFact: the primary waits for fewer acks than is recorded, or let commits go
// without. Nobody ordered that; the record follows the fact at once.
func (d *decider) recordFact(p *NodeView) bool {
	fewer := d.acksDiffer(p) && enforced(p.Report) < d.s.K
	if d.s.K == 0 || !fewer && p.Report.Unacked == 0 {
		return false
	}
	for _, op := range []Op{OpSetAcks, OpPromote, OpBarrier} {
		// A report from before what was ordered says nothing of after it. What is let
		// go before a barrier is done does not count: its acknowledgement holds for it.
		o := p.last(op)
		if o == nil || op == OpBarrier && carriedOut(o) == nil {
			continue
		}
		if o.Flight || o.Answer != nil && (p.Seen < o.Seen || o.Age < 2*retryStep) {
			d.recheck(retryStep)
			return false
		}
	}
	k, why := 0, "the server itself let commits go without their acks"
	if p.Report.Unacked == 0 {
		k, why = enforced(p.Report), "the server itself waits for fewer acks"
	}
	d.commit(Command{Kind: CmdAcks, Ackers: d.s.Ackers, K: k, Why: why})
	return true
}

// accounts keeps the replication accounts of those that may connect: ackers,
// and whoever does not acknowledge.
func (d *decider) accounts(p *NodeView) {
	if p.Report == nil || p.Report.Accounts == nil {
		return
	}
	var ackers, others []Account
	denied := map[string]bool{} // there, and not with the password that we know
	missing := func(as []Account) bool {
		return slices.ContainsFunc(as, func(a Account) bool { return !slices.Contains(p.Report.Accounts, a.User) || denied[a.User] })
	}
	for _, m := range d.s.DataMembers() {
		_, acker := d.s.Acker(m.ID)
		account := Account{User: m.ReplicationUser(), Password: m.ReplicationPassword}
		if n := d.v.Node(m.ID); d.fresh(n) && n.Report.Replica != nil {
			r := n.Report.Replica
			denied[account.User] = r.IOWanted && !r.IORunning && strings.Contains(r.IOError, "Access denied")
		}
		if n := d.v.Node(m.ID); m.ID != d.s.Primary && d.fresh(n) && d.mayBeTold(n) && d.follows(n.Report, false) {
			d.keep(Order{To: m.ID, Op: OpExclude}) // it is as it should be: only a token is to reach it
		}
		switch {
		case acker:
			ackers = append(ackers, account)
		case m.ID == d.s.Primary || d.harmless(m.ID):
			others = append(others, account)
		}
	}
	switch {
	case missing(ackers): // first and alone: to make an account is a commit that waits for an acker
		d.keep(Order{To: d.s.Primary, Op: OpAccounts, Accounts: ackers})
	case missing(others) && d.s.Phase == PhaseSettled:
		d.keep(Order{To: d.s.Primary, Op: OpAccounts, Accounts: append(ackers, others...)})
	}
}

// handover keeps the coordinator away from the primary's host, so that losing
// that host costs no election.
func (d *decider) handover() {
	if d.v.Self != d.s.Primary || len(d.out.Do) > 0 || d.v.Leading < 2*time.Second || d.v.PhaseAge < 2*time.Second {
		return
	}
	for _, m := range d.s.Members {
		n := d.v.Node(m.ID)
		if m.ID == d.v.Self || !n.Voter || !d.fresh(n) {
			continue
		}
		if own := d.v.Node(d.v.Self).Report; own != nil && n.Report.LastIndex+handoverBehind >= own.LastIndex {
			d.out.Handover = m.ID
			return
		}
	}
}

// handoverBehind is how many log entries a follower may lack to be handed the
// leadership.
const handoverBehind = 10
