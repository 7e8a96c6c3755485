package raftfsm

import (
	"fmt"
	"slices"
	"strings"
)

const maxEvents = 300

// Event is something that happened to the cluster, for people: `ha events`.
type Event struct {
	Index uint64 `json:"index"` // of the command
	At    int64  `json:"at"`    // the coordinator's wall clock, milliseconds since 1970
	Epoch uint64 `json:"epoch"` // after it
	Kind  Kind   `json:"kind"`
	Text  string `json:"text"`
}

// remember adds the event that a command was, if it is one that people want to
// know of.
func (s *State) remember(index uint64, before *State, c Command) {
	text := s.tell(before, c)
	if text == "" {
		return
	}
	s.Events = append(s.Events, Event{Index: index, At: c.At, Epoch: s.Epoch, Kind: c.Kind, Text: text})
	if n := len(s.Events) - maxEvents; n > 0 {
		s.Events = slices.Clone(s.Events[n:])
	}
}

func (s *State) tell(before *State, c Command) string {
	because := ""
	if c.Why != "" {
		because = ": " + c.Why
	}
	switch c.Kind {
	case CmdFound:
		return "cluster " + s.Cluster + " founded"
	case CmdMember:
		old, known := before.Member(c.Member.ID)
		switch {
		case !known:
			return c.Member.Name + " joined"
		case c.Member.Leaving && !old.Leaving:
			return c.Member.Name + " is to leave"
		}
		return "" // what it says of itself
	case CmdRemoveMember:
		return before.Name(c.Node) + " was forgotten" + because
	case CmdPolicy:
		return "policy: " + strings.Join(policyChanges(before.Policy, s.Policy), ", ")
	case CmdRevoke:
		return fmt.Sprintf("closing epoch %d%s", s.Epoch, because)
	case CmdPromote:
		text := fmt.Sprintf("promoting %s for epoch %d, %s", s.Name(s.Primary), s.Epoch, s.acksText())
		if c.Lossy {
			text += "; the epoch before it was not closed: acknowledged rows may be lost"
		}
		return text
	case CmdSettle:
		return fmt.Sprintf("%s is the primary of epoch %d", s.Name(s.Primary), s.Epoch)
	case CmdRequest:
		if c.Request == nil {
			return string(before.Request.Kind) + " given up" + because
		}
		text := string(c.Request.Kind) + " asked for"
		if c.Request.Target != "" {
			text += " to " + s.Name(c.Request.Target)
		}
		if c.Request.AllowLoss {
			text += ", a loss of rows accepted"
		}
		return text
	case CmdResume:
		return "switchover given up, " + s.Name(s.Primary) + " goes on" + because
	case CmdAcks:
		return s.acksText() + because
	case CmdRebuild, CmdRebuildEnd, CmdWish, CmdCancel:
		return s.copyEvent(c, because)
	case CmdNote:
		return s.noteText(c)
	}
	return ""
}

// note adds nothing but an event, and once: who did not hear that it was taken says
// it again.
func (s *State) note(c Command) string {
	if _, ok := s.Member(c.Node); !ok {
		return "no such member"
	}
	if n := len(s.Events); n > 0 && s.Events[n-1].Kind == CmdNote && s.Events[n-1].Text == s.noteText(c) {
		return "unchanged"
	}
	return ""
}

func (s *State) noteText(c Command) string { return s.Name(c.Node) + ": " + c.Why }

// acksText says who acknowledges.
func (s *State) acksText() string {
	if s.K == 0 {
		return "no acknowledgements (async)"
	}
	var ids []NodeID
	for _, a := range s.Ackers {
		ids = append(ids, a.Node)
	}
	return plural(s.K) + " acknowledgement of " + names(s, ids)
}

func policyChanges(a, b Policy) []string {
	var out []string
	for _, f := range PolicyFields {
		if x, y := f.Get(&a), f.Get(&b); x != y {
			out = append(out, f.Name+"="+y)
		}
	}
	return out
}
