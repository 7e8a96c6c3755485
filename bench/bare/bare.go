// Package bare is what a script could do at best with three semi-synchronous
// servers: no agents, no agreement, nothing recorded; open connections, a pidfd, and
// steps in parallel. It is the floor that ha is compared with, not something to use.
package bare

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
	"golang.org/x/sys/unix"

	"ha/agent/sandbox"
	"ha/bench/load"
)

// attachBound is how long a replica may take to attach.
const attachBound = 10 * time.Second

// Cluster is three servers; the first of them is the primary at the beginning.
type Cluster struct {
	Servers []*Server

	dir    string
	mysqld string
}

// Server is one of them.
type Server struct {
	Name string

	ip, dir string
	id      int
	cmd     *exec.Cmd
	exited  chan struct{}
	db      *sql.DB // root, over the unix socket
}

// Load gives the servers as those who write to them know them.
func (b *Cluster) Load() (servers []load.Server) {
	for _, s := range b.Servers {
		servers = append(servers, load.Server{Name: s.Name, DSN: fmt.Sprintf("app:app@tcp(%s:3306)/app?tls=preferred&timeout=2s", s.ip)})
	}
	return servers
}

// New starts them on the addresses of the network after base, a sandbox's.
func New(ctx context.Context, base string) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "ha-bare-")
	if err != nil {
		return nil, err
	}
	b := &Cluster{dir: dir}
	self, err := filepath.Abs("ha") // only its directory counts: .deps is beside it
	if err == nil {
		b.mysqld, err = sandbox.FindMysqld("", self)
	}
	if err == nil {
		err = sandbox.InitData(ctx, b.mysqld, filepath.Join(dir, "template"))
	}
	if err == nil {
		err = b.start(ctx, base)
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// start starts three servers and makes the first the primary.
func (b *Cluster) start(ctx context.Context, base string) error {
	ip, err := netip.ParseAddr(base)
	if err != nil {
		return err
	}
	for range 256 { // the network after the sandbox's
		ip = ip.Next()
	}
	for i := 1; i <= 3; i++ {
		ip = ip.Next()
		s := &Server{Name: fmt.Sprintf("b%d", i), ip: ip.String(), id: i, dir: filepath.Join(b.dir, fmt.Sprintf("b%d", i))}
		b.Servers = append(b.Servers, s)
		if err := b.copyTemplate(s); err != nil {
			return err
		}
		if err := b.run(ctx, s); err != nil {
			return err
		}
	}
	p := b.Servers[0]
	err = p.exec(ctx, "SET GLOBAL super_read_only=OFF", "SET GLOBAL read_only=OFF",
		"CREATE DATABASE app", "CREATE TABLE app.barrier (i INT AUTO_INCREMENT PRIMARY KEY)", "CREATE USER app@'%' IDENTIFIED BY 'app'", "GRANT ALL ON app.* TO app@'%'",
		"CREATE USER repl@'%' IDENTIFIED BY 'repl'", "GRANT REPLICATION SLAVE, BACKUP_ADMIN ON *.* TO repl@'%'")
	if err != nil {
		return err
	}
	for _, s := range b.Servers[1:] {
		if err := s.follow(ctx, p); err != nil {
			return err
		}
	}
	return p.exec(ctx, "SET GLOBAL rpl_semi_sync_source_enabled=ON")
}

// copyTemplate gives a server fresh data.
func (b *Cluster) copyTemplate(s *Server) error {
	s.id += 10 // a replica skips what a server with its own id wrote
	return errors.Join(os.MkdirAll(s.dir, 0o700), os.RemoveAll(s.data()), sandbox.CopyData(filepath.Join(b.dir, "template"), s.data()))
}

// run starts a server on the data it has.
func (b *Cluster) run(ctx context.Context, s *Server) error {
	args := []string{
		"--no-defaults", "--datadir=" + s.data(), "--socket=" + s.socket(), "--pid-file=" + filepath.Join(s.dir, "pid"),
		"--log-error=" + filepath.Join(s.dir, "log.err"), "--bind-address=" + s.ip, "--port=3306", fmt.Sprintf("--server-id=%d", s.id),
		"--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--log-bin=binlog", "--super-read-only=ON", "--skip-replica-start",
		"--sync-binlog=1", "--innodb-flush-log-at-trx-commit=1", "--sync-relay-log=1", "--relay-log-recovery=OFF",
		"--plugin-load-add=semisync_source.so;semisync_replica.so;mysql_clone.so", "--loose-rpl-semi-sync-replica-enabled=ON",
		"--loose-rpl-semi-sync-source-timeout=4294967295000", "--loose-mysqlx=OFF", "--event-scheduler=OFF",
		"--innodb-buffer-pool-size=64M", "--innodb-redo-log-capacity=48M", "--max-connections=100", "--table-open-cache=400",
	}
	if os.Geteuid() == 0 {
		args = append(args, "--user=root")
	}
	s.cmd = exec.Command(b.mysqld, args...)
	// It must not outlive this program, whatever ends it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.exited = exited
	go func(cmd *exec.Cmd) { _ = cmd.Wait(); close(exited) }(s.cmd)
	if s.db == nil {
		db, err := sql.Open("mysql", "root@unix("+s.socket()+")/?timeout=2s")
		if err != nil {
			return err
		}
		s.db = db
	}
	return s.await(ctx, 30*time.Second, func(ctx context.Context) bool { return s.db.PingContext(ctx) == nil })
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) socket() string { return filepath.Join(s.dir, "sock") }

func (s *Server) exec(ctx context.Context, statements ...string) error {
	for _, stmt := range statements {
		if _, err := s.db.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("%s: %s: %w", s.Name, stmt, err)
		}
	}
	return nil
}

func (s *Server) await(ctx context.Context, bound time.Duration, ok func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", s.Name, ctx.Err())
		case <-s.exited:
			log, _ := os.ReadFile(filepath.Join(s.dir, "log.err"))
			return fmt.Errorf("%s has ended:\n%s", s.Name, log)
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

func source(p *Server) string {
	return fmt.Sprintf("CHANGE REPLICATION SOURCE TO SOURCE_HOST='%s', SOURCE_PORT=3306, SOURCE_USER='repl', SOURCE_PASSWORD='repl', "+
		"SOURCE_AUTO_POSITION=1, SOURCE_SSL=1, SOURCE_HEARTBEAT_PERIOD=0.5, SOURCE_CONNECT_RETRY=1", p.ip)
}

func (s *Server) follow(ctx context.Context, p *Server) error {
	return s.exec(ctx, source(p), "START REPLICA")
}

// FailOver kills the primary, takes the replica that received more, and points
// the other one at it.
func (b *Cluster) FailOver(ctx context.Context, old *Server) (*Server, error) {
	pidfd, err := unix.PidfdOpen(old.cmd.Process.Pid, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	var rest []*Server
	for _, s := range b.Servers {
		if s != old {
			rest = append(rest, s)
		}
	}
	if err := old.cmd.Process.Kill(); err != nil {
		return nil, err
	}
	for n := 0; n == 0; {
		if n, err = unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 1000); err != nil && !errors.Is(err, syscall.EINTR) {
			return nil, err
		}
	}
	received := make([]string, len(rest))
	errs := make([]error, len(rest))
	var wg sync.WaitGroup
	for i, s := range rest {
		wg.Go(func() {
			errs[i] = s.exec(ctx, "STOP REPLICA IO_THREAD")
			if errs[i] == nil {
				errs[i] = s.db.QueryRowContext(ctx, "SELECT CONCAT_WS(',', NULLIF(RECEIVED_TRANSACTION_SET,''), NULLIF(@@gtid_executed,''))"+
					" FROM performance_schema.replication_connection_status").Scan(&received[i])
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	next, other := rest[0], rest[1]
	var first bool
	if err := next.db.QueryRowContext(ctx, "SELECT GTID_SUBSET(?, ?)", received[1], received[0]).Scan(&first); err != nil {
		return nil, err
	}
	set := received[0]
	if !first {
		next, other, set = other, next, received[1]
	}
	set = strings.ReplaceAll(set, "\n", "")
	var timedOut int
	if err := next.db.QueryRowContext(ctx, "SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 30)", set).Scan(&timedOut); err != nil {
		return nil, err
	}
	wg.Go(func() {
		errs[0] = other.exec(ctx, fmt.Sprintf("CHANGE REPLICATION SOURCE TO SOURCE_HOST='%s'", next.ip), "START REPLICA IO_THREAD")
	})
	errs[1] = next.exec(ctx, "SET GLOBAL rpl_semi_sync_source_enabled=ON", "SET GLOBAL super_read_only=OFF", "SET GLOBAL read_only=OFF")
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return next, next.barrier(ctx)
}

// barrier commits a row once an acker is attached: a commit from before is
// acknowledged with the next one only.
func (s *Server) barrier(ctx context.Context) error {
	err := s.await(ctx, attachBound, func(ctx context.Context) bool {
		var clients int
		return s.db.QueryRowContext(ctx, "SELECT VARIABLE_VALUE FROM performance_schema.global_status"+
			" WHERE VARIABLE_NAME='Rpl_semi_sync_source_clients'").Scan(&clients) == nil && clients > 0
	})
	if err != nil {
		return err
	}
	return s.exec(ctx, "INSERT INTO app.barrier VALUES ()")
}

// Replace gives the killed server a clone of the primary, which it then follows.
// (With its own data it might hold rows that nobody acknowledged.)
func (b *Cluster) Replace(ctx context.Context, old, primary *Server) error {
	<-old.exited
	if err := primary.exec(ctx, "STOP REPLICA", "RESET REPLICA ALL"); err != nil {
		return err
	}
	if err := errors.Join(b.copyTemplate(old), b.run(ctx, old)); err != nil {
		return err
	}
	err := old.exec(ctx, "SET GLOBAL super_read_only=OFF", "SET GLOBAL read_only=OFF",
		fmt.Sprintf("SET GLOBAL clone_valid_donor_list='%s:3306'", primary.ip),
		fmt.Sprintf("CLONE INSTANCE FROM repl@'%s':3306 IDENTIFIED BY 'repl'", primary.ip))
	var done *mysql.MySQLError
	if !errors.As(err, &done) || done.Number != 3707 { // it cannot start itself again
		return fmt.Errorf("clone: %w", err)
	}
	<-old.exited
	if err := b.run(ctx, old); err != nil {
		return err
	}
	return old.follow(ctx, primary)
}

// Close ends the servers and removes their files.
func (b *Cluster) Close() {
	for _, s := range slices.Backward(b.Servers) {
		if s.db != nil {
			s.db.Close()
		}
		if s.cmd != nil && s.cmd.Process != nil {
			_ = s.cmd.Process.Kill()
			<-s.exited
		}
	}
	os.RemoveAll(b.dir)
}
