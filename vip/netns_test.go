package vip

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Two hosts in network namespaces of their own, joined by a cable: this one, which
// the test's thread is in, and a peer.
type hosts struct {
	here, there *netlink.Handle
	ns, far     netns.NsHandle
}

var (
	ours4, peer4 = "10.9.0.1/24", "10.9.0.2/24"
	ours6, peer6 = "fd00:9::1/64", "fd00:9::2/64"
	vip4, vip6   = netip.MustParseAddr("10.9.0.100"), netip.MustParseAddr("fd00:9::100")
	oldMAC       = net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
)

const cable = "eth0"

// twoHosts locks the test to its thread. The thread ends with the test, and the
// namespaces with it.
func twoHosts(t *testing.T) *hosts {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: network namespaces need root; run as root to test the virtual IP")
	}
	runtime.LockOSThread() // never unlocked: nobody else may get a thread in another namespace
	there, err := netns.New()
	if errors.Is(err, unix.EPERM) {
		t.Skip("NOT TESTED: no network namespace can be made here:", err)
	}
	must(t, err)
	peer, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	must(t, err)
	here, err := netns.New()
	must(t, err)
	own, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(func() { own.Close(); peer.Close(); _ = here.Close(); _ = there.Close() })
	h := &hosts{here: own, there: peer, ns: here, far: there}
	h.plug(t, there)
	return h
}

// plug lays the cable and gives both ends their addresses.
func (h *hosts) plug(t *testing.T, there netns.NsHandle) {
	t.Helper()
	must(t, h.here.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: cable}, PeerName: "peer0"}))
	p, err := h.here.LinkByName("peer0")
	must(t, err)
	must(t, h.here.LinkSetNsFd(p, int(there)))
	p, err = h.there.LinkByName("peer0")
	must(t, err)
	must(t, h.there.LinkSetName(p, cable))
	for _, e := range []struct {
		h         *netlink.Handle
		addresses []string
	}{{h.here, []string{ours4, ours6}}, {h.there, []string{peer4, peer6}}} {
		l, err := e.h.LinkByName(cable)
		must(t, err)
		must(t, e.h.LinkSetUp(l))
		for _, a := range e.addresses {
			add(t, e.h, cable, a)
		}
	}
}

func add(t *testing.T, h *netlink.Handle, dev, cidr string) {
	t.Helper()
	l, err := h.LinkByName(dev)
	must(t, err)
	a, err := netlink.ParseAddr(cidr)
	must(t, err)
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	must(t, h.AddrAdd(l, a))
}

// find gives the entries of an address on a host.
func find(t *testing.T, h *netlink.Handle, addr netip.Addr) []netlink.Addr {
	t.Helper()
	list, err := h.AddrList(nil, netlink.FAMILY_ALL)
	must(t, err)
	var out []netlink.Addr
	for _, e := range list {
		if isAddr(e, addr) {
			out = append(out, e)
		}
	}
	return out
}

// listen opens a socket on the peer's end of the cable.
func (h *hosts) listen(t *testing.T, addr netip.Addr) *socket {
	t.Helper()
	l, err := h.there.LinkByName(cable)
	must(t, err)
	must(t, netns.Set(h.far))
	s, err := openSocket(l.Attrs().Index, addr)
	must(t, netns.Set(h.ns))
	must(t, err)
	t.Cleanup(s.close)
	return s
}

// believes gives the link-layer address at which the peer thinks addr is.
func (h *hosts) believes(t *testing.T, addr netip.Addr) string {
	t.Helper()
	l, err := h.there.LinkByName(cable)
	must(t, err)
	list, err := h.there.NeighList(l.Attrs().Index, family(addr))
	must(t, err)
	for _, n := range list {
		if a, ok := netip.AddrFromSlice(n.IP); ok && a.Unmap() == addr {
			return n.HardwareAddr.String()
		}
	}
	return ""
}

// mislead makes the peer think that addr is elsewhere, as after a failover.
func (h *hosts) mislead(t *testing.T, addr netip.Addr) {
	t.Helper()
	l, err := h.there.LinkByName(cable)
	must(t, err)
	must(t, h.there.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: family(addr), State: netlink.NUD_REACHABLE,
		IP: addr.AsSlice(), HardwareAddr: oldMAC}))
}

func (h *hosts) mac(t *testing.T) string {
	t.Helper()
	l, err := h.here.LinkByName(cable)
	must(t, err)
	return l.Attrs().HardwareAddr.String()
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// open makes a manager in this host and runs it until the test ends.
func (h *hosts) open(t *testing.T, cfg Config) *Manager {
	t.Helper()
	if cfg.Addresses == nil {
		cfg.Addresses = []Address{{Addr: vip4, Role: Primary}, {Addr: vip6, Role: Primary}}
	}
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	m, err := Open(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // it opens sockets when a link was made anew
		if err := netns.Set(h.ns); err != nil {
			t.Error(err)
		}
		_ = m.Run(ctx)
	})
	t.Cleanup(func() { cancel(); wg.Wait(); m.Close() })
	return m
}

// renew holds the role until the test ends or stop is called.
func renew(t *testing.T, m *Manager, role Role, lease time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			m.Hold(role, boottime()+lease)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// within waits for a condition and says how long it took.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
		<-tick.C
	}
	return time.Since(began)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
