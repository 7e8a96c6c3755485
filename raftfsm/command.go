package raftfsm

import (
	"encoding/json"
	"fmt"

	"ha/mysqlctl/gtid"
)

// Kind names a command. Unknown kinds panic: a node that cannot apply what the
// others applied must not go on.
type Kind string

// The kinds of commands.
const (
	CmdFound        Kind = "found"         // first entry: cluster id, policy, the founder as member
	CmdMember       Kind = "member"        // add a member or change its description
	CmdRemoveMember Kind = "remove_member" // forget a member
	CmdPolicy       Kind = "policy"
	CmdRevoke       Kind = "revoke"  // begin to close the current epoch
	CmdPromote      Kind = "promote" // R4: the next epoch's whole tuple
	CmdSettle       Kind = "settle"  // its first barrier was acknowledged
	CmdRequest      Kind = "request" // a person asks for a switchover or failover; none: it is given up
	CmdResume       Kind = "resume"  // a switchover that the primary declined: its reign goes on
	CmdIntent       Kind = "intent"  // R5: what lowers need is announced first
	CmdAcks         Kind = "acks"    // change (A, k)
	CmdCheckpoint   Kind = "checkpoint"
	CmdRebuild      Kind = "rebuild"        // grant a rebuild lease
	CmdRebuildEnd   Kind = "rebuild_end"    // end it
	CmdWish         Kind = "rebuild_wish"   // a person asks for a rebuild
	CmdCancel       Kind = "rebuild_cancel" // a person wants none, asked for or not
	CmdNote         Kind = "note"           // what happened on a node, for people: an event and nothing else
)

// Command is one entry of the replicated log. Exactly the fields that its kind
// names are used.
type Command struct {
	Kind Kind `json:"kind"`
	// On is the State version it was decided on. Apply drops a command whose
	// version has moved; checkpoints, notes, found, and member descriptions that
	// name none are excepted.
	On uint64 `json:"on"`
	// At is the coordinator's wall clock in milliseconds since 1970. People see
	// it beside events; nothing is decided by it.
	At int64 `json:"at,omitempty"`

	Cluster       string  `json:"cluster,omitempty"`
	AgentPassword string  `json:"agent_password,omitempty"`
	Member        *Member `json:"member,omitempty"`
	Node          NodeID  `json:"node,omitempty"`
	Policy        *Policy `json:"policy,omitempty"`

	// Epoch: for revoke and settle the current one, for promote the next.
	Epoch       uint64       `json:"epoch,omitempty"`
	Primary     NodeID       `json:"primary,omitempty"`
	PrimaryUUID string       `json:"primary_uuid,omitempty"`
	Ackers      []Acker      `json:"ackers,omitempty"`
	K           int          `json:"k,omitempty"`
	Floor       gtid.Set     `json:"floor"`
	Request     *Request     `json:"request,omitempty"`
	Intent      *Intent      `json:"intent,omitempty"`
	Checkpoints []Checkpoint `json:"checkpoints,omitempty"`
	Rebuild     *Rebuild     `json:"rebuild,omitempty"`
	Wish        *Wish        `json:"wish,omitempty"`
	// Lossy: the promotion follows an epoch that could not be closed.
	Lossy bool   `json:"lossy,omitempty"`
	Why   string `json:"why,omitempty"`
}

// Encode gives the bytes of a log entry.
func (c Command) Encode() []byte {
	b, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("encode command %s: %v", c.Kind, err)) // plain data: cannot fail
	}
	return b
}

// Decode reads a log entry.
func Decode(b []byte) (Command, error) {
	var c Command
	if err := json.Unmarshal(b, &c); err != nil {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	return c, nil
}
