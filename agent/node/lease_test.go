package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ha/raftfsm"
)

// Without grants the server is closed when the lease ends, and not before.
func TestFenceAtTheEndOfTheLease(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		time.Sleep(20 * time.Second) // it is renewed
		if !b.open() || b.hooked() != "open" {
			t.Fatalf("closed under a lease: %s, %s", b.md.effects(), b.hooked())
		}
		b.co.set(func(c *coordinator) { c.err = errTest })
		b.md.forget()
		took := b.within(6*time.Second, "fenced", func() bool { return !b.open() })
		if took < testLease-2*heartbeat || took > testLease+fenceTimeout {
			t.Errorf("fenced after %s", took)
		}
		b.within(time.Second, "clients cut", func() bool { return b.md.did("KillClients") })
		if b.md.did("Kill") || b.hooked() != "open closed" {
			t.Errorf("%s, %s", b.md.effects(), b.hooked())
		}
		time.Sleep(time.Minute)
		if got := b.md.effects(); strings.Count(got, "Fence") != 1 {
			t.Errorf("fenced over and over: %s", got)
		}
	})
}

// A commit that waits holds up the SET: SIGKILL after half a second, and a
// former primary is not started again.
func TestFenceKillsWhereCommitsWait(t *testing.T) {
	for name, change := range map[string]func(*fakeMysqld){
		"waiting commits": func(f *fakeMysqld) { f.waiting = 1 },
		"frozen":          func(f *fakeMysqld) { f.frozen = true },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.up()
				b.lead(1)
				b.co.set(func(c *coordinator) { c.err = errTest })
				b.md.set(change)
				took := b.within(7*time.Second, "killed", func() bool { return !b.md.Alive() })
				if took > testLease+fenceTimeout+200*time.Millisecond {
					t.Errorf("killed after %s", took)
				}
				time.Sleep(time.Minute)
				if b.md.Alive() {
					t.Error("a former primary was started without an order")
				}
			})
		})
	}
}

// The lease counts from the sending of the report that the grant answers.
func TestLeaseCountsFromTheReport(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		b.co.set(func(c *coordinator) {
			c.delay = 1500 * time.Millisecond
			c.hook = func(r raftfsm.Report) {}
		})
		time.Sleep(10 * time.Second)
		sent := time.Now() // reports sent from now on get no grant; those before do, late
		b.co.set(func(c *coordinator) { c.err = errTest })
		b.within(testLease+time.Second, "fenced", func() bool { return !b.open() })
		if took := time.Since(sent); took > testLease+100*time.Millisecond {
			t.Errorf("%s after the last report that was granted", took)
		}
	})
}

// The clock of a suspended machine jumps while its timers stand still.
func TestFenceAfterSuspend(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		time.Sleep(3 * time.Second)
		b.co.set(func(c *coordinator) { c.err = errTest })
		b.clock.jump.Store(int64(10 * time.Second))
		if took := b.within(time.Second, "fenced", func() bool { return !b.open() }); took > fenceTick+10*time.Millisecond {
			t.Errorf("fenced after %s", took)
		}
	})
}

// A grant that names another primary in a later epoch leaves nothing to wait for.
func TestFenceWhenDeposed(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		b.co.set(func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: 2, Primary: "n2"} })
		if took := b.within(time.Second, "fenced", func() bool { return !b.open() }); took > heartbeat+50*time.Millisecond {
			t.Errorf("fenced after %s", took)
		}
	})
}

// Whoever opens a server that holds no lease: it is closed.
func TestFenceOfAServerOpenedByHand(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		time.Sleep(time.Second)
		b.md.set(func(f *fakeMysqld) { f.superRO = false })
		b.within(time.Second, "fenced", func() bool { return !b.open() })
	})
}

func TestStartUp(t *testing.T) {
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	valid := fmt.Sprintf(`{"boot":%q,"epoch":1,"deadline":%d}`, boot, time.Hour+4*time.Second)
	for name, tc := range map[string]struct {
		lease  string
		change func(*fakeMysqld)
		primed bool // role primary is stored
		want   string
	}{
		"valid lease":             {lease: valid, primed: true, want: "KillOwnSessions"},
		"no lease":                {primed: true, want: "KillOwnSessions Fence KillClients"},
		"no lease, role unknown":  {want: "KillOwnSessions Fence KillClients"},
		"another boot":            {lease: strings.ReplaceAll(valid, boot, "x"), primed: true, want: "KillOwnSessions Fence KillClients"},
		"over":                    {lease: strings.ReplaceAll(valid, "3604", "3599"), primed: true, want: "KillOwnSessions Fence KillClients"},
		"garbage":                 {lease: "{", primed: true, want: "KillOwnSessions Fence KillClients"},
		"commits wait":            {primed: true, change: func(f *fakeMysqld) { f.waiting = 1 }, want: "KillOwnSessions Fence-ended Kill"},
		"frozen":                  {primed: true, change: func(f *fakeMysqld) { f.frozen = true }, want: "Fence-ended Kill"},
		"read-only already":       {primed: true, change: func(f *fakeMysqld) { f.superRO = true }, want: "KillOwnSessions"},
		"replica that is hanging": {change: func(f *fakeMysqld) { f.superRO, f.hang["Adopt"] = true, true }, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.md.set(func(f *fakeMysqld) {
					f.run()
					f.superRO = false
					if tc.change != nil {
						tc.change(f)
					}
				})
				if tc.lease != "" {
					if err := os.WriteFile(filepath.Join(b.cfg.RuntimeDir, "lease-n1"), []byte(tc.lease), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if tc.primed {
					s := mustOpenTokens(t, b.cfg.DataDir)
					if _, err := s.Accept(raftfsm.Order{Token: tok(1, 1, 1), Op: raftfsm.OpPromote}); err != nil {
						t.Fatal(err)
					}
				}
				b.begin()
				b.within(8*time.Second, "taken over", func() bool { return b.n.running() != nil })
				if got := b.md.effects(); got != tc.want {
					t.Errorf("did %q, want %q", got, tc.want)
				}
				if name == "valid lease" {
					if !b.open() || b.hooked() != "open" {
						t.Error("clients noticed the restart of the agent")
					}
					if took := b.within(6*time.Second, "fenced", func() bool { return !b.open() }); took > 4*time.Second+fenceTick {
						t.Errorf("the lease was made longer by the restart: %s", took)
					}
				}
			})
		})
	}
}

// One that is killed before it has tidied up after a promotion does it in its next
// life, though nobody orders anything.
func TestRestartTidiesUp(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.mustOrder(raftfsm.Order{Token: tok(1, 5, 1), Op: raftfsm.OpFollow, Source: source("n2"), Ack: true})
		b.lead(1)
		b.end()
		if b.md.did("ResetReplica") {
			t.Fatal("it had the time to")
		}
		b.md.forget()
		b.begin()
		b.within(2*time.Second, "the channel and the flag are gone", func() bool {
			return b.md.did("ResetReplica") && b.md.did("SetReplicaAck-false")
		})
	})
}

// An agent that is killed and started again goes on under the lease it held.
func TestRestartKeepsTheLease(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		time.Sleep(2 * time.Second)
		b.end()
		time.Sleep(3 * time.Second)
		b.md.forget()
		b.begin()
		time.Sleep(10 * time.Second)
		if !b.open() || b.md.did("Fence") {
			t.Errorf("clients noticed: %s", b.md.effects())
		}
		if s := b.n.Stored(); s.Role != RolePrimary || s.Reign != 1 {
			t.Errorf("stored %+v", s)
		}
	})
}

// A frozen primary that is found under its lease is left alone and reported.
func TestFrozenPrimaryIsFoundUnderItsLease(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		time.Sleep(time.Second)
		b.end()
		b.co.set(func(c *coordinator) { c.grant.Lease = time.Minute })
		b.md.set(func(f *fakeMysqld) { f.frozen = true })
		b.clock.jump.Store(-int64(2 * testLease)) // the lease lasts longer than the look at mysqld
		b.begin()
		b.within(20*time.Second, "reported", func() bool {
			r := b.co.last()
			return r.Mysqld == raftfsm.MysqldHung && r.HungFor > 3*time.Second
		})
		if b.md.did("Kill") {
			t.Error("killed under its lease")
		}
		b.md.set(func(f *fakeMysqld) { f.frozen = false })
		b.within(10*time.Second, "well", func() bool { return b.co.last().Mysqld == raftfsm.MysqldRunning })
		if !b.open() {
			t.Error("closed")
		}
	})
}
