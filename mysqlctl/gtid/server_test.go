package gtid

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// connect starts a MySQL server of its own and returns one connection to it.
// The binary is $HA_MYSQLD; without it, and under -short, the test is skipped.
func connect(t *testing.T) *sql.Conn {
	if testing.Short() {
		t.Skip("-short: not compared with a real server")
	}
	binary := os.Getenv("HA_MYSQLD")
	if binary == "" {
		t.Skip("NOT COMPARED WITH A REAL SERVER: set HA_MYSQLD to a mysqld, as .deps/mysql/bin/mysqld of `make deps`")
	}
	// t.TempDir holds the test's name: too long for a socket.
	sockets, err := os.MkdirTemp("", "gtid")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	socket := filepath.Join(sockets, "s")
	datadir := filepath.Join(t.TempDir(), "data")

	run := func(args ...string) (*exec.Cmd, *strings.Builder) {
		cmd := exec.Command(binary, append([]string{"--no-defaults", "--user=root", "--datadir=" + datadir}, args...)...)
		// The wrapper may be a shell script: its group dies with it.
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.WaitDelay = 5 * time.Second
		return cmd, &out
	}
	// Pdeathsig fires when the starting thread ends, not the process: keep it.
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)

	if cmd, out := run("--initialize-insecure"); cmd.Run() != nil {
		t.Fatalf("initialise %s: %s", binary, out)
	}
	cmd, out := run("--socket="+socket, "--skip-networking", "--mysqlx=OFF", "--secure-file-priv=",
		"--pid-file="+filepath.Join(sockets, "pid"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		if t.Failed() {
			t.Logf("server log:\n%s", out)
		}
	})

	db, err := sql.Open("mysql", "root@unix("+socket+")/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		conn, err := db.Conn(context.Background())
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		select {
		case <-ended:
			t.Fatalf("the server ended before it accepted a connection: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("no connection: %v", err)
		}
	}
}

// canonical is how the server prints a set, without its newlines.
func canonical(conn *sql.Conn, set string) (string, error) {
	var out string
	err := conn.QueryRowContext(context.Background(), "SELECT GTID_SUBTRACT(?, '')", set).Scan(&out)
	return strings.ReplaceAll(out, "\n", ""), err
}

// randomText writes a random set, with noise, in any order.
func randomText(r *rand.Rand) string {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	space := func() string { return pick("", "", "", " ", "\n", "\t ") }
	var b strings.Builder
	for range r.IntN(5) {
		b.WriteString(space() + pick(u1, u2, strings.ToUpper(ua), ua[:35]+"b") + space())
		for range 1 + r.IntN(6) {
			if r.IntN(3) == 0 {
				b.WriteString(":" + space() + pick("a", "A", "a_", "a0", "ab", "_", "_9", "zz", "b5", strings.Repeat("t", 32)) + space())
			}
			first := 1 + r.Uint64N(20)
			if r.IntN(10) == 0 {
				first = maxNumber - r.Uint64N(20)
			}
			fmt.Fprintf(&b, ":%s%d%s", space(), first, space())
			if r.IntN(2) == 0 {
				fmt.Fprintf(&b, "-%s%d%s", space(), min(first+r.Uint64N(6), maxNumber), space())
			}
		}
		b.WriteString("," + space())
	}
	return b.String()
}

func TestAgainstServer(t *testing.T) {
	conn := connect(t)
	ctx := context.Background()
	var version string
	if err := conn.QueryRowContext(ctx, "SELECT VERSION()").Scan(&version); err != nil {
		t.Fatal(err)
	}
	t.Logf("server %s", version)
	t.Run("random pairs", func(t *testing.T) { compareRandomPairs(ctx, t, conn) })
	t.Run("gtid_executed", func(t *testing.T) { compareExecuted(ctx, t, conn) })
	t.Run("odd texts", func(t *testing.T) { compareOddTexts(t, conn) })
}

func compareRandomPairs(ctx context.Context, t *testing.T, conn *sql.Conn) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	subsets := 0
	for range 500 {
		textA, textB := randomText(r), randomText(r)
		a, b := MustParse(textA), MustParse(textB)
		if r.IntN(2) == 0 {
			b = a.Intersect(b)
			textB = b.String()
		}
		var subtract string
		var subset bool
		err := conn.QueryRowContext(ctx, "SELECT GTID_SUBTRACT(?, ?), GTID_SUBSET(?, ?)", textA, textB, textB, textA).Scan(&subtract, &subset)
		if err != nil {
			t.Fatalf("%q, %q: %v", textA, textB, err)
		}
		if got := a.Minus(b).String(); got != strings.ReplaceAll(subtract, "\n", "") {
			t.Errorf("%q minus %q = %q, server %q", textA, textB, got, subtract)
		}
		if got := a.Contains(b); got != subset {
			t.Errorf("%q contains %q = %v, server %v", textA, textB, got, subset)
		}
		if subset {
			subsets++
		}
		// The server has no union and intersection: a set is the union of its
		// text's parts, and what a loses without b it has in common with it.
		for _, text := range []string{textA, textA + "," + textB} {
			want, err := canonical(conn, text)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if got := MustParse(text).String(); got != want {
				t.Errorf("canonical %q = %q, server %q", text, got, want)
			}
		}
		if got := a.Union(b); !got.Equal(MustParse(textA + "," + textB)) {
			t.Errorf("%q union %q = %q", textA, textB, got)
		}
	}
	if subsets < 100 || subsets > 480 {
		t.Errorf("%d subsets among 500 pairs: the test data is lopsided", subsets)
	}
}

// compareExecuted reads what replication itself prints.
func compareExecuted(ctx context.Context, t *testing.T, conn *sql.Conn) {
	text := u2 + ":5:TAG_B:1:a:7-9," + u1 + ":1-3:9"
	if _, err := conn.ExecContext(ctx, "SET GLOBAL gtid_purged = '"+text+"'"); err != nil {
		t.Fatal(err)
	}
	var executed string
	if err := conn.QueryRowContext(ctx, "SELECT @@gtid_executed").Scan(&executed); err != nil {
		t.Fatal(err)
	}
	got, err := Parse(executed)
	if want := u1 + ":1-3:9,\n" + u2 + ":5:a:7-9:tag_b:1"; err != nil || executed != want ||
		got.String() != strings.ReplaceAll(want, "\n", "") || !got.Equal(MustParse(text)) {
		t.Errorf("gtid_executed %q parses as %q, %v; want %q", executed, got, err, want)
	}
}

// compareOddTexts pins down how the server reads texts that it never prints:
// where Parse accepts one, the meaning is the same; where Parse alone rejects
// it, the server's reading is written down here, and Parse says why. The
// readings are those of 9.7; older servers differ, see Parse.
func compareOddTexts(t *testing.T, conn *sql.Conn) {
	const refused = "refused"
	for _, c := range []struct{ text, server string }{
		{"", ""},
		{" , ,", ""},
		{u1 + ":1,,", u1 + ":1"},
		{u1 + ":9223372036854775806", u1 + ":9223372036854775806"},
		{u1 + ":9223372036854775807", refused},
		{u1 + ":0", refused},
		{u1 + ":1-", refused},
		{u1 + "::1", refused},
		{u1 + ":1x", refused},
		{u1 + ":1a:1", refused},
		{u1 + ":" + strings.Repeat("t", 33) + ":1", refused},
		{u1 + ":1 " + u2 + ":1", refused},
		{"1-5", refused},
		{u1 + ":0x10", refused},
		{u1 + ":+5", refused},
		{"+" + u1 + ":1", refused},
		{u1 + ":a: :1", refused},
		{u1 + ":", refused},
		{u1 + ":1:tag:", refused},
		{u1 + ":1\x00", refused},
		{u1 + ":1\u00a0", refused},
		{u1 + ":1\v\f\r", u1 + ":1"},
		// Parse alone rejects the rest.
		{u1 + ":5-3", ""},
		{u1 + ":1-0", ""},
		{u1, ""},
		{u1 + ":tag", ""},
		{u1 + ":a:b:1", u1 + ":b:1"},
		{u1 + ":010", u1 + ":10"},
		{strings.ReplaceAll(u1, "-", "") + ":1", u1 + ":1"},
		{"{" + u1 + "}:1", u1 + ":1"},
	} {
		server, err := canonical(conn, c.text)
		var refusal *mysql.MySQLError
		if errors.As(err, &refusal) {
			server = refused
			t.Logf("%q: %v", c.text, err)
		} else if err != nil {
			t.Fatal(err)
		}
		if server != c.server {
			t.Errorf("server reads %q as %q, want %q", c.text, server, c.server)
		}
		s, err := Parse(c.text)
		if err == nil && s.String() != server {
			t.Errorf("Parse(%q) = %q, server %q", c.text, s, server)
		}
	}
}
