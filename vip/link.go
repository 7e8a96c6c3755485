package vip

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// link is where an address goes.
type link struct {
	index int
	name  string
	mac   net.HardwareAddr
}

// kernel is an open netlink socket, to this process's network namespace.
type kernel struct{ h *netlink.Handle }

// answerWithin bounds the wait for the kernel's answer.
const answerWithin = time.Second

func openKernel() (*kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fault(CodeFailed, "", "open netlink socket: %w", err)
	}
	if err := h.SetSocketTimeout(answerWithin); err != nil {
		h.Close()
		return nil, fault(CodeFailed, "", "netlink socket: %w", err)
	}
	return &kernel{h}, nil
}

func (k *kernel) close() { k.h.Close() }

const capabilityHint = "run the agent as root, or give it AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW"

// mayChange tries whether this process may change addresses, by taking off one that
// no host has: rights come first in the kernel, then the question whether it is there.
func (k *kernel) mayChange() error {
	err := k.h.AddrDel(nil, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(32, 32)}, LinkIndex: 1})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fault(CodeCapability, capabilityHint, "this process may not change addresses (CAP_NET_ADMIN): %w", err)
	}
	return nil
}

// linkFor finds the link that an address goes on.
func (k *kernel) linkFor(a Address) (link, error) {
	if a.Interface != "" {
		l, err := k.h.LinkByName(a.Interface)
		if err != nil {
			return link{}, fault(CodeInterface, "see `ip link`, and correct interface", "%s: there is no interface %s: %w", a.Addr, a.Interface, err)
		}
		return usable(a, l)
	}
	index, err := k.indexFor(a.Addr)
	if err != nil {
		return link{}, err
	}
	l, err := k.h.LinkByIndex(index)
	if err != nil {
		return link{}, fault(CodeInterface, "name the interface", "%s: interface %d: %w", a.Addr, index, err)
	}
	return usable(a, l)
}

func usable(a Address, l netlink.Link) (link, error) {
	at := l.Attrs()
	if at.Flags&net.FlagLoopback != 0 || len(at.HardwareAddr) != len(everybody) {
		return link{}, fault(CodeInterface, "name an Ethernet interface", "%s cannot be on %s: an address is announced there by Ethernet frames", a.Addr, at.Name)
	}
	if a.Addr.Is6() {
		if off, hint := noIPv6(at.Name); off {
			return link{}, fault(CodeInterface, hint, "%s cannot be on %s: IPv6 is switched off there", a.Addr, at.Name)
		}
	}
	return link{at.Index, at.Name, at.HardwareAddr}, nil
}

// noIPv6 says that a link takes no IPv6 address, and what to do.
func noIPv6(name string) (off bool, hint string) {
	const sysctls = "/proc/sys/net"
	text, err := os.ReadFile(filepath.Join(sysctls, "ipv6/conf", name, "disable_ipv6"))
	if err != nil {
		_, err := os.Stat(sysctls) // else nothing can be said
		_, none := os.Stat(filepath.Join(sysctls, "ipv6"))
		return err == nil && os.IsNotExist(none), "boot without ipv6.disable=1, or take the address away"
	}
	return strings.TrimSpace(string(text)) == "1", "sysctl net/ipv6/conf/" + name + "/disable_ipv6=0, or take the address away"
}

// indexFor chooses the link whose network holds the address, the smallest network
// first, else the one of the narrowest route to it that needs no gateway: behind a
// gateway nobody would hear the announcement.
func (k *kernel) indexFor(addr netip.Addr) (int, error) {
	best, index := -1, 0
	consider := func(n *net.IPNet, link int) {
		p, ok := prefix(n)
		if ok && p.Bits() > best && p.Bits() < addr.BitLen() && p.Contains(addr) {
			best, index = p.Bits(), link
		}
	}
	list, err := k.addresses()
	if err != nil {
		return 0, err
	}
	for _, e := range list {
		consider(e.IPNet, e.LinkIndex)
	}
	if best >= 0 {
		return index, nil
	}
	family := netlink.FAMILY_V4
	if addr.Is6() {
		family = netlink.FAMILY_V6
	}
	routes, err := k.h.RouteList(nil, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return 0, fault(CodeFailed, "", "read routes: %w", err)
	}
	for _, r := range routes {
		if r.Gw == nil && len(r.MultiPath) == 0 && r.LinkIndex != 0 && r.Dst != nil {
			consider(r.Dst, r.LinkIndex)
		}
	}
	if best < 0 {
		return 0, fault(CodeInterface, "name the interface", "%s: no interface has a network that holds it, or a route to it without a gateway", addr)
	}
	return index, nil
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if a = a.Unmap(); !ok || bits != a.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, ones), true
}

// mac is the link-layer address that a link has now, or the one it had.
func (k *kernel) mac(l link) net.HardwareAddr {
	now, err := k.h.LinkByIndex(l.index)
	if err != nil || len(now.Attrs().HardwareAddr) != len(l.mac) {
		return l.mac
	}
	return now.Attrs().HardwareAddr
}

// isOwn says that a link-layer address belongs to a link of this host.
func (k *kernel) isOwn(mac net.HardwareAddr) bool {
	links, err := k.h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return false
	}
	return slices.ContainsFunc(links, func(l netlink.Link) bool { return bytes.Equal(l.Attrs().HardwareAddr, mac) })
}

// addresses lists all that are on this host.
func (k *kernel) addresses() ([]netlink.Addr, error) {
	list, err := k.h.AddrList(nil, netlink.FAMILY_ALL)
	for tries := 0; errors.Is(err, netlink.ErrDumpInterrupted) && tries < 3; tries++ {
		list, err = k.h.AddrList(nil, netlink.FAMILY_ALL) // changed while it was read
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fault(CodeFailed, "", "read addresses: %w", err)
	}
	return list, nil
}

// entry is the address as we put it on; seconds is its lifetime.
func entry(a netip.Addr, seconds int) *netlink.Addr {
	e := &netlink.Addr{
		IPNet:    &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
		ValidLft: seconds, // preferred for 0 s: never a source address
	}
	if a.Is6() {
		e.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE // usable at once
	}
	return e
}

// put adds the address, or renews it.
func (k *kernel) put(l link, a netip.Addr, seconds int) error {
	e := entry(a, seconds)
	e.LinkIndex = l.index
	return k.h.AddrReplace(nil, e)
}

// remove takes an entry of addresses off; it may be gone already.
func (k *kernel) remove(e netlink.Addr) error {
	err := k.h.AddrDel(nil, &e)
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// isAddr says that an entry is of that address; ours, that it is as we put it on.
func isAddr(e netlink.Addr, a netip.Addr) bool {
	p, ok := prefix(e.IPNet)
	return ok && p.Addr() == a
}

func ours(e netlink.Addr, a netip.Addr) bool {
	const forever = 1<<32 - 1
	p, ok := prefix(e.IPNet)
	return ok && p.Addr() == a && p.IsSingleIP() && e.PreferedLft == 0 && e.ValidLft < forever
}
