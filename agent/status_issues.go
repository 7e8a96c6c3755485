package agent

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ha/agent/api"
	"ha/agent/archive"
	"ha/agent/purge"
	"ha/agent/raftnode"
	"ha/raftfsm"
	"ha/vip"
)

// Code words of what status finds. They are stable: scripts know them.
const (
	IssueNoQuorum       = "HA-NO-QUORUM"
	IssueNoPrimary      = "HA-NO-PRIMARY"
	IssueChanging       = "HA-CHANGING"        // an epoch is being closed or opened
	IssueNodeDown       = "HA-NODE-DOWN"       // nothing is heard of agent or mysqld
	IssueAgentDown      = "HA-AGENT-DOWN"      // mysqld lives, its agent is silent
	IssueMysqldDown     = "HA-MYSQLD-DOWN"     //
	IssueMysqldHung     = "HA-MYSQLD-HUNG"     // runs and does not answer
	IssueMysqldStarting = "HA-MYSQLD-STARTING" //
	IssueNotReplicating = "HA-NOT-REPLICATING" //
	IssueNotAcking      = "HA-NOT-ACKING"      // replicates, but its acks do not count
	IssueAcksShort      = "HA-ACKS-SHORT"      // fewer ackers attached than the policy wants
	IssueAsync          = "HA-ASYNC"           // commits wait for nobody
	IssueStrayAcker     = raftfsm.CodeStray    // acknowledges, and is not in the ack set
	IssueWaiting        = "HA-WRITES-WAIT"     // commits wait for acks
	IssueErrant         = "HA-ERRANT"          // transactions that the primary lacks
	IssueWritable       = "HA-WRITABLE"        // a server that may not serve is writable
	IssueLag            = "HA-LAG"
	IssueRebuild        = "HA-REBUILD"
	IssueOldData        = "HA-OLD-DATA"
	IssuePaused         = "HA-PAUSED"
	IssueNoWitness      = "HA-NO-WITNESS"
	IssueSingle         = "HA-SINGLE" // one data node: nothing to fail over to
	IssueJoining        = "HA-JOINING"
	IssueLeaving        = "HA-LEAVING"
	IssueRequest        = "HA-REQUEST"      // a switchover or failover is under way
	IssueVIPNobody      = "HA-VIP-NOBODY"   // a virtual IP that no node holds
	IssueVIPConfig      = "HA-VIP-CONFIG"   // a node is not configured with it
	IssueCannotClose    = "HA-CANNOT-CLOSE" // no failover: those that answer do not know every acknowledged row
)

// diskHints are what to do about the disk of a mysqld.
var diskHints = map[string]string{
	"HA-DISK-FULL":          "make room on the file system of mysql.data_dir there",
	"HA-READ-ONLY-FS":       "look at the kernel's log there (dmesg), mend the file system and mount it anew",
	"HA-DISK-STALL":         "look at the kernel's log and at the load of the disk there",
	raftfsm.ProblemDiskWait: "nothing: its mysqld is ended for that, and comes up again",
}

// waitShown is how long commits wait before status speaks of it.
const waitShown = time.Second

// issue adds one that is about the cluster as a whole or, with a name, a node.
func (b *statusBuilder) issue(sev api.Severity, code, node, next, format string, args ...any) {
	b.st.Issues = append(b.st.Issues, api.Issue{
		Code: code, Severity: sev, Node: node, Text: fmt.Sprintf(format, args...), Next: next,
	})
}

func (b *statusBuilder) clusterIssues() {
	s := &b.State
	if !b.Quorum {
		b.noQuorum()
	}
	if s.Policy.Paused {
		b.issue(api.Info, IssuePaused, "", "ha resume, when the maintenance is over",
			"automatic failover is paused")
	}
	if r := s.Request; r != nil {
		to := ""
		if r.Target != "" {
			to = " to " + b.name(r.Target)
		}
		b.issue(api.Info, IssueRequest, "", "wait; `ha events` tells how it goes", "a %s%s is under way%s", r.Kind, to, colon(b.Doing))
	}
	data, voters := s.DataMembers(), 0
	for _, r := range b.Raft {
		if r.Voter {
			voters++
		}
	}
	switch {
	case len(data) == 1 && len(s.Members) == 1:
		b.issue(api.Info, IssueSingle, "", "start agents on other hosts with --join "+b.members[0].Address,
			"one node only: there is nothing to fail over to")
	case len(data) == 2 && len(s.Members) == 2:
		b.issue(api.Info, IssueNoWitness, "", "start a witness on a third host: ha agent --witness --join "+b.members[0].Address,
			"two nodes cannot outvote each other: if either dies, nobody may take over")
	case len(data) == 1:
		b.issue(api.Info, IssueSingle, "", "start an agent with a mysqld on another host",
			"one data node only: there is nothing to fail over to")
	}
	for _, m := range b.members {
		if voters > 0 && b.raftRole(m.ID) == "nonvoter" && voters%2 == 0 && voters < s.Policy.MaxVoters {
			b.issue(api.Info, IssueJoining, m.Name, "", "%s is catching up and has no vote yet", m.Name)
		}
	}
}

func (b *statusBuilder) noQuorum() {
	var voters, silent []string
	for _, r := range b.Raft {
		if !r.Voter {
			continue
		}
		voters = append(voters, b.name(r.ID))
		if !b.up(r.ID) {
			silent = append(silent, b.name(r.ID))
		}
	}
	slices.Sort(silent)
	need := len(voters)/2 + 1
	up := len(voters) - len(silent)
	switch {
	case len(voters) == 0:
		b.issue(api.Critical, IssueNoQuorum, "", "start the other agents; `ha agent` without --join founds a cluster",
			"no cluster is formed yet")
	case up >= need:
		b.issue(api.Critical, IssueNoQuorum, "", "wait a second; if it stays, see the agents' logs and the network between the hosts",
			"%d of %d voting agents answer, and no coordinator is elected", up, len(voters))
	default:
		b.issue(api.Critical, IssueNoQuorum, "", "start the agent on "+either(silent, need-up),
			"%d of %d voting agents answer and %d are needed: nothing can be decided; silent: %s",
			up, len(voters), need, strings.Join(silent, " "))
	}
}

func (b *statusBuilder) primaryIssues() {
	s := &b.State
	why := s.Why
	if why != "" {
		why = ": " + why
	}
	switch {
	case !b.Quorum:
	case s.Phase == raftfsm.PhaseNone && s.Primary == "":
		b.issue(api.Critical, IssueNoPrimary, "", "wait; if it stays, see the log of the agent that founded the cluster",
			"no primary was chosen yet")
	case s.Phase == raftfsm.PhaseRevoke && !b.serving:
		next := "wait: a new primary is being chosen"
		missing := b.unsealed()
		if missing != "" {
			next = missing
		} else if b.Doing != "" && s.Request == nil {
			why += "; " + b.Doing
		}
		b.issue(api.Critical, IssueNoPrimary, "", next, "epoch %d is being closed%s", s.Epoch, why)
		b.cannotClose(missing)
	case s.Phase == raftfsm.PhasePromote && !b.serving:
		next := "wait: it is being opened"
		if !b.up(s.Primary) {
			next = "start the agent on " + b.primary.Name
		}
		b.issue(api.Critical, IssueNoPrimary, "", next, "%s is the primary of epoch %d and not writable yet",
			b.primary.Name, s.Epoch)
	case !b.serving:
		next := "wait: a failover follows"
		missing := b.unsealed()
		if missing != "" {
			next = missing
		} else if s.Policy.Paused {
			next = "ha resume, ha failover, or start " + b.primary.Name
		}
		b.issue(api.Critical, IssueNoPrimary, "", next, "%s is the primary and takes no writes", b.primary.Name)
		b.cannotClose(missing)
	case s.Phase != raftfsm.PhaseSettled:
		b.issue(api.Warning, IssueChanging, "", "wait", "epoch %d is in phase %s%s", s.Epoch, s.Phase, why)
	}
	if b.serving {
		b.ackIssues()
	}
}

// unsealed names the hosts that would do to close the epoch, if too few of them
// are there (R1).
func (b *statusBuilder) unsealed() string {
	s := &b.State
	if s.Primary == "" || b.up(s.Primary) {
		return ""
	}
	var silent []string
	for _, a := range s.Ackers {
		if !b.up(a.Node) {
			silent = append(silent, b.name(a.Node))
		}
	}
	slices.Sort(silent)
	missing := raftfsm.Need(s.Ackers, s.K) - (len(s.Ackers) - len(silent))
	switch {
	case missing <= 0:
		return ""
	case missing > len(silent):
		return "start " + b.primary.Name + ": only it has every acknowledged row"
	}
	return fmt.Sprintf("start %s, or %s", b.primary.Name, either(silent, missing))
}

// cannotClose says why there is no failover, and who would do: missing.
func (b *statusBuilder) cannotClose(missing string) {
	if missing == "" {
		return
	}
	s := &b.State
	why := "its commits waited for no replica"
	if s.K > 0 {
		up := 0
		for _, a := range s.Ackers {
			if b.up(a.Node) {
				up++
			}
		}
		why = fmt.Sprintf("%d of its %d ackers have to be closed, and %d answer", raftfsm.Need(s.Ackers, s.K), len(s.Ackers), up)
	}
	b.issue(api.Critical, IssueCannotClose, "", missing,
		"epoch %d cannot be closed without %s: %s (`ha failover --allow-data-loss --dry-run` says what giving it up would lose)", s.Epoch, b.primary.Name, why)
}

func (b *statusBuilder) ackIssues() {
	s := &b.State
	want := s.KPolicy()
	if b.report == nil { // the primary's agent is silent: nothing is known
		b.degraded = true
		return
	}
	attached := 0
	for _, a := range s.Ackers {
		if b.attached(a.Node) {
			attached++
		}
	}
	if attached < want {
		b.degraded = true
	}
	switch {
	case s.K == 0 && want > 0:
		b.degraded = true
		b.issue(api.Critical, IssueAsync, "", "bring the replicas back: see their issues",
			"commits wait for no replica: if %s dies now, rows may be lost, so it is not failed over by itself", b.primary.Name)
	case s.K == 0 && len(s.DataMembers()) > 1:
		b.issue(api.Info, IssueAsync, "", "set policy acks to 1 or more for failover by itself",
			"commits wait for no replica, by policy")
	case attached < s.K:
		b.issue(api.Critical, IssueAcksShort, "", "bring the replicas back: see their issues",
			"%d of %d wanted replicas acknowledge: writes wait", attached, want)
	case attached < want || s.K < want:
		b.issue(api.Warning, IssueAcksShort, "", "bring the replicas back: see their issues",
			"%d of %d wanted replicas acknowledge, and each commit waits for %d", attached, want, s.K)
	}
	for _, uuid := range b.report.Attached {
		of := func(m raftfsm.Member) bool { return m.ServerUUID == uuid }
		if s.K == 0 || slices.ContainsFunc(s.Members, of) { // a member's own report tells of it
			continue
		}
		b.degraded = true
		b.issue(api.Critical, IssueStrayAcker, b.primary.Name, "switch semi-sync off on it (SET GLOBAL rpl_semi_sync_replica_enabled=OFF, then restart its receiver), or let it replicate from a replica",
			"server %s acknowledges commits of %s and is no member: its connection is ended again and again, for a row that it alone has would be lost in a failover", uuid, b.primary.Name)
	}
	if b.report.Waiting > 0 && b.report.WaitingFor >= waitShown {
		b.issue(api.Critical, IssueWaiting, b.primary.Name, "bring the replicas back: see their issues",
			"%s on %s for acknowledgements, the oldest for %s",
			plural(b.report.Waiting, "commit waits", "commits wait"), b.primary.Name, seconds(b.report.WaitingFor))
	}
}

func (b *statusBuilder) memberIssues(m raftfsm.Member) {
	seen := b.Reports[m.ID]
	if m.Leaving {
		next := "wait: it is forgotten once nothing rests on it"
		if !b.up(m.ID) && !m.Witness {
			next = "start its agent; if its host is gone for good: ha remove " + m.Name + " --gone"
		}
		b.issue(api.Info, IssueLeaving, m.Name, next, "%s is to leave the cluster", m.Name)
	}
	if !b.up(m.ID) {
		b.silentIssue(m, seen)
		return
	}
	r := seen.Report
	for _, p := range r.Problems {
		next := ""
		if hint, disk := diskHints[p.Code]; disk {
			b.degraded, next = true, hint
		}
		switch p.Code {
		case raftnode.CodeDisk:
			b.degraded, next = true, raftDiskHint
		case vip.CodeDuplicate:
			next = "find the host with that link-layer address, and give it another IP address"
		case vip.CodeInterface, vip.CodeFailed:
			next = "see `ip link` on " + m.Name + " and the log of its agent"
		case archive.CodeGap, archive.CodeDiverged, archive.CodeFailed:
			next = archiveHints[p.Code]
		case purge.CodeKept:
			next = purgeHint
		case codeNotServed:
			next = "on a replica: kill -9 its mysqld, and its agent starts it anew; a primary is switched over first"
		}
		b.issue(api.Warning, p.Code, m.Name, next, "%s: %s", m.Name, p.Text)
	}
	if m.Witness {
		return
	}
	b.copyIssues(m, r)
	if lease, ok := b.State.Rebuild(m.ID); ok || r.Rebuild != nil && !r.Rebuild.Done && r.Rebuild.Err == "" {
		b.rebuildIssue(m, lease, r.Rebuild)
		return
	}
	log := "see mysqld's error log on " + m.Name
	switch r.Mysqld {
	case raftfsm.MysqldDown, raftfsm.MysqldNone:
		b.degraded = true
		b.issue(api.Warning, IssueMysqldDown, m.Name, "wait: its agent starts it again; if it stays down, "+log+", or copy its data anew: ha rebuild --node "+m.Name+" --from best",
			"mysqld of %s is down%s", m.Name, colon(r.MysqldErr))
		return
	case raftfsm.MysqldStarting:
		b.degraded = true
		b.issue(api.Info, IssueMysqldStarting, m.Name, "wait", "mysqld of %s is starting", m.Name)
		return
	case raftfsm.MysqldHung:
		b.degraded = true
		b.issue(api.Critical, IssueMysqldHung, m.Name, "look at the disk and the load of "+m.Name+", and "+log,
			"mysqld of %s runs and has not answered for %s%s", m.Name, seconds(r.HungFor), colon(r.MysqldErr))
		return
	}
	if m.ID != b.State.Primary {
		b.replicaIssues(m, r)
	}
}

// silentIssue is about a node whose agent does not report.
func (b *statusBuilder) silentIssue(m raftfsm.Member, seen SeenReport) {
	b.degraded = true
	silent := "does not answer"
	if seen.Report != nil {
		silent = "has been silent for " + seconds(seen.Age)
	}
	sev := api.Warning
	if m.ID == b.State.Primary {
		sev = api.Critical
	}
	start := "start it: systemctl start ha on " + m.Name + " (sandbox: ha sandbox start " + m.Name + ")"
	switch {
	case m.Witness:
		b.issue(sev, IssueAgentDown, m.Name, start, "the witness %s %s", m.Name, silent)
	case b.alive(m):
		b.issue(sev, IssueAgentDown, m.Name, start, "the agent of %s %s; its mysqld still runs", m.Name, silent)
	default:
		b.issue(sev, IssueNodeDown, m.Name, "see whether the host runs, then "+start,
			"%s %s, agent and mysqld", m.Name, silent)
	}
}

func (b *statusBuilder) replicaIssues(m raftfsm.Member, r *raftfsm.Report) {
	if !r.ReadOnly && !r.SuperReadOnly {
		b.degraded = true
		b.issue(api.Critical, IssueWritable, m.Name, "SET GLOBAL super_read_only=ON on "+m.Name+", and keep clients away from it",
			"%s is not the primary and its mysqld is writable", m.Name)
	}
	if b.report != nil && b.serving {
		if errant := b.errant(r); !errant.IsEmpty() {
			b.degraded = true
			b.issue(api.Warning, IssueErrant, m.Name, "its data are copied anew from a healthy node; it is not promoted before",
				"%s has %s that %s lacks: %s", m.Name, plural(int(errant.Count()), "transaction", "transactions"), b.primary.Name, errant)
		}
	}
	rep, log := r.Replica, "see mysqld's error log on "+m.Name
	switch {
	case rep == nil || rep.SQLError == "" && !b.serving:
		// Without a primary there is nothing to replicate from.
		if b.serving {
			b.notReplicating(m, "wait: the coordinator points it at "+b.primary.Name, "it has no source")
		}
	case rep.SQLError != "":
		next := log
		if p := b.State.Policy; p.RebuildDiverged && p.RebuildBroken > 0 {
			next += "; if it stands for " + p.RebuildBroken.String() + " its data are copied anew from a healthy node (rebuild_broken)"
		}
		b.notReplicating(m, next, "it cannot apply: "+rep.SQLError)
	case b.State.PrimaryUUID != "" && rep.SourceUUID != "" && rep.SourceUUID != b.State.PrimaryUUID:
		b.notReplicating(m, "wait: the coordinator points it at "+b.primary.Name, "its source is "+rep.SourceHost+":"+strconv.Itoa(rep.SourcePort))
	case !rep.IORunning:
		b.notReplicating(m, "see the network between "+m.Name+" and "+b.primary.Name, "it does not receive"+colon(rep.IOError))
	case !rep.SQLRunning:
		b.notReplicating(m, log, "its applier is stopped")
	default:
		b.ackerIssues(m, rep)
	}
}

func (b *statusBuilder) notReplicating(m raftfsm.Member, next, why string) {
	b.degraded = true
	b.issue(api.Warning, IssueNotReplicating, m.Name, next, "%s does not replicate: %s", m.Name, why)
}

// ackerIssues are about a replica that replicates.
func (b *statusBuilder) ackerIssues(m raftfsm.Member, rep *raftfsm.ReplicaReport) {
	limit := b.State.Policy.MaxAckerLag
	if limit == 0 {
		limit = raftfsm.DefaultPolicy().MaxAckerLag
	}
	if rep.Lag > limit {
		b.issue(api.Warning, IssueLag, m.Name, "look at the load of "+m.Name, "%s applies %s late", m.Name, seconds(rep.Lag))
	}
	_, acker := b.State.Acker(m.ID)
	switch {
	case b.report == nil || b.State.KPolicy() == 0:
	case !acker:
		b.issue(api.Info, IssueNotAcking, m.Name, "wait: it enters when it has caught up", "%s replicates and is not in the ack set", m.Name)
	case !b.attached(m.ID):
		b.issue(api.Info, IssueNotAcking, m.Name, "wait: it is connecting", "%s is in the ack set and does not acknowledge now", m.Name)
	}
}

// either names n of the nodes: "n1", "n1 or n2", "2 of n1 n2 n3".
func either(names []string, n int) string {
	switch {
	case n >= len(names):
		return strings.Join(names, " and ")
	case n == 1:
		return strings.Join(names, " or ")
	}
	return strconv.Itoa(n) + " of " + strings.Join(names, " ")
}

func seconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func colon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}
