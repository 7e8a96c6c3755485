package agent

import (
	"time"
)

// Config is one agent's configuration: the TOML file, with flags laid over it.
// docs/CONFIG.md and `ha agent --help` say the same.
type Config struct {
	// Name is what people call this node; the host name by default.
	Name string `toml:"name"`
	// Listen is the agent's own address, host:port, TCP and UDP; others reach
	// it there unless Advertise says otherwise. Default port 8801.
	Listen    string `toml:"listen"`
	Advertise string `toml:"advertise"`
	// Join are seeds: addresses of other agents. Empty: this agent founds.
	Join []string `toml:"join"`
	// Secret is the cluster's; `ha keygen` makes one. SecretFile names a file
	// that holds it. Without one only loopback addresses may be used.
	Secret     string `toml:"secret"`
	SecretFile string `toml:"secret_file"`
	// DataDir holds the node id, the order token and the Raft store.
	DataDir string `toml:"data_dir"`
	// RuntimeDir holds the lease and the local socket; gone after a boot.
	RuntimeDir string `toml:"runtime_dir"`
	// Witness: an agent without mysqld.
	Witness   bool   `toml:"witness"`
	Zone      string `toml:"zone"`
	Priority  int    `toml:"priority"`
	NoPromote bool   `toml:"no_promote"`

	MySQL MySQLConfig `toml:"mysql"`
	Log   LogConfig   `toml:"log"`
}

// MySQLConfig is how this node's mysqld is run.
type MySQLConfig struct {
	Mysqld       string   `toml:"mysqld"`        // path of the binary
	DataDir      string   `toml:"data_dir"`      // its data; initialised if empty
	Socket       string   `toml:"socket"`        // default DataDir/../mysqld.sock
	PidFile      string   `toml:"pid_file"`      //
	LogFile      string   `toml:"log_file"`      // its error log
	Host         string   `toml:"host"`          // bind address and what replicas connect to
	Port         int      `toml:"port"`          // default 3306
	ServerID     uint32   `toml:"server_id"`     // default: made from the node id
	User         string   `toml:"user"`          // --user, when the agent is root
	DefaultsFile string   `toml:"defaults_file"` // optional my.cnf
	Options      []string `toml:"options"`       // more --name=value
	// StartTimeout bounds a start with crash recovery. Default 10 minutes.
	StartTimeout time.Duration `toml:"start_timeout"`
}

// LogConfig is where and how the agent logs.
type LogConfig struct {
	Level  string `toml:"level"`  // debug, info, warn, error
	Format string `toml:"format"` // text, json
}
