package mysqlctl_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/mysqltest"
)

func TestStatusIsCheapAndNeverBlocks(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p := mysqltest.Primary(t, 1, nodes...)
	ctx := mysqltest.Ctx(t, enough)
	for _, n := range nodes {
		const rounds = 50
		start := time.Now()
		for range rounds {
			n.MustStatus()
		}
		each := time.Since(start) / rounds
		t.Logf("one status: %s", each)
		if each > 20*time.Millisecond { // 3 ms on a quiet machine
			t.Errorf("one status takes %s", each)
		}
	}
	st := p.MustStatus()
	replica := nodes[1].MustStatus()
	if len(st.DumpThreads) != 1 || st.DumpThreads[0].ReplicaUUID != replica.ServerUUID || !st.DumpThreads[0].SemiSync || st.DumpThreads[0].User != mysqltest.ReplUser {
		t.Errorf("dump threads %+v", st.DumpThreads)
	}
	if !st.Source.On || !st.Source.Enabled || st.Source.WaitForCount != 1 || st.Source.Clients != 1 || st.ReadOnly || st.Waiting != 0 {
		t.Errorf("source %+v", st)
	}
	r := replica.Replica
	if r == nil || r.SourceHost != p.Config.Host || r.SourcePort != p.Config.Port || r.SourceUUID != st.ServerUUID || r.User != mysqltest.ReplUser ||
		r.IOState != "Yes" || r.SQLState != "Yes" || r.Channels != 1 || !r.AutoPos || !replica.ReplicaAck || !replica.SuperReadOnly {
		t.Errorf("replica %+v", r)
	}
	if len(st.Problems)+len(replica.Problems) > 0 {
		t.Errorf("problems %v %v", st.Problems, replica.Problems)
	}
	mysqltest.Eventually(t, enough, "heartbeats", func() bool {
		age := nodes[1].MustStatus().Replica.HeartbeatAge
		return age >= 0 && age < 500*time.Millisecond
	})
	nodes[1].Freeze()
	mysqltest.Eventually(t, enough, "the replica's silence", func() bool { return p.MustStatus().Source.Clients == 1 })
	nodes[1].Thaw()
	p.Freeze()
	mysqltest.Eventually(t, enough, "silence of the source", func() bool { return nodes[1].MustStatus().Replica.HeartbeatAge > time.Second })
	p.Thaw()

	_, err := nodes[1].SealReplica(ctx)
	must(t, err)
	p.InsertWaiting("one")
	go func() { _, _ = p.Root.ExecContext(t.Context(), "FLUSH BINARY LOGS") }() // hangs, and holds locks
	mysqltest.Eventually(t, enough, "flush hangs", func() bool {
		return p.Value("SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_INFO LIKE 'FLUSH BINARY%' AND PROCESSLIST_TIME > 0") == "1"
	})
	within(t, 200*time.Millisecond, "status beside a hanging FLUSH", func() { st = p.MustStatus() })
	if st.Waiting != 1 || st.WaitingFor <= 0 || st.WaitingFor > enough {
		t.Errorf("waiting %d for %s", st.Waiting, st.WaitingFor)
	}
}

func TestChecksNameWhatBreaksPromises(t *testing.T) {
	n := mysqltest.Start(t, 1)[0]
	n.Exec("SET GLOBAL sync_binlog = 0", "SET GLOBAL innodb_flush_log_at_trx_commit = 2", "SET GLOBAL sync_relay_log = 10000", "SET GLOBAL rpl_semi_sync_source_wait_no_replica = OFF",
		"CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.3.1', SOURCE_DELAY=10, SOURCE_AUTO_POSITION=1",
		"CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.3.2' FOR CHANNEL 'two'",
		"CHANGE REPLICATION FILTER REPLICATE_DO_DB = (app)", "SET GLOBAL offline_mode = ON")
	problems, err := n.Checks(mysqltest.Ctx(t, enough))
	must(t, err)
	found := fmt.Sprint(problems)
	for _, code := range []string{"HA-SYNC-BINLOG", "HA-FLUSH-LOG", "HA-SYNC-RELAY", "HA-WAIT-NO-REPLICA", "HA-CHANNELS", "HA-DELAY", "HA-FILTER", "HA-OFFLINE-MODE"} {
		if !strings.Contains(found, code) {
			t.Errorf("%s is not in %s", code, found)
		}
	}
	mustBe(t, n.Follow(mysqltest.Ctx(t, enough), n.Source(), true), mysqlctl.ErrChannels)
}

// Semi-sync as the design needs it: a commit waits without an acker, for ever, and
// goes when one is there. What must not let it go does not.
func TestACommitWaitsForItsAck(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 1, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, p.Insert(ctx, "acknowledged"))
	must(t, r.SetReplicaAck(ctx, true)) // already so
	must(t, r.SetReplicaAck(ctx, false))
	if st := r.MustStatus(); st.ReplicaAck || st.Replica.IOState != "Yes" {
		t.Fatalf("acks after SetReplicaAck(false): %+v", st)
	}
	answer := p.InsertWaiting("waits")
	behind := p.InsertWaiting("waits behind it")
	mysqltest.Eventually(t, enough, "two wait", func() bool { return p.MustStatus().Waiting == 2 })

	t.Run("fence", func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		within(t, 300*time.Millisecond+mysqlctl.KillGrace, "fence that fails", func() { mustBe(t, p.Fence(short), mysqlctl.ErrNotFenced) })
		if n := p.Value("SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_INFO LIKE 'SET GLOBAL super%' AND PROCESSLIST_USER = 'ha_agent'"); n != "0" {
			t.Error("the SET is still in the server")
		}
		if st := p.MustStatus(); st.SuperReadOnly {
			t.Error("a fence that failed came true later")
		}
	})
	t.Run("fence beside a fence", func(t *testing.T) {
		longer, cancel := context.WithTimeout(ctx, 800*time.Millisecond)
		defer cancel()
		first := make(chan error, 1)
		go func() { first <- p.Fence(longer) }()
		mysqltest.Eventually(t, enough, "the variable is on", func() bool { return p.MustStatus().SuperReadOnly })
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		mustBe(t, p.Fence(short), mysqlctl.ErrNotFenced) // though the variable was on
		mustBe(t, <-first, mysqlctl.ErrNotFenced)
	})
	t.Run("stop", func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		mustBe(t, p.Stop(short), mysqlctl.ErrWaitingCommits)
		mustBe(t, p.Follow(short, r.Source(), true), mysqlctl.ErrNotFenced)
	})
	t.Run("poison", func(t *testing.T) {
		within(t, 200*time.Millisecond, "poison", func() { must(t, p.Poison(ctx)) })
		must(t, r.SetReplicaAck(ctx, true))
		if st := p.MustStatus(); st.Source.WaitForCount != 100 || st.Waiting != 2 {
			t.Errorf("poisoned: %+v, waiting %d", st.Source, st.Waiting)
		}
	})
	t.Run("kill clients", func(t *testing.T) {
		must(t, p.KillClients(ctx))
		for _, a := range []<-chan error{answer, behind} {
			select {
			case err := <-a:
				if err == nil {
					t.Error("a killed client got OK")
				}
			case <-time.After(enough):
				t.Error("client not cut off")
			}
		}
		if st := p.MustStatus(); st.Waiting != 2 || len(st.DumpThreads) == 0 {
			t.Errorf("after KillClients %d wait, dump threads %v", st.Waiting, st.DumpThreads)
		}
		mysqltest.Eventually(t, enough, "dump threads of earlier connections are gone", func() bool { return len(p.MustStatus().DumpThreads) == 1 })
	})
	// Back to k=1. The row that waits was received while the replica did not
	// acknowledge: only a barrier lets it go.
	must(t, p.ConfigureSource(ctx, 1))
	must(t, p.Barrier(ctx, 7, 8))
	mysqltest.Eventually(t, enough, "all acknowledged", func() bool { return p.MustStatus().Waiting == 0 })
	if got := p.Value("SELECT CONCAT(epoch, ' ', token) FROM ha.barrier"); got != "7 8" {
		t.Errorf("barrier row %q", got)
	}
	must(t, p.Fence(ctx))
	if err := p.Insert(ctx, "fenced"); mysqltest.ErrorNumber(err) != 1290 {
		t.Errorf("write on a fenced server: %v", err)
	}
	mustBe(t, p.Barrier(ctx, 7, 9), mysqlctl.ErrReadOnly)
	mysqltest.CaughtUp(t, p, r)
	if a, b := p.Rows("SELECT * FROM app.t"), r.Rows("SELECT * FROM app.t"); a != b || !strings.Contains(a, "waits behind it") {
		t.Errorf("rows differ:\n%s\n%s", a, b)
	}
}

func TestBarriersWaitBesideEachOther(t *testing.T) {
	p := mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...)
	ctx := mysqltest.Ctx(t, enough)
	must(t, p.ConfigureSource(ctx, 1))
	var wg sync.WaitGroup
	errs := make([]error, 5)
	for i := range errs {
		wg.Go(func() {
			short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			defer cancel()
			errs[i] = p.Barrier(short, 1, uint64(i))
		})
	}
	mysqltest.Eventually(t, enough, "four wait", func() bool { return p.MustStatus().Waiting == 4 })
	wg.Wait()
	var busy int
	for _, err := range errs {
		if err == nil {
			t.Error("a barrier without an acker is OK")
		} else if strings.Contains(err.Error(), mysqlctl.ErrBusy.Error()) {
			busy++
		}
	}
	if busy != 1 {
		t.Errorf("%d busy: %v", busy, errs)
	}
	// The next agent ends none of them, and does not hang on them.
	next := mysqlctl.New(p.Config, mysqltest.Logger(t))
	defer next.Close()
	_, err := next.Adopt(ctx)
	must(t, err)
	must(t, next.KillOwnSessions(ctx))
	must(t, next.ConfigureSource(ctx, 0)) // all go
	mysqltest.Eventually(t, enough, "none waits", func() bool { return p.MustStatus().Waiting == 0 })
	must(t, next.Barrier(ctx, 2, 1))
}

// A commit that passed its flush before the source was told to wait is counted as let
// go when it ends after it. Once a barrier is through there is none of those left.
func TestCommitsLetGoAreFromBeforeTheBarrier(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p := mysqltest.Primary(t, 1, nodes...)
	ctx := mysqltest.Ctx(t, 2*time.Minute)
	writing, stop := context.WithCancel(ctx)
	var writers sync.WaitGroup
	defer writers.Wait()
	defer stop()
	for i := range 16 {
		writers.Go(func() {
			for j := 0; writing.Err() == nil; j++ {
				if err := p.Insert(ctx, fmt.Sprintf("w%d %d", i, j)); err != nil && writing.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	noTx := func() int64 { return p.MustStatus().Source.NoTx }
	late := int64(0)
	rounds := 0
	for ; rounds < 20 && late == 0; rounds++ { // one late commit in some 40 rounds
		must(t, p.ConfigureSource(ctx, 0))
		must(t, p.ConfigureSource(ctx, 1))
		told := noTx()
		must(t, p.Barrier(ctx, 1, uint64(rounds)))
		through := noTx()
		late += through - told
		for range 5 {
			must(t, p.Insert(ctx, fmt.Sprintf("r%d", rounds)))
		}
		if n := noTx() - through; n > 0 {
			t.Fatalf("%d commits without acks after the barrier of round %d", n, rounds)
		}
	}
	t.Logf("%d let go after the source was told to wait, in %d rounds", late, rounds)
}

// What an agent that died had on its way must not come true later.
func TestKillOwnSessionsEndsWhatAnEarlierAgentBegan(t *testing.T) {
	p := mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...)
	ctx := mysqltest.Ctx(t, enough)
	lock, err := p.Root.Conn(ctx)
	must(t, err)
	defer lock.Close()
	_, err = lock.ExecContext(ctx, "LOCK TABLES app.t WRITE") // super_read_only waits for it
	must(t, err)
	early := make(chan error, 1)
	go func() { early <- p.Fence(context.WithoutCancel(ctx)) }()
	pending := "SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_INFO LIKE 'SET GLOBAL super%'"
	mysqltest.Eventually(t, enough, "the SET waits", func() bool { return p.Value(pending) == "1" })
	next := mysqlctl.New(p.Config, mysqltest.Logger(t))
	defer next.Close()
	_, err = next.Adopt(ctx)
	must(t, err)
	must(t, next.KillOwnSessions(ctx))
	if got := p.Value(pending); got != "0" {
		t.Errorf("%s still wait", got)
	}
	if err := <-early; err == nil {
		t.Error("the early fence succeeded")
	}
	_, err = lock.ExecContext(ctx, "UNLOCK TABLES")
	must(t, err)
	if p.Value("SELECT @@global.super_read_only") != "0" {
		t.Error("the early SET came true")
	}
}

// Connections that were lost are open again before they are needed.
func TestLostConnectionsComeBack(t *testing.T) {
	n := mysqltest.Start(t, 1)[0]
	ours := "SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_USER = 'ha_agent'"
	want := n.Value(ours)
	if want == "0" {
		t.Fatal("no connections")
	}
	for _, id := range strings.Fields(n.Rows("SELECT PROCESSLIST_ID FROM performance_schema.threads WHERE PROCESSLIST_USER = 'ha_agent'")) {
		n.Exec("KILL " + id)
	}
	mysqltest.Eventually(t, enough, "all are back", func() bool {
		n.MustStatus()
		return n.Value(ours) == want
	})
}

func TestConfigureSourceTakesAndGivesBack(t *testing.T) {
	nodes := mysqltest.Start(t, 3)
	p := mysqltest.Primary(t, 2, nodes...)
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, p.Insert(ctx, "both"))
	_, err := nodes[2].SealReplica(ctx)
	must(t, err)
	answer := p.InsertWaiting("one of two")
	must(t, p.ConfigureSource(ctx, 2)) // again: changes nothing
	if st := p.MustStatus(); st.Waiting != 1 {
		t.Fatalf("%d wait", st.Waiting)
	}
	must(t, p.ConfigureSource(ctx, 1))
	must(t, <-answer)
	p.Exec("SET GLOBAL rpl_semi_sync_source_wait_no_replica = OFF", "SET GLOBAL rpl_semi_sync_source_timeout = 1000")
	must(t, p.ConfigureSource(ctx, 1))
	if got := p.Value("SELECT CONCAT(@@global.rpl_semi_sync_source_wait_no_replica, @@global.rpl_semi_sync_source_timeout)"); got != "14294967295000" {
		t.Errorf("not repaired: %s", got)
	}
	must(t, p.ConfigureSource(ctx, 0))
	if st := p.MustStatus(); st.Source.Enabled || st.Source.On {
		t.Errorf("still on: %+v", st.Source)
	}
}

func TestStatementsPastTheirDeadlineAreGone(t *testing.T) {
	p := mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...)
	ctx := mysqltest.Ctx(t, enough)
	lock, err := p.Root.Conn(ctx)
	must(t, err)
	defer lock.Close()
	_, err = lock.ExecContext(ctx, "LOCK TABLES app.t WRITE")
	must(t, err)
	for range 3 {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		err = p.Fence(short)
		cancel()
		mustBe(t, err, mysqlctl.ErrNotFenced)
		mustBe(t, err, context.DeadlineExceeded)
	}
	// A connection storm leaves no connection for a KILL: ours are open already.
	var storm []interface{ Close() error }
	for range 250 {
		c, err := p.App.Conn(ctx)
		if err != nil {
			break
		}
		storm = append(storm, c)
	}
	if len(storm) > 200 {
		t.Fatalf("%d connections, no storm", len(storm))
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	mustBe(t, p.Fence(short), mysqlctl.ErrNotFenced)
	p.MustStatus()
	_, err = lock.ExecContext(ctx, "UNLOCK TABLES")
	must(t, err)
	must(t, p.Fence(ctx))
	must(t, p.KillClients(ctx))
	mysqltest.Eventually(t, enough, "clients gone", func() bool {
		return p.Value("SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_USER = 'app'") == "0"
	})
	for _, c := range storm {
		_ = c.Close()
	}
}

// A receiver that does not acknowledge may leave syncing to the kernel; one that
// does has everything on disk. So it is too when the server was started anew: one that
// syncs each event and acknowledges none never reaches a source that waits for nobody.
func TestRelaySyncFollowsTheAckFlag(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p := mysqltest.Primary(t, 0, nodes...)
	r := nodes[1]
	ctx := mysqltest.Ctx(t, time.Minute)
	for _, ack := range []bool{false, true, false} {
		must(t, r.SetReplicaAck(ctx, !ack)) // so that there is something to do
		must(t, r.SetReplicaAck(ctx, ack))
		want := "10000"
		if ack {
			want = "1"
		}
		if got := r.Value("SELECT @@global.sync_relay_log"); got != want {
			t.Errorf("ack %v: sync_relay_log is %s, want %s", ack, got, want)
		}
	}
	must(t, r.Kill(ctx))
	must(t, r.Start(ctx))
	must(t, r.Follow(ctx, p.Source(), false))
	if got := r.Value("SELECT @@global.sync_relay_log"); got != "10000" {
		t.Errorf("after a start sync_relay_log is %s", got)
	}
}

// Sessions that were ended, and those that a SET has let go, look for a moment longer like
// commits that wait for an acknowledgement.
func TestFenceAfterKillingClients(t *testing.T) {
	p := mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...)
	ctx := mysqltest.Ctx(t, time.Minute)
	p.Exec("CREATE TABLE app.held (i INT PRIMARY KEY)", "INSERT INTO app.held VALUES (1)")
	const slow = 8
	for round := range 10 {
		var clients sync.WaitGroup
		for i := range slow {
			clients.Go(func() {
				c, err := p.App.Conn(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				if err := c.PingContext(ctx); err != nil { // the pool may have one that was ended
					t.Error(err)
				}
				_, _ = c.ExecContext(ctx, fmt.Sprintf("CREATE TABLE app.slow_%d_%d SELECT i, SLEEP(20) FROM app.held", round, i))
			})
		}
		mysqltest.Eventually(t, enough, "all run", func() bool {
			return p.Value("SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_STATE = 'User sleep'") == fmt.Sprint(slow)
		})
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		mustBe(t, p.Fence(short), mysqlctl.ErrNotFenced)
		cancel()
		must(t, p.KillClients(ctx))
		if err := p.Fence(ctx); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		must(t, p.OpenWrites(ctx))
		clients.Wait()
	}
}

// To switch the source off takes a second, and no KILL ends that. Whoever's time is over
// before must not take the server for one that has to be killed.
func TestSwitchingTheSourceOffIsNotEnded(t *testing.T) {
	p := mysqltest.Primary(t, 1, mysqltest.Start(t, 2)...)
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, p.Insert(ctx, "acknowledged"))
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := p.ConfigureSource(short, 0); errors.Is(err, mysqlctl.ErrAbandoned) {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if p.Value("SELECT @@rpl_semi_sync_source_enabled") != "0" {
		t.Error("it is on")
	}
}
