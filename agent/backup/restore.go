package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/api"
	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/xtra"
)

// RestoredFile stands in data that Restore has put in place for a new cluster, and
// allows a founder to take them. The agent removes it once they are a cluster's.
const RestoredFile = "ha.restored"

// Restore puts the data of a backup where a node's data are to be. Its fields are
// set before Run is called.
type Restore struct {
	// Server is how the node's agent will run it; nothing may run there now.
	Server mysqlctl.Config
	// StartTimeout bounds its start on the copy, and how long a replay may stand still.
	StartTimeout time.Duration
	Backup       string // its directory
	// Member leaves the data to the cluster that they came from: the node joins it
	// again. Else a new cluster is founded on them.
	Member bool
	// Logs is a directory with binary logs that follow on the backup: they are
	// replayed over it. "": none.
	Logs  string
	Until mysqlctl.Until
	Log   *slog.Logger
}

// Restored is what Run made.
type Restored struct {
	xtra.Manifest
	// Set is what the data hold: the backup's, and what was replayed.
	Set gtid.Set `json:"restored_gtid_executed"`
	// Reached: the logs hold the transaction before which the replay was to end.
	Reached bool `json:"reached"`
	// Torn names the last log if it ends within a transaction, which is left out.
	Torn string `json:"torn,omitempty"`
}

// dir holds all that an unfinished restore leaves.
func (r *Restore) dir() string  { return filepath.Clean(r.Server.DataDir) + ".restore" }
func (r *Restore) data() string { return filepath.Join(r.dir(), "data") }

// Run does it. The data directory has the data when all of them are copied, compared
// with the manifest, opened once by a throw-away mysqld and durable; until then it is
// as it was: empty, or not there.
func (r *Restore) Run(ctx context.Context, progress func(Progress)) (Restored, error) {
	var out Restored
	var err error
	if out.Manifest, err = xtra.ReadManifest(r.Backup); err != nil {
		return out, unusable(r.Backup, err)
	}
	logs, size, err := r.logs()
	if err != nil {
		return out, err
	}
	// What is later than its copy may be in it all the same: ErrPast sees that.
	if at := cmp.Or(out.Copied, out.Ended); !r.Until.Time.IsZero() && r.Until.Time.Before(at) {
		return out, tooLate(fmt.Errorf("its data are of %s", at.Format(time.RFC3339)))
	}
	release, err := r.begin(out.Bytes + 2*size) // the server writes binary logs of what it replays
	if err != nil {
		return out, err
	}
	defer release()
	err = r.run(ctx, &out, logs, progress)
	return out, errors.Join(err, os.RemoveAll(r.dir()))
}

// begin refuses what cannot work, removes what an interrupted restore left, and
// makes the directory for the copy, locked for as long as this process lives.
func (r *Restore) begin(bytes int64) (release func(), err error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.dir(), 0o750); err != nil {
		return nil, api.Failed("make %s: %w", r.dir(), err)
	}
	f, err := os.Open(r.dir())
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(api.Busy("another restore to %s is running", r.Server.DataDir).WithHint("wait for it to end"), f.Close())
	}
	if err != nil {
		return nil, api.Failed("lock %s: %w", r.dir(), err)
	}
	left, err := os.ReadDir(r.dir())
	for _, e := range left {
		err = errors.Join(err, os.RemoveAll(filepath.Join(r.dir(), e.Name())))
	}
	if err != nil {
		return nil, errors.Join(api.Failed("remove what an earlier restore left: %w", err), f.Close())
	}
	free, err := freeBytes(r.dir())
	if err == nil && free < uint64(bytes)+spare {
		err = api.Refused("HA-NO-SPACE", "%d MB are needed, for the backup and its logs, and %s has %d MB free", (bytes+spare)>>20, filepath.Dir(r.dir()), free>>20).
			WithHint("make room there, or restore on another host")
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(r.dir()), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// check refuses data that are there, and a place that a rename cannot fill.
func (r *Restore) check() error {
	dir := r.Server.DataDir
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o750); err != nil {
			return api.Failed("make the directory above %s: %w", dir, err)
		}
		return nil
	case err != nil:
		return api.Failed("look into %s: %w", dir, err)
	case len(entries) > 0:
		return api.Refused("HA-NOT-EMPTY", "%s is not empty (%s ...): a backup is restored to an empty directory only", dir, entries[0].Name()).
			WithHint("stop the agent and mysqld that use it, and move it away: mv %s %s.before", dir, filepath.Clean(dir))
	}
	if err := (xtra.Place{DataDir: dir}).Check(); err != nil {
		return api.Refused("HA-PLACE", "%w", err).WithHint("the data come by rename: let mysql.data_dir be a directory below it")
	}
	return nil
}

func (r *Restore) run(ctx context.Context, m *Restored, logs []string, progress func(Progress)) error {
	at := Progress{Phase: "copy", Total: m.Bytes}
	progress(at)
	if err := os.Mkdir(r.data(), 0o750); err != nil {
		return api.Failed("make the directory of the data: %w", err)
	}
	_, err := xtra.CopyBackup(ctx, r.Backup, r.data(), func(n int64) {
		at.Done += n
		progress(at)
	})
	if err = cmp.Or(err, ctx.Err()); err != nil {
		return unusable(r.Backup, err)
	}
	if err := own(r.dir(), r.Server.User); err != nil {
		return api.Failed("give the data to %s: %w", r.Server.User, err)
	}
	if err := r.open(ctx, m, logs, progress); err != nil {
		return err
	}
	if err := strip(r.data()); err != nil {
		return api.Failed("remove what is of the throw-away server: %w", err)
	}
	if err := r.mark(m.Manifest); err != nil {
		return api.Failed("mark the data: %w", err)
	}
	if err := xtra.Sync(r.data()); err != nil {
		return api.Failed("sync the data: %w", err)
	}
	// It replaces an empty directory, and nothing else: an agent may have come first.
	if err := unix.Rename(r.data(), r.Server.DataDir); err != nil { // os.Rename replaces no directory
		return api.Failed("put the data in place: %w", err).WithHint("is an agent running here? Stop it, and see what is in %s", r.Server.DataDir)
	}
	if err := xtra.SyncDir(filepath.Dir(filepath.Clean(r.Server.DataDir))); err != nil {
		return api.Failed("sync the name of the data: %w", err)
	}
	return nil
}

// open starts a mysqld on the copy, which nobody can reach, and has it replay the
// logs: what it does not open is not put in place.
func (r *Restore) open(ctx context.Context, m *Restored, logs []string, progress func(Progress)) error {
	server := r.Server
	server.ServerID = mysqlctl.ReplayServerID
	md := Private(server, r.data(), filepath.Join(r.dir(), "mysqld.log"), ".restore", r.Log)
	m.Set = m.Executed
	replay := false
	if len(logs) > 0 {
		progress(Progress{Phase: "read logs"})
		found, err := r.prepare(ctx, md, m, logs)
		if err != nil {
			return err
		}
		m.Set, m.Reached, m.Torn, replay = found.Set, found.Reached, found.Torn, found.Files > 0
	}
	progress(Progress{Phase: "open"})
	err := r.started(ctx, md)
	if err != nil {
		err = api.Failed("open the copy: %w", err).
			WithHint("mysqld of the same version (%s) opens it, told %s (mysql.options)", m.MySQL, strings.Join(m.Options, " "))
	}
	if err == nil && replay {
		err = r.replay(ctx, md, m, progress)
	}
	if err == nil && !r.Member {
		err = md.ForgetCluster(ctx)
	}
	return cmp.Or(errors.Join(err, End(md, err != nil || ctx.Err() != nil)), ctx.Err())
}

func (r *Restore) started(ctx context.Context, md *mysqlctl.Server) error {
	ctx, cancel := context.WithTimeout(ctx, r.StartTimeout)
	defer cancel()
	return md.Start(ctx)
}

// mark says whose the data are.
func (r *Restore) mark(m xtra.Manifest) error {
	name, text := RestoredFile, filepath.Base(filepath.Clean(r.Backup))
	if r.Member {
		name, text = "ha.cluster", m.Cluster
	}
	path := filepath.Join(r.data(), name)
	if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil { //nolint:gosec // no secret; people may read it
		return err
	}
	return own(path, r.Server.User)
}

// own gives all below path to the user that mysqld runs as, where that is another.
func own(path, name string) error {
	if name == "" || name == "root" || os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return xtra.Chown(path, uid, gid)
}

// unusable says that a backup is not restored.
func unusable(path string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, xtra.ErrDiffers) || errors.Is(err, xtra.ErrIncomplete) {
		return api.Refused("HA-BAD-BACKUP", "%s is no good: %w", path, err).WithHint("take another one: `ha backup list %s`", filepath.Dir(filepath.Clean(path)))
	}
	return api.Failed("copy %s: %w", path, err)
}
