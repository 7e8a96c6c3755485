package mysqlctl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

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
	if info.variables, err = readVariables(ctx, c); err != nil {
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

// StopFast is [Server.Stop] of a server whose data are to be replaced: it leaves its
// changed pages to crash recovery, if ever there is one. To flush them may take minutes,
// and commits of others on the same disk wait meanwhile.
func (s *Server) StopFast(ctx context.Context) error {
	if s.Alive() {
		if err := s.exec(ctx, "SET GLOBAL innodb_fast_shutdown = 2"); err != nil {
			s.log.Debug("mysqld flushes its pages before it ends", "err", err)
		}
	}
	return s.Stop(ctx)
}

// Stop makes the server read-only, ends replication and shuts it down cleanly: 1 s,
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
	if p, err := s.connected(); err == nil { // mysqld gives each open connection 2 s to close by itself
		p.closeFree()
		s.emergency.reset(p)
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
