package raftfsm

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ha/mysqlctl/gtid"
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

// coolDown is how long a primary that lives is still left alone after the last
// promotion. A coordinator that did not see that does not hold back.
func (d *decider) coolDown() time.Duration {
	if len(d.s.History) < 2 || d.v.PhaseAge >= d.v.Leading {
		return 0
	}
	return d.s.Policy.CoolDown - d.v.PhaseAge
}

// mysqldGone begins the reason of a failover from a server that died.
const mysqldGone = "mysqld of "

// trigger says why the primary has to be replaced (section 7); empty: not. dead
// says that it does nothing for clients any more, nor will.
func (d *decider) trigger(p *NodeView) (why string, dead bool) {
	name := d.name(d.s.Primary)
	r := p.Report
	if r != nil && d.fresh(p) {
		switch {
		case r.Mysqld == MysqldDown && r.Token.Epoch == d.s.Epoch:
			return mysqldGone + name + " is gone", true
		case d.hangs(p):
			return mysqldGone + name + " hangs", false
		case r.Mysqld == MysqldRunning && r.SuperReadOnly && r.Token.Epoch == d.s.Epoch && d.v.PhaseAge > d.s.Policy.DeadAfter:
			return name + " is read-only: its agent fenced it", true
		}
		return d.diskTrigger(r), false
	}
	if p.Age <= d.s.Policy.DeadAfter {
		return "", false
	}
	silent := "nothing was heard of " + name
	switch hears := d.hears(); {
	case !d.closable():
		d.why("%s, and its epoch cannot be closed: start %s", silent, d.wouldClose(d.liveAckers()))
		return "", false
	case !hears: // none of its commits is acknowledged: for long it might as well be dead
		return silent + ", by its replicas neither", p.Age > 2*d.s.Policy.DeadAfter
	case p.Age > d.s.Policy.Lease+FenceSlack:
		return silent + " for longer than its lease", true // it is fenced, or has no agent
	}
	d.why("%s, but its replicas hear it: its agent is lost", silent)
	d.recheck(retryStep)
	return "", false
}

// DiskProblems are the codes of the problems for which a primary is replaced once
// they have lasted, if another member does not have them.
var DiskProblems = []string{"HA-DISK-FULL", "HA-READ-ONLY-FS", "HA-DISK-STALL", ProblemDiskWait}

// ProblemDiskWait says that the disk was full and is not any more, and mysqld waits on. Ending it
// is the cure, so that nobody else is needed for that.
const ProblemDiskWait = "HA-DISK-WAIT"

func diskProblem(r *Report) (Problem, bool) {
	if r == nil {
		return Problem{}, false
	}
	for _, p := range r.Problems {
		if slices.Contains(DiskProblems, p.Code) {
			return p, true
		}
	}
	return Problem{}, false
}

// diskTrigger: the primary's disk has been full, read-only or stalled for too long.
func (d *decider) diskTrigger(r *Report) string {
	problem, sick := diskProblem(r)
	curable := problem.Code == ProblemDiskWait
	if !sick || problem.For < d.s.Policy.HungAfter || !curable && !d.closable() {
		return ""
	}
	if curable || d.anotherIsWell() {
		return "the disk of " + d.name(d.s.Primary) + " is not well (" + problem.Code + ")"
	}
	d.why("the disk of %s is not well (%s), and nobody else could take over", d.name(d.s.Primary), problem.Code)
	return ""
}

// anotherIsWell says that there is a member that could take over and whose disk is well.
func (d *decider) anotherIsWell() bool {
	return slices.ContainsFunc(d.s.DataMembers(), func(m Member) bool {
		_, sick := diskProblem(d.v.Node(m.ID).Report)
		return m.ID != d.s.Primary && d.unfit(m.ID).Code == "" && !sick
	})
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

// replica sees to it that a member follows the primary.
func (d *decider) replica(p *NodeView, m Member) {
	n := d.v.Node(m.ID)
	if lease, ok := d.s.Rebuild(m.ID); ok {
		d.rebuild(lease, n, m)
		return
	}
	if d.endStray(n, m) || d.wished(n, m) {
		return
	}
	if !d.fresh(n) {
		return
	}
	switch r := n.Report; r.Mysqld {
	case MysqldDown:
		d.keep(d.start(p, n, m))
	case MysqldRunning:
		if r.ClusterOnDisk != "" && r.ClusterOnDisk != d.s.Cluster {
			d.why("mysqld of %s holds the data of cluster %s: it does not follow", m.Name, r.ClusterOnDisk)
			return
		}
		if d.fill(p, n, m) {
			return
		}
		a, acker := d.s.Acker(m.ID)
		acker = acker && a.ServerUUID == r.ServerUUID
		if lacks := d.cannotBeServed(r); lacks != "" {
			d.diverged(m, lacks)
			return
		}
		if d.broken(n, m) {
			return
		}
		switch errant := d.provenErrant(p, n); {
		case !errant.IsEmpty():
			d.diverged(m, "errant transactions "+errant.String())
		case d.follows(r, acker):
		case !d.errantOf(p, r).IsEmpty():
			d.recheck(retryStep) // perhaps the primary's report is only too old
		default:
			d.follow(p, n, m, acker)
		}
	}
}

// start makes a member's mysqld run. What a former primary has not got through to
// the others is cut off before (R9).
func (d *decider) start(p, n *NodeView, m Member) Order {
	o := Order{To: m.ID, Op: OpStart}
	if d.mayCut(m) {
		o.Cut, o.Keep = true, d.primaryHas(p)
		if last := n.under(OpStart, d.s); last != nil && last.Order.Cut {
			o.Keep = last.Order.Keep // it has only grown since
		}
	}
	return o
}

// mayCut says that what the member wrote in its last reign and the settled
// primary lacks was never acknowledged: the reign waited for acknowledgements to
// its end, and it and all since were closed by the rules.
func (d *decider) mayCut(m Member) bool {
	if _, acker := d.s.Acker(m.ID); acker || d.s.Phase != PhaseSettled {
		return false
	}
	reigned, lossy := d.lossySince(m.ServerUUID)
	return reigned && !lossy && m.ServerUUID != d.s.PrimaryUUID
}

// lossySince says whether a server reigned before, and whether rows of that reign that
// the present primary lacks may have been acknowledged: it was async, or it or any
// reign after it was succeeded with a loss, which takes rows of earlier reigns along.
func (d *decider) lossySince(uuid string) (reigned, lossy bool) {
	for _, r := range slices.Backward(d.s.History) {
		if r.Epoch == d.s.Epoch {
			continue
		}
		lossy = lossy || r.Lossy
		if r.UUID == uuid {
			return true, lossy || r.Async
		}
	}
	// Its reign may be one of those that are forgotten.
	return false, len(d.s.History) == maxHistory && (lossy || d.s.LossForgotten)
}

// follows says that the channel is as it should be. A thread that tries to
// connect is: that it does not succeed is for status to tell.
func (d *decider) follows(r *Report, acker bool) bool {
	p, _ := d.s.Member(d.s.Primary)
	c := r.Replica
	return r.SuperReadOnly && c != nil && c.SourceHost == p.MySQLHost && c.SourcePort == p.MySQLPort &&
		c.IOWanted && c.SQLRunning && c.AckWanted == acker &&
		(!c.IORunning || c.SourceUUID == d.s.PrimaryUUID)
}

func (d *decider) follow(p, n *NodeView, m Member, acker bool) {
	// What is received, not applied, not the primary's own and not at the
	// primary is proven unacknowledged, but after a loss.
	switch surplus := d.notAtPrimary(p, n.Report.Received); {
	case d.lossyEnd(surplus): // once applied it is seen, and kept, as what is errant is
		d.why("%s has received rows that %s lacks and that may have been acknowledged: it applies them", m.Name, d.name(d.s.Primary))
		d.keep(Order{To: m.ID, Op: OpPrepare})
	case !acker || surplus.IsEmpty():
		d.keep(Order{To: m.ID, Op: OpFollow, Source: d.source(m), Ack: acker, Discard: !surplus.IsEmpty()})
	}
}

// primaryHas is what the settled primary has executed. A report may be from before it
// had applied all of what it was promoted with.
func (d *decider) primaryHas(p *NodeView) gtid.Set { return p.Report.Executed.Union(d.s.Floor) }

// notAtPrimary is what of a member's set the living primary did not execute. The
// primary's own transactions came from the primary: they can be at a replica
// before they are in its gtid_executed, or in a report of it.
func (d *decider) notAtPrimary(p *NodeView, set gtid.Set) gtid.Set {
	surplus := set.Minus(d.primaryHas(p))
	return surplus.Minus(surplus.Only(d.s.PrimaryUUID))
}

// errantOf is what the member executed and the living primary did not.
func (d *decider) errantOf(p *NodeView, r *Report) gtid.Set { return d.notAtPrimary(p, r.Executed) }

// provenErrant is what of it the member had before the primary's set was read. A
// subset is one in whatever order the two were read; a surplus is not. Reports
// come at even intervals, the primary's perhaps always just before the member's:
// then its checkpoint, which is older than both, says it.
func (d *decider) provenErrant(p, n *NodeView) gtid.Set {
	errant := d.errantOf(p, n.Report)
	switch {
	case errant.IsEmpty() || p.Seen > n.Seen:
		return errant
	case p.Age < n.CheckpointAge:
		return errant.Intersect(d.s.Checkpoint(n.ID))
	}
	return gtid.Set{}
}

// cannotBeServed says why the primary's binary logs will never bring the node up
// to date: a receiver that ends with such an error ends so each time.
func (d *decider) cannotBeServed(r *Report) string {
	p, _ := d.s.Member(d.s.Primary)
	c := r.Replica
	switch {
	case c == nil || c.IORunning || c.SourceHost != p.MySQLHost || c.SourcePort != p.MySQLPort:
	case strings.Contains(c.IOError, "purged required binary logs"):
		return "it lacks what the primary has purged"
	case strings.Contains(c.IOError, "more GTIDs than the source"):
		return "it holds transactions of the primary that the primary lacks"
	}
	return ""
}

// broken has a member copied anew whose applier stands on an error for good. It says
// whether the node is to be left alone otherwise: where nothing comes of it its applier
// goes on being started, for what stopped it may end.
func (d *decider) broken(n *NodeView, m Member) bool {
	long, c := d.s.Policy.RebuildBroken, n.Report.Replica
	if long <= 0 || c == nil || c.SQLError == "" {
		return false
	}
	if n.Broken < long {
		d.recheck(long - n.Broken)
		return false
	}
	if m.Mended >= maxRebuilds {
		d.why("the applier of %s stands on an error again after %d copies: look at its log", m.Name, m.Mended)
		return false
	}
	return d.rebuildAnew(m, Rebuild{Broken: true, Why: fmt.Sprintf("for %s its applier has stood on: %s", long, c.SQLError)})
}

// diverged has a member copied anew that will never follow with the data it has.
func (d *decider) diverged(m Member, why string) { d.rebuildAnew(m, Rebuild{Why: why}) }

// rebuildAnew grants a rebuild, where the policy lets it happen without a person. It
// says whether there will be one now.
func (d *decider) rebuildAnew(m Member, lease Rebuild) bool {
	what := "has diverged (" + lease.Why + ")"
	if lease.Broken {
		what = "does not apply (" + lease.Why + ")"
	}
	if _, acker := d.s.Acker(m.ID); acker {
		d.why("%s %s and is in the ack set", m.Name, what)
		return false // it leaves first
	}
	if _, wished := d.s.Wish(m.ID); wished {
		return false // which says what it waits for
	}
	donor, no := d.copyRefused(m, what)
	switch {
	case no != "":
		d.why("%s", no)
		return false
	case !d.harmless(m.ID): // nobody counts the acknowledgements of a server that is being replaced
		d.why("%s %s and may acknowledge", m.Name, what)
		d.keep(Order{To: m.ID, Op: OpExclude})
	default:
		lease.Recipient, lease.Donor = m.ID, donor
		d.commit(Command{Kind: CmdRebuild, Rebuild: &lease})
	}
	return true
}

// copyRefused says why a member that has diverged or does not apply is not copied anew
// without a person; empty: it would be, from the donor.
func (d *decider) copyRefused(m Member, what string) (donor NodeID, no string) {
	r := d.v.Node(m.ID).Report
	donor, ok := d.donor(m)
	switch {
	case r.ClusterOnDisk != d.s.Cluster && !r.Position().IsEmpty():
		return "", fmt.Sprintf("%s holds data that did not come from this cluster, and %s: they are not replaced without a person", m.Name, what)
	case !d.s.Policy.RebuildDiverged:
		return "", fmt.Sprintf("%s %s; the policy leaves rebuilding to you", m.Name, what)
	case d.lossyEnd(d.notAtPrimary(d.v.Node(d.s.Primary), r.Position())):
		return "", fmt.Sprintf("%s %s and may hold the last copy of acknowledged rows: it is not rebuilt without a person", m.Name, what)
	case m.RebuildsFailed >= maxRebuilds:
		return "", fmt.Sprintf("%s %s and %d rebuilds failed: look at its log", m.Name, what, m.RebuildsFailed)
	case d.gives(m.ID):
		return "", fmt.Sprintf("%s %s and is being copied from", m.Name, what)
	case !ok || len(d.s.Rebuilds) >= d.s.Policy.rebuildCap():
		return "", fmt.Sprintf("%s %s and no donor is free", m.Name, what)
	}
	return donor, ""
}

// lossyEnd says that some of these transactions were written in a reign that may
// have acknowledged rows that nobody else has: the last one of their server.
func (d *decider) lossyEnd(errant gtid.Set) bool {
	return slices.ContainsFunc(errant.UUIDs(), d.lossyReign)
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
