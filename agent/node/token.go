package node

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"ha/raftfsm"
	"ha/xtra"
)

// Role is what the last order that gave this node one made of it.
type Role string

// The roles. They say what the agent may do to a mysqld that is down: only one
// that was never opened as primary is started without an order.
const (
	RoleNone    Role = "none"
	RoleReplica Role = "replica"
	RolePrimary Role = "primary"
)

// Stored is what an agent keeps of the orders it was given.
type Stored struct {
	Token raftfsm.Token `json:"token"`
	// Digest of the order with that token: the same token with another
	// content is no repetition.
	Digest string `json:"digest,omitempty"`
	Role   Role   `json:"role"`
	// Reign is the epoch of the promotion that gave RolePrimary.
	Reign uint64 `json:"reign,omitempty"`
}

// Verdict is what becomes of an order's token.
type Verdict int

// The verdicts.
const (
	Stale Verdict = iota // refused
	Fresh                // greater than the stored one, and stored now
	Again                // the stored order once more
)

// ErrTokenFile says that no slot of the token file can be trusted. Nothing may be
// obeyed then: to start again from zero would be to obey old orders.
var ErrTokenFile = errors.New("token file damaged")

// Each slot has a block of its own, so that a torn write hits one slot only.
const (
	slotSize  = 4096
	slotMagic = "HATOKEN1"
	slotHead  = len(slotMagic) + 8 + 4 + 4 // magic, sequence, length, checksum
)

// tokenFile is what the store needs of a file; tests break it.
type tokenFile interface {
	io.ReaderAt
	io.WriterAt
	Datasync() error
	Close() error
}

type osTokenFile struct{ *os.File }

// Datasync may be under way when the file is closed: it has the descriptor kept
// until it returns.
func (f osTokenFile) Datasync() error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var synced error
	err = raw.Control(func(fd uintptr) {
		for synced = unix.EINTR; synced == unix.EINTR; {
			synced = unix.Fdatasync(int(fd)) //nolint:gosec // a descriptor
		}
	})
	return errors.Join(err, synced)
}

// Tokens is the durable memory of one agent's orders (R7): two slots in a file
// that is written in full when it is made, so that a full disk stops no seal.
// The older slot is the one that is written.
type Tokens struct {
	// writing is held while the file is written, mu never: a disk that hangs
	// must stop neither reports nor the fence.
	writing sync.Mutex
	file    tokenFile
	seq     uint64

	mu  sync.Mutex
	now Stored
}

// TokenFile is the name of the file.
const TokenFile = "token"

// OpenTokens opens the token file in dir, or makes it: dir is then a new
// node's.
func OpenTokens(dir string) (*Tokens, error) {
	path := filepath.Join(dir, TokenFile)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeTokens(dir, path); err != nil {
			return nil, fmt.Errorf("make token file: %w", err)
		}
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open token file: %w", err)
	}
	t, err := loadTokens(osTokenFile{f})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return t, nil
}

// makeTokens appears whole or not at all: a file with two empty slots would be
// a damaged one for ever.
func makeTokens(dir, path string) error {
	f, err := os.CreateTemp(dir, "token.*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	file := make([]byte, 2*slotSize)
	copy(file, encodeSlot(1, Stored{Role: RoleNone}))
	_, err = f.WriteAt(file, 0)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return xtra.SyncDir(dir)
}

func loadTokens(f tokenFile) (*Tokens, error) {
	t := &Tokens{file: f}
	buf := make([]byte, slotSize)
	for i := range int64(2) {
		if _, err := f.ReadAt(buf, i*slotSize); err != nil {
			continue // a file cut short: the other slot decides
		}
		if seq, s, ok := decodeSlot(buf); ok && seq > t.seq {
			t.seq, t.now = seq, s
		}
	}
	if t.seq == 0 {
		return nil, ErrTokenFile
	}
	return t, nil
}

// Close closes the file.
func (t *Tokens) Close() error { return t.file.Close() }

// Now is what is stored.
func (t *Tokens) Now() Stored {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now
}

// Accept judges an order and stores the token of a fresh one, durably, before it
// returns. An order to promote makes the node a primary here already: it may be
// open from the moment it is obeyed. On an error nothing may be obeyed.
func (t *Tokens) Accept(o raftfsm.Order) (Verdict, error) {
	digest, err := digestOf(o)
	if err != nil {
		return Stale, err
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	next := t.Now()
	switch o.Token.Compare(next.Token) {
	case -1:
		return Stale, nil
	case 0:
		if digest != next.Digest {
			return Stale, nil
		}
		return Again, nil
	}
	next.Token, next.Digest = o.Token, digest
	if o.Op == raftfsm.OpPromote {
		next.Role, next.Reign = RolePrimary, o.Token.Epoch
	}
	if err := t.write(next); err != nil {
		return Stale, err
	}
	return Fresh, nil
}

// SetRole stores what became of the node by the order with this token; it does
// nothing if a newer order has come since.
func (t *Tokens) SetRole(by raftfsm.Token, role Role) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	next := t.Now()
	if next.Token != by || next.Role == role {
		return nil
	}
	next.Role, next.Reign = role, 0
	return t.write(next)
}

// write puts s into the older slot. If that fails the slot may hold s or not,
// and the next write goes to the same slot again.
func (t *Tokens) write(s Stored) error {
	seq := t.seq + 1
	// Sequence 1 is in slot 0.
	at := int64((seq+1)%2) * slotSize
	if _, err := t.file.WriteAt(encodeSlot(seq, s), at); err != nil {
		return fmt.Errorf("store token: %w", err)
	}
	if err := t.file.Datasync(); err != nil {
		return fmt.Errorf("store token: %w", err)
	}
	t.seq = seq
	t.mu.Lock()
	t.now = s
	t.mu.Unlock()
	return nil
}

func digestOf(o raftfsm.Order) (string, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("digest of order: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeSlot(seq uint64, s Stored) []byte {
	body, err := json.Marshal(s)
	if err != nil || slotHead+len(body) > slotSize {
		panic(fmt.Sprintf("token slot of %d bytes: %v", len(body), err)) // plain data of bounded size
	}
	b := make([]byte, slotSize)
	n := copy(b, slotMagic)
	binary.BigEndian.PutUint64(b[n:], seq)
	binary.BigEndian.PutUint32(b[n+8:], uint32(len(body)))
	copy(b[slotHead:], body)
	// The checksum's own place is zero when it is computed.
	binary.BigEndian.PutUint32(b[n+12:], crc32.Checksum(b, castagnoli))
	return b
}

func decodeSlot(b []byte) (seq uint64, s Stored, ok bool) {
	n := len(slotMagic)
	if len(b) != slotSize || string(b[:n]) != slotMagic {
		return 0, Stored{}, false
	}
	whole := append([]byte(nil), b...)
	clear(whole[n+12 : slotHead])
	length := binary.BigEndian.Uint32(b[n+8:])
	if crc32.Checksum(whole, castagnoli) != binary.BigEndian.Uint32(b[n+12:]) || int(length) > slotSize-slotHead {
		return 0, Stored{}, false
	}
	if json.Unmarshal(b[slotHead:slotHead+int(length)], &s) != nil {
		return 0, Stored{}, false
	}
	return binary.BigEndian.Uint64(b[n:]), s, true
}
