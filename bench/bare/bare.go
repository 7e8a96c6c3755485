// Package bare is what a script could do at best with three semi-synchronous
// servers: no agents, no agreement, nothing recorded; open connections, a pidfd, and
// steps in parallel. It is the floor that ha is compared with, not something to use.
package bare

import (
	"context"
	"errors"
	"fmt"
	"os"
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

// semisync has a server acknowledge as a replica and wait for ever as a primary.
var semisync = []string{
	"--super-read-only=ON", "--sync-relay-log=1", "--relay-log-recovery=OFF",
	"--plugin-load-add=semisync_source.so;semisync_replica.so", "--loose-rpl-semi-sync-replica-enabled=ON",
	"--loose-rpl-semi-sync-source-timeout=4294967295000",
}

// attachBound is how long a replica may take to attach.
const attachBound = 10 * time.Second

// Cluster is three servers; the first of them is the primary at the beginning.
type Cluster struct {
	Servers []*Server

	dir    string
	mysqld string
}

// Load gives the servers as those who write to them know them.
func (b *Cluster) Load() (servers []load.Server) {
	for _, s := range b.Servers {
		servers = append(servers, load.Server{Name: s.Name, DSN: fmt.Sprintf("app:app@tcp(%s:3306)/app?tls=preferred&timeout=2s", s.IP)})
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
	for i := 1; i <= 3; i++ {
		ip, err := Address(base, i)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("b%d", i)
		s := &Server{Name: name, Mysqld: b.mysqld, Dir: filepath.Join(b.dir, name), IP: ip, ID: i, Options: semisync}
		b.Servers = append(b.Servers, s)
		if err := b.copyTemplate(s); err != nil {
			return err
		}
		if err := s.Start(ctx); err != nil {
			return err
		}
	}
	p := b.Servers[0]
	err := p.Exec(ctx, "SET GLOBAL super_read_only=OFF", "SET GLOBAL read_only=OFF",
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
	return p.Exec(ctx, "SET GLOBAL rpl_semi_sync_source_enabled=ON")
}

// copyTemplate gives a server fresh data.
func (b *Cluster) copyTemplate(s *Server) error {
	s.ID += 10 // a replica skips what a server with its own id wrote
	return errors.Join(os.MkdirAll(s.Dir, 0o700), os.RemoveAll(s.Data()), sandbox.CopyData(filepath.Join(b.dir, "template"), s.Data()))
}

func source(p *Server) string {
	return fmt.Sprintf("CHANGE REPLICATION SOURCE TO SOURCE_HOST='%s', SOURCE_PORT=3306, SOURCE_USER='repl', SOURCE_PASSWORD='repl', "+
		"SOURCE_AUTO_POSITION=1, SOURCE_SSL=1, SOURCE_HEARTBEAT_PERIOD=0.5, SOURCE_CONNECT_RETRY=1", p.IP)
}

func (s *Server) follow(ctx context.Context, p *Server) error {
	return s.Exec(ctx, source(p), "START REPLICA")
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
			errs[i] = s.Exec(ctx, "STOP REPLICA IO_THREAD")
			if errs[i] == nil {
				errs[i] = s.DB.QueryRowContext(ctx, "SELECT CONCAT_WS(',', NULLIF(RECEIVED_TRANSACTION_SET,''), NULLIF(@@gtid_executed,''))"+
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
	if err := next.DB.QueryRowContext(ctx, "SELECT GTID_SUBSET(?, ?)", received[1], received[0]).Scan(&first); err != nil {
		return nil, err
	}
	set := received[0]
	if !first {
		next, other, set = other, next, received[1]
	}
	set = strings.ReplaceAll(set, "\n", "")
	var timedOut int
	if err := next.DB.QueryRowContext(ctx, "SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 30)", set).Scan(&timedOut); err != nil {
		return nil, err
	}
	wg.Go(func() {
		errs[0] = other.Exec(ctx, fmt.Sprintf("CHANGE REPLICATION SOURCE TO SOURCE_HOST='%s'", next.IP), "START REPLICA IO_THREAD")
	})
	errs[1] = next.Exec(ctx, "SET GLOBAL rpl_semi_sync_source_enabled=ON", "SET GLOBAL super_read_only=OFF", "SET GLOBAL read_only=OFF")
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
		return s.DB.QueryRowContext(ctx, "SELECT VARIABLE_VALUE FROM performance_schema.global_status"+
			" WHERE VARIABLE_NAME='Rpl_semi_sync_source_clients'").Scan(&clients) == nil && clients > 0
	})
	if err != nil {
		return err
	}
	return s.Exec(ctx, "INSERT INTO app.barrier VALUES ()")
}

// Replace gives the killed server a clone of the primary, which it then follows.
// (With its own data it might hold rows that nobody acknowledged.)
func (b *Cluster) Replace(ctx context.Context, old, primary *Server) error {
	if err := old.Ended(ctx); err != nil {
		return err
	}
	if err := primary.Exec(ctx, "STOP REPLICA", "RESET REPLICA ALL"); err != nil {
		return err
	}
	if err := errors.Join(b.copyTemplate(old), old.Start(ctx)); err != nil {
		return err
	}
	err := old.Exec(ctx, "SET GLOBAL super_read_only=OFF", "SET GLOBAL read_only=OFF",
		fmt.Sprintf("SET GLOBAL clone_valid_donor_list='%s:3306'", primary.IP),
		fmt.Sprintf("CLONE INSTANCE FROM repl@'%s':3306 IDENTIFIED BY 'repl'", primary.IP))
	var done *mysql.MySQLError
	if !errors.As(err, &done) || done.Number != 3707 { // it cannot start itself again
		return fmt.Errorf("clone: %w", err)
	}
	if err := old.Ended(ctx); err != nil {
		return err
	}
	if err := old.Start(ctx); err != nil {
		return err
	}
	return old.follow(ctx, primary)
}

// Close ends the servers and removes their files.
func (b *Cluster) Close() {
	for _, s := range slices.Backward(b.Servers) {
		s.Close()
	}
	os.RemoveAll(b.dir)
}
