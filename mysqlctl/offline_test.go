package mysqlctl_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/mysqlctl/mysqltest"
)

func offline(t *testing.T, n *mysqltest.Node) gtid.Set {
	t.Helper()
	set, err := n.OfflinePosition()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func wantSet(t *testing.T, what string, got, want gtid.Set) {
	t.Helper()
	if !got.Equal(want) {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// What is read from the disk of a dead server is what it says when it lives again.
func TestOfflinePositionIsWhatAStartWouldExecute(t *testing.T) {
	n := mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...)
	ctx := mysqltest.Ctx(t, time.Minute)
	for i := range 30 {
		must(t, n.Insert(ctx, fmt.Sprint(i)))
	}
	before := n.MustStatus().Executed
	must(t, n.Kill(ctx))
	wantSet(t, "after kill -9", offline(t, n), before)

	must(t, n.Start(ctx))
	wantSet(t, "after the start", n.MustStatus().Executed, before)
	must(t, n.OpenWrites(ctx))
	// Everything a binary log can hold: tags, compression, DDL, XA, big ones, rotation.
	c, err := n.Root.Conn(ctx)
	must(t, err)
	for _, s := range []string{
		"SET gtid_next = 'AUTOMATIC:some_tag'", "INSERT INTO app.t (v) VALUES ('tagged')", "INSERT INTO app.t (v) VALUES ('tagged')",
		"SET gtid_next = 'AUTOMATIC'", "FLUSH BINARY LOGS",
		"SET gtid_next = 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:only_tags:7'", "INSERT INTO app.t (v) VALUES ('foreign')",
		"SET gtid_next = 'AUTOMATIC'", "SET binlog_transaction_compression = ON", "INSERT INTO app.t (v) SELECT REPEAT('x', 1000) FROM app.t", "FLUSH BINARY LOGS",
		"CREATE TABLE app.other (id INT PRIMARY KEY)", "XA START 'x'", "INSERT INTO app.other VALUES (1)", "XA END 'x'", "XA PREPARE 'x'", "XA COMMIT 'x'",
		"XA START 'y'", "INSERT INTO app.other VALUES (2)", "XA END 'y'", "XA PREPARE 'y'",
	} {
		_, err = c.ExecContext(ctx, s)
		must(t, err)
	}
	must(t, c.Close())
	must(t, n.ConfigureSource(ctx, 1))
	acknowledged := n.MustStatus().Executed
	waiting := n.InsertWaiting("waits")
	_ = n.InsertWaiting("waits behind")
	must(t, n.Kill(ctx))
	<-waiting
	dead := offline(t, n)
	if extra := dead.Minus(acknowledged); extra.Count() != 2 || !dead.Contains(acknowledged) {
		t.Errorf("with two that wait: %s, executed was %s", dead, acknowledged)
	}
	must(t, n.Start(ctx))
	wantSet(t, "the start commits what waited", n.MustStatus().Executed, dead)
	must(t, n.Stop(ctx))
	wantSet(t, "after a clean end", offline(t, n), dead)
	must(t, n.Start(ctx))
}

// What a dead replica has received, applied or not, is read from its relay logs.
func TestOfflineReceived(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 1, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, time.Minute)
	received := func() gtid.Set {
		t.Helper()
		set, err := r.OfflineReceived()
		must(t, err)
		return set
	}
	must(t, p.Insert(ctx, "applied"))
	mysqltest.CaughtUp(t, p, r)
	must(t, r.StopApplier(ctx))
	must(t, p.Insert(ctx, "received"))
	want := r.MustStatus()
	if want.Executed.Contains(want.Received) {
		t.Fatal("it was applied")
	}
	_, err := r.OfflineReceived()
	mustBe(t, err, mysqlctl.ErrRunning)
	must(t, r.Kill(ctx))
	if got := received(); !got.Contains(want.Received.Minus(want.Executed)) || !p.MustStatus().Executed.Contains(got) {
		t.Errorf("%s, want %s", got, want.Received)
	}
	must(t, r.Start(ctx))
	must(t, r.DiscardReceived(ctx))
	must(t, r.Kill(ctx))
	wantSet(t, "without a channel", received(), gtid.Set{})
	must(t, p.Kill(ctx))
	set, err := p.OfflineReceived()
	must(t, err)
	wantSet(t, "of a primary", set, gtid.Set{})
}

// A transaction of which only a part reached the disk is dropped by a start.
func TestOfflinePositionLeavesOutHalfATransaction(t *testing.T) {
	n := mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...)
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, n.ConfigureSource(ctx, 1))
	before := n.MustStatus().Executed
	_ = n.InsertWaiting("whole, then cut")
	must(t, n.Kill(ctx))
	whole := offline(t, n)
	if whole.Equal(before) {
		t.Fatal("the transaction is not in the log")
	}
	name := lastBinlog(t, n)
	st, err := os.Stat(name)
	must(t, err)
	size := st.Size()
	for _, cut := range []int64{1, 4, 31, 32, 100} {
		must(t, os.Truncate(name, size-cut))
		wantSet(t, fmt.Sprintf("without the last %d bytes", cut), offline(t, n), before)
	}
	must(t, os.Truncate(name, size)) // zeros, as a file system may leave them
	wantSet(t, "with zeros", offline(t, n), before)
	must(t, n.Start(ctx))
	wantSet(t, "the start drops it", n.MustStatus().Executed, before)
	if got := n.Value("SELECT COUNT(*) FROM app.t"); got != "0" {
		t.Errorf("%s rows", got)
	}
}

func lastBinlog(t *testing.T, n *mysqltest.Node) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(n.Config.DataDir, "binlog.0*"))
	if err != nil || len(names) == 0 {
		t.Fatal("no binary log", err)
	}
	return names[len(names)-1]
}

func TestOfflinePositionRefusesWhatItCannotKnow(t *testing.T) {
	n := mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...)
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, n.Insert(ctx, "row"))
	must(t, n.Kill(ctx))
	name := lastBinlog(t, n)
	good, err := os.ReadFile(name)
	must(t, err)
	for what, change := range map[string]func([]byte){
		"encrypted": func(b []byte) { b[0] = 0xfd },
		"bit rot":   func(b []byte) { b[len(b)-40] ^= 1 },
	} {
		bad := append([]byte(nil), good...)
		change(bad)
		must(t, os.WriteFile(name, bad, 0o600))
		if set, err := n.OfflinePosition(); !errors.Is(err, mysqlctl.ErrUnreadable) {
			t.Errorf("%s: %s, %v", what, set, err)
		}
	}
	must(t, os.WriteFile(name, good, 0o600))
	offline(t, n)
	// The data were put back from a copy: what ha noted is of another life.
	data := filepath.Join(n.Config.DataDir, "ibdata1")
	must(t, os.Rename(data, data+".old"))
	text, err := os.ReadFile(data + ".old")
	must(t, err)
	must(t, os.WriteFile(data, text, 0o600))
	_, err = n.OfflinePosition()
	mustBe(t, err, mysqlctl.ErrUnreadable)

	fresh := mysqltest.New(t)
	_, err = fresh.OfflinePosition()
	mustBe(t, err, mysqlctl.ErrUnreadable)
}

// A cut by hand, as the rejoin does it: the log, and a new uuid.
func TestOfflinePositionAfterAUUIDWasRemoved(t *testing.T) {
	n := mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...)
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, n.Insert(ctx, "row"))
	old := n.MustStatus()
	must(t, n.Kill(ctx))
	must(t, os.Remove(filepath.Join(n.Config.DataDir, "auto.cnf")))
	if uuid, err := n.ServerUUIDOnDisk(); uuid != "" || err != nil {
		t.Errorf("uuid %q, %v", uuid, err)
	}
	wantSet(t, "without auto.cnf", offline(t, n), old.Executed)
	must(t, n.Start(ctx))
	if st := n.MustStatus(); st.ServerUUID == old.ServerUUID || !st.Executed.Equal(old.Executed) {
		t.Errorf("started as %s with %s", st.ServerUUID, st.Executed)
	}
}
