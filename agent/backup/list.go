package backup

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"ha/agent/api"
	"ha/xtra"
)

// Entry is one directory among backups, without the list of its files.
type Entry struct {
	Name     string    `json:"name"`
	State    string    `json:"state"` // whole, partial, being made, broken
	Why      string    `json:"why,omitempty"`
	Cluster  string    `json:"cluster,omitempty"`
	Donor    string    `json:"donor,omitempty"`
	MySQL    string    `json:"mysql,omitempty"`
	Executed string    `json:"gtid_executed,omitempty"`
	Began    time.Time `json:"began,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	Bytes    int64     `json:"bytes,omitempty"`
	Files    int       `json:"files,omitempty"`
}

// List says what is in a directory of backups, the oldest first. Files are looked at,
// not read: a whole one has all of them in their sizes.
func List(dir string) ([]Entry, error) {
	all, err := xtra.ListBackups(dir)
	if err != nil {
		return nil, api.Failed("list backups: %w", err)
	}
	out := []Entry{}
	for _, b := range all {
		e := Entry{Name: b.Name, State: string(b.State), Why: b.Why}
		switch b.State {
		case xtra.BackupPartial:
			e.Why = "left of an interrupted backup: ha backup delete removes it"
			if beingMade(filepath.Join(dir, b.Name)) {
				e.State, e.Why = "being made", ""
			}
		case xtra.BackupWhole:
			e.Cluster, e.Donor, e.MySQL, e.Executed = b.Cluster, b.Donor, b.MySQL, b.Executed.String()
			e.Began, e.Ended, e.Bytes, e.Files = b.Began, b.Ended, b.Bytes, len(b.Files)
		}
		out = append(out, e)
	}
	return out, nil
}

// Verify reads all of a backup; the error names the first file that is not what it was.
func Verify(ctx context.Context, path string, progress func(Progress)) (xtra.Manifest, error) {
	at := Progress{Phase: "verify"}
	if m, err := xtra.ReadManifest(path); err == nil {
		at.Total = m.Bytes
	}
	m, err := xtra.VerifyBackup(ctx, path, func(n int64) {
		at.Done += n
		progress(at)
	})
	if err != nil {
		return m, broken(path, err)
	}
	return m, nil
}

func broken(path string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return api.Failed("%s is no good: %w", path, err).WithHint("`ha backup list %s` shows the others", filepath.Dir(filepath.Clean(path)))
}
