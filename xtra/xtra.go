// Package xtra takes physical copies of a server's data and puts them in the
// place of what was there.
//
// A copy is made beside the data, verified, and swapped in by rename. Which of
// the directories exist says how far that went, so that an interrupted swap
// needs no log:
//
//	DATA.clone   garbage: an unfinished copy, or an old one being removed
//	DATA.gone    garbage: old data being removed
//	DATA.new     a verified copy
//	DATA.old     what was in place before the last swap
//	DATA.kept-N  what was in place before, and holds what nobody else has
//
// DATA itself is missing only between the two renames of a swap, and DATA.new is
// there then: Recover finishes it. Nothing but a verified copy ever replaces data.
package xtra

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Errors to be told apart with errors.Is.
var (
	// ErrPlace: the data directory cannot be swapped by rename.
	ErrPlace = errors.New("data directory cannot be swapped")
	// ErrIncomplete: the copy lacks something that every server has.
	ErrIncomplete = errors.New("copy is not complete")
	// ErrNoCopy: there is no verified copy to put in place.
	ErrNoCopy = errors.New("no verified copy")
	// ErrDataGone: the data directory is missing although one was here once.
	ErrDataGone = errors.New("data directory is gone")
)

// Progress is told how many of how many bytes are copied; total is an estimate.
type Progress func(bytes, total int64)

// CloneFunc copies a server's data into dir, which does not exist but whose
// parent does. It returns nil only if the copy is whole.
type CloneFunc func(ctx context.Context, dir string, progress Progress) error

// Place is a data directory and the copies beside it. Only one goroutine may use
// it at a time.
type Place struct {
	DataDir string
	// Step, if set, is called between the steps of Take and Swap with the name
	// of the step that comes next; an error ends it there, as a crash would.
	// For tests.
	Step func(next string) error
}

func (p Place) beside(suffix string) string { return filepath.Clean(p.DataDir) + suffix }
func (p Place) clone() string               { return p.beside(".clone") }
func (p Place) fresh() string               { return p.beside(".new") }
func (p Place) gone() string                { return p.beside(".gone") }

// Old is where Swap leaves the data that it replaced.
func (p Place) Old() string { return p.beside(".old") }

// Scratch is a directory below the unfinished copy: what is put there goes with it.
func (p Place) Scratch() string { return filepath.Join(p.clone(), "scratch") }

// Unfinished is the copy while it is being made and verified.
func (p Place) Unfinished() string { return filepath.Join(p.clone(), "data") }

func (p Place) step(next string) error {
	if p.Step == nil {
		return nil
	}
	return p.Step(next)
}

// Check says whether the data directory can be swapped by rename (ErrPlace): it is
// no mount point, no symbolic link, and its parent can be written.
func (p Place) Check() error {
	parent := filepath.Dir(filepath.Clean(p.DataDir))
	here, err := os.Lstat(p.DataDir)
	if err != nil {
		return err
	}
	above, err := os.Stat(parent)
	if err != nil {
		return err
	}
	switch {
	case !here.IsDir():
		return fmt.Errorf("%w: %s is no directory of its own", ErrPlace, p.DataDir)
	case sys(here).Dev != sys(above).Dev:
		return fmt.Errorf("%w: %s is a mount point; put the data into a directory below it", ErrPlace, p.DataDir)
	}
	if err := unix.Access(parent, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrPlace, parent, err)
	}
	return nil
}

// Prepare removes what earlier copies left, verified or not, and makes the
// directory that the next one goes to. The data and Old are not touched.
func (p Place) Prepare() error {
	if err := p.Check(); err != nil {
		return err
	}
	if err := p.Clean(); err != nil {
		return err
	}
	if err := os.Mkdir(p.clone(), 0o750); err != nil {
		return err
	}
	// mysqld writes the copy, as the user who owns the data: the parent need
	// not be that user's.
	data, err := os.Stat(p.DataDir)
	if err != nil {
		return err
	}
	if owner := sys(data); int(owner.Uid) != os.Geteuid() {
		return os.Chown(p.clone(), int(owner.Uid), int(owner.Gid))
	}
	return nil
}

// Take makes a copy beside the data with clone, verifies it and gives it a new
// server identity. Swap puts it in place.
func (p Place) Take(ctx context.Context, clone CloneFunc, progress Progress) error {
	dir := p.Unfinished()
	if err := p.step("copy"); err != nil {
		return err
	}
	if err := Pushed(ctx, dir, func() error { return clone(ctx, dir, progress) }); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	if err := p.step("verify"); err != nil {
		return err
	}
	if err := verify(dir); err != nil {
		return err
	}
	// With the server_uuid of another server it would issue GTIDs that exist.
	if err := os.Remove(filepath.Join(dir, "auto.cnf")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := syncAll(dir); err != nil {
		return fmt.Errorf("sync copy: %w", err)
	}
	if err := p.step("name"); err != nil {
		return err
	}
	if err := os.Rename(dir, p.fresh()); err != nil {
		return err
	}
	return errors.Join(p.syncParent(), os.RemoveAll(p.clone()))
}

// Swap puts the verified copy in the place of the data, which become Old. No
// mysqld may run on them.
func (p Place) Swap() error {
	if err := p.Check(); err != nil {
		return err
	}
	if _, err := os.Stat(p.fresh()); err != nil {
		return fmt.Errorf("%w: %w", ErrNoCopy, err)
	}
	if err := p.step("discard"); err != nil {
		return err
	}
	// An older Old becomes garbage by its name and is removed last: a half
	// removed directory must not look like the last good copy.
	if err := os.RemoveAll(p.clone()); err != nil {
		return err
	}
	if err := os.Rename(p.Old(), p.clone()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := p.step("away"); err != nil {
		return err
	}
	if err := os.Rename(p.DataDir, p.Old()); err != nil {
		return err
	}
	if err := p.step("in"); err != nil {
		return err
	}
	if err := os.Rename(p.fresh(), p.DataDir); err != nil {
		return err
	}
	if err := p.syncParent(); err != nil {
		return err
	}
	if err := p.step("clean"); err != nil {
		return err
	}
	return os.RemoveAll(p.clone())
}

// Recover finishes an interrupted swap, or removes the leftovers of an
// interrupted copy; swapped says that the data are now the copy. It is called
// before mysqld is started, and never while a copy is being made.
func (p Place) Recover() (swapped bool, err error) {
	data, err := exists(p.DataDir)
	if err != nil {
		return false, err
	}
	fresh, err := exists(p.fresh())
	if err != nil {
		return false, err
	}
	old, err := exists(p.Old())
	if err != nil {
		return false, err
	}
	switch {
	case !data && fresh && old:
		if err := os.Rename(p.fresh(), p.DataDir); err != nil {
			return false, err
		}
		swapped = true
		if err := p.syncParent(); err != nil {
			return true, err
		}
	case !data && (fresh || old):
		// No step of a swap leaves this. To start with an empty directory
		// here would hide that something is wrong.
		return false, fmt.Errorf("%w: %s, but copies stand beside it", ErrDataGone, p.DataDir)
	}
	return swapped, p.Clean()
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// syncAll makes the whole file system of dir durable: one call, however many files.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

func (p Place) syncParent() error {
	return SyncDir(filepath.Dir(filepath.Clean(p.DataDir)))
}

func sys(info fs.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }
