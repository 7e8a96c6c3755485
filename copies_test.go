package main_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/sandbox"
	"ha/bench/load"
	"ha/raftfsm"
)

// Copies under load, on real servers, with whatever can happen to one in the middle.
// `make copies-all` (HA_COPIES=all) tries each fault at 10, 50 and 90 %.

const (
	// fillMB is what a copy has to carry beside the writers' rows, at slowRate.
	fillMB   = 96
	slowRate = "12MiB"
)

type copies struct{ *e2e }

// newCopies is a sandbox with something to copy.
func newCopies(t *testing.T, base string) copies {
	t.Helper()
	c := copies{newE2E(t, base)}
	c.fill(fillMB)
	return c
}

func (c copies) value(node, query string) string {
	c.Helper()
	var s sql.NullString
	ctx, cancel := context.WithTimeout(c.Context(), 30*time.Second)
	defer cancel()
	if err := c.root(node).QueryRowContext(ctx, query).Scan(&s); err != nil {
		c.Fatalf("%s on %s: %v", query, node, err)
	}
	return s.String
}

// must runs the command line, which has to end with that code.
func (c copies) must(code int, args ...string) string {
	c.Helper()
	got, said := c.try(args...)
	if got != code {
		c.Fatalf("ha %s: exit %d, want %d: %s", strings.Join(args, " "), got, code, said)
	}
	return said
}

// rebuild gives the state of a node's rebuild.
func (c copies) rebuild(node string) api.RebuildStatus {
	code, said := c.try("rebuild", "status", "--node", node, "-o", "json")
	var all api.Rebuilds
	if code != 0 || json.Unmarshal([]byte(said), &all) != nil || len(all.Rebuilds) == 0 {
		return api.RebuildStatus{Phase: "unknown: " + said}
	}
	return all.Rebuilds[0]
}

// copying waits until so much percent are copied.
func (c copies) copying(node string, percent int64) api.RebuildStatus {
	c.Helper()
	var st api.RebuildStatus
	c.eventually(60*time.Second, fmt.Sprintf("%d %% copied", percent), func() (bool, string) {
		st = c.rebuild(node)
		if st.Done {
			c.Fatalf("it ended before: %+v", st)
		}
		return st.Phase == raftfsm.CopyRunning && st.Total > fillMB<<19 && st.Bytes*100 >= st.Total*percent, fmt.Sprintf("%+v", st)
	})
	return st
}

// ended waits for the end.
func (c copies) ended(node string) api.RebuildStatus {
	c.Helper()
	var st api.RebuildStatus
	c.eventually(150*time.Second, "the end of the rebuild of "+node, func() (bool, string) {
		st = c.rebuild(node)
		return st.Done, fmt.Sprintf("%+v", st)
	})
	return st
}

// replicas are the names of the others, the coordinator's last.
func (c copies) replicas(st api.Status) (names []string) {
	c.Helper()
	for _, n := range st.Nodes {
		if n.Role == "replica" {
			names = append(names, n.Name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if a == st.Coordinator {
			return 1
		}
		return strings.Compare(a, b)
	})
	return names
}

// well waits until all is well and nothing is left: no lease, process or directory,
// and the node's data are the primary's.
func (c copies) well(node string) {
	c.Helper()
	st := c.healthy()
	if n, err := c.Stage.Status(c.Context()); err != nil || len(n.Issues) > 0 && n.Issues[0].Code == "HA-REBUILD" {
		c.Errorf("a rebuild goes on: %+v, %v", n.Issues, err)
	}
	data := filepath.Join(c.NodeDir(node), "data")
	c.eventually(40*time.Second, "nothing left beside "+data, func() (bool, string) {
		left, _ := filepath.Glob(data + ".*")
		return len(left) == 0, fmt.Sprint(left)
	})
	c.eventually(10*time.Second, "no process is left", func() (bool, string) {
		left := scratchServers(data)
		return left == "", left
	})
	var got string
	c.eventually(30*time.Second, "the same rows as the primary", func() (bool, string) {
		got = c.sum(node)
		return got == c.sum(st.Primary), got
	})
}

func (c copies) sum(node string) string {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 5*time.Minute)
	defer cancel()
	sum, err := load.FillSum(ctx, c.root(node))
	if err != nil {
		c.Fatalf("%s: %v", node, err)
	}
	return sum
}

// scratchServers are throw-away servers beside these data that run still.
func scratchServers(data string) string {
	return strings.Join(slices.Collect(maps.Values(processes(data+".clone"))), "\n")
}

// processes are those with this in their command lines, by pid.
func processes(word string) map[int]string {
	found := map[int]string{}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range lines {
		line, err := os.ReadFile(file)
		if pid, bad := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && bad == nil && strings.Contains(string(line), word) {
			found[pid] = strings.ReplaceAll(string(line), "\x00", " ")
		}
	}
	return found
}

// A healthy replica, and one whose data are garbage: mysqld does not start on them.
// And what is refused.
func TestCopy(t *testing.T) {
	c := newCopies(t, "127.0.110.0")
	st := c.healthy()
	node := c.replicas(st)[0]
	uuid := c.value(node, "SELECT @@server_uuid")

	said := c.must(api.ExitRefused, "rebuild", "--node", st.Primary, "--from", "best")
	if !strings.Contains(said, "HA-IS-PRIMARY") {
		t.Errorf("said %s", said)
	}
	if said := c.must(0, "rebuild", "--node", node, "--from", "best", "--dry-run"); !strings.Contains(said, "Nothing was changed") || c.value(node, "SELECT @@server_uuid") != uuid {
		t.Errorf("said %s", said)
	}
	at := time.Now()
	said = c.must(0, "rebuild", "--node", node, "--from", "best", "--wait", "50s")
	t.Logf("healthy: %s after %s", strings.TrimSpace(said), time.Since(at).Round(10*time.Millisecond))
	c.well(node)
	if c.value(node, "SELECT @@server_uuid") == uuid {
		t.Error("the copy has the server_uuid of the old data")
	}

	c.garble(node)
	at = time.Now()
	said = c.must(0, "rebuild", "--node", node, "--from", "best", "--wait", "50s")
	t.Logf("garbage: %s after %s", strings.TrimSpace(said), time.Since(at).Round(10*time.Millisecond))
	c.well(node)

	// An applier that stands on an error: copied anew without anybody's asking.
	c.exec(st.Primary, "CREATE TABLE missed (id INT PRIMARY KEY)", "INSERT INTO missed VALUES (1)")
	c.eventually(30*time.Second, "the row at "+node, func() (bool, string) {
		return c.value(node, "SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'missed'") == "1" && c.value(node, "SELECT COUNT(*) FROM missed") == "1", ""
	})
	uuid = c.value(node, "SELECT @@server_uuid")
	c.must(0, "config", "set", "rebuild_broken=2s")
	one, err := c.root(node).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"SET sql_log_bin = 0", "SET GLOBAL super_read_only = OFF", "DELETE FROM missed", "SET GLOBAL super_read_only = ON"} {
		if _, err := one.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	one.Close()
	c.exec(st.Primary, "DELETE FROM missed")
	at = time.Now()
	c.eventually(60*time.Second, "other data at "+node, func() (bool, string) {
		got := "unreachable"
		_ = c.root(node).QueryRowContext(c.Context(), "SELECT @@server_uuid").Scan(&got)
		return got != "unreachable" && got != uuid, got
	})
	c.well(node)
	t.Logf("broken: copied anew and well after %s", time.Since(at).Round(10*time.Millisecond))
	if said := c.must(0, "events"); !strings.Contains(said, "for 2s its applier has stood on: ") {
		t.Errorf("said %s", said)
	}

	// The last acker is needed, and stays.
	other := c.replicas(c.healthy())[1]
	c.kill(other, sandbox.KillHost)
	c.eventually(20*time.Second, "the other one has left", func() (bool, string) {
		set := c.status().AckSet
		return len(set) == 1, fmt.Sprint(set)
	})
	if said := c.must(api.ExitRefused, "rebuild", "--node", node, "--from", st.Primary); !strings.Contains(said, "HA-NEEDED") {
		t.Errorf("said %s", said)
	}
	c.start(other)
	c.well(node)
	c.check()
}

// garble ruins the data of a node while nothing runs there.
func (c copies) garble(node string) {
	c.Helper()
	c.kill(node, sandbox.KillHost)
	for _, file := range []string{"ibdata1", "mysql.ibd"} {
		f, err := os.OpenFile(filepath.Join(c.NodeDir(node), "data", file), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(make([]byte, 1<<20), 0)
			f.Close()
		}
		if err != nil {
			c.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(c.Context(), 5*time.Second)
	defer cancel()
	_, _ = c.Start(ctx, node) // its agent; mysqld does not come up
	c.eventually(30*time.Second, "its agent says that mysqld does not start", func() (bool, string) {
		for _, n := range c.status().Nodes {
			if n.Name == node {
				return n.Agent == "up" && n.Mysqld != raftfsm.MysqldRunning, fmt.Sprintf("%+v", n)
			}
		}
		return false, ""
	})
}

// copyFault is something that happens in the middle of a copy.
type copyFault struct {
	name string
	do   func(c copies, recipient, donor string)
	ok   bool // it is rebuilt in spite of it
	fast int64
}

var copyFaults = []copyFault{
	{"canceled", func(c copies, to, _ string) { c.must(0, "rebuild", "cancel", "--node", to) }, false, 50},
	{"recipient's agent killed", func(c copies, to, _ string) { c.kill(to, sandbox.KillAgent); c.start(to) }, true, 90},
	{"recipient's mysqld killed", func(c copies, to, _ string) { c.kill(to, sandbox.KillMysqld) }, true, 0},
	{"donor's mysqld killed", func(c copies, _, from string) { c.kill(from, sandbox.KillMysqld) }, true, 50},
	{"donor's agent killed", func(c copies, _, from string) { c.kill(from, sandbox.KillAgent); c.start(from) }, true, 0},
	{"donor becomes primary", func(c copies, _, from string) { c.must(0, "switchover", "--to", from) }, true, 0},
	{"coordinator killed", func(c copies, _, _ string) {
		who := c.status().Coordinator
		c.kill(who, sandbox.KillAgent)
		c.start(who)
	}, true, 10},
	{"another one asks for the donor", func(c copies, _, from string) {
		st := c.status()
		for _, n := range c.replicas(st) {
			if n != from {
				c.must(api.ExitBusy, "rebuild", "--node", n, "--from", from) // being rebuilt itself
			}
		}
		c.must(api.ExitBusy, "rebuild", "--node", from, "--from", "best")
		c.must(api.ExitBusy, "backup", "--to", c.TempDir(), "--from", from)
	}, true, 10},
}

func TestCopyFaults(t *testing.T) {
	c := newCopies(t, "127.0.111.0")
	for _, f := range copyFaults {
		points := []int64{10, 50, 90}
		if os.Getenv("HA_COPIES") != "all" {
			if points = []int64{f.fast}; f.fast == 0 {
				continue
			}
		}
		for _, percent := range points {
			if t.Failed() {
				return
			}
			t.Run(fmt.Sprintf("%s at %d %%", f.name, percent), func(one *testing.T) {
				c.T = one
				defer func() { c.T = t }()
				c.fault(f, percent, "clone")
				c.grow(20)
			})
		}
	}
	c.check()
}

// fault has one happen to a rebuild.
func (c copies) fault(f copyFault, percent int64, engine string) {
	c.Helper()
	st := c.healthy()
	rs := c.replicas(st)
	to, from := rs[0], rs[1]
	uuid := c.value(to, "SELECT @@server_uuid")
	at := time.Now()
	c.must(0, "rebuild", "--node", to, "--from", "best", "--engine", engine, "--throttle", slowRate, "--detach")
	if got := c.copying(to, percent); got.Donor != from {
		c.Fatalf("copied from %s, not %s", got.Donor, from)
	}
	f.do(c, to, from)
	end := c.ended(to)
	c.well(to)
	c.Logf("%s at %d %%: %+v after %s", f.name, percent, end, time.Since(at).Round(100*time.Millisecond))
	same := c.value(to, "SELECT @@server_uuid") == uuid
	if end.OK != f.ok || same == f.ok {
		c.Errorf("%s at %d %%: %+v, old data %v", f.name, percent, end, same)
	}
}

// Two rebuilds ask for one donor: the second is told that it is busy, and finds another
// one if it may. Five nodes: two of four ackers can be spared.
func TestCopyTwoAskForOneDonor(t *testing.T) {
	if os.Getenv("HA_COPIES") != "all" {
		t.Skip("part of make copies-all")
	}
	c := copies{newE2E(t, "127.0.113.0")}
	c.added()
	c.added()
	c.healthy()
	c.fill(fillMB)
	for _, percent := range []int64{10, 50, 90} {
		st := c.healthy()
		rs := c.replicas(st)
		one, two, donor := rs[0], rs[1], rs[2]
		c.must(0, "rebuild", "--node", one, "--from", donor, "--throttle", slowRate, "--detach")
		c.copying(one, percent)
		if said := c.must(api.ExitBusy, "rebuild", "--node", two, "--from", donor); !strings.Contains(said, "HA-DONOR-BUSY") {
			t.Errorf("said %s", said)
		}
		c.must(0, "rebuild", "--node", two, "--from", "best", "--detach")
		for _, node := range []string{one, two} {
			end := c.ended(node)
			t.Logf("at %d %%: %s from %s, %d ms", percent, node, end.Donor, end.TookMS)
			if !end.OK || (end.Donor == donor) != (node == one) || end.Donor == st.Primary {
				t.Errorf("%s: %+v", node, end)
			}
		}
		c.well(one)
		c.well(two)
	}
	c.check()
}
