package xtra

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A disk that others use at the same time, whose commits wait for it, is given little
// at a time.
const (
	pushEvery = 50 * time.Millisecond
	// pushShare: files are looked through for no more than a tenth of the time.
	pushShare = 10
	// freeStep is how many bytes of a file are freed at once. A file system that is
	// mounted with discard tells the disk of each.
	freeStep = 16 << 20
)

// Pushed has what write writes below dir handed to the disk meanwhile.
func Pushed(ctx context.Context, dir string, write func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go push(ctx, dir) // nobody waits for its end: the disk may hang
	return write()
}

// push hands what is written below dir to the disk while it is being written, until ctx
// ends. The kernel would let it pile up in memory for half a minute; then whoever syncs a
// few bytes, as each commit does, waits for gigabytes.
func push(ctx context.Context, dir string) {
	for wait := pushEvery; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		began := time.Now()
		_ = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return nil //nolint:nilerr // not there yet, or not any more: it is synced at the end
			}
			if f, err := os.Open(name); err == nil {
				_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
				f.Close()
			}
			return ctx.Err()
		})
		wait = max(pushEvery, pushShare*time.Since(began))
	}
}

// removeGently removes dir bit by bit: after each it asks pause, which takes its time, and
// ends before it is done when that says so. Nothing may use dir.
func removeGently(dir string, pause func() bool) (done bool, err error) {
	stop := errors.New("stop")
	var freed int64
	free := func(n int64) error {
		if freed += n; freed < freeStep {
			return nil
		}
		if freed = 0; pause() {
			return nil
		}
		return stop
	}
	err = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		size := info.Size()
		if sys(info).Nlink > 1 { // somebody keeps it under another name
			size = 0
		}
		for ; size > freeStep && os.Truncate(name, size-freeStep) == nil; size -= freeStep {
			if err := free(freeStep); err != nil {
				return err
			}
		}
		if err := os.Remove(name); err != nil {
			return err
		}
		return free(size)
	})
	switch {
	case errors.Is(err, stop):
		return false, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	return true, os.RemoveAll(dir)
}
