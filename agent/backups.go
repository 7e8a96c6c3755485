package agent

import (
	"ha/agent/api"
	"ha/agent/backup"
	"ha/raftfsm"
)

// newDonor makes what gives backups of this node's mysqld.
func (a *Agent) newDonor(s raftfsm.State) *backup.Donor {
	return &backup.Donor{Server: a.mysqldConfig(s.AgentPassword), Node: a.cfg.Name, Cluster: a.cluster, Version: a.version,
		StartTimeout: a.cfg.MySQL.StartTimeout,
		Busy:         a.noBackup, Log: a.log}
}

// givesBackup says that a backup of this node's mysqld is being taken.
func (a *Agent) givesBackup() bool {
	d := a.donor.Load()
	return d != nil && d.Giving()
}

// noBackup says what forbids a backup now: a server gives one copy at a time.
func (a *Agent) noBackup() string {
	s := a.fsm.State()
	for _, r := range s.Rebuilds {
		if r.Donor == a.id {
			return "it is being copied from, for " + s.Name(r.Recipient)
		}
	}
	return a.noCopying()
}

// noCopying says what forbids any copy now: the data are being replaced.
func (a *Agent) noCopying() string {
	n := a.node.Load()
	if n == nil {
		return "its agent is starting"
	}
	if r := (*n).Report().Rebuild; r != nil && !r.Done && r.Err == "" {
		return "it is being rebuilt"
	}
	return ""
}

// errNoDonor answers who asks a node without a mysqld, or too early.
var errNoDonor = api.Busy("this agent has no mysqld, or is starting").WithHint("take another donor with --from")
