package agent

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"ha/agent/api"
	"ha/agent/backup"
	"ha/agent/raftnode"
	"ha/xtra"
)

// Restore puts a backup in the place of this node's data, which has to be empty. The
// node is one that no agent has run on, or whose agent's data dir was emptied: what
// that remembers is of other data. A founder's data become a new cluster's; where the
// configuration names agents to join they stay those of the cluster that they are of.
func Restore(ctx context.Context, cfg Config, path string, log *slog.Logger, progress func(backup.Progress)) (xtra.Manifest, error) {
	cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return xtra.Manifest{}, err
	}
	if cfg.Witness {
		return xtra.Manifest{}, api.Usage("a witness has no data to restore").WithHint("restore on a node with a mysqld")
	}
	switch _, err := os.Stat(filepath.Join(cfg.DataDir, raftnode.IDFile)); {
	case err == nil:
		return xtra.Manifest{}, api.Refused("HA-NOT-EMPTY", "%s is the data dir of an agent that belongs to a cluster", cfg.DataDir).
			WithHint("stop that agent and move what is in there away (node-id, token, raft.db ...)")
	case !errors.Is(err, fs.ErrNotExist):
		return xtra.Manifest{}, api.Failed("look for a node id: %w", err)
	}
	r := backup.Restore{Server: cfg.mysqld(1, random(16)), StartTimeout: cfg.MySQL.StartTimeout, Backup: path, Member: len(cfg.Join) > 0, Log: log}
	return r.Run(ctx, progress)
}
