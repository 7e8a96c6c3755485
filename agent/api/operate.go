package api

import (
	"time"

	"ha/raftfsm"
)

// Paths of what people do with a cluster. Any agent answers: it passes on to the
// coordinator what only that can do.
const (
	PathSwitchover = "/v1/switchover" // POST Ask → Begun
	PathFailover   = "/v1/failover"   // POST Ask → Begun
	PathRemove     = "/v1/remove"     // POST Ask → Begun
	// GET ?index=N[&target=ID | &removed=ID] → Outcome: what became of what was
	// begun. Also an agent without a coordinator answers, from its own copy.
	PathRequest = "/v1/request"
	PathPolicy  = "/v1/policy" // GET → Policy; POST SetPolicy → Policy
	PathEvents  = "/v1/events" // GET ?n=N → Events, the last N, oldest first
)

// Ask asks for a switchover, a failover or the removal of a node. To ask twice is
// safe: with Seen and Target of an earlier answer the second one finds the first.
type Ask struct {
	// Node is a name or an id: the wanted primary (empty: the best one), or the
	// node to be removed.
	Node string `json:"node,omitempty"`
	// DryRun changes nothing: what would be done is answered.
	DryRun bool `json:"dry_run,omitempty"`
	// Seen is the index of the last event that the asker has seen; 0: none. The
	// same request, recorded after it, is this one.
	Seen uint64 `json:"seen,omitempty"`

	EndBlockers bool `json:"end_blockers,omitempty"` // switchover
	// Timeout is how long a switchover may be prepared.
	Timeout   time.Duration `json:"timeout,omitempty"`
	AllowLoss bool          `json:"allow_loss,omitempty"` // failover
	// Gone says that the host of a node to be removed is gone for good: nobody
	// asks its agent whether its server acknowledges.
	Gone bool `json:"gone,omitempty"`
}

// Begun answers it: it was recorded, it was so already, or (dry run) what would
// be done.
type Begun struct {
	// Index is that of the command that recorded it; 0: nothing was recorded.
	Index uint64 `json:"index"`
	// Already: there is nothing to do; Text says why.
	Already bool           `json:"already,omitempty"`
	Text    string         `json:"text,omitempty"`
	Target  raftfsm.NodeID `json:"target,omitempty"`  // empty: whoever is best then
	Name    string         `json:"name,omitempty"`    // of the target
	Primary string         `json:"primary,omitempty"` // name of the present one
	Epoch   uint64         `json:"epoch"`             // the present one
	// Plan says in words what is done, step by step.
	Plan []string `json:"plan"`
	// Loss says which acknowledged rows may be lost; empty: none.
	Loss string `json:"loss,omitempty"`
	Seen uint64 `json:"seen"` // index of the last event
}

// Outcome says what became of something that was begun.
type Outcome struct {
	Done bool   `json:"done"`
	OK   bool   `json:"ok"`
	Text string `json:"text"` // once it is done
	// Doing is what the coordinator is doing or waits for.
	Doing string `json:"doing,omitempty"`
	// Exit, Code and Next are the exit code, the code word and what to do where
	// it is done and not well.
	Exit int    `json:"exit,omitempty"`
	Code string `json:"code,omitempty"`
	Next string `json:"next,omitempty"`

	Primary string `json:"primary,omitempty"` // name
	Epoch   uint64 `json:"epoch,omitempty"`
	TookMS  int64  `json:"took_ms,omitempty"` // from the request to the settled primary
	// Events are what happened since it was recorded.
	Events []raftfsm.Event `json:"events"`
}

// Setting is one setting of the policy.
type Setting struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	Default string `json:"default"`
}

// Policy is what operators may set.
type Policy struct {
	Settings []Setting `json:"settings"`
	// Changed are the settings that a SetPolicy changed.
	Changed []Change `json:"changed,omitempty"`
}

// Change is a setting that was changed.
type Change struct {
	Name string `json:"name"`
	From string `json:"from"`
	To   string `json:"to"`
}

// SetPolicy changes settings, each as name=value. All or none is changed.
type SetPolicy struct {
	Set []string `json:"set"`
}

// Events are the last things that happened to the cluster, oldest first.
type Events struct {
	Events []raftfsm.Event `json:"events"`
	Source string          `json:"source"` // name of the agent that answered
}
