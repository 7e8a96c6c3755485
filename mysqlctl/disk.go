package mysqlctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	probeSize = 4096
	// fullBelow is the free space at which a disk is called full: mysqld stops
	// committing before the last byte is gone.
	fullBelow = 1 << 20
)

// diskProbe lets one probe run at a time: one that hangs would pile up.
type diskProbe struct {
	mu   sync.Mutex
	hung bool
}

// ProbeDisk writes a block to a scratch file on the data's file system, and on that
// of the binary log if it is another, and syncs it: ErrDiskHung if that does not
// return before ctx ends, ErrDiskFull, ErrDiskReadOnly. The block is preallocated,
// so a probe needs no space. No SQL: that would hang behind waiting commits.
func (s *Server) ProbeDisk(ctx context.Context) error {
	s.disk.mu.Lock()
	if s.disk.hung {
		s.disk.mu.Unlock()
		return fmt.Errorf("%w: an earlier probe still writes", ErrDiskHung)
	}
	s.disk.hung = true
	s.disk.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		err := probeDisk(s.cfg.DataDir)
		if logs := filepath.Dir(s.cfg.logBin()); err == nil && otherDevice(logs, s.cfg.DataDir) {
			err = probeDisk(logs)
		}
		s.disk.mu.Lock()
		s.disk.hung = false
		s.disk.mu.Unlock()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrDiskHung, ctx.Err())
	}
}

func otherDevice(a, b string) bool {
	var sa, sb unix.Stat_t
	return unix.Stat(a, &sa) == nil && unix.Stat(b, &sb) == nil && sa.Dev != sb.Dev
}

func probeDisk(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return diskError(dir, err)
	}
	if fs.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("%w: %s", ErrDiskReadOnly, dir)
	}
	if fs.Bavail*uint64(fs.Bsize) < fullBelow {
		return fmt.Errorf("%w: %d bytes are free in %s", ErrDiskFull, fs.Bavail*uint64(fs.Bsize), dir)
	}
	f, err := os.OpenFile(filepath.Join(dir, ".ha_probe"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return diskError(dir, err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, probeSize), 0); err != nil {
		return diskError(dir, err)
	}
	return diskError(dir, unix.Fdatasync(int(f.Fd())))
}

// diskError names what can be named.
func diskError(dir string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: %s: %w", ErrDiskReadOnly, dir, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %s: %w", ErrDiskFull, dir, err)
	}
	return fmt.Errorf("probe %s: %w", dir, err)
}
