package vip

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// dropWait is what [Manager.Drop] waits for the address to be off: 0.1 ms is
	// usual, and a fence must not wait longer for a kernel that is busy.
	dropWait = 5 * time.Millisecond
	// shortest is the shortest lifetime that the kernel takes, and its unit.
	shortest = time.Second
	// yieldMost is how long a successor may take.
	yieldMost = time.Second
)

// Config is what a [Manager] is made from.
type Config struct {
	Addresses []Address
	// Member says whether a link-layer address belongs to a member of the cluster;
	// nil: nobody's does. A member may still answer for an address whose lifetime
	// is not over; anybody else must not have it.
	Member func(mac net.HardwareAddr) bool
	// Changed, if set, is called after an address came to this host or left it, and
	// when it was given up to or taken back from a stranger. It must return at once.
	Changed func(Status)
	// Boottime is the clock that leases are measured by; nil: CLOCK_BOOTTIME.
	Boottime func() time.Duration
	Log      *slog.Logger // nil: nothing is logged
}

// Status is how it is with one address on this host.
type Status struct {
	Addr      netip.Addr
	Role      Role
	Interface string // that it goes on
	Held      bool   // it is on this host
	// Code and Problem say what is wrong with it, if anything is.
	Code, Problem string
}

// want is what is wanted of the addresses of one role.
type want int

const (
	unknown want = iota // leave what an earlier run of the agent put there
	hold
	yield // drop, as soon as another member says that it has it
	drop
)

// order is the last word on the addresses of one role.
type order struct {
	want  want
	until time.Duration // end of the lease, on the boottime clock
	fresh bool          // a lease came since the last pass
}

// Manager holds the addresses of one host. Hold, Drop and Status may be called from
// any goroutine; all else is done by [Manager.Run], in one.
type Manager struct {
	cfg       Config
	log       *slog.Logger
	kernel    *kernel
	addresses []*address // touched by Open and Run only
	wake      chan struct{}

	mu      sync.Mutex
	orders  map[Role]order
	waiters []chan struct{} // closed when a pass that began later was made
	told    []Status
	macs    []net.HardwareAddr // of the links, each once; what is in it is not changed
}

// Open finds the interfaces and opens the sockets for them. Whatever keeps the
// addresses from being held on this host is found here, before anything depends on
// it: the error is an [Error] then. It changes nothing.
func Open(cfg Config) (*Manager, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Boottime == nil {
		cfg.Boottime = boottime
	}
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, log: cfg.Log, kernel: k, wake: make(chan struct{}, 1), orders: make(map[Role]order)}
	if err := m.open(); err != nil {
		m.Close()
		return nil, err
	}
	m.tell()
	return m, nil
}

func (m *Manager) open() error {
	if err := m.kernel.mayChange(); err != nil {
		return err
	}
	list, err := m.kernel.addresses()
	if err != nil {
		return err
	}
	for _, c := range m.cfg.Addresses {
		a := &address{Address: c}
		if err := a.attach(m.kernel); err != nil {
			return err
		}
		m.addresses = append(m.addresses, a)
		for _, e := range list {
			switch {
			case !isAddr(e, c.Addr):
			case ours(e, c.Addr):
				a.on = e.LinkIndex == a.link.index
			default:
				return fault(CodeInUse, "choose another address, or take this one off (`ip address del`): ha puts it on where it belongs",
					"%s is on this host already, and not for the length of a lease: it would stay when this host may not serve", c.Addr)
			}
		}
	}
	return nil
}

// Close closes the sockets. Run must have returned. Addresses stay until their
// lifetime is over: an agent that is started again meanwhile goes on with them.
func (m *Manager) Close() {
	for _, a := range m.addresses {
		a.socket.close()
	}
	m.kernel.close()
}

// MACs are the link-layer addresses that this host's addresses are announced with.
func (m *Manager) MACs() []net.HardwareAddr {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]net.HardwareAddr(nil), m.macs...)
}

// Hold says that this host has the role until that time on the boottime clock: not
// for how long, as this process may be stopped while it says so. It returns at once;
// the addresses are put on, or renewed, a moment later.
func (m *Manager) Hold(role Role, until time.Duration) {
	m.mu.Lock()
	m.orders[role] = order{hold, until, true}
	m.mu.Unlock()
	m.stir()
}

// Drop says that this host has not, or no longer, the role. It waits until its
// addresses are off, but no longer than a few milliseconds: whoever calls it has
// more urgent things to do, and they go by themselves in the end.
func (m *Manager) Drop(role Role) {
	done := make(chan struct{})
	m.mu.Lock()
	m.orders[role] = order{want: drop}
	m.waiters = append(m.waiters, done)
	m.mu.Unlock()
	m.stir()
	t := time.NewTimer(dropWait)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// Yield says that nobody is served here any more, and another member may be about
// to be the one who does. The addresses stay until that one announces them, for a
// second and for the rest of the lease at most: meanwhile clients are refused, where
// without an address their first packet would be lost and sent again after a second
// only. Nothing is announced. It returns at once.
func (m *Manager) Yield(role Role) {
	m.mu.Lock()
	if o := m.orders[role]; o.want == hold {
		m.orders[role] = order{want: yield, until: min(o.until, m.cfg.Boottime()+yieldMost)}
	}
	m.mu.Unlock()
	m.stir()
}

func (m *Manager) stir() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Status tells how it is with each address, in the order of the configuration.
func (m *Manager) Status() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Status(nil), m.told...)
}

// Run keeps the addresses as they are wanted until ctx ends. It leaves them then:
// see [Manager.Close].
func (m *Manager) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var looked time.Duration
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.wake:
		case <-timer.C:
		}
		m.obey()
		if now := m.cfg.Boottime(); looked == 0 || now-looked >= lookEvery {
			looked = now
			m.reconcile()
		}
		next := m.announce()
		m.tell()
		timer.Reset(min(next, lookEvery))
	}
}

// obey does what was ordered last, before anything that may take longer.
func (m *Manager) obey() {
	m.mu.Lock()
	orders := make(map[Role]order)
	for role, o := range m.orders {
		orders[role] = o
		o.fresh = false
		m.orders[role] = o
	}
	waiters := m.waiters
	m.waiters = nil
	m.mu.Unlock()
	for _, a := range m.addresses {
		before := a.order.want
		a.order = orders[a.Role]
		switch {
		case a.order.want == drop:
			a.stranger, a.refused = nil, false
			m.takeOff(a)
		case (a.order.want == hold || a.order.want == yield) && m.over(a):
			m.takeOff(a)
		case a.order.want == hold && before != hold:
			m.begin(a)
		case a.order.want == hold && a.order.fresh && !a.refused:
			m.putOn(a)
		case m.ending(a) && a.order.want == hold && a.order.until-m.cfg.Boottime() >= shortest && !a.refused:
			m.putOn(a) // what was cut off for being no whole second has become one
		case m.ending(a) && a.order.want != unknown:
			m.takeOff(a)
		}
	}
	for _, w := range waiters {
		close(w)
	}
}

// tell publishes how it is, and calls Changed where that is news.
func (m *Manager) tell() {
	var told, news []Status
	var macs []net.HardwareAddr
	for _, a := range m.addresses {
		if !slices.ContainsFunc(macs, func(mac net.HardwareAddr) bool { return bytes.Equal(mac, a.link.mac) }) {
			macs = append(macs, a.link.mac)
		}
		s := a.status()
		told = append(told, s)
		if a.said != s {
			if a.said.Addr.IsValid() {
				news = append(news, s)
			}
			a.said = s
		}
	}
	m.mu.Lock()
	m.told, m.macs = told, macs
	m.mu.Unlock()
	for _, s := range news {
		if m.cfg.Changed != nil {
			m.cfg.Changed(s)
		}
	}
}

// boottime counts the time in which a machine is suspended: leases do.
func boottime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every kernel that Go runs on has it
	}
	return time.Duration(t.Nano())
}
