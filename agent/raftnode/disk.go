package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// CodeDisk is the stable word for a Raft store that cannot be written.
const CodeDisk = "HA-RAFT-DISK"

// ErrDisk says that the Raft store cannot be written, for another reason than that its disk is full: what
// memory holds need not be what the disk holds any more, and only a new process finds out.
var ErrDisk = errors.New("the Raft store cannot be written")

// errFull is why a node does not vote.
var errFull = errors.New("the disk of the Raft store is full")

// errHangs is why a leader says nothing.
var errHangs = errors.New("the disk of the Raft store hangs")

const (
	lowRoom  = 1 << 20  // with less than this free it is tried whether there is any
	someRoom = 64 << 10 // what is tried: more than a command takes
)

// keyTerm and the other two are what Raft writes when terms change.
const (
	keyTerm     = "CurrentTerm"
	keyVoteTerm = "LastVoteTerm"
	keyVoteCand = "LastVoteCand"
)

// disk is the store as Raft writes it. It takes note of what cannot be written, which Raft itself does
// not: a follower that can store nothing goes on answering heartbeats and voting, and a leader that
// cannot stands for election again at once.
//
//   - The disk is full. The node stays, neither leads nor votes once an entry found no room, and says so
//     ([Node.DiskFull]); it goes on by itself when there is room. To refuse its vote costs nothing: only
//     nodes that can store make commits, and those can elect as well.
//   - Anything else ends the process.
type disk struct {
	*raftboltdb.BoltStore
	dir       string
	log       *slog.Logger
	fatal     func(error)
	beforeCut func(last uint64) (cut func()) // entries after last are about to be taken back; nil: nobody minds

	mu    sync.Mutex
	full  error // there is no room; nil: there is
	stuck bool  // and an entry was turned away since
}

// StoreLog and StoreLogs append entries.
func (d *disk) StoreLog(entry *raft.Log) error { return d.StoreLogs([]*raft.Log{entry}) }

func (d *disk) StoreLogs(entries []*raft.Log) error {
	err := d.noted(d.BoltStore.StoreLogs(entries))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stuck = err != nil
	return err
}

// DeleteRange removes old entries after a snapshot, or new ones that another leader does not have.
func (d *disk) DeleteRange(first, last uint64) error {
	if end, err := d.LastIndex(); err == nil && first > 0 && last >= end && d.beforeCut != nil {
		defer d.beforeCut(first - 1)()
	}
	return d.noted(d.BoltStore.DeleteRange(first, last))
}

// Set keeps a term or a vote. On a file system that writes in place these find room on a full disk too:
// bbolt uses pages again that the last transaction has freed.
func (d *disk) Set(key, value []byte) error {
	if k := string(key); (k == keyVoteTerm || k == keyVoteCand) && d.isStuck() {
		return errFull
	}
	if old, err := d.Get(key); err == nil && bytes.Equal(old, value) {
		return nil // Raft writes its term at each start, also on a full disk
	}
	err := d.noted(d.BoltStore.Set(key, value))
	if err != nil && string(key) == keyTerm {
		// Raft would panic. Its goroutine ends here instead, and the process by the owner's hand.
		d.fatal(diskError(d.dir, err))
		runtime.Goexit()
	}
	return err
}

// SetUint64 is Set for a number.
func (d *disk) SetUint64(key []byte, value uint64) error {
	return d.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// noted takes note of what became of a write.
func (d *disk) noted(err error) error {
	switch {
	case err == nil, errors.Is(err, bolterrors.ErrDatabaseNotOpen): // the node is being stopped
	case isFull(err):
		d.setFull(err)
	default:
		d.fatal(diskError(d.dir, err))
	}
	return err
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func diskError(dir string, err error) error { return fmt.Errorf("%w: %s: %w", ErrDisk, dir, err) }

func (d *disk) setFull(err error) {
	d.mu.Lock()
	was := d.full
	d.full = err
	if err == nil {
		d.stuck = false
	}
	d.mu.Unlock()
	switch {
	case was == nil && err != nil:
		d.log.Warn("the disk of the Raft store is full: this node does not lead, and does not vote once it cannot store", "code", CodeDisk, "dir", d.dir, "err", err)
	case was != nil && err == nil:
		d.log.Info("the disk of the Raft store has room again", "code", CodeDisk, "dir", d.dir)
	}
}

func (d *disk) isFull() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.full
}

func (d *disk) isStuck() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stuck && d.full != nil
}

// look finds out whether there is room; the error says that the file system takes no writes at all. It
// costs a system call while there is.
func (d *disk) look() error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return os.NewSyscallError("statfs", err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return &fs.PathError{Op: "write", Path: d.dir, Err: syscall.EROFS}
	}
	if st.Bavail*uint64(st.Bsize) >= lowRoom && d.isFull() == nil { //nolint:gosec // sizes are not negative
		return nil
	}
	err := d.tryRoom()
	if err != nil && !isFull(err) {
		return err
	}
	d.setFull(err)
	return nil
}

// tryRoom writes a little more than would be needed, and removes it.
func (d *disk) tryRoom() error {
	path := filepath.Join(d.dir, "room")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, someRoom))
	if err == nil {
		err = unix.Fdatasync(int(f.Fd())) // some file systems find out only then
	}
	return errors.Join(err, f.Close(), os.Remove(path))
}

// DiskFull says why nothing more can be stored here, nil if it can: then this node should not lead, and
// does not count as a healthy voter. Entries may still find room in what the store has free.
func (n *Node) DiskFull() error { return n.store.disk.isFull() }
