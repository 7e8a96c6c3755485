package raftfsmtest

import (
	"fmt"
	"reflect"

	"ha/mysqlctl/gtid"
	"ha/raftfsm"
)

type role int

const (
	roleNone role = iota
	roleReplica
	rolePrimary
)

// Agent is one node's agent: the token rules of R7, leases, the fence, and the
// meaning of each Op (raftfsm/report.go) on its mysqld.
type Agent struct {
	w   *World
	id  raftfsm.NodeID
	md  *Mysqld // nil: witness
	up  bool
	own *owner

	// On disk.
	token raftfsm.Token
	last  *raftfsm.Order
	role  role
	reign uint64

	// Survives the agent, not the host.
	leaseEpoch uint64
	leaseEnd   int64
	proven     int64 // for the checkers: the end of the last lease, rightly counted

	run      int
	seq      uint64
	upSince  int64
	armed    bool
	declined raftfsm.Token // of the last gentle seal that was
	fencing  bool
	cur      *task
	ordered  bool // an order wants mysqld up
	rebuild  *raftfsm.RebuildReport
	image    *Mysqld // the copy, once it is ready
	old      *kept   // the data that it replaced
	kept     []*kept // and those before, as long as nobody else has all of them
	held     bool
}

// task is an order that is being carried out.
type task struct {
	a     *Agent
	order raftfsm.Order
	ans   raftfsm.Answer
	reply func(raftfsm.Answer)
	dead  bool
	until int64
}

func (a *Agent) leaseHeld() uint64 {
	if a.w.now < a.leaseEnd {
		return a.leaseEpoch
	}
	return 0
}

// start is what an agent does first: it ends the sessions of an earlier one and
// fences a server that may be writable without a lease.
func (a *Agent) start() {
	a.up, a.cur, a.armed, a.fencing, a.rebuild, a.held = true, nil, false, false, nil, false
	a.image = nil
	a.ordered = false
	a.run++
	a.declined = raftfsm.Token{}
	a.seq, a.upSince = 0, a.w.now
	if a.md != nil && a.md.up {
		a.md.killSet()
		if !a.md.sro {
			a.armed = true
		}
	}
	run := a.run
	a.w.after(a.w.jitter(1, 200), func() { a.beat(run) })
	a.w.after(a.w.jitter(1, 20), func() { a.tend(run) })
}

func (a *Agent) kill() { a.up, a.cur = false, nil; a.run++ }

// told is how the agent gets to know something: not while it is stopped.
func (a *Agent) told(f func()) { a.w.tell(a.w.agentOf(a.id), 0, f) }

// beat reports.
func (a *Agent) beat(run int) {
	if !a.up || a.run != run {
		return
	}
	a.report(nil)
	a.w.after(a.w.jitter(190, 210), func() { a.beat(run) })
}

// tend fences and supervises.
func (a *Agent) tend(run int) {
	if !a.up || a.run != run {
		return
	}
	if m := a.md; m != nil {
		if m.up && !m.sro && !a.armed {
			a.armed = true
		}
		if !m.up {
			a.armed = false
		}
		if a.armed && a.leaseHeld() == 0 && !a.fencing {
			a.fence()
		}
		if !m.up && !m.starting && !a.held && (a.ordered || a.role != rolePrimary) {
			a.startMysqld()
		}
		a.dropOld()
	}
	a.w.after(a.w.jitter(10, 30), func() { a.tend(run) })
}

func (a *Agent) startMysqld() {
	m, run := a.md, a.run
	m.starting = true
	mrun := m.run
	a.w.tell(a.w.mysqldOf(a.id), a.w.jitter(300, 1500), func() {
		if !m.starting || m.run != mrun {
			return
		}
		m.start()
		a.told(func() {
			if a.run == run {
				a.ordered = false
				a.report(nil)
			}
		})
	})
}

// fence is on its own: whatever order is being carried out.
func (a *Agent) fence() {
	a.fencing = true
	m, run, mrun := a.md, a.run, a.md.run
	if !m.usable() {
		a.killMysqld()
		a.armed, a.fencing = false, false
		return
	}
	done := false
	m.setReadOnly(func(ok bool) {
		a.told(func() {
			if ok && a.run == run {
				done, a.armed, a.fencing = true, false, false
				a.report(nil)
			}
		})
	})
	a.w.after(500, func() {
		if a.run != run || done {
			return
		}
		a.fencing = false
		if m.run == mrun && a.armed {
			a.killMysqld()
			a.armed = false
			a.report(nil)
		}
	})
}

// killMysqld ends a server that may have commits that wait.
func (a *Agent) killMysqld() {
	if a.w.Mutant("sigterm") {
		a.md.terminate()
		return
	}
	a.md.kill()
}

// makeReport is a look at mysqld.
func (a *Agent) makeReport() *raftfsm.Report {
	a.seq++
	r := &raftfsm.Report{Node: a.id, Run: fmt.Sprint(a.run), Seq: a.seq, Token: a.token, Mysqld: raftfsm.MysqldNone,
		LeaseEpoch: a.leaseHeld(), LastIndex: a.w.index}
	if a.rebuild != nil {
		c := *a.rebuild
		r.Rebuild = &c
	}
	if m := a.md; m != nil {
		switch {
		case m.starting:
			r.Mysqld = raftfsm.MysqldStarting
		case !m.up:
			r.Mysqld = raftfsm.MysqldDown
		case m.hung:
			r.Mysqld, r.HungFor = raftfsm.MysqldHung, ms(a.w.now-m.hungAt)
		default:
			r.Mysqld = raftfsm.MysqldRunning
			m.fill(r)
		}
	}
	return r
}

// report sends a report; then gets its grant, or ok=false.
func (a *Agent) report(then func(g raftfsm.Grant, ok bool)) {
	r, at, run := a.makeReport(), a.w.now, a.run
	a.w.sendReport(a, r, func(g raftfsm.Grant, ok bool) {
		if a.run != run || !a.up {
			return
		}
		if ok && g.Lease > 0 {
			a.proven = max(a.proven, at+g.Lease.Milliseconds())
		}
		if a.w.Mutant("lease-from-receipt") {
			at = a.w.now
		}
		if ok {
			a.take(g, at)
		}
		if then != nil {
			then(g, ok)
		}
	})
}

func (a *Agent) take(g raftfsm.Grant, sentAt int64) {
	switch {
	case g.Epoch < a.token.Epoch:
	case g.Primary != a.id:
		if g.Epoch > a.leaseEpoch {
			a.leaseEnd = 0
		}
	case g.Lease > 0:
		end := sentAt + g.Lease.Milliseconds()
		if g.Epoch > a.leaseEpoch || g.Epoch == a.leaseEpoch && end > a.leaseEnd {
			a.leaseEpoch, a.leaseEnd = g.Epoch, end
		}
	}
}

// execute judges an order's token and carries the order out (R7).
func (a *Agent) execute(o raftfsm.Order, reply func(raftfsm.Answer)) {
	ans := raftfsm.Answer{Token: o.Token, Op: o.Op}
	refuse := func(code, err string) {
		ans.Code, ans.Err = code, err
		reply(ans)
	}
	if a.md == nil {
		refuse(raftfsm.CodeFailed, "a witness has no mysqld")
		return
	}
	switch c := o.Token.Compare(a.token); {
	case c < 0, c == 0 && !reflect.DeepEqual(o, *a.last):
		if !a.w.Mutant("epoch-only-token") || o.Token.Epoch < a.token.Epoch {
			refuse(raftfsm.CodeStaleToken, "stale")
			return
		}
	case c == 0 && a.cur != nil:
		refuse(raftfsm.CodeBusy, "busy")
		return
	}
	if o.Token.Compare(a.token) >= 0 {
		a.token, a.last = o.Token, &o
	}
	a.w.happened("token", string(o.Op), a.id)
	if o.Op == raftfsm.OpPromote {
		a.role, a.reign = rolePrimary, o.Token.Epoch
	}
	if a.cur != nil {
		a.cur.fail(raftfsm.CodeStaleToken, "a newer order has come")
		a.md.killSet()
	}
	t := &task{a: a, order: o, ans: ans, reply: reply, until: a.w.now + 10000}
	a.cur = t
	t.later(func() { t.carryOut() })
}

// later goes on after a moment, unless the agent died or a newer order came.
func (t *task) later(f func()) {
	run, d := t.a.run, t.a.w.jitter(0, 6)
	if t.a.w.chance(2) { // a statement that takes its time
		d = t.a.w.jitter(0, 1000)
	}
	t.a.w.after(d, func() {
		if (!t.dead || t.a.w.Mutant("abandoned-sql")) && t.a.up && t.a.run == run {
			f()
		}
	})
}

func (t *task) finish() {
	if t.dead {
		return
	}
	t.dead = true
	if t.a.cur == t {
		t.a.cur = nil
	}
	t.a.w.happened("done", string(t.order.Op), t.a.id)
	t.a.report(nil)
	t.reply(t.ans)
}

func (t *task) ok() { t.ans.OK = true; t.finish() }

func (t *task) fail(code, err string) { t.ans.Code, t.ans.Err = code, err; t.finish() }

// wait polls until cond; at the bound it calls late.
func (t *task) wait(bound int64, cond func() bool, then, late func()) {
	end := t.a.w.now + bound
	var poll func()
	poll = func() {
		switch {
		case cond():
			then()
		case t.a.w.now > end:
			late()
		default:
			t.later(poll)
		}
	}
	poll()
}

func (t *task) failed(why string) func() { return func() { t.fail(raftfsm.CodeFailed, why) } }

func (t *task) ensureUp(then func()) {
	m := t.a.md
	if !m.up {
		t.a.ordered = true
	}
	t.wait(10000, m.usable, then, t.failed("mysqld does not start"))
}

func (t *task) carryOut() {
	a, m, o := t.a, t.a.md, t.order
	alive := func(then func()) {
		if !m.usable() {
			t.fail(raftfsm.CodeFailed, "mysqld is not running")
			return
		}
		then()
	}
	switch o.Op {
	case raftfsm.OpSeal:
		t.seal()
	case raftfsm.OpPrepare:
		t.ensureUp(func() {
			m.sql = true
			t.wait(30000, func() bool { return m.usable() && len(m.relay) == 0 || m.broken }, func() {
				t.position(true)
				if m.broken {
					t.ans.ApplierError = "1062"
					t.fail(raftfsm.CodeFailed, "applier: 1062")
					return
				}
				t.ok()
			}, t.failed("not drained"))
		})
	case raftfsm.OpPromote:
		alive(func() {
			m.setAcks(o.K)
			open := func() {
				if !m.usable() || a.leaseHeld() != o.Token.Epoch && !a.w.Mutant("no-grant") {
					t.fail(raftfsm.CodeNoGrant, "no lease")
					return
				}
				a.armed = true
				m.sro = false
				a.w.opened(a, o.Token.Epoch)
				t.position(true)
				t.ok()
				a.tidy(o.Token)
			}
			if a.w.Mutant("no-grant") {
				open()
				return
			}
			a.report(func(g raftfsm.Grant, ok bool) {
				if t.dead {
					return
				}
				if !ok || g.Primary != a.id || g.Epoch != o.Token.Epoch || g.Lease <= 0 {
					t.fail(raftfsm.CodeNoGrant, "no lease")
					return
				}
				t.later(open)
			})
			t.a.w.after(2000, func() { t.failIf("no answer to the report") })
		})
	case raftfsm.OpBarrier:
		alive(func() { t.barrier() })
	case raftfsm.OpFollow:
		t.ensureUp(func() { t.follow() })
	case raftfsm.OpSetAcks:
		alive(func() {
			if a.role != rolePrimary || a.reign != o.Token.Epoch || a.leaseHeld() != o.Token.Epoch {
				if !a.w.Mutant("epoch-only-token") {
					t.fail(raftfsm.CodeFailed, "not the leased primary")
					return
				}
			}
			m.setAcks(o.K)
			t.ok()
		})
	case raftfsm.OpExclude:
		alive(func() {
			m.flag = false
			if m.io && !a.w.Mutant("flag-without-restart") {
				m.stopIO()
				m.startIO()
			}
			t.ok()
		})
	case raftfsm.OpLockOut:
		alive(func() {
			for _, id := range a.w.order {
				if (raftfsm.Member{ID: id}).ReplicationUser() == o.Account {
					m.accounts[id] = false
				}
			}
			m.killDump(o.UUID)
			t.ok()
		})
	case raftfsm.OpAccounts:
		alive(func() { t.accounts() })
	case raftfsm.OpReady:
		alive(func() {
			t.wait(10000, func() bool { return !m.usable() || m.executed.Contains(o.Await) }, func() {
				if !m.usable() {
					t.fail(raftfsm.CodeFailed, "mysqld died")
					return
				}
				t.ok()
			}, t.failed("not caught up"))
		})
	case raftfsm.OpEvents:
		alive(t.ok)
	case raftfsm.OpStart:
		if o.Cut && !m.up && !m.starting && a.role == rolePrimary && (a.reign < o.Token.Epoch || a.w.Mutant("cut-early")) {
			_ = m.cutTail(o.Keep) // if it must not be cut, it is started and compared
		}
		t.ensureUp(func() {
			t.position(true)
			if a.role != rolePrimary || a.reign < o.Token.Epoch && m.sro {
				a.role, a.reign = roleNone, 0
			}
			t.ok()
		})
	case raftfsm.OpRebuild:
		t.rebuild()
	case raftfsm.OpSwap:
		t.swap()
	case raftfsm.OpEndRebuild:
		if r := a.rebuild; r != nil && r.Index == o.Lease && !r.Done && r.Err == "" {
			r.Err, a.image = "ended", nil
		}
		t.ok()
	default:
		panic("unknown op " + o.Op)
	}
}

func (t *task) failIf(why string) {
	if !t.dead && t.order.Op == raftfsm.OpPromote {
		t.fail(raftfsm.CodeFailed, why)
	}
}

// tidy takes the old channel away a while after the promotion.
func (a *Agent) tidy(tok raftfsm.Token) {
	run := a.run
	a.w.after(500, func() {
		if a.up && a.run == run && a.role == rolePrimary && a.reign == tok.Epoch && a.md.usable() && !a.md.sro && a.md.channel != "" {
			a.md.reset()
		}
	})
}

func (t *task) position(running bool) {
	m := t.a.md
	t.ans.Executed, t.ans.Received, t.ans.ServerUUID, t.ans.Running = m.executed, m.received, m.uuid, running
}

// positionOfLiving answers what SQL says: nothing of a server that has died meanwhile,
// which holds more in its binary log than its engine has synced.
func (t *task) positionOfLiving() {
	if !t.a.md.usable() {
		t.fail(raftfsm.CodeFailed, "mysqld died")
		return
	}
	t.position(true)
	t.ok()
}

func (t *task) offline() {
	m := t.a.md
	t.ans.Executed, t.ans.Received, t.ans.ServerUUID, t.ans.Running = m.executed.Union(m.loggedS), gtid.Set{}, m.uuid, false
	t.ok()
}

func (t *task) reigned() bool {
	return t.a.role == rolePrimary || t.a.armed || t.a.md.up && (!t.a.md.sro || t.a.md.sourceOn)
}

func (t *task) seal() {
	a, m := t.a, t.a.md
	if !m.up && !m.starting && t.order.Former {
		t.offline()
		return
	}
	if t.reigned() && m.up && t.order.Gentle {
		t.sealGently()
		return
	}
	if t.reigned() && m.up {
		t.readOnly(func() {
			a.armed = false
			m.stopIO()
			t.later(func() { t.positionOfLiving() })
		}, func() {
			a.killMysqld()
			a.armed = false
			t.offline()
		})
		return
	}
	t.ensureUp(func() {
		t.wait(1000, func() bool { return !m.usable() || m.executed.Contains(t.order.Await) }, t.sealReplica, t.sealReplica)
	})
}

// sealGently makes the primary read-only, or leaves it as it was.
func (t *task) sealGently() {
	a, m := t.a, t.a.md
	returned := false
	if !m.usable() {
		t.fail(raftfsm.CodeFailed, "mysqld does not answer")
		return
	}
	if t.order.Token == a.declined {
		t.fail(raftfsm.CodeBlocked, "declined already")
		return
	}
	m.setReadOnly(func(ok bool) { returned = ok })
	t.wait(300, func() bool { return returned || !m.usable() }, func() {
		if !m.usable() || !returned {
			t.fail(raftfsm.CodeFailed, "mysqld died")
			return
		}
		a.armed = false
		m.stopIO()
		t.later(func() { t.positionOfLiving() })
	}, func() {
		m.killSet()
		a.declined = t.order.Token
		t.fail(raftfsm.CodeBlocked, "commits wait")
	})
}

func (t *task) sealReplica() {
	a, m := t.a, t.a.md
	t.ensureUp(func() {
		t.wait(1000, m.usable, func() {
			if a.w.Mutant("position-before-seal") {
				t.position(true)
				t.later(func() {
					m.stopIO()
					t.ok()
				})
				return
			}
			if m.link != nil || !a.w.Mutant("connecting-is-sealed") {
				m.stopIO()
			}
			t.later(func() { // read after the stop
				if m.broken {
					t.ans.ApplierError = "1062"
				}
				t.positionOfLiving()
			})
		}, func() { m.kill(); t.seal() })
	})
}

// readOnly sets super_read_only; late after a second without its return.
func (t *task) readOnly(then, late func()) {
	m := t.a.md
	if t.a.w.Mutant("variable-is-fenced") {
		m.setReadOnly(func(bool) {})
		t.later(then)
		return
	}
	state := 0
	if m.usable() {
		m.setReadOnly(func(ok bool) {
			state = 2
			if ok {
				state = 1
			}
		})
	}
	t.wait(1000, func() bool { return state != 0 || !m.up }, func() {
		if state == 1 && m.usable() {
			then()
			return
		}
		late()
	}, func() { m.killSet(); late() })
}

func (t *task) strays() []string {
	var out []string
	for _, d := range t.a.md.dumps {
		found := !d.ack
		for _, u := range t.order.Allowed {
			found = found || u == d.uuid
		}
		if !found {
			out = append(out, d.uuid)
		}
	}
	return out
}

func (t *task) barrier() {
	m := t.a.md
	for _, u := range t.strays() {
		m.killDump(u)
	}
	t.later(func() {
		switch {
		case !m.usable() || m.sro || m.setting != nil:
			t.fail(raftfsm.CodeFailed, "1290: read-only")
			return
		case len(t.strays()) > 0:
			t.fail(raftfsm.CodeStray, "stray")
			return
		}
		if !m.cluster {
			m.commit("schema", nil)
		}
		answered := false
		m.commit("barrier "+t.order.Token.String(), func(ok bool) {
			t.a.told(func() {
				if t.dead {
					return
				}
				answered = true
				switch {
				case !ok:
					t.fail(raftfsm.CodeFailed, "mysqld died")
				case len(t.strays()) > 0:
					t.fail(raftfsm.CodeStray, "stray")
				default:
					t.ok()
				}
			})
		})
		t.wait(10000, func() bool { return answered }, func() {}, t.failed("barrier: deadline"))
	})
}

func (t *task) follow() {
	a, m, o := t.a, t.a.md, t.order
	go1 := func() {
		if !m.usable() {
			t.fail(raftfsm.CodeFailed, "mysqld died")
			return
		}
		if m.sourceOn {
			m.setAcks(0)
		}
		if o.Discard {
			m.stopIO()
			m.sql = false
			m.discard()
		}
		if m.channel == "" {
			m.relay, m.received = nil, gtid.Set{}
			m.channel, m.source = o.Source.Node, ""
		} else {
			m.stopIO()
			m.sql = true
			if a.w.Mutant("both-threads-stopped") {
				m.sql = false
			}
			m.flag = false
		}
		t.later(func() {
			if !m.usable() {
				t.fail(raftfsm.CodeFailed, "mysqld died")
				return
			}
			m.stopIO()
			m.flag = o.Ack
			if m.channel != o.Source.Node {
				m.change(o.Source.Node)
			}
			m.sql = true
			m.startIO()
			a.role, a.reign = roleReplica, 0
			t.ok()
		})
	}
	if t.reigned() || !m.sro {
		t.readOnly(func() { a.armed = false; go1() }, func() { m.kill(); a.armed = false; t.fail(raftfsm.CodeFailed, "killed: not read-only") })
		return
	}
	go1()
}

func (t *task) accounts() {
	m := t.a.md
	for _, acc := range t.order.Accounts {
		for _, id := range t.a.w.order {
			if (raftfsm.Member{ID: id}).ReplicationUser() != acc.User {
				continue
			}
			if _, there := m.accounts[id]; there {
				m.accounts[id] = true
			} else if m.sro || m.setting != nil || !m.usable() {
				t.fail(raftfsm.CodeFailed, "1290: read-only")
				return
			} else {
				m.commit("account "+string(id), nil)
			}
		}
	}
	t.ok()
}
