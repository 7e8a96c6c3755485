package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// proc is a process of the sandbox. It is known by its command line, which
// names a file or directory of the sandbox: that finds what a lost pid file
// would hide, and never takes a stranger with an old pid for ours.
type proc struct {
	pid  int
	node string // directory below the sandbox's
	kind string // "agent", "mysqld"
}

// procs lists the sandbox's living processes. Dead ones that nobody has waited
// for have no command line any more and do not count.
func (s *Sandbox) procs() []proc {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []proc
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := s.identify(pid); ok {
			out = append(out, p)
		}
	}
	return out
}

// identify tells what a process is to the sandbox.
func (s *Sandbox) identify(pid int) (proc, bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || len(text) == 0 {
		return proc{}, false
	}
	args := strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
	kind, path := classify(args)
	if kind == "" {
		return proc{}, false
	}
	rel, err := filepath.Rel(s.Dir, path)
	if err != nil || rel == "." || strings.HasPrefix(rel, "..") {
		return proc{}, false
	}
	node, _, _ := strings.Cut(rel, "/")
	return proc{pid: pid, node: node, kind: kind}, true
}

// classify finds an agent's configuration file or a mysqld's data directory in
// a command line.
func classify(args []string) (kind, path string) {
	if len(args) > 3 && args[1] == "agent" && args[2] == "--config" {
		return "agent", args[3]
	}
	// The program may have been started by a shell or by a loader of its own.
	if !slices.ContainsFunc(args[:min(len(args), 7)], func(a string) bool { return filepath.Base(a) == "mysqld" }) {
		return "", ""
	}
	for _, a := range args {
		if dir, ok := strings.CutPrefix(a, "--datadir="); ok {
			return "mysqld", dir
		}
	}
	return "", ""
}

// find gives the processes of a kind on a node; empty strings stand for all.
func (s *Sandbox) find(node, kind string) []proc {
	return slices.DeleteFunc(s.procs(), func(p proc) bool {
		return node != "" && p.node != node || kind != "" && p.kind != kind
	})
}

// signal sends sig to a process if it is still the one that was found, and
// returns a handle on which to wait for its end; nil: it has gone.
func (s *Sandbox) signal(p proc, sig unix.Signal) (*handle, error) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	h := &handle{fd}
	// From here on the pid cannot be given to another without our noticing.
	if now, ok := s.identify(p.pid); !ok || now != p {
		h.close()
		return nil, nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		h.close()
		return nil, err
	}
	return h, nil
}

// handle waits for the end of a process, whoever its parent is.
type handle struct{ fd int }

func (h *handle) close() { unix.Close(h.fd) }

// wait returns true once the process has ended, false when ctx is done.
func (h *handle) wait(ctx context.Context) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}, 50)
		if err == nil && n > 0 {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
	}
}

// end sends sig to all of these, waits for as long as bound for them to go, and
// then sends SIGKILL to the rest. It returns how many had to be killed.
func (s *Sandbox) end(procs []proc, sig unix.Signal, bound time.Duration) (killed int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	var errs []error
	handles := map[proc]*handle{}
	for _, p := range procs {
		h, err := s.signal(p, sig)
		if err != nil {
			errs = append(errs, err)
		}
		if h != nil {
			handles[p] = h
			defer h.close()
		}
	}
	for p, h := range handles {
		if h.wait(ctx) {
			continue
		}
		killed++
		last, err := s.signal(p, unix.SIGKILL)
		if err != nil || last == nil {
			errs = append(errs, err)
			continue
		}
		kctx, kcancel := context.WithTimeout(context.Background(), 10*time.Second)
		if !last.wait(kctx) {
			errs = append(errs, errors.New("process "+strconv.Itoa(p.pid)+" survives SIGKILL"))
		}
		kcancel()
		last.close()
	}
	return killed, errors.Join(errs...)
}
