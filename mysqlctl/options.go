package mysqlctl

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// ackTimeout is how long a commit waits for acknowledgements before MySQL gives
// up by itself, in milliseconds: 49,710 days, the greatest value it takes.
const ackTimeout = 4294967295000

// relayLogSize is that of a relay log file, in bytes, unless Options say otherwise. When
// the applier is through with one it removes it, and the receiver acknowledges nothing
// meanwhile: 0.4 ms for each MB. The default is that of a binary log: 1 GB.
const relayLogSize = 32 << 20

// guarded are variables that must not come from mysqld-auto.cnf: a persisted
// value wins over the command line, so one could open the server at its start.
var guarded = []string{
	"read_only", "super_read_only", "skip_replica_start", "skip_slave_start", "gtid_mode", "enforce_gtid_consistency",
	"rpl_semi_sync", "sync_binlog", "innodb_flush_log_at_trx_commit", "relay_log_recovery", "sync_relay_log",
	"log_replica_updates", "log_slave_updates", "bind_address", "port", "init_connect", "offline_mode",
	"binlog_expire_logs_auto_purge",
}

// installed returns the words of the installed binary, which is asked each time:
// a package upgrade may have changed it since.
func (s *Server) installed(ctx context.Context) (dialect, error) {
	version, err := InstalledVersion(ctx, s.cfg.Mysqld)
	if err != nil {
		return dialect{}, err
	}
	return dialectOf(version)
}

// InstalledVersion asks a mysqld binary for its version. Words may follow it.
func InstalledVersion(ctx context.Context, mysqld string) (string, error) {
	out, err := exec.CommandContext(ctx, mysqld, "--no-defaults", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", mysqld, err)
	}
	_, version, _ := strings.Cut(string(out), "Ver ")
	return strings.TrimSpace(version), nil
}

func (s *Server) firstArgs() []string {
	args := []string{"--no-defaults"}
	if s.cfg.DefaultsFile != "" {
		args = []string{"--defaults-file=" + s.cfg.DefaultsFile}
	}
	if s.cfg.User != "" {
		args = append(args, "--user="+s.cfg.User)
	}
	return append(args, "--datadir="+s.cfg.DataDir)
}

func (s *Server) initArgs() []string {
	args := append(s.firstArgs(), s.cfg.Options...)
	return append(args, "--initialize-insecure", "--loose-mysqlx=OFF")
}

// startArgs is the command line. What ha's promises rest on comes last, so that
// neither my.cnf nor Options can take it back.
func (s *Server) startArgs(d dialect, initFile string) []string {
	c := s.cfg
	args := s.firstArgs()
	if c.DefaultsFile == "" {
		// The default name of relay logs has the host's name in it, which may change.
		args = append(args, "--event-scheduler=OFF", "--relay-log=relay-bin", "--relay-log-index=relay-bin.index")
		// Where there are less than 32 processors MySQL 9 has commits write the redo
		// log themselves, and now and then all of them wait for 100 ms: none is woken up.
		args = append(args, "--loose-innodb-log-writer-threads=ON")
		if d.commitsInOrder() {
			// While all of its workers wait for the disk the applier looks for a free
			// one without a pause: with the usual 4 it took most of a processor.
			args = append(args, "--replica-parallel-workers=16")
		}
	}
	args = append(args, "--max-relay-log-size="+strconv.Itoa(relayLogSize))
	args = append(args, c.Options...)
	args = append(args,
		"--socket="+c.Socket, "--pid-file="+c.PidFile, "--log-error="+c.LogFile,
		"--server-id="+strconv.FormatUint(uint64(c.ServerID), 10),
		"--super-read-only=ON",
		d.flag("--skip-replica-start", "--skip-slave-start"),
		"--gtid-mode=ON", "--enforce-gtid-consistency=ON",
		"--log-bin="+c.logBinOption(), "--log-bin-index="+c.logBinOption()+".index",
		d.flag("--log-replica-updates=ON", "--log-slave-updates=ON"),
		"--loose-binlog-format=ROW",
		"--sync-binlog=1", "--innodb-flush-log-at-trx-commit=1",
		"--loose-binlog-expire-logs-auto-purge=OFF", // the agent purges: see TakePurging
		"--relay-log-recovery=OFF", "--sync-relay-log=1",
		d.flag("--replica-net-timeout=4", "--slave-net-timeout=4"),
		"--performance-schema=ON",
		"--loose-mysqlx=OFF",
		"--plugin-load-add="+d.plugins(),
		"--loose-"+d.semiSource()+"=OFF", "--loose-"+d.semiReplica()+"=OFF",
		fmt.Sprintf("--loose-%s=%d", d.semiSourceVar("timeout"), int64(ackTimeout)),
		"--loose-"+d.semiSourceVar("wait_point")+"=AFTER_SYNC",
		"--loose-"+d.waitNoReplica()+"=ON",
		"--init-file="+initFile,
	)
	if c.Host != "" {
		args = append(args, "--bind-address="+c.Host)
	}
	if c.Port != 0 {
		args = append(args, "--port="+strconv.Itoa(c.Port))
	}
	if !d.atLeast(8, 0, 0) { // files are not crash-safe; later versions know tables only
		return append(args, "--master-info-repository=TABLE", "--relay-log-info-repository=TABLE")
	}
	// A server whose disk lost its last rows gets them back from the others: its own
	// server_id is on them, and by default the receiver would leave them out for ever.
	// 5.7 does not start with this and log_slave_updates.
	args = append(args, "--replicate-same-server-id=ON")
	if name := s.persisted(); name != "" {
		s.log.Warn("mysqld-auto.cnf is not read", "why", "it sets "+name)
		args = append(args, "--persisted-globals-load=OFF")
	}
	return args
}

// persisted returns the first guarded variable that mysqld-auto.cnf sets.
func (s *Server) persisted() string {
	text, err := os.ReadFile(filepath.Join(s.cfg.DataDir, "mysqld-auto.cnf"))
	if err != nil {
		return ""
	}
	for _, name := range guarded {
		if strings.Contains(string(text), `"`+name) {
			return name
		}
	}
	return ""
}

// initFile is beside the socket: where mysqld can read, and the disk is not full.
func (s *Server) initFile() string { return s.cfg.Socket + ".init" }

// writeInitFile writes the statements that mysqld runs before it listens: they
// make and repair the agent's own account, without a GTID.
func (s *Server) writeInitFile(d dialect) (string, error) {
	file := s.initFile()
	_ = os.Remove(file) // of a start that was killed
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := s.giveAway(file); err != nil {
		return "", err
	}
	_, err = f.WriteString(strings.Join(accountStatements(d, s.cfg.Account), ";\n") + ";\n")
	return file, err
}

// accountStatements make the agent's own account, one per line. They name what
// the agent does; a person's root may do more.
func accountStatements(d dialect, acc Account) []string {
	who := quote(acc.User) + "@'localhost'"
	statements := []string{
		"SET SESSION sql_log_bin = 0",
		"CREATE USER IF NOT EXISTS " + who + " IDENTIFIED BY " + quote(acc.Password),
		"ALTER USER " + who + " IDENTIFIED BY " + quote(acc.Password) + " REQUIRE NONE PASSWORD EXPIRE NEVER ACCOUNT UNLOCK",
	}
	static := "SUPER, PROCESS, RELOAD, SHUTDOWN, LOCK TABLES, CREATE USER, REPLICATION CLIENT, REPLICATION SLAVE, EVENT"
	if d.hasDynamicPrivileges() {
		statements = append(statements,
			"GRANT BACKUP_ADMIN, CLONE_ADMIN, REPLICATION_SLAVE_ADMIN, SYSTEM_VARIABLES_ADMIN, SESSION_VARIABLES_ADMIN, "+
				"CONNECTION_ADMIN, SERVICE_CONNECTION_ADMIN, SYSTEM_USER, BINLOG_ADMIN, "+d.definerPrivileges()+" ON *.* TO "+who+" WITH GRANT OPTION")
	}
	statements = append(statements,
		"GRANT "+static+" ON *.* TO "+who+" WITH GRANT OPTION",
		"GRANT SELECT ON performance_schema.* TO "+who,
		"GRANT SELECT ON mysql.* TO "+who,
		"GRANT ALL ON ha.* TO "+who)
	for _, extra := range acc.Extra {
		statements = append(statements, "GRANT "+extra+" TO "+who+" WITH GRANT OPTION")
	}
	return statements
}

func lookupUser(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, err
	}
	uid, err = strconv.Atoi(u.Uid)
	if err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}
