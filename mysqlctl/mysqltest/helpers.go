package mysqltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"ha/mysqlctl"
)

// Ctx returns a context that ends with the test, or after d.
func Ctx(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// Eventually polls until ok, and fails the test after d.
func Eventually(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

// Exec runs statements as root.
func (n *Node) Exec(statements ...string) {
	n.t.Helper()
	for _, s := range statements {
		if _, err := n.Root.ExecContext(n.t.Context(), s); err != nil {
			n.t.Fatalf("%s: %v", s, err)
		}
	}
}

// Value returns the first column of the first row, as root.
func (n *Node) Value(query string, args ...any) string {
	n.t.Helper()
	var v string
	if err := n.Root.QueryRowContext(n.t.Context(), query, args...).Scan(&v); err != nil {
		n.t.Fatalf("%s: %v", query, err)
	}
	return v
}

// Rows returns a table's rows in one string, to compare what servers hold: GTID sets
// may agree where rows do not.
func (n *Node) Rows(query string) string {
	n.t.Helper()
	rows, err := n.Root.QueryContext(n.t.Context(), query)
	if err != nil {
		n.t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	columns, _ := rows.Columns()
	var all strings.Builder
	for rows.Next() {
		values := make([]string, len(columns))
		dest := make([]any, len(columns))
		for i := range values {
			dest[i] = &values[i]
		}
		if err := rows.Scan(dest...); err != nil {
			n.t.Fatal(err)
		}
		all.WriteString(strings.Join(values, "\t") + "\n")
	}
	if err := rows.Err(); err != nil {
		n.t.Fatal(err)
	}
	return all.String()
}

// Source returns what a replica of this node follows.
func (n *Node) Source() mysqlctl.Source {
	return mysqlctl.Source{Host: n.Config.Host, Port: n.Config.Port, User: ReplUser, Password: ReplPassword}
}

// MustStatus returns the node's status.
func (n *Node) MustStatus() mysqlctl.Status {
	n.t.Helper()
	st, err := n.Status(Ctx(n.t, 10*time.Second))
	if err != nil {
		n.t.Fatal(err)
	}
	return st
}

// Signal sends a signal to mysqld.
func (n *Node) Signal(sig syscall.Signal) {
	n.t.Helper()
	pid := n.PID()
	if pid == 0 {
		n.t.Fatal("no mysqld to signal")
	}
	if err := syscall.Kill(pid, sig); err != nil {
		n.t.Fatal(err)
	}
}

// Freeze stops mysqld until the test ends or Thaw, and waits until each of its
// threads stands.
func (n *Node) Freeze() {
	n.t.Helper()
	n.Signal(syscall.SIGSTOP)
	Eventually(n.t, 10*time.Second, "mysqld stands", func() bool { return Stands(n.PID()) })
}

// Stands says whether each thread of the processes is stopped. SIGSTOP only begins it:
// on a busy machine a server of 44 threads acknowledged for 80 ms after the signal.
func Stands(pids ...int) bool {
	for _, pid := range pids {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, stat := range threads {
			if text, err := os.ReadFile(stat); err == nil && !strings.Contains(string(text), ") T ") {
				return false
			}
		}
	}
	return true
}

// Thaw lets it go on.
func (n *Node) Thaw() { n.Signal(syscall.SIGCONT) }

// Log returns the error log.
func (n *Node) Log() string {
	text, err := os.ReadFile(n.Config.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Primary makes node 0 a writable primary, and the others its acknowledging
// replicas, with k acks: 0 leaves semi-sync off. It makes a table app.t(id, v).
func Primary(t testing.TB, k int, nodes ...*Node) *Node {
	t.Helper()
	ctx := Ctx(t, startTime)
	p := nodes[0]
	must(t, p.ConfigureSource(ctx, 0))
	must(t, p.OpenWrites(ctx))
	must(t, p.EnsureSchema(ctx, "test"))
	p.Exec("CREATE TABLE app.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(2000) NOT NULL)")
	for _, r := range nodes[1:] {
		must(t, r.Follow(ctx, p.Source(), k > 0))
	}
	for _, r := range nodes[1:] {
		CaughtUp(t, p, r)
	}
	if k > 0 {
		must(t, p.ConfigureSource(ctx, k))
	}
	return p
}

// Session logs in over the network, with TLS, as replicas do.
func (n *Node) Session(user, password string) *sql.Conn {
	n.t.Helper()
	src := n.Source()
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr, cfg.User, cfg.Passwd, cfg.TLSConfig = "tcp", fmt.Sprintf("%s:%d", src.Host, src.Port), user, password, "skip-verify"
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	n.t.Cleanup(func() { go db.Close() })
	c, err := db.Conn(n.t.Context())
	if err != nil {
		n.t.Fatalf("log in as %s: %v", user, err)
	}
	return c
}

// CaughtUp waits until to has executed what from has executed now.
func CaughtUp(t testing.TB, from, to *Node) {
	t.Helper()
	want := from.MustStatus().Executed
	Eventually(t, 30*time.Second, "replica catches up", func() bool { return to.MustStatus().Executed.Contains(want) })
}

// Insert writes a row as an ordinary client and returns the answer.
func (n *Node) Insert(ctx context.Context, v string) error {
	_, err := n.App.ExecContext(ctx, "INSERT INTO app.t (v) VALUES (?)", v)
	return err
}

// InsertWaiting starts an INSERT and returns when it waits for an acknowledgement.
// The channel gives its answer, if one ever comes.
func (n *Node) InsertWaiting(v string) <-chan error {
	n.t.Helper()
	before := n.MustStatus().Waiting
	answer := make(chan error, 1)
	go func() { answer <- n.Insert(context.Background(), v) }()
	Eventually(n.t, 10*time.Second, "a commit waits", func() bool { return n.MustStatus().Waiting > before })
	return answer
}

// ErrorNumber returns the server's number of an error, 0 if it is none of the server's.
func ErrorNumber(err error) uint16 {
	var my *mysql.MySQLError
	if errors.As(err, &my) {
		return my.Number
	}
	return 0
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
