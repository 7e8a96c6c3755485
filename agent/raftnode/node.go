// Package raftnode runs one member of the Raft group: hashicorp/raft with its store, its transport over
// the agent's port and the watchdogs that it lacks. It decides nothing: who is added, promoted or
// removed is the caller's affair.
package raftnode

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

var (
	// ErrNotLeader says that this node does not lead: nothing was written. See [Node.Leader].
	ErrNotLeader = errors.New("not the Raft leader")
	// ErrOutcomeUnknown says that the group may or may not take the command in the end: leadership was
	// lost or is being handed over, or the time was up. Look at the state before trying again.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrLocked says that another process has the store open.
	ErrLocked = errors.New("the Raft store is in use by another process")
	// ErrTorn says that parts of the Raft directory are missing.
	ErrTorn = errors.New("the Raft directory is incomplete")
)

// Timing holds Raft's clocks. A zero field takes the default.
type Timing struct {
	Heartbeat time.Duration // a follower that hears nothing for 1–2 times this stands for election; 300 ms
	Election  time.Duration // a candidate that did not win tries again after 1–2 times this; 300 ms, ≥ Heartbeat
	Lease     time.Duration // a leader that reaches no majority for this long steps down; 200 ms, ≤ Heartbeat
	Commit    time.Duration // followers learn of a commit within 1–2 times this; 10 ms
	DiskCheck time.Duration // a leader probes its disk this often; 1 s
	DiskBound time.Duration // a probe that takes longer is fatal; 2 s
}

// Config is what [Open] needs. All fields are required unless they say otherwise.
type Config struct {
	// Dir holds raft.db and the snapshots, with the node id beside them ([LoadOrCreateID]).
	Dir string
	// ID is the node id from Dir.
	ID string
	// Addr is the host:port by which peers reach this node.
	Addr string
	// FSM is the replicated state. [Open] may call Apply, Snapshot and Restore on it.
	FSM raft.FSM
	// Listener brings the connections that peers open; closed by [Node.Shutdown].
	Listener net.Listener
	// Dial opens a connection to a peer (host:port).
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Resolve gives the present address of a node; where it knows none, or is nil, the address in the
	// group's configuration is used.
	Resolve func(id string) (addr string, ok bool)
	// Fatal is called, at most once and on a goroutine of its own, when this process must end because
	// its node would block the group: its disk hangs while it leads, or Raft is stuck. May be nil.
	Fatal func(reason string)
	// Logger receives what Raft says. May be nil: nothing is logged.
	Logger *slog.Logger
	// Timing changes Raft's clocks; the zero value is right.
	Timing Timing
	// ProbeDisk writes to the disk of Dir and returns when it is down there. Nil is right but for
	// tests: write and fdatasync a scratch file.
	ProbeDisk func() error
}

// Server is a member of the group.
type Server struct {
	ID, Addr string
	Voter    bool
}

// Node is a running member. Its methods may be used from any goroutine.
type Node struct{}

// Open starts the node on what its directory holds. It never bootstraps: with an empty directory the
// node waits until a leader adds it. When Open returns, the FSM has seen all entries that this node's
// disk knows to be committed. A store in use gives [ErrLocked] within a second.
func Open(cfg Config) (*Node, error) { panic("todo") }

// HasState tells whether the node has a log, a term or a snapshot: whether it ever belonged to a group.
func (n *Node) HasState() bool { panic("todo") }

// Bootstrap makes a group with this node as its only voter. Only a founder may do it; on a node with
// state it is an error.
func (n *Node) Bootstrap() error { panic("todo") }

// Apply has the group commit cmd and returns its index and what the FSM answered. Errors are
// [ErrNotLeader] and [ErrOutcomeUnknown]; the context's deadline bounds the wait.
func (n *Node) Apply(ctx context.Context, cmd []byte) (index uint64, resp any, err error) {
	panic("todo")
}

// Barrier returns when the FSM has seen everything that was committed before. Call it once after
// winning leadership. Errors as for [Node.Apply].
func (n *Node) Barrier(ctx context.Context) error { panic("todo") }

// VerifyLeader asks a majority whether this node still leads.
func (n *Node) VerifyLeader(ctx context.Context) error { panic("todo") }

// Leader returns the leader that this node knows of, or empty strings.
func (n *Node) Leader() (id, addr string) { panic("todo") }

// IsLeader tells whether this node believes that it leads; see [Node.VerifyLeader].
func (n *Node) IsLeader() bool { panic("todo") }

// Leadership brings the latest change: true when this node has become leader, false when it no longer
// is. Changes that were not read in time are replaced, so true may follow true: a new term.
func (n *Node) Leadership() <-chan bool { panic("todo") }

// Term returns the current Raft term.
func (n *Node) Term() uint64 { panic("todo") }

// LastIndex returns the index of the last entry on this node's disk, committed or not.
func (n *Node) LastIndex() uint64 { panic("todo") }

// CommitIndex returns the index up to which this node knows entries to be committed.
func (n *Node) CommitIndex() uint64 { panic("todo") }

// AppliedIndex returns the index up to which entries were handed to the FSM, which may still be at work on
// the last of them.
func (n *Node) AppliedIndex() uint64 { panic("todo") }

// LastContact returns how long ago the leader was last heard: 0 on the leader, negative if never.
func (n *Node) LastContact() time.Duration { panic("todo") }

// Servers returns the members of the group's latest configuration, which may not be committed yet.
func (n *Node) Servers() []Server { panic("todo") }

// AddNonvoter adds a member without a vote, or changes the address of a member.
func (n *Node) AddNonvoter(ctx context.Context, id, addr string) error { panic("todo") }

// Promote gives a member its vote at once: it should have caught up before.
func (n *Node) Promote(ctx context.Context, id, addr string) error { panic("todo") }

// Demote takes a member's vote away; it stays a member.
func (n *Node) Demote(ctx context.Context, id string) error { panic("todo") }

// Remove takes a member out of the group. It is not told: it must ask others for the configuration.
func (n *Node) Remove(ctx context.Context, id string) error { panic("todo") }

// TransferLeadership hands leadership to a voter and returns when this node has stepped down. Errors
// mean that this node may still lead.
func (n *Node) TransferLeadership(ctx context.Context, id, addr string) error { panic("todo") }

// Shutdown stops the node and closes its listener and store.
func (n *Node) Shutdown(ctx context.Context) error { panic("todo") }

// LoadOrCreateID returns the node id kept in dir, beside the Raft store; fresh tells that it is new. An
// id whose store is gone is replaced: a node without its memory must not vote under its old id. A store
// without its id is [ErrTorn].
func LoadOrCreateID(dir string) (id string, fresh bool, err error) { panic("todo") }
