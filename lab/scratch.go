package lab

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ownerFile is locked in a scratch directory by the process that it belongs to, for as
// long as that lives.
const ownerFile = "owner"

// Scratch makes a directory for logs and binaries that goes with this process: when
// that ends without having removed it (a panic, Ctrl-C of a test) the next one that
// wants a directory does.
func Scratch() (dir string, err error) {
	sweep()
	if dir, err = os.MkdirTemp("", "ha-lab-"); err != nil {
		return "", err
	}
	// Never closed, and locked before it has its name: else it looks like one of the dead.
	fd, err := unix.Open(filepath.Join(dir, ".owner"), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(filepath.Join(dir, ".owner"), filepath.Join(dir, ownerFile))
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", &os.PathError{Op: "lock", Path: dir, Err: err}
	}
	return dir, nil
}

// Keep lets a scratch directory outlive this process for good.
func Keep(dir string) { _ = os.Remove(filepath.Join(dir, ownerFile)) }

// sweep removes the directories of processes that have ended.
func sweep() {
	owners, _ := filepath.Glob(filepath.Join(os.TempDir(), "ha-lab-*", ownerFile))
	for _, path := range owners {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
		_ = unix.Close(fd)
	}
}
