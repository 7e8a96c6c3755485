package vip

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lookEvery is how often it is looked at what is on this host.
	lookEvery = time.Second
	// handover is how long after the end of a lease its holder may have the address
	// still: the kernel's unit and its delay (S4).
	handover = 1500 * time.Millisecond
	// endEarly is how long before the kernel drops an address that is not renewed it
	// is taken off here, with the connections to it.
	endEarly = 200 * time.Millisecond
)

// address is one managed address.
type address struct {
	Address
	link   link
	socket *socket
	order  order
	said   Status

	on        bool
	expires   time.Duration // the kernel drops it then; 0: unknown
	since     time.Duration // this host has the role
	contested time.Duration // until then an earlier holder may have it as well
	speakAt   time.Duration // the next announcement and question
	failed    error         // why it could not be put on

	stranger   net.HardwareAddr // who is no member and has claimed it
	strangerAt time.Duration    // last
	refused    bool             // it is off for that
}

// attach finds the link and opens the socket on it.
func (a *address) attach(k *kernel) error {
	l, err := k.linkFor(a.Address)
	if err != nil {
		return err
	}
	s, err := openSocket(l.index, a.Addr)
	if errors.Is(err, unix.EPERM) {
		return fault(CodeCapability, capabilityHint, "this process may not send frames (CAP_NET_RAW): %w", err)
	}
	if err != nil {
		return fault(CodeInterface, "", "%s on %s: %w", a.Addr, l.name, err)
	}
	if a.socket != nil {
		a.socket.close()
	}
	a.link, a.socket = l, s
	return nil
}

func (a *address) status() Status {
	s := Status{Addr: a.Addr, Role: a.Role, Interface: a.link.name, Held: a.on}
	switch {
	case a.stranger != nil && a.refused:
		s.Code, s.Problem = CodeDuplicate, fmt.Sprintf("%s has the address %s and is no member: it is not held here", a.stranger, a.Addr)
	case a.stranger != nil:
		s.Code, s.Problem = CodeDuplicate, fmt.Sprintf("%s answers for the address %s and is no member", a.stranger, a.Addr)
	case a.failed != nil:
		s.Code, s.Problem = codeOf(a.failed), fmt.Sprintf("%s on %s: %s", a.Addr, a.link.name, a.failed)
	}
	return s
}

func (m *Manager) over(a *address) bool { return m.cfg.Boottime() >= a.order.until }

// begin holds an address that was not, or that an earlier run of the agent held.
func (m *Manager) begin(a *address) {
	m.putOn(a)
	now := m.cfg.Boottime()
	a.since, a.speakAt, a.contested = now, now, a.order.until+handover
}

// putOn puts the address on or renews it.
func (m *Manager) putOn(a *address) {
	now := m.cfg.Boottime()
	left := a.order.until - now
	if left < shortest {
		return // it goes by itself, or with the end of the lease
	}
	err := m.kernel.put(a.link, a.Addr, int(left/time.Second))
	if errors.Is(err, unix.ENODEV) { // the link was made anew
		if err = a.attach(m.kernel); err == nil {
			err = m.kernel.put(a.link, a.Addr, int(left/time.Second))
		}
	}
	if err != nil && (a.failed == nil || a.failed.Error() != err.Error()) {
		m.log.Error("virtual IP not put on", "vip", a.Addr, "interface", a.link.name, "err", err)
	}
	if a.failed = err; err != nil {
		return
	}
	a.expires = now + left.Truncate(shortest)
	if !a.on {
		a.on = true
		m.log.Info("virtual IP put on", "vip", a.Addr, "interface", a.link.name, "left", left.Round(time.Millisecond))
	}
	// This process may have been stopped in between, for longer than the lease.
	if m.over(a) {
		m.takeOff(a)
	}
}

// ending says that the kernel is about to drop the address.
func (m *Manager) ending(a *address) bool {
	return a.on && a.expires > 0 && m.cfg.Boottime() >= a.expires-endEarly
}

// takeOff ends the connections to the address and takes it off. Where that fails the next look tries again.
func (m *Manager) takeOff(a *address) {
	if !a.on {
		return
	}
	ended, err := endSessions(a.Addr)
	if err != nil { // a kernel without it, say
		m.log.Debug("connections to the virtual IP not ended", "vip", a.Addr, "err", err)
	}
	e := *entry(a.Addr, 0)
	e.LinkIndex = a.link.index
	if err := m.kernel.remove(e); err != nil {
		m.log.Error("virtual IP not taken off: it goes when its lifetime is over", "vip", a.Addr, "interface", a.link.name, "err", err)
		return
	}
	a.on, a.expires = false, 0
	m.log.Info("virtual IP taken off", "vip", a.Addr, "interface", a.link.name, "connections", ended)
}

// reconcile makes what is on this host what is wanted, whoever changed it.
func (m *Manager) reconcile() {
	list, err := m.kernel.addresses()
	if err != nil {
		m.log.Warn("virtual IPs not looked at", "err", err)
		return
	}
	for _, a := range m.addresses {
		if mac := m.kernel.mac(a.link); !bytes.Equal(mac, a.link.mac) { // a bond that failed over
			a.link.mac, a.speakAt = mac, 0
		}
		was := a.on
		a.on = false
		for _, e := range list {
			switch {
			case !isAddr(e, a.Addr):
			case e.LinkIndex == a.link.index && ours(e, a.Addr):
				a.on = true
			case a.order.want == unknown:
			default: // it would outlive the lease
				m.log.Warn("virtual IP was put on by somebody else: taking it off", "vip", a.Addr, "as", e.IPNet)
				if err := m.kernel.remove(e); err != nil {
					m.log.Error("not taken off", "vip", a.Addr, "err", err)
				}
			}
		}
		switch {
		case a.on && (a.order.want == drop || a.refused):
			m.takeOff(a) // of an earlier run
		case !a.on && a.order.want == hold && !a.refused && !m.over(a):
			if was {
				m.log.Warn("virtual IP was gone: putting it back", "vip", a.Addr)
			}
			m.putOn(a)
		}
	}
}
