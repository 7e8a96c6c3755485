package backup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ha/agent/api"
	"ha/xtra"
)

// Deleted is what Delete removed.
type Deleted struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Delete keeps the newest whole backups of each cluster in dir, keep of them, and removes
// the older ones, and what interrupted backups left. Broken ones are left for a person to
// look at. The newest whole one of a cluster stays whatever keep is.
func Delete(dir string, keep int) ([]Deleted, error) {
	all, err := xtra.ListBackups(dir)
	if err != nil {
		return nil, api.Failed("list backups: %w", err)
	}
	// A person may have given one another name.
	slices.SortStableFunc(all, func(a, b xtra.Backup) int { return b.Began.Compare(a.Began) })
	out := []Deleted{}
	whole := map[string]int{} // by cluster
	for _, b := range all {
		path := filepath.Join(dir, b.Name)
		why := ""
		switch {
		case b.State == xtra.BackupPartial && !beingMade(path):
			why = "it was never finished"
		case b.State == xtra.BackupWhole:
			if whole[b.Cluster]++; whole[b.Cluster] > max(keep, 1) {
				why = "it is older than those that are kept"
			}
		}
		if why == "" {
			continue
		}
		if err := remove(path); err != nil {
			return out, api.Failed("delete %s: %w", b.Name, err)
		}
		out = append(out, Deleted{b.Name, why})
	}
	return out, nil
}

// remove takes the good name away first: half a backup must not have it.
func remove(path string) error {
	if !strings.HasSuffix(path, xtra.Partial) {
		if err := os.Rename(path, path+xtra.Partial); err != nil {
			return err
		}
		path += xtra.Partial
		if err := xtra.SyncDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	return os.RemoveAll(path)
}

// Leftovers names what interrupted backups left in dir; none if there is no such
// directory.
func Leftovers(dir string) ([]string, error) {
	all, err := xtra.ListBackups(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, b := range all {
		if b.State == xtra.BackupPartial && !beingMade(filepath.Join(dir, b.Name)) {
			out = append(out, b.Name)
		}
	}
	return out, err
}
