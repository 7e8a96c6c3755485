package raftfsm

import (
	"fmt"
	"slices"
	"strings"

	"ha/mysqlctl/gtid"
)

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
