package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"ha/agent/api"
	"ha/agent/node"
	"ha/raftfsm"
	"ha/vip"
)

// openVIP opens what the virtual IPs need, before anything else is begun: what keeps
// them from being held here is an error now and not at the first failover. Without
// any there is no manager.
func (a *Agent) openVIP() error {
	if len(a.cfg.VIPs) == 0 {
		return nil
	}
	c := vip.Config{Addresses: a.cfg.addresses(), Member: a.isMemberMAC, Changed: a.vipChanged, Log: a.log}
	if a.outside.clock != nil {
		c.Boottime = a.outside.clock.Boottime
	}
	m, err := vip.Open(c)
	var e *vip.Error
	if errors.As(err, &e) {
		return vipError(e)
	}
	if err != nil {
		return api.Failed("virtual IP: %w", err)
	}
	a.vip = m
	return nil
}

// hookVIP has the lease drive the addresses.
func (a *Agent) hookVIP(c *node.Config) {
	m := a.vip
	if m == nil {
		return
	}
	c.VIPs = a.vipReports
	c.Opened = func(_ uint64, until time.Duration) { m.Hold(vip.Primary, until) }
	c.Closed = func(succession bool) {
		if succession {
			m.Yield(vip.Primary)
		} else {
			m.Drop(vip.Primary)
		}
	}
	c.Reader = func(until time.Duration) {
		if until > 0 {
			m.Hold(vip.Reader, until)
		} else {
			m.Drop(vip.Reader)
		}
	}
}

// runVIP keeps them until ctx ends.
func (a *Agent) runVIP(ctx context.Context) error {
	if a.vip == nil {
		return nil
	}
	return a.vip.Run(ctx)
}

// vipChanged tells people, and the coordinator at once.
func (a *Agent) vipChanged(s vip.Status) {
	switch {
	case s.Code != "":
		a.note(s.Problem)
	case s.Held:
		a.note(fmt.Sprintf("virtual IP %s (%s) is here, on %s", s.Addr, s.Role, s.Interface))
	}
	if n := a.node.Load(); n != nil {
		(*n).Trigger()
	}
}

// vipReports goes into this node's reports.
func (a *Agent) vipReports() []raftfsm.VIPReport {
	var out []raftfsm.VIPReport
	for _, s := range a.vip.Status() {
		out = append(out, raftfsm.VIPReport{Addr: s.Addr.String(), Reader: s.Role == vip.Reader, Interface: s.Interface, Held: s.Held})
	}
	return out
}

// problems are those of the agent itself, for its reports.
func (a *Agent) problems() []raftfsm.Problem {
	out := slices.Concat(a.raftProblems(), a.archiveProblems(), a.purgeProblems())
	if a.vip == nil {
		return out
	}
	for _, s := range a.vip.Status() {
		if s.Code != "" {
			out = append(out, raftfsm.Problem{Code: s.Code, Text: s.Problem})
		}
	}
	if p := a.unserved.Load(); p != nil {
		out = append(out, *p...)
	}
	return out
}

// macs is what gossip says of our links.
func (a *Agent) macs() string {
	if a.vip == nil {
		return ""
	}
	var out []string
	for _, mac := range a.vip.MACs() {
		out = append(out, mac.String())
	}
	return strings.Join(out[:min(len(out), maxMACs)], " ")
}

// maxMACs: what an agent says of itself has to fit in one packet.
const maxMACs = 8

// isMemberMAC says that a link belongs to another agent of the cluster, alive or
// gone for less than an hour.
func (a *Agent) isMemberMAC(mac net.HardwareAddr) bool {
	g := a.gossip.Load()
	if g == nil {
		return false
	}
	for _, p := range g.Peers() {
		if slices.Contains(strings.Fields(p.MACs), mac.String()) {
			return true
		}
	}
	return false
}
