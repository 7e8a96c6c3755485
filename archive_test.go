package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/sandbox"
)

// archives has a node's agent keep binary logs in a directory, from now on.
func (e *e2e) archives(node, dir string) {
	e.Helper()
	f, err := os.OpenFile(filepath.Join(e.NodeDir(node), "ha.toml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		e.Fatal(err)
	}
	_, err = fmt.Fprintf(f, "\n[archive]\ndir = %q\n", dir)
	if err := f.Close(); err != nil {
		e.Fatal(err)
	}
	if err != nil {
		e.Fatal(err)
	}
	e.kill(node, sandbox.KillAgent)
	e.start(node)
}

// archived waits until status says that a node's archive holds what was committed then.
func (e *e2e) archived(node string, then time.Time) {
	e.Helper()
	e.eventually(30*time.Second, "the archive of "+node, func() (bool, string) {
		for _, n := range e.status().Nodes {
			if n.Name == node && n.Archived != nil {
				return !n.Archived.Before(then), n.Archived.String()
			}
		}
		return false, "nothing"
	})
}

// A replica's archive holds what was acknowledged before and after a failover: with a
// backup it brings all of it back, up to a DROP TABLE, when every host has lost all.
func TestArchive(t *testing.T) {
	e := newE2E(t, "127.0.104.0")
	st := e.healthy()
	keeper := "n3"
	if st.Primary == keeper {
		keeper = "n2"
	}
	archive := t.TempDir()
	e.archives(keeper, archive)
	path, _ := e.taken(filepath.Join(t.TempDir(), "backups"))
	before := int64(len(e.load.Acks()))
	e.grow(100)
	// A copy has none of the binary logs: they are archived before they go.
	if code, out := e.try("rebuild", "--node", keeper, "--from", "best"); code != api.ExitOK {
		t.Fatalf("rebuild: exit %d\n%s", code, out)
	}
	if out := e.ha("status"); strings.Contains(out, "HA-ARCHIVE-GAP") {
		t.Errorf("after a rebuild:\n%s", out)
	}
	e.eventually(40*time.Second, "the old data of "+keeper+" go", func() (bool, string) {
		left, _ := filepath.Glob(filepath.Join(e.NodeDir(keeper), "data.*"))
		return len(left) == 0, fmt.Sprint(left)
	})
	at := time.Now()
	e.kill(st.Primary, sandbox.KillMysqld)
	e.takenOver(st.Primary, at, 20*time.Second)
	e.kill(keeper, sandbox.KillAgent)
	e.grow(200)
	e.start(keeper)
	now := e.healthy()
	acks := int64(len(e.load.Stop()))
	e.exec(now.Primary, "CREATE TABLE app.precious (id INT PRIMARY KEY)", "INSERT INTO app.precious VALUES (1), (2), (3)")
	moment := time.Now()
	e.exec(now.Primary, "DROP TABLE app.precious")
	all := e.number(now.Primary, "SELECT COUNT(*) FROM app.load_rows")
	e.archived(keeper, moment)
	if out := e.ha("status"); !strings.Contains(out, "archived up to") {
		t.Errorf("status says nothing of the archive:\n%s", out)
	}
	e.lost()

	if code, out := e.restore("n1", path, "--binlogs", archive, "--until", moment.Format(time.RFC3339Nano)); code != api.ExitOK {
		t.Fatalf("restore: exit %d\n%s", code, out)
	}
	for _, n := range e.Nodes {
		e.start(n.Name)
	}
	e.healthy()
	for _, n := range e.Nodes {
		e.eventually(30*time.Second, "the rows on "+n.Name, func() (bool, string) {
			got := e.number(n.Name, "SELECT COUNT(*) FROM app.load_rows")
			return got == all && got >= acks, strconv.FormatInt(got, 10)
		})
		if got := e.number(n.Name, "SELECT COUNT(*) FROM app.precious"); got != 3 {
			t.Errorf("%s has %d rows of the dropped table, not 3", n.Name, got)
		}
	}
	// The archive still has the DROP, which this cluster has not.
	e.eventually(30*time.Second, "word of it in the status", func() (bool, string) {
		out := e.ha("status")
		return strings.Contains(out, "HA-ARCHIVE-DIVERGED"), out
	})
	t.Logf("%d rows were acknowledged before the backup, %d at the end; %d are back on each node", before, acks, all)
}
