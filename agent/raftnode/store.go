package raftnode

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	boltFile    = "raft.db"
	snapshotDir = "snapshots" // the name that raft.FileSnapshotStore gives it
	lockTimeout = time.Second
	logCache    = 256 // entries kept in memory for followers
)

// keyCommitted holds the index up to which entries were known to be committed.
var keyCommitted = []byte("ha committed index")

// store is what the node keeps on disk.
type store struct {
	disk    *disk
	log     raft.LogStore
	snaps   raft.SnapshotStore
	scratch *scratchFile // nil if the probe is the caller's

	mu    sync.Mutex
	noted uint64 // what is on disk under keyCommitted
}

func openStore(cfg Config) (*store, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("raft directory: %w", err)
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path: filepath.Join(cfg.Dir, boltFile),
		BoltOptions: &bbolt.Options{
			Timeout:        lockTimeout, // without it a second process would wait for ever
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
		},
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s: %w", cfg.Dir, ErrLocked)
	}
	if err != nil {
		return nil, openError(cfg.Dir, err)
	}
	st := &store{disk: &disk{BoltStore: bolt, dir: cfg.Dir, log: cfg.Logger, fatal: func(error) {}}}
	if err := st.init(cfg); err != nil {
		bolt.Close()
		return nil, openError(cfg.Dir, err)
	}
	return st, nil
}

// openError is [ErrDisk] where the disk is to blame.
func openError(dir string, err error) error {
	for _, sick := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS} {
		if errors.Is(err, sick) {
			return diskError(dir, err)
		}
	}
	return fmt.Errorf("open the Raft store: %w", err)
}

func (s *store) init(cfg Config) error {
	var err error
	if s.log, err = raft.NewLogCache(logCache, s.disk); err != nil {
		return err
	}
	if s.snaps, err = raft.NewFileSnapshotStoreWithLogger(cfg.Dir, snapshotsKept, newLogger(cfg.Logger)); err != nil {
		return err
	}
	s.noted, err = s.disk.GetUint64(keyCommitted)
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return nil
	}
	return err
}

// noteCommit remembers that entries up to index are committed. It may be behind, never ahead: a
// committed entry stays one. An error costs nothing but a younger state after a restart.
func (s *store) noteCommit(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index > s.noted && s.disk.SetUint64(keyCommitted, index) == nil {
		s.noted = index
	}
}

func (s *store) close() error {
	if s.scratch != nil {
		s.scratch.close()
	}
	return s.disk.Close()
}

// replay brings fsm to the newest state that is known to be committed: the last snapshot and the noted
// entries after it. Raft by itself would start from the snapshot and wait for a leader, so that a node
// whose peers are all down would know nothing. (Its own cure, RestoreCommittedLogs in v1.8.0, forgets
// the members whose configuration entry it replays: such a group never elects a leader again.)
func replay(s *store, fsm raft.FSM) (*replayedFSM, error) {
	r := &replayedFSM{FSM: fsm}
	index, err := restoreLatest(s.snaps, fsm)
	if err != nil {
		return nil, err
	}
	last, err := s.log.LastIndex()
	if err != nil {
		return nil, err
	}
	for index++; index <= min(s.noted, last); index++ {
		var entry raft.Log
		if err := s.log.GetLog(index, &entry); err != nil {
			return nil, fmt.Errorf("entry %d: %w", index, err)
		}
		if entry.Type == raft.LogCommand {
			fsm.Apply(&entry)
			r.upTo = index
		}
	}
	return r, nil
}

// restoreLatest gives fsm the newest snapshot and returns its index, 0 if there is none.
func restoreLatest(snaps raft.SnapshotStore, fsm raft.FSM) (uint64, error) {
	list, err := snaps.List()
	if err != nil || len(list) == 0 {
		return 0, err
	}
	meta, r, err := snaps.Open(list[0].ID)
	if err != nil {
		return 0, fmt.Errorf("snapshot %s: %w", list[0].ID, err)
	}
	defer r.Close()
	if err := fsm.Restore(r); err != nil {
		return 0, fmt.Errorf("snapshot %s: %w", meta.ID, err)
	}
	return meta.Index, nil
}

// replayedFSM keeps Raft from applying a second time what replay has applied. Raft calls it from one
// goroutine.
type replayedFSM struct {
	raft.FSM
	upTo uint64 // the last command that replay applied
	seen uint64 // the last command that Raft applied
}

func (f *replayedFSM) Apply(l *raft.Log) any {
	f.seen = l.Index
	if l.Index <= f.upTo {
		return nil // from an earlier life: nobody waits for the answer
	}
	return f.FSM.Apply(l)
}

// Snapshot refuses while the state is newer than Raft thinks: a snapshot would carry the wrong index.
func (f *replayedFSM) Snapshot() (raft.FSMSnapshot, error) {
	if f.seen < f.upTo {
		return nil, raft.ErrNothingNewToSnapshot
	}
	return f.FSM.Snapshot()
}

// Restore replaces the state by the leader's: from here on Raft knows best.
func (f *replayedFSM) Restore(r io.ReadCloser) error {
	f.upTo = 0
	return f.FSM.Restore(r)
}
