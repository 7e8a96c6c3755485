// Package mysqlctl reads and changes one mysqld: each method is one idempotent
// effect on the server, with a deadline (its ctx).
//
// Three rules hold for every method:
//
//   - A method that only reads returns at its deadline, also on a frozen server.
//     A method that changes something returns at most [KillGrace] after it, for
//     it does not leave its statement behind: go-sql-driver's cancel closes the
//     client's end only, and an abandoned SET takes effect seconds later. So the
//     statement is KILLed by connection id over a connection that is already
//     open, and seen gone. Where that fails the error is [ErrAbandoned], and
//     the caller's one safe answer is [Server.Kill].
//   - Commits (Barrier, EnsureSchema, accounts) are the exception: one that waits
//     for an acknowledgement cannot be ended by anything but SIGKILL, and its
//     late effect harms nobody. They return at their deadline, outcome unknown.
//   - Nothing here releases a commit that waits for an acknowledgement unless
//     its comment says so: ConfigureSource is the only one that may.
//
// Statements come from a table by server version (dialect.go): 5.7, 8.0 and 8.4
// have unit tests only, MySQL 9.7 is what the tests run on.
package mysqlctl

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ha/mysqlctl/gtid"
)

// Errors to be told apart with errors.Is. Server errors are *mysql.MySQLError of
// go-sql-driver and can be had with errors.As.
var (
	// ErrNotRunning: there is no mysqld, or none that this Server knows of.
	ErrNotRunning = errors.New("mysqld is not running")
	// ErrRunning: refused while a mysqld runs on this data directory.
	ErrRunning = errors.New("mysqld is running")
	// ErrNotEmpty: the data directory holds something; nothing was touched.
	ErrNotEmpty = errors.New("data directory is not empty")
	// ErrExited: mysqld ended while it was being started.
	ErrExited = errors.New("mysqld exited")
	// ErrAbandoned: a statement went past its deadline, was KILLed and could not
	// be seen to be gone: it may take effect later. Kill the server.
	ErrAbandoned = errors.New("statement abandoned, may still take effect")
	// ErrNotFenced: the server may still commit.
	ErrNotFenced = errors.New("not fenced")
	// ErrWaitingCommits: refused as a commit waits for an acknowledgement.
	ErrWaitingCommits = errors.New("a commit waits for an acknowledgement")
	// ErrReadOnly: needs a writable server.
	ErrReadOnly = errors.New("server is read-only")
	// ErrApplier: the applier stands on an error, or does not run.
	ErrApplier = errors.New("applier stands")
	// ErrChannels: more than one replication channel.
	ErrChannels = errors.New("several replication channels")
	// ErrNotSealed: a receiver still runs.
	ErrNotSealed = errors.New("not sealed")
	// ErrNotConnected: the receiver is set up and tries, but is not connected yet.
	ErrNotConnected = errors.New("receiver not connected")
	// ErrNotAcking: the receiver is connected but does not acknowledge.
	ErrNotAcking = errors.New("replica does not acknowledge")
	// ErrReceivedLost: transactions that had been received are gone.
	ErrReceivedLost = errors.New("received transactions were lost")
	// ErrForeignCluster: the ha schema names another cluster.
	ErrForeignCluster = errors.New("data belongs to another cluster")
	// ErrBusy: too many calls of this kind still wait in the server.
	ErrBusy = errors.New("too many waiting")
	// ErrUnreadable: the binary log cannot be read offline (encrypted, torn in
	// the middle, or a form that is not known).
	ErrUnreadable = errors.New("binary log not readable")
	// ErrNoCut: the end of the binary log must not be cut off; the text says why.
	// Nothing was touched.
	ErrNoCut = errors.New("binary log must not be cut")
	// ErrDenied: the donor of a clone does not know the account.
	ErrDenied = errors.New("the donor denies access")
	// ErrDiskWait: the file system of the data was full. It is not any more, but mysqld
	// waits up to a minute before it tries again, and all commits with it.
	ErrDiskWait = errors.New("mysqld waits for room on its disk, where there is some again")
	// ErrDiskFull: no space is left on the file system of the data.
	ErrDiskFull = errors.New("disk full")
	// ErrDiskReadOnly: the file system of the data is mounted read-only.
	ErrDiskReadOnly = errors.New("file system is read-only")
	// ErrDiskHung: a write to the file system of the data does not return.
	ErrDiskHung = errors.New("disk does not answer")
	// ErrUnsupported: this server version cannot do it.
	ErrUnsupported = errors.New("not supported by this server version")
)

// KillGrace is how long after its deadline a changing method may return: the time
// to KILL its statement and to see it gone.
const KillGrace = 300 * time.Millisecond

// Account is a MySQL account and its password.
type Account struct {
	User     string
	Password string
	// Extra are further privileges that Start gives the agent's own account,
	// each WITH GRANT OPTION, like "ALL ON app.*". The sandbox needs them.
	Extra []string
}

// Config says where one mysqld lives. All paths are absolute.
type Config struct {
	Mysqld       string // path of the mysqld binary
	DataDir      string
	Socket       string
	PidFile      string
	LogFile      string // mysqld's error log, stdout and stderr; appended to
	LogBin       string // base name of the binary log; "" = DataDir/binlog
	Host         string // bind-address
	Port         int
	ServerID     uint32
	User         string   // --user, when the agent runs as root; "" = none
	DefaultsFile string   // a my.cnf, given first; "" = --no-defaults
	Options      []string // further --name=value, before the ones that ha needs
	Account      Account  // the agent's own account, made at each start, @localhost only
	// DieWithParent kills mysqld when this process dies. For tests: in
	// production mysqld outlives its agent. It needs User "root" or "" to work.
	DieWithParent bool
}

// logBin returns the base name of the binary log files.
func (c Config) logBin() string {
	if c.LogBin != "" {
		return c.LogBin
	}
	return filepath.Join(c.DataDir, "binlog")
}

// logBinOption is logBin as mysqld is told: relative to the data directory where it
// is in there, so that its index stays right when the directory is renamed.
func (c Config) logBinOption() string {
	if c.LogBin != "" {
		return c.LogBin
	}
	return "binlog"
}

// Server is one mysqld: a data directory, and the process on it if there is one.
// Its methods may be called from several goroutines.
type Server struct {
	cfg Config
	log *slog.Logger

	mu   sync.Mutex
	proc *process // the current or last process; nil before the first
	pool *pool    // connections to it; nil while there is no process
	info serverInfo

	starting  sync.Mutex // one Start or Adopt at a time
	emergency emergency
	upkept    atomic.Int64 // when, in Unix nanoseconds
	barriers  barriers
	receiving receiving
	disk      diskProbe
}

// serverInfo is what does not change while a mysqld runs.
type serverInfo struct {
	dialect  dialect
	uuid     string
	version  string
	source   bool // semi-sync source plugin is loaded
	replica  bool // semi-sync replica plugin is loaded
	hasClone bool
	// variables are those that Status looks at; true for a boolean.
	variables map[string]bool
}

// New returns a Server for cfg. It does nothing else: see Adopt and Start.
func New(cfg Config, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, log: log}
}

// Config returns what the Server was made with.
func (s *Server) Config() Config { return s.cfg }

// Initialized reports whether the data directory holds a server.
func (s *Server) Initialized() (bool, error) {
	for _, name := range []string{"mysql.ibd", "ibdata1", "mysql"} {
		_, err := os.Stat(filepath.Join(s.cfg.DataDir, name))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}

// ServerUUIDOnDisk returns the server_uuid in auto.cnf, "" if there is no such
// file: mysqld makes a new uuid at its next start then.
func (s *Server) ServerUUIDOnDisk() (string, error) {
	text, err := os.ReadFile(filepath.Join(s.cfg.DataDir, "auto.cnf"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(line, "=")
		if ok && strings.ReplaceAll(strings.TrimSpace(name), "_", "-") == "server-uuid" {
			return strings.ToLower(strings.TrimSpace(value)), nil
		}
	}
	return "", fmt.Errorf("no server-uuid in %s/auto.cnf", s.cfg.DataDir)
}

// Close closes the connections. mysqld goes on running.
func (s *Server) Close() error {
	s.mu.Lock()
	p := s.pool
	s.pool = nil
	s.mu.Unlock()
	s.emergency.reset(nil)
	if p != nil {
		p.close()
	}
	return nil
}

// Position is how far a server is: what it has received and what it has executed.
type Position struct {
	Executed   gtid.Set `json:"executed"`
	Received   gtid.Set `json:"received"`
	ServerUUID string   `json:"server_uuid"`
}

// All returns everything that the server holds: executed and received.
func (p Position) All() gtid.Set { return p.Executed.Union(p.Received) }

// Source is where a replica, or a clone, gets its data.
type Source struct {
	Host     string
	Port     int
	User     string
	Password string
	// NoTLS is for sources without TLS. The password then goes RSA-encrypted
	// with a key that nobody vouches for.
	NoTLS bool
	// Heartbeat is how often an idle source says that it lives; 0 means 250 ms.
	Heartbeat time.Duration
}

func (src Source) heartbeat() time.Duration {
	if src.Heartbeat > 0 {
		return src.Heartbeat
	}
	return 250 * time.Millisecond
}
