package node

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"ha/raftfsm"
)

func mustOpenTokens(t *testing.T, dir string) *Tokens {
	t.Helper()
	s, err := OpenTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func tok(epoch, index, step uint64) raftfsm.Token {
	return raftfsm.Token{Epoch: epoch, Index: index, Step: step}
}

func TestTokensVerdicts(t *testing.T) {
	dir := t.TempDir()
	s := mustOpenTokens(t, dir)
	promote := raftfsm.Order{Token: tok(2, 20, 1), Op: raftfsm.OpPromote, K: 1}
	for _, step := range []struct {
		name  string
		order raftfsm.Order
		want  Verdict
		role  Role
	}{
		{"first", raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpSeal}, Fresh, RoleNone},
		{"the same again", raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpSeal}, Again, RoleNone},
		{"same token, other operation", raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpPrepare}, Stale, RoleNone},
		{"same token, other argument", raftfsm.Order{Token: tok(1, 10, 1), Op: raftfsm.OpSeal, Former: true}, Stale, RoleNone},
		{"smaller step", raftfsm.Order{Token: tok(1, 10, 0), Op: raftfsm.OpSeal}, Stale, RoleNone},
		{"smaller epoch, greater index", raftfsm.Order{Token: tok(0, 99, 9), Op: raftfsm.OpSeal}, Stale, RoleNone},
		{"promotion", promote, Fresh, RolePrimary},
		{"late seal of the epoch before", raftfsm.Order{Token: tok(1, 19, 9), Op: raftfsm.OpSeal}, Stale, RolePrimary},
		{"promotion again", promote, Again, RolePrimary},
	} {
		got, err := s.Accept(step.order)
		if err != nil || got != step.want || s.Now().Role != step.role {
			t.Errorf("%s: %v, %v, role %s; want %v, role %s", step.name, got, err, s.Now().Role, step.want, step.role)
		}
		// Every verdict holds after a restart as well.
		if again := mustOpenTokens(t, dir); again.Now() != s.Now() {
			t.Errorf("%s: stored %+v, in memory %+v", step.name, again.Now(), s.Now())
		}
	}
	if s.Now().Reign != 2 {
		t.Errorf("reign %d, want 2", s.Now().Reign)
	}
	if err := s.SetRole(tok(1, 1, 1), RoleReplica); err != nil || s.Now().Role != RolePrimary {
		t.Errorf("an older order's role was stored: %v", err)
	}
	if err := s.SetRole(promote.Token, RoleReplica); err != nil || s.Now().Role != RoleReplica || s.Now().Reign != 0 {
		t.Errorf("role not stored: %v, %+v", err, s.Now())
	}
	if v, err := s.Accept(promote); err != nil || v != Again {
		t.Errorf("after SetRole the order is not the same any more: %v, %v", v, err)
	}
}

// A write that is torn anywhere leaves the token before it, or the new one.
func TestTokensTornWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	s := mustOpenTokens(t, dir)
	for i := range uint64(3) {
		if _, err := s.Accept(raftfsm.Order{Token: tok(1, i+1, 1)}); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	old := s.Now().Token
	if _, err := s.Accept(raftfsm.Order{Token: tok(2, 9, 1)}); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 0; cut <= len(after); cut += 7 {
		torn := append(append([]byte(nil), after[:cut]...), before[cut:]...)
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		got := mustOpenTokens(t, dir).Now().Token
		if got != old && got != tok(2, 9, 1) {
			t.Fatalf("cut at %d: token %v", cut, got)
		}
	}
}

func TestTokensOneSlotBad(t *testing.T) {
	for slot := range 2 {
		dir := t.TempDir()
		path := filepath.Join(dir, "token")
		s := mustOpenTokens(t, dir)
		for i := range uint64(2) {
			if _, err := s.Accept(raftfsm.Order{Token: tok(1, i+1, 1)}); err != nil {
				t.Fatal(err)
			}
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[slot*slotSize+slotHead+3] ^= 0x40
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		again := mustOpenTokens(t, dir)
		// Sequence 3 (token 1.2.1) lies in slot 0, sequence 2 in slot 1.
		if want := []raftfsm.Token{tok(1, 1, 1), tok(1, 2, 1)}[slot]; again.Now().Token != want {
			t.Errorf("slot %d bad: token %v, want %v", slot, again.Now().Token, want)
		}
		// The damaged slot is the next one to be written or the one after.
		for i := range uint64(2) {
			if v, err := again.Accept(raftfsm.Order{Token: tok(3, i, 1)}); v != Fresh || err != nil {
				t.Errorf("after damage: %v, %v", v, err)
			}
		}
		if got := mustOpenTokens(t, dir).Now().Token; got != tok(3, 1, 1) {
			t.Errorf("stored %v", got)
		}
	}
}

func TestTokensBothSlotsBad(t *testing.T) {
	for name, content := range map[string][]byte{
		"empty":   {},
		"zeros":   make([]byte, 2*slotSize),
		"garbage": []byte("HATOKEN1 and then nothing that makes sense"),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "token"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := OpenTokens(dir); !errors.Is(err, ErrTokenFile) {
			t.Errorf("%s: %+v, %v; want %v", name, s, err, ErrTokenFile)
		}
	}
}

// fullDisk refuses to grow the file and to write while broken is set.
type fullDisk struct {
	osTokenFile
	size   int64
	broken error
}

func (f *fullDisk) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.size {
		return 0, syscall.ENOSPC
	}
	if f.broken != nil {
		n, _ := f.osTokenFile.WriteAt(p[:slotHead+9], off)
		return n, f.broken
	}
	return f.osTokenFile.WriteAt(p, off)
}

// A full disk has no new block to give: the store must not need one. A disk
// that refuses even that (EIO) makes the store refuse, and keeps the old token.
func TestTokensFullDisk(t *testing.T) {
	dir := t.TempDir()
	mustOpenTokens(t, dir).Close()
	f, err := os.OpenFile(filepath.Join(dir, "token"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	disk := &fullDisk{osTokenFile: osTokenFile{f}, size: info.Size()}
	s, err := loadTokens(disk)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(5) {
		if v, err := s.Accept(raftfsm.Order{Token: tok(1, i+1, 1)}); v != Fresh || err != nil {
			t.Fatalf("full disk: %v, %v", v, err)
		}
	}
	disk.broken = syscall.EIO
	if v, err := s.Accept(raftfsm.Order{Token: tok(1, 9, 1)}); v == Fresh || !errors.Is(err, syscall.EIO) {
		t.Fatalf("broken disk: %v, %v", v, err)
	}
	disk.broken = nil
	if got := mustOpenTokens(t, dir).Now().Token; got != tok(1, 5, 1) {
		t.Errorf("after a failed write: %v", got)
	}
	if v, err := s.Accept(raftfsm.Order{Token: tok(1, 9, 1)}); v != Fresh || err != nil {
		t.Errorf("disk well again: %v, %v", v, err)
	}
}

// An agent that is being stopped closes the file while an order still comes in.
// That order is refused, and no other file is synced in its place.
func TestTokensClosedWhileOneIsStored(t *testing.T) {
	s, err := OpenTokens(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	stored, done := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		for step := uint64(1); ; step++ {
			if _, err := s.Accept(raftfsm.Order{Token: tok(1, 1, step), Op: raftfsm.OpSeal}); err != nil {
				done <- err
				return
			}
			select {
			case stored <- struct{}{}:
			default:
			}
		}
	}()
	<-stored
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; errors.Is(err, syscall.EBADF) {
		t.Errorf("a closed descriptor was used: %v", err)
	}
}
