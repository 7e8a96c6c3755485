package mysqlctl_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/mysqltest"
)

const allRows = "SELECT id, v FROM app.t ORDER BY id"

// load writes from several clients until stop, and counts the OKs.
func load(t *testing.T, n *mysqltest.Node, clients int) (stop func() int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var ok atomic.Int64
	for c := range clients {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if n.Insert(context.WithoutCancel(ctx), fmt.Sprintf("client %d row %d", c, i)) == nil {
					ok.Add(1)
				}
			}
		})
	}
	return func() int64 {
		cancel()
		wg.Wait()
		return ok.Load()
	}
}

func sameRows(t *testing.T, want *mysqltest.Node, others ...*mysqltest.Node) {
	t.Helper()
	rows := want.Rows(allRows)
	for _, n := range others {
		mysqltest.CaughtUp(t, want, n)
		if got := n.Rows(allRows); got != rows {
			t.Errorf("rows differ: %d bytes, want %d", len(got), len(rows))
		}
	}
}

func TestSealGivesAllThatWasReceivedAndDrainAppliesIt(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 1, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, r.StopApplier(ctx))
	must(t, r.StopApplier(ctx))
	for i := range 20 {
		must(t, p.Insert(ctx, fmt.Sprint(i))) // acknowledged, not applied
	}
	want := p.MustStatus().Executed
	var pos mysqlctl.Position
	var err error
	within(t, 500*time.Millisecond, "seal", func() { pos, err = r.SealReplica(ctx) })
	must(t, err)
	if !pos.All().Equal(want) || pos.Executed.Contains(want) {
		t.Errorf("sealed at %+v, the primary has executed %s", pos, want)
	}
	answer := p.InsertWaiting("after the seal")
	again, err := r.SealReplica(ctx)
	must(t, err)
	if !again.All().Equal(pos.All()) {
		t.Errorf("a sealed replica went from %s to %s", pos.All(), again.All())
	}
	drained, err := r.Drain(ctx)
	must(t, err)
	if !drained.Equal(want) {
		t.Errorf("drained to %s, want %s", drained, want)
	}
	within(t, 50*time.Millisecond, "drain of nothing", func() { _, err = r.Drain(ctx) })
	must(t, err)
	select {
	case err := <-answer:
		t.Errorf("a commit after the seal was answered: %v", err)
	default:
	}
	if st := r.MustStatus(); st.Replica.IOState != "No" || st.Replica.SQLState != "Yes" || st.ReplicaAck {
		t.Errorf("after seal and drain %+v", st.Replica)
	}
	must(t, r.Follow(ctx, p.Source(), true))
	must(t, <-answer)
	sameRows(t, p, r)
}

func TestDrainSaysThatTheApplierStands(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 0, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, enough)
	r.Exec("SET GLOBAL super_read_only = OFF")
	c, err := r.Root.Conn(ctx)
	must(t, err)
	defer c.Close()
	for _, s := range []string{"SET sql_log_bin = 0", "INSERT INTO app.t VALUES (1, 'in the way')"} {
		_, err = c.ExecContext(ctx, s)
		must(t, err)
	}
	must(t, p.Insert(ctx, "collides"))
	mysqltest.Eventually(t, enough, "applier stands", func() bool { return r.MustStatus().Replica.SQLError.Number == 1062 })
	_, err = r.SealReplica(ctx)
	must(t, err)
	within(t, time.Second, "drain of an applier that stands", func() { _, err = r.Drain(ctx) })
	mustBe(t, err, mysqlctl.ErrApplier)
	// A repoint would throw the received row away.
	other := p.Source()
	other.Host = "127.0.3.254"
	mustBe(t, r.Follow(ctx, other, true), mysqlctl.ErrApplier)
	mustBe(t, r.ResetReplica(ctx), mysqlctl.ErrApplier)
	pos, err := r.Position(ctx)
	must(t, err)
	if !pos.All().Contains(p.MustStatus().Executed) {
		t.Errorf("received rows are gone: %+v", pos)
	}
	// What has been put right meanwhile is tried again.
	for _, s := range []string{"SET GLOBAL super_read_only = OFF", "DELETE FROM app.t WHERE v = 'in the way'"} {
		_, err = c.ExecContext(ctx, s)
		must(t, err)
	}
	executed, err := r.Drain(ctx)
	must(t, err)
	if !executed.Contains(p.MustStatus().Executed) {
		t.Errorf("drained to %s", executed)
	}
}

// Half a transaction is in the relay log, as its source died in the middle of it.
func TestHalfATransactionHoldsUpNothing(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 0, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, p.Insert(ctx, "whole"))
	mysqltest.CaughtUp(t, p, r)
	before := p.MustStatus().Executed
	// Many events of 1 kB, slowly: the receiver is stopped in the middle of them.
	p.Exec("CREATE TABLE app.big (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(2000))", "INSERT INTO app.big (v) VALUES (REPEAT('x', 1000))")
	for range 13 {
		p.Exec("INSERT INTO app.big (v) SELECT v FROM app.big")
	}
	mysqltest.CaughtUp(t, p, r)
	before = p.MustStatus().Executed
	stopped := false
	for try := 0; try < 20 && !stopped; try++ {
		done := make(chan error, 1)
		go func() { _, err := p.Root.ExecContext(ctx, "UPDATE app.big SET v = CONCAT('y', v)"); done <- err }()
		mysqltest.Eventually(t, enough, "transaction arrives", func() bool {
			return r.Value("SELECT QUEUEING_TRANSACTION FROM performance_schema.replication_connection_status") != "" || p.Value("SELECT @@global.gtid_executed") != before.String()
		})
		_, err := r.SealReplica(ctx)
		must(t, err)
		must(t, <-done)
		stopped = r.Value("SELECT QUEUEING_TRANSACTION FROM performance_schema.replication_connection_status") != ""
		if !stopped {
			must(t, r.Follow(ctx, p.Source(), true))
			mysqltest.CaughtUp(t, p, r)
			before = p.MustStatus().Executed
		}
	}
	if !stopped {
		t.Skip("never stopped in the middle of a transaction")
	}
	pos, err := r.Position(ctx)
	must(t, err)
	if !pos.All().Equal(before) {
		t.Errorf("half a transaction counts: %s, want %s", pos.All(), before)
	}
	var drained error
	within(t, 500*time.Millisecond, "drain beside half a transaction", func() { _, drained = r.Drain(ctx) })
	must(t, drained)
	within(t, 100*time.Millisecond, "status", func() { r.MustStatus() })
	within(t, 5*time.Second, "stop the applier", func() { must(t, r.StopApplier(ctx)) })
	if st := r.MustStatus(); st.Replica.SQLState != "No" {
		t.Errorf("applier %s", st.Replica.SQLState)
	}
	// After a restart performance_schema knows of no half transaction any more.
	must(t, r.Kill(ctx))
	must(t, r.Start(ctx))
	r.Exec("START REPLICA SQL_THREAD")
	mysqltest.Eventually(t, enough, "applier at the end", func() bool {
		return r.Value("SELECT COUNT(*) FROM performance_schema.threads WHERE NAME = 'thread/sql/replica_sql' AND PROCESSLIST_STATE LIKE 'Replica has read all%'") == "1"
	})
	within(t, 5*time.Second, "stop the applier", func() { must(t, r.StopApplier(ctx)) })
	if st := r.MustStatus(); st.Replica.SQLState != "No" {
		t.Errorf("applier %s", st.Replica.SQLState)
	}
	must(t, r.Follow(ctx, p.Source(), true))
	mysqltest.CaughtUp(t, p, r)
	if a, b := p.Rows("SELECT id, v FROM app.big"), r.Rows("SELECT id, v FROM app.big"); a != b {
		t.Error("rows differ")
	}
}

func TestFollowRepointsUnderLoadAndLosesNothing(t *testing.T) {
	nodes := mysqltest.Start(t, 3)
	p, b, c := mysqltest.Primary(t, 1, nodes...), nodes[1], nodes[2]
	ctx := mysqltest.Ctx(t, time.Minute)
	stop := load(t, p, 4)
	for i := range 8 { // c goes to and fro between the primary and b
		src := []*mysqltest.Node{b, p}[i%2]
		start := time.Now()
		must(t, c.Follow(ctx, src.Source(), true))
		t.Logf("repoint: %s", time.Since(start))
		if st := c.MustStatus(); st.Replica.SourcePort != src.Config.Port || !st.ReplicaAck || st.Replica.SQLState != "Yes" {
			t.Fatalf("follows %+v", st.Replica)
		}
	}
	start := time.Now()
	must(t, c.Follow(ctx, p.Source(), true)) // already so
	t.Logf("nothing to do: %s", time.Since(start))
	if ok := stop(); ok == 0 {
		t.Error("nothing was written")
	}
	sameRows(t, p, b, c)
}

// A server that lost its last rows, as with a disk that failed under it, gets them back
// from those that received them, though it wrote them itself.
func TestFollowBringsBackRowsThatTheServerWroteItself(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 0, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, time.Minute)
	const id = "SELECT @@GLOBAL.server_id"
	mine := p.Value(id)
	p.App.SetMaxIdleConns(0) // a session has the server_id of its beginning
	p.Exec("SET GLOBAL server_id = " + r.Value(id))
	must(t, p.Insert(ctx, "written by the other one"))
	p.Exec("SET GLOBAL server_id = " + mine)
	must(t, p.Insert(ctx, "after it"))
	sameRows(t, p, r)
}

func TestFollowKeepsWhatWasReceivedWithBothThreadsStopped(t *testing.T) {
	nodes := mysqltest.Start(t, 3)
	p, b, r := mysqltest.Primary(t, 1, nodes...), nodes[1], nodes[2]
	ctx := mysqltest.Ctx(t, time.Minute)
	_, err := b.SealReplica(ctx) // r is the only acker
	must(t, err)
	must(t, r.StopApplier(ctx))
	for i := range 50 {
		must(t, p.Insert(ctx, fmt.Sprint(i)))
	}
	want := p.MustStatus().Executed
	_, err = r.SealReplica(ctx)
	must(t, err)
	// b has none of the rows: what r loses now is lost.
	must(t, r.Follow(ctx, b.Source(), true))
	if all := (mysqlctl.Position{Executed: r.MustStatus().Executed, Received: r.MustStatus().Received}).All(); !all.Contains(want) {
		t.Fatalf("acknowledged transactions are gone: %s", want.Minus(all))
	}
	got, err := r.Drain(ctx)
	must(t, err)
	t.Logf("drained to %s", got)
	sameRows(t, p, r)
}

func TestDiscardReceivedDropsWhatIsNotApplied(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 0, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, enough)
	must(t, r.StopApplier(ctx))
	before := r.MustStatus().Executed
	must(t, p.Insert(ctx, "surplus"))
	want := p.MustStatus().Executed
	mysqltest.Eventually(t, enough, "received", func() bool { return r.MustStatus().Received.Contains(want.Minus(before)) })
	must(t, r.DiscardReceived(ctx))
	must(t, r.DiscardReceived(ctx))
	pos, err := r.Position(ctx)
	must(t, err)
	wantSet(t, "after discarding", pos.All(), before)
	must(t, r.Follow(ctx, p.Source(), true))
	sameRows(t, p, r)
}

// A newer order ends what is under way, a host dies at any time: a KILL in the midst of
// RESET REPLICA ALL or CHANGE REPLICATION SOURCE had left a channel that nothing but
// another RESET, or another start of mysqld, made one again.
func TestFollowWhateverWasEndedBefore(t *testing.T) {
	nodes := mysqltest.Start(t, 3)
	p, r := mysqltest.Primary(t, 0, nodes...), nodes[1]
	sources := []*mysqltest.Node{p, nodes[2]}
	must(t, nodes[2].Follow(mysqltest.Ctx(t, enough), p.Source(), false))
	ended := map[string]func(ctx, short context.Context, i int){
		"reset": func(_, short context.Context, _ int) { _ = r.ResetReplica(short) },
		"first follow": func(ctx, short context.Context, i int) {
			must(t, r.ResetReplica(ctx))
			_ = r.Follow(short, sources[i%2].Source(), true)
		},
		"repoint": func(_, short context.Context, i int) { _ = r.Follow(short, sources[(i+1)%2].Source(), true) },
	}
	for name, end := range ended {
		t.Run(name, func(t *testing.T) {
			for i := range 40 {
				ctx := mysqltest.Ctx(t, enough)
				if err := r.Follow(ctx, sources[i%2].Source(), true); err != nil {
					t.Fatalf("after %d times: %v", i, err)
				}
				short, cancel := context.WithTimeout(ctx, time.Duration(i)*time.Millisecond)
				end(ctx, short, i)
				cancel()
			}
		})
	}
}

// Relay logs that are not what the repository says: an acker may hold in them what
// nobody else has, and stays as it is; who does not acknowledge is set up anew.
func TestFollowWithoutItsRelayLogs(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 0, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, enough)
	must(t, r.Follow(ctx, p.Source(), true))
	must(t, r.Kill(ctx))
	logs, err := filepath.Glob(filepath.Join(r.Config.DataDir, "relay-bin.*"))
	must(t, err)
	for _, l := range logs {
		must(t, os.Remove(l))
	}
	must(t, r.Server.Start(ctx))
	if err := r.Follow(ctx, p.Source(), true); mysqltest.ErrorNumber(err) != 1872 {
		t.Fatalf("an acker follows without its relay logs: %v", err)
	}
	must(t, r.Follow(ctx, p.Source(), false))
	must(t, p.Insert(ctx, "after"))
	mysqltest.CaughtUp(t, p, r)
	must(t, r.Follow(ctx, p.Source(), true))
}

func TestFollowSaysThatTheSourceDoesNotAnswer(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 0, nodes[0]), nodes[1]
	ctx := mysqltest.Ctx(t, enough)
	wrong := p.Source()
	wrong.Password = "wrong"
	err := r.Follow(ctx, wrong, true)
	mustBe(t, err, mysqlctl.ErrNotConnected)
	if !strings.Contains(err.Error(), "1045") {
		t.Errorf("does not say why: %v", err)
	}
	must(t, r.Follow(ctx, p.Source(), true)) // the same place, another password
	nowhere := p.Source()
	nowhere.Port = 1
	mustBe(t, r.Follow(ctx, nowhere, false), mysqlctl.ErrNotConnected)
	must(t, r.Follow(ctx, p.Source(), false))
	if r.MustStatus().ReplicaAck {
		t.Error("acknowledges unasked")
	}
}

// The whole flip between living servers, and the old primary as a replica.
func TestPromoteAndDemote(t *testing.T) {
	nodes := mysqltest.Start(t, 3)
	a, b, c := mysqltest.Primary(t, 1, nodes...), nodes[1], nodes[2]
	ctx := mysqltest.Ctx(t, time.Minute)
	stop := load(t, a, 2)
	mysqltest.Eventually(t, enough, "load", func() bool { return a.Value("SELECT COUNT(*) > 20 FROM app.t") == "1" })
	start := time.Now()
	must(t, a.Fence(ctx))
	pos, err := b.SealReplica(ctx)
	must(t, err)
	t.Logf("fenced and sealed: %s", time.Since(start))
	// The rest may not have come yet: the old primary has all.
	must(t, b.Follow(ctx, a.Source(), true))
	mysqltest.CaughtUp(t, a, b)
	_, err = b.SealReplica(ctx)
	must(t, err)
	_, err = b.Drain(ctx)
	must(t, err)
	must(t, b.ConfigureSource(ctx, 1))
	must(t, c.Follow(ctx, b.Source(), true))
	must(t, b.OpenWrites(ctx))
	must(t, b.Barrier(ctx, 2, 1))
	t.Logf("open and settled: %s", time.Since(start))
	stop()
	must(t, b.ResetReplica(ctx))
	must(t, b.ResetReplica(ctx))
	if st := b.MustStatus(); st.Replica != nil || st.SuperReadOnly || !st.Source.On {
		t.Errorf("the new primary: %+v", st)
	}
	must(t, a.Follow(ctx, b.Source(), true))
	if st := a.MustStatus(); st.Source.Enabled || !st.SuperReadOnly || !st.ReplicaAck {
		t.Errorf("the old primary: %+v", st)
	}
	must(t, b.Insert(ctx, "on the new one"))
	sameRows(t, b, a, c)
	if !b.MustStatus().Executed.Contains(pos.All()) {
		t.Error("the new primary lacks what it had received")
	}
}

func TestALockedAccountKeepsAReplicaOut(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 1, nodes[0]), nodes[1]
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, p.ConfigureSource(ctx, 0))
	const user, password = "ha_r_x", `it's "quoted" \ here`
	must(t, p.EnsureReplicationAccount(ctx, user, password))
	made := p.MustStatus().Executed
	must(t, p.EnsureReplicationAccount(ctx, user, password))
	if now := p.MustStatus().Executed; !now.Equal(made) {
		t.Errorf("an account that is right made GTIDs: %s", now.Minus(made))
	}
	src := p.Source()
	src.User, src.Password = user, password
	must(t, r.Follow(ctx, src, true))
	must(t, p.ConfigureSource(ctx, 1))
	mysqltest.CaughtUp(t, p, r)
	uuid := r.MustStatus().ServerUUID
	mustBe(t, r.LockAccount(ctx, user, true), mysqlctl.ErrReadOnly)
	must(t, r.LockAccount(ctx, user, false))

	if users, err := p.ReplicationAccounts(ctx); err != nil || len(users) != 1 || users[0] != user {
		t.Errorf("replication accounts %v, %v", users, err)
	}
	// One that has logged in and asks for no binary log yet would do so after the lock.
	early := p.Session(user, password)
	must(t, p.LockAccount(ctx, user, true))
	if users, err := p.ReplicationAccounts(ctx); err != nil || len(users) != 0 {
		t.Errorf("replication accounts %v, %v", users, err)
	}
	within(t, 2*time.Second, "dump thread gone", func() { must(t, p.KillDump(ctx, uuid, user)) })
	must(t, p.KillDump(ctx, uuid, user))
	if _, err := early.ExecContext(ctx, "DO 1"); err == nil {
		t.Error("a session of a locked account goes on")
	}
	if st := p.MustStatus(); len(st.DumpThreads) != 0 {
		t.Errorf("still attached: %+v", st.DumpThreads)
	}
	answer := p.InsertWaiting("nobody acknowledges")
	mysqltest.Eventually(t, enough, "the replica is refused", func() bool {
		e := r.MustStatus().Replica.IOError
		return e.Number == 3118
	})
	before := p.MustStatus().Executed
	must(t, p.EnsureReplicationAccount(ctx, user, password)) // locked, and right
	must(t, p.LockAccount(ctx, user, true))
	must(t, p.LockAccount(ctx, user, false))
	must(t, <-answer) // the replica came back by itself
	after := p.MustStatus().Executed.Minus(before)
	if after.Count() > 1 {
		t.Errorf("locks made GTIDs: %s", after)
	}
	must(t, p.EnsureReplicationAccount(ctx, user, "another"))
	must(t, p.EnsureReplicationAccount(ctx, user, "another"))
	// Half made: the coordinator has to see that it is not there yet.
	if _, err := p.App.ExecContext(ctx, "REVOKE BACKUP_ADMIN ON *.* FROM '"+user+"'@'%'"); err != nil {
		t.Fatal(err)
	}
	if users, err := p.ReplicationAccounts(ctx); err != nil || len(users) != 0 {
		t.Errorf("replication accounts %v, %v: one lacks a privilege", users, err)
	}
	must(t, p.EnsureReplicationAccount(ctx, user, "another"))
	if users, err := p.ReplicationAccounts(ctx); err != nil || len(users) != 1 {
		t.Errorf("replication accounts %v, %v", users, err)
	}
	if err := p.LockAccount(ctx, "nobody", false); err == nil {
		t.Error("an account that is not there was unlocked")
	}
	must(t, p.LockAccount(ctx, "nobody", true))
	mysqltest.CaughtUp(t, p, r)

	// Without its account the replica cannot connect; that it is not to acknowledge
	// holds nevertheless.
	must(t, p.ConfigureSource(ctx, 0))
	_, err := p.App.ExecContext(ctx, "DROP USER '"+user+"'@'%'")
	must(t, err)
	must(t, p.KillDump(ctx, uuid, ""))
	within(t, 5*time.Second, "the flag is off", func() { must(t, r.SetReplicaAck(ctx, false)) })
	if st := r.MustStatus(); st.ReplicaAck || st.ReplicaAckWanted || st.Replica.IOState != "Connecting" {
		t.Errorf("%+v", st)
	}
	mustBe(t, r.EnsureReplicationAccount(ctx, "ha_r_y", "y"), mysqlctl.ErrReadOnly)
}

func TestEnsureSchemaAndAccounts(t *testing.T) {
	n := mysqltest.Start(t, 1)[0]
	ctx := mysqltest.Ctx(t, enough)
	mustBe(t, n.EnsureSchema(ctx, "one"), mysqlctl.ErrReadOnly)
	must(t, n.OpenWrites(ctx))
	must(t, n.EnsureSchema(ctx, "one"))
	before := n.MustStatus().Executed
	must(t, n.EnsureSchema(ctx, "one"))
	if now := n.MustStatus().Executed; !now.Equal(before) {
		t.Errorf("a schema that is there made GTIDs: %s", now.Minus(before))
	}
	mustBe(t, n.EnsureSchema(ctx, "two"), mysqlctl.ErrForeignCluster)
	if id, err := n.ClusterID(ctx); id != "one" || err != nil {
		t.Errorf("ClusterID = %q, %v", id, err)
	}
	must(t, n.EnsureAccount(ctx, "person", "secret", "ALL ON app.*"))
	must(t, n.EnsureAccount(ctx, "person", "secret", "ALL ON app.*"))
	if got := n.Rows("SHOW GRANTS FOR person"); !strings.Contains(got, "`app`.*") {
		t.Errorf("grants %s", got)
	}
}

// The applier removes a relay log file that it is through with, and the receiver
// acknowledges nothing meanwhile: so they are short, however much is received.
func TestRelayLogsAreShort(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 0, nodes...), nodes[1]
	const limit, row = 32 << 20, 12 << 20
	ctx := mysqltest.Ctx(t, time.Minute)
	p.Exec("CREATE TABLE app.big (v LONGBLOB)")
	mysqltest.CaughtUp(t, p, r)
	must(t, r.StopApplier(ctx))
	for range 4 {
		p.Exec(fmt.Sprintf("INSERT INTO app.big VALUES (REPEAT('x', %d))", row))
	}
	mysqltest.Eventually(t, enough, "all received", func() bool {
		st := r.MustStatus()
		return st.Executed.Union(st.Received).Contains(p.MustStatus().Executed)
	})
	files, err := filepath.Glob(filepath.Join(r.Config.DataDir, "relay-bin.0*"))
	must(t, err)
	total := int64(0)
	for _, name := range files {
		st, err := os.Stat(name)
		must(t, err)
		total += st.Size()
		if st.Size() > limit+row+1<<20 {
			t.Errorf("%s has %d bytes", name, st.Size())
		}
	}
	if total < 4*row {
		t.Errorf("%d bytes in %s", total, files)
	}
	r.Exec("START REPLICA SQL_THREAD")
	sameRows(t, p, r)
}
