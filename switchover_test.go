package main_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/bench/load"
)

// try runs the command line and gives its exit code and all that it said.
func (e *e2e) try(args ...string) (int, string) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, cmp.Or(e.client, e.Binary), append(args, "--addr", e.Nodes[0].Agent, "--config", e.ClientConfig())...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		e.Fatalf("ha %v: %v\n%s", args, err, out)
	}
	if exit != nil {
		return exit.ExitCode(), string(out)
	}
	return 0, string(out)
}

// Whatever holds up a switchover is named within its time, and the primary goes on
// in its epoch; told so, ha ends it.
func TestSwitchoverBlocked(t *testing.T) {
	e := newE2E(t, "127.0.76.0")
	for _, tc := range []struct {
		name  string
		begin []string
		hang  string // runs on
		code  int    // of the switchover that ends nothing
		says  string
	}{
		{"idle transaction", []string{"BEGIN", "INSERT INTO load_rows VALUES (-1, 1)"}, "", 0, ""},
		{"FLUSH TABLES WITH READ LOCK", []string{"FLUSH TABLES WITH READ LOCK"}, "", 0, ""},
		{"LOCK TABLES", []string{"LOCK TABLES held WRITE"}, "", api.ExitBusy, "LOCK TABLES"},
		{"long statement", nil, "UPDATE held SET i = i + 100 + SLEEP(20)", api.ExitBusy, "statement"},
		{"DDL", nil, "CREATE TABLE slow SELECT i, SLEEP(20) FROM held", api.ExitBusy, "statement"},
	} {
		st := e.healthy()
		ctx := t.Context()
		db := e.root(st.Primary)
		for _, stmt := range []string{"CREATE TABLE IF NOT EXISTS held (i INT PRIMARY KEY)", "DROP TABLE IF EXISTS slow", "REPLACE INTO held VALUES (1)"} {
			if _, err := db.ExecContext(ctx, stmt); err != nil {
				t.Fatal(err)
			}
		}
		c, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, stmt := range tc.begin {
			if _, err := c.ExecContext(ctx, stmt); err != nil {
				t.Fatalf("%s: %v", stmt, err)
			}
		}
		hung := make(chan struct{})
		go func() {
			defer close(hung)
			if tc.hang != "" {
				_, _ = c.ExecContext(ctx, tc.hang)
			}
		}()
		if tc.hang != "" {
			e.eventually(10*time.Second, "it runs", func() (bool, string) {
				var n int
				err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_STATE = 'User sleep'").Scan(&n)
				return err == nil && n > 0, fmt.Sprint(n, err)
			})
		}
		at := time.Now()
		code, said := e.try("switchover", "--timeout", "20s")
		took := time.Since(at)
		if tc.begin == nil || tc.code != 0 {
			e.grow(20)
		}
		gap := load.Gap(e.load.Acks(), at, time.Now())
		t.Logf("%s: exit %d after %s, clients waited %s: %s", tc.name, code, took.Round(10*time.Millisecond), gap.Round(time.Millisecond), strings.TrimSpace(said))
		if code != tc.code || !strings.Contains(said, tc.says) {
			t.Errorf("%s: exit %d, want %d and %q: %s", tc.name, code, tc.code, tc.says, said)
		}
		if now := e.status(); tc.code != 0 {
			if now.Epoch != st.Epoch || now.Primary != st.Primary || gap > 1500*time.Millisecond {
				t.Errorf("%s: epoch %d with %s became %d with %s, gap %s", tc.name, st.Epoch, st.Primary, now.Epoch, now.Primary, gap)
			}
			at = time.Now()
			if code, said := e.try("switchover", "--timeout", "20s", "--end-blockers"); code != 0 {
				t.Errorf("%s: with --end-blockers: exit %d: %s", tc.name, code, said)
			}
			e.grow(20)
			t.Logf("%s: with --end-blockers clients waited %s", tc.name, load.Gap(e.load.Acks(), at, time.Now()).Round(time.Millisecond))
		}
		if now := e.status(); now.Primary == st.Primary {
			t.Errorf("%s: %s is still the primary", tc.name, now.Primary)
		}
		c.Close()
		<-hung
	}
	e.check()
}

// Somebody dies between two steps of a switchover: it is done or given up, and
// nobody has lost a row.
func TestDeathInASwitchover(t *testing.T) {
	e, file := newFaulty(t, "127.0.77.0")
	steps := []string{"committed request", "stored ready", "done follow", "committed revoke", "stored seal", "done seal", "answered seal",
		"committed promote", "stored promote", "done promote", "committed settle",
		"stored ready host", "stored seal host", "done seal host", "stored promote host", "done promote host"}
	if os.Getenv("HA_FAULTS") != "all" {
		steps = []string{"committed request", "done seal", "committed promote", "stored promote host"}
	}
	for _, step := range steps {
		before := e.healthy()
		at := time.Now()
		arm(t, file, step)
		done := make(chan string, 1)
		go func() {
			code, said := e.try("switchover", "--timeout", "15s")
			done <- fmt.Sprintf("exit %d: %s", code, said)
		}()
		who := e.died(file, 20*time.Second)
		if who == "" {
			t.Errorf("%s: nobody came by", step)
		} else {
			e.start(who)
		}
		said := <-done
		e.grow(20)
		after := e.healthy()
		t.Logf("%s: %s died; %s to %s, epoch %d to %d, clients waited %s, %s", step, who, before.Primary, after.Primary, before.Epoch, after.Epoch,
			load.Gap(e.load.Acks(), at, time.Now()).Round(time.Millisecond), strings.ReplaceAll(strings.TrimSpace(said), "\n", " / "))
	}
	e.check()
}
