package agent

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"ha/raftfsm"
)

// fsm puts raftfsm.Machine under hashicorp/raft. It is the only writer of the
// replicated state; everybody else reads copies.
type fsm struct {
	mu      sync.Mutex
	machine raftfsm.Machine
	changed chan struct{} // closed and replaced at each change
}

func newFSM() *fsm { return &fsm{changed: make(chan struct{})} }

// Apply applies one committed entry. An entry that cannot be read means that
// this node would diverge from the others: it must not go on.
func (f *fsm) Apply(l *raft.Log) any {
	c, err := raftfsm.Decode(l.Data)
	if err != nil {
		panic(fmt.Sprintf("raft entry %d: %v", l.Index, err))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.machine.Apply(l.Index, c)
	f.notify()
	return r
}

// notify wakes those that watch; the lock is held.
func (f *fsm) notify() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// State gives a copy.
func (f *fsm) State() raftfsm.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machine.State.Clone()
}

// Watch gives a copy and a channel that is closed when it is out of date.
func (f *fsm) Watch() (raftfsm.State, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machine.State.Clone(), f.changed
}

// Snapshot gives the state as JSON.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.machine.Snapshot()
	return snapshot(b), err
}

// Restore replaces the state.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.notify()
	return f.machine.Restore(b)
}

type snapshot []byte

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		return errors.Join(fmt.Errorf("write snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

func (s snapshot) Release() {}
