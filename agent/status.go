package agent

import (
	"cmp"
	"slices"
	"time"

	"ha/agent/api"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
)

// StatusInput is what a status is made of: observations, no clock.
type StatusInput struct {
	// Self is the agent that answers; Leader the coordinator, if one is known.
	Self, Leader raftfsm.NodeID
	// Quorum: a majority of voters can be reached.
	Quorum  bool
	State   raftfsm.State
	Reports map[raftfsm.NodeID]SeenReport
	Raft    []api.RaftServer
	// Doing is what the coordinator does or waits for.
	Doing string
}

// SeenReport is a node's last report and how long ago it came.
type SeenReport struct {
	Report *raftfsm.Report
	Age    time.Duration
}

// BuildStatus says how the cluster is, by these rules (the first that holds):
//
//   - no_quorum: no majority of voters can be reached.
//   - no_primary: no server takes writes. The primary of the last promotion
//     counts if its report, not older than its lease, says that it is writable;
//     while an epoch is being closed or opened the report must name the epoch's
//     lease too.
//   - degraded: fewer ackers attached than the policy wants, a member down, not
//     replicating, writable or errant without leave, or an epoch not settled.
//   - ok. A missing witness, a lagging replica and the like are issues only.
func BuildStatus(in StatusInput) api.Status {
	b := newStatusBuilder(in)
	for _, m := range b.members {
		b.node(m)
	}
	for _, r := range in.Raft {
		if _, ok := in.State.Member(r.ID); !ok {
			b.stranger(r)
		}
	}
	b.vips()
	b.clusterIssues()
	b.primaryIssues()
	b.vipIssues()
	for _, m := range b.members {
		b.memberIssues(m)
	}
	return b.finish()
}

// statusBuilder holds what the rules look at.
type statusBuilder struct {
	StatusInput
	st       api.Status
	members  []raftfsm.Member // by name
	silence  time.Duration    // after which a node is taken for dead
	primary  raftfsm.Member
	report   *raftfsm.Report // of the primary, if it is fresh
	serving  bool            // the primary takes writes
	degraded bool
}

func newStatusBuilder(in StatusInput) *statusBuilder {
	b := &statusBuilder{StatusInput: in, members: slices.Clone(in.State.Members), silence: in.State.Policy.DeadAfter}
	if b.silence == 0 {
		b.silence = raftfsm.DefaultPolicy().DeadAfter
	}
	slices.SortFunc(b.members, func(x, y raftfsm.Member) int { return cmp.Compare(x.Name, y.Name) })
	s := in.State
	b.primary, _ = s.Member(s.Primary)
	if b.up(s.Primary) {
		b.report = in.Reports[s.Primary].Report
	}
	b.serving = b.isServing()
	b.st = api.Status{
		Cluster: s.Cluster, Epoch: s.Epoch, Phase: string(s.Phase),
		Coordinator: b.name(in.Leader), Source: b.name(in.Self),
		Acks: s.K, AcksWanted: s.KPolicy(), AckSet: []string{},
		Nodes: []api.NodeStatus{}, Issues: []api.Issue{}, Doing: in.Doing,
		Paused: s.Policy.Paused,
	}
	if r := s.Request; r != nil {
		b.st.Request = &api.RequestStatus{Kind: r.Kind, Target: b.name(r.Target), Index: r.Index}
	}
	// A server whose epoch is being closed is a primary only while it serves.
	if s.Primary != "" && (s.Phase != raftfsm.PhaseRevoke || b.serving) {
		b.st.Primary = b.name(s.Primary)
	}
	for _, a := range s.Ackers {
		b.st.AckSet = append(b.st.AckSet, b.name(a.Node))
	}
	slices.Sort(b.st.AckSet)
	return b
}

// name is what people call a node; a node that is no member has only its id.
func (b *statusBuilder) name(id raftfsm.NodeID) string {
	if id == "" {
		return ""
	}
	return b.State.Name(id)
}

// up tells whether the node's agent reports.
func (b *statusBuilder) up(id raftfsm.NodeID) bool {
	r, ok := b.Reports[id]
	return ok && r.Report != nil && r.Age <= b.silence
}

// isServing tells whether the committed primary takes writes.
func (b *statusBuilder) isServing() bool {
	s := &b.State
	seen, ok := b.Reports[s.Primary]
	if !ok || seen.Report == nil || s.Primary == "" {
		return false
	}
	r := seen.Report
	if r.Mysqld != raftfsm.MysqldRunning || r.ReadOnly || r.SuperReadOnly {
		return false
	}
	if s.PrimaryUUID != "" && r.ServerUUID != s.PrimaryUUID {
		return false
	}
	if s.Phase == raftfsm.PhaseSettled {
		// An agent that is silent for less than its lease changes nothing for
		// MySQL's clients.
		lease := s.Policy.Lease
		if lease == 0 {
			lease = raftfsm.DefaultPolicy().Lease
		}
		return b.up(s.Primary) || seen.Age <= lease && b.notMissed()
	}
	return seen.Age <= b.silence && r.LeaseEpoch == s.Epoch
}

// attached are the members of the ack set that the primary has attached.
func (b *statusBuilder) attached(id raftfsm.NodeID) bool {
	a, ok := b.State.Acker(id)
	return ok && b.report != nil && slices.Contains(b.report.Attached, a.ServerUUID)
}

// alive tells whether others still see the mysqld of a node whose agent is
// silent: the primary sends to it, or a replica receives from it.
func (b *statusBuilder) alive(m raftfsm.Member) bool {
	if m.ServerUUID == "" {
		return false
	}
	if b.report != nil && m.ID != b.State.Primary && slices.Contains(b.report.Dumps, m.ServerUUID) {
		return true
	}
	for id, seen := range b.Reports {
		if id == m.ID || !b.up(id) || seen.Report.Replica == nil {
			continue
		}
		r := seen.Report.Replica
		if r.SourceUUID == m.ServerUUID && r.IORunning && r.Silence < b.silence {
			return true
		}
	}
	return false
}

// notMissed tells whether nothing speaks against a primary whose agent is
// silent: its replicas, as far as they report, still receive from it.
func (b *statusBuilder) notMissed() bool {
	if b.alive(b.primary) {
		return true
	}
	for _, m := range b.State.DataMembers() {
		if m.ID != b.primary.ID && b.up(m.ID) && b.Reports[m.ID].Report.Replica != nil {
			return false
		}
	}
	return true
}

func (b *statusBuilder) node(m raftfsm.Member) {
	seen, known := b.Reports[m.ID]
	n := api.NodeStatus{
		ID: string(m.ID), Name: m.Name, Address: m.Address,
		Role: b.role(m), Raft: b.raftRole(m.ID), Agent: "down", SeenMS: -1,
		Mysqld: raftfsm.MysqldDown, ReadOnly: true,
		Attached: b.attached(m.ID), Leaving: m.Leaving,
	}
	_, n.Acker = b.State.Acker(m.ID)
	if m.Witness {
		n.Mysqld, n.ReadOnly = raftfsm.MysqldNone, false
	} else {
		n.MySQL = WithPort(m.MySQLHost, m.MySQLPort)
		n.GTIDExecuted = b.State.Checkpoint(m.ID).String()
	}
	if known && seen.Report != nil {
		n.SeenMS = seen.Age.Milliseconds()
	}
	switch {
	case b.up(m.ID):
		n.Agent = "up"
		b.fromReport(&n, m, seen.Report)
	case known && seen.Report != nil && !m.Witness:
		// The last word of a silent agent, as far as others bear it out.
		n.Version = seen.Report.Version
		if set := seen.Report.Executed; !set.IsEmpty() {
			n.GTIDExecuted = set.String()
		}
		if b.alive(m) || b.serving && m.ID == b.State.Primary {
			n.Mysqld, n.ReadOnly = raftfsm.MysqldRunning, seen.Report.ReadOnly || seen.Report.SuperReadOnly
		}
	case b.alive(m):
		n.Mysqld = raftfsm.MysqldRunning
	}
	b.st.Nodes = append(b.st.Nodes, n)
}

func (b *statusBuilder) fromReport(n *api.NodeStatus, m raftfsm.Member, r *raftfsm.Report) {
	if m.Witness {
		return
	}
	n.Mysqld, n.Version = r.Mysqld, r.Version
	if r.Mysqld == raftfsm.MysqldRunning || r.Mysqld == raftfsm.MysqldHung {
		n.ReadOnly = r.ReadOnly || r.SuperReadOnly
	}
	if !r.Executed.IsEmpty() {
		n.GTIDExecuted = r.Executed.String()
	}
	if rep := r.Replica; m.ID != b.State.Primary && r.Mysqld == raftfsm.MysqldRunning && replicates(rep) {
		lag := rep.Lag.Seconds()
		n.LagSeconds = &lag
	}
	if !r.Archived.IsZero() {
		n.Archived = &r.Archived
	}
	if r.Rebuild != nil && !r.Rebuild.Done && r.Rebuild.Err == "" {
		n.Doing = rebuildProgress(r.Rebuild)
	}
	for _, lease := range b.State.Rebuilds {
		if lease.Donor == m.ID {
			n.Doing = "is being copied to " + b.name(lease.Recipient)
		}
	}
}

// stranger is a server of the Raft group that is no member any more: one that
// joins is a member first.
func (b *statusBuilder) stranger(r api.RaftServer) {
	n := api.NodeStatus{ID: string(r.ID), Name: string(r.ID), Role: "leaving", Raft: b.raftRole(r.ID),
		Agent: "down", SeenMS: -1, Mysqld: raftfsm.MysqldNone}
	if b.up(r.ID) {
		n.Agent, n.SeenMS = "up", b.Reports[r.ID].Age.Milliseconds()
		n.Mysqld = b.Reports[r.ID].Report.Mysqld
	}
	b.st.Nodes = append(b.st.Nodes, n)
}

func (b *statusBuilder) role(m raftfsm.Member) string {
	switch {
	case m.Witness:
		return "witness"
	case b.raftRole(m.ID) == "":
		return "joining"
	case b.st.Primary != "" && m.ID == b.State.Primary:
		return "primary"
	case m.ServerUUID == "":
		return "joining"
	}
	return "replica"
}

func (b *statusBuilder) raftRole(id raftfsm.NodeID) string {
	if id == b.Leader && id != "" {
		return "leader"
	}
	for _, r := range b.Raft {
		if r.ID == id && r.Voter {
			return "voter"
		}
		if r.ID == id {
			return "nonvoter"
		}
	}
	return ""
}

// errant is what the node executed and the living primary did not, as far as
// only a write of its own explains it: what the primary issued may be younger
// than the primary's report.
func (b *statusBuilder) errant(r *raftfsm.Report) gtid.Set {
	extra := r.Executed.Minus(b.report.Executed).Minus(b.State.Floor)
	return extra.Minus(extra.Only(b.State.PrimaryUUID))
}

func (b *statusBuilder) finish() api.Status {
	switch {
	case !b.Quorum:
		b.st.Health = api.HealthNoQuorum
	case !b.serving:
		b.st.Health = api.HealthNoPrimary
	case b.degraded || b.State.Phase != raftfsm.PhaseSettled:
		b.st.Health = api.HealthDegraded
	default:
		b.st.Health = api.HealthOK
	}
	rank := map[api.Severity]int{api.Critical: 0, api.Warning: 1, api.Info: 2}
	slices.SortStableFunc(b.st.Issues, func(x, y api.Issue) int {
		return cmp.Compare(rank[x.Severity], rank[y.Severity])
	})
	return b.st
}

// replicates tells whether the channel receives and applies.
func replicates(r *raftfsm.ReplicaReport) bool { return r != nil && r.IORunning && r.SQLRunning }
