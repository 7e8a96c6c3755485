package xtra

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dirty is how many bytes of a file only memory has.
func dirty(t *testing.T, name string) int64 {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	var cache unix.Cachestat_t
	switch err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &cache, 0); {
	case errors.Is(err, unix.ENOSYS):
		t.Skip("THIS KERNEL DOES NOT SAY WHAT IS DIRTY (CACHESTAT, LINUX 6.5): WHETHER A COPY IS PUSHED IS NOT TESTED")
	case err != nil:
		t.Fatal(err)
	}
	return int64(cache.Dirty+cache.Writeback) * int64(os.Getpagesize())
}

// A copy goes to the disk while it is being made: the kernel would keep it for longer
// than this test waits, and then make every commit on the disk wait for all of it.
func TestACopyIsPushedToTheDisk(t *testing.T) {
	p := Place{DataDir: filepath.Join(t.TempDir(), "data")}
	put(t, p.DataDir, server("v1"))
	var fs unix.Statfs_t
	must(t, unix.Statfs(p.DataDir, &fs))
	if fs.Type == unix.TMPFS_MAGIC {
		t.Skip("TMPDIR IS NO DISK: WHETHER A COPY IS PUSHED TO ONE IS NOT TESTED")
	}
	must(t, p.Prepare())
	err := p.Take(t.Context(), func(_ context.Context, dir string, _ Progress) error {
		put(t, dir, server("v2"))
		name := filepath.Join(dir, "app", "big.ibd") // a new one: ext4 syncs what was cut short
		must(t, os.WriteFile(name, make([]byte, 8<<20), 0o600))
		for end := time.Now().Add(4 * time.Second); dirty(t, name) > 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d bytes of the copy are in memory only", dirty(t, name))
			}
		}
		return nil
	}, nil)
	must(t, err)
}

// Old data go in small pieces, with a rest after each, and what is left when there is no
// time for more is garbage that the next copy or start removes.
func TestOldDataGoBitByBit(t *testing.T) {
	for name, tc := range map[string]struct{ stopAfter, pauses int }{
		"to the end":  {100, 6},
		"interrupted": {2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			p := placeWith(t, "", ".old")
			for name, size := range map[string]int64{"big": 5 * freeStep, "half": freeStep / 2, "other half": freeStep / 2, "linked": 2 * freeStep} {
				must(t, os.WriteFile(filepath.Join(p.Old(), name), nil, 0o600))
				must(t, os.Truncate(filepath.Join(p.Old(), name), size))
			}
			pauses := 0
			last := bytesIn(t, p.Old()) - 2*freeStep // those of the link stay
			kept := filepath.Join(t.TempDir(), "a link to it")
			must(t, os.Link(filepath.Join(p.Old(), "linked"), kept))
			done, err := p.DropOld(func() bool {
				pauses++
				now := bytesIn(t, p.gone())
				if _, err := os.Stat(filepath.Join(p.gone(), "linked")); err == nil {
					now -= 2 * freeStep
				}
				if last-now > freeStep+100 {
					t.Errorf("%d bytes at once", last-now)
				}
				last = now
				return pauses <= tc.stopAfter
			})
			must(t, err)
			if pauses != tc.pauses || done != (tc.stopAfter >= tc.pauses) {
				t.Errorf("%d pauses, want %d; done %v", pauses, tc.pauses, done)
			}
			is(t, p.DataDir, "")
			if _, there := p.Replaced(); there {
				t.Error("what is half removed looks like old data")
			}
			must(t, os.MkdirAll(p.clone(), 0o700)) // of a copy that was ended
			must(t, os.MkdirAll(p.fresh(), 0o700))
			if done, err := p.Sweep(func() bool { return true }); !done || err != nil {
				t.Error(done, err)
			}
			if info, err := os.Stat(kept); err != nil || info.Size() != 2*freeStep {
				t.Errorf("what has another name was cut short: %v, %v", info, err)
			}
			if left, _ := filepath.Glob(p.DataDir + ".*"); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func bytesIn(t *testing.T, dir string) (n int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		n += info.Size()
	}
	return n
}
