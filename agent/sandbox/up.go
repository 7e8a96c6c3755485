package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/api"
)

const (
	// pollEvery is how often the state of things is looked at while waiting.
	pollEvery = 200 * time.Millisecond
	// startGrace is how long an agent that was started may be without a trace.
	startGrace = 500 * time.Millisecond
)

// Options are what [Up] is told. What is zero takes the default, or what the
// directory's sandbox has.
type Options struct {
	Dir       string // default [DefaultDir]
	Nodes     int    // with a mysqld
	Witnesses int    // without; -1: not said
	Base      string // base address
	Port      int    // of the agents
	MySQLPort int
	Mysqld    string // path; default HA_MYSQLD, mysqld in PATH, or what make deps got
	Binary    string // ha; default this program
	// Progress is told what is being done, in a few words. May be nil.
	Progress func(string)
}

// Up makes the sandbox and starts it, or starts what is there and does not run.
// It returns when the cluster is healthy and every replica acknowledges. What
// was started keeps running when it fails or is interrupted.
func Up(ctx context.Context, o Options) (*Sandbox, api.Status, error) {
	var st api.Status
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	s, err := prepare(o)
	if err != nil {
		return nil, st, err
	}
	release, err := s.lock()
	if err != nil {
		return s, st, err
	}
	defer release()
	if err := s.checkPorts(); err != nil {
		return s, st, err
	}
	if err := s.writeFiles(); err != nil {
		return s, st, api.Failed("write the sandbox's files: %w", err)
	}
	if err := s.register(); err != nil {
		return s, st, api.Failed("register the sandbox: %w", err)
	}
	if err := s.prepareData(ctx, o.Progress); err != nil {
		return s, st, err
	}
	o.Progress("starting agents")
	for _, n := range s.Nodes {
		if _, err := s.startAgent(n); err != nil {
			return s, st, err
		}
	}
	if st, err = s.AwaitHealthy(ctx, o.Progress); err != nil {
		return s, st, err
	}
	o.Progress("creating the account " + AppUser)
	return s, st, s.createAccount(ctx, st.Primary)
}

// prepare finds the sandbox in the directory, or plans a new one there.
func prepare(o Options) (*Sandbox, error) {
	binary, err := findBinary(o.Binary)
	if err != nil {
		return nil, err
	}
	o.Binary = binary
	base, port := o.Base, o.Port
	if base == "" {
		base = DefaultBase
	}
	if port == 0 {
		port = DefaultPort
	}
	if o.Dir == "" {
		o.Dir = DefaultDir(base, port)
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	s, err := Open(o.Dir)
	if err == nil {
		return s.again(o)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if entries, err := os.ReadDir(o.Dir); err == nil && len(entries) > 0 {
		return nil, api.Usage("%s is not empty and holds no sandbox", o.Dir).WithHint("Give a new directory with --dir.")
	}
	o.Base, o.Port = base, port
	if o.Nodes == 0 {
		o.Nodes = DefaultNodes
	}
	if o.MySQLPort == 0 {
		o.MySQLPort = DefaultMySQLPort
	}
	o.Witnesses = max(o.Witnesses, 0)
	if s, err = plan(o); err != nil {
		return nil, err
	}
	s.Binary = binary
	if s.Mysqld, err = FindMysqld(o.Mysqld, binary); err != nil {
		return nil, err
	}
	return s, os.MkdirAll(s.Dir, 0o700)
}

// again checks that what is asked for is what is there.
func (s *Sandbox) again(o Options) (*Sandbox, error) {
	data, witnesses := 0, 0
	for _, n := range s.Nodes {
		if n.Witness {
			witnesses++
		} else {
			data++
		}
	}
	var differs []string
	compare := func(name string, want, have any, said bool) {
		if said && want != have {
			differs = append(differs, fmt.Sprintf("%s %v, not %v", name, have, want))
		}
	}
	compare("--nodes", o.Nodes, data, o.Nodes > 0)
	compare("--witnesses", o.Witnesses, witnesses, o.Witnesses >= 0)
	compare("--base-address", o.Base, s.Base, o.Base != "")
	compare("--port", o.Port, s.Port, o.Port != 0)
	compare("--mysql-port", o.MySQLPort, s.MySQLPort, o.MySQLPort != 0)
	if len(differs) > 0 {
		return nil, api.Usage("the sandbox in %s has %s", s.Dir, strings.Join(differs, "; ")).
			WithHint("Remove it first: ha sandbox down --purge --dir %s", s.Dir)
	}
	s.Binary = o.Binary
	if o.Mysqld == "" {
		if _, err := os.Stat(s.Mysqld); err == nil {
			return s, nil
		}
	}
	var err error
	s.Mysqld, err = FindMysqld(o.Mysqld, o.Binary)
	return s, err
}

func findBinary(path string) (string, error) {
	if path == "" {
		return os.Executable()
	}
	return filepath.Abs(path)
}

// FindMysqld looks for mysqld: at path if that is given, else at HA_MYSQLD, in
// PATH, and where `make deps` puts one beside the binary.
func FindMysqld(path, binary string) (string, error) {
	hint := "Get one with `make deps`, or give the path of yours with --mysqld or HA_MYSQLD."
	for _, said := range [][2]string{{"--mysqld", path}, {"HA_MYSQLD", os.Getenv("HA_MYSQLD")}} {
		if said[1] == "" {
			continue
		}
		if found, err := exec.LookPath(said[1]); err == nil {
			return filepath.Abs(found)
		}
		return "", api.Failed("%s: there is no program %s", said[0], said[1]).WithHint("%s", hint)
	}
	if found, err := exec.LookPath("mysqld"); err == nil {
		return filepath.Abs(found)
	}
	beside := filepath.Join(filepath.Dir(binary), ".deps", "mysql", "bin", "mysqld")
	if found, err := exec.LookPath(beside); err == nil {
		return found, nil
	}
	return "", api.Failed("there is no mysqld: looked at --mysqld, HA_MYSQLD, PATH and %s", beside).WithHint("%s", hint)
}

// checkPorts sees that nobody else has the ports of what does not run yet.
func (s *Sandbox) checkPorts() error {
	for _, n := range s.Nodes {
		if len(s.find(n.Name, "agent")) == 0 {
			if err := portFree(n.Agent, true); err != nil {
				return err
			}
		}
		if !n.Witness && len(s.find(n.Name, "mysqld")) == 0 {
			if err := portFree(n.MySQL, false); err != nil {
				return err
			}
		}
	}
	return nil
}

func portFree(addr string, udp bool) error {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		l.Close()
		if !udp {
			return nil
		}
		var p net.PacketConn
		if p, err = net.ListenPacket("udp", addr); err == nil {
			return p.Close()
		}
	}
	_, port, _ := net.SplitHostPort(addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return api.Failed("the port %s is taken by another program, or another sandbox", addr).
			WithHint("Stop it (`ss -lptun 'sport = :%s'` shows it), or use other addresses: --base-address 127.0.2.0", port)
	}
	return api.Failed("cannot listen at %s: %w", addr, err).WithHint("Use other addresses: --base-address 127.0.2.0")
}

// startAgent starts a node's agent unless it runs. It is a session of its own
// and outlives this process.
func (s *Sandbox) startAgent(n Node) (started bool, err error) {
	if len(s.find(n.Name, "agent")) > 0 {
		return false, nil
	}
	log, err := os.OpenFile(s.AgentLog(n.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return false, api.Failed("start %s: %w", n.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(s.Binary, "agent", "--config", s.configFile(n.Name))
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.NodeDir(n.Name), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return false, api.Failed("start %s: %w", n.Name, err)
	}
	go cmd.Wait() //nolint:errcheck // while we live it must not stay a zombie; what it says is in its log
	return true, nil
}

// AwaitHealthy waits until all nodes run, the cluster is healthy and every
// replica acknowledges. It fails at once if an agent has ended.
func (s *Sandbox) AwaitHealthy(ctx context.Context, progress func(string)) (api.Status, error) {
	if progress == nil {
		progress = func(string) {}
	}
	last := "no agent answers"
	for {
		st, err := s.Status(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			last = "no agent answers"
			if code := api.ExitCode(err); code != api.ExitUnreachable {
				last = err.Error()
			}
		default:
			if last = s.missing(st); last == "" {
				return st, nil
			}
		}
		if ctx.Err() == nil {
			progress("waiting: " + last)
		}
		if err := s.died(s.Nodes...); err != nil {
			return st, err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return st, api.Timeout("the sandbox is not healthy in time: %s", last).
					WithHint("It keeps trying: ha sandbox status --dir %s; logs: %s", s.Dir, s.AgentLog("n*"))
			}
			return st, ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// PIDs gives the processes of a node, of a kind: "agent" or "mysqld".
func (s *Sandbox) PIDs(node, kind string) []int {
	var out []int
	for _, p := range s.find(node, kind) {
		out = append(out, p.pid)
	}
	return out
}

// missing says what a healthy sandbox has and this one has not yet.
func (s *Sandbox) missing(st api.Status) string {
	voters := 0
	for _, n := range st.Nodes {
		if n.Raft == "leader" || n.Raft == "voter" {
			voters++
		}
	}
	want := min(len(s.Nodes), 5)
	want -= (want + 1) % 2 // an odd number
	var silent, waits []string
	data := 0
	for _, n := range s.Nodes {
		i := slices.IndexFunc(st.Nodes, func(ns api.NodeStatus) bool { return ns.Name == n.Name })
		if i < 0 || st.Nodes[i].Agent != "up" {
			silent = append(silent, n.Name)
			continue
		}
		if !n.Witness {
			data++
		}
		if ns := st.Nodes[i]; !n.Witness && n.Name != st.Primary && !(ns.Acker && ns.Attached) {
			waits = append(waits, waitsFor(ns, st.Issues))
		}
	}
	switch {
	case len(silent) > 0:
		return "for " + strings.Join(silent, " ") + " to join"
	case st.Primary == "" || st.Health == api.HealthNoPrimary || st.Health == api.HealthNoQuorum:
		return "for a primary"
	case len(waits) > 0:
		return fmt.Sprintf("primary %s, %d of %d replicas acknowledge; %s", st.Primary, data-1-len(waits), data-1, strings.Join(waits, ", "))
	case voters < want:
		return fmt.Sprintf("for votes, %d of %d", voters, want)
	case st.Health != api.HealthOK && len(st.Issues) > 0:
		return st.Issues[0].Text
	case st.Health != api.HealthOK:
		return "health is " + string(st.Health)
	}
	return ""
}

// waitsFor says what is known of a replica that does not acknowledge.
func waitsFor(n api.NodeStatus, issues []api.Issue) string {
	text := n.Name
	if n.LagSeconds != nil && *n.LagSeconds >= 1 {
		text += fmt.Sprintf(" is %.0f s behind", *n.LagSeconds)
	}
	if n.Doing != "" {
		text += ": " + n.Doing
	}
	for _, i := range issues {
		if i.Node == n.Name {
			text += ": " + i.Text
		}
	}
	return text
}

// died finds a node whose agent ended by itself, and says what it said last.
func (s *Sandbox) died(nodes ...Node) error {
	for _, n := range nodes {
		if len(s.find(n.Name, "agent")) > 0 {
			continue
		}
		text, _ := os.ReadFile(s.AgentLog(n.Name))
		return api.Failed("the agent of %s has ended; it said last:\n%s", n.Name, lastLines(text, 5)).
			WithHint("Its log: %s", s.AgentLog(n.Name))
	}
	return nil
}

// Start starts a node that is down, or what of it is down, and waits until it
// runs. Without a majority of agents a mysqld may have to wait for the group:
// then note says so and there is no error.
func (s *Sandbox) Start(ctx context.Context, name string) (note string, err error) {
	n, err := s.Node(name)
	if err != nil {
		return "", err
	}
	release, err := s.lock()
	if err != nil {
		return "", err
	}
	defer release()
	started, err := s.startAgent(n)
	if err != nil {
		return "", err
	}
	if !started && (n.Witness || len(s.find(name, "mysqld")) > 0) {
		return name + " runs already", nil
	}
	for began := time.Now(); ; {
		// One that was just started has no command line for a moment.
		if len(s.find(name, "agent")) == 0 && time.Since(began) > startGrace {
			return "", s.died(n)
		}
		st, err := s.Status(ctx)
		i := slices.IndexFunc(st.Nodes, func(ns api.NodeStatus) bool { return ns.Name == name })
		switch {
		case err != nil || i < 0 || st.Nodes[i].Agent != "up":
		case n.Witness || st.Nodes[i].Mysqld == "running" && len(s.find(name, "mysqld")) > 0:
			return name + " runs", nil
		case st.Health == api.HealthNoQuorum:
			return "the agent of " + name + " runs; its mysqld waits for a majority of agents", nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return "", api.Timeout("%s does not run in time", name).
					WithHint("It keeps trying: ha sandbox status; log: %s", s.AgentLog(name))
			}
			return "", ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// What [Sandbox.Kill] kills.
const (
	KillMysqld = "mysqld"
	KillAgent  = "agent"
	KillHost   = "host" // both
)

// Kill ends a part of a node with SIGKILL and waits until it is gone. It
// returns how many processes that were. An agent that lives starts its mysqld
// again.
func (s *Sandbox) Kill(name, what string) (int, error) {
	n, err := s.Node(name)
	if err != nil {
		return 0, err
	}
	var procs []proc
	switch what {
	case KillMysqld, KillAgent:
		procs = s.find(name, what)
	case KillHost:
		// The agent first: it would see its mysqld die.
		procs = append(s.find(name, "agent"), s.find(name, "mysqld")...)
	default:
		return 0, api.Usage("cannot kill %q", what).WithHint("What can be killed: mysqld, agent, host (both).")
	}
	if n.Witness && what == KillMysqld {
		return 0, api.Usage("%s is a witness: it has no mysqld", name).WithHint("Kill its agent.")
	}
	_, err = s.end(procs, unix.SIGKILL, 10*time.Second)
	return len(procs), err
}
