package xtra

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

var errCrash = errors.New("crash")

// put writes files below dir.
func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

func content(dir string) string {
	b, _ := os.ReadFile(filepath.Join(dir, "ibdata1"))
	return string(b)
}

func server(version string) map[string]string {
	return map[string]string{"ibdata1": version, "mysql.ibd": version, "auto.cnf": "uuid " + version, "app/t.ibd": version}
}

func cloner(t *testing.T, version string) CloneFunc {
	return func(_ context.Context, dir string, progress Progress) error {
		put(t, dir, server(version))
		progress(1, 2)
		return nil
	}
}

func list(t *testing.T, p Place) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(p.DataDir))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func run(t *testing.T, p Place, version string) error {
	t.Helper()
	if err := p.Prepare(); err != nil {
		return err
	}
	if err := p.Take(t.Context(), cloner(t, version), func(int64, int64) {}); err != nil {
		return err
	}
	return p.Swap()
}

func TestSwap(t *testing.T) {
	p := Place{DataDir: filepath.Join(t.TempDir(), "data")}
	put(t, p.DataDir, server("v1"))
	for i, version := range []string{"v2", "v3"} {
		if err := run(t, p, version); err != nil {
			t.Fatal(err)
		}
		if got, old := content(p.DataDir), content(p.Old()); got != version || old != []string{"v1", "v2"}[i] {
			t.Errorf("data %q, old %q", got, old)
		}
		if _, err := os.Stat(filepath.Join(p.DataDir, "auto.cnf")); err == nil {
			t.Error("the copy kept its donor's server_uuid")
		}
		if got := list(t, p); len(got) != 2 {
			t.Errorf("left over: %v", got)
		}
	}
}

// A crash between any two steps leaves the old data or the new ones in place
// after Recover, nothing half, no leftovers, and never removes the only copy.
func TestCrashAtEachStep(t *testing.T) {
	for _, step := range []string{"copy", "verify", "name", "discard", "away", "in", "clean"} {
		t.Run(step, func(t *testing.T) {
			p := Place{DataDir: filepath.Join(t.TempDir(), "data")}
			put(t, p.DataDir, server("v2"))
			put(t, p.Old(), server("v1"))
			p.Step = func(next string) error {
				if next == step {
					return errCrash
				}
				return nil
			}
			if err := run(t, p, "v3"); !errors.Is(err, errCrash) {
				t.Fatalf("got %v", err)
			}
			swapped, err := Place{DataDir: p.DataDir}.Recover()
			if err != nil {
				t.Fatal(err)
			}
			want, old := "v2", "v1"
			switch step {
			case "in":
				want, old = "v3", "v2"
				if !swapped {
					t.Error("the swap was finished but not said so")
				}
			case "clean":
				want, old = "v3", "v2"
			case "away":
				old = "" // a verified newer copy existed then
			}
			if got := content(p.DataDir); got != want {
				t.Errorf("data %q, want %q", got, want)
			}
			if got := content(p.Old()); got != old {
				t.Errorf("old %q, want %q", got, old)
			}
			for _, dir := range []string{p.clone(), p.fresh()} {
				if _, err := os.Stat(dir); err == nil {
					t.Errorf("%s was left", dir)
				}
			}
			if _, err := p.Recover(); err != nil {
				t.Errorf("a second Recover: %v", err)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	for name, tc := range map[string]func(dir string){
		"no system tablespace": func(dir string) { os.Remove(filepath.Join(dir, "ibdata1")) },
		"empty dictionary":     func(dir string) { os.Truncate(filepath.Join(dir, "mysql.ibd"), 0) },
		"in progress":          func(dir string) { put(t, dir, map[string]string{"#clone/#status_in_progress": "1"}) },
	} {
		p := Place{DataDir: filepath.Join(t.TempDir(), "data")}
		put(t, p.DataDir, server("v1"))
		if err := p.Prepare(); err != nil {
			t.Fatal(err)
		}
		err := p.Take(t.Context(), func(_ context.Context, dir string, _ Progress) error {
			put(t, dir, server("v2"))
			tc(dir)
			return nil
		}, nil)
		if !errors.Is(err, ErrIncomplete) {
			t.Errorf("%s: %v", name, err)
		}
		if err := p.Swap(); !errors.Is(err, ErrNoCopy) {
			t.Errorf("%s: swapped: %v", name, err)
		}
		if got := content(p.DataDir); got != "v1" {
			t.Errorf("%s: data %q", name, got)
		}
	}
}

func TestRecoverRefusesToGuess(t *testing.T) {
	p := Place{DataDir: filepath.Join(t.TempDir(), "data")}
	if swapped, err := p.Recover(); swapped || err != nil {
		t.Errorf("nothing at all: %v, %v", swapped, err)
	}
	put(t, p.Old(), server("v1"))
	if _, err := p.Recover(); !errors.Is(err, ErrDataGone) {
		t.Errorf("data moved away by somebody: %v", err)
	}
	if content(p.Old()) != "v1" {
		t.Error("the last copy was touched")
	}
}

func TestCheckRefuses(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "real"), server("v1"))
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "real"), link); err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{link, "/proc"} {
		if err := (Place{DataDir: data}).Prepare(); !errors.Is(err, ErrPlace) {
			t.Errorf("%s: %v", data, err)
		}
	}
}
