package xtra

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxKept is how many sets of data are kept that hold what nobody else has.
const maxKept = 3

// ErrKept says that no more old data can be kept, and that none of those there are
// may be removed.
var ErrKept = errors.New("too many old data are kept")

// Files in a data directory that say where it came from, and what it held when it
// was replaced.
const (
	leaseFile    = "ha.copy"
	replacedFile = "ha.replaced"
)

// Replaced is what is known of data that a copy replaced.
type Replaced struct {
	// Position is the GTID set that they held; Known is false where it could not
	// be read.
	Position string `json:"position"`
	Known    bool   `json:"known"`
	// Floor is the GTID set that the copy must hold.
	Floor string `json:"floor,omitempty"`
	// Keep says that they are kept until the next copy, whatever they hold.
	Keep bool `json:"keep,omitempty"`
}

// Clean removes what copies left, verified or not. The data, Old and what is kept
// are not touched. It is not called while a copy is being made.
func (p Place) Clean() error {
	return errors.Join(os.RemoveAll(p.clone()), os.RemoveAll(p.fresh()), os.RemoveAll(p.gone()))
}

// withoutThese no server starts: its system tablespaces, and the schema that is MariaDB's.
var withoutThese = []string{"ibdata1", "mysql.ibd", "mysql"}

// Empty removes the data themselves, to make room for a copy. What it leaves when it is
// interrupted does not start any more: it would say that it has all its transactions.
func (p Place) Empty() error {
	if err := p.Check(); err != nil {
		return err
	}
	for _, name := range withoutThese {
		if err := os.RemoveAll(filepath.Join(p.DataDir, name)); err != nil {
			return err
		}
	}
	if err := SyncDir(p.DataDir); err != nil {
		return err
	}
	if err := p.step("the rest"); err != nil {
		return err
	}
	entries, err := os.ReadDir(p.DataDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(p.DataDir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Ready says that there is a verified copy.
func (p Place) Ready() bool {
	found, _ := exists(p.fresh())
	return found
}

// Mark notes in the verified copy the lease under which it was made, and in the
// data what they held.
func (p Place) Mark(lease uint64, r Replaced) error {
	if err := os.WriteFile(filepath.Join(p.fresh(), leaseFile), []byte(strconv.FormatUint(lease, 10)+"\n"), 0o600); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(p.DataDir, replacedFile), b, 0o600)
}

// Lease is that under which the data were copied; 0: none is known.
func (p Place) Lease() uint64 {
	b, err := os.ReadFile(filepath.Join(p.DataDir, leaseFile))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// Replaced tells what Old held; false: there is no Old.
func (p Place) Replaced() (Replaced, bool) {
	if found, err := exists(p.Old()); !found || err != nil {
		return Replaced{}, false
	}
	var r Replaced
	b, err := os.ReadFile(filepath.Join(p.Old(), replacedFile))
	if err != nil || json.Unmarshal(b, &r) != nil {
		return Replaced{}, true // nothing is known of them
	}
	return r, true
}

// Sweep is Clean, a few megabytes at a time. Between two of them it asks pause, which
// takes its time; done is false if that ended it.
func (p Place) Sweep(pause func() bool) (done bool, err error) {
	for _, dir := range []string{p.gone(), p.clone(), p.fresh()} {
		if dir == p.fresh() { // a half removed directory must not look like a copy
			if err := os.Rename(dir, p.gone()); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return false, err
			}
			dir = p.gone()
		}
		if done, err := removeGently(dir, pause); err != nil || !done {
			return false, err
		}
	}
	return true, nil
}

// DropOld removes Old, as Sweep removes: what is left when it is ended is for that.
func (p Place) DropOld(pause func() bool) (done bool, err error) {
	if err := p.dismiss(); err != nil {
		return false, err
	}
	return p.Sweep(pause)
}

// dismiss makes garbage of Old by its name: a half removed directory must not look like
// data.
func (p Place) dismiss() error {
	if err := os.RemoveAll(p.gone()); err != nil {
		return err
	}
	if err := os.Rename(p.Old(), p.gone()); err != nil {
		return err
	}
	return p.syncParent()
}

// KeepOld puts Old aside for good: people look at it and remove it. ErrKept: there
// are too many already.
func (p Place) KeepOld() error {
	for n := 1; n <= maxKept; n++ {
		to := p.beside(".kept-" + strconv.Itoa(n))
		err := unix.Renameat2(unix.AT_FDCWD, p.Old(), unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) {
			return errors.Join(err, p.syncParent())
		}
	}
	return p.full()
}

// MayKeep says whether Old could be put aside: ErrKept.
func (p Place) MayKeep() error {
	for n := 1; n <= maxKept; n++ {
		if found, err := exists(p.beside(".kept-" + strconv.Itoa(n))); err != nil || !found {
			return err
		}
	}
	return p.full()
}

func (p Place) full() error {
	return fmt.Errorf("%w: look at %s, and remove what nobody needs", ErrKept, p.beside(".kept-*"))
}

// Undo puts Old back in the place of a copy that proved to be no good. No mysqld
// may run on it.
func (p Place) Undo() error {
	if err := p.Clean(); err != nil {
		return err
	}
	if _, err := os.Lstat(p.Old()); err != nil {
		return err
	}
	// In one step: there are data in place at any time.
	if err := unix.Renameat2(unix.AT_FDCWD, p.Old(), unix.AT_FDCWD, p.DataDir, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	return errors.Join(p.dismiss(), os.RemoveAll(p.gone()))
}

// Free is the room beside the data, in bytes.
func (p Place) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(filepath.Clean(p.DataDir)), &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Schemas are those in a data directory that a new server does not have.
func Schemas(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var out []string
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() && !strings.HasPrefix(name, "#") && name != "mysql" && name != "sys" && name != "performance_schema" {
			out = append(out, name)
		}
	}
	return out, err
}

// DataSize walks through the data: not to be done often.
func (p Place) DataSize() int64 {
	return sum(p.DataDir, func(name string) bool {
		return strings.HasSuffix(name, ".ibd") || strings.HasPrefix(name, "ibdata") || strings.HasPrefix(name, "undo_") || strings.HasSuffix(name, ".ibu")
	})
}

// OldSize walks through old data.
func (p Place) OldSize() int64 {
	dirs, _ := filepath.Glob(p.beside(".kept-*"))
	var n int64
	for _, dir := range append(dirs, p.Old()) {
		n += sum(dir, func(string) bool { return true })
	}
	return n
}

// sum adds up what files take on disk. Those that vanish meanwhile take nothing.
func sum(dir string, counts func(name string) bool) int64 {
	var n int64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || !counts(e.Name()) {
			return nil //nolint:nilerr // it is gone, or not ours to read
		}
		if info, err := e.Info(); err == nil {
			n += sys(info).Blocks * 512
		}
		return nil
	})
	return n
}
