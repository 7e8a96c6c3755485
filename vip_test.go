package main_test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"ha/agent/api"
)

// The virtual IP of a whole cluster: hosts are network namespaces on one bridge, the
// agents and servers in them are real ones.

const (
	lanVIP    = "10.77.0.100"
	lanReader = "10.77.0.101"
	// vipLease is the default lease, and what the kernel may be late.
	vipLease = 5*time.Second + 1500*time.Millisecond
)

// lan is a bridge in a namespace of its own; the test's thread and the clients are
// there.
type lan struct {
	*testing.T
	ns    netns.NsHandle
	here  *netlink.Handle
	dir   string
	ha    string
	hosts map[string]*lanHost
}

type lanHost struct {
	name, addr, dir string
	ns              netns.NsHandle
	net             *netlink.Handle
	agent           *exec.Cmd
}

func newLAN(t *testing.T, names ...string) *lan {
	t.Helper()
	switch {
	case testing.Short() || os.Getenv("HA_MYSQLD") == "":
		t.Skip("needs a mysqld: set HA_MYSQLD (make test does), and no -short")
	case os.Geteuid() != 0:
		t.Skip("NOT TESTED: network namespaces need root; run as root to test the virtual IP")
	}
	l := &lan{T: t, dir: t.TempDir(), hosts: make(map[string]*lanHost)}
	l.ha = filepath.Join(l.dir, "ha")
	build := exec.Command("go", "build", "-o", l.ha, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	l.must(build.Run())
	l.must(os.WriteFile(filepath.Join(l.dir, "secret"), []byte("not so secret, in a test\n"), 0o600))
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and the namespaces with it
	l.ns, l.here = l.newNet()
	l.must(l.here.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	l.address(l.here, "br0", "10.77.0.254/24")
	for i, name := range names {
		l.addHost(name, i+1)
	}
	l.must(netns.Set(l.ns))
	return l
}

func (l *lan) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lan) newNet() (netns.NsHandle, *netlink.Handle) {
	l.Helper()
	ns, err := netns.New()
	l.must(err)
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	l.must(err)
	l.Cleanup(func() { h.Close(); _ = ns.Close() })
	lo, err := h.LinkByName("lo")
	l.must(err)
	l.must(h.LinkSetUp(lo))
	return ns, h
}

func (l *lan) address(h *netlink.Handle, dev, cidr string) {
	l.Helper()
	link, err := h.LinkByName(dev)
	l.must(err)
	a, err := netlink.ParseAddr(cidr)
	l.must(err)
	l.must(h.AddrAdd(link, a))
	l.must(h.LinkSetUp(link))
}

func (l *lan) addHost(name string, i int) {
	l.Helper()
	h := &lanHost{name: name, addr: fmt.Sprintf("10.77.0.%d", i), dir: filepath.Join(l.dir, name)}
	h.ns, h.net = l.newNet()
	plug := "to-" + name
	l.must(l.here.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: plug}, PeerName: "eth0"}))
	bridge, err := l.here.LinkByName("br0")
	l.must(err)
	near, err := l.here.LinkByName(plug)
	l.must(err)
	l.must(l.here.LinkSetMaster(near, bridge))
	l.must(l.here.LinkSetUp(near))
	far, err := l.here.LinkByName("eth0")
	l.must(err)
	l.must(l.here.LinkSetNsFd(far, int(h.ns)))
	l.address(h.net, "eth0", h.addr+"/24")
	l.must(os.MkdirAll(h.dir, 0o700))
	l.hosts[name] = h
	l.Cleanup(func() { l.end(h) })
}

// start starts the agent of a host with this much more of a configuration.
func (l *lan) start(name, more string) {
	l.Helper()
	h := l.hosts[name]
	join := ""
	if name != "n1" {
		join = `join = ["10.77.0.1", "10.77.0.2"]`
	}
	config := filepath.Join(h.dir, "ha.toml")
	l.must(os.WriteFile(config, fmt.Appendf(nil, "name = %q\nlisten = %q\n%s\nsecret_file = \"../secret\"\ndata_dir = \"agent\"\nruntime_dir = \"agent\"\n%s",
		name, h.addr, join, more), 0o600))
	log, err := os.OpenFile(filepath.Join(h.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	l.must(err)
	defer log.Close()
	h.agent = exec.Command(l.ha, "agent", "--config", config)
	h.agent.Stdout, h.agent.Stderr = log, log
	l.must(netns.Set(h.ns)) // the child is made by this thread
	err = h.agent.Start()
	l.must(netns.Set(l.ns))
	l.must(err)
}

// end kills a host's agent and mysqld.
func (l *lan) end(h *lanHost) {
	if h.agent != nil && h.agent.Process != nil {
		_ = h.agent.Process.Kill()
		_ = h.agent.Wait()
	}
	if pid, err := os.ReadFile(filepath.Join(h.dir, "mysqld.pid")); err == nil {
		var n int
		if _, err := fmt.Sscan(string(pid), &n); err == nil {
			_ = unix.Kill(n, unix.SIGKILL)
			l.eventually(10*time.Second, "mysqld of "+h.name+" is gone", func() bool {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n))
				return err != nil || strings.Contains(string(stat), ") Z ")
			})
		}
	}
	if l.Failed() {
		text, _ := os.ReadFile(filepath.Join(h.dir, "agent.log"))
		l.Logf("agent of %s:\n%s", h.name, text[max(0, len(text)-5000):])
	}
}

// data is the configuration of a host with a mysqld.
func data(vips string) string {
	return "[mysql]\nmysqld = \"" + os.Getenv("HA_MYSQLD") + "\"\ndata_dir = \"data\"\n" +
		"options = [\"--innodb-buffer-pool-size=32M\", \"--innodb-redo-log-capacity=16M\"]\n" + vips
}

const bothVIPs = "[[vip]]\naddress = \"" + lanVIP + "\"\n[[vip]]\naddress = \"" + lanReader + "\"\ninterface = \"eth0\"\nrole = \"reader\"\n"

// has says whether a host has an address.
func (l *lan) has(name, addr string) bool {
	l.Helper()
	list, err := l.hosts[name].net.AddrList(nil, netlink.FAMILY_V4)
	l.must(err)
	return slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.IP.String() == addr })
}

func (l *lan) eventually(bound time.Duration, what string, ok func() bool) time.Duration {
	l.Helper()
	began := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > bound {
			l.Fatalf("not within %s: %s", bound, what)
		}
		<-tick.C
	}
	return time.Since(began)
}

// cli runs a command of ha on this network.
func (l *lan) cli(args ...string) (string, int) {
	l.Helper()
	cmd := exec.Command(l.ha, append(args, "--config", filepath.Join(l.hosts["n1"].dir, "ha.toml"))...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		l.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// dial connects from this network, whatever thread the caller is on.
func (l *lan) dial(ctx context.Context, addr string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = netns.Set(l.ns); err == nil {
			conn, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
		}
	}()
	<-done
	return conn, err
}

// insert writes a row through the virtual IP, on a new connection.
func (l *lan) insert(row int) error {
	db, err := sql.Open("mysql", "app:app@lan("+lanVIP+":3306)/?timeout=1s&readTimeout=2s")
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(l.Context(), 2*time.Second)
	defer cancel()
	_, err = db.ExecContext(ctx, "INSERT INTO t.rows VALUES (?)", row)
	return err
}

func TestVirtualIP(t *testing.T) {
	l := newLAN(t, "n1", "n2", "w")
	mysql.RegisterDialContext("lan", l.dial)
	defer mysql.DeregisterDialContext("lan")

	l.start("n1", data("[[vip]]\naddress = \""+lanVIP+"\"\ninterface = \"eth7\"\n"))
	if err := l.hosts["n1"].agent.Wait(); err == nil || l.hosts["n1"].agent.ProcessState.ExitCode() != api.ExitFailed {
		t.Errorf("an agent without the interface: %v", err)
	}
	if log, _ := os.ReadFile(filepath.Join(l.hosts["n1"].dir, "agent.log")); !strings.Contains(string(log), "HA-VIP-INTERFACE") {
		t.Errorf("it says %s", log)
	}

	// One tells what it is told, the other hangs, which stops nothing.
	hooks := "[hooks]\non_promote = \"echo $HA_EVENT $HA_NODE $HA_ROLE $HA_EPOCH $HA_VIP\"\non_demote = [\"sleep\", \"100\"]\ntimeout = \"3s\"\n"
	l.start("n1", data(bothVIPs+hooks))
	l.start("n2", data(bothVIPs+hooks))
	l.start("w", "witness = true\n")
	l.eventually(2*time.Minute, "healthy", func() bool { _, code := l.cli("status"); return code == api.ExitOK })
	l.eventually(5*time.Second, "the virtual IPs are where they belong", func() bool {
		return l.has("n1", lanVIP) && !l.has("n2", lanVIP) && l.has("n2", lanReader) && !l.has("n1", lanReader)
	})
	l.prepare()
	if err := l.insert(1); err != nil {
		t.Fatal("through the virtual IP:", err)
	}
	if out, _ := l.cli("status"); !strings.Contains(out, lanVIP+"  primary  n1") || !strings.Contains(out, lanReader+"  reader   n2") {
		t.Errorf("status:\n%s", out)
	}

	// An agent that is back within its lease changes nothing.
	l.must(l.hosts["n1"].agent.Process.Kill())
	_ = l.hosts["n1"].agent.Wait()
	l.start("n1", data(bothVIPs+hooks))
	for began := time.Now(); time.Since(began) < 6*time.Second; {
		if !l.has("n1", lanVIP) {
			t.Fatal("the virtual IP left a primary whose agent was started again")
		}
	}

	// Planned: the address goes with the primary.
	began := time.Now()
	if out, code := l.cli("switchover", "--to", "n2"); code != api.ExitOK {
		t.Fatalf("switchover: %s", out)
	}
	l.eventually(2*time.Second, "moved", func() bool { return l.has("n2", lanVIP) && !l.has("n1", lanVIP) })
	l.eventually(5*time.Second, "writes through it", func() bool { return l.insert(2) == nil })
	t.Logf("written through the virtual IP %s after a switchover was asked for", time.Since(began).Round(time.Millisecond))
	l.eventually(10*time.Second, "the readers' goes to the replica", func() bool { return l.has("n1", lanReader) && !l.has("n2", lanReader) })

	// The agent dies for good: the address goes by itself, and to the next primary.
	l.eventually(time.Minute, "healthy", func() bool { _, code := l.cli("status"); return code == api.ExitOK })
	l.must(l.hosts["n2"].agent.Process.Kill())
	took := l.eventually(vipLease, "gone from n2", func() bool { return !l.has("n2", lanVIP) })
	t.Logf("gone from n2 %s after its agent was killed", took.Round(time.Millisecond))
	took = l.eventually(20*time.Second, "writes through n1", func() bool { return l.has("n1", lanVIP) && l.insert(3) == nil })
	t.Logf("written through it %s later", took.Round(time.Millisecond))
	l.eventually(5*time.Second, "the events tell it all", func() bool {
		out, _ := l.cli("events")
		return strings.Count(out, "virtual IP "+lanVIP+" (primary) is here, on eth0") == 3 &&
			strings.Count(out, ": promote n1 primary 1 "+lanVIP) == 1 && strings.Count(out, ": promote n2 primary 2 "+lanVIP) == 1 &&
			strings.Count(out, ": promote n1 primary 3 "+lanVIP) == 1 &&
			strings.Count(out, "n1: on_demote for epoch 1 failed after 3") == 1
	})
}

// prepare makes a table, and an account that may connect from elsewhere.
func (l *lan) prepare() {
	l.Helper()
	db, err := sql.Open("mysql", "root@unix("+filepath.Join(l.hosts["n1"].dir, "mysqld.sock")+")/")
	l.must(err)
	defer db.Close()
	for _, stmt := range []string{"CREATE DATABASE t", "CREATE TABLE t.rows (n INT PRIMARY KEY)",
		"CREATE USER app@'%' IDENTIFIED WITH caching_sha2_password BY 'app'", "GRANT ALL ON t.* TO app@'%'"} {
		_, err := db.Exec(stmt)
		l.must(err)
	}
}
