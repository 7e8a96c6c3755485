package raftnode

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// IDFile holds the node id, beside the Raft store.
const IDFile = "node-id"

// LoadOrCreateID returns the node id kept in dir, beside the Raft store; fresh tells that it is new. An
// id without a store is replaced: a node that lost its memory must not vote again under the old id. A
// store without an id, or snapshots without a store, are [ErrTorn].
func LoadOrCreateID(dir string) (id string, fresh bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", false, fmt.Errorf("raft directory: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, IDFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("node id: %w", err)
	}
	id = strings.TrimSpace(string(b))
	hasStore := exists(filepath.Join(dir, boltFile))
	hasSnaps, err := filled(filepath.Join(dir, snapshotDir))
	switch {
	case err != nil:
		return "", false, fmt.Errorf("snapshots: %w", err)
	case id != "" && hasStore:
		return id, false, nil
	case hasStore:
		return "", false, fmt.Errorf("%w: %s has a store but no node id", ErrTorn, dir)
	case hasSnaps:
		return "", false, fmt.Errorf("%w: %s has snapshots but no store", ErrTorn, dir)
	}
	id = newID()
	if err := writeFile(dir, IDFile, id+"\n"); err != nil {
		return "", false, fmt.Errorf("node id: %w", err)
	}
	return id, true, nil
}

// newID returns 16 hex digits: enough that two never meet, few enough to read out.
func newID() string {
	b := make([]byte, 8)
	rand.Read(b) // never fails: it ends the process instead
	return hex.EncodeToString(b)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func filled(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return len(entries) > 0, err
}

// writeFile makes a file that after a crash is there with all its content or not at all.
func writeFile(dir, name, content string) error {
	tmp, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // in vain once it is renamed
	_, err = tmp.WriteString(content)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
