package mysqlctl_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/mysqlctl/mysqltest"
)

func TestWaitExecuted(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p := mysqltest.Primary(t, 1, nodes...)
	ctx := mysqltest.Ctx(t, enough)
	must(t, p.Insert(ctx, "one"))
	have, err := nodes[1].WaitExecuted(ctx, p.MustStatus().Executed)
	must(t, err)
	if !have.Contains(p.MustStatus().Executed) {
		t.Errorf("has %s", have)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := nodes[1].WaitExecuted(short, gtid.MustParse("00000000-0000-0000-0000-000000000001:1")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("for what never comes: %v", err)
	}
}

// Sessions that read are for a moment in a state of commits that wait. Nothing is put off
// for them.
func TestReadersHoldUpNothing(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 0, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, p.Insert(ctx, "read"))
	mysqltest.CaughtUp(t, p, r)
	reading, stop := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer stop()
	const many = 48
	r.App.SetMaxIdleConns(many)
	for range many {
		readers.Go(func() {
			for reading.Err() == nil {
				var v string
				_ = r.App.QueryRowContext(reading, "SELECT v FROM app.t WHERE id = 1").Scan(&v)
			}
		})
	}
	mysqltest.Eventually(t, enough, "readers in that state", func() bool {
		return r.Value("SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_STATE = 'waiting for handler commit'") != "0"
	})
	for range 30 {
		must(t, r.FlushBinlog(ctx))
		must(t, r.Fence(ctx))
	}
}

// Without a long file to look through, a replica attaches and acknowledges at once;
// on a primary it is refused.
func TestFlushBinlog(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p := mysqltest.Primary(t, 1, nodes...)
	ctx := mysqltest.Ctx(t, enough)
	before := nodes[1].Value("SELECT COUNT(*) FROM performance_schema.file_summary_by_instance WHERE FILE_NAME LIKE '%binlog.0%'")
	executed := nodes[1].MustStatus().Executed
	must(t, nodes[1].FlushBinlog(ctx))
	if after := nodes[1].Value("SELECT COUNT(*) FROM performance_schema.file_summary_by_instance WHERE FILE_NAME LIKE '%binlog.0%'"); after == before {
		t.Errorf("%s binary logs, as before", after)
	}
	if now := nodes[1].MustStatus().Executed; !now.Equal(executed) {
		t.Errorf("it made transactions: %s became %s", executed, now)
	}
	if err := p.FlushBinlog(ctx); !errors.Is(err, mysqlctl.ErrWaitingCommits) {
		t.Errorf("on a primary: %v", err)
	}
}

// Who is in the way is named, and a fence that gives up leaves the server open.
func TestBlockers(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p := mysqltest.Primary(t, 1, nodes...)
	ctx := mysqltest.Ctx(t, enough)
	p.Exec("CREATE TABLE app.big (i INT PRIMARY KEY)", "INSERT INTO app.big VALUES (1), (2), (3)", "CREATE TABLE app.held (i INT PRIMARY KEY)", "INSERT INTO app.held VALUES (1)")
	// An idle transaction that only read: an ALTER hangs behind it.
	idle, err := p.Root.Conn(ctx)
	must(t, err)
	defer idle.Close()
	for _, stmt := range []string{"BEGIN", "SELECT * FROM app.held"} {
		_, err := idle.ExecContext(ctx, stmt)
		must(t, err)
	}
	for _, tc := range []struct {
		name   string
		begin  []string
		hang   string // runs on
		want   string
		fenced bool
	}{
		{"idle", []string{"BEGIN", "INSERT INTO app.big VALUES (4)"}, "", "", true},
		{"idle reader", []string{"LOCK TABLES app.big READ"}, "", "", true},
		{"reads", nil, "SELECT SLEEP(3) FROM app.big", "", true},
		{"read lock", []string{"FLUSH TABLES WITH READ LOCK"}, "", "", true},
		{"lock tables", []string{"LOCK TABLES app.big WRITE"}, "", mysqlctl.BlockerTableLock, false},
		{"long update", nil, "UPDATE app.big SET i = i + 10 + SLEEP(3)", mysqlctl.BlockerStatement, false},
		{"locking read", nil, "SELECT i, SLEEP(3) FROM app.big FOR UPDATE", mysqlctl.BlockerStatement, false},
		{"ddl", nil, "CREATE TABLE app.slow SELECT i, SLEEP(3), 'secret' FROM app.big", mysqlctl.BlockerStatement, false},
		{"ddl that hangs itself", nil, "ALTER TABLE app.held ADD COLUMN c INT", mysqlctl.BlockerStatement, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := p.Root.Conn(ctx)
			must(t, err)
			defer c.Close()
			var id string
			must(t, c.QueryRowContext(ctx, "SELECT CONNECTION_ID()").Scan(&id))
			for _, stmt := range tc.begin {
				_, err := c.ExecContext(ctx, stmt)
				must(t, err)
			}
			hung := make(chan struct{})
			go func() {
				defer close(hung)
				if tc.hang != "" {
					_, _ = c.ExecContext(ctx, tc.hang)
				}
			}()
			if tc.hang != "" {
				mysqltest.Eventually(t, enough, "it runs", func() bool {
					return p.Value("SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_STATE IN ('User sleep', 'Waiting for table metadata lock')") == "1"
				})
			}
			short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			began := time.Now()
			err = p.Fence(short)
			cancel()
			if took := time.Since(began); (err == nil) != tc.fenced || took > time.Second {
				t.Errorf("fence: %v after %s", err, took)
			}
			bs, lookErr := p.Blockers(ctx)
			must(t, lookErr)
			switch {
			case tc.want == "" && len(bs) > 0, tc.want != "" && (len(bs) != 1 || bs[0].What != tc.want || !strings.HasPrefix(bs[0].User, "root@") || bs[0].For < 200*time.Millisecond && tc.hang != ""):
				t.Errorf("blockers %v, want %q", bs, tc.want)
			}
			for _, b := range bs {
				if t.Log(b); strings.Contains(b.String(), "secret") || len(b.Statement) > 80 {
					t.Errorf("told: %s", b)
				}
			}
			if ro := p.Value("SELECT @@global.super_read_only"); (ro == "1") != tc.fenced {
				t.Errorf("super_read_only is %s", ro)
			}
			if tc.fenced {
				must(t, p.OpenWrites(ctx))
			}
			p.Exec("KILL " + id) // its locks go with it
			<-hung
			mysqltest.Eventually(t, enough, "writes work", func() bool { return p.Insert(ctx, "after "+tc.name) == nil })
		})
	}
	_, err = nodes[1].SealReplica(ctx)
	must(t, err)
	p.InsertWaiting("waits")
	p.InsertWaiting("waits behind it")
	bs, err := p.Blockers(ctx)
	must(t, err)
	for _, b := range bs {
		if t.Log(b); b.What != mysqlctl.BlockerCommit || !strings.HasPrefix(b.User, mysqltest.AppUser) {
			t.Errorf("blocker %+v", b)
		}
	}
	if len(bs) != 2 {
		t.Errorf("blockers %v", bs)
	}
}
