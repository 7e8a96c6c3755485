package main_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"golang.org/x/sys/unix"

	"ha/bench/load"
	"ha/mysqlctl/mysqltest"
)

// There is no systemd on the machine that runs these tests: the unit files are
// read, their order of stopping is worked out as systemd.unit(5) says, and their
// stop commands are run in that order.

// unit is a unit file: "Section.Key" and its values. A list directive has them
// word by word.
type unit map[string][]string

func readUnit(t *testing.T, name string) unit {
	t.Helper()
	f, err := os.Open(filepath.Join("deploy", "systemd", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	u, section := unit{}, ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		key, value, ok := strings.Cut(line, "=")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
		case ok:
			u[section+"."+key] = append(u[section+"."+key], strings.Fields(value)...)
		default:
			t.Errorf("%s: %q", name, line)
		}
	}
	return u
}

func (u unit) has(key, value string) bool { return slices.Contains(u[key], value) }

func (u unit) duration(t *testing.T, key string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(strings.Join(u[key], ""))
	if err != nil {
		t.Errorf("%s: %v", key, err)
	}
	return d
}

func TestUnits(t *testing.T) {
	agent, down := readUnit(t, "ha.service"), readUnit(t, "ha-step-down.service")
	for _, want := range []struct {
		u          unit
		key, value string
		why        string
	}{
		{down, "Unit.After", "ha.service", "it is stopped before the agent"},
		{down, "Unit.After", "network.target", "and before the network"},
		{down, "Unit.Conflicts", "shutdown.target", "a shutdown stops it"},
		{down, "Unit.Before", "shutdown.target", "and waits for it"},
		{down, "Unit.DefaultDependencies", "yes", "it starts in the ordinary course"},
		{down, "Unit.RefuseManualStop", "yes", "only a shutdown does"},
		{down, "Service.Type", "oneshot", ""}, {down, "Service.RemainAfterExit", "yes", "else there is nothing to stop"},
		{down, "Install.WantedBy", "multi-user.target", ""},
		{agent, "Unit.After", "network.target", "it is stopped before the network"},
		{agent, "Service.KillMode", "process", "mysqld outlives it"},
		{agent, "Service.Restart", "always", ""},
		{agent, "Service.RuntimeDirectory", "ha", ""}, {agent, "Service.RuntimeDirectoryPreserve", "yes", "the lease outlives it"},
		{agent, "Service.OOMPolicy", "continue", "it outlives its mysqld"},
		{agent, "Install.WantedBy", "multi-user.target", ""},
	} {
		if !want.u.has(want.key, want.value) {
			t.Errorf("%s is %v, not %s: %s", want.key, want.u[want.key], want.value, want.why)
		}
	}
	for _, key := range []string{"Requires", "Requisite", "BindsTo", "PartOf", "PropagatesStopTo", "StopPropagatedFrom", "Before", "Wants", "Upholds"} {
		if down.has("Unit."+key, "ha.service") || agent.has("Unit."+key, "ha-step-down.service") {
			t.Errorf("%s= binds the two: stopping the agent would step down", key)
		}
	}
	if agent.has("Unit.DefaultDependencies", "no") {
		t.Error("the agent is not stopped at a shutdown")
	}
	// A restarted agent is back before its lease is over; systemd waits for longer
	// than the command takes.
	if d := agent.duration(t, "Service.RestartSec"); d > time.Second {
		t.Errorf("RestartSec %v", d)
	}
	stop := down["Service.ExecStop"]
	if len(stop) < 2 || stop[1] != "step-down" || agent["Service.ExecStart"][1] != "agent" || stop[0] != agent["Service.ExecStart"][0] || !down.has("Service.ExecStop", "/etc/ha/ha.toml") {
		t.Errorf("ExecStop %v", stop)
	}
	i := slices.Index(stop, "--timeout")
	if i < 0 {
		t.Fatal("no --timeout")
	}
	timeout, err := time.ParseDuration(stop[i+1])
	if err != nil || timeout+30*time.Second > down.duration(t, "Service.TimeoutStopSec") {
		t.Errorf("systemd's patience: %v, %v", stop, err)
	}
	for _, code := range []string{"2", "3"} {
		if !agent.has("Service.RestartPreventExitStatus", code) {
			t.Errorf("started again after exit code %s", code)
		}
	}
}

// stopHost does what systemd does with the two units when a host is stopped, in
// their order, and then what it does to all that is left. It gives what step-down
// said.
func (e *e2e) stopHost(node string, timeout time.Duration) string {
	e.Helper()
	// Units that are ordered are stopped in the reverse order: what comes After is
	// stopped first.
	units := []string{"ha.service", "ha-step-down.service"}
	slices.SortFunc(units, func(a, b string) int {
		if readUnit(e.T, a).has("Unit.After", b) {
			return -1
		}
		return 1
	})
	said := ""
	for _, name := range units {
		u := readUnit(e.T, name)
		if stop := u["Service.ExecStop"]; len(stop) > 0 {
			args := slices.Clone(stop[1:])
			args[slices.Index(args, "/etc/ha/ha.toml")] = filepath.Join(e.NodeDir(node), "ha.toml")
			if timeout > 0 {
				args[slices.Index(args, "--timeout")+1] = timeout.String()
			}
			ctx, cancel := context.WithTimeout(e.Context(), u.duration(e.T, "Service.TimeoutStopSec"))
			began := time.Now()
			out, err := exec.CommandContext(ctx, e.Binary, args...).CombinedOutput()
			cancel()
			said = strings.TrimSpace(string(out))
			e.Logf("%s: %s after %v, %v", name, said, time.Since(began).Round(time.Millisecond), err)
			if err != nil {
				e.Errorf("ha step-down: %v: %s", err, out)
			}
			continue
		}
		e.signal(node, "agent", unix.SIGTERM) // KillMode=process: the main one
	}
	e.signal(node, "mysqld", unix.SIGTERM) // the last act: to every process
	return said
}

// signal signals the processes and waits, for SIGTERM, for their end and, for SIGSTOP,
// until they stand.
func (e *e2e) signal(node, kind string, sig unix.Signal) {
	e.Helper()
	for _, pid := range e.PIDs(node, kind) {
		if err := unix.Kill(pid, sig); err != nil {
			e.Error(err)
		}
	}
	switch sig {
	case unix.SIGSTOP:
		e.eventually(10*time.Second, kind+" of "+node+" stands", func() (bool, string) {
			return mysqltest.Stands(e.PIDs(node, kind)...), ""
		})
	case unix.SIGTERM:
		// As long as systemd: an applier that has half of a transaction waits for up to
		// 60 s for the rest, which a receiver that has ended does not bring.
		e.eventually(90*time.Second, kind+" of "+node+" gone", func() (bool, string) {
			left := e.PIDs(node, kind)
			return len(left) == 0, fmt.Sprint(left)
		})
	}
}

// The primary's host is stopped under load, and then the next one's: another node
// is the primary each time, and every acknowledged row is there.
func TestHostStopped(t *testing.T) {
	e := newE2E(t, "127.0.75.0")
	for range 2 {
		before := e.healthy()
		for _, n := range before.Nodes {
			if mark, err := os.ReadFile(filepath.Join(e.NodeDir(n.Name), "data", "ha.mark")); err != nil || !strings.Contains(string(mark), n.ID) {
				t.Errorf("%s keeps no mark of its Raft store with mysqld's data: %q, %v", n.Name, mark, err)
			}
		}
		at := time.Now()
		said := e.stopHost(before.Primary, 0)
		first := e.takenOver(before.Primary, at, 20*time.Second)
		e.grow(100)
		gap, began := load.LongestGap(e.load.Acks(), at, time.Now())
		t.Logf("host of %s stopped: %s took over, clients waited %v, from %v on", before.Primary, first.Server, gap.Round(time.Millisecond), began.Sub(at).Round(time.Millisecond))
		if !strings.Contains(said, first.Server+" is the primary") {
			t.Errorf("said %q", said)
		}
		e.start(before.Primary)
		after := e.healthy()
		if after.Epoch != before.Epoch+1 || after.Primary == before.Primary {
			t.Errorf("epoch %d with %s became %d with %s", before.Epoch, before.Primary, after.Epoch, after.Primary)
		}
	}
	// A replica's host: nothing changes.
	before := e.healthy()
	for _, n := range before.Nodes {
		if n.Role == "replica" {
			if said := e.stopHost(n.Name, 0); !strings.Contains(said, "nothing to do") {
				t.Errorf("said %q", said)
			}
			e.grow(50)
			e.start(n.Name)
			break
		}
	}
	if after := e.healthy(); after.Epoch != before.Epoch {
		t.Errorf("epoch %d became %d", before.Epoch, after.Epoch)
	}
	e.check()
}

// Nobody can acknowledge, and nobody can take over, when the primary's host is
// stopped: commits that wait get no OK, as a SIGTERM to mysqld would give them.
func TestHostStoppedWhileCommitsWait(t *testing.T) {
	e := newE2E(t, "127.0.76.0")
	for _, what := range []string{"mysqld", "host", "no agent"} {
		before := e.healthy()
		var others []string
		for _, n := range before.Nodes {
			if n.Name != before.Primary {
				others = append(others, n.Name)
			}
		}
		kinds, timeout := []string{"mysqld"}, 500*time.Millisecond // sooner than the group lowers the number of acks
		if what != "mysqld" {
			kinds, timeout = []string{"agent", "mysqld"}, 2*time.Second
		}
		freeze := func(sig unix.Signal) {
			for _, n := range others {
				for _, kind := range kinds {
					e.signal(n, kind, sig)
				}
			}
		}
		freeze(unix.SIGSTOP)
		frozen := time.Now()
		answer := e.commit(before.Primary)
		time.Sleep(200 * time.Millisecond)
		select {
		case err := <-answer:
			t.Fatalf("%s: the commit does not wait: %v", what, err)
		default:
		}
		if what == "no agent" { // it was killed a moment before
			e.signal(before.Primary, "agent", unix.SIGKILL)
			e.eventually(5*time.Second, "agent gone", func() (bool, string) { return len(e.PIDs(before.Primary, "agent")) == 0, "" })
		}
		if said := e.stopHost(before.Primary, timeout); !strings.Contains(said, "killed") {
			t.Errorf("%s: said %q", what, said)
		}
		if err := <-answer; err == nil {
			t.Errorf("%s: a commit that nobody acknowledged was answered OK", what)
		} else {
			t.Logf("%s: the waiting client was told: %v", what, err)
		}
		for _, a := range e.load.Acks() {
			if a.At.After(frozen.Add(200 * time.Millisecond)) {
				t.Errorf("%s: %s answered OK %v after all ackers were frozen", what, a.Server, a.At.Sub(frozen))
			}
		}
		freeze(unix.SIGCONT)
		first := e.takenOver(before.Primary, frozen, 30*time.Second)
		t.Logf("%s: %s took over", what, first.Server)
		e.grow(50)
		e.start(before.Primary)
		e.healthy()
	}
	e.check()
}

// commit writes a row on a connection of its own and says what became of it.
func (e *e2e) commit(node string) <-chan error {
	e.Helper()
	dsn, err := e.DSN(node)
	if err != nil {
		e.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() {
		db, err := sql.Open("mysql", dsn)
		if err == nil {
			defer db.Close()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_, err = db.ExecContext(ctx, "CREATE TABLE waits"+fmt.Sprint(time.Now().UnixNano())+" (id INT PRIMARY KEY)")
		}
		answer <- err
	}()
	return answer
}
