package agent

import (
	"cmp"
	"slices"

	"ha/agent/api"
	"ha/raftfsm"
	"ha/vip"
)

// vips says who holds which virtual IP: the node that reports so, the primary first.
// The last word of a silent agent counts as long as nobody else has it.
func (b *statusBuilder) vips() {
	for _, m := range b.members {
		for _, v := range b.configured(m.ID) {
			st := b.vip(v)
			if v.Held && (st.Holder == "" || m.ID == b.State.Primary || b.up(m.ID) && !b.upByName(st.Holder)) {
				st.Holder, st.Interface = m.Name, v.Interface
			}
		}
	}
	slices.SortFunc(b.st.VIPs, func(x, y api.VIPStatus) int {
		return cmp.Or(cmp.Compare(x.Role, y.Role), cmp.Compare(x.Address, y.Address))
	})
}

// configured are the virtual IPs that a node last said it has in its configuration.
// What it held is as good as its last lease.
func (b *statusBuilder) configured(id raftfsm.NodeID) []raftfsm.VIPReport {
	seen := b.Reports[id]
	if seen.Report == nil {
		return nil
	}
	out := slices.Clone(seen.Report.VIPs)
	lease := cmp.Or(b.State.Policy.Lease, raftfsm.DefaultPolicy().Lease)
	for i := range out {
		out[i].Held = out[i].Held && seen.Age <= lease
	}
	return out
}

func (b *statusBuilder) vip(v raftfsm.VIPReport) *api.VIPStatus {
	role := string(vip.Primary)
	if v.Reader {
		role = string(vip.Reader)
	}
	i := slices.IndexFunc(b.st.VIPs, func(s api.VIPStatus) bool { return s.Address == v.Addr && s.Role == role })
	if i < 0 {
		i = len(b.st.VIPs)
		b.st.VIPs = append(b.st.VIPs, api.VIPStatus{Address: v.Addr, Role: role})
	}
	return &b.st.VIPs[i]
}

func (b *statusBuilder) upByName(name string) bool {
	m, ok := b.State.MemberByName(name)
	return ok && b.up(m.ID)
}

// vipIssues: an address that nobody holds leads nowhere, and one that a node does
// not know of will when that node is promoted.
func (b *statusBuilder) vipIssues() {
	for _, v := range b.st.VIPs {
		switch {
		case v.Holder != "" || !b.serving || b.report == nil:
		case v.Role == string(vip.Primary):
			b.issue(api.Warning, IssueVIPNobody, "", "wait a second; if it stays, see the log of the agent on "+b.primary.Name,
				"nobody holds the virtual IP %s", v.Address)
		default:
			b.issue(api.Warning, IssueVIPNobody, "", "bring a replica back: see their issues",
				"nobody holds the virtual IP %s: no replica is fit to be read from", v.Address)
		}
		for _, m := range b.members {
			if m.Witness || !b.up(m.ID) || m.NoPromote && v.Role == string(vip.Primary) {
				continue
			}
			has := slices.ContainsFunc(b.configured(m.ID), func(r raftfsm.VIPReport) bool {
				return r.Addr == v.Address && r.Reader == (v.Role == string(vip.Reader))
			})
			if !has {
				b.issue(api.Warning, IssueVIPConfig, m.Name, "add it to the configuration of "+m.Name+" and restart its agent",
					"%s is not configured with the virtual IP %s (%s)", m.Name, v.Address, v.Role)
			}
		}
	}
}
