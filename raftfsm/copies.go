package raftfsm

import (
	"fmt"
	"slices"
	"strings"
)

// Engine names what makes a physical copy.
type Engine string

// EngineClone is MySQL's own CLONE: the recipient's server fetches the data from the
// donor's. With the others a tool beside the donor's server reads them, and the agents
// stream what it writes.
const (
	EngineClone         Engine = "clone"
	EngineXtraBackup    Engine = "xtrabackup"
	EngineMariaDBBackup Engine = "mariadb-backup"
)

// Engines are all of them, the first to be taken first.
var Engines = []Engine{EngineClone, EngineXtraBackup, EngineMariaDBBackup}

// Streams says that agents stream what a tool reads.
func (e Engine) Streams() bool { return e != "" && e != EngineClone }

// EngineReport says whether a host can copy with a tool.
type EngineReport struct {
	Engine Engine `json:"engine"`
	No     string `json:"no,omitempty"` // why not; empty: it can
}

// Copying is how a copy is made.
type Copying struct {
	// Engine; empty in a lease: clone, in a question: the first that goes.
	Engine Engine `json:"engine,omitempty"`
	// Throttle bounds the copy, in bytes per second; 0: it is not bounded.
	Throttle int64 `json:"throttle,omitempty"`
	// InPlace removes the old data before the copy is made, for a disk that has
	// no room for both.
	InPlace bool `json:"in_place,omitempty"`
}

// Wish is a rebuild that a person has asked for and that is not done yet. It
// lasts over the copies that fail, and is no lease: its recipient may be in the
// ack set still, which it leaves first.
type Wish struct {
	Recipient NodeID `json:"recipient"`
	// From is the wanted donor; empty: the best one.
	From NodeID `json:"from,omitempty"`
	Copying
	By    string `json:"by,omitempty"` // who asked, for people
	Index uint64 `json:"index"`        // of the command that recorded it
	// Failed is the donor of the last copy that failed: another one is preferred.
	Failed NodeID `json:"failed,omitempty"`
}

// Rebuild is a lease on copying the data of Donor to Recipient. It lasts until
// the recipient has said how it ended, is silent, or a person cancels it.
type Rebuild struct {
	Recipient NodeID `json:"recipient"`
	Donor     NodeID `json:"donor"`
	Index     uint64 `json:"index"` // of the command that granted it
	Why       string `json:"why,omitempty"`
	// Wish is the index of the wish that it fulfils; 0: no person asked.
	Wish uint64 `json:"wish,omitempty"`
	// Broken: it is made as the applier stands on an error.
	Broken bool `json:"broken,omitempty"`
	Copying
	At int64 `json:"at,omitempty"` // when it was granted, as Command.At
}

// Rebuilt is how the last rebuild of a member ended.
type Rebuilt struct {
	Recipient NodeID `json:"recipient"`
	Donor     NodeID `json:"donor,omitempty"` // empty: none was chosen
	Index     uint64 `json:"index,omitempty"` // of the lease; 0: none was granted
	Wish      uint64 `json:"wish,omitempty"`
	OK        bool   `json:"ok,omitempty"`
	Canceled  bool   `json:"canceled,omitempty"`
	InPlace   bool   `json:"in_place,omitempty"` // the old data went first, if it came to that
	Err       string `json:"err,omitempty"`
	From      int64  `json:"from,omitempty"` // when the lease was granted
	At        int64  `json:"at,omitempty"`   // when it ended
}

// Rebuild gives the lease under which a node is being copied anew.
func (s *State) Rebuild(recipient NodeID) (Rebuild, bool) {
	for _, r := range s.Rebuilds {
		if r.Recipient == recipient {
			return r, true
		}
	}
	return Rebuild{}, false
}

// Wish gives what a person has asked for.
func (s *State) Wish(recipient NodeID) (Wish, bool) {
	for _, w := range s.Wishes {
		if w.Recipient == recipient {
			return w, true
		}
	}
	return Wish{}, false
}

// busyCopying says that the node is the donor or the recipient of a copy.
func (s *State) busyCopying(id NodeID) bool {
	return slices.ContainsFunc(s.Rebuilds, func(r Rebuild) bool { return r.Donor == id || r.Recipient == id })
}

// --- commands.

// recordWish notes what a person asks for, who has looked at what failed before.
func (s *State) recordWish(index uint64, c Command) string {
	w := *c.Wish
	m, ok := s.Member(w.Recipient)
	donor, known := s.Member(w.From)
	_, wished := s.Wish(w.Recipient)
	_, leased := s.Rebuild(w.Recipient)
	switch {
	case !ok || m.Witness:
		return "the recipient is no data member"
	case w.Recipient == s.Primary:
		return "the recipient is the primary"
	case w.From != "" && (!known || donor.Witness || w.From == w.Recipient):
		return "the donor is no other data member"
	case wished || leased:
		return "it is being rebuilt already"
	}
	w.Index = index
	s.Wishes = append(s.Wishes, w)
	slices.SortFunc(s.Wishes, func(a, b Wish) int { return strings.Compare(string(a.Recipient), string(b.Recipient)) })
	s.change(w.Recipient, func(m *Member) { m.RebuildsFailed, m.Mended = 0, 0 })
	return ""
}

// cancelRebuild ends a wish and its lease. Nobody begins anew before a person
// asks, or the node is well again.
func (s *State) cancelRebuild(c Command) string {
	w, wished := s.Wish(c.Node)
	r, leased := s.Rebuild(c.Node)
	if !wished && !leased {
		return "no such rebuild"
	}
	if leased {
		s.dropRebuild(c.Node)
	}
	s.rebuilt(Rebuilt{Recipient: c.Node, Donor: r.Donor, Index: r.Index, Wish: max(w.Index, r.Wish), Canceled: true, InPlace: r.InPlace, Err: c.Why, From: r.At, At: c.At})
	s.change(c.Node, func(m *Member) { m.RebuildsFailed = maxRebuilds })
	return ""
}

func (s *State) startRebuild(index uint64, c Command) string {
	r := *c.Rebuild
	if s.Phase != PhaseSettled {
		return "no settled primary"
	}
	m, ok := s.Member(r.Recipient)
	if !ok || m.Witness {
		return "the recipient is no data member"
	}
	if d, ok := s.Member(r.Donor); !ok || d.Witness || r.Donor == r.Recipient {
		return "the donor is no other data member"
	}
	if r.Recipient == s.Primary {
		return "the recipient is the primary"
	}
	if _, ok := s.Acker(r.Recipient); ok {
		return "the recipient is in the ack set"
	}
	if s.busyCopying(r.Recipient) || s.busyCopying(r.Donor) {
		return "another rebuild holds the recipient or the donor"
	}
	if w, _ := s.Wish(r.Recipient); w.Index != r.Wish {
		return "a person has asked for another rebuild of the recipient"
	}
	r.Index, r.At = index, c.At
	s.Rebuilds = append(s.Rebuilds, r)
	slices.SortFunc(s.Rebuilds, func(a, b Rebuild) int { return strings.Compare(string(a.Recipient), string(b.Recipient)) })
	return ""
}

// endRebuild ends a lease, or a wish that cannot be fulfilled. A wish outlives copies
// that fail, but not too many.
func (s *State) endRebuild(c Command) string {
	r, ok := s.Rebuild(c.Node)
	w, wished := s.Wish(c.Node)
	switch {
	case !ok && wished && c.Why != "":
		s.rebuilt(Rebuilt{Recipient: w.Recipient, Donor: w.From, Wish: w.Index, Err: c.Why, At: c.At})
		return ""
	case !ok:
		return "no such rebuild"
	}
	s.dropRebuild(c.Node)
	m, _ := s.Member(c.Node)
	failed := m.RebuildsFailed + 1
	if c.Why == "" {
		failed = 0
	}
	s.change(c.Node, func(m *Member) {
		m.RebuildsFailed = failed
		if r.Broken && failed == 0 {
			m.Mended++
		}
	})
	if failed > 0 && failed < maxRebuilds && r.Wish != 0 {
		for i := range s.Wishes {
			if s.Wishes[i].Recipient == c.Node {
				s.Wishes[i].Failed = r.Donor
			}
		}
		return ""
	}
	s.rebuilt(Rebuilt{Recipient: c.Node, Donor: r.Donor, Index: r.Index, Wish: r.Wish, OK: c.Why == "", InPlace: r.InPlace, Err: c.Why, From: r.At, At: c.At})
	return ""
}

// dropRebuild takes a lease away. What the recipient held is not what it holds now.
func (s *State) dropRebuild(id NodeID) {
	s.Rebuilds = slices.DeleteFunc(s.Rebuilds, func(r Rebuild) bool { return r.Recipient == id })
	s.Checkpoints = slices.DeleteFunc(s.Checkpoints, func(p Checkpoint) bool { return p.Node == id })
}

// rebuilt notes how it ended, which fulfils the wish or gives it up.
func (s *State) rebuilt(r Rebuilt) {
	s.Wishes = slices.DeleteFunc(s.Wishes, func(w Wish) bool { return w.Recipient == r.Recipient })
	s.Rebuilt = slices.DeleteFunc(s.Rebuilt, func(o Rebuilt) bool { return o.Recipient == r.Recipient })
	s.Rebuilt = append(s.Rebuilt, r)
	slices.SortFunc(s.Rebuilt, func(a, b Rebuilt) int { return strings.Compare(string(a.Recipient), string(b.Recipient)) })
}

func (s *State) change(id NodeID, do func(m *Member)) {
	for i := range s.Members {
		if s.Members[i].ID == id {
			do(&s.Members[i])
		}
	}
}

// forgetCopies drops what concerns a member that is forgotten.
func (s *State) forgetCopies(id NodeID, at int64) {
	for _, w := range slices.Clone(s.Wishes) {
		if w.From == id && w.Recipient != id {
			s.rebuilt(Rebuilt{Recipient: w.Recipient, Donor: id, Wish: w.Index, Err: "the wanted donor was forgotten", At: at})
		}
	}
	s.Rebuilds = slices.DeleteFunc(s.Rebuilds, func(r Rebuild) bool { return r.Recipient == id || r.Donor == id })
	s.Wishes = slices.DeleteFunc(s.Wishes, func(w Wish) bool { return w.Recipient == id })
	s.Rebuilt = slices.DeleteFunc(s.Rebuilt, func(r Rebuilt) bool { return r.Recipient == id })
}

func (s *State) copyEvent(c Command, because string) string {
	switch c.Kind {
	case CmdWish:
		text := "rebuild of " + s.Name(c.Wish.Recipient) + " asked for"
		if c.Wish.From != "" {
			text += " from " + s.Name(c.Wish.From)
		}
		if c.Wish.By != "" {
			text += " by " + c.Wish.By
		}
		return text
	case CmdCancel:
		return "rebuild of " + s.Name(c.Node) + " canceled" + because
	case CmdRebuild:
		text := fmt.Sprintf("rebuilding %s from %s", s.Name(c.Rebuild.Recipient), s.Name(c.Rebuild.Donor))
		if c.Rebuild.Wish == 0 { // else that was an event of its own
			text += ": " + c.Rebuild.Why
		}
		return text
	}
	switch {
	case c.Why == "":
		return s.Name(c.Node) + " was rebuilt"
	}
	return "rebuild of " + s.Name(c.Node) + " failed" + because
}
