package mysqlctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is one mysqld process, held by its pidfd: a pid alone may be given to
// somebody else at any time.
type process struct {
	pid    int
	fd     *os.File  // nil on kernels without pidfd (before 5.3): then it is polled
	start  string    // start time, field 22 of /proc/PID/stat
	child  *exec.Cmd // if it is a child of this process: to reap it
	exited chan struct{}
}

// watch opens pid and closes exited when it has ended. A zombie has ended.
func watch(pid int, child *exec.Cmd) (*process, error) {
	p := &process{pid: pid, child: child, exited: make(chan struct{})}
	start, state, err := procStat(pid)
	if err != nil {
		return nil, err
	}
	p.start = start
	if state == 'Z' && child == nil {
		return nil, os.ErrProcessDone
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	switch {
	case err == nil:
		p.fd = os.NewFile(uintptr(fd), "pidfd")
	case errors.Is(err, unix.ENOSYS):
	default:
		return nil, fmt.Errorf("pidfd of %d: %w", pid, err)
	}
	if now, _, err := procStat(pid); err != nil || now != start {
		p.fd.Close()
		return nil, os.ErrProcessDone
	}
	go p.wait()
	return p, nil
}

// wait parks in the runtime's poller until the pidfd is readable.
func (p *process) wait() {
	defer close(p.exited)
	if !p.waitPidfd() {
		for {
			start, state, err := procStat(p.pid)
			if err != nil || start != p.start || state == 'Z' {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if p.child != nil {
		_ = p.child.Wait()
	}
}

func (p *process) waitPidfd() bool {
	if p.fd == nil {
		return false
	}
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(polled, 0)
		ended = err == nil && n > 0
		return ended || err != nil && !errors.Is(err, unix.EINTR)
	})
	return err == nil && ended
}

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// kill sends SIGKILL to this very process, and waits for its end.
func (p *process) kill(ctx context.Context) error {
	if p.alive() {
		if err := p.signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill mysqld %d: %w", p.pid, err)
		}
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("mysqld %d has not ended after SIGKILL: %w", p.pid, ctx.Err())
	}
}

func (p *process) signal(sig unix.Signal) error {
	if p.fd == nil {
		if now, _, err := procStat(p.pid); err != nil || now != p.start {
			return unix.ESRCH
		}
		return unix.Kill(p.pid, sig)
	}
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	return errors.Join(err, sent)
}

// procStat returns the start time and the state letter of a process.
func procStat(pid int) (start string, state byte, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, os.ErrProcessDone
	}
	// The name in parentheses may hold anything, blanks and parentheses too.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return "", 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	return fields[19], fields[0][0], nil
}

// isServer reports whether pid is a live mysqld, and if dataDir is not "", one
// on this data directory: mysqld's working directory is its data directory.
func isServer(pid int, dataDir string) bool {
	_, state, err := procStat(pid)
	if err != nil || state == 'Z' {
		return false
	}
	proc := fmt.Sprintf("/proc/%d/", pid)
	names, _ := os.ReadFile(proc + "cmdline")
	args := strings.Split(string(names), "\x00")
	exe, _ := os.Readlink(proc + "exe")
	// Started through a loader (ld.so --argv0 .../mysqld ...) the name is among
	// the arguments, before the first option of mysqld itself.
	named := isMysqld(strings.TrimSuffix(exe, " (deleted)"))
	for _, arg := range args[:min(len(args), 8)] {
		named = named || isMysqld(arg)
	}
	if !named || dataDir == "" {
		return named
	}
	cwd, err1 := os.Stat(proc + "cwd")
	dir, err2 := os.Stat(dataDir)
	return err1 == nil && err2 == nil && os.SameFile(cwd, dir)
}

func isMysqld(path string) bool {
	name := filepath.Base(path)
	return !strings.HasPrefix(path, "-") && (strings.HasPrefix(name, "mysqld") || strings.HasPrefix(name, "mariadbd"))
}

// readPid returns the process id in a pid file or socket lock, 0 if there is none.
func readPid(file string) int {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return max(pid, 0)
}
