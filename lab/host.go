package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Host is a machine of the lab.
type Host struct {
	Name    string
	Addr    string // IPv4
	Witness bool   // it has no mysqld

	lab    *Lab
	mac    net.HardwareAddr
	boot   boot
	images []*os.File // of boot.Disks
	relay  *relay

	pid     atomic.Int64 // of its first process; 0: it is off
	mu      sync.Mutex   // of what follows, and of switching on and off
	cmd     *exec.Cmd
	control *net.UnixConn
	answers *bufio.Reader
}

// Running tells whether the host is on.
func (h *Host) Running() bool { return h.pid.Load() != 0 }

// On switches a host on, and its agent.
func (h *Host) On() error {
	if err := h.switchOn(); err != nil {
		return fmt.Errorf("switch %s on: %w", h.Name, err)
	}
	return h.StartAgent()
}

func (h *Host) switchOn() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Running() {
		return nil
	}
	log, err := os.OpenFile(h.AgentLog(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{initName}
	cmd.Stderr = log
	cmd.ExtraFiles = append([]*os.File{theirs, log}, h.images...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true, // Ctrl-C is for us
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, conn.Close())
	}
	h.pid.Store(int64(cmd.Process.Pid))
	h.cmd, h.control = cmd, conn.(*net.UnixConn)
	h.answers = bufio.NewReader(conn)
	ns, err := h.netns()
	if err == nil {
		err = h.lab.net.plug(cable(h.Name), ns, h.mac, h.Addr+"/24")
		err = errors.Join(err, ns.Close())
	}
	var text []byte
	if err == nil {
		text, err = json.Marshal(h.boot)
	}
	if err == nil {
		err = h.ask(string(text))
	}
	if err != nil {
		h.off()
	}
	return err
}

// ask gives the init process an order; the caller has the lock.
func (h *Host) ask(order string) error {
	if !h.Running() {
		return fmt.Errorf("%s is off", h.Name)
	}
	if err := h.control.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(h.control, order); err != nil {
		return err
	}
	answer, err := h.answers.ReadString('\n')
	if err != nil {
		return err
	}
	if answer != "ok\n" {
		return errors.New(strings.TrimSpace(answer))
	}
	return nil
}

func (h *Host) order(order string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ask(order)
}

// StartAgent starts the agent, now and whenever it ends.
func (h *Host) StartAgent() error { return h.order("start") }

// HoldAgent lets the agent stay down when it ends next.
func (h *Host) HoldAgent() error { return h.order("hold") }

// Mute stops reading what the agent logs: its pipe fills up.
func (h *Host) Mute() error { return h.order("mute") }

// Hear ends Mute.
func (h *Host) Hear() error { return h.order("hear") }

// PowerOff takes the host away as a pulled plug does: nothing it might still say
// leaves it, all processes die, and its disks keep what was synced.
func (h *Host) PowerOff() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.Running() {
		return nil
	}
	errs := []error{h.lab.net.carrier(cable(h.Name), false)}
	for _, d := range h.boot.Disks {
		_ = h.Thaw(d) // it could not die
		errs = append(errs, h.losePower(d))
	}
	h.off()
	errs = append(errs, h.released())
	return errors.Join(errs...)
}

// off ends all that is there and waits for it; the caller has the lock.
func (h *Host) off() {
	if !h.Running() {
		return
	}
	if h.relay != nil {
		h.relay.close()
		h.relay = nil
	}
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
	_ = h.control.Close()
	h.pid.Store(0)
	h.lab.net.unplug(cable(h.Name))
}

// released waits until no loop device has the disks, which can be some time after
// the last process.
func (h *Host) released() error {
	for _, image := range h.images {
		if err := Eventually(20*time.Second, func() error {
			if dev, err := loopOf(image); err != nil || dev != "" {
				return fmt.Errorf("the disk %s is still in use by %s (%w)", image.Name(), dev, err)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Path is where a path of the host is for us.
func (h *Host) Path(path string) string { return fmt.Sprintf("/proc/%d/root%s", h.pid.Load(), path) }

// AgentLog is the file with what the agent said, of all its lives.
func (h *Host) AgentLog() string { return filepath.Join(h.lab.Dir, h.Name+".log") }

// Enter is a command that gives a shell on the host.
func (h *Host) Enter() string {
	return fmt.Sprintf("nsenter -t %d -m -u -i -n -p env HA_CONFIG=%s PATH=%s:$PATH bash", h.pid.Load(), configFile, h.lab.Dir)
}

// run runs a command among the host's mounts.
func (h *Host) run(argv ...string) error {
	args := append([]string{"-t", strconv.FormatInt(h.pid.Load(), 10), "-m", "--"}, argv...)
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%v on %s: %w: %s", argv, h.Name, err, out)
	}
	return nil
}

// Start starts a program on the host and does not wait for it.
func (h *Host) Start(argv ...string) error {
	args := append([]string{"-t", strconv.FormatInt(h.pid.Load(), 10), "-m", "-u", "-i", "-n", "-p", "--"}, argv...)
	cmd := exec.Command("nsenter", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait() //nolint:errcheck // it ends with the host, or before
	return nil
}

// The kinds of processes.
const (
	Agent  = "agent"
	Mysqld = "mysqld"
)

// PIDs are the host's processes of a kind, in this process's numbers; of all kinds
// with an empty one.
func (h *Host) PIDs(kind string) []int {
	if !h.Running() {
		return nil
	}
	here, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.pid.Load()))
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || int64(pid) == h.pid.Load() {
			continue
		}
		if ns, err := os.Readlink("/proc/" + e.Name() + "/ns/pid"); err != nil || ns != here {
			continue
		}
		text, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if len(text) > 0 && (kind == "" || kindOf(string(text)) == kind) {
			out = append(out, pid)
		}
	}
	return out
}

func kindOf(cmdline string) string {
	args := strings.Split(cmdline, "\x00")
	if len(args) > 1 && args[1] == "agent" {
		return Agent
	}
	if strings.Contains(cmdline, "--datadir=") { // it may run under a loader
		return Mysqld
	}
	return ""
}

// Signal sends a signal to the processes of a kind and says how many they were.
func (h *Host) Signal(kind string, sig unix.Signal) int {
	n := 0
	for _, pid := range h.PIDs(kind) {
		if unix.Kill(pid, sig) == nil {
			n++
		}
	}
	return n
}
