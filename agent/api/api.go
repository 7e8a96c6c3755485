// Package api is what agents and clients say to each other over HTTP: the
// paths, the documents, and the client.
package api

import (
	"time"

	"ha/raftfsm"
)

// Paths. All are on the agent's one port under mutual TLS; the local unix
// socket serves PathPing, PathStatus, PathSelf and PathStepDown only.
const (
	PathStatus = "/v1/status" // GET → Status; any agent answers for the cluster
	PathSelf   = "/v1/self"   // GET → Self; this agent only
	// GET → Status; refused by an agent that does not coordinate.
	PathCoordinator = "/v1/coordinator"
	PathJoin        = "/v1/join"   // POST JoinRequest → JoinReply
	PathReport      = "/v1/report" // POST raftfsm.Report → raftfsm.Grant; coordinator only
	PathOrder       = "/v1/order"  // POST raftfsm.Order → raftfsm.Answer
	PathPing        = "/v1/ping"   // GET → Ping: who are you
	// POST HandOver → nothing once it is recorded; coordinator only.
	PathHandOver = "/v1/hand-over"
	PathNote     = "/v1/note" // POST Note → nothing once it is recorded; coordinator only
	// POST StepDown → StepDownReply; on the local unix socket only.
	PathStepDown = "/v1/step-down"
)

// Health is one word for the state of a cluster.
type Health string

// The healths, worst last. The exit code of `ha status` follows.
const (
	HealthOK        Health = "ok"
	HealthDegraded  Health = "degraded"   // fewer attached ackers than wanted, or a member down or not replicating
	HealthNoPrimary Health = "no_primary" // nobody takes writes
	HealthNoQuorum  Health = "no_quorum"  // no majority of agents: nothing can be decided
)

// ExitCode is what `ha status` exits with.
func (h Health) ExitCode() int {
	switch h {
	case HealthOK:
		return ExitOK
	case HealthDegraded:
		return ExitDegraded
	case HealthNoPrimary:
		return ExitNoPrimary
	case HealthNoQuorum:
		return ExitNoQuorum
	}
	return ExitFailed
}

// Status is the answer of `ha status -o json`. Fields are only ever added.
type Status struct {
	Cluster     string       `json:"cluster"`
	Epoch       uint64       `json:"epoch"`
	Phase       string       `json:"phase"`
	Health      Health       `json:"health"`
	Primary     string       `json:"primary"`     // name; empty: none
	Coordinator string       `json:"coordinator"` // name; empty: none known
	Acks        int          `json:"acks"`        // k enforced now
	AcksWanted  int          `json:"acks_wanted"` // k by policy
	AckSet      []string     `json:"ack_set"`     // names
	Nodes       []NodeStatus `json:"nodes"`
	Issues      []Issue      `json:"issues"`
	VIPs        []VIPStatus  `json:"vips,omitempty"`
	// Doing says what the coordinator is doing or waiting for; empty when
	// there is nothing to do.
	Doing string `json:"doing,omitempty"`
	// Paused: no failover starts by itself.
	Paused bool `json:"paused"`
	// Request is what a person has asked for and what is not done yet.
	Request *RequestStatus `json:"request,omitempty"`
	// Source is the name of the agent that answered.
	Source string `json:"source"`
}

// VIPStatus is one virtual IP, and who holds it.
type VIPStatus struct {
	Address string `json:"address"`
	Role    string `json:"role"`             // primary, reader
	Holder  string `json:"holder,omitempty"` // name; empty: nobody
	// Interface is where the holder has it.
	Interface string `json:"interface,omitempty"`
}

// RequestStatus is a switchover or failover under way.
type RequestStatus struct {
	Kind   raftfsm.RequestKind `json:"kind"`
	Target string              `json:"target,omitempty"` // name; empty: the best one
	Index  uint64              `json:"index"`
}

// NodeStatus is one node of Status.
type NodeStatus struct {
	ID           string              `json:"id"`
	Name         string              `json:"name"`
	Address      string              `json:"address"`           // host:port of the agent
	MySQL        string              `json:"mysql"`             // host:port; empty for a witness
	Version      string              `json:"version"`           // of mysqld
	Role         string              `json:"role"`              // primary, replica, witness, joining, leaving
	Raft         string              `json:"raft"`              // leader, voter, nonvoter; empty: none yet
	Agent        string              `json:"agent"`             // up, down
	SeenMS       int64               `json:"seen_ms"`           // age of its last report; -1: none
	Mysqld       raftfsm.MysqldState `json:"mysqld"`            // running, down, hung, starting, none
	ReadOnly     bool                `json:"read_only"`         // super_read_only or read_only
	GTIDExecuted string              `json:"gtid_executed"`     // last known
	LagSeconds   *float64            `json:"lag_seconds"`       // null: not replicating
	Acker        bool                `json:"acker"`             // in the ack set
	Attached     bool                `json:"attached"`          // acknowledging now
	Doing        string              `json:"doing,omitempty"`   // rebuild progress and the like
	Leaving      bool                `json:"leaving,omitempty"` // it is to be forgotten
	// Archived is when the last transaction was committed that its archive of binary
	// logs holds; null: it has none, or nothing in it.
	Archived *time.Time `json:"archived,omitempty"`
}

// Severity says how urgent an issue is.
type Severity string

// The severities, worst first.
const (
	Critical Severity = "critical"
	Warning  Severity = "warning"
	Info     Severity = "info"
)

// Issue is something an operator should know.
type Issue struct {
	Code string `json:"code"` // stable word, HA-...
	// Severity is critical (clients cannot write, or data are at stake),
	// warning (the next fault may be critical) or info.
	Severity Severity `json:"severity"`
	Node     string   `json:"node,omitempty"` // name
	Text     string   `json:"text"`           // what is wrong
	Next     string   `json:"next,omitempty"` // what to do
}

// Self is what one agent knows by itself, without a coordinator.
type Self struct {
	Node   raftfsm.NodeID `json:"node"`
	Name   string         `json:"name"`
	Leader raftfsm.NodeID `json:"leader"` // as its Raft sees it; empty: none
	// State is its copy of the replicated state, without passwords.
	State  raftfsm.State   `json:"state"`
	Report *raftfsm.Report `json:"report"`
	Raft   []RaftServer    `json:"raft"`
}

// RaftServer is one server of the Raft configuration.
type RaftServer struct {
	ID    raftfsm.NodeID `json:"id"`
	Voter bool           `json:"voter"`
}

// Ping identifies an agent.
type Ping struct {
	Node    raftfsm.NodeID `json:"node"`
	Name    string         `json:"name"`
	Cluster string         `json:"cluster"`
	Leader  string         `json:"leader"` // host:port; empty: none known
	Version string         `json:"version"`
}

// JoinRequest asks to become a member. Any agent passes it on to the leader.
type JoinRequest struct {
	Member raftfsm.Member `json:"member"`
	// Cluster is the id the joiner's data dir names; empty for a new node.
	Cluster string `json:"cluster"`
	Version string `json:"version"` // of the agent
	// Was says that the node was a member: it is not to become one again if it
	// was removed.
	Was bool `json:"was,omitempty"`
}

// JoinReply answers it.
type JoinReply struct {
	OK      bool   `json:"ok"`
	Cluster string `json:"cluster,omitempty"`
	// Refused is set when trying again cannot help; Code is its stable word.
	Refused bool   `json:"refused,omitempty"`
	Code    string `json:"code,omitempty"`
	Err     string `json:"err,omitempty"`
	// AgentPassword is the password of the agents' own MySQL account.
	AgentPassword string `json:"agent_password,omitempty"`
}

// HandOver asks the coordinator for a switchover away from a primary whose host
// is being stopped.
type HandOver struct {
	From    raftfsm.NodeID `json:"from"`
	Timeout time.Duration  `json:"timeout"` // for its preparation
}

// Note is something that happened on a node and that people want to know of.
type Note struct {
	Node raftfsm.NodeID `json:"node"`
	Text string         `json:"text"`
}

// StepDown asks an agent to make its host fit to be stopped.
type StepDown struct {
	Timeout time.Duration `json:"timeout"` // for a switchover; then mysqld is killed
}

// StepDownReply says what was done. It is given only where the host may be
// stopped.
type StepDownReply struct {
	Done    StepDownDone `json:"done"`
	Primary string       `json:"primary,omitempty"` // name
	Why     string       `json:"why,omitempty"`     // why it was killed
}

// StepDownDone is what was done so that a host may be stopped.
type StepDownDone string

// What can have been done.
const (
	StepDownNothing  StepDownDone = "nothing"  // it was not the primary
	StepDownSwitched StepDownDone = "switched" // another one is the primary
	StepDownKilled   StepDownDone = "killed"   // mysqld was killed, and stays down
)
