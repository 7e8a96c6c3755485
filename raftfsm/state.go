package raftfsm

import (
	"slices"
	"strings"

	"ha/mysqlctl/gtid"
)

// NodeID names a node for ever: random, kept beside the node's Raft store. A
// node that lost its disk comes back under a new one.
type NodeID string

// Phase says how far the reign of the current epoch is.
type Phase string

// The phases. Everything between them is recomputed by whoever coordinates.
const (
	PhaseNone    Phase = ""        // no epoch was ever opened
	PhaseRevoke  Phase = "revoke"  // the current epoch is being closed
	PhasePromote Phase = "promote" // a new primary is committed and being opened
	PhaseSettled Phase = "settled" // the primary serves; its first barrier was acknowledged
)

// Member is one node of the cluster.
type Member struct {
	ID      NodeID `json:"id"`
	Name    string `json:"name"`    // what people call it; unique
	Address string `json:"address"` // host:port of its agent
	Witness bool   `json:"witness,omitempty"`

	// MySQLHost and MySQLPort are where its mysqld listens.
	MySQLHost string `json:"mysql_host,omitempty"`
	MySQLPort int    `json:"mysql_port,omitempty"`
	// ServerUUID is the data dir's server_uuid as last reported. It changes
	// when the data are replaced.
	ServerUUID string `json:"server_uuid,omitempty"`
	// ReplicationPassword belongs to ReplicationUser. One account per node,
	// so that one node can be locked out.
	ReplicationPassword string `json:"replication_password,omitempty"`

	Priority  int    `json:"priority,omitempty"` // higher is preferred
	NoPromote bool   `json:"no_promote,omitempty"`
	Zone      string `json:"zone,omitempty"`
	// Leaving: a person wants it forgotten; it leaves the ack set first.
	Leaving bool `json:"leaving,omitempty"`

	// RebuildsFailed counts copies onto this node that failed in a row; after
	// maxRebuilds of them, or when one was canceled, a person has to look.
	RebuildsFailed int `json:"rebuilds_failed,omitempty"`
	// Mended counts the copies that were made as its applier stood on an error; after
	// maxRebuilds of them, until a person asks for one, they are taken for no help.
	Mended int `json:"mended,omitempty"`
}

// Noted gives a member as its host configures it, with what the group has noted of it.
func (m Member) Noted(of Member) Member {
	m.ReplicationPassword, m.ServerUUID, m.Leaving = of.ReplicationPassword, of.ServerUUID, of.Leaving
	m.RebuildsFailed, m.Mended = of.RebuildsFailed, of.Mended
	return m
}

// ReplicationUser is the MySQL account this node replicates with.
func (m Member) ReplicationUser() string { return "ha_r_" + string(m.ID) }

// Acker is a member of the ack set. The server_uuid at entry is part of it: a
// node that lost its data is another acker.
type Acker struct {
	Node       NodeID `json:"node"`
	ServerUUID string `json:"server_uuid"`
}

// Left is a member that left the ack set. Orders with a token of Index or later
// do not tell it to acknowledge.
type Left struct {
	Node  NodeID `json:"node"`
	Index uint64 `json:"index"`
}

// IntentKind is a change of (A, k) that lowers need and is therefore done and
// proven by a barrier before it is committed (R5).
type IntentKind string

// The intents.
const (
	IntentRemove IntentKind = "remove" // Node leaves the ack set
	IntentRaise  IntentKind = "raise"  // k becomes K
)

// Intent is such a change under way. It has changed neither A nor k; the index
// of its command is the token of the orders that carry it out.
type Intent struct {
	Kind IntentKind `json:"kind"`
	Node NodeID     `json:"node,omitempty"`
	K    int        `json:"k,omitempty"`
}

// Reign is what is remembered of one epoch.
type Reign struct {
	Epoch   uint64 `json:"epoch"`
	Primary NodeID `json:"primary"`
	UUID    string `json:"server_uuid"`
	Async   bool   `json:"async,omitempty"` // k is 0, or was when it ended
	Lossy   bool   `json:"lossy,omitempty"` // it ended by an operator who allowed loss
	Why     string `json:"why,omitempty"`   // why it was ended
}

// Checkpoint is a lower bound of what a node once held. It is never a position:
// it shows lost memory and what a node that is down had.
type Checkpoint struct {
	Node NodeID   `json:"node"`
	Set  gtid.Set `json:"set"`
}

// State is what the group agrees on. Slices are sorted, so that equal states
// are equal in every byte.
type State struct {
	Cluster string `json:"cluster"` // id, random; empty: not founded
	// Version counts changes of members, policy, tuple and leases. A command
	// names the version it was decided on and is dropped if that has moved.
	Version uint64 `json:"version"`
	// AuthIndex is the Raft index of the last command that authorises orders;
	// it is the middle part of every token.
	AuthIndex uint64 `json:"auth_index"`

	Members []Member `json:"members"` // by ID
	Founder NodeID   `json:"founder"` // first data member: it alone may be the first primary
	Policy  Policy   `json:"policy"`
	// AgentPassword is the password of the agents' own local MySQL account.
	AgentPassword string `json:"agent_password"`

	// The tuple.
	Epoch       uint64   `json:"epoch"`
	Primary     NodeID   `json:"primary"`
	PrimaryUUID string   `json:"primary_uuid"`
	Ackers      []Acker  `json:"ackers"` // A, by node
	K           int      `json:"k"`      // acks enforced now; 0 is async and nothing else is
	Floor       gtid.Set `json:"floor"`  // exact executed set of the last promoted candidate
	Phase       Phase    `json:"phase"`
	PhaseIndex  uint64   `json:"phase_index"` // Raft index of the command that opened the phase

	Why     string   `json:"why,omitempty"` // why the phase was opened
	Request *Request `json:"request,omitempty"`
	// Targets are the members under which a switchover put ackers, or meant to:
	// some may be there still.
	Targets []NodeID `json:"targets,omitempty"` // sorted
	// Left are the members that left A in this reign. An order to acknowledge may
	// be on its way to one of them still.
	Left   []Left  `json:"left,omitempty"` // by node
	Intent *Intent `json:"intent,omitempty"`

	Rebuilds    []Rebuild    `json:"rebuilds,omitempty"`    // leases, by recipient
	Wishes      []Wish       `json:"wishes,omitempty"`      // rebuilds asked for, by recipient
	Rebuilt     []Rebuilt    `json:"rebuilt,omitempty"`     // how the last ones ended, by recipient
	Checkpoints []Checkpoint `json:"checkpoints,omitempty"` // by node
	History     []Reign      `json:"history,omitempty"`     // oldest first, capped
	// LossForgotten: of the reigns that are not in History any more one was async, or
	// ended with a loss.
	LossForgotten bool `json:"loss_forgotten,omitempty"`

	Events []Event `json:"events,omitempty"` // oldest first, capped
}

// Member gives the member with this id.
func (s *State) Member(id NodeID) (Member, bool) {
	i, ok := slices.BinarySearchFunc(s.Members, id, func(m Member, id NodeID) int {
		return strings.Compare(string(m.ID), string(id))
	})
	if !ok {
		return Member{}, false
	}
	return s.Members[i], true
}

// MemberByName gives the member that people call name.
func (s *State) MemberByName(name string) (Member, bool) {
	for _, m := range s.Members {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}

// Name is what people call the node, or its id if it is no member.
func (s *State) Name(id NodeID) string {
	if m, ok := s.Member(id); ok {
		return m.Name
	}
	return string(id)
}

// DataMembers are the members with a mysqld.
func (s *State) DataMembers() []Member {
	var out []Member
	for _, m := range s.Members {
		if !m.Witness {
			out = append(out, m)
		}
	}
	return out
}

// KPolicy is how many acks are wanted: the policy's number, or half of the data
// members in State (not of those alive) that are to stay.
func (s *State) KPolicy() int {
	n := 0
	for _, m := range s.DataMembers() {
		if !m.Leaving {
			n++
		}
	}
	if s.Policy.Acks >= 0 {
		return min(s.Policy.Acks, max(n-1, 0))
	}
	return n / 2
}

// Acker gives the ack set's entry of a node.
func (s *State) Acker(id NodeID) (Acker, bool) {
	for _, a := range s.Ackers {
		if a.Node == id {
			return a, true
		}
	}
	return Acker{}, false
}

// Checkpoint gives the lower bound known of a node.
func (s *State) Checkpoint(id NodeID) gtid.Set {
	for _, c := range s.Checkpoints {
		if c.Node == id {
			return c.Set
		}
	}
	return gtid.Set{}
}

// Need is how many members of A have to be sealed to be sure that nothing can
// be acknowledged any more and that every acknowledged row has been seen:
// |A| - k + 1. With k = 0 it is more than there are.
func Need(ackers []Acker, k int) int { return len(ackers) - k + 1 }

// Clone copies the state deeply enough that Apply on the copy leaves the
// original alone.
func (s State) Clone() State {
	s.Members = slices.Clone(s.Members)
	s.Ackers = slices.Clone(s.Ackers)
	s.Rebuilds = slices.Clone(s.Rebuilds)
	s.Wishes = slices.Clone(s.Wishes)
	s.Rebuilt = slices.Clone(s.Rebuilt)
	s.Checkpoints = slices.Clone(s.Checkpoints)
	s.History = slices.Clone(s.History)
	s.Targets = slices.Clone(s.Targets)
	s.Left = slices.Clone(s.Left)
	s.Events = slices.Clip(s.Events) // only ever appended to
	if s.Request != nil {
		r := *s.Request
		s.Request = &r
	}
	if s.Intent != nil {
		i := *s.Intent
		s.Intent = &i
	}
	return s
}
