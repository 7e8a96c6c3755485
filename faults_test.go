package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ha/agent/sandbox"
	"ha/bench/stage"
)

// faultSteps are the steps between which a coordinator, a candidate or a replica
// dies while a failover is under way; with " host" its mysqld dies too.
var faultSteps = []string{
	"committed revoke", "sending seal", "stored seal", "done seal", "answered seal",
	"committed promote", "sending promote", "stored promote", "done promote", "answered promote",
	"stored follow", "done follow", "sending barrier", "stored barrier", "done barrier", "committed settle",
	"stored seal host", "done seal host", "stored promote host", "done promote host", "stored follow host", "stored barrier host", "done barrier host",
}

// newFaulty is a sandbox whose agents die where the file says.
func newFaulty(t *testing.T, base string) (*e2e, string) {
	t.Helper()
	if testing.Short() || os.Getenv("HA_MYSQLD") == "" {
		t.Skip("needs a mysqld: set HA_MYSQLD (make test does), and no -short")
	}
	binary := filepath.Join(t.TempDir(), "faulty")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./agent/sandbox/faulty")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	file := filepath.Join(t.TempDir(), "fault")
	t.Setenv("HA_FAULT_FILE", file)
	st, err := stage.Up(t.Context(), binary, base)
	if err != nil {
		t.Fatal(err)
	}
	return loaded(t, st), file
}

// arm names the next step to die at.
func arm(t *testing.T, file, step string) {
	t.Helper()
	_ = os.Remove(file + ".taken")
	if err := os.WriteFile(file+".new", []byte(step), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// died waits until somebody died there, and gives the node's name; empty: nobody
// came by.
func died(file string, bound time.Duration) string {
	for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if name, err := os.ReadFile(file + ".taken"); err == nil && !strings.Contains(string(name), " ") && len(name) > 0 {
			return string(name)
		}
	}
	_ = os.Remove(file)
	return ""
}

// The primary's mysqld is killed, and in the failover somebody else dies between
// two steps, alone or with his mysqld. Whoever coordinates then goes on: one
// primary, and no acknowledged row is lost. HA_FAULTS=all tries every step.
func TestDeathBetweenTwoSteps(t *testing.T) {
	e, file := newFaulty(t, "127.0.55.0")
	steps := faultSteps
	if os.Getenv("HA_FAULTS") != "all" { // a few of each kind
		steps = []string{"committed revoke", "answered seal", "committed promote", "stored promote host", "done follow", "done barrier"}
	}
	for _, step := range steps {
		before := e.healthy()
		at := time.Now()
		arm(t, file, step)
		e.kill(before.Primary, sandbox.KillMysqld)
		who := died(file, 15*time.Second)
		if who == "" {
			t.Errorf("%s: nobody came by", step)
		}
		since := time.Now()
		if who != "" {
			e.start(who)
		}
		e.grow(20)
		first := "nobody"
		for _, a := range e.load.Acks() {
			if a.At.After(at.Add(5*time.Millisecond)) && a.Server != before.Primary {
				first = a.Server + " after " + a.At.Sub(at).Round(time.Millisecond).String()
				break
			}
		}
		after := e.healthy()
		t.Logf("%s: %s died, %s took over; well again after %s, epoch %d", step, who, first, time.Since(since).Round(10*time.Millisecond), after.Epoch)
		if after.Epoch <= before.Epoch {
			t.Errorf("%s: epoch %d after %d", step, after.Epoch, before.Epoch)
		}
	}
	e.check()
}
