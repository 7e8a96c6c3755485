package raftnode

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// CodeOldStore is the stable word for a store that was put back from a copy.
const CodeOldStore = "HA-OLD-STORE"

// ErrOldStore says that the store is older than what this node is known to have stored: it was put back
// from a copy. A node that goes on with it has forgotten entries that were committed because it held
// them, and votes that it gave.
var ErrOldStore = errors.New("the Raft store is an old copy")

// MarkFile keeps, outside of the Raft store, how far the store had come.
type MarkFile struct {
	Path string
	// Ready, if not nil, says whether the file may be written now.
	Ready func() bool
}

const (
	markSize  = 128 // written in one piece
	markEvery = time.Second
	putWait   = 200 * time.Millisecond // mysqld's disk may hang, and Raft goes on
	readWait  = 2 * time.Second
)

// mark is how far a node's store has come: its term, and its last entry. Both only ever grow, but for the
// moment in which entries that a new leader does not have are replaced.
type mark struct {
	id          string
	term        uint64
	index, last uint64 // the last entry and its term
}

// ahead tells whether m knows of more than the store holds.
func (m mark) ahead(store mark) bool {
	return m.term > store.term || cmp.Or(cmp.Compare(m.last, store.last), cmp.Compare(m.index, store.index)) > 0
}

func (m mark) String() string {
	return fmt.Sprintf("term %d, entry %d of term %d", m.term, m.index, m.last)
}

const markFormat = "ha raft mark 1 %s %d %d %d"

// encode gives what is written: a line that people can read, padded, with a checksum.
func (m mark) encode() []byte {
	s := fmt.Sprintf(markFormat, m.id, m.term, m.index, m.last)
	s = fmt.Sprintf("%s %08x", s, crc32.ChecksumIEEE([]byte(s)))
	return fmt.Appendf(nil, "%-*s\n", markSize-1, s)
}

// decodeMark fails on what is not whole.
func decodeMark(b []byte) (m mark, ok bool) {
	s := strings.TrimRight(string(b), " \n")
	i := strings.LastIndexByte(s, ' ')
	if len(b) != markSize || i < 0 || s[i+1:] != fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(s[:i]))) {
		return m, false
	}
	_, err := fmt.Sscanf(s[:i], markFormat, &m.id, &m.term, &m.index, &m.last)
	return m, err == nil
}

// check refuses a store of which a mark of the same node knows more. A mark of another node came with a
// copy of the directory that it is in; a torn one says nothing.
func (s *store) check(cfg Config) error {
	have, err := s.mark(cfg.ID)
	if err != nil {
		return err
	}
	for _, f := range cfg.Marks {
		b, err := readMark(f.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			cfg.Logger.Warn("a mark of the Raft store cannot be read", "path", f.Path, "err", err)
		}
		if m, ok := decodeMark(b); ok && m.id == cfg.ID && m.ahead(have) {
			return fmt.Errorf("%w: it ends at %v, and %s says that this node had stored %v", ErrOldStore, have, f.Path, m)
		}
	}
	return nil
}

// readMark does not wait for a disk that hangs: mysqld's need not be Raft's.
func readMark(path string) ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		b, err := os.ReadFile(path)
		done <- result{b, err}
	}()
	select {
	case r := <-done:
		return r.b, r.err
	case <-time.After(readWait):
		return nil, os.ErrDeadlineExceeded
	}
}

// mark is how far the store has come.
func (s *store) mark(id string) (mark, error) {
	m := mark{id: id}
	var err error
	if m.term, err = s.disk.GetUint64([]byte(keyTerm)); err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return m, err
	}
	if m.index, err = s.disk.LastIndex(); err != nil {
		return m, err
	}
	if m.index > 0 {
		m.last, err = s.termOf(m.index)
	}
	snaps, listErr := s.snaps.List()
	if len(snaps) > 0 && snaps[0].Index > m.index {
		m.index, m.last = snaps[0].Index, snaps[0].Term
	}
	return m, errors.Join(err, listErr)
}

func (s *store) termOf(index uint64) (uint64, error) {
	var entry raft.Log
	err := s.disk.GetLog(index, &entry)
	return entry.Term, err
}

// marks keeps the files.
type marks struct {
	store *store
	id    string
	files []*markFile

	mu   sync.Mutex // no mark of an entry is written while that entry is being taken back
	last mark
}

type markFile struct {
	MarkFile
	mu sync.Mutex
}

func newMarks(s *store, cfg Config) *marks {
	m := &marks{store: s, id: cfg.ID}
	for _, f := range cfg.Marks {
		m.files = append(m.files, &markFile{MarkFile: f})
	}
	return m
}

// keepMarks looks once a second whether the store has come further.
func (n *Node) keepMarks() {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.marks.keep(n.raft.CurrentTerm(), n.raft.LastIndex())
		case <-n.stop:
			return
		}
	}
}

func (m *marks) keep(term, index uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.files) == 0 {
		return
	}
	if term != m.last.term || index != m.last.index {
		now, err := m.store.mark(m.id)
		if err != nil {
			return
		}
		m.last = now
	}
	if m.last.term > 0 {
		m.put(m.last)
	}
}

// beforeCut takes the marks back to the last entry that stays, and keeps them there until cut is called:
// should the process end between the cut and the entries that follow, the store is in order and must be
// taken.
func (m *marks) beforeCut(last uint64) (cut func()) {
	m.mu.Lock()
	now, err := m.store.mark(m.id)
	if err == nil && last < now.index {
		now.index, now.last = last, 0
		if now.last, err = m.store.termOf(last); err != nil {
			now.index = 0 // it is in a snapshot, or there is none
		}
		m.put(now)
		m.last = mark{}
	}
	return m.mu.Unlock
}

// put writes a mark where it is not there yet. It does not wait for a disk that hangs.
func (m *marks) put(now mark) {
	var wg sync.WaitGroup
	done := make(chan struct{})
	for _, f := range m.files {
		wg.Go(func() { f.put(now.encode()) })
	}
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(putWait):
	}
}

// put writes in place and without fsync: a mark has to outlive this process and a copy of the Raft
// directory, not the machine. The file is opened by name each time, as its directory may be another one
// than it was (a rebuild swaps it) and hold another node's mark or none.
func (f *markFile) put(text []byte) {
	if !f.mu.TryLock() {
		return // another one hangs
	}
	defer f.mu.Unlock()
	if f.Ready != nil && !f.Ready() {
		return
	}
	if b, err := os.ReadFile(f.Path); err == nil && bytes.Equal(b, text) {
		return
	}
	file, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return // the next tick tries again
	}
	defer file.Close()
	if _, err := file.WriteAt(text, 0); err == nil {
		_ = file.Truncate(markSize)
	}
}
