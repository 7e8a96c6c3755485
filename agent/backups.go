package agent

import (
	"ha/agent/api"
	"ha/agent/backup"
	"ha/raftfsm"
)

// newDonor makes what gives backups of this node's mysqld.
func (a *Agent) newDonor(s raftfsm.State) *backup.Donor {
	return &backup.Donor{Server: a.mysqldConfig(s.AgentPassword), Node: a.cfg.Name, Cluster: a.cluster, Version: a.version,
		Busy: a.noBackup, Log: a.log}
}

// noBackup says what forbids a backup now: the data are being replaced.
func (a *Agent) noBackup() string {
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
