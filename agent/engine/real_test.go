package engine

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ha/agent/api"
	"ha/xtra"
)

// slow lets a copy take long enough to be broken, in bytes per second of the stream.
const slow = 20 << 20

// realDonor is a MariaDB with some 80 MB, under load, and what gives copies of it.
func realDonor(t *testing.T) (*server, *Donor) {
	s := newServer(t, mariadb(t))
	s.start(1, "root", "")
	s.exec("CREATE USER ha@localhost IDENTIFIED BY 'a\"b\\\\c#d ''e'; GRANT ALL ON *.* TO ha@localhost WITH GRANT OPTION")
	s.exec("CREATE DATABASE app; CREATE TABLE app.small (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(900)); CREATE TABLE app.aria (id INT PRIMARY KEY) ENGINE=Aria; INSERT INTO app.aria VALUES (1), (2)")
	// Random bytes: what can be compressed is sent in no time.
	s.exec("CREATE TABLE app.big (id INT PRIMARY KEY, n INT DEFAULT 0, b LONGBLOB) AS SELECT seq AS id, 0 AS n, CONCAT(RANDOM_BYTES(1024), RANDOM_BYTES(300)) AS b FROM app.seq_1_to_3000")
	for i := range 4 {
		s.exec("INSERT INTO app.big SELECT id + 3000 * (1 << " + strconv.Itoa(i) + "), n, CONCAT(RANDOM_BYTES(1024), RANDOM_BYTES(300)) FROM app.big")
	}
	d := &Donor{Login: s.login, Node: "n1", Dir: s.login.DataDir + ".tool", Log: slog.New(slog.DiscardHandler),
		Version: func(ctx context.Context) (v string, err error) {
			return v, s.db.QueryRowContext(ctx, "SELECT @@version").Scan(&v)
		}}
	return s, d
}

// place is an empty data directory, with a server of its own to be.
func place(t *testing.T, prefix string) (*server, xtra.Place) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ha-mdb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &server{t: t, prefix: prefix, login: Login{DataDir: filepath.Join(dir, "data"), Socket: filepath.Join(dir, "s")}}
	if err := os.Mkdir(s.login.DataDir, 0o750); err != nil {
		t.Fatal(err)
	}
	return s, xtra.Place{DataDir: s.login.DataDir}
}

// sequence is the number in MariaDB's GTID 0-1-N.
func sequence(t *testing.T, id string) int {
	t.Helper()
	n, err := strconv.Atoi(id[strings.LastIndex(id, "-")+1:])
	if err != nil {
		t.Fatalf("%q is no GTID of one domain: %v", id, err)
	}
	return n
}

// A copy under load becomes a replica of its donor: so its position is exactly that of
// its rows. One transaction too many or too few would end the replication, or differ.
func TestMariaDBCopyFollowsItsDonor(t *testing.T) {
	for name, throttle := range map[string]int64{"throttled": slow, "in parallel": 0} {
		t.Run(name, func(t *testing.T) { testMariaDBCopy(t, throttle) })
	}
}

func testMariaDBCopy(t *testing.T, throttle int64) {
	src, d := realDonor(t)
	addr, client := serve(t, d)
	dst, p := place(t, src.prefix)
	if err := p.Prepare(); err != nil {
		t.Fatal(err)
	}
	stop := src.load()
	first := sequence(t, src.get("SELECT @@gtid_binlog_pos"))
	var got Copy
	var sawArgs, sawCopied atomic.Bool
	copied := func(ctx context.Context, dir string, _ xtra.Progress) (err error) {
		got, err = MariaDBBackup.Fetch(ctx, client, addr, dir, throttle, func(at api.BackupProgress) {
			sawCopied.Store(sawCopied.Load() || at.Done > 1<<20)
			for _, line := range processes(t, d.Dir) {
				sawArgs.Store(true)
				if strings.Contains(line, "c#d") {
					t.Errorf("the password is for all to see: %s", line)
				}
			}
		})
		return err
	}
	began := time.Now()
	if err := p.Take(t.Context(), copied, nil); err != nil {
		t.Fatal(err)
	}
	last := sequence(t, src.get("SELECT @@gtid_binlog_pos"))
	t.Logf("%d MB in %s, GTID %s of %d to %d", got.Bytes>>20, time.Since(began).Round(time.Millisecond), got.GTID, first, last)
	if n := sequence(t, got.GTID); n <= first || n > last || got.Bytes < 50<<20 {
		t.Errorf("copied %d bytes at %s, between %d and %d", got.Bytes, got.GTID, first, last)
	}
	if !sawArgs.Load() || !sawCopied.Load() {
		t.Errorf("the tool was seen: %v; progress was told: %v", sawArgs.Load(), sawCopied.Load())
	}
	nothingLeft(t, d, p)
	if err := p.Swap(); err != nil {
		t.Fatal(err)
	}
	dst.start(2, "ha", password)
	if n := stop(); n == 0 {
		t.Error("there was no load")
	}
	// Its networking is off: the replica comes over a port of this test.
	port := relay(t, src.login.Socket)
	dst.exec("SET GLOBAL gtid_slave_pos = '" + got.GTID + "'")
	dst.exec("CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=" + port + ", MASTER_USER='ha', MASTER_PASSWORD='a\"b\\\\c#d ''e', MASTER_USE_GTID=slave_pos; START SLAVE")
	end := src.get("SELECT @@gtid_binlog_pos")
	if why := dst.get("SELECT MASTER_GTID_WAIT('" + end + "', 60)"); why != "0" {
		t.Fatalf("the copy does not come to %s: it is at %s", end, dst.get("SELECT @@gtid_slave_pos"))
	}
	if want, have := src.sums(), dst.sums(); want != have || !strings.Contains(want, "app.big=") {
		t.Errorf("donor %s, copy %s", want, have)
	}
}

// nothingLeft says that no tool runs and that its directory is gone.
func nothingLeft(t *testing.T, d *Donor, p xtra.Place) {
	t.Helper()
	within(t, 10*time.Second, "tools and their directories gone", func() bool {
		_, err := os.Lstat(d.Dir)
		return err != nil && len(processes(t, d.Dir)) == 0 && len(processes(t, p.DataDir)) == 0
	})
}

func TestMariaDBBrokenCopyIsNone(t *testing.T) {
	src, d := realDonor(t)
	defer src.load()()
	var flip atomic.Bool
	addr, client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if flip.Load() {
			w = &flipper{ResponseWriter: w}
		}
		d.ServeHTTP(w, r)
	}))
	kill := func(t *testing.T, words ...string) {
		t.Helper()
		found := processes(t, words...)
		if len(found) != 1 {
			t.Errorf("processes with %q: %v", words, found)
		}
		for pid := range found {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
	for name, c := range map[string]struct {
		harm func(t *testing.T, p xtra.Place, cut, cancel func())
		want string
	}{
		"donor's tool killed":   {func(t *testing.T, _ xtra.Place, _, _ func()) { kill(t, "--backup", d.Dir) }, "mariadb-backup: signal: killed"},
		"unpacking tool killed": {func(t *testing.T, p xtra.Place, _, _ func()) { kill(t, "mbstream", p.DataDir) }, "mbstream: signal: killed"},
		"connection cut":        {func(_ *testing.T, _ xtra.Place, cut, _ func()) { cut() }, "the donor is gone"},
		"canceled":              {func(_ *testing.T, _ xtra.Place, _, cancel func()) { cancel() }, context.Canceled.Error()},
		// Whose sum finds it first, zstd's, the unpacking tool's or ours, is chance.
		"flipped byte": {func(*testing.T, xtra.Place, func(), func()) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			flip.Store(name == "flipped byte")
			_, p := place(t, src.prefix)
			if err := p.Prepare(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			through, cut := cable(t, addr)
			var harmed atomic.Bool
			err := p.Take(ctx, func(ctx context.Context, dir string, _ xtra.Progress) error {
				_, err := MariaDBBackup.Fetch(ctx, client, through, dir, slow, func(at api.BackupProgress) {
					if at.Done > 8<<20 && harmed.CompareAndSwap(false, true) {
						c.harm(t, p, cut, cancel)
					}
				})
				if _, there := os.Lstat(dir); there == nil {
					t.Errorf("half a copy was left")
				}
				return err
			}, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || !harmed.Load() {
				t.Errorf("harmed %v: %v", harmed.Load(), err)
			}
			if _, err := os.Lstat(p.DataDir + ".new"); err == nil {
				t.Error("half a copy has a good name")
			}
			nothingLeft(t, d, p)
		})
	}
	// The donor is as good as before.
	flip.Store(false)
	_, p := place(t, src.prefix)
	if _, err := MariaDBBackup.Fetch(t.Context(), client, addr, p.DataDir+".copy", 0, func(api.BackupProgress) {}); err != nil {
		t.Error(err)
	}
}

// flipper turns one bit of what it sends, some way in.
type flipper struct {
	http.ResponseWriter
	sent int
}

func (f *flipper) Write(p []byte) (int, error) {
	if before := f.sent; before < 20<<20 && before+len(p) >= 20<<20 {
		p = append([]byte(nil), p...)
		p[len(p)/2] ^= 1
	}
	f.sent += len(p)
	return f.ResponseWriter.Write(p)
}

func (f *flipper) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// cable passes connections on to addr until it is cut.
func cable(t *testing.T, addr string) (through string, cut func()) {
	t.Helper()
	return pass(t, "tcp", addr)
}

// relay passes connections on to a socket.
func relay(t *testing.T, socket string) (port string) {
	t.Helper()
	through, _ := pass(t, "unix", socket)
	_, port, _ = net.SplitHostPort(through)
	return port
}

func pass(t *testing.T, network, addr string) (through string, cut func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial(network, addr)
			if err != nil {
				_ = in.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _ = in.Close(); _ = out.Close() })
			for _, ends := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(ends[0], ends[1])
					_ = ends[0].Close()
				}()
			}
		}
	}()
	return l.Addr().String(), cancel
}
