package mysqlctl_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/mysqltest"
)

const enough = 30 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustBe(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

// within fails the test if f takes longer than d.
func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	took := time.Since(start)
	if took > d {
		t.Errorf("%s took %s, more than %s", what, took, d)
	}
	t.Logf("%s: %s", what, took)
}

func TestInitializeOnlyIntoAnEmptyDirectory(t *testing.T) {
	ctx := mysqltest.Ctx(t, time.Minute)
	n := mysqltest.Wrap(t, mysqltest.Config(t, t.TempDir()))
	if ok, err := n.Initialized(); ok || err != nil {
		t.Fatalf("Initialized = %v, %v before", ok, err)
	}
	mustBe(t, n.Start(ctx), mysqlctl.ErrNotRunning)
	within(t, 20*time.Second, "initialise", func() { must(t, n.Initialize(ctx)) })
	if ok, err := n.Initialized(); !ok || err != nil {
		t.Fatalf("Initialized = %v, %v after", ok, err)
	}
	mustBe(t, n.Initialize(ctx), mysqlctl.ErrNotEmpty)
	must(t, n.Start(ctx))
	st := n.MustStatus()
	if !st.Executed.IsEmpty() {
		t.Errorf("a new server has executed %s", st.Executed)
	}
	if id, err := n.ClusterID(ctx); id != "" || err != nil {
		t.Errorf("ClusterID = %q, %v", id, err)
	}
}

func TestInitializeInterruptedLeavesNothing(t *testing.T) {
	n := mysqltest.Wrap(t, mysqltest.Config(t, t.TempDir()))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	mustBe(t, n.Initialize(ctx), context.DeadlineExceeded)
	left, err := os.ReadDir(n.Config.DataDir)
	if err != nil || len(left) > 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

func TestStartComesUpClosed(t *testing.T) {
	n := mysqltest.New(t)
	ctx := mysqltest.Ctx(t, enough)
	// What a person persisted must not open the server, nor what stands in Options.
	must(t, os.WriteFile(filepath.Join(n.Config.DataDir, "mysqld-auto.cnf"),
		[]byte(`{"Version": 2, "mysql_dynamic_parse_early_variables": {"super_read_only": {"Value": "OFF", "Metadata": {"Timestamp": 1, "User": "root", "Host": "localhost"}}}}`), 0o600))
	within(t, 15*time.Second, "start", func() { must(t, n.Start(ctx)) })
	st := n.MustStatus()
	if !st.SuperReadOnly || !st.ReadOnly || st.Source.Enabled || st.Source.On || st.ReplicaAck || st.Replica != nil {
		t.Errorf("started with %+v", st)
	}
	if !st.Source.Plugin || len(st.Problems) > 0 {
		t.Errorf("problems: %v", st.Problems)
	}
	if uuid, err := n.ServerUUIDOnDisk(); uuid != st.ServerUUID || err != nil {
		t.Errorf("uuid on disk %q, %v, server says %s", uuid, err, st.ServerUUID)
	}
	for name, want := range map[string]string{
		"rpl_semi_sync_source_timeout": "4294967295000", "sync_relay_log": "1", "relay_log_recovery": "0", "log_replica_updates": "1",
		"sync_binlog": "1", "innodb_flush_log_at_trx_commit": "1", "gtid_executed": "", "skip_replica_start": "1",
	} {
		if got := n.Value("SELECT @@global." + name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if _, err := n.App.ExecContext(ctx, "CREATE TABLE app.x (id INT)"); mysqltest.ErrorNumber(err) != 1290 {
		t.Errorf("a client's write: %v", err)
	}
	if _, err := os.Stat(n.Config.Socket + ".init"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the init file with the password is still there: %v", err)
	}
	mustBe(t, n.Start(ctx), mysqlctl.ErrRunning)
	_, err := n.OfflinePosition()
	mustBe(t, err, mysqlctl.ErrRunning)
}

func TestStartSaysWhyItFailed(t *testing.T) {
	n := mysqltest.New(t, func(c *mysqlctl.Config) { c.Options = append(c.Options, "--no-such-option=1") })
	err := n.Start(mysqltest.Ctx(t, enough))
	mustBe(t, err, mysqlctl.ErrExited)
	if !strings.Contains(err.Error(), "no-such-option") {
		t.Errorf("error does not say why: %v", err)
	}
	select {
	case <-n.Exited():
	default:
		t.Error("Exited is open")
	}
}

func TestAStaleSocketLockDoesNotStopAStart(t *testing.T) {
	n := mysqltest.New(t)
	// Its owner is alive, and no mysqld: this very test.
	must(t, os.WriteFile(n.Config.Socket+".lock", []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600))
	must(t, n.Start(mysqltest.Ctx(t, enough)))
}

func TestAdoptAfterTheAgentDied(t *testing.T) {
	n := mysqltest.Start(t, 1)[0]
	ctx := mysqltest.Ctx(t, enough)
	pid := n.PID()
	must(t, n.Close())
	again := mysqlctl.New(n.Config, mysqltest.Logger(t))
	defer again.Close()
	if again.Alive() {
		t.Error("alive before Adopt")
	}
	if ok, err := again.Adopt(ctx); !ok || err != nil || again.PID() != pid {
		t.Fatalf("Adopt = %v, %v, pid %d, want %d", ok, err, again.PID(), pid)
	}
	if _, err := again.Status(ctx); err != nil {
		t.Fatal(err)
	}
	mustBe(t, again.Start(ctx), mysqlctl.ErrRunning)
	exited := again.Exited()
	select {
	case <-exited:
		t.Fatal("Exited is closed while it runs")
	default:
	}
	n.Signal(syscall.SIGKILL)
	within(t, time.Second, "exit seen", func() {
		select {
		case <-exited:
		case <-time.After(enough):
			t.Fatal("exit not seen")
		}
	})
	if again.Alive() || again.CoreDumping() {
		t.Error("alive after its end")
	}
	if ok, err := again.Adopt(ctx); ok || err != nil {
		t.Errorf("Adopt of nothing = %v, %v", ok, err)
	}
	must(t, again.Start(ctx)) // the lock files of the dead one are in the way
	if again.PID() == pid || again.Exited() == exited {
		t.Error("a new process has its own pid and channel")
	}
	must(t, again.Kill(ctx))
	must(t, again.Kill(ctx))
	if _, err := again.Status(ctx); err == nil {
		t.Error("status of a killed server")
	}
}

// A stranger starts a mysqld at the same moment and that gets the locks: ours, which
// would wait for them, is ended, and the stranger's is taken over.
func TestStartedByTwoAtOnce(t *testing.T) {
	n := mysqltest.Start(t, 1)[0]
	ctx := mysqltest.Ctx(t, enough)
	argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.PID()))
	must(t, err)
	args := strings.Split(strings.TrimRight(string(argv), "\x00"), "\x00")
	args = slices.DeleteFunc(args, func(a string) bool { return strings.HasPrefix(a, "--init-file=") })
	for try := range 10 {
		must(t, n.Kill(ctx))
		stranger := exec.Command(args[0], args[1:]...)
		stranger.Dir = "/"
		stranger.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
		must(t, stranger.Start())
		first := stranger.Process.Pid
		err := n.Start(ctx)
		if err == nil { // ours came first
			if text, _ := os.ReadFile(n.Config.PidFile); strings.TrimSpace(string(text)) != strconv.Itoa(n.PID()) {
				t.Fatalf("the server that answers is process %s, not %d", text, n.PID())
			}
			must(t, stranger.Process.Kill())
			_ = stranger.Wait()
			continue
		}
		mustBe(t, err, mysqlctl.ErrRunning)
		ok, err := n.Adopt(ctx)
		for errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) { // it is starting yet
			ok, err = n.Adopt(ctx)
		}
		if !ok || err != nil || n.PID() != first {
			t.Fatalf("Adopt = %v, %v, pid %d, want %d", ok, err, n.PID(), first)
		}
		n.MustStatus()
		in, _ := filepath.Glob("/proc/[0-9]*/cwd")
		in = slices.DeleteFunc(in, func(cwd string) bool { dir, err := os.Readlink(cwd); return err != nil || dir != n.Config.DataDir })
		must(t, n.Kill(ctx))
		_ = stranger.Wait()
		if !strings.Contains(strings.ToLower(n.Log()), "unable to lock") {
			t.Logf("attempt %d: seen before ours was started", try)
			continue
		}
		if len(in) != 1 {
			t.Errorf("one waits for the locks still: %v", in)
		}
		return
	}
	t.Log("ours was never the one that waits")
}

func TestStartRepairsTheAccount(t *testing.T) {
	n := mysqltest.Start(t, 1)[0]
	ctx := mysqltest.Ctx(t, enough)
	// As after a clone of another cluster's node: another password, and locked.
	n.Exec("SET GLOBAL super_read_only = OFF", "SET sql_log_bin = 0", "ALTER USER ha_agent@localhost IDENTIFIED BY 'other' ACCOUNT LOCK")
	must(t, n.Kill(ctx))
	must(t, n.Start(ctx))
	if st := n.MustStatus(); !st.Executed.IsEmpty() {
		t.Errorf("the account made GTIDs: %s", st.Executed)
	}
}

func TestStopEndsCleanly(t *testing.T) {
	n := mysqltest.Start(t, 1)[0]
	ctx := mysqltest.Ctx(t, enough)
	within(t, 20*time.Second, "stop", func() { must(t, n.Stop(ctx)) })
	if n.Alive() || !strings.Contains(n.Log(), "Shutdown complete") {
		t.Error("no clean shutdown")
	}
	for line := range strings.Lines(n.Log()) {
		if strings.Contains(line, "Forcing close") && strings.Contains(line, n.Config.Account.User) {
			t.Errorf("it waited 2 s for a session of ours: %s", line)
		}
	}
	must(t, n.Stop(ctx))
}

// Data that are replaced are not flushed before; they can be opened again nevertheless.
func TestStopFastFlushesNothing(t *testing.T) {
	n := mysqltest.Start(t, 1)[0]
	ctx := mysqltest.Ctx(t, enough)
	n.Exec("SET GLOBAL super_read_only = OFF", "SET GLOBAL log_error_verbosity = 3")
	n.Exec("CREATE TABLE app.fast (i INT PRIMARY KEY)", "INSERT INTO app.fast VALUES (1), (2)")
	held := n.MustStatus().Executed
	must(t, n.StopFast(ctx))
	if log := n.Log(); n.Alive() || !strings.Contains(log, "very fast shutdown") || !strings.Contains(log, "Shutdown complete") {
		t.Errorf("flushed, or no clean end:\n%s", log)
	}
	must(t, n.StopFast(ctx)) // nothing to do
	must(t, n.Start(ctx))
	if again := n.MustStatus().Executed; !again.Equal(held) || n.Value("SELECT COUNT(*) FROM app.fast") != "2" {
		t.Errorf("opened again it holds %s, not %s", again, held)
	}
}

// A frozen server must not hold its callers, whatever they ask of it.
func TestCallsReturnAtTheirDeadlineOnAFrozenServer(t *testing.T) {
	n := mysqltest.Start(t, 1)[0]
	n.Freeze()
	const deadline = 300 * time.Millisecond
	first, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	within(t, deadline+mysqlctl.KillGrace+150*time.Millisecond, "abandon", func() {
		mustBe(t, n.OpenWrites(first), mysqlctl.ErrAbandoned)
	})
	calls := map[string]func(context.Context) error{
		"Status":          func(ctx context.Context) error { _, err := n.Status(ctx); return err },
		"Position":        func(ctx context.Context) error { _, err := n.Position(ctx); return err },
		"ClusterID":       func(ctx context.Context) error { _, err := n.ClusterID(ctx); return err },
		"Fence":           n.Fence,
		"Poison":          n.Poison,
		"OpenWrites":      n.OpenWrites,
		"KillClients":     n.KillClients,
		"KillOwnSessions": n.KillOwnSessions,
		"SealReplica":     func(ctx context.Context) error { _, err := n.SealReplica(ctx); return err },
		"Drain":           func(ctx context.Context) error { _, err := n.Drain(ctx); return err },
		"ConfigureSource": func(ctx context.Context) error { return n.ConfigureSource(ctx, 1) },
		"Follow":          func(ctx context.Context) error { return n.Follow(ctx, n.Source(), true) },
		"Barrier":         func(ctx context.Context) error { return n.Barrier(ctx, 1, 1) },
		"Stop":            n.Stop,
	}
	for name, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		start := time.Now()
		err := call(ctx)
		took := time.Since(start)
		cancel()
		if err == nil || took > deadline+mysqlctl.KillGrace+150*time.Millisecond {
			t.Errorf("%s: %v after %s", name, err, took)
		}
	}
	if !n.Alive() {
		t.Error("a frozen server is alive")
	}
	must(t, n.Kill(mysqltest.Ctx(t, enough)))
}
