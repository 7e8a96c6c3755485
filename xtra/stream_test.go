package xtra

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ha/mysqlctl/gtid"
)

type pipe struct{ bytes.Buffer }

func (p *pipe) Flush() error { return nil }

// tree makes a directory with files, and one without.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"app", "empty"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"ibdata1": strings.Repeat("page", 100_000), "app/t.ibd": "rows", "nothing": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// sent is a whole stream of dir.
func sent(t *testing.T, dir string) ([]byte, Tree) {
	t.Helper()
	var out pipe
	s, err := NewSender(&out)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Note("progress", "half"); err != nil {
		t.Fatal(err)
	}
	files, err := s.Files(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.End("over"); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), files
}

func TestStream(t *testing.T) {
	stream, want := sent(t, tree(t))
	if want.Total() != 400_004 || len(want.Files) != 3 || len(want.Dirs) != 2 {
		t.Errorf("%+v", want)
	}
	var told []string
	var took int64
	note := func(kind string, text []byte) error { told = append(told, kind+string(text)); return nil }
	got, end, err := Receive(t.Context(), bytes.NewReader(stream), t.TempDir(), note, func(n int64) { took += n })
	if err != nil || string(end) != `"over"` || took != want.Total() || len(told) != 1 || told[0] != `progress"half"` {
		t.Errorf("%v, end %s, %d bytes, notes %q", err, end, took, told)
	}
	if err := SameTree(got, want); err != nil {
		t.Error(err)
	}
	// Wherever it is cut short it is no copy; what comes after the end is padding.
	for n := range len(stream) {
		got, end, err := Receive(t.Context(), bytes.NewReader(stream[:n]), t.TempDir(), note, nil)
		if err == nil && (string(end) != `"over"` || SameTree(got, want) != nil) {
			t.Fatalf("the first %d of %d bytes are taken for the whole", n, len(stream))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Receive(ctx, bytes.NewReader(stream), t.TempDir(), note, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
}

// madeBackup is a backup of tree.
func madeBackup(t *testing.T, dir, name string) Manifest {
	t.Helper()
	stream, _ := sent(t, tree(t))
	data := filepath.Join(dir, name, BackupData)
	if err := os.MkdirAll(data, 0o750); err != nil {
		t.Fatal(err)
	}
	got, _, err := Receive(t.Context(), bytes.NewReader(stream), data, func(string, []byte) error { return nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	set, err := gtid.Parse("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5")
	if err != nil {
		t.Fatal(err)
	}
	m := Manifest{Name: name, Cluster: "c", Donor: "n2", Executed: set, Bytes: got.Total(), Tree: got}
	if err := WriteManifest(filepath.Join(dir, name), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestVerifyBackupNamesWhatDiffers(t *testing.T) {
	data := func(dir, name string) string { return filepath.Join(dir, "one", BackupData, name) }
	for name, c := range map[string]struct {
		harm func(dir string) error
		want string
	}{
		"nothing": {func(string) error { return nil }, ""},
		"one flipped bit": {func(dir string) error {
			f, err := os.OpenFile(data(dir, "ibdata1"), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte{'p' ^ 1}, 200_000)
			return err
		}, "ibdata1 differs: its SHA-256"},
		"cut off":   {func(dir string) error { return os.Truncate(data(dir, "app/t.ibd"), 3) }, "app/t.ibd differs: it has 3 bytes"},
		"missing":   {func(dir string) error { return os.Remove(data(dir, "nothing")) }, "nothing differs: it is missing"},
		"directory": {func(dir string) error { return os.Remove(data(dir, "empty")) }, "empty differs: the directory"},
		"one more":  {func(dir string) error { return os.WriteFile(data(dir, "more"), nil, 0o600) }, "more differs: it was not there"},
		"manifest":  {func(dir string) error { return os.Remove(filepath.Join(dir, "one", ManifestFile)) }, "not complete"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			want := madeBackup(t, dir, "one")
			if err := c.harm(dir); err != nil {
				t.Fatal(err)
			}
			target := t.TempDir()
			m, err := VerifyBackup(t.Context(), filepath.Join(dir, "one"), nil)
			_, copied := CopyBackup(t.Context(), filepath.Join(dir, "one"), target, nil)
			if c.want == "" {
				if err != nil || copied != nil || !m.Executed.Equal(want.Executed) || m.Bytes != want.Bytes {
					t.Errorf("%v, %v, %+v", err, copied, m)
				}
				return
			}
			for _, err := range []error{err, copied} {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
			}
		})
	}
}

// Whatever bit of a manifest is flipped, it is no manifest any more. One of the first
// format, without a sum, is taken as it is.
func TestManifestHasASum(t *testing.T) {
	dir := t.TempDir()
	set := gtid.MustParse("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5")
	if err := WriteManifest(dir, Manifest{Name: "one", Executed: set, Options: []string{"--lower-case-table-names=1"}}); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, ManifestFile)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	read := func(text []byte) (Manifest, error) {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return ReadManifest(dir)
	}
	if m, err := read(good); err != nil || !m.Executed.Equal(set) {
		t.Fatalf("%+v, %v", m, err)
	}
	for i := range good {
		for _, bit := range []byte{1, 32} {
			bad := bytes.Clone(good)
			bad[i] ^= bit
			if _, err := read(bad); err == nil {
				t.Errorf("bit %d of byte %d is flipped: %q", bit, i, bad[max(0, i-20):min(i+20, len(bad))])
			}
		}
	}
	if _, err := read(bytes.Replace(good, []byte(":1-5"), []byte(":1-7"), 1)); !errors.Is(err, ErrDiffers) {
		t.Errorf("another GTID set: %v", err)
	}
	old := regexp.MustCompile(`(?m)^ "manifest_sha256".*\n`).ReplaceAll(good, nil)
	if _, err := read(old); !errors.Is(err, ErrDiffers) {
		t.Errorf("without its sum: %v", err)
	}
	if m, err := read(bytes.Replace(old, []byte(`"format": 2`), []byte(`"format": 1`), 1)); err != nil || !m.Executed.Equal(set) {
		t.Errorf("of the first format: %+v, %v", m, err)
	}
}

func TestListBackups(t *testing.T) {
	dir := t.TempDir()
	madeBackup(t, dir, "b")
	madeBackup(t, dir, "a")
	madeBackup(t, dir, "20260301T080507Z-c"+Partial)
	madeBackup(t, dir, "download"+Partial)
	madeBackup(t, dir, "d")
	if err := os.Truncate(filepath.Join(dir, "d", BackupData, "ibdata1"), 1); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "something else"), 0o750); err != nil {
		t.Fatal(err)
	}
	all, err := ListBackups(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range all {
		got = append(got, b.Name+" "+string(b.State))
	}
	if strings.Join(got, ", ") != "20260301T080507Z-c.partial partial, a whole, b whole, d broken" {
		t.Errorf("%q", got)
	}
}

func TestBackupNamesSortByTime(t *testing.T) {
	at := time.Date(2026, 3, 1, 9, 5, 7, 0, time.FixedZone("", 3600))
	if got := BackupName(at, "c0ffee"); got != "20260301T080507Z-c0ffee" {
		t.Error(got)
	}
	if BackupName(at, "z") > BackupName(at.Add(24*time.Hour), "a") {
		t.Error("an older one sorts behind")
	}
}
