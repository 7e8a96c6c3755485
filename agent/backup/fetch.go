package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ha/agent/api"
	"ha/agent/stream"
	"ha/xtra"
)

// Progress says how a backup or a restore goes.
type Progress = api.BackupProgress

// Fetch has the agent at addr (host:port) take a backup and keeps it in dir, which is
// made if it is missing. It gets its name when it is whole and durable, and not
// before; what failed or was ended is removed. client is wire.StreamClient's.
func Fetch(ctx context.Context, client *http.Client, addr, dir string, req api.BackupRequest, progress func(Progress)) (xtra.Manifest, error) {
	var m xtra.Manifest
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return m, api.Failed("make the directory for backups: %w", err)
	}
	part, release, err := makePartial(dir)
	if err != nil {
		return m, err
	}
	defer release()
	m, err = receive(ctx, client, addr, part, req, progress)
	if err == nil {
		m.Name, err = publish(dir, part, m)
	}
	if err != nil {
		return m, errors.Join(err, os.RemoveAll(part))
	}
	return m, nil
}

// makePartial makes a directory that is locked for as long as this process lives:
// so it is known which leftovers are some. It has no name of one before it is locked.
func makePartial(dir string) (path string, release func(), err error) {
	hidden, err := os.MkdirTemp(dir, "."+xtra.PartialName)
	if err != nil {
		return "", nil, api.Failed("make the directory of the backup: %w", err)
	}
	path = filepath.Join(dir, strings.TrimPrefix(filepath.Base(hidden), "."))
	f, err := os.Open(hidden)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		return "", nil, errors.Join(api.Failed("lock %s: %w", path, err), os.Remove(hidden))
	}
	return path, func() { _ = f.Close() }, nil
}

// beingMade says that a running process holds the lock of an unfinished backup.
func beingMade(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// receive fills the directory and compares it with what the donor has read.
func receive(ctx context.Context, client *http.Client, addr, part string, req api.BackupRequest, progress func(Progress)) (xtra.Manifest, error) {
	var m xtra.Manifest
	in, err := stream.Open(ctx, client, addr, api.PathBackup, req)
	if err != nil {
		return m, err
	}
	defer in.Close()
	data := filepath.Join(part, xtra.BackupData)
	if err := os.Mkdir(data, 0o700); err != nil {
		return m, err
	}
	at := Progress{}
	note := func(kind string, text []byte) error {
		switch kind {
		case stream.NoteError:
			return stream.Failure(text)
		case stream.NoteProgress:
			if err := json.Unmarshal(text, &at); err != nil {
				return err
			}
			progress(at)
			if at.Phase == "send" {
				return roomFor(part, at.Total)
			}
		}
		return nil
	}
	took := func(n int64) {
		at.Done += n
		progress(at)
	}
	got, end, err := xtra.Receive(in.Context(), in, data, note, took)
	if errors.Is(err, xtra.ErrCutShort) {
		err = api.Failed("the donor is gone: %w", err)
	}
	if err != nil {
		return m, in.Because(err)
	}
	if err := json.Unmarshal(end, &m); err != nil {
		return m, fmt.Errorf("read the donor's list of files: %w", err)
	}
	if err := xtra.SameTree(got, m.Tree); err != nil {
		return m, api.Failed("the backup is not what the donor sent: %w", err)
	}
	return m, nil
}

func roomFor(dir string, total int64) error {
	free, err := freeBytes(dir)
	if err == nil && free < uint64(total) {
		return api.Refused("HA-NO-SPACE", "the backup has %d MB and %s has %d MB free", total>>20, filepath.Dir(dir), free>>20).
			WithHint("make room there (ha backup delete), or take another directory with --to")
	}
	return err
}

// publish makes the backup durable and gives it its name.
func publish(dir, part string, m xtra.Manifest) (string, error) {
	if err := xtra.Sync(part); err != nil {
		return "", api.Failed("sync the backup: %w", err)
	}
	m.Name = xtra.BackupName(m.Began, m.Cluster)
	for n := 2; ; n++ {
		if _, err := os.Lstat(filepath.Join(dir, m.Name)); errors.Is(err, fs.ErrNotExist) {
			break
		}
		m.Name = fmt.Sprintf("%s-%d", xtra.BackupName(m.Began, m.Cluster), n)
	}
	if err := xtra.WriteManifest(part, m); err != nil {
		return "", api.Failed("write the manifest: %w", err)
	}
	if err := os.Rename(part, filepath.Join(dir, m.Name)); err != nil {
		return "", api.Failed("name the backup: %w", err)
	}
	if err := xtra.SyncDir(dir); err != nil {
		return "", api.Failed("sync %s: %w", dir, err)
	}
	return m.Name, nil
}
