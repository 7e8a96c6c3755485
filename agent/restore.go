package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"ha/agent/api"
	"ha/agent/backup"
	"ha/agent/raftnode"
)

// Restore puts a backup in the place of this node's data, which has to be empty. The
// node is one that no agent has run on, or whose agent's data dir was emptied: what
// that remembers is of other data. A founder's data become a new cluster's; where the
// configuration names agents to join they stay those of the cluster that they are of.
// r says which backup, and what is replayed over it; the rest of it is set here.
func Restore(ctx context.Context, cfg Config, r backup.Restore, progress func(backup.Progress)) (backup.Restored, error) {
	cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return backup.Restored{}, err
	}
	if cfg.Witness {
		return backup.Restored{}, api.Usage("a witness has no data to restore").WithHint("restore on a node with a mysqld")
	}
	switch _, err := os.Stat(filepath.Join(cfg.DataDir, raftnode.IDFile)); {
	case err == nil:
		return backup.Restored{}, api.Refused("HA-NOT-EMPTY", "%s is the data dir of an agent that belongs to a cluster", cfg.DataDir).
			WithHint("stop that agent and move what is in there away (node-id, token, raft.db ...)")
	case !errors.Is(err, fs.ErrNotExist):
		return backup.Restored{}, api.Failed("look for a node id: %w", err)
	}
	r.Member = len(cfg.Join) > 0
	if r.Member && r.Logs != "" {
		return backup.Restored{}, api.Usage("logs are replayed for a new cluster only, and the configuration has join").
			WithHint("a node that joins gets what it lacks from the primary: leave --binlogs and --until away")
	}
	r.Server, r.StartTimeout = cfg.mysqld(1, random(16)), cfg.MySQL.StartTimeout
	return r.Run(ctx, progress)
}
