package main_test

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"golang.org/x/sys/unix"
	"ha/agent/api"
	"ha/bench/load"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ha/agent/sandbox"
	"ha/bench/stage"
	"ha/mysqlctl/gtid"
)

// faultSteps are the steps between which a coordinator, a candidate or a replica
// dies while a failover is under way; with " host" its mysqld dies too.
var faultSteps = []string{
	"committed revoke", "sending seal", "stored seal", "done seal", "answered seal",
	"committed promote", "sending promote", "stored promote", "done promote", "answered promote",
	"stored follow", "done follow", "sending barrier", "stored barrier", "done barrier", "committed settle",
	"stored seal host", "done seal host", "stored promote host", "done promote host", "stored follow host", "stored barrier host", "done barrier host",
}

// make faults plays every test of these files that has a cluster.
func TestMakeFaultsPlaysThemAll(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	recipe := regexp.MustCompile(`(?m)^\tHA_FAULTS=all go test \. .* -run '(.*)'$`).FindSubmatch(makefile)
	if recipe == nil {
		t.Fatal("the Makefile has no recipe of faults")
	}
	played := regexp.MustCompile(string(recipe[1]))
	for _, file := range []string{"e2e_test.go", "faults_test.go", "shutdown_test.go", "switchover_test.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		has := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\) \{\n\t.* := new(E2E|Faulty)\(`).FindAllSubmatch(text, -1)
		if len(has) == 0 {
			t.Errorf("%s has no test with a cluster", file)
		}
		for _, one := range has {
			if !played.Match(one[1]) {
				t.Errorf("make faults does not play %s of %s", one[1], file)
			}
		}
	}
}

// newFaulty is a sandbox whose agents die where the file says.
func newFaulty(t *testing.T, base string) (*e2e, string) {
	t.Helper()
	if testing.Short() || os.Getenv("HA_MYSQLD") == "" {
		t.Skip("needs a mysqld: set HA_MYSQLD (make test does), and no -short")
	}
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/", ".", "./agent/sandbox/faulty")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	file := filepath.Join(t.TempDir(), "fault")
	t.Setenv("HA_FAULT_FILE", file)
	st, err := stage.Up(t.Context(), filepath.Join(dir, "faulty"), base)
	if err != nil {
		t.Fatal(err)
	}
	e := loaded(t, st)
	e.client = filepath.Join(dir, "ha")
	return e, file
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
func (e *e2e) died(file string, bound time.Duration) string {
	e.Helper()
	for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if name, err := os.ReadFile(file + ".taken"); err == nil && !strings.Contains(string(name), " ") && len(name) > 0 {
			e.eventually(10*time.Second, "the end of its agent", func() (bool, string) { return len(e.PIDs(string(name), "agent")) == 0, string(name) })
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
		who := e.died(file, 15*time.Second)
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

// root connects to a node's server as its root.
func (e *e2e) root(node string) *sql.DB {
	e.Helper()
	db, err := e.Root(node)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { db.Close() })
	return db
}

// frozen stops a process until the test's end, or until it is thawed.
func (e *e2e) frozen(node, kind string) (thaw func()) {
	e.Helper()
	thaw = sync.OnceFunc(func() {
		for _, pid := range e.PIDs(node, kind) {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	})
	e.Cleanup(thaw)
	e.signal(node, kind, unix.SIGSTOP)
	return thaw
}

// endDumps ends the connections of a server's replicas.
func (e *e2e) endDumps(db *sql.DB) {
	e.Helper()
	if err := load.EndDumps(e.Context(), db); err != nil {
		e.Fatal(err)
	}
}

// loggedNotCommitted counts the transactions in the server's last binary log that are
// not committed. A thread that waits need not have written its own yet: it would be
// rolled back, not cut off.
func loggedNotCommitted(ctx context.Context, db *sql.DB) (int, error) {
	var executed, uuid string
	if err := db.QueryRowContext(ctx, "SELECT @@gtid_executed, @@server_uuid").Scan(&executed, &uuid); err != nil {
		return 0, err
	}
	committed, err := gtid.Parse(executed)
	if err != nil {
		return 0, err
	}
	logs, err := db.QueryContext(ctx, "SHOW BINARY LOGS")
	if err != nil {
		return 0, err
	}
	defer logs.Close()
	var file string
	var ignored any
	for logs.Next() {
		if err := logs.Scan(&file, &ignored, &ignored); err != nil {
			return 0, err
		}
	}
	events, err := db.QueryContext(ctx, "SHOW BINLOG EVENTS IN '"+file+"'")
	if err != nil {
		return 0, err
	}
	defer events.Close()
	n := 0
	for events.Next() {
		var info string
		if err := events.Scan(&ignored, &ignored, &ignored, &ignored, &ignored, &info); err != nil {
			return 0, err
		}
		_, number, ok := strings.Cut(info, "GTID_NEXT= '"+uuid)
		if !ok {
			continue
		}
		one, err := gtid.Parse(uuid + strings.TrimSuffix(number, "'"))
		if err != nil {
			return 0, err
		}
		if !committed.Contains(one) {
			n++
		}
	}
	return n, errors.Join(logs.Err(), events.Err())
}

// A primary dies with commits that nobody acknowledged. It comes back, follows and
// acknowledges within seconds, without a rebuild, whatever their number.
func TestOldPrimaryComesBackWithATail(t *testing.T) {
	e := newE2E(t, "127.0.56.0")
	e.ha("config", "set", "availability=strict") // they wait for as long as it takes to have them all
	for _, tail := range []int{1, 1000} {
		st := e.healthy()
		db := e.root(st.Primary)
		ctx := t.Context()
		if _, err := db.ExecContext(ctx, "SET GLOBAL max_connections = 1500"); err != nil {
			t.Fatal(err)
		}
		conns := make([]*sql.Conn, tail)
		for i := range conns {
			c, err := db.Conn(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conns[i] = c
		}
		var thaw []func()
		for _, n := range st.Nodes {
			if n.Role == "replica" {
				thaw = append(thaw, e.frozen(n.Name, "mysqld"))
			}
		}
		e.endDumps(db) // what is in the sockets of frozen servers arrives
		writer := time.Now().UnixNano()
		var sent sync.WaitGroup
		for i, c := range conns {
			sent.Add(1)
			go func() {
				sent.Done()
				_, _ = c.ExecContext(ctx, fmt.Sprintf("INSERT INTO load_rows VALUES (%d, %d)", writer, i))
			}()
		}
		sent.Wait()
		e.eventually(30*time.Second, "all commits wait", func() (bool, string) {
			n, err := loggedNotCommitted(ctx, db)
			return err == nil && n > tail, fmt.Sprint(n, err) // the load's own writer waits, too
		})
		at := time.Now()
		e.kill(st.Primary, sandbox.KillMysqld)
		for _, f := range thaw {
			f()
		}
		e.takenOver(st.Primary, at, 20*time.Second)
		up := time.Now()
		after := e.healthy()
		t.Logf("%d unacknowledged transactions: %s follows again %s after the kill, %s after %s took over", tail, st.Primary,
			time.Since(at).Round(10*time.Millisecond), time.Since(up).Round(10*time.Millisecond), after.Primary)
		log, err := os.ReadFile(e.AgentLog(st.Primary))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(log), "unacknowledged transactions cut off") {
			t.Errorf("nothing was cut off %s", st.Primary)
		}
		if strings.Contains(string(log), "rebuild") {
			t.Errorf("%s was rebuilt", st.Primary)
		}
		if took := time.Since(up); took > 5*time.Second {
			t.Errorf("%s follows again after %s", st.Primary, took)
		}
		var n int
		if err := e.root(after.Primary).QueryRowContext(ctx, "SELECT COUNT(*) FROM load_rows WHERE writer = ?", writer).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			t.Logf("%d of the %d were received before the replicas froze", n, tail)
		}
	}
	e.check()
}

// startOrders are those of three hosts, the last of which comes late.
var startOrders = [][]int{{0, 1, 2}, {2, 0, 1}, {1, 2, 0}, {0, 2, 1}, {2, 1, 0}, {1, 0, 2}}

// allDied is how often TestAllDieAtEachPhase was played: with -count each phase has
// another order each time.
var allDied int

// startOrder is the order of a phase: as many rounds as there are orders show all of
// them at each phase.
func startOrder(phase, round int) []int { return startOrders[(phase+round)%len(startOrders)] }

func TestStartOrdersDiffer(t *testing.T) {
	for phase := range 6 {
		seen := map[string]bool{}
		for round := range startOrders {
			seen[fmt.Sprint(startOrder(phase, round))] = true
		}
		if len(seen) != 3*2*1 {
			t.Errorf("phase %d: %v", phase, seen)
		}
	}
}

// All hosts die at a phase of a failover and come back in some order, one of them
// late: what opens has every row, or status says whom it waits for.
func TestAllDieAtEachPhase(t *testing.T) {
	e, file := newFaulty(t, "127.0.57.0")
	round := allDied
	allDied++
	steps := []string{"committed revoke host", "done seal host", "committed promote host", "done promote host", "done barrier host", "committed settle host"}
	if os.Getenv("HA_FAULTS") != "all" {
		steps = steps[1:4]
	}
	for i, step := range steps {
		before := e.healthy()
		e.grow(50)
		arm(t, file, step)
		e.kill(before.Primary, sandbox.KillMysqld)
		who := e.died(file, 15*time.Second)
		e.killAll()
		if who == "" {
			t.Errorf("%s: nobody came by", step)
		}
		order := startOrder(i, round)
		late := e.Nodes[order[2]].Name
		e.start(e.Nodes[order[0]].Name)
		e.start(e.Nodes[order[1]].Name)
		told := ""
		since := time.Now()
		e.eventually(30*time.Second, step+": rows, or status names whom it waits for", func() (bool, string) {
			acks := e.load.Acks()
			if acks[len(acks)-1].At.After(since) {
				told = "opens"
				return true, ""
			}
			st := e.status()
			told = fmt.Sprint(st.Health, " ", st.Doing, st.Issues)
			return st.Health == api.HealthNoPrimary && time.Since(since) > 8*time.Second && strings.Contains(told, late), told
		})
		took := time.Since(since)
		e.start(late)
		e.grow(20)
		after := e.healthy()
		t.Logf("%s: %s died, started %v, without %s after %s: %s; epoch %d to %d", step, who, order[:2], late, took.Round(10*time.Millisecond), told, before.Epoch, after.Epoch)
	}
	e.check()
}

// Both ackers freeze for ten seconds under load. With the policy available writes
// go on after a moment without acknowledgements, and status says so; with strict
// they wait, and status says that. Nothing that was acknowledged is lost.
func TestAckersFrozen(t *testing.T) {
	e := newE2E(t, "127.0.58.0")
	for _, availability := range []string{"available", "strict"} {
		if availability == "strict" {
			e.ha("config", "set", "availability=strict")
		}
		st := e.healthy()
		var thaw []func()
		at := time.Now()
		for _, n := range st.Nodes {
			if n.Role == "replica" {
				thaw = append(thaw, e.frozen(n.Name, "mysqld"))
			}
		}
		said, saidAfter := "", time.Duration(0)
		for time.Since(at) < 10*time.Second {
			now := e.status()
			if said == "" && (availability == "available" && now.Acks == 0 || availability == "strict" && strings.Contains(fmt.Sprint(now.Doing, now.Issues), "strict")) {
				said, saidAfter = fmt.Sprint(now.Health, " ", now.Doing, " ", now.Issues), time.Since(at)
			}
			time.Sleep(50 * time.Millisecond)
		}
		during := 0
		for _, a := range e.load.Acks() {
			if a.At.After(at.Add(100*time.Millisecond)) && a.At.Before(at.Add(10*time.Second)) {
				during++
			}
		}
		gap := load.Gap(e.load.Acks(), at, time.Now())
		for _, f := range thaw {
			f()
		}
		e.grow(100)
		after := e.healthy()
		t.Logf("%s: %d rows acknowledged meanwhile, longest gap %s, status after %s: %s", availability, during, gap.Round(time.Millisecond), saidAfter.Round(10*time.Millisecond), said)
		switch {
		case said == "" || saidAfter > 3*time.Second:
			t.Errorf("%s: status said nothing of it within 3 s", availability)
		case availability == "strict" && during > 0:
			t.Errorf("strict: %d rows acknowledged that no acker had", during)
		case availability == "available" && (during < 100 || gap > 3*time.Second):
			t.Errorf("available: %d rows, gap %s", during, gap)
		}
		if after.Epoch != st.Epoch || after.Acks != 1 {
			t.Errorf("%s: epoch %d to %d, acks %d", availability, st.Epoch, after.Epoch, after.Acks)
		}
	}
	e.check()
}

// ha runs the command line against the sandbox.
func (e *e2e) ha(args ...string) string {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, cmp.Or(e.client, e.Binary), append(args, "--addr", e.Nodes[0].Agent, "--config", e.ClientConfig())...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		e.Fatalf("ha %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// fault is something that goes wrong under load, and what has to hold after it.
type fault struct {
	name string
	// strike does it and puts it right again; it may look at what happens meanwhile.
	strike func(e *e2e, st api.Status)
	moves  moves // what becomes of the primary's role
}

type moves int

const (
	stays moves = iota // the same primary
	moved              // another one
	maybe
)

func replicaOf(st api.Status) string {
	for _, n := range st.Nodes {
		if n.Role == "replica" && n.Name != st.Coordinator {
			return n.Name
		}
	}
	return ""
}

var faults = []fault{
	{"mysqld of the primary frozen and thawed later", func(e *e2e, st api.Status) {
		at := time.Now()
		thaw := e.frozen(st.Primary, "mysqld")
		e.takenOver(st.Primary, at, 20*time.Second)
		thaw()
	}, moved},
	{"agent of the primary frozen for 3 s", func(e *e2e, st api.Status) {
		thaw := e.frozen(st.Primary, "agent")
		e.wait(3 * time.Second)
		thaw()
	}, stays},
	{"agent of the primary frozen until another took over", func(e *e2e, st api.Status) {
		at := time.Now()
		thaw := e.frozen(st.Primary, "agent")
		first := e.takenOver(st.Primary, at, 30*time.Second)
		if took := first.At.Sub(at); took < 4*time.Second {
			e.Errorf("it took over after %s, before the lease was over", took)
		}
		thaw()
	}, moved},
	{"host of the primary frozen and thawed later", func(e *e2e, st api.Status) {
		at := time.Now()
		one, two := e.frozen(st.Primary, "mysqld"), e.frozen(st.Primary, "agent")
		e.takenOver(st.Primary, at, 30*time.Second)
		one()
		two()
	}, moved},
	{"mysqld of the primary killed and started by a stranger", func(e *e2e, st api.Status) { e.stranger(st, 0) }, moved},
	{"mysqld of the primary killed, and a stranger starts one after 1 s", func(e *e2e, st api.Status) { e.stranger(st, time.Second) }, moved},
	{"mysqld of the primary killed, and a stranger starts one after 2.5 s", func(e *e2e, st api.Status) { e.stranger(st, 2500*time.Millisecond) }, moved},
	{"mysqld of the primary killed, and a stranger starts one before anybody else hears of it", func(e *e2e, st api.Status) {
		for _, n := range st.Nodes {
			if n.Name != st.Primary {
				defer e.frozen(n.Name, "agent")()
			}
		}
		at := time.Now()
		args := e.restarted(st.Primary, time.Second)
		e.wait(time.Until(at.Add(3 * time.Second))) // before the lease is over
		e.endLoser(st.Primary, args)
	}, maybe},
	{"mysqld of the primary dies again and again", func(e *e2e, st api.Status) {
		at := time.Now()
		for range 50 { // ten seconds
			for _, pid := range e.PIDs(st.Primary, "mysqld") {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			e.wait(200 * time.Millisecond)
		}
		e.takenOver(st.Primary, at, 20*time.Second)
	}, moved},
	{"the others purged what a replica lacks", func(e *e2e, st api.Status) {
		r := replicaOf(st)
		e.kill(r, sandbox.KillHost)
		e.grow(200)
		for _, n := range st.Nodes {
			if n.Name == r {
				continue
			}
			e.purge(n.Name)
		}
		e.start(r)
		e.eventually(60*time.Second, "it is copied anew", func() (bool, string) {
			text := e.ha("events", "-n", "5")
			return strings.Contains(text, r+" was rebuilt"), text
		})
	}, stays},
	{"an acker's mysqld frozen for 6 s", func(e *e2e, st api.Status) {
		thaw := e.frozen(replicaOf(st), "mysqld")
		e.grow(100)
		e.wait(6 * time.Second)
		thaw()
	}, stays},
	{"errant transaction on a replica", func(e *e2e, st api.Status) {
		r := e.root(replicaOf(st))
		ctx := e.Context()
		c, err := r.Conn(ctx)
		if err != nil {
			e.Fatal(err)
		}
		defer c.Close()
		// Its agent may close it between the two.
		e.eventually(10*time.Second, "a row of its own", func() (bool, string) {
			_, err := c.ExecContext(ctx, "SET GLOBAL super_read_only=0")
			if err == nil {
				_, err = c.ExecContext(ctx, fmt.Sprintf("INSERT INTO load_rows VALUES (%d, 7)", -time.Now().UnixNano()))
			}
			return err == nil, fmt.Sprint(err)
		})
		_, _ = c.ExecContext(ctx, "SET GLOBAL super_read_only=1")
		e.eventually(60*time.Second, "it is seen", func() (bool, string) {
			text := fmt.Sprint(e.status().Issues, e.status().Doing)
			return strings.Contains(text, "HA-ERRANT") || strings.Contains(text, "HA-DIVERGED") || strings.Contains(text, "rebuil"), text
		})
	}, stays},
	{"replication account dropped", func(e *e2e, st api.Status) {
		db := e.root(st.Primary)
		var id string
		for _, n := range st.Nodes {
			if n.Name == replicaOf(st) {
				id = n.ID
			}
		}
		if _, err := db.ExecContext(e.Context(), "DROP USER 'ha_r_"+id+"'@'%'"); err != nil {
			e.Fatal(err)
		}
		e.endDumps(db)
		e.grow(50)
	}, stays},
	{"replication password changed", func(e *e2e, st api.Status) {
		db := e.root(st.Primary)
		var id string
		for _, n := range st.Nodes {
			if n.Name == replicaOf(st) {
				id = n.ID
			}
		}
		if _, err := db.ExecContext(e.Context(), "ALTER USER 'ha_r_"+id+"'@'%' IDENTIFIED BY 'another'"); err != nil {
			e.Fatal(err)
		}
		e.endDumps(db)
		e.grow(50)
	}, stays},
	{"a replica's threads stopped by hand", func(e *e2e, st api.Status) {
		if _, err := e.root(replicaOf(st)).ExecContext(e.Context(), "STOP REPLICA"); err != nil {
			e.Fatal(err)
		}
		e.grow(100)
	}, stays},
	{"semi-sync switched off by hand", func(e *e2e, st api.Status) {
		if _, err := e.root(st.Primary).ExecContext(e.Context(), "SET GLOBAL rpl_semi_sync_source_enabled=OFF"); err != nil {
			e.Fatal(err)
		}
		e.grow(100)
		e.eventually(20*time.Second, "it is on again", func() (bool, string) {
			var on bool
			err := e.root(st.Primary).QueryRowContext(e.Context(), "SELECT @@global.rpl_semi_sync_source_enabled").Scan(&on)
			return err == nil && on, fmt.Sprint(on, err)
		})
	}, stays},
}

// stranger starts the primary's mysqld a while after its death, which another one
// succeeds.
func (e *e2e) stranger(st api.Status, after time.Duration) {
	e.Helper()
	at := time.Now()
	args := e.restarted(st.Primary, after)
	e.takenOver(st.Primary, at, 20*time.Second)
	e.endLoser(st.Primary, args)
}

// restarted kills a node's mysqld, and somebody who is not its agent starts it again
// after a while.
func (e *e2e) restarted(node string, after time.Duration) (args []string) {
	e.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", e.PIDs(node, "mysqld")[0]))
	if err != nil {
		e.Fatal(err)
	}
	args = strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
	e.kill(node, sandbox.KillMysqld)
	e.wait(after)
	stranger := exec.Command(args[0], args[1:]...)
	if err := stranger.Start(); err != nil {
		e.Fatal(err)
	}
	go func() { _ = stranger.Wait() }()
	return args
}

// purge has a server begin a new binary log and delete those before it.
func (e *e2e) purge(node string) {
	e.Helper()
	db := e.root(node)
	_, err := db.ExecContext(e.Context(), "FLUSH BINARY LOGS")
	var name, size, crypted string
	if err == nil {
		rows, qerr := db.QueryContext(e.Context(), "SHOW BINARY LOGS")
		if err = qerr; err == nil {
			for rows.Next() {
				err = errors.Join(err, rows.Scan(&name, &size, &crypted))
			}
			err = errors.Join(err, rows.Err(), rows.Close())
		}
	}
	if err == nil {
		_, err = db.ExecContext(e.Context(), "PURGE BINARY LOGS TO '"+name+"'")
	}
	if err != nil {
		e.Fatalf("purge %s: %v", node, err)
	}
}

func (e *e2e) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-e.Context().Done():
	}
}

// settings checks that semi-sync and read-only are everywhere as they must be.
func (e *e2e) settings(st api.Status) {
	e.Helper()
	for _, n := range st.Nodes {
		if n.Mysqld != "running" {
			continue
		}
		var ro, source, replica, noReplica bool
		var k int
		err := e.root(n.Name).QueryRowContext(e.Context(), "SELECT @@global.super_read_only, @@global.rpl_semi_sync_source_enabled, @@global.rpl_semi_sync_replica_enabled, "+
			"@@global.rpl_semi_sync_source_wait_no_replica, @@global.rpl_semi_sync_source_wait_for_replica_count").Scan(&ro, &source, &replica, &noReplica, &k)
		primary := n.Name == st.Primary
		if err != nil || ro == primary || source != primary || replica == primary || primary && (!noReplica || k != 1) {
			e.Errorf("settings of %s (primary: %v): super_read_only %v, source %v, replica %v, wait_no_replica %v, count %d, %v", n.Name, primary, ro, source, replica, noReplica, k, err)
		}
	}
}

// quickFaults are a choice of each kind, for make test; make faults plays them all.
const quickFaults = "^mysqld of the primary frozen|until another took over|one after 1 s|others purged|errant|account dropped|threads stopped by hand|switched off by hand|ack is dropped|commits wait"

// TestFaults strikes with each fault in turn, under load (HA_FAULTS=all), with a
// choice of them, or with those whose names match HA_FAULT_ONLY.
func TestFaults(t *testing.T) {
	e := newE2E(t, "127.0.59.0")
	choice := os.Getenv("HA_FAULT_ONLY")
	if choice == "" && os.Getenv("HA_FAULTS") != "all" {
		choice = quickFaults
	}
	only, err := regexp.Compile(choice)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range slices.Concat(faults, replicationFaults) {
		if !only.MatchString(f.name) {
			continue
		}
		before := e.healthy()
		at := time.Now()
		f.strike(e, before)
		e.grow(50)
		struck := time.Now()
		after := e.healthy()
		t.Logf("%s: %s then %s, epoch %d to %d, longest gap %s, well %s later", f.name, before.Primary, after.Primary, before.Epoch, after.Epoch,
			load.Gap(e.load.Acks(), at, time.Now()).Round(time.Millisecond), time.Since(struck).Round(10*time.Millisecond))
		if is := after.Primary != before.Primary; f.moves != maybe && is != (f.moves == moved) {
			t.Errorf("%s: the primary was %s and is %s", f.name, before.Primary, after.Primary)
		}
		e.settings(after)
	}
	e.check()
}
