package raftfsm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// RequestKind is what a person may ask of the group.
type RequestKind string

// The requests.
const (
	// RequestSwitchover hands a living primary's role to another member. It
	// changes nothing where that cannot be done in time.
	RequestSwitchover RequestKind = "switchover"
	// RequestFailover closes the epoch, whatever the primary is doing, and
	// promotes another member.
	RequestFailover RequestKind = "failover"
)

// Request is what a person has asked for and what is not done yet.
type Request struct {
	Kind RequestKind `json:"kind"`
	// Target is the wanted next primary; empty (failover only): the best one
	// but the present.
	Target NodeID `json:"target,omitempty"`
	// Chain are ackers that replicate from Target before the switchover, so
	// that its first commit finds its acknowledgements at once.
	Chain []NodeID `json:"chain,omitempty"`
	// EndBlockers ends the sessions that keep the primary from becoming
	// read-only; otherwise the switchover is given up for them.
	EndBlockers bool `json:"end_blockers,omitempty"`
	// AllowLoss lets a failover promote the best of those that answer, also
	// where acknowledged rows may be on others only.
	AllowLoss bool `json:"allow_loss,omitempty"`
	// Timeout is how long a switchover may be prepared.
	Timeout time.Duration `json:"timeout,omitempty"`
	Index   uint64        `json:"index"` // of the command that recorded it
}

// Refusal says why something that was asked for is not done; the zero value: it
// may be. Text says what to do.
type Refusal struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// Codes of refused requests.
const (
	CodeAlready      = "HA-ALREADY"       // it is so already
	CodeNotSettled   = "HA-NOT-SETTLED"   // no settled primary to start from
	CodeInProgress   = "HA-IN-PROGRESS"   // another request or change is under way
	CodeNotDataNode  = "HA-NO-DATA"       // a witness, or no member
	CodeIsPrimary    = "HA-IS-PRIMARY"    // not possible with the primary
	CodeSilent       = "HA-SILENT"        // its agent or mysqld does not answer
	CodeNoPromote    = "HA-NO-PROMOTE"    // it is configured not to be promoted, or leaves
	CodeRebuilding   = "HA-REBUILDING"    // its data are being copied anew
	CodeErrant       = "HA-ERRANT"        // it holds transactions that the primary lacks
	CodeNotFollowing = "HA-NOT-FOLLOWING" // it does not replicate from the primary
	CodeBehind       = "HA-BEHIND"        // it lags too far
	CodeNewer        = "HA-NEWER"         // its version is newer than one that would have to follow it
	CodeNoCandidate  = "HA-NO-CANDIDATE"  // nobody could take over
	CodeCannotClose  = "HA-CANNOT-CLOSE"  // the epoch could not be closed
	CodeNeeded       = "HA-NEEDED"        // it is the last but one, or holds what nobody else has
)

// switchoverBehind is how many transactions the target of a switchover may lack
// when it is begun.
const switchoverBehind = 10 * entryBehind

// PlanSwitchover makes the request to hand over to a member; to empty: the best
// one. Its Timeout and EndBlockers are the caller's to set.
func PlanSwitchover(s *State, v *View, to NodeID) (Request, Refusal) {
	d := &decider{s: s, v: v}
	switch {
	case s.Phase != PhaseSettled:
		return Request{}, Refusal{CodeNotSettled, "there is no settled primary to take over from; `ha failover` closes an epoch whose primary is gone"}
	case to == s.Primary:
		return Request{}, Refusal{CodeAlready, s.Name(to) + " is the primary already"}
	case s.Request != nil:
		return Request{}, Refusal{CodeInProgress, "a " + string(s.Request.Kind) + " is under way"}
	case s.Intent != nil:
		return Request{}, Refusal{CodeInProgress, "the ack set is being changed; try again in a second"}
	case !d.fresh(v.Node(s.Primary)) || v.Node(s.Primary).Report.Mysqld != MysqldRunning:
		return Request{}, Refusal{CodeSilent, "the primary " + s.Name(s.Primary) + " does not answer"}
	}
	if to == "" {
		var why Refusal
		if to, why = d.best(); why.Code != "" {
			return Request{}, why
		}
	} else if why := d.unfit(to); why.Code != "" {
		return Request{}, why
	}
	return Request{Kind: RequestSwitchover, Target: to, Chain: d.chain(to)}, Refusal{}
}

// PlanFailover makes the request to close the epoch and promote a member other
// than the primary; to empty: the best one.
func PlanFailover(s *State, v *View, to NodeID, allowLoss bool) (Request, Refusal) {
	d := &decider{s: s, v: v}
	m, member := s.Member(to)
	_, leased := s.Rebuild(to)
	switch {
	case s.Primary == "":
		return Request{}, Refusal{CodeNotSettled, "the cluster never had a primary"}
	case to != "" && (!member || m.Witness):
		return Request{}, Refusal{CodeNotDataNode, string(to) + " is no member with a mysqld"}
	case to == s.Primary:
		return Request{}, Refusal{CodeIsPrimary, s.Name(to) + " is the primary whose epoch would be closed"}
	case leased:
		return Request{}, Refusal{CodeRebuilding, m.Name + " is being rebuilt"}
	case s.Request != nil && !(allowLoss && s.Phase == PhaseRevoke):
		return Request{}, Refusal{CodeInProgress, "a " + string(s.Request.Kind) + " is under way"}
	case !allowLoss && !d.closable() && !d.fresh(v.Node(s.Primary)):
		return Request{}, Refusal{CodeCannotClose, "epoch " + fmt.Sprint(s.Epoch) + " cannot be closed: acknowledged rows may be on hosts that do not answer; start " +
			d.wouldClose(d.liveAckers()) + ", or accept their loss with --allow-data-loss"}
	case !slices.ContainsFunc(s.DataMembers(), func(m Member) bool { return m.ID != s.Primary && d.fresh(v.Node(m.ID)) }):
		return Request{}, Refusal{CodeNoCandidate, "no other member with a mysqld answers"}
	}
	if empty := d.emptyOnes(); to == "" && allowLoss && len(empty) > 0 {
		return Request{}, Refusal{CodeNoCandidate, "of the other members that answer none holds any rows (" + names(s, empty) + "): to begin anew with nothing, name one (--to)"}
	}
	return Request{Kind: RequestFailover, Target: to, AllowLoss: allowLoss}, Refusal{}
}

// emptyOnes gives the members that could be promoted beside the primary, if none of
// them holds anything.
func (d *decider) emptyOnes() (empty []NodeID) {
	for _, m := range d.s.DataMembers() {
		n := d.v.Node(m.ID)
		if _, leased := d.s.Rebuild(m.ID); leased || m.ID == d.s.Primary || !d.fresh(n) {
			continue
		}
		if n.Report.Mysqld != MysqldRunning || !n.Report.Position().IsEmpty() {
			return nil
		}
		empty = append(empty, m.ID)
	}
	return empty
}

// unfit says why a member could not take over from the living primary now.
func (d *decider) unfit(id NodeID) Refusal {
	m, ok := d.s.Member(id)
	n, p := d.v.Node(id), d.v.Node(d.s.Primary)
	_, leased := d.s.Rebuild(id)
	no := func(code, text string) Refusal { return Refusal{code, m.Name + " " + text} }
	switch {
	case !ok:
		return Refusal{CodeNotDataNode, string(id) + " is no member"}
	case m.Witness:
		return no(CodeNotDataNode, "is a witness and has no mysqld")
	case m.NoPromote || m.Leaving:
		return no(CodeNoPromote, "is not to be promoted")
	case leased:
		return no(CodeRebuilding, "is being rebuilt")
	case !d.fresh(n) || n.Report.Mysqld != MysqldRunning:
		return no(CodeSilent, "does not answer: look at its agent and its mysqld")
	}
	if errant := d.provenErrant(p, n); !errant.IsEmpty() {
		return no(CodeErrant, "holds transactions that the primary lacks: "+errant.String())
	}
	c := n.Report.Replica
	for _, o := range d.s.DataMembers() {
		if r := d.v.Node(o.ID).Report; o.ID != id && r != nil && r.Version != "" && CompareVersions(n.Report.Version, r.Version) > 0 {
			return no(CodeNewer, "runs MySQL "+n.Report.Version+", and "+o.Name+" with "+r.Version+" could not follow it")
		}
	}
	switch {
	case c == nil || !c.IORunning || !c.SQLRunning || c.SourceUUID != d.s.PrimaryUUID:
		return no(CodeNotFollowing, "does not replicate from the primary")
	case c.Lag > d.s.Policy.MaxAckerLag || p.Report.Executed.Minus(n.Report.Executed).Count() > switchoverBehind:
		return no(CodeBehind, fmt.Sprintf("lacks %d transactions", p.Report.Executed.Minus(n.Report.Executed).Count()))
	}
	return Refusal{}
}

// best picks the target of a switchover that names none.
func (d *decider) best() (NodeID, Refusal) {
	var fit []Member
	var why []string
	for _, m := range d.s.DataMembers() {
		if m.ID == d.s.Primary {
			continue
		}
		if no := d.unfit(m.ID); no.Code != "" {
			why = append(why, no.Text)
			continue
		}
		fit = append(fit, m)
	}
	if len(fit) == 0 {
		return "", Refusal{CodeNoCandidate, "nobody can take over: " + cmp.Or(strings.Join(why, "; "), "there is no other member with a mysqld")}
	}
	p, _ := d.s.Member(d.s.Primary)
	behind := func(m Member) uint64 {
		return d.v.Node(p.ID).Report.Executed.Minus(d.v.Node(m.ID).Report.Executed).Count() / 100
	}
	acks := func(m Member) bool { _, ok := d.s.Acker(m.ID); return ok }
	return slices.MinFunc(fit, func(a, b Member) int {
		return cmp.Or(first(acks(a), acks(b)), cmp.Compare(b.Priority, a.Priority), first(a.Zone == p.Zone, b.Zone == p.Zone),
			cmp.Compare(behind(a), behind(b)), strings.Compare(a.Name, b.Name))
	}).ID, Refusal{}
}

// chain picks the ackers that may replicate from the target beforehand: as many
// as it will wait for, and never so many that fewer than k stay with the primary.
func (d *decider) chain(target NodeID) []NodeID {
	attached := d.attached()
	var out []NodeID
	for _, a := range attached {
		if a.Node != target && d.unfit(a.Node).Code == "" && len(out) < d.s.KPolicy() && len(attached)-len(out)-1 >= max(d.s.K, 1) {
			out = append(out, a.Node)
		}
	}
	return out
}

// --- commands.

func (s *State) setRequest(index uint64, c Command) string {
	if c.Request == nil {
		if s.Request == nil {
			return "nothing was asked for"
		}
		if s.Phase != PhaseSettled {
			return "it is too late to give it up"
		}
		s.Request = nil
		return ""
	}
	r := *c.Request
	m, ok := s.Member(r.Target)
	switch {
	case r.Kind != RequestSwitchover && r.Kind != RequestFailover:
		return "unknown request " + string(r.Kind)
	case r.Target == "" && r.Kind == RequestSwitchover, r.Target != "" && (!ok || m.Witness):
		return "the target is no data member"
	case r.Target == s.Primary:
		return "the target is the primary"
	case s.Primary == "":
		return "there never was a primary"
	case r.Kind == RequestSwitchover && (s.Phase != PhaseSettled || s.Intent != nil || s.Request != nil):
		return "something else is under way"
	case s.Request != nil && !r.AllowLoss:
		return "something else is under way"
	}
	r.Index = index
	s.Request = &r
	if len(r.Chain) > 0 && !slices.Contains(s.Targets, r.Target) {
		s.Targets = append(s.Targets, r.Target)
		slices.Sort(s.Targets)
	}
	return ""
}

// resume takes a Revoke back that a switchover opened and that the primary, still
// open, declined. The tuple never changed, and the positions that were answered
// count for this Revoke only.
func (s *State) resume(index uint64, c Command) string {
	if s.Phase != PhaseRevoke || c.Epoch != s.Epoch || s.Request == nil || s.Request.Kind != RequestSwitchover {
		return "no switchover to give up"
	}
	s.Phase, s.PhaseIndex, s.Why, s.Request = PhaseSettled, index, "", nil
	return ""
}

// --- decisions.

// target is the member that was asked for as the next primary.
func (d *decider) target() NodeID {
	if d.s.Request == nil {
		return ""
	}
	return d.s.Request.Target
}

// chained says that the member replicates, or is told to, from the target of a
// switchover.
func (d *decider) chained(id NodeID) bool {
	return d.s.Request != nil && slices.Contains(d.s.Request.Chain, id)
}

// request carries out what was asked for as far as the reign lasts. It says
// whether anything else has to wait.
func (d *decider) request(p *NodeView) bool {
	r := d.s.Request
	switch {
	case r == nil:
		return false
	case r.Kind == RequestFailover:
		d.commit(Command{Kind: CmdRevoke, Epoch: d.s.Epoch, Why: "a failover was asked for"})
		return true
	}
	to, _ := d.s.Member(r.Target)
	if why := d.giveUp(p); why != "" {
		d.commit(Command{Kind: CmdRequest, Why: why})
		return true
	}
	await := p.Report.Executed
	if last := d.v.Node(to.ID).under(OpReady, d.s); last != nil {
		await = last.Order.Await // what it was asked first is enough
	}
	ready := carriedOut(d.give(Order{To: to.ID, Op: OpReady, Await: await})) != nil
	if ready {
		for _, id := range r.Chain { // only under a target that has caught up
			m, _ := d.s.Member(id)
			if !d.isChained(id) {
				ready = false
				d.keep(Order{To: id, Op: OpFollow, Source: d.sourceAt(to, m), Ack: true})
			}
		}
	}
	d.why("preparing to hand over to %s", to.Name)
	d.recheck(50 * time.Millisecond)
	if ready {
		d.out.Do = nil
		d.commit(Command{Kind: CmdRevoke, Epoch: d.s.Epoch, Why: "switchover to " + to.Name})
	}
	return true
}

// isChained says that the last reports show the member attached to the target as
// an acker.
func (d *decider) isChained(id NodeID) bool {
	n, t := d.v.Node(id), d.v.Node(d.target())
	if !d.chained(id) || !d.fresh(n) || !d.fresh(t) || n.Report.Replica == nil {
		return false
	}
	c := n.Report.Replica
	return c.IORunning && c.Ack && c.SourceUUID == t.Report.ServerUUID && slices.Contains(t.Report.Attached, n.Report.ServerUUID)
}

// giveUp says why a switchover is given up before anything was closed.
func (d *decider) giveUp(p *NodeView) string {
	r := d.s.Request
	unheard := d.v.Leading <= d.s.Policy.DeadAfter // a new coordinator does not know yet
	if no := d.unfit(r.Target); no.Code != "" && no.Code != CodeBehind && !(no.Code == CodeSilent && unheard) {
		return no.Text
	}
	stay := 0
	for _, a := range d.attached() {
		if !d.chained(a.Node) {
			stay++
		}
	}
	switch {
	case r.Timeout > 0 && d.v.RequestAge > r.Timeout:
		return "it was not prepared within " + r.Timeout.String() + lastError(d.v.Node(r.Target).under(OpReady, d.s))
	case stay < d.s.K:
		return "too few ackers are left with " + d.name(d.s.Primary)
	case d.acksDiffer(p):
		return "the number of acks is being changed"
	}
	return ""
}

// handOver is the first step of closing an epoch for a switchover while the
// primary lives: it alone is asked, gently, and may decline. The answer is its
// final position. done: nothing else is to be done now.
func (d *decider) handOver() (sealed *Answer, done bool) {
	r, p := d.s.Request, d.v.Node(d.s.Primary)
	if r == nil || r.Kind != RequestSwitchover {
		return nil, false
	}
	o := Order{To: d.s.Primary, Op: OpSeal, Gentle: true, EndBlockers: r.EndBlockers}
	last := p.last(OpSeal).given(d.s)
	if last != nil && last.Order.Gentle {
		switch {
		case carriedOut(last) != nil:
			return last.Answer, false
		case last.Answer != nil && last.Answer.Code != CodeUnreachable && last.Answer.Code != CodeStaleToken:
			d.commit(Command{Kind: CmdResume, Epoch: d.s.Epoch, Why: last.Answer.Err})
			return nil, true
		case last.Answer != nil || !last.Flight:
			return nil, false // it is lost: the ordinary way
		}
	}
	if !d.fresh(p) || p.Report.Mysqld != MysqldRunning || last != nil && !last.Order.Gentle {
		return nil, false
	}
	d.give(o)
	d.why("%s is being made read-only to hand over to %s", d.name(d.s.Primary), d.name(r.Target))
	d.recheck(retryStep)
	return nil, true
}

// lossAllowed says that the epoch may be succeeded without being closed, as a
// person accepted: not before the last lease that may have been given is over.
func (d *decider) lossAllowed() bool {
	return d.s.Request != nil && d.s.Request.AllowLoss && d.v.PhaseAge >= d.s.Policy.Lease+FenceSlack
}
