package node

import (
	"errors"
	"testing"
	"time"

	"ha/mysqlctl/gtid"
	"ha/raftfsm"
)

// The primary of a switchover is closed, or goes on as before: it is never killed.
func TestSealGently(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*fakeMysqld)
		end    bool // blockers
		code   string
		want   string
	}{
		"idle":            {func(*fakeMysqld) {}, false, "", "Fence SealReplica KillClients"},
		"commits wait":    {func(f *fakeMysqld) { f.waiting = 1 }, false, raftfsm.CodeBlocked, "Fence-ended"},
		"blockers end":    {func(f *fakeMysqld) { f.waiting = 1; f.after["KillClients"] = func(f *fakeMysqld) { f.waiting = 0 } }, true, "", "Fence-ended KillClients Fence SealReplica KillClients"},
		"blockers do not": {func(f *fakeMysqld) { f.waiting = 1 }, true, raftfsm.CodeBlocked, "Fence-ended KillClients Fence-ended"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.up()
				b.lead(1)
				time.Sleep(time.Second)
				b.md.forget()
				b.md.set(tc.change)
				began := time.Now()
				a := b.order(raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpSeal, Gentle: true, EndBlockers: tc.end})
				if took := time.Since(began); took > 2*gentleTimeout+4*killGrace {
					t.Errorf("took %s", took)
				}
				time.Sleep(time.Second)
				if a.Code != tc.code || a.OK != (tc.code == "") {
					t.Errorf("%+v", a)
				}
				if got := b.md.effects(); got != tc.want {
					t.Errorf("did %q, want %q", got, tc.want)
				}
				if b.open() == a.OK || !b.md.Alive() {
					t.Errorf("open %v, alive %v", b.open(), b.md.Alive())
				}
			})
		})
	}
}

// A SET that returned though commits wait has to be taken back.
func TestDeclinedSwitchoverOpensAgain(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		b.md.set(func(f *fakeMysqld) { f.hang["SealReplica"] = true }) // read-only, and then it does not go on
		a := b.order(raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpSeal, Gentle: true})
		if a.Code != raftfsm.CodeBlocked || !b.open() {
			t.Errorf("%+v, open %v", a, b.open())
		}
		b.co.set(func(c *coordinator) { c.err = errors.New("silent") })
		b.within(7*time.Second, "fenced at the end of its lease", func() bool { return !b.open() })
	})
}

// An order that was declined, and so given up, may come once more: the primary goes on.
func TestDeclinedSealIsDeclinedAgain(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		b.md.set(func(f *fakeMysqld) { f.waiting = 1 })
		seal := raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpSeal, Gentle: true}
		if a := b.order(seal); a.Code != raftfsm.CodeBlocked {
			t.Fatalf("%+v", a)
		}
		b.md.set(func(f *fakeMysqld) { f.waiting = 0 })
		if a := b.order(seal); a.Code != raftfsm.CodeBlocked || !b.open() {
			t.Errorf("the same again: %+v, open %v", a, b.open())
		}
		seal.Token = tok(1, 12, 1)
		if a := b.order(seal); !a.OK || b.open() {
			t.Errorf("a new one: %+v, open %v", a, b.open())
		}
	})
}

// The target of a switchover seals when it has what the primary had.
func TestSealAwaits(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		all := gtid.MustParse(otherUUID + ":1-12")
		go func() {
			time.Sleep(200 * time.Millisecond)
			b.md.set(func(f *fakeMysqld) { f.executed, f.received = all, all })
		}()
		began := time.Now()
		a := b.mustOrder(raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpSeal, Await: all})
		if !a.Executed.Contains(all) || time.Since(began) > 300*time.Millisecond {
			t.Errorf("%+v after %s", a, time.Since(began))
		}
		// What never comes is not waited for.
		began = time.Now()
		a = b.mustOrder(raftfsm.Order{Token: tok(2, 20, 2), Op: raftfsm.OpSeal, Await: gtid.MustParse(otherUUID + ":1-99")})
		if took := time.Since(began); took > awaitTimeout+time.Second/10 || !a.Executed.Equal(all) {
			t.Errorf("%+v after %s", a, took)
		}
	})
}

func TestReady(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.md.forget()
		b.mustOrder(raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpReady, Await: gtid.MustParse(otherUUID + ":1-5")})
		if got := b.md.effects(); got != "flush" {
			t.Errorf("did %q", got)
		}
		a := b.order(raftfsm.Order{Token: tok(1, 11, 2), Op: raftfsm.OpReady, Await: gtid.MustParse(otherUUID + ":1-99")})
		if a.OK {
			t.Error("ready without what it was to have")
		}
	})
}

// A former primary's tail is cut before it starts; that of a server that runs, or
// that still reigns, is not.
func TestCutBeforeStart(t *testing.T) {
	keep := gtid.MustParse(otherUUID + ":1-10")
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		b.md.set(func(f *fakeMysqld) { f.offline = gtid.MustParse(otherUUID + ":1-12") })
		b.mustOrder(raftfsm.Order{Token: tok(1, 12, 1), Op: raftfsm.OpStart, Cut: true, Keep: keep})
		if b.md.did("cut") {
			t.Error("cut while it reigned")
		}
		b.md.crash()
		b.co.set(func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: 2, Primary: "n2"} })
		time.Sleep(time.Second)
		b.md.forget()
		a := b.mustOrder(raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpStart, Cut: true, Keep: keep})
		if got := b.md.effects(); got != "cut Start" || a.ServerUUID == ownUUID {
			t.Errorf("did %q, answer %+v", got, a)
		}
		b.mustOrder(raftfsm.Order{Token: tok(2, 20, 2), Op: raftfsm.OpStart, Cut: true, Keep: keep})
		if got := b.md.effects(); got != "cut Start" {
			t.Errorf("again: %q", got)
		}
	})
}
