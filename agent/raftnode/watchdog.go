package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// fatal tells the owner of the process that it must end.
func (n *Node) fatal(reason string) {
	n.fatalOnce.Do(func() { go n.cfg.Fatal(reason) })
}

// watchDisk probes the disk while this node leads. A leader whose disk hangs goes on sending heartbeats
// and leads for ever, and nothing is committed any more (hashicorp/raft#503).
func (n *Node) watchDisk() {
	tick := time.NewTicker(n.cfg.Timing.DiskCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-n.stop:
			return
		}
		if !n.IsLeader() {
			continue
		}
		done := make(chan error, 1)
		go func() { done <- n.cfg.ProbeDisk() }() // a hanging write cannot be interrupted
		bound := time.NewTimer(n.cfg.Timing.DiskBound)
		select {
		case err := <-done:
			bound.Stop()
			// A full disk does not hang, and the store reuses its pages.
			if err != nil && !errors.Is(err, syscall.ENOSPC) {
				n.fatal(fmt.Sprintf("the disk of %s fails: %v", n.cfg.Dir, err))
				return
			}
		case <-bound.C:
			n.fatal(fmt.Sprintf("the disk of %s did not write for %v", n.cfg.Dir, n.cfg.Timing.DiskBound))
			return
		case <-n.stop:
			bound.Stop()
			return
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
		n.fatal(fmt.Sprintf("Raft refuses commands for over %v: it believes a leadership transfer is running", n.stuck.bound))
	}
}
