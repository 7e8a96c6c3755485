// Package lab is a cluster on machines of its own that break as real ones do, for
// tests: hosts are namespaces (network, mounts, processes, names) joined by a
// bridge, with disks of their own, the real ha and real mysqlds. Clients are on the
// same network.
//
// Everything belongs to the process that made it and goes with it, however that
// ends: the first process of each host ends when the socket to its maker does, and
// with it all on that host; namespaces, mounts and disks, which are in memory, live
// as long as somebody has them open.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ha/agent/api"
	"ha/agent/sandbox"
	"ha/agent/wire"
)

// Options are what [Up] makes.
type Options struct {
	Hosts     int    // with a mysqld
	Witnesses int    // without
	Clients   int    // on the network
	Dir       string // for logs and the binary; it stays
	Mysqld    string
	// Faulty: the agents are those of agent/sandbox/faulty, see [Lab.FaultFile].
	Faulty bool
	// Config is added to each agent's configuration.
	Config string
	// Progress is told what is being done. May be nil.
	Progress func(string)
}

// Lab is such a cluster. Hosts are n1, n2, …, witnesses w1, …, clients c1, ….
type Lab struct {
	Dir     string
	Binary  string
	Hosts   []*Host
	Clients []*Client

	number int64
	net    *fabric
	secret string
	api    *api.Client
}

var labs atomic.Int64

// template is a disk with an initialised data directory: that takes 4 s.
var template struct {
	sync.Mutex
	image *os.File
}

// Missing says what this machine lacks for a lab; empty: nothing.
func Missing() string {
	if os.Geteuid() != 0 {
		return "network namespaces and mounts need root"
	}
	for _, tool := range []string{"mkfs.ext4", "mount", "nsenter", "iptables-restore"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "there is no " + tool
		}
	}
	for _, path := range []string{"/dev/loop-control", "/dev/net/tun", disksAt} {
		if _, err := os.Stat(path); err != nil {
			return err.Error()
		}
	}
	ns, err := newNS()
	if err != nil {
		return "no network namespace can be made: " + err.Error()
	}
	_ = ns.Close()
	return ""
}

// Up builds ha, makes a lab and waits until it is healthy.
func Up(ctx context.Context, o Options) (*Lab, error) {
	if m := Missing(); m != "" {
		return nil, errors.New(m)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	l := &Lab{Dir: o.Dir, Binary: filepath.Join(o.Dir, "ha"), number: labs.Add(1), secret: wire.NewSecret()}
	err := l.up(ctx, o)
	if err != nil {
		l.Down()
	}
	return l, err
}

func (l *Lab) up(ctx context.Context, o Options) (err error) {
	o.Progress("building ha")
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", l.Dir+"/", "ha")
	if o.Faulty {
		build.Args = append(build.Args, "ha/agent/sandbox/faulty")
	}
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build ha: %w: %s", err, out)
	}
	if l.net, err = newFabric(); err != nil {
		return err
	}
	o.Progress("initialising a data directory")
	for i := range o.Hosts + o.Witnesses {
		if err := l.addHost(ctx, o, i); err != nil {
			return err
		}
	}
	for i := range o.Clients {
		if err := l.addClient(fmt.Sprintf("c%d", i+1), i+1); err != nil {
			return err
		}
	}
	l.register()
	if l.api, err = l.agents(l.Clients[len(l.Clients)-1]); err != nil {
		return err
	}
	o.Progress("switching hosts on")
	for _, h := range l.Hosts {
		if err := h.On(); err != nil {
			return err
		}
	}
	st, err := l.AwaitHealthy(ctx, 90*time.Second)
	if err != nil {
		return err
	}
	return l.createAccount(ctx, st.Primary)
}

func macOf(i int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, byte(i)} }

const (
	configFile = disksAt + "/ha.toml"
	secretFile = disksAt + "/secret"
)

func (l *Lab) addHost(ctx context.Context, o Options, i int) (err error) {
	h := &Host{lab: l, Name: fmt.Sprintf("n%d", i+1), Addr: fmt.Sprintf("%s%d", network, i+1), mac: macOf(i + 1), Witness: i >= o.Hosts}
	if h.Witness {
		h.Name = fmt.Sprintf("w%d", i-o.Hosts+1)
	}
	image := func(what string) string { return fmt.Sprintf("lab-%d-%d-%s-%s", os.Getpid(), l.number, h.Name, what) }
	disk, err := newImage(ctx, image("agent"), agentDiskSize, "")
	if err != nil {
		return err
	}
	h.images = append(h.images, disk)
	l.Hosts = append(l.Hosts, h)
	h.boot = boot{
		Name: h.Name, Disks: []string{AgentDisk}, Agent: []string{l.Binary, "agent", "--config", configFile},
		Env:   []string{"PATH=" + os.Getenv("PATH"), "HOME=/run", "TMPDIR=/run"},
		Files: map[string]string{configFile: l.config(o, h), secretFile: l.secret + "\n"},
	}
	if o.Faulty {
		h.boot.Agent[0] = filepath.Join(l.Dir, "faulty")
		h.boot.Env = append(h.boot.Env, "HA_FAULT_FILE="+l.FaultFile())
	}
	if h.Witness {
		return nil
	}
	template.Lock()
	defer template.Unlock()
	if template.image == nil {
		if template.image, err = newMySQLImage(ctx, o.Mysqld, l.Dir); err != nil {
			return err
		}
	}
	if disk, err = copyImage(template.image, image("mysql")); err != nil {
		return err
	}
	h.images = append(h.images, disk)
	h.boot.Disks = append(h.boot.Disks, MySQLDisk)
	return nil
}

func (l *Lab) config(o Options, h *Host) string {
	var b strings.Builder
	fmt.Fprintf(&b, "name = %q\nlisten = %q\nsecret_file = %q\ndata_dir = %q\nruntime_dir = \"/run/ha\"\n", h.Name, h.Addr, secretFile, AgentDisk+"/agent")
	if h.Name != "n1" {
		var seeds []string
		for i := range o.Hosts + o.Witnesses {
			seeds = append(seeds, fmt.Sprintf("%q", fmt.Sprintf("%s%d", network, i+1)))
		}
		fmt.Fprintf(&b, "join = [%s]\n", strings.Join(seeds, ", "))
	}
	if h.Witness {
		b.WriteString("witness = true\n")
	} else {
		fmt.Fprintf(&b, "[mysql]\nmysqld = %q\ndata_dir = %q\nuser = \"root\"\n", o.Mysqld, MySQLDisk+"/data")
		b.WriteString("options = [\"--innodb-buffer-pool-size=64M\", \"--innodb-redo-log-capacity=48M\", \"--max-connections=100\", \"--table-open-cache=400\"]\n")
		fmt.Fprintf(&b, "[[vip]]\naddress = %q\n[[vip]]\naddress = %q\nrole = \"reader\"\n", VIP, ReaderVIP)
	}
	return b.String() + o.Config
}

// FaultFile is what faulty agents look at: the step at which one of them is to die.
func (l *Lab) FaultFile() string { return filepath.Join(l.Dir, "fault") }

// Host finds a host by its name.
func (l *Lab) Host(name string) (*Host, error) {
	for _, h := range l.Hosts {
		if h.Name == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("the lab has no host %q", name)
}

// createAccount makes the application's account.
func (l *Lab) createAccount(ctx context.Context, primary string) error {
	db, err := l.Root(primary)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, stmt := range []string{
		"CREATE DATABASE " + sandbox.AppSchema,
		"CREATE USER '" + sandbox.AppUser + "'@'%' IDENTIFIED BY '" + sandbox.AppPassword + "'",
		"GRANT ALL ON " + sandbox.AppSchema + ".* TO '" + sandbox.AppUser + "'@'%'",
	} {
		if _, err := db.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("%s: %w", stmt, err)
		}
	}
	return nil
}

// Down ends all of it. Logs stay in Dir.
func (l *Lab) Down() {
	for _, h := range l.Hosts {
		h.mu.Lock()
		for _, d := range h.boot.Disks {
			if h.Running() {
				_ = h.Thaw(d)
			}
		}
		h.off()
		h.mu.Unlock()
		for _, image := range h.images {
			image.Close()
		}
	}
	if l.api != nil {
		l.unregister()
		l.api.HTTP.CloseIdleConnections()
	}
	for _, c := range l.Clients {
		_ = c.ns.Close()
	}
	if l.net != nil {
		_ = l.net.close()
	}
}

// Eventually tries every 20 ms until there is no error, or one that says that nobody
// waits (context.Canceled). After the bound the last error is given.
func Eventually(bound time.Duration, try func() error) error {
	end := time.Now().Add(bound)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil || errors.Is(err, context.Canceled) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %s: %w", bound, err)
		}
		<-tick.C
	}
}
