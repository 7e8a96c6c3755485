package agent

import (
	"time"

	"ha/raftfsm"
)

// readerOf chooses the replica that holds the address of the readers: the one that
// has it, as long as it is healthy, else the one that lags least, by whole seconds,
// then by id. Empty: there is none, or nobody is configured with such an address.
func readerOf(s *raftfsm.State, v *raftfsm.View) raftfsm.NodeID {
	var best raftfsm.NodeID
	var least time.Duration
	for _, m := range s.DataMembers() {
		n := v.Node(m.ID)
		held, configured := readerVIP(n.Report)
		if !configured || !mayRead(s, n) || m.Leaving {
			continue
		}
		if held {
			return m.ID
		}
		lag := n.Report.Replica.Lag.Truncate(time.Second)
		if best == "" || lag < least || lag == least && m.ID < best {
			best, least = m.ID, lag
		}
	}
	return best
}

// mayRead says that what a node's server shows is not older than that of an acker. One
// whose connection is up and that hears nothing does not know how much it lags.
func mayRead(s *raftfsm.State, n *raftfsm.NodeView) bool {
	r := n.Report
	_, copied := s.Rebuild(n.ID)
	return n.ID != s.Primary && !copied && r != nil && n.Age <= s.Policy.DeadAfter && r.Mysqld == raftfsm.MysqldRunning &&
		replicates(r.Replica) && r.Replica.Silence < s.Policy.DeadAfter && r.Replica.Lag <= s.Policy.MaxAckerLag &&
		(s.PrimaryUUID == "" || r.Replica.SourceUUID == s.PrimaryUUID)
}

func readerVIP(r *raftfsm.Report) (held, configured bool) {
	if r == nil {
		return false, false
	}
	for _, v := range r.VIPs {
		held, configured = held || v.Reader && v.Held, configured || v.Reader
	}
	return held, configured
}
