package purge

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/mysqlctl/mysqltest"
)

// rig is a server, its purger, and who may need its logs.
type rig struct {
	t *testing.T
	*mysqltest.Node
	p *Purger

	mu      sync.Mutex
	holders []Holder
	notes   []string
	free    int64 // < 0: what there is
}

// BinlogRoom stands before the server's own.
func (r *rig) BinlogRoom() (size, free int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.free >= 0 {
		return 100 << 30, r.free, nil
	}
	return r.Server.BinlogRoom()
}

// watch runs a purger on a server until the test ends.
func watch(t *testing.T, n *mysqltest.Node) *rig {
	r := &rig{t: t, Node: n, free: 50 << 30}
	r.p = New(Config{Server: r, Every: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
		Holders: func() []Holder { r.mu.Lock(); defer r.mu.Unlock(); return r.holders },
		Note:    func(text string) { r.mu.Lock(); defer r.mu.Unlock(); r.notes = append(r.notes, text) }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.p.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func (r *rig) set(free int64, holders ...Holder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free, r.holders = free, holders
}

func (r *rig) noted() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.notes, "\n")
}

// files lists the logs. While mysqld removes some there is no index for a moment.
func (r *rig) files() (files []mysqlctl.Binlog) {
	r.t.Helper()
	mysqltest.Eventually(r.t, 5*time.Second, "an index of the logs", func() bool {
		var err error
		files, err = r.Binlogs()
		return err == nil
	})
	return files
}

// next begins a log and makes all before it look as old as that.
func (r *rig) next(age time.Duration) {
	r.t.Helper()
	r.Exec("FLUSH NO_WRITE_TO_BINLOG BINARY LOGS")
	files := r.files()
	at := time.Now().Add(-age)
	for _, f := range files[:len(files)-1] {
		if err := os.Chtimes(filepath.Join(r.Config.DataDir, f.Name), at, at); err != nil {
			r.t.Fatal(err)
		}
	}
}

// left waits until so many logs are left and the problem begins with these words.
func (r *rig) left(n int, problem string) {
	r.t.Helper()
	mysqltest.Eventually(r.t, 20*time.Second, "logs are purged", func() bool {
		files, err := r.Binlogs()
		has := r.p.Problem()
		return err == nil && len(files) == n && strings.Contains(has, problem) && (problem != "") == (has != "")
	})
}

// stays sees that nothing is purged in some rounds, which the server takes part in.
func (r *rig) stays(n int) {
	r.t.Helper()
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if now := r.files(); len(now) != n {
			r.t.Fatalf("%d logs are left of %d: %v", len(now), n, now)
		}
	}
}

func (r *rig) row() gtid.Set {
	r.t.Helper()
	r.Exec("INSERT INTO app.t (v) VALUES ('row')")
	return r.MustStatus().Executed
}

// The agent purges in mysqld's place: what is old, what nobody lacks, on a primary and
// on a replica; and replication goes on.
func TestPurge(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	r := watch(t, mysqltest.Primary(t, 1, nodes...))
	const day, room = 24 * time.Hour, 50 << 30
	if r.Value("SELECT @@global.binlog_expire_logs_auto_purge") != "0" {
		t.Error("mysqld purges by itself")
	}
	r.set(room, Holder{Name: "n2"})
	r.row()
	r.next(31 * day)
	one := r.row()
	r.next(31 * day)
	all := r.row()
	r.next(31 * day)
	r.left(4, "n2 lacks transactions in binlog.000001")
	r.set(room, Holder{Name: "n2", Has: one})
	r.left(2, "n2 lacks transactions in binlog.000003")
	r.set(room, Holder{Name: "n2", Has: all}, Holder{Name: "the archive", Has: one, Archive: true})
	r.left(2, "the archive lacks")
	r.set(room, Holder{Name: "n2", Has: all})
	r.left(1, "")
	// What a member lacks that is in no log here is no reason to keep one.
	r.set(room, Holder{Name: "n2", Has: r.row().Minus(all)})
	r.next(31 * day)
	r.left(1, "")
	if r.noted() != "" {
		t.Errorf("a purge in its time is an event: %s", r.noted())
	}

	// The server's own retention, which people may change; and it is told again not to
	// purge by itself, which it would do when a log ends.
	r.Exec("SET GLOBAL binlog_expire_logs_seconds = 7200, GLOBAL binlog_expire_logs_auto_purge = ON")
	mysqltest.Eventually(t, 20*time.Second, "it purges by itself no longer", func() bool {
		return r.Value("SELECT @@global.binlog_expire_logs_auto_purge") == "0"
	})
	r.set(room)
	r.row()
	r.next(time.Hour)
	r.stays(2)
	r.Exec("SET GLOBAL binlog_expire_logs_seconds = 1800")
	r.left(1, "")
	r.Exec("SET GLOBAL binlog_expire_logs_seconds = 0")
	r.row()
	r.next(900 * day)
	r.set(1 << 30)
	r.stays(2)

	// Without room the young go as well, and what a member lacks: that is told.
	r.Exec("SET GLOBAL binlog_expire_logs_seconds = 864000")
	r.left(1, "")
	r.set(room, Holder{Name: "n3"})
	r.row()
	r.next(time.Hour)
	r.stays(2)
	r.set(1<<30, Holder{Name: "n3"})
	r.left(1, "")
	mysqltest.Eventually(t, 10*time.Second, "an event tells of it", func() bool {
		got := r.noted()
		return strings.Contains(got, "early: only 1024 MB") && strings.HasSuffix(got, "what was in them is missing on n3")
	})

	// A replica's logs, while it is read-only.
	on := watch(t, nodes[1])
	on.set(room, Holder{Name: "n1", Has: r.MustStatus().Executed})
	on.next(900 * day)
	on.left(1, "")
	if st := on.MustStatus(); !st.SuperReadOnly {
		t.Error("the replica is writable")
	}
	r.row()
	mysqltest.CaughtUp(t, r.Node, nodes[1])
}

// A log that a replica is reading stays, whatever the decision was, and the next round
// removes it.
func TestPurgeInUse(t *testing.T) {
	r := watch(t, mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...))
	r.set(50<<30, Holder{Name: "n2"})
	r.Exec("CREATE TABLE app.big (id INT PRIMARY KEY, v LONGBLOB)")
	for _, id := range []string{"1", "2", "3", "4"} { // more than a connection holds
		r.Exec("INSERT INTO app.big VALUES (" + id + ", REPEAT('x', 4000000))")
	}
	r.next(31 * 24 * time.Hour) // less than a weekend too old
	ctx, cancel := context.WithCancel(mysqltest.Ctx(t, time.Minute))
	defer cancel()
	reading, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		first := true
		ended <- r.Dump(ctx, gtid.Set{}, func(mysqlctl.Sent) error {
			if first {
				close(reading)
				first = false
			}
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	select {
	case <-reading:
	case err := <-ended:
		t.Fatal(err)
	}
	r.set(50 << 30)
	r.stays(2)
	if got := r.noted(); got != "" {
		t.Errorf("nothing went, and the events say %q", got)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	r.left(1, "")
}

// While commits wait for an acknowledgement, and a rotation behind them, nothing of
// this lasts longer than a round; what waits goes on waiting.
func TestPurgeBehindWaitingCommits(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	r := watch(t, mysqltest.Primary(t, 1, nodes...))
	r.row()
	r.set(50<<30, Holder{Name: "n2"})
	r.next(31 * 24 * time.Hour) // less than a weekend too old
	nodes[1].Freeze()
	answer := r.InsertWaiting("waits")
	rotated := make(chan error, 1)
	go func() {
		_, err := r.Root.ExecContext(context.Background(), "FLUSH NO_WRITE_TO_BINLOG BINARY LOGS")
		rotated <- err
	}()
	mysqltest.Eventually(t, 10*time.Second, "a rotation waits", func() bool {
		return r.Value("SELECT COUNT(*) FROM performance_schema.processlist WHERE INFO LIKE 'FLUSH NO_WRITE%'") == "1"
	})
	r.set(50 << 30)
	for range 3 { // beside those of the purger
		began := time.Now()
		if err := r.p.round(r.t.Context()); time.Since(began) > timeout+mysqlctl.KillGrace+time.Second {
			t.Errorf("a round took %s: %v", time.Since(began), err)
		}
	}
	if n := r.Value("SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_INFO LIKE 'SHOW BINLOG%' OR PROCESSLIST_INFO LIKE 'PURGE%'"); n > "2" {
		t.Errorf("%s statements pile up", n)
	}
	if st := r.MustStatus(); st.Waiting == 0 {
		t.Errorf("nothing waits any more: %+v", st)
	}
	nodes[1].Thaw()
	if err := <-answer; err != nil {
		t.Error(err)
	}
	if err := <-rotated; err != nil {
		t.Error(err)
	}
	mysqltest.Eventually(t, 20*time.Second, "the old one goes", func() bool { return r.files()[0].Name != "binlog.000001" })
}

// A disk that gets full has room again, without a word of how old the logs are. Where
// it is full nothing more is begun that would hang in the server.
func TestPurgeDisk(t *testing.T) {
	logs := t.TempDir()
	if err := unix.Mount("tmpfs", logs, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("NOT TESTED, as it needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(logs, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	n := mysqltest.New(t, func(c *mysqlctl.Config) { c.LogBin = filepath.Join(logs, "bin") })
	ctx := mysqltest.Ctx(t, 3*time.Minute)
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	mysqltest.Primary(t, 0, n)
	n.Exec("CREATE TABLE app.big (id INT PRIMARY KEY, v LONGBLOB)")
	for _, id := range []string{"1", "2", "3"} {
		n.Exec("INSERT INTO app.big VALUES ("+id+", REPEAT('x', 5000000))", "FLUSH NO_WRITE_TO_BINLOG BINARY LOGS")
	}
	r := &rig{t: t, Node: n, free: -1}
	r.p = New(Config{Server: r, Holders: func() []Holder { return []Holder{{Name: "n2"}} }, Note: func(text string) { r.notes = append(r.notes, text) },
		Log: slog.New(slog.DiscardHandler)})
	fill := func(leave int64) {
		t.Helper()
		_, free, err := n.BinlogRoom()
		if err == nil {
			err = os.WriteFile(filepath.Join(logs, "full"), make([]byte, free-leave), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}

	fill(0)
	for range 3 {
		if err := r.p.round(ctx); err != nil || len(r.files()) != 4 {
			t.Errorf("on a full disk: %v, %v", err, r.files())
		}
	}
	// A PURGE that was begun all the same is not followed by another.
	limited, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := r.PurgeTo(limited, r.files()[1].Name); !errors.Is(err, mysqlctl.ErrAbandoned) {
		t.Fatalf("a PURGE on a full disk: %v", err)
	}
	for range 3 {
		if err := r.p.round(ctx); !errors.Is(err, mysqlctl.ErrBusy) {
			t.Errorf("behind a PURGE that hangs: %v", err)
		}
	}

	if err := os.Remove(filepath.Join(logs, "full")); err != nil {
		t.Fatal(err)
	}
	mysqltest.Eventually(t, 90*time.Second, "the PURGE ends", func() bool { return r.p.round(ctx) == nil }) // it looks once a minute
	had := len(r.files())
	fill(3 << 20) // of 64
	if err := r.p.round(ctx); err != nil || len(r.files()) != had-1 {
		t.Errorf("without room: %v, %v", err, r.files())
	}
	if _, free, err := n.BinlogRoom(); err != nil || free < 7<<20 {
		t.Errorf("%d bytes are free, %v", free, err)
	}
	if got := r.noted(); !strings.Contains(got, "early: only 2 MB") && !strings.Contains(got, "early: only 3 MB") {
		t.Errorf("the events say %q", got)
	}
}
