// Package archive keeps the cluster's binary logs in a directory, from which
// `ha restore --binlogs` replays them: what a server of the cluster has logged, in
// files that follow on each other without a gap, however often the server, its agent
// or the primary change. Only what can no longer be lost gets there.
package archive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
)

// Code words of what keeps an archive from going on. They are stable: scripts know them.
const (
	CodeGap      = "HA-ARCHIVE-GAP"      // the server's logs begin behind the archive's end
	CodeDiverged = "HA-ARCHIVE-DIVERGED" // it holds what the cluster has not
	CodeFailed   = "HA-ARCHIVE-FAILED"   // it cannot be written or read
)

const (
	fileSize   = 64 << 20    // of a file, before the next is begun and it is compressed
	syncEvery  = time.Second // what is archived is durable that often
	minPause   = time.Second // between two dumps, where the first did not hold
	maxPause   = 5 * time.Second
	askTimeout = 5 * time.Second
	// holdAtMost is how long a transaction is held back in one dump. After it the
	// server is looked at anew: it may have another history by then.
	holdAtMost = 30 * time.Second
)

// Source is the local server.
type Source interface {
	History(ctx context.Context) (executed, purged gtid.Set, err error)
	Dump(ctx context.Context, have gtid.Set, each func(mysqlctl.Sent) error) error
}

// Config is what an archive is made from.
type Config struct {
	Dir    string
	Source Source
	// Safe gives what the cluster can no longer lose, whether that is all that it has,
	// as no epoch is being closed or opened, and a channel that is closed when either
	// may have changed.
	Safe func() (set gtid.Set, settled bool, changed <-chan struct{})
	Size int64 // of a file; default 64 MB
	Log  *slog.Logger
}

// Status is how an archive is.
type Status struct {
	UpTo time.Time // when the last transaction was committed that it holds; zero: not known
	Has  gtid.Set  // what it holds, and needs no more
	// Code and Problem say why it does not go on; "" if it does.
	Code, Problem string
}

// Archive fills one directory. Make it with New and run it once.
type Archive struct {
	cfg   Config
	store *store // nil: not open
	safe  gtid.Set

	mu     sync.Mutex
	status Status
}

// New makes an archive and touches nothing.
func New(cfg Config) *Archive {
	if cfg.Size == 0 {
		cfg.Size = fileSize
	}
	return &Archive{cfg: cfg}
}

// Status may be called at any time.
func (a *Archive) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status
}

// problem is an error with a code word.
type problem struct {
	code string
	err  error
}

func (p *problem) Error() string { return p.err.Error() }
func (p *problem) Unwrap() error { return p.err }

func failed(err error) error {
	if err == nil {
		return nil
	}
	return &problem{CodeFailed, err}
}

// Run archives until ctx ends. What goes wrong is tried again, with pauses, and said in
// the status if it is the archive's and not the server's: that has a status of its own.
func (a *Archive) Run(ctx context.Context) {
	for pause := minPause; ctx.Err() == nil; pause = min(2*pause, maxPause) {
		began := time.Now()
		err := a.archive(ctx)
		a.tell(ctx, err)
		if time.Since(began) > maxPause {
			pause = minPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (a *Archive) tell(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	var p *problem
	a.mu.Lock()
	defer a.mu.Unlock()
	if !errors.As(err, &p) {
		a.status.Code, a.status.Problem = "", ""
		a.cfg.Log.Debug("archive interrupted", "err", err)
		return
	}
	if p.Error() != a.status.Problem {
		a.cfg.Log.Warn("the archive does not go on", "code", p.code, "err", err)
	}
	a.status.Code, a.status.Problem = p.code, p.Error()
}

// archive opens the directory and goes on with it, as long as that works.
func (a *Archive) archive(ctx context.Context) (err error) {
	release, err := lock(a.cfg.Dir)
	if err != nil {
		return failed(err)
	}
	defer release()
	if a.store, err = openStore(a.cfg.Dir, a.cfg.Size, a.cfg.Log); err != nil {
		return failed(err)
	}
	defer func() { err = errors.Join(err, failed(a.store.close())) }()
	have, err := a.follows(ctx)
	a.mu.Lock()
	a.status.UpTo, a.status.Has = a.store.at, have
	a.mu.Unlock()
	if err != nil {
		return err
	}
	return a.cfg.Source.Dump(ctx, have, func(s mysqlctl.Sent) error { return a.event(ctx, s) })
}

// lock keeps two agents from one archive. It is let go when the process ends, too. The
// directory is not made: where a disk is not mounted a second archive would begin.
func lock(dir string) (release func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another agent has the archive %s: %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// follows sees that the server's history goes on where the archive ends, and returns
// what that holds: where there is none yet, it begins with the server's oldest log.
func (a *Archive) follows(ctx context.Context) (gtid.Set, error) {
	limited, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	executed, purged, err := a.cfg.Source.History(limited)
	if err != nil {
		return gtid.Set{}, err
	}
	a.store.before = purged
	have, err := a.store.set()
	if err != nil {
		return have, failed(err)
	}
	lacks := have.Minus(executed)
	safe, settled, _ := a.cfg.Safe()
	if lost := lacks.Minus(safe); settled && !lost.IsEmpty() {
		return have, &problem{CodeDiverged, fmt.Errorf("the archive %s holds %s, which the cluster has not", a.cfg.Dir, lost)}
	}
	if gap := purged.Minus(have); !gap.IsEmpty() {
		return have, &problem{CodeGap, fmt.Errorf("%s are not in the archive %s, and no longer in the server's binary logs", gap, a.cfg.Dir)}
	}
	if lacks.IsEmpty() {
		return have, nil
	}
	return have, fmt.Errorf("the server has yet to apply %s, which are archived", lacks)
}

// event takes one that the server sends.
func (a *Archive) event(ctx context.Context, s mysqlctl.Sent) error {
	switch {
	case s.Format:
		a.store.describe(s.Raw)
		return nil
	case s.Idle:
		return failed(a.sync())
	case s.Begins == nil:
		if err := a.store.more(s.Raw); err != nil {
			return failed(err)
		}
	default:
		if err := a.hold(ctx, s.Begins); err != nil {
			return err
		}
		if err := a.store.begin(s.Begins, s.Raw); err != nil {
			return failed(err)
		}
	}
	if time.Since(a.store.syncedAt) > syncEvery {
		return failed(a.sync())
	}
	return nil
}

// hold waits until a transaction can no longer be lost. Nothing is read meanwhile, so
// the server waits as well.
func (a *Archive) hold(ctx context.Context, b *mysqlctl.Begun) error {
	if a.safe.Has(b.UUID, b.Tag, b.Number) {
		return nil
	}
	enough := time.After(holdAtMost)
	for {
		safe, _, changed := a.cfg.Safe()
		if a.safe = safe; safe.Has(b.UUID, b.Tag, b.Number) {
			return nil
		}
		if err := a.sync(); err != nil {
			return failed(err)
		}
		select {
		case <-changed:
		case <-enough:
			return fmt.Errorf("%s may still be lost", b)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sync makes what was taken durable, and says how far that is: the archive goes on.
func (a *Archive) sync() error {
	if err := a.store.sync(); err != nil {
		return err
	}
	has, err := a.store.set()
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status = Status{UpTo: a.store.at, Has: has}
	return nil
}
