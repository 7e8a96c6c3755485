// Package backup takes, keeps and restores backups. The donor's agent makes a copy
// with CLONE LOCAL beside its data, opens it with a throw-away mysqld, and streams
// the files to the client, which makes a backup of them.
//
// The copy is opened because only that tells its GTID set (clone_status leaves it
// empty where CLONE has a DATA DIRECTORY), proves that it can be opened, and does the
// recovery that each restore would have to do: what is kept is prepared.
package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/api"
	"ha/agent/stream"
	"ha/mysqlctl"
	"ha/xtra"
)

const (
	// spare is what a copy leaves free on the donor's disk, in bytes.
	spare = 64 << 20
	// endBound is what the end of a throw-away server may take.
	endBound = 30 * time.Second
	// tidyTries bounds the removal of what an earlier agent left: the next backup says
	// what is in the way.
	tidyTries = 120
	// copyStall ends a copy of which nothing has come for that long: mysqld hangs, or
	// the disk does.
	copyStall = 5 * time.Minute
)

// Donor gives backups of one server. Its fields are set before its methods are called.
type Donor struct {
	// Server is how the agent runs it.
	Server  mysqlctl.Config
	Node    string // name
	Cluster func() string
	Version string // of the agent
	// StartTimeout bounds the start of a server on the copy.
	StartTimeout time.Duration
	// Busy, if set, says what forbids a copy now; "" if nothing does.
	Busy func() string
	Log  *slog.Logger

	turn sync.Mutex

	giving atomic.Bool
}

// dir holds all that a backup leaves on the donor.
func (d *Donor) dir() string  { return filepath.Clean(d.Server.DataDir) + ".backup" }
func (d *Donor) data() string { return filepath.Join(d.dir(), "data") }

// throwaway is the server on the copy.
func (d *Donor) throwaway() *mysqlctl.Server {
	return Private(d.Server, d.data(), filepath.Join(d.dir(), "mysqld.log"), ".backup", d.Log)
}

// Private is a server on a copy of data that nobody but this process can reach, and
// that touches no file of the real one: its socket and pid file have a suffix.
func Private(c mysqlctl.Config, data, log, suffix string, to *slog.Logger, more ...string) *mysqlctl.Server {
	c.DataDir, c.LogBin, c.Host, c.Port = data, "", "", 0
	c.Socket, c.PidFile, c.LogFile = c.Socket+suffix, c.PidFile+suffix, log
	c.Options = slices.Concat(c.Options, throwawayOptions, mysqlctl.InsideOptions(data), more)
	c.DieWithParent = true
	return mysqlctl.New(c, to)
}

// throwawayOptions keep it to itself, and small.
var throwawayOptions = []string{
	"--skip-networking", "--innodb-buffer-pool-size=134217728",
}

// Tidy ends and removes what an earlier run of the agent left. Until it returns no
// backup is begun.
func (d *Donor) Tidy(ctx context.Context) {
	d.turn.Lock()
	defer d.turn.Unlock()
	if _, err := os.Lstat(d.dir()); errors.Is(err, fs.ErrNotExist) {
		return
	}
	d.Log.Info("removing an unfinished backup", "dir", d.dir())
	if err := End(d.throwaway(), true); err != nil {
		d.Log.Warn("throw-away server not ended", "err", err)
	}
	// The real mysqld may still clone: the node ends the statements of its earlier
	// agent, but not in this moment.
	for gone, tries := 0, 0; gone < 6 && tries < tidyTries && ctx.Err() == nil; gone, tries = gone+1, tries+1 {
		if _, err := os.Lstat(d.dir()); err == nil {
			gone = 0
			if err := os.RemoveAll(d.dir()); err != nil && tries == 0 {
				d.Log.Warn("unfinished backup not removed", "err", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(stream.Beat):
		}
	}
}

// ServeHTTP takes a backup and answers with the stream. The request is an
// api.BackupRequest.
func (d *Donor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var req api.BackupRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&req); err != nil {
		api.WriteError(w, api.Usage("read request: %w", err))
		return
	}
	if !d.turn.TryLock() {
		api.WriteError(w, api.Busy("%s is taking another backup", d.Node).WithHint("wait for it, or take another donor with --from"))
		return
	}
	defer d.turn.Unlock()
	if err := d.check(); err != nil {
		api.WriteError(w, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s, err := xtra.NewSender(stream.NewOutlet(ctx, w, req.Throttle))
	if err != nil {
		api.WriteError(w, err)
		return
	}
	defer s.Abort()
	d.Log.Info("backup begins", "dir", d.dir())
	began := time.Now()
	m, err := d.take(ctx, s)
	if err == nil {
		err = s.End(m)
	}
	if err != nil {
		d.Log.Warn("backup failed", "err", err)
		_ = s.Note(stream.NoteError, stream.ErrorNote(err)) // if anybody is there
		return
	}
	d.Log.Info("backup done", "took", time.Since(began).Round(time.Millisecond), "bytes", m.Bytes)
}

// Giving says that mysqld copies its data for a backup: no other server can clone it then.
func (d *Donor) Giving() bool { return d.giving.Load() }

// check refuses what cannot work, before anything is begun.
func (d *Donor) check() error {
	if d.Busy != nil {
		if why := d.Busy(); why != "" {
			return api.Busy("%s cannot give a backup now: %s", d.Node, why).WithHint("take another donor with --from")
		}
	}
	need, err := size(d.Server.DataDir)
	if err != nil {
		return api.Failed("size of the data: %w", err)
	}
	free, err := freeBytes(filepath.Dir(d.dir()))
	if err != nil {
		return api.Failed("free space: %w", err)
	}
	if need+spare > free {
		return api.Refused("HA-NO-SPACE", "%s has %d MB free beside its data and the copy may need %d MB", d.Node, free>>20, (need+spare)>>20).
			WithHint("make room there, or take another donor with --from")
	}
	return nil
}

// size is what a copy of a data directory takes: binary and relay logs do not go
// along.
func size(dir string) (uint64, error) {
	var n uint64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // mysqld removes files of its own
		}
		if err != nil || !e.Type().IsRegular() || isLog(e.Name()) {
			return err
		}
		if info, err := e.Info(); err == nil {
			n += uint64(info.Sys().(*syscall.Stat_t).Blocks) * 512
		}
		return nil
	})
	return n, err
}

// freeBytes is what an ordinary user may still write.
func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// take makes the copy and sends it. Nothing of it is left when it returns.
func (d *Donor) take(ctx context.Context, s *xtra.Sender) (xtra.Manifest, error) {
	m := xtra.Manifest{Donor: d.Node, Cluster: d.Cluster(), HA: d.Version, Began: time.Now().UTC()}
	if err := os.RemoveAll(d.dir()); err != nil {
		return m, err
	}
	defer d.remove()
	if err := makeDir(d.dir(), d.Server.DataDir); err != nil {
		return m, err
	}
	if err := during(ctx, s, "copy", d.clone); err != nil {
		return m, err
	}
	m.Copied = time.Now().UTC()
	err := during(ctx, s, "prepare", func(ctx context.Context, _ func(done, total int64)) error { return d.prepare(ctx, &m) })
	if err != nil {
		return m, err
	}
	total, err := size(d.data())
	if err != nil {
		return m, err
	}
	if err := s.Note(stream.NoteProgress, api.BackupProgress{Phase: "send", Total: int64(total)}); err != nil {
		return m, err
	}
	if m.Tree, err = s.Files(ctx, d.data()); err != nil {
		return m, fmt.Errorf("send: %w", err)
	}
	m.Bytes, m.Ended = m.Total(), time.Now().UTC()
	d.remove() // before anybody hears that it is done
	return m, nil
}

func (d *Donor) remove() {
	if err := os.RemoveAll(d.dir()); err != nil {
		d.Log.Warn("copy for the backup not removed", "dir", d.dir(), "err", err)
	}
}

// makeDir makes a directory for the user that another one belongs to.
func makeDir(dir, like string) error {
	if err := os.Mkdir(dir, 0o750); err != nil {
		return err
	}
	info, err := os.Stat(like)
	if err != nil {
		return err
	}
	if owner := info.Sys().(*syscall.Stat_t); int(owner.Uid) != os.Geteuid() {
		return os.Chown(dir, int(owner.Uid), int(owner.Gid))
	}
	return nil
}

// clone copies the data. It has connections of its own to the agent's mysqld.
func (d *Donor) clone(ctx context.Context, report func(done, total int64)) error {
	live := mysqlctl.New(d.Server, d.Log)
	defer live.Close()
	found, err := live.Adopt(ctx)
	if !found {
		return errors.Join(fmt.Errorf("mysqld of %s does not run", d.Node), err)
	}
	if err != nil {
		return err
	}
	d.giving.Store(true)
	defer d.giving.Store(false)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var last mysqlctl.CloneProgress
	moved := time.Now()
	err = xtra.Pushed(ctx, d.data(), func() error {
		return live.CloneLocal(ctx, d.data(), func(p mysqlctl.CloneProgress) {
			if p.Stage != last.Stage || p.Done != last.Done {
				last, moved = p, time.Now()
			}
			if time.Since(moved) > copyStall {
				cancel(fmt.Errorf("mysqld has copied nothing for %s", copyStall))
			}
			report(p.Done, p.Estimate)
		})
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// prepare opens the copy, learns what it holds, and takes out what belongs to this
// server alone.
func (d *Donor) prepare(ctx context.Context, m *xtra.Manifest) (err error) {
	md := d.throwaway()
	if m.ServerUUID, err = mysqlctl.New(d.Server, nil).ServerUUIDOnDisk(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, d.StartTimeout)
	defer cancel()
	if err := md.Start(ctx); err != nil {
		return errors.Join(fmt.Errorf("open the copy: %w", err), End(md, true))
	}
	err = func() error {
		if err := md.ResetReplica(ctx); err != nil {
			return err
		}
		st, err := md.Status(ctx)
		if err != nil {
			return err
		}
		m.Executed, m.MySQL = st.Executed, st.Version
		m.Options, err = md.CopyOptions(ctx)
		return err
	}()
	if err = errors.Join(err, End(md, err != nil || ctx.Err() != nil)); err != nil {
		return fmt.Errorf("prepare the copy: %w", err)
	}
	return strip(d.data())
}

// End ends a throw-away server, cleanly or not.
func End(md *mysqlctl.Server, kill bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), endBound)
	defer cancel()
	if kill {
		if !md.Alive() {
			if found, _ := md.Adopt(ctx); !found {
				return md.Close()
			}
		}
		return errors.Join(md.Kill(ctx), md.Close())
	}
	if err := md.Stop(ctx); err != nil {
		return errors.Join(err, md.Kill(context.WithoutCancel(ctx)), md.Close())
	}
	return md.Close()
}

// strip removes from a data directory, whose server is not running, what is of one
// server: its identity, its keys and its logs. The executed set is in a table.
func strip(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if isLog(name) || isOwn(name) {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// isLog tells binary and relay logs by the names that the agent gives them.
func isLog(name string) bool {
	for _, pattern := range []string{"binlog.*", "relay-bin.*", "relay-bin-*"} {
		if ok, _ := filepath.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

// isOwn tells what must not get into another server.
func isOwn(name string) bool {
	for _, pattern := range []string{"auto.cnf", "*.pem", "ha.cluster", ".ha_*", "#clone", "*.err", "*.pid"} {
		if ok, _ := filepath.Match(pattern, name); ok {
			return true
		}
	}
	return false
}
