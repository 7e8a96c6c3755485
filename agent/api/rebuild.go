package api

import (
	"slices"
	"strings"

	"ha/raftfsm"
)

// Paths of copies.
const (
	PathRebuild       = "/v1/rebuild"        // POST AskRebuild → RebuildBegun; GET → Rebuilds
	PathRebuildCancel = "/v1/rebuild/cancel" // POST AskRebuild (Node, By) → RebuildBegun
)

// AskRebuild asks for a node's data to be copied anew. To ask twice is safe: with Seen
// of an earlier answer the second one finds the first.
type AskRebuild struct {
	Node string `json:"node"` // name or id of the recipient
	// From is the donor's name or id; empty: the best one.
	From string `json:"from,omitempty"`
	raftfsm.Copying
	By     string `json:"by,omitempty"` // who asks, for people
	DryRun bool   `json:"dry_run,omitempty"`
	Seen   uint64 `json:"seen,omitempty"`
}

// RebuildBegun answers it.
type RebuildBegun struct {
	// Index is that of the command that recorded it; 0: nothing was recorded.
	Index uint64 `json:"index"`
	// Already: there is nothing to do; Text says why.
	Already bool           `json:"already,omitempty"`
	Text    string         `json:"text,omitempty"`
	Node    raftfsm.NodeID `json:"node"`
	Name    string         `json:"name"`
	// Donor is who would be copied from now.
	Donor string `json:"donor,omitempty"`
	// Choice says of each member why it is the donor, could be, or not; Plan what
	// is done, step by step.
	Choice []string `json:"choice"`
	Plan   []string `json:"plan"`
	Seen   uint64   `json:"seen"` // index of the last event
}

// Engines are what can make a copy, the first to be taken first.
func Engines() []string {
	var names []string
	for _, e := range raftfsm.Engines {
		names = append(names, string(e))
	}
	return names
}

// Engine finds one by its name.
func Engine(name string) (raftfsm.Engine, error) {
	if e := raftfsm.Engine(name); slices.Contains(raftfsm.Engines, e) {
		return e, nil
	}
	return "", Usage("--engine: there is no engine %q", name).WithHint("Engines: %s.", strings.Join(Engines(), ", "))
}

// Phases of a rebuild that its recipient reports.
const (
	PhasePreparing = "prepare"
	PhaseCopying   = raftfsm.CopyRunning
	PhaseVerifying = "verify"
	PhaseReady     = raftfsm.CopyReady
	PhaseSwapping  = "swap"
	PhaseStarting  = "start"
)

// Phases that it does not report itself.
const (
	PhaseWaiting   = "waiting"   // Doing says for what: to leave the ack set, for a donor
	PhaseFollowing = "following" // the copy is in place and catches up
	PhaseDone      = "done"
)

// Rebuilds are the copies that are asked for, made, or were made last of each node.
type Rebuilds struct {
	Rebuilds []RebuildStatus `json:"rebuilds"`
	Source   string          `json:"source"`     // name of the agent that answered
	LastSeen uint64          `json:"last_event"` // index of the last event that it knows of
}

// RebuildStatus is one of them.
type RebuildStatus struct {
	Node  raftfsm.NodeID `json:"node"`
	Name  string         `json:"name"`
	Donor string         `json:"donor,omitempty"` // empty: none is chosen yet
	raftfsm.Copying
	By string `json:"by,omitempty"` // empty: nobody asked for it
	// Wish is the index of the command by which it was asked for; 0: nobody did.
	Wish uint64 `json:"wish,omitempty"`
	Why  string `json:"why,omitempty"`
	// Phase is waiting, prepare, copy, verify, ready, swap, start, following or done.
	Phase string `json:"phase"`
	Doing string `json:"doing,omitempty"` // what is waited for
	Bytes int64  `json:"bytes"`
	Total int64  `json:"total"`                // an estimate; 0: not known yet
	Rate  int64  `json:"rate"`                 // bytes per second
	ETA   int64  `json:"eta_ms"`               // of the copying; -1: not known
	Tries int    `json:"failed"`               // copies that failed so far
	Last  string `json:"last_error,omitempty"` // why the last one did

	// Done: it has ended, in one of these ways.
	Done     bool   `json:"done"`
	OK       bool   `json:"ok"`
	Holds    string `json:"holds,omitempty"` // what the node has, where it did not end well
	Canceled bool   `json:"canceled,omitempty"`
	Err      string `json:"err,omitempty"`
	TookMS   int64  `json:"took_ms,omitempty"` // from the lease to the end of the copy
}
