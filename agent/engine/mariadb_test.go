package engine

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// password has what option files and shells give a meaning.
const password = `a"b\c#d 'e`

// mariadb puts MariaDB's programs on the path and gives their prefix.
func mariadb(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real servers")
	}
	deps := os.Getenv("HA_DEPS_DIR")
	if deps == "" {
		deps = "../../.deps"
	}
	prefix, err := filepath.Abs(filepath.Join(deps, "mariadb"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(prefix, "bin/mariadb-backup")); err != nil {
		t.Skip("NOT TESTED: mariadb-backup against a real MariaDB; make deps-mariadb gets it")
	}
	t.Setenv("PATH", filepath.Join(prefix, "bin")+":"+os.Getenv("PATH"))
	return prefix
}

// server is a real mariadbd.
type server struct {
	t      *testing.T
	prefix string
	login  Login
	cmd    *exec.Cmd
	db     *sql.DB
}

// newServer makes one with its own data.
func newServer(t *testing.T, prefix string) *server {
	t.Helper()
	// A short path: a socket's name may have 107 bytes at most.
	dir, err := os.MkdirTemp("", "ha-mdb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &server{t: t, prefix: prefix, login: Login{DataDir: filepath.Join(dir, "data"), Socket: filepath.Join(dir, "s"), User: "ha", Password: password}}
	out, err := exec.Command("mariadb-install-db", "--no-defaults", "--basedir="+prefix+"/usr", "--datadir="+s.login.DataDir,
		"--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", "--user="+serverUser()).CombinedOutput()
	if err != nil {
		t.Fatalf("mariadb-install-db: %v\n%s", err, out)
	}
	return s
}

func serverUser() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	return os.Getenv("USER")
}

// start starts it and connects, with id as its server_id.
func (s *server) start(id int, user, password string) {
	s.t.Helper()
	log := s.login.Socket + ".log"
	s.cmd = exec.Command("mariadbd", "--no-defaults", "--user="+serverUser(), "--datadir="+s.login.DataDir, "--socket="+s.login.Socket,
		"--pid-file="+s.login.Socket+".pid", "--log-error="+log, "--skip-networking", "--log-bin=binlog", fmt.Sprintf("--server-id=%d", id),
		"--log-slave-updates", "--gtid-strict-mode", "--lc-messages-dir="+s.prefix+"/usr/share/mysql", "--character-sets-dir="+s.prefix+"/usr/share/mysql/charsets",
		"--innodb-flush-log-at-trx-commit=2", "--innodb-log-file-size=64M")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.stop)
	s.connect(user, password)
	within(s.t, time.Minute, "mariadbd up", func() bool { return s.db.Ping() == nil })
}

func (s *server) connect(user, password string) {
	s.t.Helper()
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.Passwd, c.MultiStatements, c.InterpolateParams = "unix", s.login.Socket, user, password, true, true
	connector, err := mysql.NewConnector(c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.db = sql.OpenDB(connector)
	s.t.Cleanup(func() { _ = s.db.Close() })
}

func (s *server) stop() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

func (s *server) exec(statement string) {
	s.t.Helper()
	if _, err := s.db.Exec(statement); err != nil {
		s.t.Fatalf("%s: %v", statement, err)
	}
}

func (s *server) get(query string) string {
	s.t.Helper()
	var v sql.NullString
	if err := s.db.QueryRow(query).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return v.String
}

// sums are the checksums of the tables of the schema app.
func (s *server) sums() string {
	s.t.Helper()
	rows, err := s.db.Query("CHECKSUM TABLE app.big, app.small, app.aria")
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	var out strings.Builder
	for rows.Next() {
		var name, sum string
		if err := rows.Scan(&name, &sum); err != nil {
			s.t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s=%s ", name, sum)
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return out.String()
}

// load writes until it is told to stop, and then gives the number of its commits. It
// does not write faster than a copy reads, which then would not end.
func (s *server) load() (stop func() int) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan int, 1)
	go func() {
		n := 0
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		for ; ctx.Err() == nil; n++ {
			<-pace.C
			_, err := s.db.ExecContext(ctx, "INSERT INTO app.small (v) VALUES (?); UPDATE app.big SET n = n + 1 WHERE id = ?", strings.Repeat("x", n%900), 1+n%3000)
			if err != nil && ctx.Err() == nil {
				s.t.Errorf("load: %v", err)
				break
			}
		}
		done <- n
	}()
	return func() int { cancel(); return <-done }
}

// within waits for what has to come.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		<-tick.C
	}
}

// processes gives the command lines, by pid, of the programs that a test has started
// and that have all of the words in them.
func processes(t *testing.T, words ...string) map[int]string {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
next:
	for _, name := range names {
		text, _ := os.ReadFile(name) // it may have ended
		line := strings.ReplaceAll(string(text), "\x00", " ")
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		var pid int
		if _, err := fmt.Sscanf(name, "/proc/%d/", &pid); err == nil {
			found[pid] = line
		}
	}
	return found
}
