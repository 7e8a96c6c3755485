package raftfsm

import (
	"slices"
)

// RaftServer is one server of the Raft configuration.
type RaftServer struct {
	ID    NodeID
	Voter bool
}

// VoterChange is one step towards the wanted Raft configuration.
type VoterChange struct {
	Kind VoterKind
	Node NodeID
}

// VoterKind names it.
type VoterKind string

// The kinds of changes. New servers enter as non-voters.
const (
	VoterAdd     VoterKind = "add"     // a member that is no server: as non-voter
	VoterPromote VoterKind = "promote" // a caught-up non-voter becomes a voter
	VoterDemote  VoterKind = "demote"  // a voter that was replaced becomes a non-voter
	VoterRemove  VoterKind = "remove"  // a server that is no member
)

// DecideVoters says which one change of the Raft configuration to make: every
// member is a server, the voters are odd in number at rest and at most
// max_voters, a voter dead for forget_after is replaced first and demoted after.
func DecideVoters(s State, v View, servers []RaftServer, lastIndex uint64) (VoterChange, bool) {
	// First those that are forgotten: a node that came back under a new id has
	// the address of its old one, and Raft takes no address twice.
	for _, r := range servers {
		if _, member := s.Member(r.ID); !member && r.ID != v.Self {
			return VoterChange{VoterRemove, r.ID}, true
		}
	}
	for _, m := range s.Members {
		if !slices.ContainsFunc(servers, func(r RaftServer) bool { return r.ID == m.ID }) {
			return VoterChange{VoterAdd, m.ID}, true
		}
	}
	var voters, ready, dead []NodeID
	for _, r := range servers {
		n := v.Node(r.ID)
		live := n.Report != nil && n.Age <= s.Policy.DeadAfter
		switch {
		case r.Voter:
			voters = append(voters, r.ID)
			if !live && n.Age > s.Policy.ForgetAfter && r.ID != v.Self {
				dead = append(dead, r.ID)
			}
		case live && n.Report.LastIndex+handoverBehind >= lastIndex:
			ready = append(ready, r.ID)
		}
	}
	want := min(s.Policy.MaxVoters, len(voters)+len(ready))
	if want%2 == 0 {
		want--
	}
	switch {
	case len(ready) > 0 && (len(voters) < want || len(dead) > 0 && len(voters)%2 == 1):
		return VoterChange{VoterPromote, ready[0]}, true
	case len(dead) > 0 && len(voters)%2 == 0 && len(voters) > 3:
		return VoterChange{VoterDemote, dead[0]}, true
	case len(voters)%2 == 0 && len(voters) > 3, len(voters) > max(want, 1) && len(voters) > s.Policy.MaxVoters:
		for _, id := range slices.Backward(voters) {
			if id != v.Self {
				return VoterChange{VoterDemote, id}, true
			}
		}
	}
	return VoterChange{}, false
}
