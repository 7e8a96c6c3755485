package xtra

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"ha/mysqlctl/gtid"
)

// A backup is a directory with the data as files in DataDir and a Manifest beside
// them, which is written last. While it is being made, or removed, it has another
// name: one that ends in Partial.
const (
	ManifestFile = "manifest.json"
	BackupData   = "data"
	Partial      = ".partial"
	// PartialName is the pattern of a backup's name while it is being made.
	PartialName = "backup-*" + Partial
)

// partialName is what an unfinished backup is called, or one that is being removed: what
// else ends in Partial is somebody else's.
var partialName = regexp.MustCompile(`^(backup-\d+|\d{8}T\d{6}Z-.+)\.partial$`)

// manifestFormat is the version of what is written here. In the first one a manifest had
// no sum of itself; those are taken as they are.
const (
	manifestFormat = 2
	withoutSum     = 1
)

// Manifest says what a backup holds. Fields are only ever added.
type Manifest struct {
	Format     int       `json:"format"`
	Name       string    `json:"name"`
	Cluster    string    `json:"cluster"` // id
	Donor      string    `json:"donor"`   // name of the node
	ServerUUID string    `json:"server_uuid"`
	MySQL      string    `json:"mysql"` // version
	HA         string    `json:"ha"`    // version of the donor's agent
	Executed   gtid.Set  `json:"gtid_executed"`
	Began      time.Time `json:"began"`
	Copied     time.Time `json:"copied,omitzero"` // the data are as of a moment before; not in older ones
	Ended      time.Time `json:"ended"`
	// Options are what a mysqld must be told to start on the data.
	Options []string `json:"options"`
	Bytes   int64    `json:"bytes"`
	// Sum is the SHA-256 of the manifest with an empty Sum.
	Sum string `json:"manifest_sha256"`
	Tree
}

// BackupName is the name of a backup that was begun at t: sorted, names are in the
// order of time.
func BackupName(t time.Time, cluster string) string {
	return t.UTC().Format("20060102T150405Z") + "-" + cluster
}

// WriteManifest makes a directory a backup. All else in it must be durable.
func WriteManifest(dir string, m Manifest) error {
	m.Format, m.Sum = manifestFormat, ""
	text, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	m.Sum = hex.EncodeToString(sum[:])
	if text, err = json.MarshalIndent(m, "", " "); err != nil {
		return err
	}
	name := filepath.Join(dir, ManifestFile)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), SyncDir(dir))
}

// ReadManifest reads a backup's manifest. ErrIncomplete: it has none.
func ReadManifest(dir string) (Manifest, error) {
	var m Manifest
	text, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%w: it has no %s", ErrIncomplete, ManifestFile)
	}
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%s: %w", ManifestFile, err)
	}
	if m.Format != manifestFormat && m.Format != withoutSum {
		return m, fmt.Errorf("%s has format %d, and this ha knows %d", ManifestFile, m.Format, manifestFormat)
	}
	// Of the text itself: it may have fields of a later version.
	sum := sha256.Sum256(bytes.Replace(bytes.TrimSuffix(text, []byte("\n")), []byte(m.Sum), nil, 1))
	if (m.Format != withoutSum || m.Sum != "") && m.Sum != hex.EncodeToString(sum[:]) {
		return m, fmt.Errorf("%s %w: its own sum does not fit", ManifestFile, ErrDiffers)
	}
	for _, path := range slices.Concat(m.Dirs, paths(m.Files)) {
		if !filepath.IsLocal(filepath.FromSlash(path)) {
			return m, fmt.Errorf("%s names %q, which is outside", ManifestFile, path)
		}
	}
	return m, nil
}

func paths(files []File) []string {
	out := make([]string, len(files))
	for i, f := range files {
		out[i] = f.Path
	}
	return out
}

// SameTree compares what is with what should be: ErrDiffers names the first that
// does.
func SameTree(is, want Tree) error {
	have := make(map[string]File, len(is.Files))
	for _, f := range is.Files {
		have[f.Path] = f
	}
	for _, w := range want.Files {
		h, ok := have[w.Path]
		switch {
		case !ok:
			return fmt.Errorf("%s %w: it is missing", w.Path, ErrDiffers)
		case h.Size != w.Size:
			return fmt.Errorf("%s %w: it has %d bytes, not %d", w.Path, ErrDiffers, h.Size, w.Size)
		case h.SHA256 != w.SHA256:
			return fmt.Errorf("%s %w: its SHA-256 is %s, not %s", w.Path, ErrDiffers, h.SHA256, w.SHA256)
		}
		delete(have, w.Path)
	}
	for path := range have {
		return fmt.Errorf("%s %w: it was not there", path, ErrDiffers)
	}
	for _, d := range want.Dirs {
		if !slices.Contains(is.Dirs, d) {
			return fmt.Errorf("%s %w: the directory is missing", d, ErrDiffers)
		}
	}
	return nil
}

// VerifyBackup reads all files of a backup and compares them with its manifest:
// ErrDiffers, ErrIncomplete. progress, if not nil, is told the bytes read since.
func VerifyBackup(ctx context.Context, dir string, progress func(n int64)) (Manifest, error) {
	m, err := ReadManifest(dir)
	if err != nil {
		return m, err
	}
	data := filepath.Join(dir, BackupData)
	is, err := walk(data, func(path string, info fs.FileInfo) (string, error) {
		if info.IsDir() {
			return "", nil
		}
		f, err := os.Open(filepath.Join(data, filepath.FromSlash(path)))
		if err != nil {
			return "", err
		}
		defer f.Close()
		return copySum(ctx, io.Discard, f, progress)
	})
	if err != nil {
		return m, err
	}
	return m, SameTree(is, m.Tree)
}

// CopyBackup copies the data of a backup into dir, which exists and is empty, and
// compares them with its manifest on the way. Nothing is synced: see Sync.
func CopyBackup(ctx context.Context, backup, dir string, progress func(n int64)) (Manifest, error) {
	m, err := ReadManifest(backup)
	if err != nil {
		return m, err
	}
	data := filepath.Join(backup, BackupData)
	is, err := walk(data, func(path string, info fs.FileInfo) (string, error) {
		name := filepath.Join(dir, filepath.FromSlash(path))
		if info.IsDir() {
			return "", os.Mkdir(name, 0o750)
		}
		in, err := os.Open(filepath.Join(data, filepath.FromSlash(path)))
		if err != nil {
			return "", err
		}
		defer in.Close()
		f, err := writeFile(ctx, name, in, progress)
		return f.SHA256, err
	})
	if err != nil {
		return m, err
	}
	return m, SameTree(is, m.Tree)
}

// BackupState says how a directory among backups is.
type BackupState string

// What it can be.
const (
	BackupWhole   BackupState = "whole" // all files are there in their sizes; VerifyBackup reads them
	BackupPartial BackupState = "partial"
	BackupBroken  BackupState = "broken"
)

// Backup is one directory among backups.
type Backup struct {
	Name  string
	State BackupState
	Why   string // it is broken
	Manifest
}

// ListBackups finds what lies in dir, the oldest first. Other files and directories
// than backups are left out.
func ListBackups(dir string) ([]Backup, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []Backup
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		b := Backup{Name: e.Name(), State: BackupWhole}
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(e.Name(), Partial) {
			if !partialName.MatchString(e.Name()) {
				continue
			}
			b.State = BackupPartial
			out = append(out, b)
			continue
		}
		if b.Manifest, err = ReadManifest(path); err == nil {
			err = sizes(filepath.Join(path, BackupData), b.Files)
		} else if _, no := os.Stat(filepath.Join(path, BackupData)); no != nil && errors.Is(err, ErrIncomplete) {
			continue // something else
		}
		if err != nil {
			b.State, b.Why = BackupBroken, err.Error()
		}
		out = append(out, b)
	}
	slices.SortStableFunc(out, func(a, b Backup) int {
		return bytes.Compare([]byte(a.Name), []byte(b.Name))
	})
	return out, nil
}

func sizes(data string, files []File) error {
	for _, f := range files {
		info, err := os.Stat(filepath.Join(data, filepath.FromSlash(f.Path)))
		if err != nil {
			return fmt.Errorf("%s %w: %w", f.Path, ErrDiffers, err)
		}
		if info.Size() != f.Size {
			return fmt.Errorf("%s %w: it has %d bytes, not %d", f.Path, ErrDiffers, info.Size(), f.Size)
		}
	}
	return nil
}

// Chown gives a path and all below it to a user and a group; links themselves, not what
// they lead to.
func Chown(path string, uid, gid int) error {
	return filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
