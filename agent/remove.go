package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ha/agent/api"
	"ha/raftfsm"
)

// A person removes a node in two steps: it is marked as leaving, and forgotten
// once nothing rests on it. Its agent, if it runs, stays up beside its read-only
// mysqld and does not join again by itself: for that its data dir is emptied
// and it is started with --join, as a new node.

// remove marks a node as leaving. For a host that is gone for good it is asked
// again until the node is forgotten.
func (c *coordinator) remove(ctx context.Context, in api.Ask) (api.Begun, error) {
	var b api.Begun
	index, err := c.record(ctx, func(s *raftfsm.State, v *raftfsm.View) (*raftfsm.Command, raftfsm.Refusal, error) {
		b = api.Begun{Primary: s.Name(s.Primary), Epoch: s.Epoch, Seen: lastEvent(s), Plan: []string{}}
		m, err := findNode(s, in.Node)
		if err != nil {
			if wasForgotten(s, in.Node) {
				b.Already, b.Text = true, in.Node+" was forgotten already"
				err = nil
			}
			return nil, raftfsm.Refusal{}, err
		}
		b.Target, b.Name = m.ID, m.Name
		_, acker := s.Acker(m.ID)
		silent := v.Node(m.ID).Report == nil || v.Node(m.ID).Age > s.Policy.DeadAfter
		switch {
		case m.Leaving && in.Gone && silent && !acker && !m.Witness:
			if err := c.stillSeen(s, v, m); err != nil {
				return nil, raftfsm.Refusal{}, err
			}
			return &raftfsm.Command{Kind: raftfsm.CmdRemoveMember, Node: m.ID, Why: "its host is gone for good"}, raftfsm.Refusal{}, nil
		case m.Leaving:
			b.Index, b.Text = lastEvent(s), m.Name+" is leaving already"
			return nil, raftfsm.Refusal{}, nil
		}
		if no, err := c.needed(s, v, m, silent && !in.Gone); no.Code != "" || err != nil {
			return nil, no, err
		}
		if in.DryRun {
			return nil, raftfsm.Refusal{}, nil
		}
		m.Leaving = true
		return &raftfsm.Command{Kind: raftfsm.CmdMember, Member: &m}, raftfsm.Refusal{}, nil
	})
	if index != 0 {
		b.Index = index
	}
	if err == nil && b.Index != 0 && b.Target == c.self {
		c.standAside(ctx) // who coordinates cannot be taken out of the Raft group
	}
	return b, err
}

// needed says why a node cannot be removed.
func (c *coordinator) needed(s *raftfsm.State, v *raftfsm.View, m raftfsm.Member, silent bool) (raftfsm.Refusal, error) {
	needed := func(format string, args ...any) (raftfsm.Refusal, error) {
		return raftfsm.Refusal{Code: raftfsm.CodeNeeded, Text: fmt.Sprintf(format, args...)}, nil
	}
	switch {
	case len(s.DataMembers()) == 1 && !m.Witness:
		return needed("%s is the last node with a mysqld", m.Name)
	case m.ID == s.Primary:
		return raftfsm.Refusal{}, api.Refused(raftfsm.CodeIsPrimary, "%s is the primary", m.Name).
			WithHint("make another one the primary first: ha switchover, then ha remove %s", m.Name)
	case silent && !m.Witness && v.Leading <= s.Policy.DeadAfter:
		return raftfsm.Refusal{Code: raftfsm.CodeSilent, Text: "nothing is known of " + m.Name + " yet"}, nil
	case silent && !m.Witness:
		return raftfsm.Refusal{}, api.Refused(raftfsm.CodeSilent, "%s does not answer: nobody knows whether its mysqld runs and acknowledges", m.Name).
			WithHint("start its agent and remove it then; if its host is gone for good: ha remove %s --gone", m.Name)
	}
	// Raft changes its members by a majority of those that remain.
	var voters, up []string
	for _, r := range c.servers() {
		if _, member := s.Member(r.ID); !member {
			return raftfsm.Refusal{Code: raftfsm.CodeInProgress, Text: "another node is being taken out of the Raft group"}, nil
		}
		if !r.Voter || r.ID == m.ID {
			continue
		}
		voters = append(voters, s.Name(r.ID))
		if n := v.Node(r.ID); r.ID == c.self || n.Report != nil && n.Age <= s.Policy.DeadAfter {
			up = append(up, s.Name(r.ID))
		}
	}
	if 2*len(up) <= len(voters) {
		slices.Sort(voters)
		return needed("without %s only %d of the remaining %d voting agents (%s) would answer: nothing could be decided any more; start the others, or remove those first",
			m.Name, len(up), len(voters), strings.Join(voters, ", "))
	}
	after := s.Clone()
	for i := range after.Members {
		after.Members[i].Leaving = after.Members[i].Leaving || after.Members[i].ID == m.ID
	}
	attached := 0
	for _, a := range s.Ackers {
		if a.Node != m.ID && raftfsm.IsAttached(s, v, a) {
			attached++
		}
	}
	if _, acker := s.Acker(m.ID); acker && attached < min(s.K, after.KPolicy()) {
		return needed("commits wait for acknowledgements of %s: nobody else gives them now", m.Name)
	}
	return raftfsm.Refusal{}, nil
}

// stillSeen says that the mysqld of a node that is said to be gone was seen.
func (c *coordinator) stillSeen(s *raftfsm.State, v *raftfsm.View, m raftfsm.Member) error {
	for _, o := range s.DataMembers() {
		r := v.Node(o.ID).Report
		if m.ServerUUID != "" && r != nil && v.Node(o.ID).Age <= s.Policy.DeadAfter && slices.Contains(r.Dumps, m.ServerUUID) {
			return api.Refused(raftfsm.CodeNeeded, "mysqld of %s is not gone: it replicates from %s", m.Name, o.Name).
				WithHint("stop it, or start its agent and remove %s without --gone", m.Name)
		}
	}
	return nil
}

// wasForgotten says that the last that happened to a node of that name was that
// it was forgotten.
func wasForgotten(s *raftfsm.State, name string) bool {
	for _, e := range slices.Backward(s.Events) {
		switch {
		case e.Kind == raftfsm.CmdRemoveMember && strings.HasPrefix(e.Text+":", name+" was forgotten:"):
			return true
		case e.Kind == raftfsm.CmdMember && e.Text == name+" joined":
			return false
		}
	}
	return false
}

// standAside hands coordination over as this node leaves.
func (c *coordinator) standAside(ctx context.Context) {
	s, v, leading := c.look()
	if !leading {
		return
	}
	for _, n := range v.Nodes {
		m, _ := s.Member(n.ID)
		if n.ID != c.self && n.Voter && !m.Leaving && n.Report != nil && n.Age <= s.Policy.DeadAfter {
			c.handover(ctx, s, n.ID, "this node leaves the cluster")
			return
		}
	}
}

// codeRemoved is the word for a node that was removed while its agent lives.
const codeRemoved = "HA-REMOVED"

// removedHint says how such a node comes back.
const removedHint = "to make it a new node: stop its agent and its mysqld, empty its data_dir, and start the agent with --join"

// refuseRemoved answers a node that believes to be a member and is none.
func refuseRemoved(name string) api.JoinReply {
	return api.JoinReply{Refused: true, Code: codeRemoved, Err: name + " was removed from the cluster"}
}

// isRemoved says that this node was removed from its cluster: the coordinator
// said so, or its own copy of the state, in which it was a member, does.
func (a *Agent) isRemoved() bool { return a.removed.Load() }

// watchRemoval notices that this node is forgotten.
func (a *Agent) watchRemoval(ctx context.Context) {
	was := false
	for {
		s, changed := a.fsm.Watch()
		if _, member := s.Member(a.id); member {
			was = true
		} else if was && s.Cluster != "" {
			a.noteRemoved()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

func (a *Agent) noteRemoved() {
	if !a.removed.Swap(true) {
		a.log.Warn("this node was removed from the cluster: its mysqld stays read-only", "code", codeRemoved, "next", removedHint)
	}
}

// isRemovedError says that a join was refused for that.
func isRemovedError(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Word == codeRemoved
}

// removedIssue is shown by the agent of a removed node.
func (a *Agent) removedIssue(st api.Status) api.Status {
	if a.isRemoved() {
		st.Issues = slices.Insert(st.Issues, 0, api.Issue{Code: codeRemoved, Severity: api.Warning, Node: a.cfg.Name,
			Text: a.cfg.Name + ", whose agent answers, was removed from this cluster: its mysqld stays read-only", Next: removedHint})
	}
	return st
}
