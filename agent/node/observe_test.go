package node

import (
	"testing"
	"time"

	"ha/raftfsm"
)

// A long statement does not make its commit a long wait, nor does a queue that
// moves: what counts is for how long nothing was acknowledged.
func TestWaitingIsCountedFromTheLastAck(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		b.md.set(func(f *fakeMysqld) { f.waiting, f.waitFor = 1, time.Minute })
		time.Sleep(time.Second)
		if r := b.co.last(); r.Waiting != 1 || r.WaitingFor > 1200*time.Millisecond || r.WaitingFor < 500*time.Millisecond {
			t.Errorf("after a second: %d wait for %s", r.Waiting, r.WaitingFor)
		}
		b.md.set(func(f *fakeMysqld) { f.yes++ })
		time.Sleep(500 * time.Millisecond)
		if r := b.co.last(); r.WaitingFor > 600*time.Millisecond {
			t.Errorf("after an ack: %s", r.WaitingFor)
		}
		time.Sleep(3 * time.Second)
		if r := b.co.last(); r.WaitingFor < 3*time.Second {
			t.Errorf("no ack for three seconds: %s", r.WaitingFor)
		}
	})
}

// Commits that MySQL lets go by itself are told, those from before it was told to
// wait are not.
func TestUnackedCommitsAreTold(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.md.set(func(f *fakeMysqld) { f.no = 7 })
		time.Sleep(time.Second)
		b.lead(1)
		time.Sleep(time.Second)
		if r := b.co.last(); r.Unacked != 0 {
			t.Errorf("%d from before", r.Unacked)
		}
		b.md.set(func(f *fakeMysqld) { f.no += 2 })
		time.Sleep(time.Second)
		if r := b.co.last(); r.Unacked != 2 {
			t.Errorf("%d told, 2 let go", r.Unacked)
		}
		b.mustOrder(raftfsm.Order{Token: tok(1, 12, 1), Op: raftfsm.OpSetAcks, K: 1})
		time.Sleep(time.Second)
		if r := b.co.last(); r.Unacked != 0 {
			t.Errorf("%d after it was told to wait again", r.Unacked)
		}
		// One that was being committed meanwhile: the barrier holds for it.
		b.md.set(func(f *fakeMysqld) { f.no++ })
		time.Sleep(time.Second)
		b.mustOrder(raftfsm.Order{Token: tok(1, 12, 2), Op: raftfsm.OpBarrier})
		time.Sleep(time.Second)
		if r := b.co.last(); r.Unacked != 0 {
			t.Errorf("%d from before the barrier", r.Unacked)
		}
		b.md.set(func(f *fakeMysqld) { f.no++ })
		time.Sleep(time.Second)
		if r := b.co.last(); r.Unacked != 1 {
			t.Errorf("%d told, 1 let go after the barrier", r.Unacked)
		}
	})
}

// Events that sleep are told on a primary only, and woken by order.
func TestSleepingEvents(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.md.set(func(f *fakeMysqld) { f.events = 2 })
		time.Sleep(refreshEvery + time.Second)
		if r := b.co.last(); r.SleepingEvents != 0 {
			t.Errorf("a replica tells of %d events", r.SleepingEvents)
		}
		b.lead(1)
		time.Sleep(refreshEvery + time.Second)
		if r := b.co.last(); r.SleepingEvents != 2 {
			t.Errorf("%d of 2 events told", r.SleepingEvents)
		}
		b.mustOrder(raftfsm.Order{Token: tok(1, 12, 1), Op: raftfsm.OpEvents})
		time.Sleep(time.Second)
		if r := b.co.last(); r.SleepingEvents != 0 || !b.md.did("enableEvents") {
			t.Errorf("%d events sleep still: %s", r.SleepingEvents, b.md.effects())
		}
	})
}

// Nobody is told of a server that was not looked at yet: it would seem to wait for
// no acknowledgement, and that would be recorded.
func TestNoReportBeforeTheFirstLook(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.md.set(func(f *fakeMysqld) { f.lookFor = 10 * lookWait })
		b.up()
		time.Sleep(3 * lookTimeout)
		b.co.set(func(c *coordinator) {
			if len(c.reports) == 0 {
				t.Error("nothing was reported")
			}
			for _, r := range c.reports {
				if r.Mysqld == raftfsm.MysqldRunning && r.ServerUUID == "" {
					t.Fatalf("reported before it was looked at: %+v", r)
				}
			}
		})
	})
}

// An applier that stands on an error runs for a moment after each START: the error is
// told until it has run for a while.
func TestApplierErrorOutlastsAStart(t *testing.T) {
	var o observer
	told := func(now time.Duration, running bool, err string) string {
		c := &raftfsm.ReplicaReport{SQLRunning: running, SQLError: err}
		o.remember(c, now)
		return c.SQLError
	}
	for _, c := range []struct {
		at      time.Duration
		running bool
		err     string
		want    string
	}{
		{time.Second, true, "", ""},
		{time.Minute, false, "duplicate key", "duplicate key"},
		{time.Minute + time.Second, true, "", "duplicate key"},
		{time.Minute + 2*time.Second, false, "duplicate key", "duplicate key"},
		{time.Minute + 6*time.Second, true, "", "duplicate key"},
		{time.Minute + 8*time.Second, true, "", ""},
		{time.Minute + 9*time.Second, false, "", ""}, // stopped, and no error
	} {
		if got := told(c.at, c.running, c.err); got != c.want {
			t.Errorf("at %s: %q, want %q", c.at, got, c.want)
		}
	}
	told(time.Hour, false, "gone away")
	o.remember(nil, time.Hour) // no channel any more
	if got := told(time.Hour+time.Second, true, ""); got != "" {
		t.Errorf("of an earlier channel: %q", got)
	}
}
