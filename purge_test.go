package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/sandbox"
)

// binlogs lists the binary logs of a node, the oldest first.
func (e *e2e) binlogs(node string) []string {
	e.Helper()
	found, err := filepath.Glob(filepath.Join(e.NodeDir(node), "data", "binlog.[0-9]*"))
	if err != nil || len(found) == 0 {
		e.Fatalf("binary logs of %s: %v, %v", node, found, err)
	}
	return found
}

// aged has a node begin a binary log and makes those before it as old as that.
func (e *e2e) aged(node string, age time.Duration) {
	e.Helper()
	if _, err := e.root(node).ExecContext(e.Context(), "FLUSH NO_WRITE_TO_BINLOG BINARY LOGS"); err != nil {
		e.Fatal(err)
	}
	files := e.binlogs(node)
	at := time.Now().Add(-age)
	for _, name := range files[:len(files)-1] {
		if err := os.Chtimes(name, at, at); err != nil {
			e.Fatal(err)
		}
	}
}

// Binary logs whose time is over are kept on primary and replicas for a member that is
// down, status says so, and go when it has caught up; then any of them can lead the
// others on.
func TestPurge(t *testing.T) {
	e := newE2E(t, "127.0.105.0")
	st := e.healthy()
	down := "n3"
	if st.Primary == down {
		down = "n2"
	}
	e.kill(down, sandbox.KillHost)
	e.grow(100)
	const age = 32 * 24 * time.Hour // of 30 days, and a weekend
	kept := map[string]string{}
	for _, n := range st.Nodes {
		if n.Name != down {
			files := e.binlogs(n.Name)
			kept[n.Name] = files[len(files)-1]
			e.aged(n.Name, age)
		}
	}
	e.grow(100)
	e.eventually(30*time.Second, "word of what is kept", func() (bool, string) {
		_, out := e.try("status")
		return strings.Count(out, "HA-BINLOGS-KEPT") >= 2 && strings.Contains(out, down+" lacks transactions in binlog."), out
	})
	for node, name := range kept {
		if _, err := os.Stat(name); err != nil {
			t.Errorf("%s has purged what %s lacks: %v", node, down, err)
		}
	}
	e.start(down)
	now := e.healthy()
	for node, name := range kept {
		e.eventually(40*time.Second, node+" purges "+name, func() (bool, string) {
			_, err := os.Stat(name)
			return os.IsNotExist(err), "it is there"
		})
	}
	e.eventually(30*time.Second, "nothing is kept", func() (bool, string) {
		_, out := e.try("status")
		return !strings.Contains(out, "HA-BINLOGS-KEPT"), out
	})
	if code, out := e.try("switchover", "--to", down); code != api.ExitOK {
		t.Fatalf("switchover from %s: exit %d\n%s", now.Primary, code, out)
	}
	e.grow(100)
	e.check()
}
