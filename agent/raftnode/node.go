package raftnode

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Node is a running member. Its methods may be used from any goroutine.
type Node struct {
	cfg        Config
	raft       *raft.Raft
	peers      *patient
	store      *store
	marks      *marks
	leadership chan bool
	muted      atomic.Bool // the disk hangs: no word as a leader

	fatalOnce sync.Once
	stuck     stuckTransfer
	notify    chan bool     // Raft's NotifyCh
	started   chan struct{} // closed when raft is set
	stop      chan struct{} // ends our goroutines
	stopOnce  sync.Once
	wg        sync.WaitGroup
}

// Open starts the node on what its directory holds. It never bootstraps: with an empty directory the
// node waits until a leader adds it. When Open returns, the FSM has seen all entries that this node's
// disk knows to be committed: all of them after a [Node.Shutdown], all but those of the last second
// after a crash. A store in use gives [ErrLocked] within a second.
func Open(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	st, err := openStore(cfg)
	if err != nil {
		return nil, err
	}
	n, err := open(cfg, st)
	if err != nil {
		st.close()
		return nil, err
	}
	return n, nil
}

func open(cfg Config, st *store) (*Node, error) {
	if err := st.check(cfg); err != nil {
		return nil, err
	}
	fsm, err := replay(st, cfg.FSM)
	if err != nil {
		return nil, fmt.Errorf("replay the Raft log: %w", err)
	}
	if cfg.ProbeDisk == nil {
		scratch, err := openScratch(cfg.Dir)
		if err != nil {
			return nil, openError(cfg.Dir, err)
		}
		st.scratch = scratch
		cfg.ProbeDisk = scratch.probe
	}

	n := &Node{
		cfg:        cfg,
		store:      st,
		marks:      newMarks(st, cfg),
		leadership: make(chan bool, 1),
		notify:     make(chan bool, 8),
		started:    make(chan struct{}),
		stop:       make(chan struct{}),
		stuck:      stuckTransfer{bound: 2 * cfg.Timing.Election},
	}
	st.disk.fatal = n.fatal
	if len(cfg.Marks) > 0 {
		st.disk.beforeCut = n.marks.beforeCut
	}
	n.peers = newTransport(n)
	rc := cfg.raftConfig()
	rc.NotifyCh = n.notify
	if n.raft, err = raft.NewRaft(rc, fsm, st.log, st.disk, st.snaps, n.peers); err != nil {
		n.peers.Close()
		return nil, fmt.Errorf("start Raft: %w", err)
	}
	close(n.started)
	n.wg.Go(n.drain)
	n.wg.Go(n.noteCommits)
	n.wg.Go(n.watchDisk)
	n.wg.Go(n.keepMarks)
	return n, nil
}

// HasState tells whether the node has a log, a term or a snapshot: whether it ever belonged to a group.
func (n *Node) HasState() bool {
	return n.raft.CurrentTerm() > 0 || n.raft.LastIndex() > 0
}

// Bootstrap makes a group with this node as its only voter. Only a founder may do it; on a node with
// state it is an error.
func (n *Node) Bootstrap() error {
	return n.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter,
		ID:       raft.ServerID(n.cfg.ID),
		Address:  raft.ServerAddress(n.cfg.Addr),
	}}}).Error()
}

// Shutdown stops the node and closes its listener and store. If ctx is done first, the store stays
// open: the disk hangs, and only the end of the process helps.
func (n *Node) Shutdown(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		err := n.raft.Shutdown().Error() // waits, and closes the transport
		n.stopOnce.Do(func() { close(n.stop) })
		n.wg.Wait()
		n.store.noteCommit(n.raft.CommitIndex())
		n.marks.keep(n.raft.CurrentTerm(), n.raft.LastIndex())
		done <- errors.Join(err, n.store.close())
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("stop Raft: %w", ctx.Err())
	}
}

// drain does nothing but empty Raft's channel: Raft stands still while it is full.
func (n *Node) drain() {
	leading := false
	for {
		select {
		case leading = <-n.notify:
			n.tell(leading)
		case <-n.stop:
			if leading {
				n.tell(false)
			}
			return
		}
	}
}

// tell replaces what the reader of Leadership has not read yet.
func (n *Node) tell(leading bool) {
	for {
		select {
		case n.leadership <- leading:
			return
		default:
		}
		select {
		case <-n.leadership:
		default:
		}
	}
}

// noteCommits keeps the commit index on disk: Raft itself forgets it. It writes at most once a second and
// nothing while the group is idle.
func (n *Node) noteCommits() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.store.noteCommit(n.raft.CommitIndex())
		case <-n.stop:
			return
		}
	}
}

// Leadership brings the latest change: true when this node has become leader, false when it no longer
// is. Changes that were not read in time are replaced, so true may follow true: a new term.
func (n *Node) Leadership() <-chan bool { return n.leadership }

// Leader returns the leader that this node knows of, or empty strings.
func (n *Node) Leader() (id, addr string) {
	a, i := n.raft.LeaderWithID()
	return string(i), string(a)
}

// IsLeader tells whether this node believes that it leads; see [Node.VerifyLeader].
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader }

// Term returns the current Raft term.
func (n *Node) Term() uint64 { return n.raft.CurrentTerm() }

// LastIndex returns the index of the last entry on this node's disk, committed or not.
func (n *Node) LastIndex() uint64 { return n.raft.LastIndex() }

// CommitIndex returns the index up to which this node knows entries to be committed. It starts at 0 and
// moves when a leader is heard.
func (n *Node) CommitIndex() uint64 { return n.raft.CommitIndex() }

// AppliedIndex returns the index up to which Raft has handed entries to the FSM, which may still be at
// work on the last of them. After [Open] the FSM has seen more than this says until a leader is heard.
func (n *Node) AppliedIndex() uint64 { return n.raft.AppliedIndex() }

// LastContact returns how long ago the leader was last heard: 0 on the leader, negative if never.
func (n *Node) LastContact() time.Duration {
	if n.IsLeader() {
		return 0
	}
	last := n.raft.LastContact()
	if last.IsZero() {
		return -1
	}
	return time.Since(last)
}
