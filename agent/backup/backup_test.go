package backup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/api"
	"ha/raftfsm"
	"ha/xtra"
)

func node(name, role string, lag float64, change func(*api.NodeStatus)) api.NodeStatus {
	n := api.NodeStatus{Name: name, Role: role, Agent: "up", Mysqld: raftfsm.MysqldRunning}
	if role == "replica" {
		n.LagSeconds = &lag
	}
	if change != nil {
		change(&n)
	}
	return n
}

func TestChoose(t *testing.T) {
	p, w := node("n1", "primary", 0, nil), node("w", "witness", 0, nil)
	for name, c := range map[string]struct {
		from, want string
		nodes      []api.NodeStatus
	}{
		"least lag":           {"best", "n3", []api.NodeStatus{p, node("n2", "replica", 2, nil), node("n3", "replica", 1, nil), w}},
		"not the primary":     {"", "n2", []api.NodeStatus{p, node("n2", "replica", 900, nil)}},
		"rebuilt":             {"best", "n3", []api.NodeStatus{p, node("n2", "replica", 0, func(n *api.NodeStatus) { n.Doing = "rebuild" }), node("n3", "replica", 5, nil)}},
		"busy, by name":       {"n2", "cannot give a backup now: it is being copied to n3", []api.NodeStatus{p, node("n2", "replica", 0, func(n *api.NodeStatus) { n.Doing = "is being copied to n3" })}},
		"agent down":          {"best", "n1", []api.NodeStatus{p, node("n2", "replica", 0, func(n *api.NodeStatus) { n.Agent = "down" })}},
		"does not replicate":  {"best", "n1", []api.NodeStatus{p, node("n2", "replica", 0, func(n *api.NodeStatus) { n.LagSeconds = nil })}},
		"by name":             {"n1", "n1", []api.NodeStatus{p, node("n2", "replica", 0, nil)}},
		"witness by name":     {"w", "HA-NO-DONOR", []api.NodeStatus{p, w}},
		"nobody of that name": {"n9", "no node", []api.NodeStatus{p}},
		"diverged":            {"best", "n3", []api.NodeStatus{p, node("errant", "replica", 0, nil), node("n3", "replica", 9, nil)}},
		"diverged, by name":   {"errant", "HA-NO-DONOR", []api.NodeStatus{p, node("errant", "replica", 0, nil)}},
		"nobody":              {"best", "HA-NO-DONOR", []api.NodeStatus{w}},
	} {
		t.Run(name, func(t *testing.T) {
			st := api.Status{Nodes: c.nodes, Issues: []api.Issue{{Code: "HA-LAG", Node: "n3"}, {Code: "HA-ERRANT", Node: "errant"}}}
			donor, why, err := Choose(st, c.from)
			got := donor.Name
			if e, ok := err.(*api.Error); ok { //nolint:errorlint // it is made there
				got = e.Word + " " + e.Error()
			}
			if !strings.Contains(got, c.want) || err == nil && why == "" {
				t.Errorf("%s: %s", got, why)
			}
		})
	}
}

// lay puts backups of one file each, the oldest first, into a directory.
func lay(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Join(path, xtra.BackupData), 0o750); err != nil {
			t.Fatal(err)
		}
		m := xtra.Manifest{Name: name, Cluster: "c", Began: time.Unix(int64(i), 0)}
		if strings.HasPrefix(name, "x-") {
			m.Cluster = "x"
		}
		if strings.HasPrefix(name, "broken") {
			m.Files = []xtra.File{{Path: "ibdata1", Size: 1}}
		}
		if err := xtra.WriteManifest(path, m); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDelete(t *testing.T) {
	for name, c := range map[string]struct {
		keep       int
		have, want string
	}{
		"older ones":           {2, "1 2 3", "2 3"},
		"by time, not by name": {1, "golden 1", "1"},
		"never the newest":     {0, "1 2", "2"},
		"broken do not count":  {1, "1 2 broken", "2 broken"},
		"leftovers":            {5, "1 backup-77.partial 20260301T080507Z-c.partial", "1"},
		"of somebody else":     {1, "1 x.partial backup-x.partial", "1 backup-x.partial x.partial"},
		"of two clusters":      {1, "1 2 x-1 x-2", "2 x-2"},
		"the last of one":      {1, "1 2 3 x-0", "3 x-0"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := lay(t, strings.Fields(c.have)...)
			if _, err := Delete(dir, c.keep); err != nil {
				t.Fatal(err)
			}
			entries, _ := os.ReadDir(dir)
			var left []string
			for _, e := range entries {
				left = append(left, e.Name())
			}
			if got := strings.Join(left, " "); got != c.want {
				t.Errorf("left %q, want %q", got, c.want)
			}
		})
	}
}

// What a running backup writes to is no leftover.
func TestDeleteLeavesWhatIsBeingMade(t *testing.T) {
	dir := lay(t, "1")
	path, release, err := makePartial(dir)
	if err != nil {
		t.Fatal(err)
	}
	deleted, err := Delete(dir, 1)
	if err != nil || len(deleted) != 0 {
		t.Errorf("%v, %v", deleted, err)
	}
	if list, err := List(dir); err != nil || list[1].State != "being made" {
		t.Errorf("%+v, %v", list, err)
	}
	release()
	if left, err := Leftovers(dir); err != nil || len(left) != 1 || filepath.Join(dir, left[0]) != path {
		t.Errorf("%v, %v", left, err)
	}
	if deleted, err = Delete(dir, 1); err != nil || len(deleted) != 1 {
		t.Errorf("%v, %v", deleted, err)
	}
	if err := unix.Access(path, unix.F_OK); err == nil {
		t.Error("it is still there")
	}
}

// Whoever looks for leftovers at that very moment keeps no backup from being begun.
func TestPartialIsMadeBesideWhoLooks(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	var looking sync.WaitGroup
	for range 4 {
		looking.Go(func() {
			for ctx.Err() == nil {
				if _, err := Delete(dir, 1); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Error(err)
				}
			}
		})
	}
	for range 200 {
		path, release, err := makePartial(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		release()
	}
	stop()
	looking.Wait()
}
