package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/backup"
	"ha/agent/sandbox"
	"ha/mysqlctl/gtid"
)

// local runs a command that asks no agent, and gives its exit code and all it said.
func (e *e2e) local(args ...string) (int, string) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.Binary, args...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		e.Fatalf("ha %v: %v\n%s", args, err, out)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// taken takes a backup into dir and gives its path.
func (e *e2e) taken(dir string, more ...string) (string, backup.Entry) {
	e.Helper()
	if code, out := e.try(append([]string{"backup", "--to", dir}, more...)...); code != 0 {
		e.Fatalf("backup: exit %d\n%s", code, out)
	}
	list := e.backups(dir)
	last := list[len(list)-1]
	if last.State != "whole" {
		e.Fatalf("the backup is %+v", last)
	}
	return filepath.Join(dir, last.Name), last
}

func (e *e2e) backups(dir string) []backup.Entry {
	e.Helper()
	list, err := backup.List(dir)
	if err != nil {
		e.Fatal(err)
	}
	return list
}

// noLeftover waits until no node has a copy of its data that was meant for a backup.
func (e *e2e) noLeftover() {
	e.Helper()
	e.eventually(30*time.Second, "the donors' copies are removed", func() (bool, string) {
		left, _ := filepath.Glob(filepath.Join(e.Sandbox.Dir, "*", "*.backup"))
		return len(left) == 0, strings.Join(left, " ")
	})
}

// A backup under load comes from a replica, holds what its manifest says, and clients
// see nothing of it. One flipped bit is found.
func TestBackup(t *testing.T) {
	e := newE2E(t, "127.0.100.0")
	st := e.healthy()
	dir := filepath.Join(t.TempDir(), "backups")
	before := e.load.Count()
	path, b := e.taken(dir)
	if b.Donor == st.Primary || b.Cluster != st.Cluster || b.Bytes == 0 {
		t.Errorf("%+v", b)
	}
	if e.load.Count() <= before {
		t.Error("nothing was written meanwhile")
	}
	set, err := gtid.Parse(b.Executed)
	if err != nil || set.Count() < uint64(before) { //nolint:gosec // not negative
		t.Errorf("%d rows were there, and the backup has %s (%v)", before, b.Executed, err)
	}
	e.noLeftover()
	if code, out := e.local("backup", "verify", path); code != 0 || !strings.Contains(out, "is whole") {
		t.Errorf("verify: exit %d\n%s", code, out)
	}
	if code, out := e.local("backup", "delete", dir, "--keep", "1"); code != 0 || !strings.Contains(out, "nothing to delete") {
		t.Errorf("delete: exit %d\n%s", code, out)
	}
	name := filepath.Join(path, "data", "mysql.ibd")
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	if _, err := f.ReadAt(one, 1<<20); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 1
	if _, err := f.WriteAt(one, 1<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if code, out := e.local("backup", "verify", path); code != api.ExitFailed || !strings.Contains(out, "mysql.ibd differs") {
		t.Errorf("verify of a flipped bit: exit %d\n%s", code, out)
	}
	if code, out := e.try("backup", "--to", dir, "--from", "n9"); code != api.ExitUsage {
		t.Errorf("from nobody: exit %d\n%s", code, out)
	}
	e.check()
}

// running is a backup that is being taken.
type running struct {
	e    *e2e
	cmd  *exec.Cmd
	said *bytes.Buffer
}

// begun begins a backup of n2 and returns when it says so: "copy", "prepare", "send".
// An agent that was just started may still be busy with what the last one left.
func (e *e2e) begun(dir, phase string) running {
	e.Helper()
	var r running
	e.eventually(30*time.Second, "a backup that comes to "+phase, func() (bool, string) {
		var ok bool
		r, ok = e.begin(dir, phase)
		return ok, r.said.String()
	})
	return r
}

func (e *e2e) begin(dir, phase string) (r running, ok bool) {
	e.Helper()
	r = running{e, exec.Command(e.Binary, "backup", "--to", dir, "--from", "n2", "--throttle", "1MB", "--addr", e.Nodes[0].Agent, "--config", e.ClientConfig()), &bytes.Buffer{}}
	pipe, err := r.cmd.StderrPipe()
	if err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { _ = r.cmd.Process.Kill() })
	for buf := make([]byte, 1024); !strings.Contains(r.said.String(), phase); {
		n, err := pipe.Read(buf)
		r.said.Write(buf[:n])
		if err != nil {
			if r.end() != api.ExitBusy {
				e.Fatalf("the backup ended before %q: %s", phase, r.said)
			}
			return r, false
		}
	}
	go func() { _, _ = io.Copy(io.Discard, pipe) }()
	return r, true
}

// end gives the exit code.
func (r running) end() int {
	r.e.Helper()
	done := make(chan struct{})
	go func() { _ = r.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		r.e.Fatal("the backup does not end")
	}
	return r.cmd.ProcessState.ExitCode()
}

// Whoever is killed in the middle, nothing is left under a good name nor on the donor.
func TestBackupInterrupted(t *testing.T) {
	e := newE2E(t, "127.0.101.0")
	dir := filepath.Join(t.TempDir(), "backups")
	if st := e.healthy(); st.Primary == "n2" {
		if code, out := e.try("switchover", "--to", "n1"); code != 0 {
			t.Fatal(out)
		}
	}
	for _, c := range []struct {
		name, phase string
		do          func(r running)
		code        int
	}{
		{"mysqld while it copies", "copy", func(running) { e.kill("n2", sandbox.KillMysqld) }, api.ExitFailed},
		{"agent while it prepares", "prepare", func(running) { e.kill("n2", sandbox.KillAgent); e.start("n2") }, api.ExitFailed},
		{"agent while it sends", "send", func(running) { e.kill("n2", sandbox.KillAgent); e.start("n2") }, api.ExitFailed},
		{"Ctrl-C", "send", func(r running) { _ = r.cmd.Process.Signal(os.Interrupt) }, api.ExitInterrupted},
		{"client", "send", func(r running) { _ = r.cmd.Process.Kill() }, -1},
	} {
		e.healthy()
		r := e.begun(dir, c.phase)
		c.do(r)
		if code := r.end(); code != c.code {
			t.Errorf("%s: exit %d, want %d", c.name, code, c.code)
		}
		for _, b := range e.backups(dir) {
			if c.name != "client" || b.State != "partial" {
				t.Errorf("%s: left is %+v", c.name, b)
			}
		}
		e.noLeftover()
	}
	// What the killed client left is told, and goes when it is asked for.
	if _, out := e.try("backup", "--to", dir); !strings.Contains(out, "is left of an interrupted backup") {
		t.Errorf("the leftover is not told:\n%s", out)
	}
	if code, out := e.local("backup", "delete", dir, "--keep", "1"); code != 0 || !strings.Contains(out, "never finished") {
		t.Errorf("delete: exit %d\n%s", code, out)
	}
	if list := e.backups(dir); len(list) != 1 || list[0].State != "whole" {
		t.Errorf("kept are %+v", list)
	}
	text, err := json.Marshal(e.backups(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", text)
	e.check()
}
