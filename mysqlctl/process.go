package mysqlctl

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// readyPoll is how often Start looks whether SQL answers.
const readyPoll = 15 * time.Millisecond

// Initialize makes a new, empty server in the data directory, which has to be
// empty or missing (ErrNotEmpty). It takes about 3 s. root@localhost has no
// password then: giving it one is for the person who wants it.
// If it fails or ctx ends, what it has written is removed again.
func (s *Server) Initialize(ctx context.Context) error {
	entries, err := os.ReadDir(s.cfg.DataDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%w: %s", ErrNotEmpty, s.cfg.DataDir)
	}
	if err := os.MkdirAll(s.cfg.DataDir, 0o750); err != nil {
		return err
	}
	if err := s.giveAway(s.cfg.DataDir); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, s.cfg.Mysqld, s.initArgs()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // half a data dir is of no use
	out, err := cmd.CombinedOutput()
	if err != nil {
		left, _ := filepath.Glob(filepath.Join(s.cfg.DataDir, "*"))
		for _, name := range left {
			_ = os.RemoveAll(name)
		}
		return fmt.Errorf("initialise %s: %w: %s", s.cfg.DataDir, errors.Join(ctx.Err(), err), lastErrors(bytes.NewReader(out)))
	}
	return nil
}

// Start starts mysqld and returns when SQL answers and the agent's account works.
// mysqld comes up super_read_only, with replication stopped and semi-sync off,
// in its own session, and outlives this process. ErrRunning if there is one
// already. If mysqld ends meanwhile the error is ErrExited and quotes the error
// log. If ctx ends first, mysqld goes on starting: Adopt, Start or Kill it.
//
// The agent's account is made, and repaired after a clone, by an init file: it
// runs before the server listens and before super_read_only takes hold, and it
// makes no GTID (tried on 9.7), so there is no moment at which a client could write.
func (s *Server) Start(ctx context.Context) error {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.Alive() || s.findRunning() != 0 {
		return fmt.Errorf("%w: on %s", ErrRunning, s.cfg.DataDir)
	}
	if ok, err := s.Initialized(); err != nil || !ok {
		return errors.Join(err, fmt.Errorf("%w: %s holds no server", ErrNotRunning, s.cfg.DataDir))
	}
	d, err := s.installed(ctx)
	if err != nil {
		return err
	}
	initFile, err := s.writeInitFile(d)
	if err != nil {
		return err
	}
	s.removeStaleLock()
	logEnd := fileSize(s.cfg.LogFile)
	proc, err := s.spawn(s.startArgs(d, initFile))
	if err != nil {
		_ = os.Remove(initFile)
		return err
	}
	s.setProcess(proc)
	if err := s.becomeReady(ctx, proc); err != nil {
		return fmt.Errorf("start mysqld: %w: %s", err, lastErrorsSince(s.cfg.LogFile, logEnd))
	}
	s.log.Info("mysqld started", "pid", proc.pid, "server_uuid", s.info.uuid, "version", s.info.version)
	return nil
}

// spawn starts mysqld as a child in its own session.
func (s *Server) spawn(args []string) (*process, error) {
	out, err := os.OpenFile(s.cfg.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if err := s.giveAway(s.cfg.LogFile); err != nil {
		return nil, err
	}
	cmd := exec.Command(s.cfg.Mysqld, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.cfg.DieWithParent {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	proc, err := watch(cmd.Process.Pid, cmd)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	return proc, nil
}

// becomeReady waits until SQL answers, then connects for good.
func (s *Server) becomeReady(ctx context.Context, proc *process) error {
	var last error
	for {
		select {
		case <-proc.exited:
			_ = os.Remove(s.initFile())
			return ErrExited
		default:
		}
		// The socket of an earlier mysqld may still answer "refused" at once.
		if last = s.connect(ctx); last == nil {
			return s.saveBase(ctx)
		}
		select {
		case <-proc.exited:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		case <-time.After(readyPoll):
		}
	}
}

// Adopt finds a mysqld that runs on this data directory, started by whomever, and
// takes it over. False if there is none. An error with true means that it runs
// but SQL does not answer, or not to the agent's account: it can still be killed,
// and Exited works.
func (s *Server) Adopt(ctx context.Context) (bool, error) {
	s.starting.Lock()
	defer s.starting.Unlock()
	pid := s.findRunning()
	if pid == 0 {
		return false, nil
	}
	s.mu.Lock()
	proc := s.proc
	s.mu.Unlock()
	if proc == nil || proc.pid != pid || !proc.alive() {
		var err error
		if proc, err = watch(pid, nil); errors.Is(err, os.ErrProcessDone) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		if !isServer(pid, s.cfg.DataDir) {
			return false, nil
		}
		s.setProcess(proc)
	}
	if err := s.connect(ctx); err != nil {
		return true, fmt.Errorf("adopt mysqld %d: %w", pid, err)
	}
	return true, s.saveBase(ctx)
}

// findRunning returns the pid of a live mysqld on this data directory, or 0.
func (s *Server) findRunning() int {
	for _, file := range []string{s.cfg.PidFile, s.cfg.Socket + ".lock"} {
		if pid := readPid(file); pid > 0 && isServer(pid, s.cfg.DataDir) {
			return pid
		}
	}
	// A mysqld that is only starting has no pid file yet.
	procs, _ := filepath.Glob("/proc/[0-9]*/cwd")
	want, err := os.Stat(s.cfg.DataDir)
	if err != nil {
		return 0
	}
	for _, cwd := range procs {
		if dir, err := os.Stat(cwd); err != nil || !os.SameFile(dir, want) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(cwd, "/proc/%d/", &pid); err == nil && isServer(pid, s.cfg.DataDir) {
			return pid
		}
	}
	return 0
}

// removeStaleLock removes the socket's lock file if its owner is no live mysqld:
// mysqld itself takes a zombie, or whoever has got the pid since, for the owner
// and refuses to start.
func (s *Server) removeStaleLock() {
	lock := s.cfg.Socket + ".lock"
	if pid := readPid(lock); pid > 0 && isServer(pid, "") {
		return
	}
	_ = os.Remove(lock)
	_ = os.Remove(s.cfg.Socket)
}

func (s *Server) setProcess(p *process) {
	s.mu.Lock()
	old := s.pool
	s.proc, s.pool = p, nil
	s.mu.Unlock()
	s.emergency.reset(nil)
	if old != nil {
		old.close()
	}
}

// connect opens the sessions that have to be there before there is trouble, and
// reads what does not change while mysqld runs.
func (s *Server) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*connectTimeout)
	defer cancel()
	s.mu.Lock()
	proc := s.proc
	s.mu.Unlock()
	if proc == nil {
		return ErrNotRunning
	}
	p, err := newPool(proc, s.cfg.Socket, s.cfg.Account)
	if err != nil {
		return err
	}
	if err := p.ready(ctx, readySessions); err != nil {
		p.close()
		return err
	}
	info, err := readInfo(ctx, p)
	if err != nil {
		p.close()
		return err
	}
	s.mu.Lock()
	old := s.pool
	s.pool, s.info = p, info
	s.mu.Unlock()
	if old != nil {
		old.close()
	}
	_ = os.Remove(s.initFile()) // of a Start that ended too early for it
	s.emergency.reset(p)
	return s.emergency.do(ctx, func(*session) error { return nil })
}

func readInfo(ctx context.Context, p *pool) (serverInfo, error) {
	var info serverInfo
	c, err := p.get(ctx)
	if err != nil {
		return info, err
	}
	defer p.put(c, true)
	err = c.conn.QueryRowContext(ctx, "SELECT @@version, @@server_uuid").Scan(&info.version, &info.uuid)
	if err != nil {
		return info, err
	}
	if info.dialect, err = dialectOf(info.version); err != nil {
		return info, err
	}
	return info, readOn(ctx, c, func(rows *sql.Rows) error {
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return err
			}
			info.source = info.source || strings.HasPrefix(name, "rpl_semi_sync_"+info.dialect.source)
			info.replica = info.replica || strings.HasPrefix(name, "rpl_semi_sync_"+info.dialect.replica)
			info.hasClone = info.hasClone || name == "clone"
		}
		return nil
	}, "SELECT PLUGIN_NAME FROM information_schema.PLUGINS WHERE PLUGIN_STATUS = 'ACTIVE' AND PLUGIN_LIBRARY IS NOT NULL")
}

// PID returns the process id of mysqld, 0 if none is known or it has ended.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil || !s.proc.alive() {
		return 0
	}
	return s.proc.pid
}

// Alive reports whether the mysqld of the last Start or Adopt still runs. A
// frozen one does; a zombie does not.
func (s *Server) Alive() bool { return s.PID() != 0 }

// Exited returns a channel that is closed when the mysqld of the last Start or
// Adopt has exited: 1 ms after a small process has, some 65 ms after a kill -9 of
// a big one, whose memory is freed first, and much later while it dumps core
// (CoreDumping). Each Start or Adopt makes a new channel; before the first the
// channel is closed.
func (s *Server) Exited() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return s.proc.exited
}

// CoreDumping reports whether mysqld is dead already but still writes its core:
// it accepts connections meanwhile, and Exited stays open.
func (s *Server) CoreDumping() bool {
	pid := s.PID()
	if pid == 0 {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CoreDumping:"); ok {
			return strings.TrimSpace(value) == "1"
		}
	}
	return false
}

// Kill sends SIGKILL to mysqld and waits until it is gone. It is the only end of
// a commit that waits which acknowledges nothing. Nothing to do if none runs.
func (s *Server) Kill(ctx context.Context) error {
	s.mu.Lock()
	proc := s.proc
	s.mu.Unlock()
	if proc == nil {
		return nil
	}
	err := proc.kill(ctx)
	if err == nil {
		_ = s.Close()
	}
	return err
}

// Stop makes the server read-only, ends replication and shuts it down cleanly: 3 s,
// up to 12 s with replicas attached. A clean shutdown answers OK to commits that
// wait for an acknowledgement, so where one waits it refuses (ErrWaitingCommits);
// the server is left running then, but may be read-only. Nothing to do if no
// server runs.
func (s *Server) Stop(ctx context.Context) error {
	if !s.Alive() {
		return nil
	}
	exited := s.Exited()
	if err := s.Fence(ctx); err != nil {
		if errors.Is(err, ErrWaitingCommits) {
			return fmt.Errorf("stop mysqld: %w", err)
		}
		return fmt.Errorf("stop mysqld: %w: %w", ErrWaitingCommits, err)
	}
	if _, err := s.SealReplica(ctx); err != nil {
		return fmt.Errorf("stop mysqld: %w", err)
	}
	if err := s.StopApplier(ctx); err != nil { // else the shutdown waits a minute for half a transaction
		return fmt.Errorf("stop mysqld: %w", err)
	}
	if err := s.exec(ctx, "SHUTDOWN"); err != nil && !lostConnection(err) {
		return fmt.Errorf("stop mysqld: %w", err)
	}
	select {
	case <-exited:
		return s.Close()
	case <-ctx.Done():
		return fmt.Errorf("stop mysqld: %w", ctx.Err())
	}
}

// giveAway makes mysqld's user the owner of path, when the agent is root.
func (s *Server) giveAway(path string) error {
	if s.cfg.User == "" || s.cfg.User == "root" || os.Geteuid() != 0 {
		return nil
	}
	uid, gid, err := lookupUser(s.cfg.User)
	if err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}

func fileSize(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

func lastErrorsSince(path string, from int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return err.Error()
	}
	return lastErrors(f)
}

// lastErrors returns the last [ERROR] lines of an error log, or its last line.
func lastErrors(r io.Reader) string {
	const most, tail = 3, 1 << 20
	text, _ := io.ReadAll(io.LimitReader(r, tail))
	var found []string
	var last string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		last = line
		if _, after, ok := strings.Cut(line, "[ERROR]"); ok {
			found = append(found, strings.TrimSpace(after))
		}
	}
	if len(found) == 0 {
		found = []string{last}
	}
	return strings.Join(found[max(0, len(found)-most):], "; ")
}
