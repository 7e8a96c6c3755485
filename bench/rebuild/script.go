package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/go-sql-driver/mysql"

	"ha/agent/sandbox"
	"ha/bench/bare"
	"ha/bench/load"
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
	p, err := b.st.Root(primary)
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
	d, err := b.st.Root(donor)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	if err := load.AwaitExecuted(ctx, p, d); err != nil {
		return 0, err
	}
	s, err := b.newServer(ctx)
	if err != nil {
		return 0, err
	}
	defer s.Close()

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
	if err := s.Exec(ctx, "SET GLOBAL super_read_only=OFF", "SET GLOBAL read_only=OFF", fmt.Sprintf("SET GLOBAL clone_valid_donor_list='%s'", from.MySQL)); err != nil {
		return 0, err
	}
	began := time.Now()
	err = s.Exec(ctx, fmt.Sprintf("CLONE INSTANCE FROM %s@'%s':%s IDENTIFIED BY '%s' REQUIRE SSL", copyUser, donorHost, donorPort, copyPass))
	var done *mysql.MySQLError
	if !errors.As(err, &done) || done.Number != 3707 { // it is done, and cannot start itself again
		return 0, fmt.Errorf("clone: %w", err)
	}
	if err := s.Ended(ctx); err != nil {
		return 0, err
	}
	if err := s.Start(ctx); err != nil {
		return 0, err
	}
	if err := s.Exec(ctx, fmt.Sprintf("CHANGE REPLICATION SOURCE TO SOURCE_HOST='%s', SOURCE_PORT=%s, SOURCE_USER='%s', SOURCE_PASSWORD='%s', SOURCE_AUTO_POSITION=1, SOURCE_SSL=1",
		host, port, copyUser, copyPass), "START REPLICA"); err != nil {
		return 0, err
	}
	err = load.AwaitExecuted(ctx, p, s.DB)
	return time.Since(began), err
}

// newServer is an empty one that runs, on the sandbox's disk.
func (b *bench) newServer(ctx context.Context) (*bare.Server, error) {
	ip, err := bare.Address(b.base, 1)
	if err != nil {
		return nil, err
	}
	s := &bare.Server{Name: "the script's server", Mysqld: b.st.Mysqld, Dir: filepath.Join(b.st.Dir, "script"), IP: ip, ID: 4711}
	err = os.MkdirAll(s.Dir, 0o700)
	if err == nil {
		err = sandbox.InitData(ctx, s.Mysqld, s.Data())
	}
	if err == nil {
		err = s.Start(ctx)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
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
