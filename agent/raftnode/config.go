// Package raftnode runs one member of the Raft group: hashicorp/raft with its store, its transport over
// the agent's port and the watchdogs that it lacks. It decides nothing: who is added, promoted or
// removed is the caller's affair.
package raftnode

import (
	"cmp"
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

// Timing holds Raft's clocks. A zero field takes the default. They are made for hosts that need 300 ms for a
// question and its answer, and for a lost packet on top of a busy processor: a leader that steps down
// for nothing costs more than one that is replaced half a second later, as what clients wait for is seldom a
// new leader (the coordinator is not on the primary's host).
type Timing struct {
	Heartbeat time.Duration // a follower that hears nothing for 1–2 times this stands for election; 600 ms
	Election  time.Duration // a candidate that did not win tries again after 1–2 times this; 600 ms, ≥ Heartbeat
	Lease     time.Duration // a leader that reaches no majority for this long steps down; 500 ms, ≤ Heartbeat
	Commit    time.Duration // followers learn of a commit within 1–2 times this; 200 ms: agents act on orders, not on their copy
	RPC       time.Duration // a peer that does not answer for this long is dialled anew; 1 s
	DiskCheck time.Duration // a leader probes its disk this often; 500 ms
	DiskMute  time.Duration // a leader whose probe takes longer says no more, so that another one is elected; 2 s
	DiskBound time.Duration // a probe that takes longer is fatal; 5 s: a disk that others keep busy stalls for 2 s now and then
}

func (t Timing) withDefaults() Timing {
	return Timing{
		Heartbeat: cmp.Or(t.Heartbeat, 600*time.Millisecond),
		Election:  cmp.Or(t.Election, 600*time.Millisecond),
		Lease:     cmp.Or(t.Lease, 500*time.Millisecond),
		Commit:    cmp.Or(t.Commit, 200*time.Millisecond),
		RPC:       cmp.Or(t.RPC, time.Second),
		DiskCheck: cmp.Or(t.DiskCheck, 500*time.Millisecond),
		DiskMute:  cmp.Or(t.DiskMute, 2*time.Second),
		DiskBound: cmp.Or(t.DiskBound, 5*time.Second),
	}
}

// Config is what [Open] needs. All fields are required unless they say otherwise.
type Config struct {
	// Dir holds raft.db and the snapshots, with the node id beside them ([LoadOrCreateID]).
	Dir string
	// ID is the node id from Dir.
	ID string
	// Addr is the host:port by which peers reach this node.
	Addr string
	// FSM is the replicated state. [Open] may call Apply and Restore on it.
	FSM raft.FSM
	// Listener brings the connections that peers open; closed by [Node.Shutdown].
	Listener net.Listener
	// Dial opens a connection to a peer (host:port).
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Resolve gives the present address of a node; where it knows none, or is nil, the address in the
	// group's configuration is used.
	Resolve func(id string) (addr string, ok bool)
	// Fatal is called, at most once and on a goroutine of its own, when this process must end because
	// its node would block the group: its disk hangs while it leads, its store cannot be written
	// ([ErrDisk]), or Raft is stuck. May be nil.
	Fatal func(reason error)
	// Marks are files outside of Dir, best on other file systems, in which the node keeps how far its
	// store has come. [Open] refuses a store of which they know more: [ErrOldStore].
	Marks []MarkFile
	// Logger receives what Raft says: warnings at most once a minute each, the rest as debug. May be
	// nil: nothing is logged.
	Logger *slog.Logger
	// Timing changes Raft's clocks; the zero value is right.
	Timing Timing
	// ProbeDisk writes to the disk of Dir and returns when it is down there. Nil is right but for
	// tests: write and fdatasync a scratch file.
	ProbeDisk func() error
}

const (
	// State is small and commands are few: a snapshot every 1024 entries, and as many kept for
	// followers that lag.
	snapshotThreshold = 1024
	trailingLogs      = 1024
	snapshotsKept     = 2
)

func (c Config) raftConfig() *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.ID)
	rc.HeartbeatTimeout = c.Timing.Heartbeat
	rc.ElectionTimeout = c.Timing.Election
	rc.LeaderLeaseTimeout = c.Timing.Lease
	rc.CommitTimeout = c.Timing.Commit
	rc.SnapshotThreshold = snapshotThreshold
	rc.TrailingLogs = trailingLogs
	rc.ShutdownOnRemove = false // it fires on a leader only; the caller handles removal
	rc.NoLegacyTelemetry = true
	// Open has restored the snapshot and more, see replay.
	rc.NoSnapshotRestoreOnStart = true
	rc.Logger = newLogger(c.Logger)
	return rc
}

func (c Config) withDefaults() Config {
	c.Timing = c.Timing.withDefaults()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Fatal == nil {
		c.Fatal = func(error) {}
	}
	return c
}
