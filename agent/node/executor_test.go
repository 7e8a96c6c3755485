package node

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
)

func source(host string) *raftfsm.Source {
	return &raftfsm.Source{Node: "n2", Host: host, Port: 3306, UUID: otherUUID, User: "ha_r_n1"}
}

func TestStaleOrdersDoNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.mustOrder(raftfsm.Order{Token: tok(2, 20, 2), Op: raftfsm.OpFollow, Source: source("n2"), Ack: true})
		b.md.forget()
		for _, o := range []raftfsm.Order{
			{Token: tok(1, 99, 9), Op: raftfsm.OpSeal},
			{Token: tok(2, 20, 1), Op: raftfsm.OpPromote},
			{Token: tok(2, 20, 2), Op: raftfsm.OpPromote},
			{Token: tok(2, 20, 2), Op: raftfsm.OpFollow, Source: source("n3"), Ack: true},
		} {
			if a := b.order(o); a.OK || a.Code != raftfsm.CodeStaleToken {
				t.Errorf("%s %s: %+v", o.Op, o.Token, a)
			}
		}
		if got := b.md.effects(); got != "" {
			t.Errorf("a stale order did %s", got)
		}
		// The same order again is carried out again.
		b.mustOrder(raftfsm.Order{Token: tok(2, 20, 2), Op: raftfsm.OpFollow, Source: source("n2"), Ack: true})
		if got := b.md.effects(); got != "Follow" {
			t.Errorf("again: %s", got)
		}
	})
}

// A newer order ends the older one and waits until its statement is gone.
func TestSealSupersedesHangingFollow(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.md.set(func(f *fakeMysqld) { f.hang["Follow"] = true })
		old := make(chan raftfsm.Answer)
		go func() {
			old <- b.order(raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpFollow, Source: source("n2")})
		}()
		time.Sleep(time.Second)
		began := time.Now()
		a := b.mustOrder(raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpSeal})
		if took := time.Since(began); took > 2*killGrace {
			t.Errorf("the seal took %s", took)
		}
		if !a.Running || !a.Executed.Equal(b.md.executed) || a.ServerUUID != ownUUID {
			t.Errorf("%+v", a)
		}
		if a := <-old; a.OK || a.Code != raftfsm.CodeStaleToken {
			t.Errorf("the older order: %+v", a)
		}
		if got := b.md.effects(); got != "KillOwnSessions Follow-ended SealReplica" {
			t.Errorf("did %s", got)
		}
	})
}

// Of three orders the last one is carried out, and the one in the middle never.
func TestOnlyTheNewestOrderWaits(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.md.set(func(f *fakeMysqld) { f.hang["Follow"] = true })
		answers := make(chan raftfsm.Answer, 2)
		go func() {
			answers <- b.order(raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpFollow, Source: source("n2")})
		}()
		synctest.Wait()
		go func() { answers <- b.order(raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpExclude}) }()
		synctest.Wait()
		b.mustOrder(raftfsm.Order{Token: tok(1, 12, 1), Op: raftfsm.OpSeal})
		for range 2 {
			if a := <-answers; a.OK || a.Code != raftfsm.CodeStaleToken {
				t.Errorf("%+v", a)
			}
		}
		if b.md.did("SetReplicaAck-false") {
			t.Error("an order that was superseded before its turn was carried out")
		}
	})
}

// A statement that cannot be ended may take effect later: the server is killed.
func TestAbandonedStatementKills(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.md.set(func(f *fakeMysqld) { f.fail["SetReplicaAck-false"] = mysqlctl.ErrAbandoned })
		a := b.order(raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpExclude})
		if a.OK || !b.md.did("Kill") {
			t.Errorf("%+v, %s", a, b.md.effects())
		}
	})
}

// Clients that hold up a candidate's applier are ended; where it does not take long
// nobody is.
func TestPrepareEndsBlockers(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.mustOrder(raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpSeal})
		b.mustOrder(raftfsm.Order{Token: tok(1, 10, 2), Op: raftfsm.OpPrepare})
		if b.md.did("KillClients") {
			t.Errorf("ended for nothing: %s", b.md.effects())
		}
		b.md.set(func(f *fakeMysqld) { f.hang["Drain"] = true })
		ctx, cancel := context.WithTimeout(b.t.Context(), 2*drainPatience)
		defer cancel()
		if a := b.n.Execute(ctx, raftfsm.Order{Token: tok(1, 10, 3), To: "n1", Op: raftfsm.OpPrepare}); a.OK || !b.md.did("KillClients") {
			t.Errorf("%+v, %s", a, b.md.effects())
		}
	})
}

func TestPromote(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.mustOrder(raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpFollow, Source: source("n2"), Ack: true})
		b.mustOrder(raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpSeal})
		b.md.set(func(f *fakeMysqld) { f.received = gtid.MustParse(otherUUID + ":1-12") })
		a := b.mustOrder(raftfsm.Order{Token: tok(1, 11, 2), Op: raftfsm.OpPrepare})
		if want := gtid.MustParse(otherUUID + ":1-12"); !a.Executed.Equal(want) || !a.Running {
			t.Errorf("prepared: %+v", a)
		}
		b.md.forget()
		b.co.set(func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: 2, Primary: "n1", Lease: testLease} })
		o := raftfsm.Order{Token: tok(2, 12, 1), Op: raftfsm.OpPromote, K: 1}
		if a := b.mustOrder(o); a.Executed.IsEmpty() || a.ServerUUID != ownUUID {
			t.Errorf("promoted: %+v", a)
		}
		if got := b.md.effects(); got != "ConfigureSource1 OpenWrites" {
			t.Errorf("did %s", got)
		}
		b.mustOrder(raftfsm.Order{Token: tok(2, 12, 2), Op: raftfsm.OpBarrier, Allowed: []string{otherUUID}})
		b.within(2*time.Second, "old channel removed", func() bool { return b.md.did("ResetReplica") })
		if r := b.co.last(); r.LeaseEpoch != 2 {
			t.Errorf("report names the lease of epoch %d", r.LeaseEpoch)
		}
		b.within(time.Second, "report is up to date", func() bool {
			r := b.co.last()
			return !r.SuperReadOnly && r.SourceOn && r.WaitFor == 1 && len(r.Accounts) == 1 && r.ClusterOnDisk == "c1" && r.Replica == nil
		})
	})
}

// R8: no grant, no opening.
func TestNoGrantNoOpening(t *testing.T) {
	good := raftfsm.Grant{Epoch: 2, Primary: "n1", Lease: testLease}
	for name, change := range map[string]func(*coordinator){
		"no coordinator":  func(c *coordinator) { c.grant, c.err = good, errTest },
		"not granted":     func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: 2, Primary: "n1"} },
		"another primary": func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: 2, Primary: "n2", Lease: testLease} },
		"earlier epoch":   func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: 1, Primary: "n1", Lease: testLease} },
		"later epoch":     func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: 3, Primary: "n1", Lease: testLease} },
		"over when it came": func(c *coordinator) {
			c.grant, c.delay = raftfsm.Grant{Epoch: 2, Primary: "n1", Lease: time.Second}, 1100*time.Millisecond
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.up()
				b.co.set(change)
				a := b.order(raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpPromote, K: 1})
				if a.OK || a.Code != raftfsm.CodeNoGrant {
					t.Errorf("%+v", a)
				}
				time.Sleep(3 * time.Second)
				if b.md.did("OpenWrites") || b.hooked() != "" {
					t.Errorf("opened: %s", b.md.effects())
				}
			})
		})
	}
}

// Clients wait for no look at mysqld. But the coordinator knows what it has executed
// before it hears that it is open: an earlier look may lack rows that others have.
func TestPromoteTellsAfterItOpened(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		late := gtid.MustParse(otherUUID + ":1-9")
		var opened time.Time
		b.md.set(func(f *fakeMysqld) {
			f.lookFor = freshLook / 2
			f.after["OpenWrites"] = func(f *fakeMysqld) { opened, f.lookFor, f.executed = time.Now(), 0, f.executed.Union(late) }
		})
		b.co.set(func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: 2, Primary: "n1", Lease: testLease} })
		time.Sleep(2 * heartbeat) // a look is under way
		reports, _ := b.co.all()
		began, before := time.Now(), len(reports)
		b.mustOrder(raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpPromote, K: 1})
		if took := opened.Sub(began); took > freshLook/10 {
			t.Errorf("opened after %s", took)
		}
		reports, _ = b.co.all()
		asked, told := 0, 0
		for _, r := range reports[before:] {
			if r.GrantOnly {
				asked++
			} else if r.Executed.Contains(late) {
				told++
			}
		}
		if asked != 1 || told == 0 {
			t.Errorf("asked %d times for a lease, told %d times: %+v", asked, told, reports[before:])
		}
	})
}

// A grant that came before the order is none: it must answer a report that was
// sent after it.
func TestPromoteAsksAfresh(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.co.set(func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: 2, Primary: "n1", Lease: testLease} })
		b.up()
		time.Sleep(time.Second)
		if b.n.lease.held() != 2 {
			t.Fatal("no lease")
		}
		b.co.set(func(c *coordinator) { c.err = errTest })
		if a := b.order(raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpPromote}); a.Code != raftfsm.CodeNoGrant {
			t.Errorf("%+v", a)
		}
	})
}

// A promotion stops at whatever step it is when a seal comes.
func TestSealSupersedesPromotion(t *testing.T) {
	for _, step := range []string{"ConfigureSource1", "grant", "OpenWrites"} {
		t.Run(step, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.up()
				b.co.set(func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: 2, Primary: "n1", Lease: testLease} })
				if step == "grant" {
					b.co.set(func(c *coordinator) { c.delay = time.Second })
				} else {
					b.md.set(func(f *fakeMysqld) { f.hang[step] = true })
				}
				answer := make(chan raftfsm.Answer)
				go func() { answer <- b.order(raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpPromote, K: 1}) }()
				time.Sleep(300 * time.Millisecond)
				a := b.mustOrder(raftfsm.Order{Token: tok(2, 21, 1), Op: raftfsm.OpSeal, Former: true})
				if !a.Running {
					t.Errorf("%+v", a)
				}
				if a := <-answer; a.OK || a.Code != raftfsm.CodeStaleToken {
					t.Errorf("promotion: %+v", a)
				}
				time.Sleep(3 * time.Second)
				if b.open() || b.md.did("OpenWrites") {
					t.Errorf("opened: %s", b.md.effects())
				}
			})
		})
	}
}

// grantOnce has the coordinator give one lease for an epoch, and none after it.
func (b *bench) grantOnce(epoch uint64) {
	b.co.set(func(c *coordinator) {
		c.grant = raftfsm.Grant{Epoch: epoch, Primary: "n1", Lease: testLease}
		c.hook = func(r raftfsm.Report) {
			if r.Token.Epoch == epoch {
				b.co.set(func(c *coordinator) { c.err = errTest })
			}
		}
	})
}

// The lease ends while the statement that opens is on its way, as when the
// agent is stopped between its check and its statement.
func TestLeaseEndsWhileOpening(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.grantOnce(2)
		b.md.set(func(f *fakeMysqld) {
			f.after["OpenWrites"] = func(*fakeMysqld) { b.clock.jump.Add(int64(time.Minute)) }
		})
		a := b.order(raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpPromote, K: 1})
		if a.OK || a.Code != raftfsm.CodeNoGrant || b.open() {
			t.Errorf("%+v, %s", a, b.md.effects())
		}
	})
}

// What comes before the opening may outlast the lease, or the agent be stopped there.
func TestLeaseEndsBeforeOpening(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		err := b.n.openWrites(b.t.Context(), 2)
		var no refusal
		if !errors.As(err, &no) || no.code != raftfsm.CodeNoGrant || b.open() || b.md.did("OpenWrites") {
			t.Errorf("%v, %s", err, b.md.effects())
		}
	})
}

// The fence may come between the arming and the statement that opens.
func TestFencedWhileOpening(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.grantOnce(2)
		b.md.set(func(f *fakeMysqld) {
			f.after["OpenWrites"] = func(*fakeMysqld) {
				b.clock.jump.Add(int64(time.Minute))
				gen := b.n.fence.armed()
				b.n.fence.disarm(gen) // as a fence does that was done before the statement
			}
		})
		a := b.order(raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpPromote, K: 1})
		if a.OK || b.open() {
			t.Errorf("%+v, %s", a, b.md.effects())
		}
	})
}

func TestSealReplicaThatDoesNotStop(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.mustOrder(raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpFollow, Source: source("n2"), Ack: true})
		b.md.set(func(f *fakeMysqld) { f.hang["SealReplica"] = true })
		go func() {
			b.within(3*time.Second, "killed", func() bool { return b.md.did("Kill") })
			b.md.set(func(f *fakeMysqld) { f.hang["SealReplica"] = false })
		}()
		began := time.Now()
		a := b.mustOrder(raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpSeal})
		if took := time.Since(began); took > sealTimeout+b.md.startFor+100*time.Millisecond {
			t.Errorf("took %s", took)
		}
		if !a.Running || b.md.io {
			t.Errorf("%+v, %s", a, b.md.effects())
		}
		// Nothing unseals it but an order.
		b.md.crash()
		b.within(5*time.Second, "started again", func() bool { return b.n.isUp() })
		time.Sleep(time.Minute)
		if b.md.io || b.md.did("OpenWrites") {
			t.Error("unsealed by itself")
		}
	})
}

func TestSealPrimary(t *testing.T) {
	for name, tc := range map[string]struct {
		change  func(*bench)
		running bool
		want    string
	}{
		"alive":           {func(*bench) {}, true, "Fence SealReplica KillClients"},
		"commits wait":    {func(b *bench) { b.md.set(func(f *fakeMysqld) { f.waiting = 3 }) }, false, "Fence-ended Poison Kill OfflinePosition"},
		"frozen":          {func(b *bench) { b.md.set(func(f *fakeMysqld) { f.frozen = true }) }, false, "Fence-ended Poison-ended Kill OfflinePosition"},
		"dead":            {func(b *bench) { b.md.crash(); time.Sleep(time.Second) }, false, "OfflinePosition"},
		"dumping core":    {func(b *bench) { b.md.set(func(f *fakeMysqld) { f.dumping, f.frozen = true, true }) }, false, "Kill OfflinePosition"},
		"died just now":   {func(b *bench) { b.md.crash() }, false, "OfflinePosition"},
		"does not answer": {func(b *bench) { b.md.set(func(f *fakeMysqld) { f.hang["SealReplica"] = true }) }, false, "Fence SealReplica-ended Poison Kill OfflinePosition"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.up()
				b.lead(1)
				time.Sleep(time.Second)
				b.md.forget()
				tc.change(b)
				began := time.Now()
				a := b.mustOrder(raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpSeal, Former: true})
				if took := time.Since(began); took > closeTimeout+poisonTimeout+3*killGrace {
					t.Errorf("took %s", took)
				}
				if a.Running != tc.running || a.ServerUUID != ownUUID || a.Executed.IsEmpty() {
					t.Errorf("%+v", a)
				}
				time.Sleep(time.Millisecond) // sessions are ended after the answer
				if got := b.md.effects(); got != tc.want {
					t.Errorf("did %q, want %q", got, tc.want)
				}
				time.Sleep(time.Minute)
				if b.md.Alive() != tc.running || b.open() {
					t.Errorf("not sealed any more: %s", b.md.effects())
				}
				if b.hooked() != "open closed" {
					t.Error(b.hooked())
				}
			})
		})
	}
}

// A former primary that was killed is started by order, and may be supervised
// from then on; that it follows makes it a replica.
func TestFormerPrimaryComesBack(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		b.md.crash()
		b.co.set(func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: 2, Primary: "n2"} })
		time.Sleep(time.Minute)
		if b.md.Alive() {
			t.Fatal("started without an order")
		}
		a := b.mustOrder(raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpStart})
		if !a.Running || a.Executed.IsEmpty() {
			t.Errorf("%+v", a)
		}
		b.md.crash()
		b.within(5*time.Second, "started again by itself", b.n.isUp)
		b.mustOrder(raftfsm.Order{Token: tok(2, 20, 2), Op: raftfsm.OpFollow, Source: source("n2"), Ack: true})
		if got := b.n.Stored().Role; got != RoleReplica {
			t.Errorf("role %s", got)
		}
	})
}

// A primary that cannot be closed does not follow: what waits there is nobody
// else's.
func TestFollowOfAZombie(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		b.md.set(func(f *fakeMysqld) { f.waiting = 1 })
		a := b.order(raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpFollow, Source: source("n2")})
		if a.OK || !b.md.did("Kill") || b.md.did("Follow") {
			t.Errorf("%+v, %s", a, b.md.effects())
		}
		// Given for a report from before the end.
		if a := b.order(raftfsm.Order{Token: tok(2, 21, 1), Op: raftfsm.OpFollow, Source: source("n2")}); a.OK {
			t.Errorf("%+v, %s", a, b.md.effects())
		}
		time.Sleep(time.Minute)
		if b.md.Alive() || b.md.did("Follow") {
			t.Error("started without an order")
		}
	})
}

func TestFollowDiscards(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.mustOrder(raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpFollow, Source: source("n2"), Discard: true})
		if got := b.md.effects(); got != "KillOwnSessions DiscardReceived Follow" {
			t.Errorf("did %s", got)
		}
	})
}

func TestBarrierWithStrays(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		const stray = "00000000-0000-0000-0000-0000000000ff"
		b.md.set(func(f *fakeMysqld) { f.attached = []string{otherUUID, stray} })
		o := raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpBarrier, Allowed: []string{otherUUID}}
		b.md.forget()
		b.mustOrder(o)
		if got := b.md.effects(); got != "KillDump EnsureSchema Barrier" {
			t.Errorf("did %s", got)
		}
		// One that comes back at once, or while the row is written, is no proof.
		attach := func(f *fakeMysqld) { f.attached = []string{otherUUID, stray} }
		b.md.set(func(f *fakeMysqld) { attach(f); f.after["KillDump"] = attach })
		o.Token.Step++
		if a := b.order(o); a.OK || a.Code != raftfsm.CodeStray {
			t.Errorf("%+v", a)
		}
		b.md.set(func(f *fakeMysqld) { f.attached = []string{otherUUID}; f.after["Barrier"] = attach })
		o.Token.Step++
		if a := b.order(o); a.OK || a.Code != raftfsm.CodeStray {
			t.Errorf("attached during the barrier: %+v", a)
		}
	})
}

// Fewer acks release commits: only on a primary with a lease for the epoch.
func TestSetAcks(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		if a := b.order(raftfsm.Order{Token: tok(1, 5, 1), Op: raftfsm.OpSetAcks}); a.OK {
			t.Errorf("on a node that never reigned: %+v", a)
		}
		b.lead(1)
		b.mustOrder(raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpSetAcks, K: 2})
		b.co.set(func(c *coordinator) { c.err = errTest })
		b.within(7*time.Second, "fenced", func() bool { return !b.open() })
		b.md.forget()
		if a := b.order(raftfsm.Order{Token: tok(1, 12, 1), Op: raftfsm.OpSetAcks}); a.Code != raftfsm.CodeNoGrant {
			t.Errorf("without a lease: %+v", a)
		}
		if a := b.order(raftfsm.Order{Token: tok(2, 13, 1), Op: raftfsm.OpSetAcks}); a.OK {
			t.Errorf("in a later epoch: %+v", a)
		}
		if got := b.md.effects(); got != "" {
			t.Errorf("did %s", got)
		}
	})
}

func TestSmallOrders(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		b.md.forget()
		b.mustOrder(raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpLockOut, Account: "ha_r_n2", UUID: otherUUID})
		b.mustOrder(raftfsm.Order{Token: tok(1, 12, 1), Op: raftfsm.OpAccounts, Accounts: []raftfsm.Account{{User: "ha_r_n2"}, {User: "ha_r_n3"}}})
		b.mustOrder(raftfsm.Order{Token: tok(1, 13, 1), Op: raftfsm.OpExclude})
		want := "Lock-ha_r_n2-true KillDump Account-ha_r_n2 Lock-ha_r_n2-false Account-ha_r_n3 Lock-ha_r_n3-false SetReplicaAck-false"
		if got := b.md.effects(); got != want {
			t.Errorf("did %s", got)
		}
		for _, a := range []raftfsm.Answer{
			b.n.Execute(b.t.Context(), raftfsm.Order{Token: tok(9, 9, 9), To: "n2", Op: raftfsm.OpSeal}),
			b.order(raftfsm.Order{Token: tok(9, 9, 9), Op: "dance"}),
			b.order(raftfsm.Order{Token: tok(1, 14, 1), Op: raftfsm.OpFollow}),
		} {
			if a.OK || a.Code != raftfsm.CodeFailed {
				t.Errorf("%+v", a)
			}
		}
		if got := b.n.Stored().Token; got != tok(1, 14, 1) {
			t.Errorf("an order that cannot be obeyed moved the token: %s", got)
		}
	})
}

func TestOrderBeforeRun(t *testing.T) {
	inBubble(t, func(b *bench) {
		n, err := New(b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		a := n.Execute(b.t.Context(), raftfsm.Order{To: "n1", Token: tok(1, 1, 1), Op: raftfsm.OpSeal})
		if a.OK || a.Code != raftfsm.CodeBusy || n.Stored().Token != (raftfsm.Token{}) {
			t.Errorf("%+v", a)
		}
	})
}

// A damaged token file is an error, not a fresh start.
func TestDamagedTokenFile(t *testing.T) {
	inBubble(t, func(b *bench) {
		if err := os.WriteFile(b.cfg.DataDir+"/token", make([]byte, 2*slotSize), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(b.cfg); !errors.Is(err, ErrTokenFile) {
			t.Errorf("%v", err)
		}
	})
}

// A replica that is received from keeps its binary log short; nobody else's is touched,
// and an order does not wait for it.
func TestReplicaKeepsItsBinlogShort(t *testing.T) {
	const long, short = binlogLong + 1, binlogLong - 1
	follow := raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpFollow, Source: source("n2"), Ack: true}
	for _, tc := range []struct {
		name    string
		order   raftfsm.Order
		change  func(*fakeMysqld)
		flushed bool
	}{
		{"long", follow, func(f *fakeMysqld) { f.binlog = long }, true},
		{"short", follow, func(f *fakeMysqld) { f.binlog = short }, false},
		{"receives nothing", follow, func(f *fakeMysqld) { f.binlog, f.io = long, false }, false},
		{"no replica", raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpSeal}, func(f *fakeMysqld) { f.binlog = long }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.up()
				b.mustOrder(tc.order)
				b.md.forget()
				b.md.set(tc.change)
				time.Sleep(5 * time.Second)
				if got := b.md.did("flush"); got != tc.flushed {
					t.Errorf("flushed: %t (%s)", got, b.md.effects())
				}
				if b.md.effects() != "" && b.md.effects() != "flush" {
					t.Errorf("did %s", b.md.effects())
				}
			})
		})
	}
	t.Run("primary", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.up()
			b.lead(1)
			b.md.set(func(f *fakeMysqld) { f.binlog = long })
			time.Sleep(5 * time.Second)
			if b.md.did("flush") {
				t.Errorf("did %s", b.md.effects())
			}
		})
	})
	t.Run("order", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.up()
			b.mustOrder(follow)
			b.md.set(func(f *fakeMysqld) { f.binlog = long; f.hang["flush"] = true })
			time.Sleep(2 * time.Second)
			began := time.Now()
			b.mustOrder(raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpSeal})
			if took := time.Since(began); took > 100*time.Millisecond || !b.md.did("flush-ended") {
				t.Errorf("the order waited %s; %s", took, b.md.effects())
			}
		})
	})
}
