package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/api"
	"ha/agent/raftnode"
)

// smallDisk mounts a file system of 1 MB at dir.
func smallDisk(t *testing.T, dir string, more uintptr) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", more, "size=1m"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// The leader's disk becomes full: it hands leadership over before a commit fails,
// status names it, it goes on reporting (so that a primary beside it keeps its
// lease), and all is well again by itself when there is room.
func TestRaftDiskFull(t *testing.T) {
	addrs := []string{testAddr(t), testAddr(t), testAddr(t)}
	var agents []*runningAgent
	var dir string
	for i, name := range []string{"w1", "w2", "w3"} {
		cfg := witness(t, name, addrs[i], addrs[:min(i, 1)]...)
		if i == 0 {
			dir = cfg.DataDir
			smallDisk(t, dir, 0)
		}
		agents = append(agents, mustStart(t, cfg))
	}
	oneCluster(t, agents, 3)
	eventually(t, 10*time.Second, "w1 leads", func() (bool, string) { return agents[0].raft.IsLeader(), "" })

	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	filler.Close()
	issue := func(st api.Status) int {
		return slices.IndexFunc(st.Issues, func(i api.Issue) bool { return i.Code == raftnode.CodeDisk && i.Node == "w1" })
	}
	eventually(t, 10*time.Second, "another leads and w1 is named", func() (bool, string) {
		st, err := agents[1].Status(t.Context())
		return err == nil && !agents[0].raft.IsLeader() && st.Coordinator != "w1" && st.Coordinator != "" && issue(st) >= 0, st.Coordinator
	})
	eventually(t, 5*time.Second, "w1 says so too: it still knows whom to ask", func() (bool, string) {
		st, err := agents[0].Status(t.Context())
		return err == nil && st.Health != api.HealthOK && issue(st) >= 0 && st.Issues[issue(st)].Next != "", ""
	})
	// A busy machine may cost one election; a node that cannot vote may not cost one after the other.
	term, since := agents[1].raft.Term(), time.Now()
	eventually(t, 20*time.Second, "2 s without an election", func() (bool, string) {
		if now := agents[1].raft.Term(); now != term {
			term, since = now, time.Now()
		}
		return time.Since(since) > 2*time.Second, fmt.Sprintf("term %d for %s", term, time.Since(since))
	})
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "nothing is wrong any more", func() (bool, string) {
		st, err := agents[1].Status(t.Context())
		return err == nil && issue(st) < 0, ""
	})
}

// An agent whose Raft store cannot be written at all ends with a clear error,
// whether it finds that out while it runs or at its start.
func TestRaftDiskReadOnly(t *testing.T) {
	cfg := witness(t, "w1", testAddr(t))
	smallDisk(t, cfg.DataDir, 0)
	cfg.RuntimeDir = t.TempDir()
	a := mustStart(t, cfg)
	oneCluster(t, []*runningAgent{a}, 1)
	a.fail(errors.Join(raftnode.ErrDisk, errors.New("input/output error")))
	clear := func(err error) {
		t.Helper()
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.ExitFailed || e.Word != raftnode.CodeDisk || e.Hint == "" || !strings.Contains(e.Error(), "mysqld") {
			t.Errorf("ended with %v", err)
		}
	}
	clear(a.ended(t))
	if err := unix.Mount("", cfg.DataDir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	clear(mustStart(t, cfg).ended(t))
}

// A data dir that is put back from a backup is refused, also at the second try;
// what the hint says brings the node back under its old name.
func TestOldStore(t *testing.T) {
	addrs := []string{testAddr(t), testAddr(t), testAddr(t)}
	var agents []*runningAgent
	for i, name := range []string{"w1", "w2", "w3"} {
		cfg := witness(t, name, addrs[i], addrs[:min(i, 1)]...)
		cfg.RuntimeDir = t.TempDir()
		agents = append(agents, mustStart(t, cfg))
	}
	oneCluster(t, agents, 3)
	cfg := agents[2].cfg
	agents[2].halt(t)
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(cfg.DataDir)); err != nil {
		t.Fatal(err)
	}
	cfg.Zone = "elsewhere" // the group goes on: it notes this
	agents[2] = mustStart(t, cfg)
	eventually(t, 10*time.Second, "the zone known to w3", func() (bool, string) {
		s := agents[2].fsm.State()
		m, _ := s.MemberByName("w3")
		return m.Zone == cfg.Zone, m.Zone
	})
	old := agents[2].id
	agents[2].halt(t)
	if err := errors.Join(os.RemoveAll(cfg.DataDir), os.CopyFS(cfg.DataDir, os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		refused(t, mustStart(t, cfg).ended(t), api.ExitRefused, raftnode.CodeOldStore, cfg.RuntimeDir, "--join")
	}
	if err := os.RemoveAll(cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	agents[2] = mustStart(t, cfg)
	eventually(t, 30*time.Second, "w3 is back as another node", func() (bool, string) {
		s := agents[0].fsm.State()
		m, _ := s.MemberByName("w3")
		return m.ID != "" && m.ID != old && agents[2].node.Load() != nil, string(m.ID)
	})
}
