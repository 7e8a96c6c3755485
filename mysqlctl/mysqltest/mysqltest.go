// Package mysqltest boots real MySQL servers for tests: from a template that is made
// once per mysqld binary and copied, on addresses 127.0.3.x with free ports. No
// server outlives its test, nor the test process, however that ends.
//
// It is for tests only: no other package may import it.
package mysqltest

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"ha/mysqlctl"
)

// AppUser may do anything to the data of every server and nothing to the server.
// root@localhost is there too, without a password.
const AppUser = "app"

// AppPassword is that of AppUser.
const AppPassword = "app"

// ReplUser replicates and clones, over TLS.
const ReplUser = "repl"

// ReplPassword is that of ReplUser.
const ReplPassword = "repl"

// agent is the agent's own account on the servers.
var agent = mysqlctl.Account{User: "ha_agent", Password: "agent's 'own\\ one", Extra: []string{"ALL ON app.*"}}

// templateVersion changes when what is in the template does.
const templateVersion = "3"

// startTime is how long a server may take for anything but work.
const startTime = 60 * time.Second

var nodes atomic.Uint32

// Node is one server and ways to it that do not go through Server's connections.
type Node struct {
	*mysqlctl.Server
	Config mysqlctl.Config
	Root   *sql.DB // root over the socket
	App    *sql.DB // an ordinary client over the socket
	t      testing.TB
}

// Mysqld returns the binary in HA_MYSQLD, and skips the test without one.
func Mysqld(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("real servers are not for -short")
	}
	path := os.Getenv("HA_MYSQLD")
	if path == "" {
		t.Skip("HA_MYSQLD IS NOT SET: TESTS ON REAL SERVERS ARE SKIPPED")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("HA_MYSQLD: %v", err)
	}
	return path
}

// Start boots n servers: super_read_only, no channel, an empty GTID set.
func Start(t testing.TB, n int) []*Node {
	t.Helper()
	made := make([]*Node, n)
	errs := make(chan error, n)
	for i := range made {
		made[i] = New(t)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), startTime)
			defer cancel()
			errs <- made[i].Server.Start(ctx)
		}()
	}
	for range made {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	return made
}

// New makes a server with a filled data directory and does not start it. edit may
// change its configuration.
func New(t testing.TB, edit ...func(*mysqlctl.Config)) *Node {
	t.Helper()
	dir := t.TempDir()
	c := Config(t, dir)
	for _, e := range edit {
		e(&c)
	}
	if err := copyDir(template(t, c.Mysqld), c.DataDir); err != nil {
		t.Fatal(err)
	}
	return Wrap(t, c)
}

// Wrap makes a Node of a configuration, and sees to it that its server ends with
// the test.
func Wrap(t testing.TB, c mysqlctl.Config) *Node {
	t.Helper()
	n := &Node{Server: mysqlctl.New(c, Logger(t)), Config: c, t: t}
	n.Root = open(t, "root", "", c.Socket)
	n.App = open(t, AppUser, AppPassword, c.Socket)
	t.Cleanup(func() {
		_ = n.Server.Close()
		End(c)
	})
	return n
}

// End kills whatever mysqld runs on the data directory of c.
func End(c mysqlctl.Config) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	last := mysqlctl.New(c, nil)
	_, _ = last.Adopt(ctx) // also a frozen one: it cannot connect, and can be killed
	wait, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	_ = last.Kill(wait)
}

// Config returns a configuration with small memory for a server below dir.
func Config(t testing.TB, dir string) mysqlctl.Config {
	t.Helper()
	id := nodes.Add(1)
	host := fmt.Sprintf("127.0.3.%d", 1+id%250)
	return mysqlctl.Config{
		Mysqld:  Mysqld(t),
		DataDir: filepath.Join(dir, "data"),
		Socket:  socket(t),
		PidFile: filepath.Join(dir, "pid"),
		LogFile: filepath.Join(dir, "error.log"),
		Host:    host, Port: freePort(t, host), ServerID: 1000*uint32(os.Getpid()%1000000) + id,
		User:          "root",
		Account:       agent,
		DieWithParent: true,
		Options: []string{
			"--innodb-buffer-pool-size=32M", "--innodb-redo-log-capacity=16M", "--innodb-log-buffer-size=1M",
			"--max-connections=200", "--table-open-cache=200", "--table-definition-cache=400",
			"--performance-schema-max-digest-length=128", "--innodb-buffer-pool-dump-at-shutdown=OFF",
		},
	}
}

// Logger returns a logger into the test's output.
func Logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// socket returns a path short enough for a socket: those of t.TempDir may not be.
func socket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ha")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func freePort(t testing.TB, host string) int {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	n, _ := strconv.Atoi(port)
	return n
}

func open(t testing.TB, user, password, socket string) *sql.DB {
	t.Helper()
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr, cfg.User, cfg.Passwd = "unix", socket, user, password
	cfg.Logger = log.New(io.Discard, "", 0) // servers are killed all the time here
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(4)
	t.Cleanup(func() { go db.Close() })
	return db
}

// template returns the directory of a data directory to copy. It is shared by all
// test processes of this machine that use the same binary.
func template(t testing.TB, mysqld string) string {
	t.Helper()
	st, err := os.Stat(mysqld)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d %d", templateVersion, mysqld, st.Size(), st.ModTime().UnixNano()))
	all := filepath.Join(os.TempDir(), fmt.Sprintf("ha-mysqltest-%d", os.Getuid()))
	if err := os.MkdirAll(all, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(all, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(all, hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := makeTemplate(t, dir+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir+".new", "data"), dir); err != nil {
		t.Fatal(err)
	}
	_ = os.RemoveAll(dir + ".new")
	return dir
}

// makeTemplate initialises a server, gives it its accounts, and stops it cleanly.
func makeTemplate(t testing.TB, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*startTime)
	defer cancel()
	n := Wrap(t, Config(t, dir))
	if err := n.Initialize(ctx); err != nil {
		return err
	}
	if err := n.Server.Start(ctx); err != nil {
		return err
	}
	c, err := n.Root.Conn(ctx)
	if err != nil {
		return err
	}
	for _, statement := range []string{
		"SET GLOBAL super_read_only = OFF",
		"SET SESSION sql_log_bin = 0",
		fmt.Sprintf("CREATE USER %s@'%%' IDENTIFIED BY '%s'", AppUser, AppPassword),
		fmt.Sprintf("GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, INDEX, ALTER, LOCK TABLES ON *.* TO %s@'%%'", AppUser),
		fmt.Sprintf("CREATE USER %s@'%%' IDENTIFIED BY '%s' REQUIRE SSL", ReplUser, ReplPassword),
		fmt.Sprintf("GRANT REPLICATION SLAVE, BACKUP_ADMIN ON *.* TO %s@'%%'", ReplUser),
		"CREATE DATABASE app",
		"RESET BINARY LOGS AND GTIDS",
	} {
		if _, err := c.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	_ = c.Close()
	return n.Stop(ctx)
}

// copyDir copies a data directory as a new server's: without its uuid.
func copyDir(from, to string) error {
	if out, err := exec.Command("cp", "-a", "--reflink=auto", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy template: %w: %s", err, out)
	}
	names, err := filepath.Glob(filepath.Join(to, "binlog.*"))
	if err != nil {
		return err
	}
	for _, name := range append(names, filepath.Join(to, "auto.cnf"), filepath.Join(to, ".ha_gtid_base")) {
		_ = os.Remove(name)
	}
	return nil
}
