// Package sandbox is a whole cluster on one machine, for trying ha out: real
// agents, real mysqlds and real configuration files in one directory, each node
// on a loopback address of its own.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"ha/agent"
	"ha/agent/api"
	"ha/agent/locate"
)

// Defaults of [Options].
const (
	DefaultBase      = "127.0.1.0"
	DefaultPort      = agent.DefaultPort
	DefaultMySQLPort = agent.DefaultMySQLPort
	DefaultNodes     = 3
)

// The account for applications, in the sandbox only. It has all rights on the
// schema of the same name and no others.
const (
	AppUser     = "app"
	AppPassword = "app"
	AppSchema   = "app"
)

const (
	maxNodes = 9
	maxDir   = 75 // bytes: sockets below it must stay under the kernel's 108
)

// Sandbox is a cluster on this machine. sandbox.json in its directory holds it.
type Sandbox struct {
	Dir       string `json:"-"`
	Base      string `json:"base_address"` // node i has this address plus i
	Port      int    `json:"port"`
	MySQLPort int    `json:"mysql_port"`
	Mysqld    string `json:"mysqld"`
	Binary    string `json:"binary"` // ha
	Nodes     []Node `json:"nodes"`
}

// Node is one of its nodes.
type Node struct {
	Name    string `json:"name"`
	Agent   string `json:"agent"`           // host:port
	MySQL   string `json:"mysql,omitempty"` // host:port; empty for a witness
	Witness bool   `json:"witness,omitempty"`
}

// DefaultDir is where a sandbox with this base address lives if nobody says
// otherwise.
func DefaultDir(base string, port int) string {
	name := "sandbox"
	if base != DefaultBase || port != DefaultPort {
		name += "-" + base + "-" + strconv.Itoa(port)
	}
	return filepath.Join(agent.StateHome(), "ha", name)
}

// Open reads the sandbox in dir. The error is fs.ErrNotExist if there is none.
func Open(dir string) (*Sandbox, error) {
	path := filepath.Join(dir, "sandbox.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &Sandbox{Dir: dir}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, api.Failed("%s: %w", path, err).WithHint("Remove %s and make the sandbox anew with ha sandbox up.", dir)
	}
	return s, nil
}

// plan lays out a new sandbox.
func plan(o Options) (*Sandbox, error) {
	base, err := netip.ParseAddr(o.Base)
	if err != nil || !base.Is4() || !base.IsLoopback() {
		return nil, api.Usage("--base-address: %q is no IPv4 loopback address", o.Base).WithHint("Use something like 127.0.2.0; node i gets 127.0.2.i.")
	}
	total := o.Nodes + o.Witnesses
	switch last := int(base.As4()[3]); {
	case o.Nodes < 1 || o.Witnesses < 0:
		return nil, api.Usage("a sandbox has at least one node with a mysqld").WithHint("Use --nodes 3, or --nodes 2 --witnesses 1.")
	case total > maxNodes:
		return nil, api.Usage("%d nodes are too many for one machine", total).WithHint("Use at most %d, witnesses included.", maxNodes)
	case last+total > 254:
		return nil, api.Usage("--base-address: %s plus %d is beyond the last address of its network", o.Base, total).WithHint("Use one that ends in 0.")
	}
	if len(o.Dir) > maxDir {
		return nil, api.Usage("the directory %s has a path of %d bytes: its sockets would be too long for the kernel", o.Dir, len(o.Dir)).
			WithHint("Use --dir with a path of at most %d bytes.", maxDir)
	}
	s := &Sandbox{Dir: o.Dir, Base: o.Base, Port: o.Port, MySQLPort: o.MySQLPort}
	ip := base
	for i := range total {
		ip = ip.Next()
		n := Node{Name: "n" + strconv.Itoa(i+1), Agent: netip.AddrPortFrom(ip, uint16(o.Port)).String(), Witness: i >= o.Nodes}
		if !n.Witness {
			n.MySQL = netip.AddrPortFrom(ip, uint16(o.MySQLPort)).String()
		}
		s.Nodes = append(s.Nodes, n)
	}
	return s, nil
}

func (s *Sandbox) save() error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(s.Dir, "sandbox.json"), append(text, '\n'), 0o600)
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, text []byte, mode fs.FileMode) error {
	if err := os.WriteFile(path+".new", text, mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// lock keeps two commands from changing the sandbox at once.
func (s *Sandbox) lock() (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.Dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, api.Busy("another command is changing the sandbox in %s", s.Dir).WithHint("Wait until it is done.")
	}
	return func() { f.Close() }, nil
}

// Node finds a node by its name.
func (s *Sandbox) Node(name string) (Node, error) {
	var known []string
	for _, n := range s.Nodes {
		if n.Name == name {
			return n, nil
		}
		known = append(known, n.Name)
	}
	return Node{}, api.Usage("the sandbox has no node %q", name).WithHint("Its nodes: %s.", strings.Join(known, ", "))
}

// NodeDir is a node's directory.
func (s *Sandbox) NodeDir(name string) string { return filepath.Join(s.Dir, name) }

func (s *Sandbox) configFile(name string) string { return filepath.Join(s.NodeDir(name), "ha.toml") }

// AgentLog is the file that the agent of a node logs to.
func (s *Sandbox) AgentLog(name string) string { return filepath.Join(s.NodeDir(name), "agent.log") }

func (s *Sandbox) socket(name string) string { return filepath.Join(s.NodeDir(name), "mysqld.sock") }

// ClientConfig is the configuration file for clients of this sandbox.
func (s *Sandbox) ClientConfig() string { return filepath.Join(s.Dir, "client.toml") }

func (s *Sandbox) registration() string {
	return filepath.Join(locate.Registry(), s.Base+"-"+strconv.Itoa(s.Port)+".toml")
}

// register lets every ha command find the sandbox by the addresses of its
// agents.
func (s *Sandbox) register() error {
	link := s.registration()
	if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
		return err
	}
	if old, err := os.Readlink(link); err == nil && old == s.ClientConfig() {
		return nil
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(s.ClientConfig(), link)
}

func (s *Sandbox) unregister() {
	if old, err := os.Readlink(s.registration()); err == nil && old == s.ClientConfig() {
		_ = os.Remove(s.registration())
	}
}

// Cluster is how to reach the sandbox's agents.
func (s *Sandbox) Cluster() (locate.Cluster, error) {
	return locate.Find(locate.Options{Config: s.ClientConfig()})
}

// Status asks the sandbox's agents how the cluster is.
func (s *Sandbox) Status(ctx context.Context) (api.Status, error) {
	var st api.Status
	cluster, err := s.Cluster()
	if err != nil {
		return st, err
	}
	client, err := cluster.Client()
	if err != nil {
		return st, err
	}
	defer client.HTTP.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, locate.DefaultTimeout)
	defer cancel()
	_, err = client.Get(ctx, api.PathStatus, &st)
	return st, err
}

// DSN is how go-sql-driver connects to a node's mysqld as the application.
func (s *Sandbox) DSN(node string) (string, error) {
	n, err := s.Node(node)
	if err != nil {
		return "", err
	}
	if n.Witness {
		return "", fmt.Errorf("%s is a witness", node)
	}
	return fmt.Sprintf("%s:%s@tcp(%s)/%s?tls=preferred&timeout=2s", AppUser, AppPassword, n.MySQL, AppSchema), nil
}

// Find gives the sandbox that a command is about: the one in dir, or the one
// with the agent at addr, or the only one on this machine. It may be stopped.
func Find(dir, addr string) (*Sandbox, error) {
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		return openOr(abs)
	}
	dirs := known()
	if addr != "" {
		addr = agent.WithPort(addr, agent.DefaultPort)
		for _, d := range dirs {
			if s, err := Open(d); err == nil && slices.ContainsFunc(s.Nodes, func(n Node) bool { return n.Agent == addr }) {
				return s, nil
			}
		}
		return nil, notFound("no sandbox here has an agent at " + addr)
	}
	if len(dirs) > 1 {
		// One at the default place is meant, if it runs alone.
		if running := registeredDirs(); len(running) == 1 {
			return openOr(running[0])
		}
		return nil, api.Usage("there are %d sandboxes: which one?", len(dirs)).
			WithHint("Say it with --dir: %s", strings.Join(dirs, ", "))
	}
	if len(dirs) == 1 {
		return openOr(dirs[0])
	}
	return nil, notFound("there is no sandbox")
}

func openOr(dir string) (*Sandbox, error) {
	s, err := Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound("there is no sandbox in " + dir)
	}
	return s, err
}

func notFound(msg string) error {
	e := api.Unreachable("%s", msg).WithHint("Make one with: ha sandbox up")
	e.Err = fmt.Errorf("%w%w", e.Err, notExist{})
	return e
}

// notExist lets errors.Is(err, fs.ErrNotExist) hold without saying so again.
type notExist struct{}

func (notExist) Error() string { return "" }
func (notExist) Unwrap() error { return fs.ErrNotExist }

// known are the directories of the sandboxes that run and of those that were
// left at the default places.
func known() []string {
	dirs := registeredDirs()
	stopped, _ := filepath.Glob(filepath.Join(agent.StateHome(), "ha", "sandbox*", "sandbox.json"))
	for _, path := range stopped {
		if d := filepath.Dir(path); !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

func registeredDirs() []string {
	var dirs []string
	for _, link := range locate.Registered() {
		if target, err := os.Readlink(link); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
	}
	return dirs
}
