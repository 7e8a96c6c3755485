// Package locate finds the cluster that a command is about: its secret and the
// addresses of its agents, from the configuration file or from a sandbox that
// runs on this machine.
package locate

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ha/agent"
	"ha/agent/api"
	"ha/agent/wire"
)

// PeersFile is where an agent keeps the addresses of the others, in its data
// dir: a JSON list of host:port.
const PeersFile = "peers.json"

// Options are what a person said about the cluster.
type Options struct {
	Config string // --config or HA_CONFIG
	Addr   string // --addr
}

// Cluster is a cluster that was found.
type Cluster struct {
	Secret string
	// Addrs are its agents, host:port; what --addr said comes first.
	Addrs []string
	// Source says where that was found, for people.
	Source string
}

// Client makes a client for the cluster.
func (c Cluster) Client() (*api.Client, error) {
	id, err := wire.NewIdentity(wire.DeriveKeys(c.Secret), "client")
	if err != nil {
		return nil, err
	}
	return &api.Client{HTTP: wire.HTTPClient(id), Addrs: c.Addrs}, nil
}

// Stream makes an HTTP client for long copies, to one agent at a time.
func (c Cluster) Stream() (*http.Client, error) {
	id, err := wire.NewIdentity(wire.DeriveKeys(c.Secret), "client")
	if err != nil {
		return nil, err
	}
	return wire.StreamClient(id), nil
}

// Find looks, in this order:
//
//  1. at the file named by --config or HA_CONFIG, and nowhere else;
//  2. for a sandbox on this machine that has the address given by --addr;
//  3. at $XDG_CONFIG_HOME/ha/ha.toml (~/.config/ha/ha.toml), then
//     /etc/ha/ha.toml;
//  4. for a sandbox on this machine, if there is exactly one;
//  5. at the address itself (127.0.0.1:8801 without one), with no secret.
//
// A file in the current directory is never read unasked: one should not be led
// to another cluster by where one happens to stand.
func Find(o Options) (Cluster, error) {
	if o.Addr != "" {
		o.Addr = agent.WithPort(o.Addr, agent.DefaultPort)
	}
	if o.Config != "" {
		return read(o.Config, o.Addr)
	}
	sandboxes := Registered()
	if o.Addr != "" {
		for _, path := range sandboxes {
			c, err := read(path, "")
			if err == nil && slices.Contains(c.Addrs, o.Addr) {
				c.prefer(o.Addr)
				return c, nil
			}
		}
	}
	for _, path := range UsualPlaces() {
		if _, err := os.Stat(path); err == nil {
			return read(path, o.Addr)
		}
	}
	if o.Addr == "" && len(sandboxes) == 1 {
		return read(sandboxes[0], "")
	}
	if o.Addr == "" && len(sandboxes) > 1 {
		return Cluster{}, several(sandboxes)
	}
	c := Cluster{Source: "no configuration"}
	if o.Addr == "" {
		o.Addr = agent.WithPort("127.0.0.1", agent.DefaultPort)
	}
	c.prefer(o.Addr)
	return c, nil
}

// UsualPlaces are the files that are looked at unasked.
func UsualPlaces() []string {
	var places []string
	if dir, err := os.UserConfigDir(); err == nil {
		places = append(places, filepath.Join(dir, "ha", "ha.toml"))
	}
	return append(places, "/etc/ha/ha.toml")
}

// read takes the secret and the addresses out of a configuration, which may be
// an agent's own.
func read(path, addr string) (Cluster, error) {
	cfg, err := agent.LoadConfig(path)
	if err != nil {
		return Cluster{}, err
	}
	if err := cfg.ReadSecret(); err != nil {
		return Cluster{}, err
	}
	c := Cluster{Secret: cfg.Secret, Source: path}
	if cfg.Listen == "" && cfg.Advertise == "" && len(cfg.Join) == 0 || cfg.Listen != "" || cfg.Advertise != "" {
		cfg.SetDefaults() // an agent's configuration: it listens somewhere
		c.add(cfg.Advertise)
	}
	for _, a := range cfg.Join {
		c.add(agent.WithPort(a, agent.DefaultPort))
	}
	if cfg.DataDir != "" {
		for _, a := range peers(filepath.Join(cfg.DataDir, PeersFile)) {
			c.add(a)
		}
	}
	c.prefer(addr)
	return c, nil
}

// peers reads the agent's cache. Whatever is wrong with it, it is only a cache.
func peers(path string) []string {
	var addrs []string
	if text, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(text, &addrs)
	}
	return addrs
}

func (c *Cluster) add(addr string) {
	if addr != "" && !slices.Contains(c.Addrs, addr) {
		c.Addrs = append(c.Addrs, addr)
	}
}

func (c *Cluster) prefer(addr string) {
	if addr != "" {
		c.Addrs = slices.Insert(slices.DeleteFunc(c.Addrs, func(a string) bool { return a == addr }), 0, addr)
	}
}

// Registry is the directory with one client configuration for each sandbox that
// runs under this user.
func Registry() string { return filepath.Join(agent.StateHome(), "ha", "sandboxes") }

// Registered gives the paths of those configurations. One whose sandbox was
// removed by hand is taken off.
func Registered() []string {
	paths, _ := filepath.Glob(filepath.Join(Registry(), "*.toml"))
	return slices.DeleteFunc(paths, func(path string) bool {
		// They are symbolic links to files in the sandboxes.
		_, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(path)
		}
		return err != nil
	})
}

func several(paths []string) error {
	var lines []string
	for _, p := range paths {
		if c, err := read(p, ""); err == nil && len(c.Addrs) > 0 {
			lines = append(lines, c.Addrs[0])
		}
	}
	return api.Usage("%d sandboxes run here: which one?", len(paths)).
		WithHint("Say it with --addr: %s", strings.Join(lines, ", "))
}

// DefaultTimeout bounds a question to the cluster.
const DefaultTimeout = 5 * time.Second
