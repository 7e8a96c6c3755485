package main_test

import (
	"context"
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/sandbox"
)

// lost kills all nodes and deletes all that they had.
func (e *e2e) lost() {
	e.Helper()
	e.killAll()
	for _, n := range e.Nodes {
		e.forget(n.Name)
	}
}

// forget deletes a dead node's data and its agent's memory, as with its disk.
func (e *e2e) forget(node string) {
	e.Helper()
	left := []string{filepath.Join(e.NodeDir(node), "data"), filepath.Join(e.NodeDir(node), "agent")}
	marks, _ := filepath.Glob(filepath.Join(e.NodeDir(node), "mark-*"))
	for _, name := range append(left, marks...) {
		if err := os.RemoveAll(name); err != nil {
			e.Fatal(err)
		}
	}
}

// restore runs ha restore for a node.
func (e *e2e) restore(node, path string, more ...string) (int, string) {
	e.Helper()
	return e.local(append([]string{"restore", path, "--config", filepath.Join(e.NodeDir(node), "ha.toml")}, more...)...)
}

// number asks a server for one.
func (e *e2e) number(node, query string) (n int64) {
	e.Helper()
	dsn, err := e.DSN(node)
	if err != nil {
		e.Fatal(err)
	}
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		e.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(e.Context(), 10*time.Second)
	defer cancel()
	if err := db.QueryRowContext(ctx, query).Scan(&n); err != nil {
		e.Fatalf("%s on %s: %v", query, node, err)
	}
	return n
}

// nothingLeft sees that a restore that did not come about left nothing.
func (e *e2e) nothingLeft(node string) {
	e.Helper()
	left, _ := filepath.Glob(filepath.Join(e.NodeDir(node), "*.restore*"))
	if _, err := os.Stat(filepath.Join(e.NodeDir(node), "data")); err == nil || len(left) > 0 {
		e.Errorf("left of the restore of %s: data %v, %v", node, err == nil, left)
	}
}

// A backup that was taken under load, and the primary's binary logs, become a cluster
// again, as it was before a DROP TABLE: every acknowledged row is there, on every node.
func TestRestore(t *testing.T) {
	e := newE2E(t, "127.0.102.0")
	st := e.healthy()
	before := len(e.load.Acks())
	dir := filepath.Join(t.TempDir(), "backups")
	path, _ := e.taken(dir)
	acks := e.load.Stop()
	// Some rows come after the backup, and a mistake.
	e.exec(st.Primary, "CREATE TABLE app.precious (id INT PRIMARY KEY)", "INSERT INTO app.precious VALUES (1), (2), (3)")
	moment := time.Now()
	e.exec(st.Primary, "DROP TABLE app.precious")
	all := e.number(st.Primary, "SELECT COUNT(*) FROM app.load_rows")
	logs := t.TempDir()
	if out, err := exec.Command("sh", "-c", "cp "+filepath.Join(e.NodeDir(st.Primary), "data", "binlog.0*")+" "+logs).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	e.lost()

	ibd := filepath.Join(path, "data", "mysql.ibd")
	flip(t, ibd)
	if code, out := e.restore("n1", path); code != api.ExitRefused || !strings.Contains(out, "mysql.ibd differs") || !strings.Contains(out, "HA-BAD-BACKUP") {
		t.Errorf("a flipped bit: exit %d\n%s", code, out)
	}
	e.nothingLeft("n1")
	flip(t, ibd)

	data := filepath.Join(e.NodeDir("n1"), "data")
	if err := os.Mkdir(data, 0o750); err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(data, "mine")
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out := e.restore("n1", path); code != api.ExitRefused || !strings.Contains(out, "HA-NOT-EMPTY") {
		t.Errorf("data are there: exit %d\n%s", code, out)
	}
	if err := os.Remove(mine); err != nil {
		t.Fatal(err)
	}
	if code, out := e.restore("n1", path, "--binlogs", logs, "--until", "11111111-1111-1111-1111-111111111111:1"); code != api.ExitRefused || !strings.Contains(out, "HA-NOT-REACHED") {
		t.Errorf("until what never was: exit %d\n%s", code, out)
	}
	if code, out := e.restore("n1", path, "--binlogs", logs, "--until", moment.Add(-time.Hour).Format(time.RFC3339)); code != api.ExitRefused || !strings.Contains(out, "HA-TOO-LATE") {
		t.Errorf("until before the backup: exit %d\n%s", code, out)
	}
	if code, out := e.restore("n1", path, "--binlogs", logs, "--until", moment.Format(time.RFC3339Nano)); code != 0 {
		t.Fatalf("restore: exit %d\n%s", code, out)
	}
	if code, out := e.restore("n1", path); code != api.ExitRefused {
		t.Errorf("a second time: exit %d\n%s", code, out)
	}
	for _, n := range e.Nodes {
		e.start(n.Name)
	}
	now := e.healthy()
	if now.Cluster == st.Cluster || now.Primary != "n1" {
		t.Errorf("cluster %s became %s with primary %s", st.Cluster, now.Cluster, now.Primary)
	}
	if _, err := os.Stat(filepath.Join(data, "ha.restored")); err == nil {
		t.Error("a cluster could be founded on the data once more")
	}
	for _, n := range e.Nodes {
		e.eventually(30*time.Second, "the rows on "+n.Name, func() (bool, string) {
			got := e.number(n.Name, "SELECT COUNT(*) FROM app.load_rows")
			return got == all, strconv.FormatInt(got, 10)
		})
		if got := e.number(n.Name, "SELECT COUNT(*) FROM app.load_rows"); got != all || got < int64(len(acks)) {
			t.Errorf("%s has %d rows; there were %d, %d of them acknowledged", n.Name, got, all, len(acks))
		}
		if got := e.number(n.Name, "SELECT COUNT(*) FROM app.precious"); got != 3 {
			t.Errorf("%s has %d rows of the dropped table, not 3", n.Name, got)
		}
	}
	t.Logf("%d rows were acknowledged before the backup, %d at the end, %d are back on each node", before, len(acks), all)
}

// exec has a server do something.
func (e *e2e) exec(node string, statements ...string) {
	e.Helper()
	dsn, err := e.DSN(node)
	if err != nil {
		e.Fatal(err)
	}
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		e.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(e.Context(), 10*time.Second)
	defer cancel()
	for _, s := range statements {
		if _, err := db.ExecContext(ctx, s); err != nil {
			e.Fatalf("%s on %s: %v", s, node, err)
		}
	}
}

// flip changes one bit of a file; a second time it changes it back.
func flip(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	one := make([]byte, 1)
	if _, err := f.ReadAt(one, 1<<20); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 1
	if _, err := f.WriteAt(one, 1<<20); err != nil {
		t.Fatal(err)
	}
}

// A node whose data are gone comes back to its own cluster from a backup: nobody
// gives it a copy.
func TestRestoreMember(t *testing.T) {
	if os.Getenv("HA_COPIES") != "all" {
		t.Skip("HA_COPIES=all (make copies-all) asks for it")
	}
	e := newE2E(t, "127.0.103.0")
	node := "n3" // n1 has no join in its configuration: it would found
	if e.healthy().Primary == node {
		node = "n2"
	}
	path, _ := e.taken(filepath.Join(t.TempDir(), "backups"), "--from", node)
	e.kill(node, sandbox.KillHost)
	if code, out := e.restore(node, path); code != api.ExitRefused || !strings.Contains(out, "HA-NOT-EMPTY") {
		t.Errorf("the agent's memory is there: exit %d\n%s", code, out)
	}
	e.forget(node)
	if code, out := e.restore(node, path); code != 0 {
		t.Fatalf("restore: exit %d\n%s", code, out)
	}
	e.start(node)
	e.healthy()
	if code, out := e.try("events", "-n", "100"); code != 0 || strings.Contains(out, "rebuil") {
		t.Errorf("exit %d; it was not to be copied:\n%s", code, out)
	}
	e.check()
}
