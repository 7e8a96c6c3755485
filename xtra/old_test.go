package xtra

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func placeWith(t *testing.T, dirs ...string) Place {
	t.Helper()
	p := Place{DataDir: filepath.Join(t.TempDir(), "data")}
	for _, suffix := range dirs {
		must(t, os.MkdirAll(p.beside(suffix), 0o750))
		must(t, os.WriteFile(filepath.Join(p.beside(suffix), "is"), []byte(suffix), 0o600))
	}
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, dir, want string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "is"))
	if err != nil || string(b) != want {
		t.Errorf("%s is %q, want %q: %v", dir, b, want, err)
	}
}

// What is known of the old data goes with them; of what has no note, as an older
// agent left it, nothing is known.
func TestReplaced(t *testing.T) {
	for _, want := range []Replaced{{}, {Known: true, Position: "x"}, {Keep: true, Known: true}} {
		p := placeWith(t, "", ".new")
		must(t, p.Mark(7, want))
		must(t, p.Swap())
		if got, there := p.Replaced(); got != want || !there || p.Lease() != 7 {
			t.Errorf("%+v became %+v, %v, lease %d", want, got, there, p.Lease())
		}
		is(t, p.DataDir, ".new")
		if done, err := p.DropOld(func() bool { return true }); !done || err != nil {
			t.Error(done, err)
		}
		if _, there := p.Replaced(); there {
			t.Error("still there")
		}
	}
	if r, _ := placeWith(t, "", ".old").Replaced(); r.Known {
		t.Errorf("%+v", r)
	}
}

func TestKeepOld(t *testing.T) {
	p := placeWith(t, "")
	for n := 1; n <= maxKept+1; n++ {
		must(t, os.MkdirAll(p.Old(), 0o750))
		if may := p.MayKeep(); (n > maxKept) != errors.Is(may, ErrKept) {
			t.Errorf("may be kept for the %d. time: %v", n, may)
		}
		err := p.KeepOld()
		if n <= maxKept && err != nil || n > maxKept && !errors.Is(err, ErrKept) {
			t.Errorf("kept %d times: %v", n, err)
		}
	}
	if _, there := p.Replaced(); !there {
		t.Error("what could not be kept is gone")
	}
}

func TestUndo(t *testing.T) {
	p := placeWith(t, "", ".old", ".clone")
	must(t, p.Undo())
	is(t, p.DataDir, ".old")
	left, _ := filepath.Glob(p.DataDir + ".*")
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := p.Undo(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without old data: %v", err)
	}
	is(t, p.DataDir, ".old")
}

func TestEmptyAndSizes(t *testing.T) {
	p := placeWith(t, "", ".old", ".kept-1")
	must(t, os.WriteFile(filepath.Join(p.DataDir, "t.ibd"), make([]byte, 1<<20), 0o600))
	must(t, os.WriteFile(filepath.Join(p.DataDir, "binlog.000001"), make([]byte, 1<<20), 0o600))
	if data, old := p.DataSize(), p.OldSize(); data < 1<<20 || data > 3<<19 || old == 0 || old > 1<<18 {
		t.Errorf("data %d, old %d", data, old)
	}
	if free, err := p.Free(); free <= 0 || err != nil {
		t.Errorf("free %d, %v", free, err)
	}
	must(t, p.Empty())
	if entries, err := os.ReadDir(p.DataDir); len(entries) > 0 || err != nil {
		t.Errorf("%v, %v", entries, err)
	}
}

// Data that are removed half way must not start: what names their transactions goes
// first, before any table.
func TestEmptyInterrupted(t *testing.T) {
	p := Place{DataDir: filepath.Join(t.TempDir(), "data"), Step: func(string) error { return errCrash }}
	put(t, p.DataDir, server("v1"))
	if err := p.Empty(); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	if err := verify(p.DataDir); !errors.Is(err, ErrIncomplete) {
		t.Errorf("a server might start on it: %v", err)
	}
	for _, name := range []string{"ibdata1", "mysql.ibd"} {
		if _, err := os.Stat(filepath.Join(p.DataDir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(p.DataDir, "app", "t.ibd")); err != nil {
		t.Error(err)
	}
}

func TestSchemas(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"mysql", "sys", "performance_schema", "#innodb_redo"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o750))
	}
	must(t, os.WriteFile(filepath.Join(dir, "ibdata1"), nil, 0o600))
	if got, err := Schemas(dir); len(got) != 0 || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	must(t, os.Mkdir(filepath.Join(dir, "shop"), 0o750))
	if got, err := Schemas(dir); len(got) != 1 || got[0] != "shop" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := Schemas(filepath.Join(dir, "none")); err == nil {
		t.Error("no directory, no error")
	}
}
