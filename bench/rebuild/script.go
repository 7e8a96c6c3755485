package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"ha/agent/sandbox"
)

// Accounts of the script's own.
const (
	copyUser = "bench_copy"
	copyPass = "bench"
)

// script does what people do by hand with an empty server that runs: CLONE from the
// donor into its own data directory, start it again, CHANGE SOURCE. It takes no care of
// anything. The time is from the CLONE to lag 0.
func (b *bench) script(ctx context.Context, donor, primary string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	p, err := b.root(primary)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	for _, stmt := range []string{
		fmt.Sprintf("CREATE USER IF NOT EXISTS %s@'%%' IDENTIFIED BY '%s'", copyUser, copyPass),
		fmt.Sprintf("GRANT REPLICATION SLAVE, BACKUP_ADMIN ON *.* TO %s@'%%'", copyUser),
	} {
		if _, err := p.ExecContext(ctx, stmt); err != nil {
			return 0, fmt.Errorf("%s: %w", stmt, err)
		}
	}
	d, err := b.root(donor)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	if err := caughtUp(ctx, p, d); err != nil {
		return 0, err
	}
	s, err := b.newServer(ctx)
	if err != nil {
		return 0, err
	}
	defer s.remove()

	from, err := b.st.Node(donor)
	if err != nil {
		return 0, err
	}
	source, err := b.st.Node(primary)
	if err != nil {
		return 0, err
	}
	host, port, err := net.SplitHostPort(source.MySQL)
	if err != nil {
		return 0, err
	}
	donorHost, donorPort, err := net.SplitHostPort(from.MySQL)
	if err != nil {
		return 0, err
	}
	if err := s.exec(ctx, "SET GLOBAL super_read_only=OFF", "SET GLOBAL read_only=OFF", fmt.Sprintf("SET GLOBAL clone_valid_donor_list='%s'", from.MySQL)); err != nil {
		return 0, err
	}
	began := time.Now()
	err = s.exec(ctx, fmt.Sprintf("CLONE INSTANCE FROM %s@'%s':%s IDENTIFIED BY '%s' REQUIRE SSL", copyUser, donorHost, donorPort, copyPass))
	var done *mysql.MySQLError
	if !errors.As(err, &done) || done.Number != 3707 { // it is done, and cannot start itself again
		return 0, fmt.Errorf("clone: %w", err)
	}
	select {
	case <-s.exited:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if err := s.run(ctx); err != nil {
		return 0, err
	}
	if err := s.exec(ctx, fmt.Sprintf("CHANGE REPLICATION SOURCE TO SOURCE_HOST='%s', SOURCE_PORT=%s, SOURCE_USER='%s', SOURCE_PASSWORD='%s', SOURCE_AUTO_POSITION=1, SOURCE_SSL=1",
		host, port, copyUser, copyPass), "START REPLICA"); err != nil {
		return 0, err
	}
	err = caughtUp(ctx, p, s.db)
	return time.Since(began), err
}

// server is the script's.
type server struct {
	mysqld, dir, ip string
	cmd             *exec.Cmd
	exited          chan struct{}
	db              *sql.DB
}

// newServer is an empty one that runs, on the sandbox's disk.
func (b *bench) newServer(ctx context.Context) (*server, error) {
	ip, err := netip.ParseAddr(b.base)
	if err != nil {
		return nil, err
	}
	for range 257 { // the network after the sandbox's
		ip = ip.Next()
	}
	s := &server{mysqld: b.st.Mysqld, dir: filepath.Join(b.st.Dir, "script"), ip: ip.String()}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	if err := sandbox.InitData(ctx, s.mysqld, s.data()); err != nil {
		s.remove()
		return nil, err
	}
	if err := s.run(ctx); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

func (s *server) data() string { return filepath.Join(s.dir, "data") }

// run starts it, with what the sandbox's servers have that matters here.
func (s *server) run(ctx context.Context) error {
	args := []string{
		"--no-defaults", "--datadir=" + s.data(), "--socket=" + filepath.Join(s.dir, "sock"), "--pid-file=" + filepath.Join(s.dir, "pid"),
		"--log-error=" + filepath.Join(s.dir, "log.err"), "--bind-address=" + s.ip, "--port=3306", "--server-id=4711",
		"--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--log-bin=binlog", "--skip-replica-start",
		"--sync-binlog=1", "--innodb-flush-log-at-trx-commit=1", "--plugin-load-add=mysql_clone.so", "--loose-mysqlx=OFF", "--event-scheduler=OFF",
		"--innodb-buffer-pool-size=64M", "--innodb-redo-log-capacity=48M", "--max-connections=100", "--table-open-cache=400",
	}
	if os.Geteuid() == 0 {
		args = append(args, "--user=root")
	}
	s.cmd = exec.Command(s.mysqld, args...)
	// It must not outlive this program, whatever ends it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.exited = exited
	go func(cmd *exec.Cmd) { _ = cmd.Wait(); close(exited) }(s.cmd)
	if s.db == nil {
		db, err := sql.Open("mysql", "root@unix("+filepath.Join(s.dir, "sock")+")/?timeout=2s")
		if err != nil {
			return err
		}
		s.db = db
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for s.db.PingContext(ctx) != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.exited:
			log, _ := os.ReadFile(filepath.Join(s.dir, "log.err"))
			return fmt.Errorf("the script's server has ended:\n%s", log)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

func (s *server) exec(ctx context.Context, statements ...string) error {
	for _, stmt := range statements {
		if _, err := s.db.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("%s: %w", stmt, err)
		}
	}
	return nil
}

// remove ends it and removes its files.
func (s *server) remove() {
	if s.db != nil {
		s.db.Close()
	}
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
	os.RemoveAll(s.dir)
}

// files copies a data directory with cp and syncs it. What comes of it is no copy that
// a server would start on: it is what the disk needs.
func (b *bench) files(ctx context.Context, from string) (time.Duration, error) {
	to := filepath.Join(b.st.Dir, "files")
	defer os.RemoveAll(to)
	began := time.Now()
	if out, err := exec.CommandContext(ctx, "cp", "-r", b.data(from), to).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("cp: %w: %s", err, out)
	}
	if out, err := exec.CommandContext(ctx, "sync", "-f", to).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("sync: %w: %s", err, out)
	}
	return time.Since(began), nil
}
