package mysqlctl

import (
	"bytes"
	"context"
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
			if other := readPid(s.cfg.PidFile); other != proc.pid && other > 0 && isServer(other, s.cfg.DataDir) {
				// Somebody else has started one too, and that has the locks. Ours waits
				// for them, and would come up when that one dies.
				return errors.Join(fmt.Errorf("%w: process %d came first", ErrRunning, other), s.Kill(ctx))
			}
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
