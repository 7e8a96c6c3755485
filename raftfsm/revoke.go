package raftfsm

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"ha/mysqlctl/gtid"
)

// sealed is a member of F: it answered this epoch's seal order with a final
// position.
type sealed struct {
	m   Member
	a   *Answer
	age time.Duration // of the answer
}

// closeEpoch closes the current epoch (R1), chooses and prepares a candidate
// (R2) and commits the next one (R4).
func (d *decider) closeEpoch() {
	f, waitFor, declined := d.sealAll()
	lossy := !d.closed(f) && len(f) > 0 && d.lossAllowed()
	if declined {
		return
	}
	if !d.closed(f) && !lossy {
		d.why("closing epoch %d (%s): sealed %s, need %s", d.s.Epoch, d.s.Why, orNobody(names(d.s, ids(f))), d.wouldClose(ids(f)))
		d.recheck(retryStep)
		return
	}
	required := d.required(f)
	if lossy {
		required = requirement{gtid.Set{}} // the best of those that answer
	}
	cands := d.candidates(f, required, lossy)
	if wait := d.worthWaiting(f, cands, required, waitFor); wait > 0 {
		d.why("epoch %d is closed; waiting a moment for %s", d.s.Epoch, names(d.s, waitFor))
		d.recheck(wait)
		return
	}
	if len(cands) == 0 {
		d.why("epoch %d is closed, but no member of %s may be promoted: each lacks acknowledged rows or is errant; start %s",
			d.s.Epoch, names(d.s, ids(f)), orNobody(names(d.s, d.missing(f))))
		d.recheck(time.Second)
		return
	}
	for _, c := range cands {
		if wait := d.crashLoop(c.m.ID) - d.v.PhaseAge; wait > 0 {
			d.why("%s dies again and again; it is started in %s", c.m.Name, wait)
			d.recheck(wait)
			return
		}
		executed, uuid, state := d.prepare(c, required)
		switch state {
		case prepareReady:
			d.promote(c, executed, uuid, f, lossy)
			return
		case prepareWaiting:
			d.why("epoch %d is closed; %s applies what it has received", d.s.Epoch, c.m.Name)
			return
		case prepareFailed: // the next best one, if there is any
		}
	}
	d.why("epoch %d is closed, but no candidate could be prepared: %s", d.s.Epoch, d.prepareError(cands))
	d.recheck(time.Second)
}

// sealAll asks every data member to seal and gives those that did, and those
// that may still do. done: the primary of a switchover is asked first.
func (d *decider) sealAll() (f []sealed, waitFor []NodeID, done bool) {
	handed, done := d.handOver()
	if done {
		return nil, nil, true
	}
	for _, m := range d.s.DataMembers() {
		if _, leased := d.s.Rebuild(m.ID); leased {
			continue // its data are no whole copy of anything
		}
		_, acker := d.s.Acker(m.ID)
		if m.ID == d.s.Primary && d.deadAndNotNeeded() {
			continue
		}
		ask := Order{To: m.ID, Op: OpSeal, Former: !acker}
		switch {
		case handed == nil:
		case m.ID == d.s.Primary:
			ask = d.v.Node(m.ID).last(OpSeal).Order
		case m.ID == d.target():
			ask.Await = handed.Position()
		case d.isChained(m.ID):
			continue // it acknowledges the target's commits already
		}
		o := d.give(ask)
		a := carriedOut(o)
		switch {
		case a == nil:
			n := d.v.Node(m.ID)
			failed := o != nil && !o.Flight // it may still come, but is not worth waiting for
			// A coordinator that has just begun to lead cannot know who is dead: after
			// a loss of power the others may be a moment behind.
			if starting := n.Report == nil && n.Age <= d.s.Policy.DeadAfter; starting || !failed && d.fresh(n) {
				waitFor = append(waitFor, m.ID)
			}
		case d.amnesia(m, a):
		default:
			f = append(f, sealed{m: m, a: a, age: o.Age})
		}
	}
	return f, waitFor, false
}

// askDeadAfter is how long the ackers have to close an epoch whose primary's
// mysqld is down, before the binary log of that is read too.
const askDeadAfter = 300 * time.Millisecond

// deadAndNotNeeded: the primary's mysqld is down and its ackers are about to
// close the epoch. Its position would take part of a second to read, is asked of
// no candidate then, and it cannot acknowledge.
func (d *decider) deadAndNotNeeded() bool {
	p := d.v.Node(d.s.Primary)
	return d.fresh(p) && p.Report.Mysqld == MysqldDown && d.closable() && d.v.PhaseAge < askDeadAfter && p.last(OpSeal).given(d.s) == nil
}

// amnesia says that the answer is of other data than the member acknowledged
// with, or of less than it once held: it proves nothing.
func (d *decider) amnesia(m Member, a *Answer) bool {
	if acker, ok := d.s.Acker(m.ID); ok && a.ServerUUID != acker.ServerUUID {
		return true
	}
	if m.ID == d.s.Primary && a.ServerUUID != d.s.PrimaryUUID {
		return true
	}
	return !a.Position().Contains(d.s.Checkpoint(m.ID))
}

// closed is R1. Before the first epoch nothing was ever acknowledged; only the
// founder may be the first primary.
func (d *decider) closed(f []sealed) bool { return closedBy(d.s, ids(f)) }

func closedBy(s *State, f []NodeID) bool {
	if s.Primary == "" {
		return slices.Contains(f, s.Founder)
	}
	return slices.Contains(f, s.Primary) || sealedAckers(s, f) >= Need(s.Ackers, s.K)
}

func sealedAckers(s *State, f []NodeID) int {
	n := 0
	for _, a := range s.Ackers {
		if slices.Contains(f, a.Node) {
			n++
		}
	}
	return n
}

// wouldClose names what is missing beside f to close the epoch.
func (d *decider) wouldClose(f []NodeID) string {
	if d.s.Primary == "" {
		return d.name(d.s.Founder)
	}
	text := d.name(d.s.Primary)
	if short := Need(d.s.Ackers, d.s.K) - sealedAckers(d.s, f); d.s.K > 0 && short > 0 {
		var rest []NodeID
		for _, a := range d.s.Ackers {
			if !slices.Contains(f, a.Node) {
				rest = append(rest, a.Node)
			}
		}
		switch {
		case len(rest) == 1:
			text += " or " + names(d.s, rest)
		case short == len(rest):
			text += " or all of " + names(d.s, rest)
		default:
			text += " or " + plural(short) + " of " + names(d.s, rest)
		}
	}
	return text
}

// requirement is what a candidate must have executed (R2): one of these sets.
type requirement []gtid.Set

func (r requirement) metBy(set gtid.Set) bool { return slices.ContainsFunc(r, set.Contains) }

// stuck: it stood on an error, and lacks something of what is required.
func (r requirement) stuck(a *Answer) bool { return a.ApplierError != "" && !r.metBy(a.Executed) }

// required is the floor and every row that can have been acknowledged. Each
// proof that closes the epoch bounds these by itself: what the ackers hold, or
// what the primary holds. So a tail that only the old primary has is not asked
// for, nor what an acker has from an earlier reign.
func (d *decider) required(f []sealed) requirement {
	var out requirement
	byAckers := d.s.Floor
	for _, x := range f {
		if _, acker := d.s.Acker(x.m.ID); acker {
			byAckers = byAckers.Union(x.a.Position().Minus(d.formerTail(x.a)))
		}
		if x.m.ID == d.s.Primary || d.s.Primary == "" && x.m.ID == d.s.Founder {
			out = append(out, d.s.Floor.Union(x.a.Position()))
		}
	}
	if d.s.Primary != "" && sealedAckers(d.s, ids(f)) >= Need(d.s.Ackers, d.s.K) {
		out = append(out, byAckers)
	}
	return out
}

// formerTail is what a server has of its own or another's earlier reign and the floor
// does not hold. Nobody acknowledged it then: the one who opened next would have had it.
// Nor since: the present primary does not have it either.
func (d *decider) formerTail(a *Answer) gtid.Set {
	tail := a.Executed.Only(a.ServerUUID).Minus(a.Received)
	for _, r := range d.s.History {
		if r.UUID != d.s.PrimaryUUID {
			tail = tail.Union(a.Position().Only(r.UUID))
		}
	}
	return tail.Minus(d.s.Floor)
}

// candidates gives those that may be promoted, best first. Where a loss was accepted
// that is the one that holds most, whether or not it runs. One whose applier stood on an
// error comes last: where nobody else holds what is required it is tried again and again,
// as the error may be gone, by itself or by somebody's hand.
func (d *decider) candidates(f []sealed, required requirement, lossy bool) []sealed {
	var out []sealed
	for _, x := range f {
		if d.s.Primary == "" && x.m.ID != d.s.Founder {
			continue
		}
		errant := Errant(x.a.Executed, x.a.Received, d.s.Floor, d.s.PrimaryUUID)
		if d.s.Primary == "" {
			errant = gtid.Set{}
		}
		switch {
		case (x.m.NoPromote || x.m.Leaving) && x.m.ID != d.s.Primary && d.s.Primary != "": // the founder has to be the first
		case !required.metBy(x.a.Position()):
		case !errant.IsEmpty():
		case d.newerThanOthers(x, f):
		default:
			out = append(out, x)
		}
	}
	slices.SortStableFunc(out, func(a, b sealed) int {
		return cmp.Or(
			first(!required.stuck(a.a), !required.stuck(b.a)),
			first(a.m.ID == d.target(), b.m.ID == d.target()),
			first(lossy && a.a.Position().Count() > b.a.Position().Count(), lossy && b.a.Position().Count() > a.a.Position().Count()),
			first(a.a.Running, b.a.Running),
			first(!d.sick(a), !d.sick(b)),
			// A primary that was sealed alive was no dead primary: it stays, unless
			// somebody wants another one.
			first(d.stays(a), d.stays(b)),
			first(!d.unwanted(a), !d.unwanted(b)),
			cmp.Compare(b.a.Position().Count(), a.a.Position().Count()),
			cmp.Compare(b.a.Executed.Count(), a.a.Executed.Count()),
			cmp.Compare(b.m.Priority, a.m.Priority),
			strings.Compare(a.m.Name, b.m.Name),
		)
	})
	return out
}

// unwanted: a person asked for another primary than the present one.
func (d *decider) unwanted(x sealed) bool {
	return x.m.ID == d.s.Primary && d.s.Request != nil && d.s.Request.Kind == RequestFailover
}

// sick: its disk has had a problem for which a primary is replaced.
func (d *decider) sick(x sealed) bool {
	problem, sick := diskProblem(d.v.Node(x.m.ID).Report)
	return sick && problem.For >= d.s.Policy.HungAfter
}

func (d *decider) stays(x sealed) bool { return x.m.ID == d.s.Primary && !d.unwanted(x) }

// newerThanOthers: MySQL replicates from an older source to a newer replica,
// not the other way.
func (d *decider) newerThanOthers(x sealed, f []sealed) bool {
	mine := d.v.Node(x.m.ID).Report
	if mine == nil {
		return false
	}
	for _, o := range f {
		r := d.v.Node(o.m.ID).Report
		if o.m.ID != x.m.ID && r != nil && r.Version != "" && CompareVersions(mine.Version, r.Version) > 0 {
			return x.m.ID != d.s.Primary
		}
	}
	return false
}

// worthWaiting says how much longer to wait for members that were heard of
// lately, once the epoch is closed.
func (d *decider) worthWaiting(f, cands []sealed, required requirement, waitFor []NodeID) time.Duration {
	if len(waitFor) == 0 || d.s.Primary == "" {
		return 0
	}
	limit := stragglers
	if t := d.target(); len(cands) == 0 || required.stuck(cands[0].a) || t != "" && slices.Contains(waitFor, t) || len(d.ackersOf(cands[0], cands[0].a.Position(), f)) < d.s.KPolicy() {
		limit = stragglersShort
	}
	return limit - d.closedFor(f)
}

// closedFor is how long ago the answer came that closed the epoch.
func (d *decider) closedFor(f []sealed) time.Duration {
	f = slices.Clone(f)
	slices.SortFunc(f, func(a, b sealed) int { return cmp.Compare(b.age, a.age) })
	for i := range f {
		if d.closed(f[:i+1]) {
			return f[i].age
		}
	}
	return 0
}

const (
	crashesFree = 3 // restarts in place at once, before they are slowed down
	crashMost   = 30 * time.Second
)

// crashLoop is how long a member whose mysqld died in each of its last reigns
// waits before the next one.
func (d *decider) crashLoop(id NodeID) time.Duration {
	n := 0
	for i, r := range slices.Backward(d.s.History) {
		why := r.Why
		if i == len(d.s.History)-1 {
			why = d.s.Why // the one that is being closed
		}
		if r.Primary != id || !strings.HasPrefix(why, mysqldGone) {
			break
		}
		n++
	}
	if n < crashesFree {
		return 0
	}
	return min(time.Second<<min(n-crashesFree, 10), crashMost)
}

type prepareState int

const (
	prepareWaiting prepareState = iota
	prepareReady
	prepareFailed
)

// prepare makes the candidate apply all it received; ready says its executed
// set, read after that.
func (d *decider) prepare(c sealed, required requirement) (executed gtid.Set, uuid string, state prepareState) {
	if c.a.Running && required.metBy(c.a.Executed) && c.a.Executed.Contains(c.a.Received) {
		return c.a.Executed, c.a.ServerUUID, prepareReady // nothing to apply
	}
	o := d.give(Order{To: c.m.ID, Op: OpPrepare})
	switch a := carriedOut(o); {
	case a != nil && required.metBy(a.Executed) && a.ServerUUID == c.a.ServerUUID:
		return a.Executed, a.ServerUUID, prepareReady
	case a != nil, o != nil && o.Answer != nil && o.Failed > 0:
		return gtid.Set{}, "", prepareFailed
	case o != nil && !o.Flight && o.Failed > 0: // lost
		return gtid.Set{}, "", prepareFailed
	}
	if n := d.v.Node(c.m.ID); d.fresh(n) && d.hangs(n) {
		return gtid.Set{}, "", prepareFailed // for now: another one may do
	}
	return gtid.Set{}, "", prepareWaiting
}

func (d *decider) prepareError(cands []sealed) string {
	var out []string
	for _, c := range cands {
		text := "it does not answer"
		if o := d.v.Node(c.m.ID).last(OpPrepare); o != nil && o.Answer != nil {
			text = o.Answer.Err
		}
		out = append(out, c.m.Name+": "+text)
	}
	return strings.Join(out, "; ")
}

// promote is R4: one commit names the whole next reign.
func (d *decider) promote(c sealed, executed gtid.Set, uuid string, f []sealed, lossy bool) {
	var ackers []Acker
	if d.s.Primary != "" { // the first primary has no replication accounts yet: it grows by R5
		ackers = d.ackersOf(c, executed, f)
	}
	if c.m.ID == d.target() {
		ackers = append(ackers, d.chainedAckers(f)...)
	}
	k := min(d.s.KPolicy(), len(ackers))
	if k == 0 && d.s.K > 0 && d.s.KPolicy() > 0 && d.s.Policy.Availability == Strict {
		ackers = d.allOthers(c.m.ID, executed, f)
		k = min(1, len(ackers))
	} else {
		for _, a := range d.unsealed(c.m.ID, f) {
			if !slices.ContainsFunc(ackers, func(o Acker) bool { return o.Node == a.Node }) {
				ackers = append(ackers, a)
			}
		}
	}
	d.commit(Command{Kind: CmdPromote, Epoch: d.s.Epoch + 1, Primary: c.m.ID, PrimaryUUID: uuid,
		Ackers: ackers, K: k, Floor: executed, Lossy: lossy})
}

// chainedAckers are those that were not sealed as they replicate from the target
// of a switchover already. What they hold came from the old primary or the target.
func (d *decider) chainedAckers(f []sealed) []Acker {
	var out []Acker
	for _, a := range d.s.Ackers {
		if d.isChained(a.Node) && !slices.Contains(ids(f), a.Node) {
			out = append(out, Acker{Node: a.Node, ServerUUID: d.v.Node(a.Node).Report.ServerUUID})
		}
	}
	return out
}

// ackersOf gives the members of F that can acknowledge the candidate's commits
// at once: running, and holding nothing that it does not hold. One that holds
// nothing at all has perhaps no replication account yet, and to make one is a
// commit that waits for an acknowledgement: it enters by R5.
func (d *decider) ackersOf(c sealed, executed gtid.Set, f []sealed) []Acker {
	var out []Acker
	for _, x := range f {
		p := x.a.Position()
		if x.m.ID != c.m.ID && x.a.Running && x.a.ServerUUID != "" && x.a.ApplierError == "" && executed.Contains(p) && !p.IsEmpty() {
			out = append(out, Acker{Node: x.m.ID, ServerUUID: x.a.ServerUUID})
		}
	}
	return out
}

// allOthers gives all that may acknowledge one day; those that hold what the
// primary does not only if there are no others.
func (d *decider) allOthers(primary NodeID, executed gtid.Set, f []sealed) []Acker {
	var out, last []Acker
	for _, m := range d.s.DataMembers() {
		diverged := slices.ContainsFunc(f, func(x sealed) bool { return x.m.ID == m.ID && !executed.Contains(x.a.Position()) })
		if _, leased := d.s.Rebuild(m.ID); m.ID == primary || m.ServerUUID == "" || leased {
			continue
		}
		if a := (Acker{Node: m.ID, ServerUUID: m.ServerUUID}); diverged {
			last = append(last, a)
		} else {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return last
	}
	return out
}

// unsealed gives the members that may be attached to the candidate, or attach to
// it again, and acknowledge its commits without having been sealed: they were
// told to follow it in an earlier reign, or for a switchover, and have not been
// reached since. Their acknowledgements count on the server, so they count in
// need, until they are excluded. A primary does not follow.
func (d *decider) unsealed(candidate NodeID, f []sealed) []Acker {
	reigned := func(r Reign) bool { return r.Primary == candidate }
	if !slices.ContainsFunc(d.s.History, reigned) && len(d.s.History) < maxHistory && !slices.Contains(d.s.Targets, candidate) {
		return nil
	}
	var out []Acker
	for _, m := range d.s.DataMembers() {
		_, leased := d.s.Rebuild(m.ID)
		uuid := m.ServerUUID
		if r := d.v.Node(m.ID).Report; r != nil && r.ServerUUID != "" {
			uuid = r.ServerUUID
		}
		if m.ID != candidate && m.ID != d.s.Primary && uuid != "" && !leased && !slices.Contains(ids(f), m.ID) {
			out = append(out, Acker{Node: m.ID, ServerUUID: uuid})
		}
	}
	return out
}

func (d *decider) missing(f []sealed) []NodeID {
	var out []NodeID
	for _, m := range d.s.DataMembers() {
		if !slices.Contains(ids(f), m.ID) {
			out = append(out, m.ID)
		}
	}
	return out
}

func ids(f []sealed) []NodeID {
	out := make([]NodeID, 0, len(f))
	for _, x := range f {
		out = append(out, x.m.ID)
	}
	return out
}

// first orders true before false.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
