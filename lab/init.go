package lab

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// initName is the first argument of a process that is the first of a host.
const initName = "lab-host"

// What the init process of a host inherits.
const (
	fdControl = 3 + iota // a socket: orders in, answers out; its end is the host's
	fdLog                // what the agent says
	fdDisks              // the images of the disks, one file each
)

// restartDelay is RestartSec of deploy/systemd/ha.service.
const restartDelay = 500 * time.Millisecond

// boot is what a host is told when it is switched on.
type boot struct {
	Name  string
	Disks []string          // where the disks are mounted
	Files map[string]string // path → text
	Agent []string          // command line
	Env   []string
}

// Main must be the first thing that a program does which uses this package, and in
// TestMain: hosts are this program, started again. For a host it does not return.
func Main() {
	if os.Args[0] != initName {
		return
	}
	err := runHost()
	fmt.Fprintln(os.NewFile(fdControl, "control"), "error:", err)
	os.Exit(1)
}

// hostInit is the init process of a host: process 1 of namespaces of its own, so that
// whatever ends it ends the host. It mounts the disks, starts the agent and starts
// it again, as systemd would.
type hostInit struct {
	boot
	control *os.File
	disks   []*os.File // their roots

	mu    sync.Mutex
	hold  bool // the agent is not started again
	agent int  // its process; 0: none
	out   *os.File
	gate  sync.Mutex // held while nobody reads what the agent says
}

func runHost() error {
	h := &hostInit{control: os.NewFile(fdControl, "control"), hold: true}
	in := bufio.NewReader(h.control)
	text, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &h.boot); err != nil {
		return err
	}
	if err := h.mounts(); err != nil {
		return err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	h.out = write
	go h.copyLog(read, os.NewFile(fdLog, "log"))
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go h.reap(ended)
	fmt.Fprintln(h.control, "ok")
	for {
		order, err := in.ReadString('\n')
		if err != nil {
			h.end()
		}
		fmt.Fprintln(h.control, h.obey(order[:len(order)-1]))
	}
}

// end ends the host and everything on it. A frozen disk would keep its processes
// from dying, and this one with them.
func (h *hostInit) end() {
	for _, d := range h.disks {
		_ = unix.IoctlSetInt(int(d.Fd()), fiThaw, 0)
	}
	os.Exit(0)
}

func (h *hostInit) obey(order string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch order {
	case "start": // the agent, now and whenever it ends
		h.hold = false
		if h.agent != 0 {
			return "ok"
		}
		if err := h.start(); err != nil {
			return "error: " + err.Error()
		}
	case "hold": // it is not started again
		h.hold = true
	case "mute": // nobody reads what it says any more
		h.gate.Lock()
		if err := h.fillPipe(); err != nil {
			return "error: " + err.Error()
		}
	case "hear":
		h.gate.Unlock()
	default:
		return "error: what is " + order + "?"
	}
	return "ok"
}

// start starts the agent; the caller has the lock, so that it is known before it
// can have ended.
func (h *hostInit) start() error {
	pid, err := syscall.ForkExec(h.Agent[0], h.Agent, &syscall.ProcAttr{
		Dir: "/", Env: h.Env, Files: []uintptr{0, h.out.Fd(), h.out.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err == nil {
		h.agent = pid
	}
	return err
}

// reap takes away what has ended, orphans too, and has the agent started again.
func (h *hostInit) reap(ended <-chan os.Signal) {
	for range ended {
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if pid <= 0 {
				break
			}
			h.mu.Lock()
			if pid == h.agent {
				h.agent = 0
				// RestartPreventExitStatus: neither gets better by trying again.
				if code := status.ExitStatus(); code != 2 && code != 3 {
					time.AfterFunc(restartDelay, h.again)
				}
			}
			h.mu.Unlock()
		}
	}
}

func (h *hostInit) again() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.hold && h.agent == 0 {
		if err := h.start(); err != nil {
			fmt.Fprintln(h.out, "lab: start the agent:", err)
		}
	}
}

// copyLog is the journal.
func (h *hostInit) copyLog(from io.Reader, to io.Writer) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		h.gate.Lock()
		_, _ = to.Write(buf[:n])
		h.gate.Unlock()
	}
}

// fillPipe leaves no room in the agent's pipe: it says too little to fill it. What
// reads from the pipe takes a last piece, so it is filled until it stays full.
func (h *hostInit) fillPipe() error {
	// A file of our own: the agent must wait.
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", h.out.Fd()), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for full := 0; full < 10; <-time.After(10 * time.Millisecond) {
		n, err := unix.Write(fd, make([]byte, 1024))
		for err == nil && n > 0 {
			n, err = unix.Write(fd, make([]byte, 1024))
			full = 0
		}
		if err != unix.EAGAIN {
			return err
		}
		full++
	}
	return nil
}

// mounts makes what a host has of its own: its processes, /run and disks.
func (h *hostInit) mounts() error {
	if err := unix.Sethostname([]byte(h.Name)); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"tmpfs", "/run"}, {"tmpfs", disksAt}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	for i, at := range h.Disks {
		if err := mountImage(os.NewFile(uintptr(fdDisks+i), at), at); err != nil {
			return fmt.Errorf("mount %s: %w", at, err)
		}
		root, err := os.Open(at)
		if err != nil {
			return err
		}
		h.disks = append(h.disks, root)
	}
	h.Files[bootID] = uuid()
	for path, text := range h.Files {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	// A lease that was kept from before the boot must not look like one of now.
	return unix.Mount(bootID, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, "")
}

// bootID is a file that stands in for the kernel's, which is one for all hosts.
const bootID = "/run/boot_id"

func uuid() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		panic(err) // Linux has it
	}
	return string(text)
}
