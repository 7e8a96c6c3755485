package sandbox_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // the driver

	"ha/agent/api"
	"ha/agent/sandbox"
)

// These tests run the real binary with real servers, as a person would.

var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "ha-sandbox-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "ha")
		return m.Run()
	}())
}

// try is one sandbox of a test, with its own addresses and its own registry.
type try struct {
	t    *testing.T
	home string // XDG_STATE_HOME
	dir  string
	base string
}

// newTry skips where there is no mysqld, builds the binary once, and sees to it
// that nothing is left over.
func newTry(t *testing.T, base string) *try {
	t.Helper()
	if testing.Short() || os.Getenv("HA_MYSQLD") == "" {
		t.Skip("needs a mysqld: set HA_MYSQLD, and no -short")
	}
	if _, err := os.Stat(binary); err != nil {
		build := exec.Command("go", "build", "-o", binary, "ha")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
	}
	home, err := os.MkdirTemp("", "hat") // short: sockets are below it
	if err != nil {
		t.Fatal(err)
	}
	r := &try{t: t, home: home, dir: filepath.Join(home, "s"), base: base}
	t.Cleanup(func() { os.RemoveAll(home) })
	r.cleanUp()
	return r
}

// beside gives another sandbox of the same user.
func (r *try) beside(base string) *try {
	o := &try{t: r.t, home: r.home, dir: r.dir + "2", base: base}
	o.cleanUp()
	return o
}

func (r *try) cleanUp() {
	r.t.Cleanup(func() {
		if r.t.Failed() {
			logs, _ := filepath.Glob(r.dir + "/n*/agent.log")
			for _, l := range logs {
				text, _ := os.ReadFile(l)
				r.t.Logf("%s:\n%s", l, text[max(0, len(text)-4000):])
			}
		}
		s, err := sandbox.Open(r.dir)
		if err != nil {
			return
		}
		if err := s.Down(context.Background(), true, nil); err != nil {
			r.t.Errorf("clean up: %v", err)
		}
	})
}

// ha runs a command and returns its exit code.
func (r *try) ha(args ...string) (code int, stdout, stderr string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+r.home, "XDG_CONFIG_HOME="+r.home+"/config", "HA_CONFIG=")
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatalf("ha %v: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), talk.String()
}

// sandbox runs ha sandbox COMMAND --dir ... and wants the exit code.
func (r *try) sandbox(want int, command string, args ...string) (stdout, stderr string) {
	r.t.Helper()
	code, out, talk := r.ha(append([]string{"sandbox", command, "--dir", r.dir}, args...)...)
	if code != want {
		r.t.Fatalf("ha sandbox %s %v: exit code %d, want %d\n%s%s", command, args, code, want, out, talk)
	}
	return out, talk
}

func (r *try) up(args ...string) {
	r.t.Helper()
	r.sandbox(0, "up", append([]string{"--base-address", r.base}, args...)...)
}

// status asks at one address (empty: any).
func (r *try) status(addr string) (int, api.Status) {
	r.t.Helper()
	args := []string{"status", "-o", "json"}
	if addr != "" {
		args = append(args, "--addr", addr)
	}
	code, out, talk := r.ha(args...)
	var st api.Status
	if out != "" {
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			r.t.Fatalf("status: %v\n%s%s", err, out, talk)
		}
	}
	return code, st
}

// await polls until ha status has the exit code.
func (r *try) await(want int) api.Status {
	r.t.Helper()
	var code int
	var st api.Status
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if code, st = r.status(""); code == want {
			return st
		}
	}
	r.t.Fatalf("exit code of ha status is %d and does not become %d: %+v", code, want, st)
	return st
}

// awaitWell polls until all is as after up.
func (r *try) awaitWell() api.Status {
	r.t.Helper()
	s, err := sandbox.Open(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	st, err := s.AwaitHealthy(ctx, nil)
	if err != nil {
		r.t.Fatalf("not well again: %v", err)
	}
	return st
}

func (r *try) processes() int {
	s, err := sandbox.Open(r.dir)
	if err != nil {
		return 0
	}
	return len(s.PIDs("", ""))
}

func (r *try) exec(node, statement string) error {
	s, err := sandbox.Open(r.dir)
	if err != nil {
		return err
	}
	dsn, err := s.DSN(node)
	if err != nil {
		return err
	}
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = db.ExecContext(ctx, statement)
	return err
}

func other(st api.Status, not ...string) string {
	for _, n := range st.Nodes {
		if n.Role == "replica" && !strings.Contains(strings.Join(not, " "), n.Name) {
			return n.Name
		}
	}
	return ""
}

// The life of a sandbox: each exit code of status in its situation.
func TestLife(t *testing.T) {
	r := newTry(t, "127.0.41.0")
	began := time.Now()
	r.up()
	t.Logf("up in an empty directory: %.1f s", time.Since(began).Seconds())
	code, st := r.status("127.0.41.2:8801")
	if code != 0 || st.Health != api.HealthOK || len(st.Nodes) != 3 || st.Acks != 1 || len(st.AckSet) != 2 {
		t.Fatalf("exit code %d: %+v", code, st)
	}

	began = time.Now()
	r.up()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("up of what runs took %s", took)
	}
	r.sandbox(2, "up", "--nodes", "5")
	r.sandbox(0, "start", st.Primary)

	if err := r.exec(st.Primary, "CREATE TABLE t (i INT PRIMARY KEY)"); err != nil {
		t.Errorf("app cannot write: %v", err)
	}
	if err := r.exec(st.Primary, "SET GLOBAL super_read_only=ON"); err == nil {
		t.Error("app may set global variables")
	}
	if err := r.exec(other(st), "INSERT INTO t VALUES (1)"); err == nil {
		t.Error("app may write to a replica")
	}

	replica := other(st)
	r.sandbox(0, "kill", replica, "host")
	r.await(api.ExitDegraded)
	r.sandbox(0, "start", replica)
	r.awaitWell()
	r.sandbox(0, "kill", replica, "agent")
	r.await(api.ExitDegraded)
	r.sandbox(0, "start", replica)
	st = r.awaitWell()

	old := st.Primary
	r.sandbox(0, "kill", old, "mysqld")
	if st = r.awaitWell(); st.Primary == "" || st.Epoch < 2 {
		t.Errorf("after the primary's mysqld was killed: %+v", st)
	}
	old = st.Primary
	r.sandbox(0, "kill", old, "host")
	r.await(api.ExitNoPrimary)
	if st = r.await(api.ExitDegraded); st.Primary == old {
		t.Errorf("%s is dead and the primary", old)
	}
	r.sandbox(0, "start", old)
	r.awaitWell()
}

func TestAllAgentsKilled(t *testing.T) {
	r := newTry(t, "127.0.42.0")
	r.up()
	_, st := r.status("")
	for _, n := range st.Nodes {
		r.sandbox(0, "kill", n.Name, "agent")
	}
	code, out, talk := r.ha("status")
	if code != api.ExitUnreachable || out != "" {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	for _, n := range st.Nodes {
		if !strings.Contains(talk, n.Address) {
			t.Errorf("%s is not named: %s", n.Address, talk)
		}
	}
	r.sandbox(0, "start", "n2")
	if st := r.await(api.ExitNoQuorum); len(st.Issues) == 0 {
		t.Errorf("no issue: %+v", st)
	}
	r.sandbox(0, "start", "n1")
	r.sandbox(0, "start", "n3")
	r.awaitWell()

	r.sandbox(0, "down")
	if n := r.processes(); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	if code, _, _ := r.ha("status", "--addr", "127.0.42.1:8801"); code != api.ExitUnreachable {
		t.Errorf("exit code %d after down", code)
	}
	r.sandbox(0, "down")
	began := time.Now()
	r.up()
	t.Logf("up with data: %.1f s", time.Since(began).Seconds())
	r.sandbox(0, "down", "--purge")
	if _, err := os.Stat(r.dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
}

func TestWitness(t *testing.T) {
	r := newTry(t, "127.0.43.0")
	r.up("--nodes", "2", "--witnesses", "1")
	code, st := r.status("127.0.43.3")
	if code != 0 || st.Nodes[2].Role != "witness" || st.Nodes[2].MySQL != "" || len(st.AckSet) != 1 {
		t.Fatalf("exit code %d: %+v", code, st)
	}
	old := st.Primary
	r.sandbox(0, "kill", old, "host")
	if st = r.await(api.ExitDegraded); st.Primary == old {
		st = r.await(api.ExitNoPrimary)
		st = r.await(api.ExitDegraded)
	}
	if st.Primary == old || st.Primary == "" {
		t.Errorf("primary %q after %s died", st.Primary, old)
	}
	r.sandbox(0, "start", old)
	r.awaitWell()
	r.sandbox(2, "kill", "n3", "mysqld")
}

func TestSideBySide(t *testing.T) {
	a := newTry(t, "127.0.44.0")
	b := a.beside("127.0.45.0")
	a.up("--nodes", "1")
	b.up("--nodes", "1", "--port", "8811", "--mysql-port", "3316")
	if code, st := a.status("127.0.44.1"); code != 0 || st.Nodes[0].Address != "127.0.44.1:8801" {
		t.Errorf("exit code %d: %+v", code, st)
	}
	if code, st := a.status("127.0.45.1:8811"); code != 0 || st.Nodes[0].MySQL != "127.0.45.1:3316" {
		t.Errorf("exit code %d: %+v", code, st)
	}
	if code, _, talk := a.ha("status"); code != api.ExitUsage || !strings.Contains(talk, "2 sandboxes") {
		t.Errorf("exit code %d: %s", code, talk)
	}
	a.sandbox(0, "down")
	if a.processes() != 0 || b.processes() != 2 {
		t.Errorf("%d and %d processes", a.processes(), b.processes())
	}
	if code, st := b.status(""); code != 0 || st.Nodes[0].Address != "127.0.45.1:8811" {
		t.Errorf("the one that is left: exit code %d: %+v", code, st)
	}
}

func TestPortTaken(t *testing.T) {
	r := newTry(t, "127.0.46.0")
	l, err := net.Listen("tcp", "127.0.46.2:3306")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, talk := r.sandbox(1, "up", "--base-address", r.base)
	if !strings.Contains(talk, "127.0.46.2:3306 is taken") {
		t.Error(talk)
	}
	if n := r.processes(); n != 0 {
		t.Errorf("%d processes were started", n)
	}
}

func TestNoMysqld(t *testing.T) {
	r := newTry(t, "127.0.47.0")
	_, talk := r.sandbox(1, "up", "--mysqld", "/nonexistent/mysqld")
	if !strings.Contains(talk, "make deps") {
		t.Error(talk)
	}
}

// An interrupted up says that what it started goes on.
func TestInterrupt(t *testing.T) {
	r := newTry(t, "127.0.48.0")
	cmd := exec.Command(binary, "sandbox", "up", "--dir", r.dir, "--base-address", r.base)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+r.home)
	var talk bytes.Buffer
	cmd.Stderr = &talk
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(60 * time.Second); r.processes() < 3; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no agents")
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != api.ExitInterrupted || !strings.Contains(talk.String(), "keeps running") {
		t.Errorf("%v, exit code %d: %s", err, code, talk.String())
	}
	r.up()
}
