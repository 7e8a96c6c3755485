package sandbox_test

import (
	"database/sql"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/sandbox"
)

// wants runs ha and wants an exit code, and each of the texts on stdout or stderr.
func (r *try) wants(code int, texts []string, args ...string) string {
	r.t.Helper()
	got, out, talk := r.ha(args...)
	r.t.Logf("$ ha %s\n%s%s=> %d", strings.Join(args, " "), out, talk, got)
	if got != code {
		r.t.Errorf("ha %v: exit code %d, want %d", args, got, code)
	}
	for _, text := range texts {
		if !strings.Contains(out+talk, text) {
			r.t.Errorf("ha %v: no %q", args, text)
		}
	}
	return out
}

// What a person does with a cluster that is well.
func TestOperate(t *testing.T) {
	r := newTry(t, "127.0.49.0")
	r.up()
	st := r.awaitWell()

	r.wants(0, []string{"paused"}, "pause")
	r.wants(0, []string{"already paused"}, "pause")
	r.wants(0, []string{"HA-PAUSED", "  paused\n"}, "status")
	r.wants(0, []string{"resumed"}, "resume")
	r.wants(0, []string{"already resumed"}, "resume")

	r.wants(0, []string{"lease: 5s -> 6s", "cool_down: 10s -> 1s"}, "config", "set", "lease=6s", "cool_down=1s", "acks=half")
	r.wants(0, []string{"it is so already"}, "config", "set", "lease=6s")
	r.wants(0, []string{"default 5s"}, "config", "show")
	r.wants(2, []string{"dead_after"}, "config", "set", "dead_after=10s")
	r.wants(2, []string{"2 settings are wrong", "did you mean lease?"}, "config", "set", "leese=1s", "acks=x")

	r.wants(2, []string{"n1, n2, n3"}, "switchover", "--to", "n4")
	r.wants(0, []string{"is the primary already"}, "switchover", "--to", st.Primary)
	r.wants(0, []string{"Nothing was changed"}, "switchover", "--dry-run")
	r.wants(0, []string{"Nothing was changed"}, "failover", "--dry-run")
	r.wants(3, []string{"HA-IS-PRIMARY"}, "failover", "--to", st.Primary)
	r.wants(3, []string{"HA-IS-PRIMARY", "ha switchover"}, "remove", st.Primary)

	// There and back, on a request of every kind.
	old, to := st.Primary, other(st)
	r.wants(0, []string{to + " is the primary of epoch 2"}, "switchover", "--to", to)
	st = r.awaitWell()
	if st.Primary != to || st.Epoch != 2 {
		t.Errorf("primary %s, epoch %d", st.Primary, st.Epoch)
	}
	var out api.Outcome
	if err := json.Unmarshal([]byte(r.wants(0, nil, "switchover", "--to", old, "-o", "json")), &out); err != nil || !out.OK || out.Primary != old || out.Epoch != 3 {
		t.Errorf("%+v %v", out, err)
	}
	r.awaitWell()
	r.wants(0, []string{to + " is the primary of epoch 4"}, "failover", "--to", to)
	st = r.awaitWell()
	r.wants(0, []string{"switchover asked for to " + old, "failover asked for to " + to, to + " is the primary of epoch 4"}, "events", "-n", "50")

	// A session that holds the switchover up.
	s, err := sandbox.Open(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	locked := lockTables(t, s, to)
	r.wants(9, []string{"HA-BLOCKED", "--end-blockers"}, "switchover")
	// Reports of the moment in which it was to become read-only are soon overtaken.
	if now := r.awaitWell(); now.Primary != to || now.Epoch != 4 {
		t.Errorf("primary %s, epoch %d", now.Primary, now.Epoch)
	}
	r.wants(0, []string{"is the primary of epoch 5"}, "switchover", "--end-blockers")
	locked()
	st = r.awaitWell()

	// Whoever coordinates may die meanwhile: the outcome is told by the others.
	done := make(chan string, 1)
	go func() {
		_, out, talk := r.ha("switchover", "--timeout", "40s")
		done <- out + talk
	}()
	time.Sleep(40 * time.Millisecond)
	coordinator := st.Coordinator
	r.sandbox(0, "kill", coordinator, "agent")
	if text := <-done; !strings.Contains(text, "is the primary of epoch") && !strings.Contains(text, "HA-GIVEN-UP") {
		t.Errorf("the coordinator died: %s", text)
	} else {
		t.Log(text)
	}
	r.sandbox(0, "start", coordinator)
	st = r.awaitWell()

	gone := other(st)
	r.wants(0, []string{gone + " was taken out"}, "remove", gone)
	r.wants(0, []string{"forgotten already"}, "remove", gone)
	if _, st = r.status(""); len(st.Nodes) > 3 {
		t.Errorf("%+v", st.Nodes)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if _, st = r.status(""); len(st.Nodes) == 2 || time.Now().After(deadline) {
			break
		}
	}
	if len(st.Nodes) != 2 || st.AcksWanted != 1 || st.Acks != 1 {
		t.Errorf("%+v", st)
	}
	for _, n := range s.Nodes {
		if n.Name == gone {
			r.wants(0, []string{"HA-REMOVED"}, "status", "--addr", n.Agent)
		}
	}
}

// lockTables holds up whoever wants to make a server read-only, until it is freed.
func lockTables(t *testing.T, s *sandbox.Sandbox, node string) (free func()) {
	t.Helper()
	dsn, err := s.DSN(node)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	for _, statement := range []string{"CREATE TABLE IF NOT EXISTS held (i INT PRIMARY KEY)", "LOCK TABLES held WRITE"} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	return func() { _ = db.Close() }
}
