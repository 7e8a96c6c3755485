package raftfsm

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

const maxHistory = 100

// Machine applies commands to a State.
type Machine struct {
	State State
}

// Result says what Apply did.
type Result struct {
	// Dropped says why the command changed nothing; empty if it did.
	Dropped string
}

// Apply changes the state by the command committed at index. It is
// deterministic: the same entries give the same state on every node. A command
// that does not fit the state changes nothing and says why.
func (m *Machine) Apply(index uint64, c Command) Result {
	s := m.State.Clone()
	if why := s.apply(index, c); why != "" {
		return Result{Dropped: why}
	}
	s.remember(index, &m.State, c)
	m.State = s
	return Result{}
}

// Snapshot gives the state's bytes.
func (m *Machine) Snapshot() ([]byte, error) { return json.Marshal(m.State) }

// Restore replaces the state by a snapshot's.
func (m *Machine) Restore(b []byte) error {
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("restore state: %w", err)
	}
	m.State = s
	return nil
}

func (s *State) apply(index uint64, c Command) string {
	switch c.Kind {
	case CmdFound:
		return s.found(c)
	case CmdMember:
		if c.On != 0 && c.On != s.Version { // 0: a node describes itself
			return fmt.Sprintf("decided on version %d, state is at %d", c.On, s.Version)
		}
		return s.putMember(c)
	case CmdCheckpoint:
		s.checkpoint(c.Checkpoints)
		return ""
	case CmdNote:
		return s.note(c)
	}
	if c.On != s.Version {
		return fmt.Sprintf("decided on version %d, state is at %d", c.On, s.Version)
	}
	var why string
	authorises := true
	switch c.Kind {
	case CmdRemoveMember:
		why = s.removeMember(c)
	case CmdPolicy:
		why, authorises = s.setPolicy(c), false
	case CmdRevoke:
		why = s.revoke(index, c)
	case CmdPromote:
		why = s.promote(index, c)
	case CmdSettle:
		why = s.settle(index, c)
	case CmdRequest:
		why = s.setRequest(index, c)
	case CmdResume:
		why = s.resume(index, c)
	case CmdIntent:
		why = s.setIntent(c)
	case CmdAcks:
		why = s.setAcks(c)
	case CmdRebuild:
		why = s.startRebuild(index, c)
	case CmdRebuildEnd:
		why = s.endRebuild(c)
	case CmdWish: // it authorises nothing: what follows from it is committed
		why, authorises = s.recordWish(index, c), false
	case CmdCancel:
		why = s.cancelRebuild(c)
	default:
		panic(fmt.Sprintf("unknown command %q: this binary is older than the cluster's", c.Kind))
	}
	if why != "" {
		return why
	}
	s.Version++
	if authorises {
		s.AuthIndex = index
	}
	return ""
}

func (s *State) found(c Command) string {
	if s.Cluster != "" {
		return "already founded"
	}
	s.Cluster, s.Policy, s.AgentPassword = c.Cluster, *c.Policy, c.AgentPassword
	s.Version++
	if c.Member != nil { // in one entry: a joiner must not come before the founder
		return s.putMember(c)
	}
	return ""
}

func (s *State) putMember(c Command) string {
	m := *c.Member
	for _, o := range s.Members {
		if o.Name == m.Name && o.ID != m.ID {
			return "name " + m.Name + " is taken by " + string(o.ID)
		}
	}
	i, ok := slices.BinarySearchFunc(s.Members, m.ID, func(m Member, id NodeID) int {
		return strings.Compare(string(m.ID), string(id))
	})
	if ok {
		if s.Members[i] == m {
			return "unchanged"
		}
		if a, in := s.Acker(m.ID); in && a.ServerUUID != m.ServerUUID {
			return "server_uuid of an acker cannot change: it has to leave the ack set first"
		}
		if s.Members[i].ServerUUID != m.ServerUUID { // other data: what the old ones held says nothing
			s.Checkpoints = slices.DeleteFunc(s.Checkpoints, func(p Checkpoint) bool { return p.Node == m.ID })
		}
		s.Members[i] = m
	} else {
		s.Members = slices.Insert(s.Members, i, m)
	}
	if s.Founder == "" && !m.Witness {
		s.Founder = m.ID
	}
	s.Version++
	return ""
}

// removeMember forgets a node that nothing rests on any more.
func (s *State) removeMember(c Command) string {
	if _, ok := s.Member(c.Node); !ok {
		return "no such member"
	}
	if c.Node == s.Primary {
		return "it is the primary"
	}
	if _, ok := s.Acker(c.Node); ok {
		return "it is in the ack set"
	}
	s.Members = slices.DeleteFunc(s.Members, func(m Member) bool { return m.ID == c.Node })
	s.forgetCopies(c.Node, c.At)
	s.Checkpoints = slices.DeleteFunc(s.Checkpoints, func(p Checkpoint) bool { return p.Node == c.Node })
	s.Targets = slices.DeleteFunc(s.Targets, func(id NodeID) bool { return id == c.Node })
	s.Left = slices.DeleteFunc(s.Left, func(l Left) bool { return l.Node == c.Node })
	return ""
}

func (s *State) setPolicy(c Command) string {
	if s.Policy == *c.Policy {
		return "unchanged"
	}
	s.Policy = *c.Policy
	return ""
}

// revoke begins to close the current epoch. A, k and floor stay: they say what
// closing takes. An intent half done is dropped, which is safe in both kinds:
// what it does lowers need, and need is not lowered before it is committed.
func (s *State) revoke(index uint64, c Command) string {
	if c.Epoch != s.Epoch {
		return fmt.Sprintf("epoch is %d", s.Epoch)
	}
	if s.Phase == PhaseRevoke {
		return "already being closed"
	}
	s.Phase, s.PhaseIndex = PhaseRevoke, index
	s.Why, s.Intent = c.Why, nil
	return ""
}

// promote is R4: one commit before any order goes out.
func (s *State) promote(index uint64, c Command) string {
	if s.Phase != PhaseRevoke {
		return "no epoch is being closed"
	}
	if c.Epoch != s.Epoch+1 {
		return fmt.Sprintf("epoch is %d", s.Epoch)
	}
	if p, ok := s.Member(c.Primary); !ok || p.Witness {
		return "the primary is no data member"
	}
	if _, ok := s.Rebuild(c.Primary); ok {
		return "the primary is being rebuilt"
	}
	if why := s.checkAcks(c.Primary, c.Ackers, c.K); why != "" {
		return why
	}
	if c.Lossy && (s.Request == nil || !s.Request.AllowLoss) {
		return "nobody has accepted a loss"
	}
	if !c.Lossy && !c.Floor.Contains(s.Floor) {
		return "the candidate lacks the floor"
	}
	if n := len(s.History); n > 0 {
		s.History[n-1].Why, s.History[n-1].Lossy = s.Why, c.Lossy
	}
	s.History = append(s.History, Reign{Epoch: c.Epoch, Primary: c.Primary, UUID: c.PrimaryUUID, Async: c.K == 0})
	if n := len(s.History) - maxHistory; n > 0 {
		s.LossForgotten = s.LossForgotten || slices.ContainsFunc(s.History[:n], func(r Reign) bool { return r.Lossy || r.Async })
		s.History = slices.Delete(s.History, 0, n)
	}
	s.Epoch, s.Primary, s.PrimaryUUID = c.Epoch, c.Primary, c.PrimaryUUID
	s.Ackers, s.K, s.Floor, s.Left = sortAckers(c.Ackers), c.K, c.Floor, nil
	for i, m := range s.Members { // a tail that was cut off, say, gave it another one
		if a, acker := s.Acker(m.ID); acker {
			s.Members[i].ServerUUID = a.ServerUUID
		}
	}
	s.Phase, s.PhaseIndex = PhasePromote, index
	s.Request = nil
	if w, ok := s.Wish(s.Primary); ok {
		s.rebuilt(Rebuilt{Recipient: s.Primary, Wish: w.Index, Err: "it became the primary", At: c.At})
	}
	return ""
}

func (s *State) settle(index uint64, c Command) string {
	if s.Phase != PhasePromote || c.Epoch != s.Epoch {
		return "nothing to settle"
	}
	s.Phase, s.PhaseIndex, s.Why = PhaseSettled, index, ""
	return ""
}

func (s *State) setIntent(c Command) string {
	if s.Phase != PhaseSettled {
		return "no settled primary"
	}
	if s.Intent != nil && c.Intent != nil {
		return "another change of the ack set is under way"
	}
	if s.Request != nil && c.Intent != nil {
		return "a " + string(s.Request.Kind) + " is under way"
	}
	s.Intent = c.Intent
	return ""
}

// setAcks changes (A, k), one step at a time (R5).
func (s *State) setAcks(c Command) string {
	if s.Phase != PhaseSettled && s.Phase != PhasePromote {
		return "no primary"
	}
	if why := s.checkAcks(s.Primary, c.Ackers, c.K); why != "" {
		return why
	}
	if why := s.checkStep(c.Ackers, c.K); why != "" {
		return why
	}
	if i := s.Intent; i != nil && i.Kind == IntentRemove && len(c.Ackers) < len(s.Ackers) {
		s.Left = append(s.Left, Left{i.Node, s.AuthIndex}) // since the intent nobody told it to acknowledge
	}
	for _, a := range c.Ackers {
		if _, was := s.Acker(a.Node); !was {
			s.change(a.Node, func(m *Member) { m.RebuildsFailed = 0 }) // it is well
		}
	}
	s.Ackers, s.K, s.Intent = sortAckers(c.Ackers), c.K, nil
	s.Left = slices.DeleteFunc(s.Left, func(l Left) bool { _, acker := s.Acker(l.Node); return acker })
	slices.SortFunc(s.Left, func(a, b Left) int { return strings.Compare(string(a.Node), string(b.Node)) })
	// The barrier before a raise from 0 proved that the ackers hold all that was
	// acknowledged without them.
	s.History[len(s.History)-1].Async = c.K == 0
	return ""
}

// checkStep is R5: what may lower need was announced by an intent, done and
// proven by a barrier; without one A only grows and k only falls.
func (s *State) checkStep(ackers []Acker, k int) string {
	lost := without(s.Ackers, "")
	for _, a := range ackers {
		lost = slices.DeleteFunc(lost, func(o Acker) bool { return o == a })
	}
	switch i := s.Intent; {
	case k > s.K && (i == nil || i.Kind != IntentRaise || k != i.K || len(lost) > 0 || len(ackers) != len(s.Ackers)):
		return "k is raised by an intent only"
	case len(lost) > 0 && (i == nil || i.Kind != IntentRemove || len(lost) > 1 || lost[0].Node != i.Node || len(ackers) != len(s.Ackers)-1 || k != s.K):
		return "an acker is removed by an intent only"
	}
	return ""
}

// checkAcks refuses an ack set that cannot be meant.
func (s *State) checkAcks(primary NodeID, ackers []Acker, k int) string {
	if k < 0 {
		return "k is negative"
	}
	if k > len(ackers) {
		return "k is larger than the ack set"
	}
	for i, a := range ackers {
		m, ok := s.Member(a.Node)
		switch {
		case slices.ContainsFunc(ackers[:i], func(o Acker) bool { return o.Node == a.Node }):
			return "acker " + m.Name + " is named twice"
		case !ok || m.Witness:
			return "acker " + string(a.Node) + " is no data member"
		case a.Node == primary:
			return "the primary cannot acknowledge itself"
		case a.ServerUUID == "":
			return "acker " + m.Name + " has no server_uuid"
		}
		if _, ok := s.Rebuild(a.Node); ok {
			return "acker " + m.Name + " is being rebuilt"
		}
	}
	return ""
}

func (s *State) checkpoint(ps []Checkpoint) {
	for _, p := range ps {
		if _, ok := s.Member(p.Node); !ok {
			continue
		}
		i, ok := slices.BinarySearchFunc(s.Checkpoints, p.Node, func(c Checkpoint, id NodeID) int {
			return strings.Compare(string(c.Node), string(id))
		})
		if ok { // a lower bound never falls: a node that lost its memory must not erase the proof
			s.Checkpoints[i].Set = s.Checkpoints[i].Set.Union(p.Set)
		} else {
			s.Checkpoints = slices.Insert(s.Checkpoints, i, p)
		}
	}
}

// sortAckers gives nil for none: a command loses the difference on its way.
func sortAckers(as []Acker) []Acker {
	if len(as) == 0 {
		return nil
	}
	as = slices.Clone(as)
	slices.SortFunc(as, func(a, b Acker) int { return strings.Compare(string(a.Node), string(b.Node)) })
	return as
}
