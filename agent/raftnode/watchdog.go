package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// fatal tells the owner of the process that it must end.
func (n *Node) fatal(reason error) {
	n.fatalOnce.Do(func() { go n.cfg.Fatal(reason) })
}

// watchDisk looks whether there is room, and probes the disk while this node leads. A leader whose disk
// hangs goes on sending heartbeats and leads for ever, and nothing is committed any more
// (hashicorp/raft#503). Such a one is muted, so that another one is elected before the primary's lease
// ends, and if that lasts, and Raft stands still here and believes that it leads, the process has to end.
func (n *Node) watchDisk() {
	tick := time.NewTicker(n.cfg.Timing.DiskCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-n.stop:
			return
		}
		if !n.tryDisk() {
			return
		}
	}
}

// tryDisk looks once; false: this is over.
func (n *Node) tryDisk() bool {
	leads := n.IsLeader()
	done := make(chan error, 1)
	go func() { // a hanging call cannot be interrupted
		err := n.store.disk.look()
		if err == nil && leads {
			err = n.cfg.ProbeDisk()
		}
		done <- err
	}()
	mute := time.NewTimer(n.cfg.Timing.DiskMute)
	defer mute.Stop()
	defer n.muted.Store(false)
	bound := time.NewTimer(n.cfg.Timing.DiskBound)
	defer bound.Stop()
	for {
		select {
		case <-mute.C:
			n.muted.Store(true)
		case err := <-done:
			if err == nil {
				return true
			}
			if isFull(err) { // it does not hang, and the store uses its pages again
				n.store.disk.setFull(err)
				return true
			}
			n.fatal(diskError(n.cfg.Dir, err))
			return false
		case <-bound.C:
			if n.IsLeader() {
				n.fatal(fmt.Errorf("the disk of %s did not write for %v", n.cfg.Dir, n.cfg.Timing.DiskBound))
				return false
			}
			bound.Reset(n.cfg.Timing.DiskBound) // it may come to lead
		case <-n.stop:
			return false
		}
	}
}

// scratchFile is what a probe writes to.
type scratchFile struct {
	mu  sync.Mutex
	f   *os.File
	seq uint64
}

func openScratch(dir string) (*scratchFile, error) {
	f, err := os.OpenFile(filepath.Join(dir, "probe"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("disk probe: %w", err)
	}
	return &scratchFile{f: f}, nil
}

// probe writes in place, so that there is something to sync but no space to find.
func (s *scratchFile) probe() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	if _, err := s.f.WriteAt(binary.BigEndian.AppendUint64(nil, s.seq), 0); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(s.f.Fd())); err != nil {
		return os.NewSyscallError("fdatasync", err)
	}
	return nil
}

// close does not wait for a probe that hangs.
func (s *scratchFile) close() {
	if s.mu.TryLock() {
		defer s.mu.Unlock()
		s.f.Close()
	}
}

// stuckTransfer notices that Raft believes for too long that it is handing leadership over: the flag can
// stay set for ever, and then a leader takes no command (hashicorp/raft#696).
type stuckTransfer struct {
	bound time.Duration
	mu    sync.Mutex
	since time.Time
}

// observe takes the outcome of a call and reports whether the bound is passed.
func (s *stuckTransfer) observe(err error, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		s.since = time.Time{}
		return false
	}
	if s.since.IsZero() {
		s.since = now
	}
	return now.Sub(s.since) > s.bound
}

func (n *Node) watchTransfer(err error) {
	if n.stuck.observe(err, time.Now()) {
		n.fatal(fmt.Errorf("commands are refused for over %v: Raft believes a leadership transfer is running", n.stuck.bound))
	}
}
