package node

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/raftfsm"
)

func TestEmptyDataDirIsInitialised(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.md.set(func(f *fakeMysqld) { f.inited = false })
		b.begin()
		b.within(5*time.Second, "up", b.n.isUp)
		if got := b.md.effects(); got != "Initialize Start" {
			t.Errorf("did %s", got)
		}
		if b.open() {
			t.Error("open without an order")
		}
	})
}

func TestPrimarysDataAreNotMadeAnew(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		b.md.set(func(f *fakeMysqld) { f.inited = false; f.die() })
		time.Sleep(time.Second)
		if a := b.order(raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpStart}); a.OK || b.md.did("Initialize") {
			t.Errorf("%+v, %s", a, b.md.effects())
		}
	})
}

// A crash loop is backed off from: 1 s, doubling to 30 s; an order does not wait.
func TestRestartBacksOff(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.md.set(func(f *fakeMysqld) { f.fail["Start"] = errTest })
		b.md.forget()
		b.md.crash()
		time.Sleep(10 * time.Minute)
		starts := strings.Count(b.md.effects(), "Start")
		if starts < 20 || starts > 26 { // 1+2+4+8+16, then each 30 s
			t.Errorf("%d starts in ten minutes", starts)
		}
		if r := b.co.last(); r.Mysqld != raftfsm.MysqldDown || r.MysqldErr != errTest.Error() {
			t.Errorf("reported %s %q", r.Mysqld, r.MysqldErr)
		}
		if a := b.order(raftfsm.Order{Token: tok(1, 1, 1), Op: raftfsm.OpStart}); a.OK || !strings.Contains(a.Err, errTest.Error()) {
			t.Errorf("%+v", a)
		}
		b.md.set(func(f *fakeMysqld) { delete(f.fail, "Start") })
		began := time.Now()
		b.mustOrder(raftfsm.Order{Token: tok(1, 1, 2), Op: raftfsm.OpStart})
		if took := time.Since(began); took > b.md.startFor+10*time.Millisecond {
			t.Errorf("the order waited %s", took)
		}
	})
}

// So is one that comes up and dies each time.
func TestCrashLoopBacksOff(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.begin()
		end := time.Now().Add(10 * time.Minute)
		for time.Now().Before(end) {
			b.within(time.Minute, "up", b.n.isUp)
			time.Sleep(2 * time.Second)
			b.md.crash()
		}
		if starts := strings.Count(b.md.effects(), "Start"); starts > 28 {
			t.Errorf("%d starts in ten minutes", starts)
		}
		b.within(time.Minute, "up", b.n.isUp)
		time.Sleep(2 * restartReset) // up for long: the next crash costs no wait
		b.md.crash()
		if took := b.within(time.Minute, "up", b.n.isUp); took > 2*time.Second {
			t.Errorf("started after %s", took)
		}
	})
}

// A seal that comes during a start waits for it, as far as its deadline goes,
// and the start goes on when the order has gone.
func TestSealDuringStart(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.md.set(func(f *fakeMysqld) { f.startFor = 10 * time.Second })
		b.begin()
		time.Sleep(time.Second)
		short := raftfsm.Order{Token: tok(1, 10, 1), To: "n1", Op: raftfsm.OpSeal}
		ctx, cancel := context.WithTimeout(b.t.Context(), time.Second)
		a := b.n.Execute(ctx, short)
		cancel()
		if a.OK {
			t.Errorf("%+v", a)
		}
		if got := b.co.last().Mysqld; got != raftfsm.MysqldStarting {
			t.Errorf("reported %s", got)
		}
		began := time.Now()
		a = b.mustOrder(raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpSeal}) // once more
		if took := time.Since(began); took < 7*time.Second || took > 9*time.Second || !a.Running {
			t.Errorf("after %s: %+v", took, a)
		}
		if b.md.did("Kill") || strings.Count(b.md.effects(), "Start") != 1 {
			t.Errorf("did %s", b.md.effects())
		}
	})
}

// A newer order does not wait for a start that an older one asked for.
func TestOrderInterruptsWaitForStart(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		b.md.set(func(f *fakeMysqld) { f.startFor = time.Minute; f.die() })
		time.Sleep(time.Second)
		answer := make(chan raftfsm.Answer)
		go func() { answer <- b.order(raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpPrepare}) }()
		time.Sleep(time.Second)
		began := time.Now()
		a := b.order(raftfsm.Order{Token: tok(2, 21, 1), Op: raftfsm.OpExclude})
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("after %s: %+v", took, a)
		}
		if a := <-answer; a.OK || a.Code != raftfsm.CodeStaleToken {
			t.Errorf("%+v", a)
		}
	})
}

func TestStartTimeout(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.cfg.StartTimeout = 20 * time.Second
		b.md.set(func(f *fakeMysqld) { f.startFor = time.Hour })
		b.begin()
		b.within(25*time.Second, "killed", func() bool { return b.md.did("Kill") })
		b.md.set(func(f *fakeMysqld) { f.startFor = time.Second })
		b.within(10*time.Second, "up", b.n.isUp)
	})
}

// One that is found in its crash recovery is waited for and then cleaned up.
func TestAdoptWhileStarting(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.md.set(func(f *fakeMysqld) { f.run(); f.hang["Adopt"] = true })
		b.begin()
		b.within(8*time.Second, "reported", func() bool { return b.co.last().Mysqld == raftfsm.MysqldStarting })
		b.md.set(func(f *fakeMysqld) { delete(f.hang, "Adopt") })
		b.within(10*time.Second, "up", b.n.isUp)
		if got := b.md.effects(); got != "KillOwnSessions" {
			t.Errorf("did %s", got)
		}
	})
}

// The end of mysqld is reported at once, not with the next heartbeat.
func TestExitIsReportedAtOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		time.Sleep(time.Second + 50*time.Millisecond)
		b.md.crash()
		if took := b.within(time.Second, "reported", func() bool { return b.co.last().Mysqld == raftfsm.MysqldDown }); took > 5*time.Millisecond {
			t.Errorf("after %s", took)
		}
	})
}

// A mysqld that hangs delays no heartbeat, and is called hung after a second.
func TestHungMysqld(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		time.Sleep(time.Second)
		b.md.set(func(f *fakeMysqld) { f.frozen = true })
		hung := b.within(3*time.Second, "hung", func() bool { return b.co.last().Mysqld == raftfsm.MysqldHung })
		if hung > lookTimeout+2*heartbeat {
			t.Errorf("hung after %s", hung)
		}
		time.Sleep(3 * time.Second)
		r := b.co.last()
		if r.HungFor < 3*time.Second || r.HungFor > 5*time.Second || r.Executed.IsEmpty() {
			t.Errorf("hung for %s, %+v", r.HungFor, r)
		}
		_, times := b.co.all()
		for i, at := range times[1:] {
			if gap := at.Sub(times[i]); gap > heartbeat+lookWait+time.Millisecond {
				t.Fatalf("no report for %s", gap)
			}
		}
		b.md.set(func(f *fakeMysqld) { f.frozen = false })
		b.within(2*time.Second, "well", func() bool { return b.co.last().Mysqld == raftfsm.MysqldRunning })
	})
}

// An agent that was stopped itself does not blame mysqld for the time.
func TestPausedAgentBlamesNobody(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.md.set(func(f *fakeMysqld) { f.lookFor = 2 * lookWait }) // starved, as it will be
		b.up()
		time.Sleep(time.Second)
		for range 5 {
			b.clock.jump.Add(int64(time.Minute))
			time.Sleep(time.Second)
		}
		reports, _ := b.co.all()
		for _, r := range reports {
			if r.Mysqld == raftfsm.MysqldHung {
				t.Fatalf("report %d calls mysqld hung for %s", r.Seq, r.HungFor)
			}
		}
	})
}

func TestCoreDumpCountsAsDown(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		time.Sleep(time.Second)
		b.md.set(func(f *fakeMysqld) { f.fail["Status"] = errTest; f.dumping = true })
		b.within(time.Second, "down", func() bool { return b.co.last().Mysqld == raftfsm.MysqldDown })
	})
}

func TestDiskProblems(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		for code, err := range map[string]error{"HA-DISK-FULL": mysqlctl.ErrDiskFull, "HA-READ-ONLY-FS": mysqlctl.ErrDiskReadOnly, "HA-DISK-STALL": mysqlctl.ErrDiskHung, "HA-DISK-WAIT": mysqlctl.ErrDiskWait} {
			b.md.set(func(f *fakeMysqld) { f.fail["ProbeDisk"] = err })
			b.within(3*time.Second, code, func() bool {
				return slices.ContainsFunc(b.co.last().Problems, func(p raftfsm.Problem) bool { return p.Code == code })
			})
		}
		b.md.set(func(f *fakeMysqld) { delete(f.fail, "ProbeDisk") })
		b.within(3*time.Second, "well", func() bool { return len(b.co.last().Problems) == 0 })
	})
}

// A replica whose mysqld waits for room that there is does nothing for a minute else. A
// primary is left to the coordinator, and so is one that is in the midst of an order.
func TestReplicaThatWaitsForRoomIsStartedAnew(t *testing.T) {
	for name, tc := range map[string]struct {
		primary bool
		err     error
		want    string
	}{
		"replica":              {false, mysqlctl.ErrDiskWait, "Kill Start"},
		"primary":              {true, mysqlctl.ErrDiskWait, ""},
		"one on a sick disk":   {false, mysqlctl.ErrDiskHung, ""},
		"one on a full disk":   {false, mysqlctl.ErrDiskFull, ""},
		"that has room by now": {false, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.up()
				if tc.primary {
					b.lead(1)
				}
				time.Sleep(2 * time.Second)
				b.md.forget()
				b.md.set(func(f *fakeMysqld) { f.fail["ProbeDisk"] = mysqlctl.ErrDiskWait })
				time.Sleep(1500 * time.Millisecond)
				b.md.set(func(f *fakeMysqld) { f.fail["ProbeDisk"] = tc.err })
				time.Sleep(waitsLong - 1600*time.Millisecond)
				if b.md.did("Kill") {
					t.Error("killed at once")
				}
				time.Sleep(10 * time.Second)
				if got := strings.TrimSpace(b.md.effects()); got != tc.want || !b.n.isUp() {
					t.Errorf("did %q, want %q; up %v", got, tc.want, b.n.isUp())
				}
			})
		})
	}
}

// What one mysqld waited for, the next one does not.
func TestTheNextMysqldDoesNotWaitForRoom(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		waits := func(r raftfsm.Report) bool {
			return slices.ContainsFunc(r.Problems, func(p raftfsm.Problem) bool { return p.Code == raftfsm.ProblemDiskWait })
		}
		b.md.set(func(f *fakeMysqld) { f.fail["ProbeDisk"] = mysqlctl.ErrDiskWait })
		b.within(3*time.Second, "it waits", func() bool { return waits(b.co.last()) })
		b.md.crash()
		b.within(3*time.Second, "down", func() bool { return b.co.last().Mysqld == raftfsm.MysqldDown })
		before, _ := b.co.all()
		b.within(3*time.Second, "up", func() bool { return b.co.last().Mysqld == raftfsm.MysqldRunning })
		time.Sleep(2 * time.Second)
		reports, _ := b.co.all()
		for _, r := range reports[len(before):] {
			if r.Mysqld == raftfsm.MysqldRunning && waits(r) {
				t.Errorf("report %d says so of the next one", r.Seq)
			}
		}
	})
}

// A coordinator that does not answer keeps the next reports from nobody.
func TestSlowCoordinator(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.co.set(func(c *coordinator) { c.delay = time.Hour })
		time.Sleep(5 * time.Second)
		before, _ := b.co.all()
		b.co.set(func(c *coordinator) { c.delay = 0 })
		time.Sleep(sendTimeout + 500*time.Millisecond)
		reports, times := b.co.all()
		if got := len(reports) - len(before); got < 5 {
			t.Errorf("%d reports after it answers again", got)
		}
		for i := range reports[1:] {
			if reports[i+1].Seq <= reports[i].Seq && times[i+1].After(times[i]) {
				t.Errorf("report %d sent after %d", reports[i+1].Seq, reports[i].Seq)
			}
		}
	})
}

func TestWitness(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.cfg.Mysqld = nil
		b.begin()
		time.Sleep(time.Second)
		r := b.co.last()
		if r.Mysqld != raftfsm.MysqldNone || r.Run == "" || r.Node != "n1" || r.LastIndex != 7 || r.Seq < 4 {
			t.Errorf("%+v", r)
		}
		if a := b.order(raftfsm.Order{Token: tok(1, 1, 1), Op: raftfsm.OpSeal}); a.OK {
			t.Errorf("%+v", a)
		}
	})
}

func TestReplicaReport(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.mustOrder(raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpFollow, Source: source("n2"), Ack: true})
		b.within(time.Second, "reported", func() bool {
			r := b.co.last()
			c := r.Replica
			return c != nil && c.SourceHost == "n2" && c.IORunning && c.IOWanted && c.SQLRunning && c.Ack && c.AckWanted && r.Accounts == nil
		})
	})
}

// hungDisk is a token file whose writes do not return.
type hungDisk struct {
	tokenFile
	release chan struct{}
}

func (d hungDisk) Datasync() error {
	<-d.release
	return errTest
}

// The agent's own disk hangs while it stores a token: reports go on, and so does
// the fence, with SIGKILL where it is needed.
func TestHungDiskOfTheAgent(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		disk := hungDisk{b.n.tokens.file, make(chan struct{})}
		b.n.tokens.writing.Lock()
		b.n.tokens.file = disk
		b.n.tokens.writing.Unlock()
		answer := make(chan raftfsm.Answer)
		go func() { answer <- b.order(raftfsm.Order{Token: tok(1, 11, 1), Op: raftfsm.OpSeal, Former: true}) }()
		time.Sleep(3 * time.Second)
		before := b.co.last().Seq
		time.Sleep(time.Second)
		if b.co.last().Seq < before+4 || !b.open() {
			t.Error("no reports")
		}
		b.md.set(func(f *fakeMysqld) { f.waiting = 1 })
		b.co.set(func(c *coordinator) { c.err = errTest })
		b.within(testLease+time.Second, "killed", func() bool { return !b.md.Alive() })
		close(disk.release)
		if a := <-answer; a.OK {
			t.Errorf("obeyed without its token: %+v", a)
		}
	})
}
