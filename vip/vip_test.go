package vip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const lease = 5 * time.Second

// An address is put on with the lease as its lifetime, is no source address, is
// announced, and goes at once when the role does.
func TestHoldAndDrop(t *testing.T) {
	t.Parallel()
	h := twoHosts(t)
	m := h.open(t, Config{})
	for _, vip := range []netip.Addr{vip4, vip6} {
		h.mislead(t, vip)
	}
	m.Hold(Primary, boottime()+lease-10*time.Millisecond)
	for _, vip := range []netip.Addr{vip4, vip6} {
		within(t, time.Second, "put on", func() bool { return len(find(t, h.here, vip)) == 1 })
		e := find(t, h.here, vip)[0]
		if ones, bits := e.Mask.Size(); e.ValidLft < 3 || e.ValidLft > 4 || e.PreferedLft != 0 || ones != bits {
			t.Errorf("%s is on for %d s, preferred for %d s", e.IPNet, e.ValidLft, e.PreferedLft)
		}
		took := within(t, time.Second, "the peer knows", func() bool { return h.believes(t, vip) == h.mac(t) })
		t.Logf("%s: the peer knew after %s", vip, took)
	}
	for _, s := range m.Status() {
		if !s.Held || s.Interface != cable || s.Problem != "" {
			t.Errorf("%+v", s)
		}
	}
	began := time.Now()
	m.Drop(Primary)
	if took := time.Since(began); took > dropWait+20*time.Millisecond {
		t.Errorf("Drop took %s", took)
	}
	for _, vip := range []netip.Addr{vip4, vip6} {
		within(t, 100*time.Millisecond, "taken off", func() bool { return len(find(t, h.here, vip)) == 0 })
	}
}

// Each grant renews it; the last second is not renewed; without grants it goes.
func TestRenewedAndOver(t *testing.T) {
	t.Parallel()
	h := twoHosts(t)
	m := h.open(t, Config{})
	stop := renew(t, m, Primary, 2*time.Second)
	within(t, time.Second, "put on", func() bool { return len(find(t, h.here, vip4)) == 1 && len(find(t, h.here, vip6)) == 1 })
	for began := time.Now(); time.Since(began) < 3*time.Second; { // longer than a lease
		if len(find(t, h.here, vip4)) != 1 || len(find(t, h.here, vip6)) != 1 {
			t.Fatal("gone under a lease")
		}
	}
	stop()
	m.Hold(Primary, boottime()+900*time.Millisecond) // a grant that came late
	within(t, 900*time.Millisecond+handover, "gone with the lease", func() bool {
		return len(find(t, h.here, vip4)) == 0 && len(find(t, h.here, vip6)) == 0
	})
}

// A lease that was over when the grant came through, as after a stop of this process,
// puts nothing on and announces nothing.
func TestOverBeforeItCame(t *testing.T) {
	t.Parallel()
	h := twoHosts(t)
	m := h.open(t, Config{})
	h.mislead(t, vip4)
	m.Hold(Primary, boottime()-time.Millisecond)
	m.Drop(Reader) // a pass was made
	if len(find(t, h.here, vip4)) != 0 || m.Status()[0].Held || h.believes(t, vip4) != oldMAC.String() {
		t.Errorf("%+v, the peer believes %s", m.Status(), h.believes(t, vip4))
	}
}

// Whatever is changed by hand is changed back, and what an earlier run left goes
// where this host has not the role.
func TestReconcile(t *testing.T) {
	t.Parallel()
	h := twoHosts(t)
	l, err := h.here.LinkByName(cable)
	must(t, err)
	must(t, h.here.AddrReplace(l, entry(vip4, 60))) // of an earlier run
	m := h.open(t, Config{})
	if s := m.Status(); !s[0].Held || s[1].Held {
		t.Errorf("what an earlier run left is not seen: %+v", s)
	}
	m.stir()
	if len(find(t, h.here, vip4)) != 1 {
		t.Error("taken off before it was known whether this host has the role")
	}
	m.Drop(Primary)
	within(t, time.Second, "left over, taken off", func() bool { return len(find(t, h.here, vip4)) == 0 })

	must(t, h.here.AddrReplace(l, entry(vip4, 60))) // while the role is elsewhere
	within(t, 3*time.Second, "taken off", func() bool { return len(find(t, h.here, vip4)) == 0 })

	m.Hold(Primary, boottime()+time.Minute)
	within(t, time.Second, "put on", func() bool { return len(find(t, h.here, vip6)) == 1 })
	for _, vip := range []netip.Addr{vip4, vip6} {
		must(t, h.here.AddrDel(l, entry(vip, 0)))
	}
	within(t, 3*time.Second, "put back", func() bool {
		return len(find(t, h.here, vip4)) == 1 && len(find(t, h.here, vip6)) == 1
	})
	add(t, h.here, cable, "10.9.0.100/24") // for ever: it would outlive the lease
	within(t, 3*time.Second, "the one by hand taken off", func() bool {
		e := find(t, h.here, vip4)
		return len(e) == 1 && ours(e[0], vip4)
	})

	h.mislead(t, vip4)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 0x42}
	must(t, h.here.LinkSetHardwareAddr(l, mac))
	within(t, 3*time.Second, "other agents are told", func() bool { // gossip asks from its own goroutine
		macs := m.MACs()
		return len(macs) == 1 && macs[0].String() == mac.String()
	})
	within(t, 3*time.Second, "the peer knows the new link-layer address", func() bool { return h.believes(t, vip4) == mac.String() })
}

// A link that was made anew has another index, and no addresses.
func TestLinkMadeAnew(t *testing.T) {
	t.Parallel()
	h := twoHosts(t)
	m := h.open(t, Config{Addresses: []Address{{Addr: vip4, Interface: cable, Role: Primary}}})
	renew(t, m, Primary, lease)
	within(t, time.Second, "put on", func() bool { return len(find(t, h.here, vip4)) == 1 })
	l, err := h.here.LinkByName(cable)
	must(t, err)
	must(t, h.here.LinkDel(l))
	within(t, 3*time.Second, "said", func() bool { return m.Status()[0].Code == CodeInterface && !m.Status()[0].Held })
	must(t, h.here.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: cable}, PeerName: "peer1"}))
	within(t, 3*time.Second, "put back", func() bool {
		return len(find(t, h.here, vip4)) == 1 && m.Status()[0].Held && m.Status()[0].Problem == ""
	})
}

// The addresses of the two roles come and go apart.
func TestRoles(t *testing.T) {
	t.Parallel()
	h := twoHosts(t)
	var mu sync.Mutex
	moved := ""
	m := h.open(t, Config{
		Addresses: []Address{{Addr: vip4, Role: Primary}, {Addr: vip6, Role: Reader}},
		Changed: func(s Status) {
			mu.Lock()
			defer mu.Unlock()
			moved += map[bool]string{true: "+", false: "-"}[s.Held] + string(s.Role) + " "
		},
	})
	has := func(a, b int) func() bool {
		return func() bool { return len(find(t, h.here, vip4)) == a && len(find(t, h.here, vip6)) == b }
	}
	m.Hold(Reader, boottime()+lease)
	within(t, time.Second, "reader", has(0, 1))
	m.Hold(Primary, boottime()+lease)
	within(t, time.Second, "both", has(1, 1))
	m.Drop(Reader)
	within(t, time.Second, "primary", has(1, 0))
	m.Drop(Primary)
	within(t, time.Second, "none", has(0, 0))
	within(t, time.Second, "told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return moved == "+reader +primary -reader -primary "
	})
}

// The address of an agent that is killed or frozen goes by itself (S4).
func TestAgentKilled(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "frozen": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := twoHosts(t)
			const lease = 3 * time.Second
			cmd := exec.Command(os.Args[0], "-test.run=^TestHolder$")
			cmd.Env = append(os.Environ(), "VIP_TEST_HOLDER="+lease.String())
			must(t, cmd.Start()) // from this thread: in its namespace
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
			both := func(n int) func() bool {
				return func() bool { return len(find(t, h.here, vip4)) == n && len(find(t, h.here, vip6)) == n }
			}
			within(t, 10*time.Second, "put on", both(1))
			must(t, cmd.Process.Signal(sig))
			took := within(t, lease+handover, "gone with the lease", both(0))
			t.Logf("gone %s after the signal", took.Round(time.Millisecond))
			if took < time.Second {
				t.Errorf("gone after %s: an agent may be away for less than its lease", took)
			}
		})
	}
}

// TestHolder is no test: it is the process that TestAgentKilled kills.
func TestHolder(t *testing.T) {
	lease, err := time.ParseDuration(os.Getenv("VIP_TEST_HOLDER"))
	if err != nil {
		t.Skip("for TestAgentKilled only")
	}
	m, err := Open(Config{Addresses: []Address{{Addr: vip4, Role: Primary}, {Addr: vip6, Role: Primary}}})
	must(t, err)
	renew(t, m, Primary, lease)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_ = m.Run(ctx)
}

// A stranger that has the address is reported, and is left alone with it when no
// earlier holder can have it any more. A member is what an earlier holder is.
func TestDuplicate(t *testing.T) {
	for name, member := range map[string]bool{"stranger": false, "member": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := twoHosts(t)
			add(t, h.there, cable, "10.9.0.100/24")
			add(t, h.there, cable, "fd00:9::100/64")
			m := h.open(t, Config{Member: func(net.HardwareAddr) bool { return member }})
			all := func(ok func(Status) bool) func() bool {
				return func() bool { s := m.Status(); return ok(s[0]) && ok(s[1]) }
			}
			renew(t, m, Primary, 2*time.Second)
			within(t, time.Second, "put on all the same", all(func(s Status) bool { return s.Held }))
			if member {
				for began := time.Now(); time.Since(began) < 4*time.Second; {
					if !all(func(s Status) bool { return s.Held && s.Code == "" })() {
						t.Fatalf("%+v", m.Status())
					}
				}
				return
			}
			within(t, 2*time.Second, "reported", all(func(s Status) bool { return s.Code == CodeDuplicate }))
			if !all(func(s Status) bool { return s.Held })() {
				t.Error("not held while an earlier holder may have it")
			}
			within(t, 5*time.Second, "given up", all(func(s Status) bool { return !s.Held && s.Code == CodeDuplicate }))
			for _, vip := range []netip.Addr{vip4, vip6} {
				if len(find(t, h.here, vip)) != 0 {
					t.Errorf("%s is here still", vip)
				}
				must(t, h.there.AddrDel(nil, &find(t, h.there, vip)[0]))
			}
			within(t, 8*time.Second, "taken back", all(func(s Status) bool { return s.Held && s.Code == "" }))
		})
	}
}

// Who yields keeps the addresses, silent, until a member has them; a second at most.
func TestYield(t *testing.T) {
	t.Parallel()
	h := twoHosts(t)
	m := h.open(t, Config{Member: func(mac net.HardwareAddr) bool { return mac.String() == oldMAC.String() }})
	held := func() bool { return len(find(t, h.here, vip4)) == 1 && len(find(t, h.here, vip6)) == 1 }
	gone := func() bool { return len(find(t, h.here, vip4)) == 0 && len(find(t, h.here, vip6)) == 0 }
	hold := func() {
		m.Hold(Primary, boottime()+lease)
		within(t, time.Second, "put on", held)
	}
	m.Yield(Primary) // what is not held is not
	if !gone() {
		t.Fatal("put on")
	}

	hold()
	m.Yield(Primary)
	m.Drop(Reader) // a pass was made
	stranger := net.HardwareAddr{2, 0, 0, 0, 0, 0x98}
	for _, vip := range []netip.Addr{vip4, vip6} {
		s := h.listen(t, vip)
		must(t, s.send(announcement(stranger, vip)[0]))
		for began := time.Now(); time.Since(began) < 300*time.Millisecond; {
			if !held() {
				t.Fatal("gone before anybody else has it")
			}
			if said := s.claimants(vip); len(said) > 0 {
				t.Fatalf("%s is announced", vip)
			}
		}
	}
	within(t, yieldMost, "gone where no successor comes", gone)

	hold()
	m.Yield(Primary)
	m.Hold(Primary, boottime()+lease) // it is primary again
	for began := time.Now(); time.Since(began) < yieldMost+200*time.Millisecond; {
		if !held() {
			t.Fatal("gone, and this host has the role")
		}
	}

	m.Yield(Primary)
	var took time.Duration
	for _, vip := range []netip.Addr{vip4, vip6} {
		must(t, h.listen(t, vip).send(announcement(oldMAC, vip)[0]))
		took = within(t, 500*time.Millisecond, "gone when a member has it", func() bool { return len(find(t, h.here, vip)) == 0 })
	}
	t.Logf("gone %s after the successor spoke", took)

	hold()
	m.Yield(Primary)
	m.Drop(Primary) // the lease is over, say
	within(t, 100*time.Millisecond, "gone", gone)
}

// A member that was stopped and announces what it has no longer is contradicted.
func TestClaimIsAnswered(t *testing.T) {
	t.Parallel()
	h := twoHosts(t)
	m := h.open(t, Config{Member: func(mac net.HardwareAddr) bool { return mac.String() == oldMAC.String() }})
	renew(t, m, Primary, 2*time.Second)
	for _, vip := range []netip.Addr{vip4, vip6} {
		s, heard := h.listen(t, vip), time.Now()
		within(t, 8*time.Second, "calm", func() bool {
			if len(s.claimants(vip)) > 0 {
				heard = time.Now()
			}
			return time.Since(heard) > 2*announceOften
		})
		must(t, s.send(announcement(oldMAC, vip)[0]))
		took := within(t, 2*lookEvery, "announced", func() bool {
			said := s.claimants(vip)
			return len(said) > 0 && said[0].String() == h.mac(t)
		})
		t.Logf("%s: contradicted after %s", vip, took)
		if s := m.Status()[0]; !s.Held || s.Code != "" {
			t.Errorf("%+v", s)
		}
	}
	own, err := net.ParseMAC(h.mac(t))
	must(t, err)
	if !m.kernel.isOwn(own) || m.kernel.isOwn(oldMAC) {
		t.Error("does not know its own links")
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	h := twoHosts(t)
	lo, err := h.here.LinkByName("lo")
	must(t, err)
	must(t, h.here.LinkSetUp(lo))
	routed := &net.IPNet{IP: net.IPv4(192, 0, 2, 0).To4(), Mask: net.CIDRMask(24, 32)}
	l, err := h.here.LinkByName(cable)
	must(t, err)
	must(t, h.here.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: routed, Scope: netlink.SCOPE_LINK}))
	far := &net.IPNet{IP: net.IPv4(198, 51, 100, 0).To4(), Mask: net.CIDRMask(24, 32)}
	must(t, h.here.RouteAdd(&netlink.Route{Dst: far, Gw: net.IPv4(10, 9, 0, 2)}))
	for _, c := range []struct{ addr, dev, want string }{
		{"10.9.0.100", "", cable},
		{"fd00:9::100", "", cable},
		{"10.9.0.100", cable, cable},
		{"192.0.2.7", "", cable},                 // by its route
		{"172.16.0.1", cable, cable},             // by name: whoever says so knows
		{"198.51.100.1", "", CodeInterface},      // behind a gateway
		{"172.16.0.1", "", CodeInterface},        // nowhere
		{"10.9.0.100", "eth9", CodeInterface},    // no such link
		{"10.9.0.100", "lo", CodeInterface},      // no Ethernet
		{"10.9.0.1", cable, CodeInUse},           // the host's own
		{"fd00:9::1", "", CodeInUse},             //
		{"2001:db8::100", "eth9", CodeInterface}, //
	} {
		m, err := Open(Config{Addresses: []Address{{Addr: netip.MustParseAddr(c.addr), Interface: c.dev, Role: Primary}}})
		got := ""
		var e *Error
		if errors.As(err, &e) {
			got = e.Code
			t.Log(err)
		} else if err == nil {
			got = m.Status()[0].Interface
			m.Close()
		}
		if got != c.want {
			t.Errorf("%s on %q: %s (%v), want %s", c.addr, c.dev, got, err, c.want)
		}
	}
}

// An IPv6 address is refused where IPv6 is switched off.
func TestOpenWithoutIPv6(t *testing.T) {
	twoHosts(t)
	sysctl := "/proc/sys/net/ipv6/conf/" + cable + "/disable_ipv6"
	for _, off := range []bool{true, false} {
		must(t, os.WriteFile(sysctl, []byte(map[bool]string{true: "1", false: "0"}[off]), 0))
		for _, addr := range []netip.Addr{vip4, vip6} {
			m, err := Open(Config{Addresses: []Address{{Addr: addr, Interface: cable, Role: Primary}}})
			var e *Error
			if refused := errors.As(err, &e) && e.Code == CodeInterface && e.Hint != ""; refused != (off && addr.Is6()) || err != nil && !refused {
				t.Errorf("IPv6 off: %v, %s: %v", off, addr, err)
			}
			if err == nil {
				m.Close()
			}
		}
	}
}

// Both capabilities are missed at the start, not at the first failover.
func TestOpenWithoutCapabilities(t *testing.T) {
	for _, lacking := range []uint{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW} {
		t.Run("", func(t *testing.T) {
			twoHosts(t)
			hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			must(t, unix.Capget(&hdr, &data[0]))
			data[0].Effective &^= 1 << lacking // of this thread, which ends with the test
			must(t, unix.Capset(&hdr, &data[0]))
			_, err := Open(Config{Addresses: []Address{{Addr: vip4, Role: Primary}}})
			var e *Error
			if !errors.As(err, &e) || e.Code != CodeCapability {
				t.Errorf("%v", err)
			}
		})
	}
}
