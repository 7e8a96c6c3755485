package sandbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "github.com/go-sql-driver/mysql" // the driver
	"golang.org/x/sys/unix"

	"ha/agent/api"
)

const (
	agentStop  = 10 * time.Second // for an agent to stop when it is asked to
	mysqldStop = 20 * time.Second // for a mysqld
)

// Down stops all that runs in the sandbox: the agents, the replicas, and last
// the primary, so that it has what they have. With purge it removes all that Up
// has written, too. It does not stop half-way when ctx ends.
func (s *Sandbox) Down(ctx context.Context, purge bool, progress func(string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	release, err := s.lock()
	if err != nil {
		return err
	}
	defer release()
	primary := s.writable(ctx)
	progress("stopping agents")
	_, err = s.end(s.find("", "agent"), unix.SIGTERM, agentStop)
	errs := []error{err}
	progress("stopping mysqlds")
	var replicas []proc
	for _, p := range s.find("", "mysqld") {
		if p.node != primary {
			replicas = append(replicas, p)
		}
	}
	_, err = s.end(replicas, unix.SIGTERM, mysqldStop)
	errs = append(errs, err, s.stopPrimary(primary))
	// Whatever was in the middle of being started.
	for range 3 {
		if rest := s.procs(); len(rest) > 0 {
			_, err = s.end(rest, unix.SIGKILL, mysqldStop)
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return api.Failed("stop the sandbox: %w", err)
	}
	if rest := s.procs(); len(rest) > 0 {
		return api.Failed("%d processes of the sandbox in %s cannot be stopped", len(rest), s.Dir).WithHint("Try again: ha sandbox down")
	}
	s.unregister()
	if purge {
		return s.purge()
	}
	return nil
}

// stopPrimary ends the primary so that no commit is acknowledged that no
// replica has: a mysqld that is asked to stop answers OK to commits that wait.
func (s *Sandbox) stopPrimary(name string) error {
	procs := s.find("", "mysqld")
	if len(procs) == 0 {
		return nil
	}
	sig := unix.SIGTERM
	if name != "" && s.freeze(name) != nil {
		sig = unix.SIGKILL
	}
	_, err := s.end(procs, sig, mysqldStop)
	return err
}

// writable finds the node that takes writes by asking its mysqld: it may be that
// no agent is left to ask.
func (s *Sandbox) writable(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for _, p := range s.find("", "mysqld") {
		db, err := s.root(p.node)
		if err != nil {
			continue
		}
		var readOnly bool
		err = db.QueryRowContext(ctx, "SELECT @@global.read_only").Scan(&readOnly)
		db.Close()
		if err == nil && !readOnly {
			return p.node
		}
	}
	return ""
}

// freeze ends writing; it fails while a commit waits.
func (s *Sandbox) freeze(name string) error {
	db, err := s.root(name)
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err = db.ExecContext(ctx, "SET GLOBAL super_read_only=ON")
	return err
}

// purge removes what Up has written, and the directory if nothing else is there.
func (s *Sandbox) purge() error {
	paths := []string{"secret", "client.toml", "template", "template.new"}
	for _, n := range s.Nodes {
		paths = append(paths, n.Name)
	}
	for _, p := range append(paths, "sandbox.json", ".lock") {
		if err := os.RemoveAll(filepath.Join(s.Dir, p)); err != nil {
			return api.Failed("remove the sandbox: %w", err)
		}
	}
	if err := os.Remove(s.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil //nolint:nilerr // somebody else's files are there: they stay
	}
	return nil
}

// root connects to a node's mysqld over its unix socket as root, who has no
// password in the sandbox.
func (s *Sandbox) root(node string) (*sql.DB, error) {
	return sql.Open("mysql", fmt.Sprintf("root@unix(%s)/?timeout=2s", s.socket(node)))
}

// createAccount makes the application's account and schema by statements that
// replicate. It does nothing if they are there.
func (s *Sandbox) createAccount(ctx context.Context, primary string) error {
	db, err := s.root(primary)
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var n int
	who := "'" + AppUser + "'@'%'"
	err = db.QueryRowContext(ctx, "SELECT (SELECT COUNT(*) FROM mysql.user WHERE user=? AND host='%')"+
		" + (SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name=?)"+
		" + (SELECT COUNT(*) FROM mysql.db WHERE user=? AND host='%' AND db=?)",
		AppUser, AppSchema, AppUser, AppSchema).Scan(&n)
	if err == nil && n == 3 {
		return nil
	}
	for _, stmt := range []string{
		"CREATE DATABASE IF NOT EXISTS " + AppSchema,
		"CREATE USER IF NOT EXISTS " + who + " IDENTIFIED BY '" + AppPassword + "'",
		"GRANT ALL ON " + AppSchema + ".* TO " + who,
	} {
		if err == nil {
			_, err = db.ExecContext(ctx, stmt)
		}
	}
	if err != nil {
		return api.Failed("create the account %s on %s: %w", AppUser, primary, err).
			WithHint("Try again: ha sandbox up --dir %s", s.Dir)
	}
	return nil
}

// Connect says how to reach the sandbox, for people.
func (s *Sandbox) Connect(primary string) string {
	var b strings.Builder
	n, err := s.Node(primary)
	if err != nil {
		n = s.Nodes[0]
	}
	host, port, _ := strings.Cut(n.MySQL, ":")
	fmt.Fprintf(&b, "write:   mysql -h %s -P %s -u %s -p%s %s\n", host, port, AppUser, AppPassword, AppSchema)
	fmt.Fprintf(&b, "root:    mysql -u root -S %s\n", s.socket(n.Name))
	fmt.Fprintf(&b, "status:  ha status --addr %s\n", s.Nodes[0].Agent)
	fmt.Fprintf(&b, "break:   ha sandbox kill %s mysqld\n", n.Name)
	fmt.Fprintf(&b, "end:     ha sandbox down\n")
	fmt.Fprintf(&b, "files:   %s (clients use client.toml there; found through %s)\n", s.Dir, filepath.Dir(s.registration()))
	return b.String()
}
