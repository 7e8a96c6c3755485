package bare

import (
	"context"
	"database/sql"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	_ "github.com/go-sql-driver/mysql" // the driver
)

// startBound is how long a server may take to start.
const startBound = time.Minute

// Server is one mysqld, with the settings that matter here as the sandbox's servers
// have them. Its exported fields are set before Start; DB is there after it.
type Server struct {
	Name    string
	Mysqld  string // the program
	Dir     string // its own; its data are in Data
	IP      string // where it listens, on port 3306
	ID      int    // server_id
	Options []string
	DB      *sql.DB // as root, over the unix socket

	cmd    *exec.Cmd
	exited chan struct{}
}

// Address is the i-th address of the network after base, a sandbox's.
func Address(base string, i int) (string, error) {
	ip, err := netip.ParseAddr(base)
	for range 256 + i {
		ip = ip.Next()
	}
	return ip.String(), err
}

// Data is its data directory.
func (s *Server) Data() string { return filepath.Join(s.Dir, "data") }

// Start starts it on the data it has, and waits until it answers.
func (s *Server) Start(ctx context.Context) error {
	socket := filepath.Join(s.Dir, "sock")
	args := append([]string{
		"--no-defaults", "--datadir=" + s.Data(), "--socket=" + socket, "--pid-file=" + filepath.Join(s.Dir, "pid"),
		"--log-error=" + filepath.Join(s.Dir, "log.err"), "--bind-address=" + s.IP, "--port=3306", fmt.Sprintf("--server-id=%d", s.ID),
		"--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--log-bin=binlog", "--skip-replica-start",
		"--sync-binlog=1", "--innodb-flush-log-at-trx-commit=1", "--plugin-load-add=mysql_clone.so", "--loose-mysqlx=OFF", "--event-scheduler=OFF",
		"--loose-innodb-log-writer-threads=ON", "--replica-parallel-workers=16", // as ha has it
		"--innodb-buffer-pool-size=64M", "--innodb-redo-log-capacity=48M", "--max-connections=100", "--table-open-cache=400",
	}, s.Options...)
	if os.Geteuid() == 0 {
		args = append(args, "--user=root")
	}
	s.cmd = exec.Command(s.Mysqld, args...)
	// It must not outlive this program, whatever ends it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.exited = exited
	go func(cmd *exec.Cmd) { _ = cmd.Wait(); close(exited) }(s.cmd)
	if s.DB == nil {
		db, err := sql.Open("mysql", "root@unix("+socket+")/?timeout=2s")
		if err != nil {
			return err
		}
		s.DB = db
	}
	return s.await(ctx, startBound, func(ctx context.Context) bool { return s.DB.PingContext(ctx) == nil })
}

// Ended waits until the server has ended.
func (s *Server) Ended(ctx context.Context) error {
	select {
	case <-s.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("end of %s: %w", s.Name, ctx.Err())
	}
}

// Exec executes statements in their order, until one fails.
func (s *Server) Exec(ctx context.Context, statements ...string) error {
	for _, stmt := range statements {
		if _, err := s.DB.ExecContext(ctx, stmt); err != nil {
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
			log, _ := os.ReadFile(filepath.Join(s.Dir, "log.err"))
			return fmt.Errorf("%s has ended:\n%s", s.Name, log)
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// Close kills it and removes its files.
func (s *Server) Close() {
	if s.DB != nil {
		s.DB.Close()
	}
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
	os.RemoveAll(s.Dir)
}
