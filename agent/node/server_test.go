package node

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/mysqlctl/mysqltest"
	"ha/raftfsm"
)

// The life of a cell: founded, grown, failed over under load, and the old
// primary, which has diverged, copied anew.
func TestRealFailover(t *testing.T) {
	c := newCell(t, 3)
	a, b, d := c.nodes[0], c.nodes[1], c.nodes[2]
	c.reign(a, 0)
	a.Exec("CREATE TABLE app.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(2000) NOT NULL)")
	a.must(raftfsm.Order{Op: raftfsm.OpAccounts, Accounts: []raftfsm.Account{{User: "ha_r_n1", Password: "x"}}})
	for _, r := range []*cellNode{b, d} {
		r.must(raftfsm.Order{Op: raftfsm.OpFollow, Source: a.source(), Ack: true})
	}
	a.must(raftfsm.Order{Op: raftfsm.OpSetAcks, K: 1})
	acks := []string{b.uuid(), d.uuid()}
	a.must(raftfsm.Order{Op: raftfsm.OpBarrier, Allowed: acks})
	mysqltest.Eventually(t, 5*time.Second, "reported", func() bool {
		r, rb := a.report(), b.report()
		return r.SourceOn && r.WaitFor == 1 && len(r.Attached) == 2 && len(r.Accounts) == 1 && r.LeaseEpoch == 1 && r.ClusterOnDisk == "c1" &&
			rb.Replica != nil && rb.Replica.Ack && rb.Replica.AckWanted && rb.Replica.IORunning && rb.Replica.Silence < time.Second
	})

	w := write(t, a.App, 8)
	mysqltest.Eventually(t, 10*time.Second, "load", func() bool { return w.count.Load() > 200 })

	// kill -9: the report says so within 300 ms.
	began := time.Now()
	a.Signal(syscall.SIGKILL)
	mysqltest.Eventually(t, 5*time.Second, "exit reported", func() bool { return a.report().Mysqld == raftfsm.MysqldDown })
	if took := time.Since(began); took > 300*time.Millisecond {
		t.Errorf("the exit was reported after %s", took)
	} else {
		t.Logf("exit reported after %s", took)
	}
	// The dead primary's position is read offline; its mysqld stays down.
	dead := a.must(raftfsm.Order{Op: raftfsm.OpSeal, Former: true})
	if dead.Running || a.Alive() || dead.ServerUUID == "" {
		t.Errorf("%+v", dead)
	}

	began = time.Now()
	sb := b.must(raftfsm.Order{Op: raftfsm.OpSeal})
	sd := d.must(raftfsm.Order{Op: raftfsm.OpSeal})
	best, other := b, d
	if sd.Executed.Union(sd.Received).Minus(sb.Executed.Union(sb.Received)).Count() > 0 {
		best, other = d, b
	}
	prepared := best.must(raftfsm.Order{Op: raftfsm.OpPrepare})
	if !prepared.Executed.Contains(sb.Position().Union(sd.Position())) {
		t.Errorf("drained only %s", prepared.Executed)
	}
	c.reign(best, 1, other)
	t.Logf("failed over in %s", time.Since(began))
	w.stop()
	if lost := w.lost(t, best); lost > 0 {
		t.Errorf("%d of %d acknowledged rows lost", lost, w.count.Load())
	}
	if err := best.Insert(mysqltest.Ctx(t, 5*time.Second), "after"); err != nil {
		t.Error(err)
	}
	mysqltest.Eventually(t, 5*time.Second, "old channel removed", func() bool { return best.report().Replica == nil })

	// The old primary comes back by order only, and is made to diverge.
	mysqltest.Eventually(t, 5*time.Second, "settled", func() bool { return other.report().Replica != nil })
	if a.Alive() {
		t.Fatal("the former primary was started without an order")
	}
	back := a.must(raftfsm.Order{Op: raftfsm.OpStart})
	if !back.Running || !back.Executed.Contains(dead.Executed) {
		t.Errorf("%+v; sealed with %s", back, dead.Executed)
	}
	a.Exec("SET GLOBAL super_read_only = OFF", "INSERT INTO app.t (v) VALUES ('errant')")
	// The fence may meet the INSERT's commit on its way: mysqld is killed then,
	// and started again by its agent.
	mysqltest.Eventually(t, 20*time.Second, "closed again", func() bool {
		st, err := a.Status(mysqltest.Ctx(t, time.Second))
		return err == nil && st.SuperReadOnly && a.n.fence.armed() == 0 && a.report().Mysqld == raftfsm.MysqldRunning
	})
	if a.Rows(allRows) == best.Rows(allRows) {
		t.Fatal("it has not diverged")
	}
	uuid := a.uuid()
	a.must(raftfsm.Order{Op: raftfsm.OpRebuild, Lease: 77, Source: other.source()})
	a.rebuilt(77)
	a.must(raftfsm.Order{Op: raftfsm.OpFollow, Source: best.source(), Ack: true})
	mysqltest.CaughtUp(t, best.Node, a.Node)
	if a.Rows(allRows) != best.Rows(allRows) || other.Rows(allRows) != best.Rows(allRows) {
		t.Error("rows differ")
	}
	if a.uuid() == uuid || a.uuid() == other.uuid() {
		t.Errorf("server_uuid %s is an old one", a.uuid())
	}
	if got := a.n.Stored().Role; got != RoleReplica {
		t.Errorf("role %s", got)
	}
}

// rebuilt waits for a copy under a lease, has it put in place, and waits for the end.
func (m *cellNode) rebuilt(lease uint64) {
	m.cell.t.Helper()
	swapped := false
	mysqltest.Eventually(m.cell.t, time.Minute, "rebuilt", func() bool {
		r := m.report().Rebuild
		if r != nil && r.Err != "" {
			m.cell.t.Fatal(r.Err)
		}
		if r != nil && r.Phase == raftfsm.CopyReady && !swapped {
			swapped = true
			m.must(raftfsm.Order{Op: raftfsm.OpSwap, Lease: lease})
		}
		return r != nil && r.Done
	})
}

// Data that mysqld does not start on are replaced by way of a throw-away server.
func TestRealRebuildOfBrokenData(t *testing.T) {
	c := newCell(t, 2)
	a, b := c.nodes[0], c.nodes[1]
	c.reign(a, 0)
	a.Exec("CREATE TABLE app.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(2000) NOT NULL)", "INSERT INTO app.t (v) VALUES ('one'), ('two')")
	b.stop()
	if err := b.Kill(mysqltest.Ctx(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(b.Config.DataDir, "ibdata1"), 4096); err != nil {
		t.Fatal(err)
	}
	b.cfg.Scratch = func(dir string) Mysqld {
		conf := b.Config
		conf.DataDir = dir
		conf.Socket, conf.PidFile, conf.LogFile = conf.Socket+"2", conf.PidFile+"2", conf.LogFile+"2"
		conf.Options = append(slices.Clone(conf.Options), "--skip-networking")
		return mysqlctl.New(conf, nil)
	}
	b.begin()
	mysqltest.Eventually(t, 30*time.Second, "does not start", func() bool { return b.report().MysqldErr != "" })
	b.must(raftfsm.Order{Op: raftfsm.OpRebuild, Lease: 77, Source: a.source()})
	b.rebuilt(77)
	b.must(raftfsm.Order{Op: raftfsm.OpFollow, Source: a.source(), Ack: true})
	mysqltest.CaughtUp(t, a.Node, b.Node)
	if a.Rows(allRows) != b.Rows(allRows) {
		t.Error("rows differ")
	}
	// Nobody knows what the broken data held, and nobody said that it was something.
	mysqltest.Eventually(t, 30*time.Second, "nothing left beside the data", func() bool {
		left, _ := filepath.Glob(b.Config.DataDir + ".*")
		return len(left) == 0
	})
}

// A seal of a replica under load: nothing is acknowledged by it afterwards, and
// its position holds every row that was.
func TestRealSealUnderLoad(t *testing.T) {
	c := newCell(t, 2)
	a, b := c.nodes[0], c.nodes[1]
	c.reign(a, 0)
	a.Exec("CREATE TABLE app.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(2000) NOT NULL)")
	b.must(raftfsm.Order{Op: raftfsm.OpFollow, Source: a.source(), Ack: true})
	a.must(raftfsm.Order{Op: raftfsm.OpSetAcks, K: 1})
	a.must(raftfsm.Order{Op: raftfsm.OpBarrier, Allowed: []string{b.uuid()}})
	w := write(t, a.App, 8)
	for round := range 3 {
		before := w.count.Load()
		mysqltest.Eventually(t, 10*time.Second, "load", func() bool { return w.count.Load() > before+100 })
		sealed := b.must(raftfsm.Order{Op: raftfsm.OpSeal})
		if !sealed.Running {
			t.Errorf("%+v", sealed)
		}
		if st := a.MustStatus(); !sealed.Position().Contains(committed(st.Executed, a.uuid())) {
			t.Errorf("round %d: acknowledged and not sealed: %s", round, st.Executed.Minus(sealed.Position()))
		}
		b.must(raftfsm.Order{Op: raftfsm.OpFollow, Source: a.source(), Ack: true})
	}
	// The primary is sealed alive, under load; then it is the primary again.
	sealed := a.must(raftfsm.Order{Op: raftfsm.OpSeal, Former: true})
	if !sealed.Running || !a.MustStatus().SuperReadOnly {
		t.Errorf("%+v", sealed)
	}
	if n := w.count.Load(); !sealed.Executed.Contains(a.MustStatus().Executed) {
		t.Errorf("%d: committed after the seal: %s", n, a.MustStatus().Executed.Minus(sealed.Executed))
	}
	c.reign(a, 1, b)
	w.stop()
	if lost := w.lost(t, a); lost > 0 {
		t.Errorf("%d rows lost", lost)
	}
}

// committed is what the primary itself issued.
func committed(set gtid.Set, uuid string) gtid.Set { return set.Only(uuid) }

// A primary without its ackers is sealed by SIGKILL, and a barrier that hangs
// does not delay that.
func TestRealSealOfAStarvedPrimary(t *testing.T) {
	c := newCell(t, 2)
	a, b := c.nodes[0], c.nodes[1]
	c.reign(a, 0)
	a.Exec("CREATE TABLE app.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(2000) NOT NULL)")
	b.must(raftfsm.Order{Op: raftfsm.OpFollow, Source: a.source(), Ack: true})
	a.must(raftfsm.Order{Op: raftfsm.OpSetAcks, K: 1})
	a.must(raftfsm.Order{Op: raftfsm.OpBarrier, Allowed: []string{b.uuid()}})
	executed := a.MustStatus().Executed
	b.must(raftfsm.Order{Op: raftfsm.OpSeal})
	answer := a.InsertWaiting("never acknowledged")

	barrier := make(chan raftfsm.Answer, 1)
	go func() { barrier <- a.order(raftfsm.Order{Op: raftfsm.OpBarrier, Allowed: []string{b.uuid()}}) }()
	mysqltest.Eventually(t, 5*time.Second, "the barrier waits", func() bool { return a.MustStatus().Waiting >= 2 })
	mysqltest.Eventually(t, 5*time.Second, "waiting is reported", func() bool { return a.report().Waiting >= 2 && a.report().WaitingFor > 0 })

	began := time.Now()
	sealed := a.must(raftfsm.Order{Op: raftfsm.OpSeal, Former: true})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the seal took %s", took)
	}
	if got := <-barrier; got.OK {
		t.Errorf("barrier: %+v", got)
	}
	if err := <-answer; err == nil {
		t.Error("the row was acknowledged")
	}
	if sealed.Running || a.Alive() || !sealed.Executed.Contains(executed) {
		t.Errorf("%+v", sealed)
	}
}

// A statement that hangs on a table lock is ended by a newer order.
func TestRealSupersede(t *testing.T) {
	c := newCell(t, 1)
	a := c.nodes[0]
	c.reign(a, 0)
	a.Exec("CREATE TABLE app.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(2000) NOT NULL)")
	ctx := mysqltest.Ctx(t, time.Minute)
	locker, err := a.Root.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer locker.Close()
	if _, err := locker.ExecContext(ctx, "LOCK TABLES app.t WRITE"); err != nil {
		t.Fatal(err)
	}
	follow := make(chan raftfsm.Answer, 1)
	go func() { follow <- a.order(raftfsm.Order{Op: raftfsm.OpFollow, Source: a.source()}) }()
	hangs := "SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_INFO LIKE 'SET GLOBAL super_read_only%'"
	mysqltest.Eventually(t, 5*time.Second, "the SET hangs", func() bool { return a.Value(hangs) == "1" })
	began := time.Now()
	a.must(raftfsm.Order{Op: raftfsm.OpBarrier})
	if took := time.Since(began); took > time.Second {
		t.Errorf("the barrier waited %s", took)
	}
	if got := <-follow; got.OK || got.Code != raftfsm.CodeStaleToken {
		t.Errorf("%+v", got)
	}
	if a.Value(hangs) != "0" || a.MustStatus().SuperReadOnly {
		t.Error("the SET is still there, or took effect")
	}
}

// A frozen mysqld: reports go on and say so, a seal ends it.
func TestRealFrozenPrimary(t *testing.T) {
	c := newCell(t, 1)
	a := c.nodes[0]
	c.reign(a, 0)
	a.Freeze()
	mysqltest.Eventually(t, 5*time.Second, "hung", func() bool {
		return a.report().Mysqld == raftfsm.MysqldHung && a.report().HungFor > 1500*time.Millisecond
	})
	began := time.Now()
	sealed := a.must(raftfsm.Order{Op: raftfsm.OpSeal, Former: true})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	if sealed.Running || sealed.Executed.IsEmpty() {
		t.Errorf("%+v", sealed)
	}
}

// An agent that is restarted under its lease changes nothing for clients; one
// without grants closes the server when the lease ends.
func TestRealAgentRestart(t *testing.T) {
	c := newCell(t, 1)
	a := c.nodes[0]
	c.reign(a, 0)
	a.Exec("CREATE TABLE app.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(2000) NOT NULL)")
	w := write(t, a.App, 2)
	pid := a.PID()
	a.stop()
	a.begin()
	mysqltest.Eventually(t, 10*time.Second, "load goes on", func() bool {
		return a.report().LeaseEpoch == 1 && w.count.Load() > 50
	})
	if w.failed.Load() > 0 || a.PID() != pid {
		t.Errorf("clients noticed: %d errors", w.failed.Load())
	}
	c.mu.Lock()
	c.silent = true
	c.mu.Unlock()
	began := time.Now()
	mysqltest.Eventually(t, 8*time.Second, "fenced", func() bool { return a.MustStatus().SuperReadOnly })
	if took := time.Since(began); took > testLease+time.Second {
		t.Errorf("fenced after %s", took)
	}
	w.stop()
	if a.PID() != pid {
		t.Error("mysqld was killed though it could be closed")
	}
	// Without a lease the next agent finds it closed, and leaves it so.
	a.stop()
	a.begin()
	if !a.MustStatus().SuperReadOnly {
		t.Error("open")
	}
}

// What watching costs when nothing happens.
func TestRealIdleCost(t *testing.T) {
	c := newCell(t, 1)
	a := c.nodes[0]
	c.reign(a, 0)
	mysqltest.Eventually(t, 5*time.Second, "settled", func() bool { return a.report().LeaseEpoch == 1 })
	const window = 4 * time.Second
	before := cpu(t)
	<-time.After(window)
	cost := (cpu(t) - before).Seconds() / window.Seconds() * 100
	t.Logf("%.2f %% of a core", cost)
	if cost > 2 && !raceEnabled {
		t.Errorf("%.2f %% of a core", cost)
	}
}

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A replica's binary log stays short under load, so that the others find their places in
// it at once when it is promoted.
func TestRealReplicaKeepsItsBinlogShort(t *testing.T) {
	c := newCell(t, 2)
	a, b := c.nodes[0], c.nodes[1]
	c.reign(a, 0)
	b.must(raftfsm.Order{Op: raftfsm.OpFollow, Source: a.source(), Ack: true})
	a.Exec("CREATE TABLE app.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v LONGBLOB)")
	size := func(m *cellNode) int64 {
		n, err := m.BinlogSize()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for size(a) <= 2*binlogLong {
		a.Exec("INSERT INTO app.t (v) VALUES (REPEAT('x', 4 << 20))")
	}
	mysqltest.CaughtUp(t, a.Node, b.Node)
	mysqltest.Eventually(t, 10*time.Second, "a short binary log", func() bool { return size(b) < binlogLong })
	if size(a) <= 2*binlogLong {
		t.Errorf("the primary's is of %d bytes", size(a))
	}
	if !b.MustStatus().Executed.Equal(a.MustStatus().Executed) {
		t.Errorf("%s has %s, not %s", b.cfg.ID, b.MustStatus().Executed, a.MustStatus().Executed)
	}
}
