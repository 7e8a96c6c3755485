package mysqlctl_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/mysqlctl/mysqltest"
)

// pair is a primary and its only acker, which change places with each cut.
type pair struct {
	p, r *mysqltest.Node
}

// waits runs a statement, each in a session of its own, that will not be
// acknowledged, and returns when it waits.
func waits(t *testing.T, n *mysqltest.Node, statements ...string) {
	t.Helper()
	want := n.MustStatus().Waiting + 1
	c, err := n.Root.Conn(t.Context())
	must(t, err)
	go func() {
		defer c.Close()
		for _, s := range statements {
			if _, err := c.ExecContext(context.Background(), s); mysqltest.ErrorNumber(err) != 0 {
				t.Errorf("%s: %v", s, err)
				return
			}
		}
	}()
	last := statements[len(statements)-1]
	for end := time.Now().Add(10 * time.Second); n.MustStatus().Waiting != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not wait: %s", last, n.Rows("SELECT PROCESSLIST_STATE, PROCESSLIST_INFO FROM performance_schema.threads WHERE PROCESSLIST_STATE IS NOT NULL AND PROCESSLIST_INFO IS NOT NULL"))
		}
	}
}

// transactionsIn counts the GTID events in the last binary log; -1 while the last
// transaction is being written.
func transactionsIn(t *testing.T, n *mysqltest.Node) int {
	t.Helper()
	f, err := os.Open(lastBinlog(t, n))
	must(t, err)
	defer f.Close()
	st, err := f.Stat()
	must(t, err)
	var h [19]byte
	count, end := 0, true
	off := int64(4)
	for ; off < st.Size(); off += int64(binary.LittleEndian.Uint32(h[9:])) {
		if _, err := f.ReadAt(h[:], off); err != nil {
			return -1
		}
		switch h[4] {
		case 33, 42: // GTID
			count++
			end = false
		case 2, 16, 38, 40: // Query, Xid, XA prepare, payload
			end = true
		}
	}
	if off != st.Size() || !end {
		return -1
	}
	return count
}

// crash seals the acker, lets commits wait on the primary, and kills it when they are
// in its binary log.
func (x *pair) crash(t *testing.T, transactions int, wait func(p *mysqltest.Node)) {
	t.Helper()
	ctx := mysqltest.Ctx(t, enough)
	mysqltest.CaughtUp(t, x.p, x.r)
	_, err := x.r.SealReplica(ctx)
	must(t, err)
	want := transactionsIn(t, x.p) + transactions
	wait(x.p)
	mysqltest.Eventually(t, enough, "all is in the log", func() bool { return transactionsIn(t, x.p) == want })
	must(t, x.p.Kill(ctx))
}

// again makes both what they were, for a primary that was not cut.
func (x *pair) again(t *testing.T) {
	t.Helper()
	ctx := mysqltest.Ctx(t, enough)
	if !x.p.Alive() {
		must(t, x.p.Start(ctx))
	}
	must(t, x.p.OpenWrites(ctx))
	must(t, x.r.Follow(ctx, x.p.Source(), true))
	must(t, x.p.ConfigureSource(ctx, 1))
	mysqltest.CaughtUp(t, x.p, x.r)
}

// promote makes the acker the primary, which writes on.
func (x *pair) promote(t *testing.T) {
	t.Helper()
	ctx := mysqltest.Ctx(t, enough)
	_, err := x.r.Drain(ctx)
	must(t, err)
	must(t, x.r.ResetReplica(ctx))
	must(t, x.r.OpenWrites(ctx))
	must(t, x.r.Insert(ctx, "the new primary goes on"))
}

// rejoin cuts the dead primary, starts it and lets it follow the new one.
func (x *pair) rejoin(t *testing.T, transactions int) mysqlctl.Cut {
	t.Helper()
	ctx := mysqltest.Ctx(t, enough)
	keep := x.r.MustStatus().Executed
	tail := offline(t, x.p).Minus(keep)
	old, err := x.p.ServerUUIDOnDisk()
	must(t, err)
	start := time.Now()
	cut, err := x.p.CutTail(ctx, keep)
	took := time.Since(start)
	must(t, err)
	t.Logf("cut %d transactions, %d bytes: %s", cut.Transactions, cut.Bytes, took)
	wantSet(t, "removed", cut.Removed, tail)
	if cut.Transactions != transactions || cut.Removed.Count() != uint64(transactions) {
		t.Errorf("%d transactions removed, %s, want %d", cut.Transactions, cut.Removed, transactions)
	}
	if set := offline(t, x.p); !keep.Contains(set) {
		t.Errorf("after the cut %s is left", set.Minus(keep))
	}
	repeated, err := x.p.CutTail(ctx, keep)
	if err != nil || !repeated.Removed.IsEmpty() {
		t.Errorf("a second cut: %+v, %v", repeated, err)
	}
	must(t, x.p.Start(ctx))
	st := x.p.MustStatus()
	if !keep.Contains(st.Executed) {
		t.Errorf("started with %s, which was cut", st.Executed.Minus(keep))
	}
	if (st.ServerUUID == old) != (transactions == 0) {
		t.Errorf("server_uuid was %s and is %s", old, st.ServerUUID)
	}
	must(t, x.p.Follow(ctx, x.r.Source(), true))
	mysqltest.CaughtUp(t, x.r, x.p)
	wantSet(t, "both", x.p.MustStatus().Executed, x.r.MustStatus().Executed)
	sameTables(t, x.r, x.p)
	x.p, x.r = x.r, x.p
	must(t, x.p.ConfigureSource(ctx, 1))
	return cut
}

// sameTables compares the definitions and rows of all tables of app, and the accounts.
func sameTables(t *testing.T, a, b *mysqltest.Node) {
	t.Helper()
	ask := func(query string) string {
		t.Helper()
		rows := a.Rows(query)
		if other := b.Rows(query); rows != other {
			t.Errorf("%s:\n%s\n%s", query, rows, other)
		}
		return rows
	}
	// Numbers that were given out are not taken back.
	columns := "SELECT COLUMN_NAME, COLUMN_TYPE, COLUMN_KEY FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = 'app' ORDER BY TABLE_NAME, ORDINAL_POSITION"
	ask(columns)
	ask("SELECT User, Host FROM mysql.user ORDER BY 1, 2")
	ask("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA ORDER BY 1")
	for _, table := range strings.Fields(ask("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'app' ORDER BY 1")) {
		if count := a.Value("SELECT COUNT(*) FROM app." + table); count < "9999" || len(count) < 4 {
			ask("SELECT * FROM app." + table + " ORDER BY 1")
		}
	}
}

// Rule R9 on real servers: a primary with commits that wait is killed, its acker goes
// on as the primary, and the dead one is cut and follows.
func TestCutTailRejoins(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	mysqltest.Primary(t, 1, nodes...)
	x := &pair{nodes[0], nodes[1]}
	ctx := mysqltest.Ctx(t, 3*time.Minute)
	// many lets n sessions commit at a time.
	many := func(n int) func(*testing.T, *mysqltest.Node) {
		return func(t *testing.T, p *mysqltest.Node) {
			for range n {
				go func() { _ = p.Insert(context.Background(), "one of many") }()
			}
			mysqltest.Eventually(t, time.Minute, fmt.Sprint(n, " wait"), func() bool { return p.MustStatus().Waiting == n })
		}
	}
	rows := func(n int) string {
		return fmt.Sprintf("INSERT INTO app.t (v) WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < %d) SELECT REPEAT(n %% 10, 2000) FROM r", n)
	}
	prepared := func(name string) func(*testing.T, *mysqltest.Node) {
		return func(t *testing.T, n *mysqltest.Node) {
			if got := n.Rows("XA RECOVER"); !strings.Contains(got, name) || name == "" && got != "" {
				t.Errorf("prepared: %s", got)
			}
		}
	}
	for _, c := range []struct {
		name         string
		acked        []string // before, on the primary
		wait         func(t *testing.T, p *mysqltest.Node)
		transactions int
		look         func(t *testing.T, n *mysqltest.Node) // at the rejoined one
	}{
		{name: "nothing", wait: func(*testing.T, *mysqltest.Node) {}},
		{name: "one", wait: func(t *testing.T, p *mysqltest.Node) { p.InsertWaiting("doomed") }, transactions: 1, look: func(t *testing.T, n *mysqltest.Node) {
			if got := n.Value("SELECT COUNT(*) FROM app.t WHERE v = 'doomed'"); got != "0" {
				t.Errorf("%s rows are doomed and there", got)
			}
		}},
		{name: "a thousand", acked: []string{"SET GLOBAL max_connections = 1200"}, wait: many(1000), transactions: 1000},
		{name: "a group of 200",
			acked: []string{"SET GLOBAL max_connections = 300", "SET GLOBAL binlog_group_commit_sync_delay = 1000000", "SET GLOBAL binlog_group_commit_sync_no_delay_count = 200"},
			wait:  many(200), transactions: 200},
		{name: "40 MB", wait: func(t *testing.T, p *mysqltest.Node) {
			waits(t, p, "SET cte_max_recursion_depth = 100000", rows(20000))
		}, transactions: 1},
		{name: "compressed", wait: func(t *testing.T, p *mysqltest.Node) {
			waits(t, p, "SET binlog_transaction_compression = ON", "SET cte_max_recursion_depth = 100000", rows(3000))
			waits(t, p, "SET binlog_transaction_compression = ON", "INSERT INTO app.t (v) VALUES ('small, and packed')")
		}, transactions: 2},
		{name: "DDL", acked: []string{"CREATE TABLE app.dropped (id INT PRIMARY KEY)", "INSERT INTO app.dropped VALUES (1)", "CREATE TABLE app.altered (id INT PRIMARY KEY)",
			"CREATE TABLE app.copied (id INT PRIMARY KEY)", "INSERT INTO app.copied VALUES (1)", "CREATE TABLE app.emptied (id INT PRIMARY KEY)", "INSERT INTO app.emptied VALUES (1)",
			"CREATE TABLE app.renamed (id INT PRIMARY KEY)"},
			wait: func(t *testing.T, p *mysqltest.Node) {
				waits(t, p, "CREATE TABLE app.made (id INT PRIMARY KEY)")
				waits(t, p, "DROP TABLE app.dropped")
				waits(t, p, "ALTER TABLE app.altered ADD COLUMN c INT")
				waits(t, p, "ALTER TABLE app.copied ADD COLUMN c INT, ALGORITHM = COPY")
				waits(t, p, "TRUNCATE TABLE app.emptied")
				waits(t, p, "RENAME TABLE app.renamed TO app.another")
				waits(t, p, "CREATE VIEW app.seen AS SELECT 1")
				waits(t, p, "CREATE TABLE app.selected AS SELECT 1 AS one")
			}, transactions: 8, look: func(t *testing.T, n *mysqltest.Node) {
				if got := n.Value("SELECT (SELECT COUNT(*) FROM app.dropped) + (SELECT COUNT(*) FROM app.emptied)"); got != "2" {
					t.Errorf("%s rows of 2 came back", got)
				}
				for _, name := range []string{"made", "another", "selected"} {
					if _, err := os.Stat(filepath.Join(n.Config.DataDir, "app", name+".ibd")); err == nil {
						t.Errorf("%s.ibd was left behind", name)
					}
				}
			}},
		{name: "accounts", wait: func(t *testing.T, p *mysqltest.Node) { waits(t, p, "CREATE USER doomed IDENTIFIED BY 'x'") }, transactions: 1},
		// One at a time: a second XA PREPARE stands in "starting" behind the first.
		{name: "XA", acked: []string{"CREATE TABLE app.xa (id INT PRIMARY KEY)"},
			wait: func(t *testing.T, p *mysqltest.Node) {
				waits(t, p, "XA START 'doomed'", "INSERT INTO app.xa VALUES (1)", "XA END 'doomed'", "XA PREPARE 'doomed'")
			}, transactions: 1, look: prepared("")},
		{name: "XA packed",
			wait: func(t *testing.T, p *mysqltest.Node) {
				waits(t, p, "SET binlog_transaction_compression = ON", "XA START 'packed'", "INSERT INTO app.xa VALUES (2)", "XA END 'packed'", "XA PREPARE 'packed'")
			}, transactions: 1, look: prepared("")},
		{name: "XA COMMIT", acked: []string{"XA START 'old'", "INSERT INTO app.xa VALUES (3)", "XA END 'old'", "XA PREPARE 'old'"},
			wait: func(t *testing.T, p *mysqltest.Node) { waits(t, p, "XA COMMIT 'old'") }, transactions: 1, look: prepared("old")},
		{name: "XA ROLLBACK",
			wait: func(t *testing.T, p *mysqltest.Node) { waits(t, p, "XA ROLLBACK 'old'") }, transactions: 1, look: prepared("old")},
		{name: "databases", acked: []string{"CREATE DATABASE filled", "CREATE TABLE filled.t (id INT PRIMARY KEY)"},
			wait: func(t *testing.T, p *mysqltest.Node) {
				waits(t, p, "CREATE DATABASE made")
				waits(t, p, "DROP DATABASE filled")
			}, transactions: 2, look: func(t *testing.T, n *mysqltest.Node) {
				if got := n.Value("SELECT COUNT(*) FROM filled.t"); got != "0" {
					t.Errorf("%s rows", got)
				}
				if _, err := os.Stat(filepath.Join(n.Config.DataDir, "made")); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("a directory was left behind: %v", err)
				}
			}},
	} {
		ok := t.Run(c.name, func(t *testing.T) {
			x.p.Exec(c.acked...)
			x.crash(t, c.transactions, func(p *mysqltest.Node) { c.wait(t, p) })
			x.promote(t)
			cut := x.rejoin(t, c.transactions)
			if c.look != nil {
				c.look(t, x.r)
			}
			if c.transactions > 0 && !bytes.HasPrefix(readFile(t, cut.Copy), []byte("\xfebin")) {
				t.Error("the copy is no binary log")
			}
		})
		if !ok {
			return
		}
	}
	must(t, x.p.Insert(ctx, "acknowledged by the last one that was cut"))
	for _, n := range nodes {
		copies, err := filepath.Glob(filepath.Join(n.Config.DataDir, ".ha_cut.*"))
		if err != nil || len(copies) > 2 {
			t.Errorf("copies %q, %v", copies, err)
		}
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	must(t, err)
	return text
}

// What a cut would not undo is not cut, and the start shows it.
func TestCutTailRefuses(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p := mysqltest.Primary(t, 1, nodes...)
	x := &pair{nodes[0], nodes[1]}
	ctx := mysqltest.Ctx(t, 3*time.Minute)
	_, err := p.CutTail(ctx, p.MustStatus().Executed)
	mustBe(t, err, mysqlctl.ErrRunning)
	_, err = mysqlctl.New(p.Config, nil).CutTail(ctx, p.MustStatus().Executed) // that has not adopted it
	mustBe(t, err, mysqlctl.ErrRunning)

	// refuses checks that nothing is touched.
	refuses := func(t *testing.T, keep gtid.Set, why string) {
		t.Helper()
		before := everything(t, p)
		cut, err := p.CutTail(ctx, keep)
		mustBe(t, err, mysqlctl.ErrNoCut)
		if !strings.Contains(err.Error(), why) || !cut.Removed.IsEmpty() {
			t.Errorf("%+v, %v, want %q", cut, err, why)
		}
		if after := everything(t, p); after != before {
			t.Errorf("touched:\n%s\n%s", before, after)
		}
	}
	diverged := func(t *testing.T, keep gtid.Set) {
		t.Helper()
		must(t, p.Start(ctx))
		if keep.Contains(p.MustStatus().Executed) {
			t.Error("the divergence cannot be seen")
		}
	}
	t.Run("rows without transactions", func(t *testing.T) {
		p.Exec("CREATE TABLE app.m (id INT PRIMARY KEY) ENGINE = MyISAM")
		x.crash(t, 2, func(p *mysqltest.Node) {
			p.InsertWaiting("before it")
			waits(t, p, "INSERT INTO app.m VALUES (1)")
		})
		keep := x.r.MustStatus().Executed
		refuses(t, keep, "COMMIT")
		diverged(t, keep)
		x.again(t)
	})
	t.Run("a table without transactions is made", func(t *testing.T) {
		x.crash(t, 1, func(p *mysqltest.Node) { waits(t, p, "CREATE TABLE app.m2 (id INT PRIMARY KEY) ENGINE = MyISAM") })
		refuses(t, x.r.MustStatus().Executed, "CREATE")
		x.again(t)
	})
	t.Run("files", func(t *testing.T) {
		x.crash(t, 1, func(p *mysqltest.Node) { p.InsertWaiting("doomed") })
		keep := x.r.MustStatus().Executed
		refuses(t, gtid.Set{}, "empty")
		refuses(t, gtid.MustParse("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:1"), "executed")
		name := lastBinlog(t, p)
		good := readFile(t, name)
		for what, bad := range map[string][]byte{
			"encrypted": append([]byte{0xfd}, good[1:]...),
			"closed":    append(append(append([]byte(nil), good[:21]...), 0), good[22:]...),
			"bit rot":   append(append(append([]byte(nil), good[:len(good)-40]...), good[len(good)-40]^1), good[len(good)-39:]...),
			"replaced":  []byte("nothing that mysqld has written"),
		} {
			must(t, os.WriteFile(name, bad, 0o600))
			why := "not readable"
			if what == "closed" {
				why = "closed"
			}
			t.Log(what)
			refuses(t, keep, why)
		}
		must(t, os.WriteFile(name, good, 0o600))
		index := p.Config.DataDir + "/binlog.index"
		listed := readFile(t, index)
		must(t, os.WriteFile(index, append(listed, "./binlog.000999\n"...), 0o600))
		refuses(t, keep, "binlog.000999")
		must(t, os.WriteFile(index, listed, 0o600))
		// The base: without it nobody knows what is committed.
		base := filepath.Join(p.Config.DataDir, ".ha_gtid_base")
		must(t, os.Rename(base, base+".away"))
		refuses(t, keep, "started")
		must(t, os.Rename(base+".away", base))
	})
	t.Run("recovery has run", func(t *testing.T) {
		keep := x.r.MustStatus().Executed
		diverged(t, keep)
		must(t, p.Kill(ctx))
		refuses(t, keep, "executed")
		// Nor where ha does not know that start.
		base := filepath.Join(p.Config.DataDir, ".ha_gtid_base")
		text := readFile(t, base)
		older, _, _ := bytes.Cut(text, []byte(`"executed":`))
		must(t, os.WriteFile(base, fmt.Appendf(nil, `%s"executed":%q}`, older, keep), 0o600))
		refuses(t, keep, "earlier logs")
		must(t, os.WriteFile(base, text, 0o600))
		x.again(t)
	})
}

// everything sums up the files of a data directory.
func everything(t *testing.T, n *mysqltest.Node) string {
	t.Helper()
	var all strings.Builder
	must(t, filepath.WalkDir(n.Config.DataDir, func(name string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		st, err := e.Info()
		fmt.Fprintln(&all, name, st.Size(), st.ModTime())
		return err
	}))
	return all.String()
}

// A power loss may end the cut anywhere; whoever comes next ends in the same state.
func TestCutTailInterrupted(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p := mysqltest.Primary(t, 1, nodes...)
	x := &pair{nodes[0], nodes[1]}
	ctx := mysqltest.Ctx(t, time.Minute)
	x.crash(t, 2, func(p *mysqltest.Node) { p.InsertWaiting("doomed"); p.InsertWaiting("and so is this") })
	x.promote(t)
	keep := x.r.MustStatus().Executed
	name := lastBinlog(t, p)
	whole := readFile(t, name)

	canceled, cancel := context.WithCancel(ctx)
	cancel()
	_, err := p.CutTail(canceled, keep)
	mustBe(t, err, context.Canceled)
	// The copy was begun.
	must(t, os.WriteFile(filepath.Join(p.Config.DataDir, ".ha_cut.binlog.000001.1.new"), []byte("half"), 0o600))
	// The uuid was removed, and nothing cut.
	must(t, os.Remove(filepath.Join(p.Config.DataDir, "auto.cnf")))
	first, err := p.CutTail(ctx, keep)
	must(t, err)
	if first.Transactions != 2 {
		t.Errorf("cut %+v", first)
	}
	cut := readFile(t, name)
	if int64(len(whole)-len(cut)) != first.Bytes || !bytes.HasPrefix(whole, cut) || !bytes.HasSuffix(readFile(t, first.Copy), whole[len(cut):]) {
		t.Error("the copy is not what was cut")
	}
	// The truncated length was lost again, the rest not.
	must(t, os.WriteFile(name, whole, 0o600))
	second, err := p.CutTail(ctx, keep)
	must(t, err)
	if second.Transactions != 2 || second.Copy != first.Copy || !bytes.Equal(readFile(t, name), cut) {
		t.Errorf("cut %+v", second)
	}
	// Half a transaction behind what is cut goes with it; alone it is mysqld's.
	must(t, os.WriteFile(name, whole[:len(whole)-10], 0o600))
	torn, err := p.CutTail(ctx, keep)
	must(t, err)
	if torn.Transactions != 1 || !torn.Torn || !bytes.Equal(readFile(t, name), cut) {
		t.Errorf("cut %+v", torn)
	}
	must(t, os.WriteFile(name, whole[:len(cut)+200], 0o600))
	alone, err := p.CutTail(ctx, keep)
	must(t, err)
	if !alone.Removed.IsEmpty() {
		t.Errorf("cut %+v", alone)
	}
	must(t, p.Start(ctx))
	must(t, p.Follow(ctx, x.r.Source(), true))
	mysqltest.CaughtUp(t, x.r, p)
	sameTables(t, x.r, p)
}
