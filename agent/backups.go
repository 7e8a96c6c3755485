package agent

import (
	"time"

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

// takeOverTime is how long an agent that has just been started has to take its mysqld
// over before a copy is refused.
const takeOverTime = 5 * time.Second

// noCopying says what forbids any copy now. An agent that has just been started ends the
// sessions of an earlier one as it takes mysqld over, and would take those of a copy for
// some of them: that is waited for.
func (a *Agent) noCopying() string {
	for end := time.Now().Add(takeOverTime); ; time.Sleep(20 * time.Millisecond) {
		why, starting := a.noCopyNow()
		if !starting || time.Now().After(end) {
			return why
		}
	}
}

// noCopyNow is why nothing is copied in this moment; starting: that may be over soon.
func (a *Agent) noCopyNow() (why string, starting bool) {
	n := a.node.Load()
	if n == nil {
		return "its agent is starting", true
	}
	switch r := (*n).Report(); {
	case r.Rebuild != nil && !r.Rebuild.Done && r.Rebuild.Err == "": // its data are being replaced
		return "it is being rebuilt", false
	case r.Mysqld != raftfsm.MysqldRunning:
		return "its mysqld is " + string(r.Mysqld), true
	}
	return "", false
}

// errNoDonor answers who asks a node without a mysqld, or too early.
var errNoDonor = api.Busy("this agent has no mysqld, or is starting").WithHint("take another donor with --from")
