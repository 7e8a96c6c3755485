package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"ha/raftfsm"
)

// lease is how long this node may serve as primary. It is courtesy: it bounds
// stale reads and the VIP, and no promise to keep rows rests on it (R10).
//
// Its deadline lies in a file as well, so that an agent that was killed and
// started again changes nothing for clients while the lease lasts.
type lease struct {
	clock Clock
	boot  string
	path  string

	mu       sync.Mutex
	epoch    uint64
	deadline time.Duration // since boot
	renewed  chan struct{} // closed and replaced at each grant

	writing sync.Mutex // the file; never held together with mu
	file    *os.File
}

// leaseFile is the content of the file. The boot id makes a deadline of another
// boot worthless.
type leaseFile struct {
	Boot     string        `json:"boot"`
	Epoch    uint64        `json:"epoch"`
	Deadline time.Duration `json:"deadline"`
}

// leaseFileSize: the file is written over in one piece, padded with blanks.
const leaseFileSize = 256

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// openLease reads the lease that an earlier run of this agent held.
func openLease(dir string, id raftfsm.NodeID, boot string, clock Clock) (*lease, error) {
	l := &lease{clock: clock, boot: boot, path: filepath.Join(dir, "lease-"+string(id)), renewed: make(chan struct{})}
	b, err := os.ReadFile(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read lease: %w", err)
	}
	var f leaseFile
	// What cannot be read is no lease: the start-up fence follows.
	if json.Unmarshal(b, &f) == nil && f.Boot == boot && f.Boot != "" {
		l.epoch, l.deadline = f.Epoch, f.Deadline
	}
	if l.file, err = os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("open lease: %w", err)
	}
	return l, nil
}

func (l *lease) close() error { return l.file.Close() }

// grant notes a lease that counts from the sending of the report it answers.
// Answers may overtake each other: a deadline never moves back within an epoch.
func (l *lease) grant(epoch uint64, sentAt, d time.Duration) {
	l.mu.Lock()
	if epoch < l.epoch || epoch == l.epoch && sentAt+d <= l.deadline {
		l.mu.Unlock()
		return
	}
	l.epoch, l.deadline = epoch, sentAt+d
	close(l.renewed)
	l.renewed = make(chan struct{})
	l.mu.Unlock()
	l.save()
}

// save writes what holds now. If another write is stuck (the runtime dir may lie
// on a disk) the next grant does it: only a restarted agent needs the file.
func (l *lease) save() {
	if !l.writing.TryLock() {
		return
	}
	defer l.writing.Unlock()
	epoch, deadline := l.get()
	b, err := json.Marshal(leaseFile{Boot: l.boot, Epoch: epoch, Deadline: deadline})
	if err != nil || len(b) > leaseFileSize {
		return
	}
	padded := append(b, strings.Repeat(" ", leaseFileSize-len(b))...)
	_, _ = l.file.WriteAt(padded, 0)
}

// end gives the lease up; false if there was none.
func (l *lease) end() bool {
	l.mu.Lock()
	had := l.deadline != 0
	l.deadline = 0
	l.mu.Unlock()
	if had {
		l.save()
	}
	return had
}

func (l *lease) get() (epoch uint64, deadline time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch, l.deadline
}

// left is how long the lease still lasts, 0 if it is over, and of which epoch.
func (l *lease) left() (epoch uint64, left time.Duration) {
	epoch, deadline := l.get()
	return epoch, max(0, deadline-l.clock.Boottime())
}

// held is the epoch of the lease that lasts still; 0: none.
func (l *lease) held() uint64 {
	epoch, left := l.left()
	if left == 0 {
		return 0
	}
	return epoch
}

func (l *lease) changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.renewed
}
