package lab

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The network of every lab. It is in namespaces of its own, so that all labs can
// have the same one.
const (
	network = "10.77.0."
	// VIP and ReaderVIP are the virtual IPs.
	VIP       = network + "100"
	ReaderVIP = network + "101"
)

// fabric is what hosts are plugged in: a network namespace with a bridge for each
// segment. No process is in it; it goes with the last file that has it open.
type fabric struct {
	ns    netns.NsHandle
	link  *netlink.Handle
	spare int // bridges that were made
}

// in does something on a thread that is in a network namespace: sockets and
// processes that it makes are there.
func in(ns netns.NsHandle, do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := netns.Set(ns)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// newNS makes a network namespace.
func newNS() (ns netns.NsHandle, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		ns, err = netns.New()
	}()
	<-done
	return ns, err
}

func newFabric() (*fabric, error) {
	ns, err := newNS()
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	link, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	f := &fabric{ns: ns, link: link}
	return f, f.addBridge("br0")
}

func (f *fabric) close() error {
	f.link.Close()
	return f.ns.Close()
}

func (f *fabric) addBridge(name string) error {
	no := false
	b := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}, MulticastSnooping: &no}
	if err := f.link.LinkAdd(b); err != nil {
		return fmt.Errorf("add bridge %s: %w", name, err)
	}
	return f.link.LinkSetUp(b)
}

// plug connects a namespace: its end of the cable is eth0 with the address, ours
// has the name.
func (f *fabric) plug(name string, ns netns.NsHandle, mac net.HardwareAddr, cidr string) error {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(ns)}
	if err := f.link.LinkAdd(veth); err != nil {
		return fmt.Errorf("add cable %s: %w", name, err)
	}
	there, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer there.Close()
	if lo, err := there.LinkByName("lo"); err != nil {
		return err
	} else if err := there.LinkSetUp(lo); err != nil {
		return err
	}
	eth, err := there.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if err := there.AddrAdd(eth, addr); err != nil {
		return err
	}
	if err := there.LinkSetUp(eth); err != nil {
		return err
	}
	return f.join(name, "br0")
}

// join moves a cable to a bridge. Its other end notices nothing.
func (f *fabric) join(name, bridge string) error {
	cable, err := f.link.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cable %s: %w", name, err)
	}
	b, err := f.link.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", bridge, err)
	}
	if err := f.link.LinkSetMaster(cable, b); err != nil {
		return err
	}
	return f.link.LinkSetUp(cable)
}

// carrier pulls a cable out, or puts it in again: its other end sees that.
func (f *fabric) carrier(name string, up bool) error {
	cable, err := f.link.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cable %s: %w", name, err)
	}
	if up {
		return f.link.LinkSetUp(cable)
	}
	return f.link.LinkSetDown(cable)
}

// unplug removes a cable. That of a host that is gone would go too, but later.
func (f *fabric) unplug(name string) {
	if cable, err := f.link.LinkByName(name); err == nil {
		_ = f.link.LinkDel(cable)
	}
}

// Loss is packets that do not arrive. ARP is not touched.
type Loss struct {
	From, To string  // hosts; empty: any
	Port     int     // at either end; 0: all
	UDP      bool    // not TCP; with a port
	Share    float64 // of the packets, 0 to 1; 0 is all of them
}

// Lose makes packets get lost, and nothing else: what was lost before is not any
// more. Without an argument all arrives.
func (l *Lab) Lose(losses ...Loss) error {
	for _, h := range l.Hosts {
		if h.Running() {
			if err := l.filter(h, losses); err != nil {
				return fmt.Errorf("filter of %s: %w", h.Name, err)
			}
		}
	}
	return nil
}

// filter drops at the receiver.
func (l *Lab) filter(to *Host, losses []Loss) error {
	var b strings.Builder
	b.WriteString("*filter\n:INPUT ACCEPT [0:0]\n")
	for _, loss := range losses {
		if loss.To != "" && loss.To != to.Name {
			continue
		}
		match := "-A INPUT -i eth0"
		if loss.From != "" {
			from, err := l.Host(loss.From)
			if err != nil {
				return err
			}
			match += " -s " + from.Addr
		}
		if loss.Share > 0 && loss.Share < 1 {
			match += fmt.Sprintf(" -m statistic --mode random --probability %.4f", loss.Share)
		}
		if loss.Port == 0 {
			b.WriteString(match + " -j DROP\n")
			continue
		}
		protos := []string{"udp"}
		if !loss.UDP {
			protos = append(protos, "tcp")
		}
		for _, proto := range protos {
			for _, end := range []string{"--sport", "--dport"} {
				fmt.Fprintf(&b, "%s -p %s %s %d -j DROP\n", match, proto, end, loss.Port)
			}
		}
	}
	b.WriteString("COMMIT\n")
	ns, err := to.netns()
	if err != nil {
		return err
	}
	defer ns.Close()
	return in(ns, func() error {
		cmd := exec.Command("iptables-restore")
		cmd.Stdin = strings.NewReader(b.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("iptables-restore: %w: %s", err, out)
		}
		return nil
	})
}

// Split cuts the network into segments, each with the hosts and clients named.
// Whoever is not named stays in the one that is left.
func (l *Lab) Split(segments ...[]string) error {
	for i, names := range segments {
		bridge := fmt.Sprintf("br%d", i+1)
		if l.net.spare <= i {
			if err := l.net.addBridge(bridge); err != nil {
				return err
			}
			l.net.spare++
		}
		for _, name := range names {
			if err := l.net.join(cable(name), bridge); err != nil {
				return err
			}
		}
	}
	return nil
}

// Isolate cuts off hosts, each alone.
func (l *Lab) Isolate(names ...string) error {
	var segments [][]string
	for _, name := range names {
		segments = append(segments, []string{name})
	}
	return l.Split(segments...)
}

// Unplug pulls a host's cable out, as the host can see. [Lab.Heal] and Plug put it
// in again.
func (l *Lab) Unplug(name string) error { return l.net.carrier(cable(name), false) }

// Plug ends Unplug.
func (l *Lab) Plug(name string) error { return l.net.carrier(cable(name), true) }

// Heal makes the network whole.
func (l *Lab) Heal() error {
	errs := []error{l.Lose()}
	for _, h := range l.Hosts {
		if h.Running() {
			errs = append(errs, h.Delay(0, 0), l.net.join(cable(h.Name), "br0"), l.Plug(h.Name))
		}
	}
	for _, c := range l.Clients {
		errs = append(errs, l.net.join(cable(c.Name), "br0"))
	}
	return errors.Join(errs...)
}

// cable is the switch's end of it.
func cable(name string) string { return "to-" + name }

// netns is the host's network namespace; whoever gets it closes it.
func (h *Host) netns() (netns.NsHandle, error) { return netns.GetFromPid(int(h.pid.Load())) }
