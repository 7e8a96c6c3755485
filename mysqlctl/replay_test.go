package mysqlctl_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/mysqlctl/mysqltest"
)

// A copy and the binary logs since give the rows as they were before a DROP TABLE, by
// its GTID and by its time, also where transactions are compressed or tagged; logs
// with one missing are refused, and a copy that is past that.
func TestReplay(t *testing.T) {
	p := mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...)
	ctx := mysqltest.Ctx(t, 3*time.Minute)
	insert := func(rows int) {
		t.Helper()
		for range rows {
			must(t, p.Insert(ctx, "row"))
		}
	}
	insert(20)
	have := p.MustStatus().Executed
	copies := make([]mysqlctl.Config, 3)
	for i := range copies {
		copies[i] = mysqltest.Config(t, t.TempDir())
		must(t, p.CloneLocal(ctx, copies[i].DataDir, nil))
		copies[i].ServerID = mysqlctl.ReplayServerID
		copies[i].Options = append(copies[i].Options, "--skip-networking", "--relay-log=relay-bin", "--relay-log-index=relay-bin.index")
	}
	insert(10)
	p.Exec("FLUSH BINARY LOGS", "SET gtid_next = 'AUTOMATIC:tagged'", "INSERT INTO app.t (v) VALUES ('tagged')", "SET gtid_next = 'AUTOMATIC'",
		"SET GLOBAL binlog_transaction_compression = ON", "CREATE TABLE app.other (id INT PRIMARY KEY)")
	insert(10)
	p.Exec("FLUSH BINARY LOGS")
	insert(7)
	before := p.MustStatus().Executed
	at := p.Value("SELECT NOW(6)")
	mysqltest.Eventually(t, 10*time.Second, "another moment", func() bool { return p.Value("SELECT NOW(6)") > at })
	p.Exec("DROP TABLE app.t")
	drop := p.MustStatus().Executed.Minus(before)
	p.Exec("INSERT INTO app.other VALUES (1)")
	logs, err := filepath.Glob(filepath.Join(p.Config.DataDir, "binlog.0*"))
	if err != nil || len(logs) < 3 {
		t.Fatal(logs, err)
	}
	moment, err := time.ParseInLocation("2006-01-02 15:04:05.999999", at, time.Local)
	must(t, err)

	_, err = mysqlctl.New(copies[2], nil).PrepareReplay(ctx, have, logs[len(logs)-1:], mysqlctl.Until{})
	mustBe(t, err, mysqlctl.ErrLogGap)
	for _, until := range []mysqlctl.Until{{GTID: have.Intersect(gtid.MustParse(have.UUIDs()[0] + ":1"))}, {Time: time.Unix(1, 0)}} {
		_, err = mysqlctl.New(copies[2], nil).PrepareReplay(ctx, have, logs, until)
		mustBe(t, err, mysqlctl.ErrPast)
	}
	nothing, err := mysqlctl.New(copies[2], nil).PrepareReplay(ctx, before, logs, mysqlctl.Until{GTID: drop})
	must(t, err)
	if nothing.Files != 0 || !nothing.Reached || !nothing.Set.Equal(before) {
		t.Errorf("where all is there: %+v", nothing)
	}

	// The last log was copied in part: what it lacks is left out, and that is said.
	torn := filepath.Join(t.TempDir(), filepath.Base(logs[len(logs)-1]))
	text, err := os.ReadFile(logs[len(logs)-1])
	must(t, err)
	must(t, os.WriteFile(torn, text[:len(text)-1], 0o600))
	part, err := mysqlctl.New(copies[2], nil).PrepareReplay(ctx, have, append(slices.Clone(logs[:len(logs)-1]), torn), mysqlctl.Until{})
	must(t, err)
	if all := p.MustStatus().Executed; part.Torn != filepath.Base(torn) || part.Set.Equal(all) || !all.Contains(part.Set) {
		t.Errorf("a log that is torn: %+v of %s", part, all)
	}

	for i, until := range []mysqlctl.Until{{GTID: drop}, {Time: moment}} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			n := mysqltest.Wrap(t, copies[i])
			r, err := n.PrepareReplay(ctx, have, logs, until)
			must(t, err)
			wantSet(t, "to be replayed", r.Set, before)
			if !r.Reached || r.Torn != "" {
				t.Errorf("the DROP was not found, or a log is torn: %+v", r)
			}
			must(t, n.Start(ctx))
			var left []uint64
			wantSet(t, "the copy", n.MustStatus().Executed, have)
			must(t, n.Replay(ctx, r.Set, time.Minute, func(n uint64) { left = append(left, n) }))
			st := n.MustStatus()
			wantSet(t, "replayed", st.Executed, before)
			if rows := n.Value("SELECT COUNT(*) FROM app.t"); rows != "48" || st.Replica != nil || !st.SuperReadOnly {
				t.Errorf("%s rows, %+v", rows, st)
			}
			if len(left) == 0 || left[len(left)-1] != 0 {
				t.Errorf("left were %d", left)
			}
			must(t, n.Stop(ctx))
		})
	}
}
