package gossip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	rejoinInterval = time.Second
	// An address that answered but is not a peer's (a second interface of one, or of ourselves), or that
	// need not answer, is not asked again for this long.
	satisfied = 30 * time.Second
)

// Join contacts the agents at addrs (host:port, all addresses of a name) at once. It returns nil if one
// of them answered; otherwise the errors of all, in which errors of Config.Dial can be found by
// errors.Is.
func (g *Gossip) Join(ctx context.Context, addrs ...string) error {
	if len(addrs) == 0 {
		return errors.New("join: no addresses")
	}
	var targets []netip.AddrPort
	var errs []error
	for _, a := range addrs {
		found, err := g.resolve(ctx, a)
		targets = append(targets, found...)
		errs = append(errs, err)
	}
	for _, err := range g.contact(ctx, targets) {
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// contact exchanges state with all targets at the same time and returns their errors in the same order.
// It waits for them, but not beyond ctx.
func (g *Gossip) contact(ctx context.Context, targets []netip.AddrPort) []error {
	type result struct {
		i   int
		err error
	}
	results := make(chan result, len(targets))
	for i, t := range targets {
		go func() {
			_, err := g.list.Join([]string{t.String()}) // bounded by streamTimeout
			if err != nil {
				err = fmt.Errorf("join %s: %w", t, g.tr.cause(t.String(), err))
			}
			results <- result{i, err}
		}()
	}
	errs := make([]error, len(targets))
	for i, t := range targets {
		errs[i] = fmt.Errorf("join %s: %w", t, context.DeadlineExceeded)
	}
	for range targets {
		select {
		case r := <-results:
			errs[r.i] = r.err
		case <-ctx.Done():
			return errs
		}
	}
	return errs
}

func (g *Gossip) resolve(ctx context.Context, hostport string) ([]netip.AddrPort, error) {
	if a, err := netip.ParseAddrPort(hostport); err == nil {
		return []netip.AddrPort{unmap(a)}, nil
	}
	host, service, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", hostport, err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", hostport, err)
	}
	ips, err := g.cfg.lookup(ctx, "ip", host)
	if err != nil {
		return nil, err // names the host
	}
	addrs := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return addrs, nil
}

// rejoin joins the seeds that are missing, now and every second.
func (g *Gossip) rejoin() {
	r := rejoiner{g: g, found: map[string][]netip.AddrPort{}, quiet: map[netip.AddrPort]time.Time{}, failing: map[string]bool{}}
	tick := time.NewTicker(rejoinInterval)
	defer tick.Stop()
	for {
		r.pass()
		select {
		case <-tick.C:
		case <-g.ctx.Done():
			return
		}
	}
}

// rejoiner is the memory of the rejoin loop. In a healthy cluster a pass looks at it and does nothing.
type rejoiner struct {
	g       *Gossip
	found   map[string][]netip.AddrPort  // what a seed's name resolved to
	quiet   map[netip.AddrPort]time.Time // see satisfied
	failing map[string]bool              // seeds of which it is known that they cannot be joined
}

func (r *rejoiner) pass() {
	alive := r.g.aliveAddrs()
	if due := r.g.rivalsDue(); len(due) > 0 {
		// Is the rival there? And if it is our former self, peers that took us for a rival of that one
		// have to be told again that we are here.
		r.g.contact(r.g.ctx, slices.AppendSeq(due, maps.Keys(alive)))
	}
	if r.g.cfg.Seeds == nil {
		return
	}
	var missing []string
	for _, seed := range r.g.cfg.Seeds() {
		if len(r.found[seed]) == 0 || len(r.missing(seed, alive)) > 0 {
			missing = append(missing, seed)
		} else {
			delete(r.failing, seed)
		}
	}
	var mu sync.Mutex // of r, from here on
	var wg sync.WaitGroup
	for _, seed := range missing {
		wg.Go(func() { r.join(seed, alive, &mu) })
	}
	wg.Wait()
}

// missing returns the addresses of a seed that are neither alive nor satisfied.
func (r *rejoiner) missing(seed string, alive map[netip.AddrPort]bool) []netip.AddrPort {
	var list []netip.AddrPort
	for _, a := range r.found[seed] {
		if alive[a] {
			delete(r.quiet, a)
		} else if time.Since(r.quiet[a]) > satisfied {
			list = append(list, a)
		}
	}
	return list
}

func (r *rejoiner) join(seed string, alive map[netip.AddrPort]bool, mu *sync.Mutex) {
	ctx, cancel := context.WithTimeout(r.g.ctx, streamTimeout)
	defer cancel()
	addrs, err := r.g.resolve(ctx, seed)
	mu.Lock()
	if err == nil {
		r.found[seed] = addrs
	}
	targets := r.missing(seed, alive)
	mu.Unlock()

	errs := r.g.contact(ctx, targets)
	mu.Lock()
	defer mu.Unlock()
	// A name of which one address is alive, or ours, is fine: "localhost" has two and one answers.
	// Gossip tells of whoever is behind the others, so they are asked seldom.
	ok := slices.ContainsFunc(r.found[seed], func(a netip.AddrPort) bool { return alive[a] }) ||
		slices.Contains(errs, nil)
	if ok {
		for _, target := range targets {
			r.quiet[target] = time.Now()
		}
	}
	r.note(seed, ok, errors.Join(append(errs, err)...))
}

// note logs that a seed begins or ceases to fail.
func (r *rejoiner) note(seed string, ok bool, err error) {
	switch {
	case ok && r.failing[seed]:
		delete(r.failing, seed)
		r.g.cfg.Logger.Info("gossip: seed answers", "seed", seed)
	case !ok && !r.failing[seed] && r.g.ctx.Err() == nil:
		r.failing[seed] = true
		r.g.cfg.Logger.Warn("gossip: seed does not answer", "seed", seed, "err", err)
	}
}

// aliveAddrs returns the addresses of all that are alive, foreign or not, and our own.
func (g *Gossip) aliveAddrs() map[netip.AddrPort]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	alive := map[netip.AddrPort]bool{g.cfg.Advertise: true}
	for _, p := range g.peers {
		if p.Alive {
			alive[p.at] = true
		}
	}
	return alive
}
