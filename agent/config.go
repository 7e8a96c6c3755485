package agent

import (
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ha/vip"
)

// Ports that are used where a configuration names none.
const (
	DefaultPort      = 8801 // of an agent, TCP and UDP
	DefaultMySQLPort = 3306
)

// Config is one agent's configuration: the TOML file, with flags laid over it.
// docs/CONFIG.md and `ha agent --help` say the same.
//
// Use: [LoadConfig] or a literal, then [Config.SetDefaults], then
// [Config.Validate], then [Config.ReadSecret].
type Config struct {
	// Name is what people call this node; the host name by default.
	Name string `toml:"name"`
	// Listen is the agent's own address, host:port, TCP and UDP; others reach
	// it there unless Advertise says otherwise. Default 127.0.0.1:8801.
	Listen    string `toml:"listen"`
	Advertise string `toml:"advertise"`
	// Join are seeds: addresses of other agents. Empty: this agent founds.
	Join []string `toml:"join"`
	// Found lets a founder take over a mysqld that holds data already. It is a
	// flag only: a file that says it would say it again after a lost disk.
	Found bool `toml:"-"`
	// Secret is the cluster's; `ha keygen` makes one. SecretFile names a file
	// that holds it. Without one only loopback addresses may be used.
	Secret     string `toml:"secret"`
	SecretFile string `toml:"secret_file"`
	// DataDir holds the node id, the order token and the Raft store. Default
	// /var/lib/ha for root, else $XDG_STATE_HOME/ha/agent.
	DataDir string `toml:"data_dir"`
	// RuntimeDir holds the lease and the local socket; gone after a boot.
	// Default /run/ha for root, else DataDir.
	RuntimeDir string `toml:"runtime_dir"`
	// Witness: an agent without mysqld.
	Witness   bool   `toml:"witness"`
	Zone      string `toml:"zone"`
	Priority  int    `toml:"priority"`
	NoPromote bool   `toml:"no_promote"`

	// VIPs are the virtual IPs; the same list on every node with a mysqld.
	VIPs []VIPConfig `toml:"vip"`

	Hooks HookConfig `toml:"hooks"`

	Archive ArchiveConfig `toml:"archive"`

	MySQL MySQLConfig `toml:"mysql"`
	Log   LogConfig   `toml:"log"`
}

// MySQLConfig is how this node's mysqld is run.
type MySQLConfig struct {
	Mysqld       string   `toml:"mysqld"`        // path of the binary; default: mysqld in PATH
	DataDir      string   `toml:"data_dir"`      // its data; initialised if empty; default DATA_DIR/mysql
	Socket       string   `toml:"socket"`        // default DataDir/../mysqld.sock
	PidFile      string   `toml:"pid_file"`      // default DataDir/../mysqld.pid
	LogFile      string   `toml:"log_file"`      // its error log; default DataDir/../mysqld.log
	Host         string   `toml:"host"`          // bind address and what replicas connect to; default: Listen's
	Port         int      `toml:"port"`          // default 3306
	ServerID     uint32   `toml:"server_id"`     // default: made from the node id
	User         string   `toml:"user"`          // --user, when the agent is root; default: who owns DataDir, else root
	DefaultsFile string   `toml:"defaults_file"` // optional my.cnf
	Options      []string `toml:"options"`       // more --name=value
	// StartTimeout bounds a start with crash recovery. Default 10 minutes.
	StartTimeout time.Duration `toml:"start_timeout"`
}

// LogConfig is where and how the agent logs.
type LogConfig struct {
	Level  string `toml:"level"`  // debug, info (the default), warn, error
	Format string `toml:"format"` // text (the default), json
}

// SetDefaults fills what is not set, adds missing ports and makes paths
// absolute. It changes nothing the second time.
func (c *Config) SetDefaults() {
	if c.Name == "" {
		if host, err := os.Hostname(); err == nil {
			c.Name, _, _ = strings.Cut(host, ".")
		}
	}
	setDefault(&c.Listen, "127.0.0.1")
	c.Listen = WithPort(c.Listen, DefaultPort)
	setDefault(&c.Advertise, c.Listen)
	c.Advertise = WithPort(c.Advertise, DefaultPort)
	join := make([]string, len(c.Join))
	for i, a := range c.Join {
		join[i] = WithPort(a, DefaultPort)
	}
	c.Join = join
	setDefault(&c.DataDir, defaultDataDir())
	c.DataDir = absolute(c.DataDir)
	setDefault(&c.RuntimeDir, defaultRuntimeDir(c.DataDir))
	c.RuntimeDir, c.SecretFile = absolute(c.RuntimeDir), absolute(c.SecretFile)
	if !c.Witness {
		c.MySQL.setDefaults(c)
	}
	c.VIPs = slices.Clone(c.VIPs) // the caller's stay as they are
	for i := range c.VIPs {
		setDefault(&c.VIPs[i].Role, string(vip.Primary))
	}
	c.Archive.Dir = absolute(c.Archive.Dir)
	if c.Hooks.Timeout == 0 {
		c.Hooks.Timeout = 30 * time.Second
	}
	setDefault(&c.Log.Level, "info")
	setDefault(&c.Log.Format, "text")
}

func (m *MySQLConfig) setDefaults(c *Config) {
	if m.Mysqld == "" {
		if path, err := exec.LookPath("mysqld"); err == nil {
			m.Mysqld = path
		}
	}
	setDefault(&m.DataDir, filepath.Join(c.DataDir, "mysql"))
	m.Mysqld, m.DataDir, m.DefaultsFile = absolute(m.Mysqld), absolute(m.DataDir), absolute(m.DefaultsFile)
	// Beside the data and not in it: a rebuild swaps the data directory.
	beside := filepath.Dir(m.DataDir)
	setDefault(&m.Socket, filepath.Join(beside, "mysqld.sock"))
	setDefault(&m.PidFile, filepath.Join(beside, "mysqld.pid"))
	setDefault(&m.LogFile, filepath.Join(beside, "mysqld.log"))
	m.Socket, m.PidFile, m.LogFile = absolute(m.Socket), absolute(m.PidFile), absolute(m.LogFile)
	if m.Host == "" {
		m.Host, _, _ = net.SplitHostPort(c.Advertise)
	}
	if m.Port == 0 {
		m.Port = DefaultMySQLPort
	}
	if m.User == "" && os.Geteuid() == 0 {
		m.User = ownerOf(m.DataDir)
	}
	if m.StartTimeout == 0 {
		m.StartTimeout = 10 * time.Minute
	}
}

// WithPort adds the port to an address that has none.
func WithPort(addr string, port int) string {
	if _, _, err := net.SplitHostPort(addr); err == nil || addr == "" {
		return addr
	}
	host := addr
	if strings.HasPrefix(addr, "[") && strings.HasSuffix(addr, "]") {
		host = addr[1 : len(addr)-1]
	}
	if strings.ContainsAny(host, "[]") {
		return addr // Validate says what is wrong with it
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// StateHome is where this user's programs keep their state.
func StateHome() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "ha-state-"+strconv.Itoa(os.Getuid()))
	}
	return filepath.Join(home, ".local", "state")
}

func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/ha"
	}
	return filepath.Join(StateHome(), "ha", "agent")
}

// defaultRuntimeDir falls back to the data dir where /run cannot be used: the
// lease's file names the boot that it belongs to, so that is safe as well.
func defaultRuntimeDir(dataDir string) string {
	if info, err := os.Stat("/run"); os.Geteuid() == 0 && err == nil && info.IsDir() {
		return "/run/ha"
	}
	return dataDir
}

// ownerOf names the owner of a directory; root if there is none, since mysqld
// wants to be told that it runs as root.
func ownerOf(dir string) string {
	info, err := os.Stat(dir)
	if err != nil {
		return "root"
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if u, err := user.LookupId(strconv.FormatUint(uint64(st.Uid), 10)); err == nil {
			return u.Username
		}
	}
	return "root"
}

func setDefault(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

func absolute(path string) string {
	if path == "" {
		return ""
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
