package main_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"ha/agent/api"
	"ha/agent/sandbox"
	"ha/bench/load"
)

// replicationFaults are those of receivers and appliers, and of commits that wait.
var replicationFaults = []fault{
	{"an ack is dropped on a quiet system", func(e *e2e, st api.Status) {
		// What was received by one that does not acknowledge is not acknowledged when
		// it does again: the commit waits for somebody else's.
		row, answer, held := e.unacknowledged(st)
		began := time.Now()
		select {
		case err := <-answer:
			if err != nil {
				e.Errorf("a commit whose ack was lost: %v", err)
			}
		case <-time.After(3 * time.Second): // sooner than the load gives up its commit and writes another one
			e.Errorf("a commit whose ack was lost still waits, row %d", row)
		}
		e.Logf("held by both replicas after %s, acknowledged %s after they acknowledge again", held.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	}, stays},
	{"SQL threads stopped on all replicas, and the primary dies", func(e *e2e, st api.Status) {
		for _, r := range replicasOf(st) {
			e.asRoot(r, "STOP REPLICA SQL_THREAD")
		}
		e.grow(20) // which nobody applies
		at := time.Now()
		e.kill(st.Primary, sandbox.KillMysqld)
		e.takenOver(st.Primary, at, 20*time.Second)
	}, moved},
	{"appliers of all replicas 4 s behind, and the primary dies", func(e *e2e, st api.Status) {
		var ends []func()
		for _, r := range replicasOf(st) {
			end, err := load.Lock(e.Context(), e.root(r), "load_rows")
			if err != nil {
				e.Fatal(err)
			}
			ends = append(ends, end)
		}
		e.wait(4 * time.Second)
		at := time.Now()
		e.kill(st.Primary, sandbox.KillMysqld)
		for _, end := range ends {
			end()
		}
		e.takenOver(st.Primary, at, 20*time.Second)
	}, moved},
	{"switchover while commits wait for acks", func(e *e2e, st api.Status) {
		var thaw []func()
		for _, r := range replicasOf(st) {
			thaw = append(thaw, e.frozen(r, "mysqld"))
		}
		at := time.Now()
		e.wait(500 * time.Millisecond)
		code, said := e.try("switchover", "--timeout", "10s")
		e.Logf("exit %d after %s: %s", code, time.Since(at).Round(10*time.Millisecond), strings.TrimSpace(said))
		if code == api.ExitOK {
			e.Errorf("nobody could take over: %s", said)
		}
		if took := time.Since(at); took > 12*time.Second {
			e.Errorf("it gave up after %s", took)
		}
		for _, f := range thaw {
			f()
		}
	}, maybe},
}

func replicasOf(st api.Status) (out []string) {
	for _, n := range st.Nodes {
		if n.Role == "replica" {
			out = append(out, n.Name)
		}
	}
	return out
}

// asRoot has a server do something.
func (e *e2e) asRoot(node string, stmts ...string) {
	e.Helper()
	db := e.root(node)
	for _, stmt := range stmts {
		if _, err := db.ExecContext(e.Context(), stmt); err != nil {
			e.Fatalf("%s on %s: %v", stmt, node, err)
		}
	}
}

// unacknowledged has a row received by replicas that do not acknowledge for a moment.
// When it returns they are back, and answer tells what becomes of the commit.
func (e *e2e) unacknowledged(st api.Status) (row int64, answer <-chan error, held time.Duration) {
	e.Helper()
	db, receive := e.root(st.Primary), func(flag string) {
		for _, r := range replicasOf(st) {
			e.asRoot(r, "STOP REPLICA IO_THREAD", "SET GLOBAL rpl_semi_sync_replica_enabled="+flag, "START REPLICA IO_THREAD")
		}
	}
	receive("OFF")
	defer receive("ON")
	row, began, done := -time.Now().UnixNano(), time.Now(), make(chan error, 1)
	go func() {
		_, err := db.ExecContext(e.Context(), fmt.Sprintf("INSERT INTO load_rows VALUES (%d, 1)", row))
		done <- err
	}()
	for _, r := range replicasOf(st) {
		e.eventually(5*time.Second, r+" holds the row", func() (bool, string) {
			var n int
			err := e.root(r).QueryRowContext(e.Context(), "SELECT COUNT(*) FROM load_rows WHERE writer = ?", row).Scan(&n)
			return n == 1, fmt.Sprint(n, err)
		})
	}
	held = time.Since(began)
	if len(done) > 0 {
		e.Fatalf("it was acknowledged, or failed: %v", <-done)
	}
	return row, done, held
}

// endLoser ends the mysqld that waits for another one's locks: of two that were
// started at once, the one whose number is not in the file for it.
func (e *e2e) endLoser(node string, args []string) {
	e.Helper()
	path := ""
	for _, arg := range args {
		if v, ok := strings.CutPrefix(arg, "--pid-file="); ok {
			path = v
		}
	}
	e.eventually(20*time.Second, "one mysqld on "+node, func() (bool, string) {
		text, err := os.ReadFile(path)
		winner := strings.TrimSpace(string(text))
		var rest []int
		pids := e.PIDs(node, "mysqld")
		for _, pid := range pids {
			if fmt.Sprint(pid) != winner {
				rest = append(rest, pid)
			}
		}
		if err != nil || len(rest) == len(pids) {
			return false, fmt.Sprint("none of ", pids, " is ready: ", err)
		}
		for _, pid := range rest {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			e.Logf("a second server of %s waited for the locks of the first", node)
		}
		return len(rest) == 0, fmt.Sprint(pids)
	})
}
