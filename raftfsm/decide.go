package raftfsm

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ha/mysqlctl/gtid"
)

const (
	// stragglers is how long a closed epoch waits for the other members'
	// positions: more ackers and the most advanced candidate are worth that.
	stragglers = 50 * time.Millisecond
	// stragglersShort is the same when k would otherwise fall below the policy.
	stragglersShort = time.Second
	// FenceSlack is added to a lease that has to be over for sure.
	FenceSlack = 1500 * time.Millisecond
	// retryStep times the number of failures is waited before an order that
	// failed is given again, up to retryMax.
	retryStep = 200 * time.Millisecond
	retryMax  = 5 * time.Second
	// maxRebuilds is how many automatic copies onto one node may fail in a row.
	maxRebuilds = 3
	// rebuildSilence ends the lease of a recipient that says nothing any more.
	rebuildSilence = time.Minute
	// donorSilence ends a copy whose donor says nothing any more: longer than an
	// upgrade of its agent, which changes nothing for the copy.
	donorSilence = 20 * time.Second
	// checkpointEvery bounds how often moving sets are recorded.
	checkpointEvery = 5 * time.Second
)

// Decide says what to do next. It is a function of its arguments alone.
func Decide(s State, v View) Decision {
	d := &decider{s: &s, v: &v}
	switch s.Phase {
	case PhaseNone:
		d.first()
	case PhaseRevoke:
		d.closeEpoch()
	case PhasePromote:
		d.open()
	case PhaseSettled:
		d.reign()
	}
	if len(d.out.Commit) > 0 {
		d.out.Do = nil // record, then act: what follows is decided on the new state
	}
	return d.out
}

type decider struct {
	s   *State
	v   *View
	out Decision
}

func (d *decider) name(id NodeID) string { return d.s.Name(id) }

func (d *decider) why(format string, args ...any) { d.out.Why = fmt.Sprintf(format, args...) }

func (d *decider) recheck(after time.Duration) {
	if after > 0 && (d.out.Recheck == 0 || after < d.out.Recheck) {
		d.out.Recheck = after
	}
}

func (d *decider) commit(c Command) {
	c.On = d.s.Version
	d.out.Commit = append(d.out.Commit, c)
}

// fresh says that the node has been heard of lately.
func (d *decider) fresh(n *NodeView) bool {
	return n.Report != nil && n.Age <= d.s.Policy.DeadAfter
}

// give wants the order carried out under the current authorisation and says
// how it stands: the answer if it was carried out, else nil. An order that
// failed or was lost is given again after a while.
func (d *decider) give(o Order) *OrderView { return d.order(o, false) }

// keep is give for what can come undone: an order that was carried out is given
// again when a report that came after its answer shows that it is needed still.
func (d *decider) keep(o Order) *OrderView { return d.order(o, true) }

func (d *decider) order(o Order, again bool) *OrderView {
	n := d.v.Node(o.To)
	since := d.s.AuthIndex
	if d.s.Phase != PhaseSettled {
		since = d.s.PhaseIndex // answers of this phase count, whatever else was committed in it
	}
	last := n.last(o.Op)
	if last != nil && (last.Order.Token.Epoch != d.s.Epoch || last.Order.Token.Index < since || !sameOrder(last.Order, o)) {
		if last.Flight && last.Order.Token.Epoch == d.s.Epoch && last.Order.Token.Index == d.s.AuthIndex && o.Op != OpSeal {
			return nil // one at a time: the other form of this order ends first
		}
		last = nil
	}
	if last != nil {
		switch {
		case last.Flight:
			return last
		case last.Answer != nil && last.Answer.OK && !again:
			return last
		case last.Answer != nil && last.Answer.OK:
			if n.Seen < last.Seen || last.Age < 2*retryStep {
				d.recheck(retryStep)
				return last
			}
		default:
			if wait := min(time.Duration(last.Failed)*retryStep, retryMax) - last.Age; wait > 0 {
				d.recheck(wait)
				return last
			}
		}
	}
	if n.inFlight(o.Op, d.s.Epoch, d.s.AuthIndex) {
		d.recheck(retryStep)
		return last
	}
	if slices.ContainsFunc(d.out.Do, func(p Order) bool { return p.To == o.To }) {
		d.recheck(retryStep) // one at a time
		return last
	}
	o.Token = Token{Epoch: d.s.Epoch, Index: d.s.AuthIndex, Step: n.nextStep(d.s.Epoch, d.s.AuthIndex)}
	d.out.Do = append(d.out.Do, o)
	return last
}

// sameOrder compares all but the token.
func sameOrder(a, b Order) bool {
	src := func(s *Source) Source {
		if s == nil {
			return Source{}
		}
		return *s
	}
	return a.To == b.To && a.Op == b.Op && a.K == b.K && src(a.Source) == src(b.Source) && a.Ack == b.Ack &&
		a.Discard == b.Discard && slices.Equal(a.Allowed, b.Allowed) && slices.Equal(a.Accounts, b.Accounts) &&
		a.Account == b.Account && a.UUID == b.UUID && a.Former == b.Former && a.Lease == b.Lease && a.Copying == b.Copying && a.KeepOld == b.KeepOld &&
		a.Gentle == b.Gentle && a.EndBlockers == b.EndBlockers && a.Await.Equal(b.Await) && a.Cut == b.Cut && a.Keep.Equal(b.Keep)
}

// carriedOut gives the answer of an order that was carried out.
func carriedOut(o *OrderView) *Answer {
	if o == nil || o.Answer == nil || !o.Answer.OK {
		return nil
	}
	return o.Answer
}

// first opens the first epoch once the founder's server runs. It takes the same
// path as every other: close (epoch 0, which has nothing to close), promote.
func (d *decider) first() {
	switch {
	case d.s.Cluster == "":
		d.why("the cluster is not founded yet")
	case d.s.Founder == "":
		d.why("no member has a mysqld yet")
	case d.v.Node(d.s.Founder).Report == nil || d.v.Node(d.s.Founder).Report.Mysqld != MysqldRunning:
		d.why("waiting for mysqld of %s, the first data member", d.name(d.s.Founder))
	default:
		d.commit(Command{Kind: CmdRevoke, Epoch: d.s.Epoch, Why: "first primary"})
	}
}

// source is where the members find the primary.
func (d *decider) source(m Member) *Source {
	p, _ := d.s.Member(d.s.Primary)
	p.ServerUUID = d.s.PrimaryUUID
	return d.sourceAt(p, m)
}

// sourceAt is where m finds another member.
func (d *decider) sourceAt(p, m Member) *Source {
	return &Source{Node: p.ID, Host: p.MySQLHost, Port: p.MySQLPort, UUID: p.ServerUUID,
		User: m.ReplicationUser(), Password: m.ReplicationPassword}
}

func uuids(as []Acker) []string {
	out := make([]string, 0, len(as))
	for _, a := range as {
		out = append(out, a.ServerUUID)
	}
	slices.Sort(out)
	return out
}

func names(s *State, ids []NodeID) string {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		out = append(out, s.Name(id))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// Errant is what a node executed that neither came through its receiver nor is
// in known nor was issued by the primary's server: transactions that somebody
// made on the node itself.
func Errant(executed, received, known gtid.Set, primaryUUID string) gtid.Set {
	e := executed.Minus(known).Minus(received)
	return e.Minus(e.Only(primaryUUID))
}

// GrantFor gives the lease that a report of this node earns. The caller has
// verified its leadership after the report came.
func GrantFor(s *State, node NodeID) Grant {
	g := Grant{Epoch: s.Epoch, Primary: s.Primary}
	if node == s.Primary && (s.Phase == PhasePromote || s.Phase == PhaseSettled) {
		g.Lease = s.Policy.Lease
	}
	return g
}
