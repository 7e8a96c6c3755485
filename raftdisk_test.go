package main_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/api"
	"ha/agent/raftnode"
	"ha/agent/sandbox"
	"ha/bench/load"
)

// The disk of the Raft store beside the primary is full: the primary stays, also
// when its agent is started again on that disk; status says what is wrong; its
// agent still obeys, so that a failover from it works; with room all is well.
func TestRaftDiskFullBesideThePrimary(t *testing.T) {
	e := newE2E(t, "127.0.77.0")
	before := e.healthy()
	dir := filepath.Join(e.NodeDir(before.Primary), "agent")

	// Its agent's data move to a small file system, within the lease.
	e.kill(before.Primary, sandbox.KillAgent)
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := os.CopyFS(dir, os.DirFS(dir+".old")); err != nil {
		t.Fatal(err)
	}
	e.start(before.Primary)
	if now := e.healthy(); now.Epoch != before.Epoch {
		t.Fatalf("epoch %d became %d before anything was full", before.Epoch, now.Epoch)
	}

	at := time.Now()
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); err == nil {
		t.Fatal("2 MB fit into 1 MB")
	}
	named := func() (api.Status, bool) {
		st := e.status()
		return st, slices.ContainsFunc(st.Issues, func(i api.Issue) bool { return i.Code == raftnode.CodeDisk && i.Node == before.Primary })
	}
	e.eventually(5*time.Second, "status says so", func() (bool, string) {
		st, ok := named()
		return ok && st.Health == api.HealthDegraded, string(st.Health)
	})
	e.eventually(20*time.Second, "twice the lease", func() (bool, string) { return time.Since(at) > 10*time.Second, "" })
	e.kill(before.Primary, sandbox.KillAgent)
	e.start(before.Primary)
	restarted := time.Now()
	e.eventually(20*time.Second, "twice the lease", func() (bool, string) { return time.Since(restarted) > 10*time.Second, "" })
	e.grow(50)
	st, still := named()
	t.Logf("longest gap in %v: %v", time.Since(at).Round(time.Second), load.Gap(e.load.Acks(), at, time.Now()).Round(time.Millisecond))
	if st.Epoch != before.Epoch || st.Primary != before.Primary || !still || st.Coordinator == before.Primary {
		t.Errorf("epoch %d with %s became %d with %s (coordinator %s, named: %v)", before.Epoch, before.Primary, st.Epoch, st.Primary, st.Coordinator, still)
	}

	at = time.Now()
	e.kill(before.Primary, sandbox.KillMysqld)
	first := e.takenOver(before.Primary, at, 20*time.Second)
	t.Logf("mysqld beside the full disk killed: %s took over after %v", first.Server, first.At.Sub(at).Round(time.Millisecond))
	e.grow(50)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if after := e.healthy(); after.Epoch != before.Epoch+1 {
		t.Errorf("epoch %d became %d", before.Epoch, after.Epoch)
	}
	text, err := os.ReadFile(e.AgentLog(before.Primary))
	if err != nil || !strings.Contains(string(text), "has room again") {
		t.Errorf("its log does not say that there is room again: %v", err)
	}
	e.check()
}
