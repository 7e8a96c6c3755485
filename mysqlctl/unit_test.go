package mysqlctl

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"ha/mysqlctl/gtid"
)

func TestDialects(t *testing.T) {
	change := func(d dialect) string {
		return d.changeSource(option{"HOST", "'h'"}, option{"PORT", "1"}, option{"GET_PUBLIC_KEY", "1"}, option{"PASSWORD", ""}, option{"AUTO_POSITION", "1"})
	}
	for _, c := range []struct {
		version, start, change, show, binlog, reset, enabled, count, wait, plugins, updates string
	}{
		{"5.7.44-log", "START SLAVE IO_THREAD", "CHANGE MASTER TO MASTER_HOST='h', MASTER_PORT=1, MASTER_AUTO_POSITION=1", "SHOW SLAVE STATUS",
			"SHOW MASTER STATUS", "RESET MASTER", "rpl_semi_sync_master_enabled", "rpl_semi_sync_master_wait_for_slave_count", "rpl_semi_sync_master_wait_no_slave",
			"rpl_semi_sync_master=semisync_master.so;rpl_semi_sync_slave=semisync_slave.so", "--log-slave-updates=ON"},
		{"8.0.21", "START SLAVE IO_THREAD", "CHANGE MASTER TO MASTER_HOST='h', MASTER_PORT=1, GET_MASTER_PUBLIC_KEY=1, MASTER_AUTO_POSITION=1", "SHOW SLAVE STATUS",
			"SHOW MASTER STATUS", "RESET MASTER", "rpl_semi_sync_master_enabled", "rpl_semi_sync_master_wait_for_slave_count", "rpl_semi_sync_master_wait_no_slave",
			"rpl_semi_sync_master=semisync_master.so;rpl_semi_sync_slave=semisync_slave.so;clone=mysql_clone.so", "--log-slave-updates=ON"},
		{"8.0.22", "START REPLICA IO_THREAD", "CHANGE MASTER TO MASTER_HOST='h', MASTER_PORT=1, GET_MASTER_PUBLIC_KEY=1, MASTER_AUTO_POSITION=1", "SHOW REPLICA STATUS",
			"SHOW MASTER STATUS", "RESET MASTER", "rpl_semi_sync_master_enabled", "rpl_semi_sync_master_wait_for_slave_count", "rpl_semi_sync_master_wait_no_slave",
			"rpl_semi_sync_master=semisync_master.so;rpl_semi_sync_slave=semisync_slave.so;clone=mysql_clone.so", "--log-slave-updates=ON"},
		{"8.0.36", "START REPLICA IO_THREAD", "CHANGE REPLICATION SOURCE TO SOURCE_HOST='h', SOURCE_PORT=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_AUTO_POSITION=1", "SHOW REPLICA STATUS",
			"SHOW MASTER STATUS", "RESET MASTER", "rpl_semi_sync_source_enabled", "rpl_semi_sync_source_wait_for_replica_count", "rpl_semi_sync_source_wait_no_replica",
			"rpl_semi_sync_source=semisync_source.so;rpl_semi_sync_replica=semisync_replica.so;clone=mysql_clone.so", "--log-replica-updates=ON"},
		{"8.4.2", "START REPLICA IO_THREAD", "CHANGE REPLICATION SOURCE TO SOURCE_HOST='h', SOURCE_PORT=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_AUTO_POSITION=1", "SHOW REPLICA STATUS",
			"SHOW BINARY LOG STATUS", "RESET BINARY LOGS AND GTIDS", "rpl_semi_sync_source_enabled", "rpl_semi_sync_source_wait_for_replica_count", "rpl_semi_sync_source_wait_no_replica",
			"rpl_semi_sync_source=semisync_source.so;rpl_semi_sync_replica=semisync_replica.so;clone=mysql_clone.so", "--log-replica-updates=ON"},
		{"9.7.4-2 for Linux on x86_64 ((Debian))", "START REPLICA IO_THREAD", "CHANGE REPLICATION SOURCE TO SOURCE_HOST='h', SOURCE_PORT=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_AUTO_POSITION=1", "SHOW REPLICA STATUS",
			"SHOW BINARY LOG STATUS", "RESET BINARY LOGS AND GTIDS", "rpl_semi_sync_source_enabled", "rpl_semi_sync_source_wait_for_replica_count", "rpl_semi_sync_source_wait_no_replica",
			"rpl_semi_sync_source=semisync_source.so;rpl_semi_sync_replica=semisync_replica.so;clone=mysql_clone.so", "--log-replica-updates=ON"},
	} {
		d, err := dialectOf(c.version)
		if err != nil {
			t.Fatal(err)
		}
		args := New(Config{DataDir: "/none", DefaultsFile: "/my.cnf", Options: []string{"--super-read-only=OFF", "--max-relay-log-size=0"}}, nil).startArgs(d, "/init")
		if args[0] != "--defaults-file=/my.cnf" || slices.Index(args, "--super-read-only=ON") < slices.Index(args, "--super-read-only=OFF") {
			t.Errorf("%s: the order of %q", c.version, args)
		}
		// What only tunes a server is for who has no my.cnf.
		bare := New(Config{DataDir: "/none"}, nil).startArgs(d, "/init")
		for tuned, want := range map[string]bool{"--loose-innodb-log-writer-threads=ON": true, "--replica-parallel-workers=16": d.atLeast(8, 0, 27)} {
			if slices.Contains(args, tuned) || slices.Contains(bare, tuned) != want {
				t.Errorf("%s: %s: %q, without a my.cnf %q", c.version, tuned, args, bare)
			}
		}
		if ours := slices.Index(args, "--max-relay-log-size=33554432"); ours < 0 || slices.Index(args, "--max-relay-log-size=0") < ours {
			t.Errorf("%s: who may choose the size of relay logs cannot: %q", c.version, args)
		}
		for _, arg := range []string{c.updates, "--loose-binlog-expire-logs-auto-purge=OFF"} {
			if !slices.Contains(args, arg) {
				t.Errorf("%s: %s is not in %q", c.version, arg, args)
			}
		}
		if own := slices.Contains(args, "--replicate-same-server-id=ON"); own != d.atLeast(8, 0, 0) {
			t.Errorf("%s: rows of its own server_id: %v", c.version, own)
		}
		for _, pair := range [][2]string{{d.startReceiver(), c.start}, {change(d), c.change}, {d.showReplica(), c.show}, {d.showBinlog(), c.binlog}, {d.resetBinlogs(), c.reset},
			{d.semiSource(), c.enabled}, {d.waitCount(), c.count}, {d.waitNoReplica(), c.wait}, {d.plugins(), c.plugins}} {
			if pair[0] != pair[1] {
				t.Errorf("%s: %q, want %q", c.version, pair[0], pair[1])
			}
		}
		statements := strings.Join(accountStatements(d, Account{User: "ha_agent", Password: "x"}), "\n")
		if dynamic := strings.Contains(statements, "BACKUP_ADMIN"); dynamic != d.hasDynamicPrivileges() {
			t.Errorf("%s: BACKUP_ADMIN %v in %s", c.version, dynamic, statements)
		}
	}
	for _, version := range []string{"", "10.11.19-MariaDB", "5.6.51"} {
		if _, err := dialectOf(version); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%q: %v", version, err)
		}
	}
}

// previous encodes a Previous_gtids event's body.
func previous(tagged bool, sources ...[]any) []byte {
	head := uint64(len(sources))
	if tagged {
		head = 1 | head<<8 | 1<<56
	}
	b := binary.LittleEndian.AppendUint64(nil, head)
	for _, s := range sources {
		sid, _ := hex.DecodeString(strings.Repeat(s[0].(string), 16))
		b = append(b, sid...)
		tag := s[1].(string)
		if tagged {
			b = append(append(b, byte(len(tag)<<1)), tag...)
		}
		runs := s[2:]
		b = binary.LittleEndian.AppendUint64(b, uint64(len(runs)/2))
		for _, n := range runs {
			b = binary.LittleEndian.AppendUint64(b, uint64(n.(int)))
		}
	}
	return b
}

func TestPreviousGtids(t *testing.T) {
	a, b := "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", "bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb"
	for want, body := range map[string][]byte{
		"":                                  previous(false),
		a + ":1-9":                          previous(false, []any{"aa", "", 1, 10}),
		a + ":1-9:12," + b + ":3":           previous(false, []any{"aa", "", 1, 10, 12, 13}, []any{"bb", "", 3, 4}),
		a + ":1-9," + b + ":3:tag:5":        previous(true, []any{"aa", "", 1, 10}, []any{"bb", "", 3, 4}, []any{"bb", "tag", 5, 6}),
		a + ":1-9," + b + ":only_tags:7-19": previous(true, []any{"aa", "", 1, 10}, []any{"bb", "only_tags", 7, 20}),
	} {
		var c gtidCollector
		if err := c.addPrevious(body); err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		got, err := c.set()
		if err != nil || !got.Equal(gtid.MustParse(want)) {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
		for n := range body { // cut anywhere: an error, and no panic
			if err := new(gtidCollector).addPrevious(body[:n]); !errors.Is(err, ErrUnreadable) && n < len(body) {
				t.Errorf("%s cut at %d: %v", want, n, err)
			}
		}
	}
}

// The last log of a server that was killed: Previous_gtids with tags, one source with
// tags only; DDL, XA, and two commits at its end that waited for an acknowledgement.
const crashed = "testdata/crashed.binlog"

func TestReadBinlogOfACrashedServer(t *testing.T) {
	set, begun, err := readBinlog(crashed)
	if err != nil || !begun {
		t.Fatal(begun, err)
	}
	if want := gtid.MustParse("4fafe504-e6cd-11f1-a1e0-02fc00000001:1-42:some_tag:1-2,aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:only_tags:7"); !set.Equal(want) {
		t.Errorf("%s, want %s", set, want)
	}
	whole, err := os.ReadFile(crashed)
	if err != nil {
		t.Fatal(err)
	}
	// Cut anywhere it is a log with less in it, and never an error.
	var last gtid.Set
	for n := range whole {
		got, _, err := readEvents(bytes.NewReader(whole[:n]), int64(n))
		if err != nil || !got.Contains(last) || !set.Contains(got) {
			t.Fatalf("cut at %d: %s, %v", n, got, err)
		}
		last = got
	}
}

func FuzzReadBinlog(f *testing.F) {
	whole, err := os.ReadFile(crashed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, text []byte) {
		// They must not panic, nor hang.
		_, _, _ = readEvents(bytes.NewReader(text), int64(len(text)))
		_, _ = findTail(t.Context(), bytes.NewReader(text), int64(len(text)), gtid.MustParse("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:1"))
	})
}

func TestLastErrors(t *testing.T) {
	log := `2026 0 [Warning] [MY-1] careful
2026 0 [ERROR] [MY-2] first
2026 0 [ERROR] [MY-3] second
2026 0 [ERROR] [MY-4] third
2026 0 [ERROR] [MY-5] fourth
2026 0 [System] bye
`
	if got := lastErrors(strings.NewReader(log)); got != "[MY-3] second; [MY-4] third; [MY-5] fourth" {
		t.Error(got)
	}
	if got := lastErrors(strings.NewReader("ld.so: no such file\n\n")); got != "ld.so: no such file" {
		t.Error(got)
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{`a`: `'a'`, `it's`: `'it''s'`, `a\b`: `'a\\b'`, "two\nlines": `'two\nlines'`, "": "''"} {
		if got := quote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestOpens(t *testing.T) {
	for query, want := range map[string]bool{"BEGIN": true, "XA START X'78',X'',1": true, "COMMIT": false, "DROP TABLE x": false, "SAVEPOINT a": true} {
		if opens(query) != want {
			t.Errorf("%s: %v", query, !want)
		}
	}
}

// Whoever watches a clone is told again and again also where the server does not answer:
// else nobody would end a copy of which nothing comes.
func TestCloneIsWatchedWhereNothingAnswers(t *testing.T) {
	s := New(Config{DataDir: t.TempDir()}, nil)
	calls, done, ended := 0, make(chan error, 1), errors.New("ended")
	err := s.watchClone(t.Context(), done, func(p CloneProgress) {
		if calls++; calls == 3 {
			done <- ended
		}
	})
	if !errors.Is(err, ended) || calls < 3 {
		t.Errorf("%v after %d calls", err, calls)
	}
}
