package agent

import (
	"context"
	"log/slog"
	"time"

	"ha/agent/archive"
	"ha/agent/node"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
)

// ArchiveConfig is where this node keeps binary logs for `ha restore`.
type ArchiveConfig struct {
	Dir string `toml:"dir"` // "": nowhere
}

func (c *Config) checkArchive(f *faults) {
	switch dir := c.Archive.Dir; {
	case dir == "":
	case c.Witness:
		f.add("archive.dir", "a witness has no binary logs: leave it away")
	case within(c.MySQL.DataDir, dir):
		f.add("archive.dir", "%s is in the data directory, which is replaced by a rebuild: name one on another disk", dir)
	case within(dir, c.MySQL.DataDir), dir == c.DataDir, dir == c.RuntimeDir:
		f.add("archive.dir", "%s holds other things: name one for the archive alone", dir)
	}
}

// openArchive makes the archive of this node's server, if there is to be one.
func (a *Agent) openArchive(c *node.Config) {
	source, ok := c.Mysqld.(archive.Source)
	if a.cfg.Archive.Dir == "" || !ok {
		return
	}
	ar := archive.New(archive.Config{Dir: a.cfg.Archive.Dir, Source: source, Safe: a.safe, Log: a.log})
	a.archive.Store(ar)
	c.Archived = func() time.Time { return ar.Status().UpTo }
	c.AwaitArchived = func(ctx context.Context, set gtid.Set) { awaitArchived(ctx, ar.Status, set, a.log) }
}

// awaitArchived waits until an archive holds a set: a copy brings no binary logs along,
// and what of the old ones is not archived then never will be.
func awaitArchived(ctx context.Context, status func() archive.Status, set gtid.Set, log *slog.Logger) {
	for {
		s := status()
		lacks := set.Minus(s.Has)
		if lacks.IsEmpty() {
			return
		}
		if s.Code != "" || pause(ctx, archivedPause) != nil {
			log.Warn("data are replaced whose binary logs are not in the archive", "lacks", lacks, "code", s.Code)
			return
		}
	}
}

const archivedPause = 100 * time.Millisecond

// safe is what the cluster can no longer lose, as far as this node's copy of the state
// says, and a channel that is closed when that is out of date. The primary's checkpoint
// counts while its reign is settled: the server of one that crashed may report what
// nobody has acknowledged.
func (a *Agent) safe() (set gtid.Set, settled bool, changed <-chan struct{}) {
	s, changed := a.fsm.Watch()
	if s.Phase != raftfsm.PhaseSettled {
		return s.Floor, false, changed
	}
	return s.Floor.Union(s.Checkpoint(s.Primary)), true, changed
}

// archiveProblems go into this node's reports.
func (a *Agent) archiveProblems() []raftfsm.Problem {
	if ar := a.archive.Load(); ar != nil {
		if s := ar.Status(); s.Code != "" {
			return []raftfsm.Problem{{Code: s.Code, Text: s.Problem}}
		}
	}
	return nil
}

var archiveHints = map[string]string{
	archive.CodeGap:      "give [archive] another directory and start the agent again, then take a backup: the new archive goes on from there. Keep the old one for the backups before",
	archive.CodeDiverged: "give [archive] another directory and start the agent again, then take a backup. The old one alone has what was lost: keep it",
	archive.CodeFailed:   "look at the directory that it names: room, owner, damage; the agent tries again by itself",
}
