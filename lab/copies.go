package lab

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ha/agent/api"
	"ha/agent/sandbox"
	"ha/bench/load"
)

// fillMB is what a copy has to carry beside the writers' rows.
const fillMB = 96

// AskRebuild asks the agents for a copy of a host's data.
func (l *Lab) AskRebuild(ctx context.Context, ask api.AskRebuild) (api.RebuildBegun, error) {
	var b api.RebuildBegun
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := l.api.Post(ctx, api.PathRebuild, ask, &b)
	return b, err
}

// Rebuild is how the copy of a host's data goes, or went.
func (l *Lab) Rebuild(ctx context.Context, host string) (api.RebuildStatus, error) {
	var all api.Rebuilds
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := l.api.Get(ctx, api.PathRebuild, &all); err != nil {
		return api.RebuildStatus{}, err
	}
	for _, st := range all.Rebuilds {
		if st.Name == host {
			return st, nil
		}
	}
	return api.RebuildStatus{}, fmt.Errorf("no agent knows of a rebuild of %s", host)
}

// FillTable sees that there is something to copy that takes some time.
func (l *Lab) FillTable(ctx context.Context, primary string) error {
	db, err := l.app(primary)
	if err != nil {
		return err
	}
	defer db.Close()
	return load.Fill(ctx, db, fillMB)
}

// FillSum is a checksum over the rows of FillTable on a host.
func (l *Lab) FillSum(ctx context.Context, host string) (string, error) {
	db, err := l.app(host)
	if err != nil {
		return "", err
	}
	defer db.Close()
	return load.FillSum(ctx, db)
}

// app is a host's root in the application's schema.
func (l *Lab) app(host string) (*sql.DB, error) {
	return sql.Open("mysql", fmt.Sprintf("root@%s(socket)/%s?timeout=2s", l.dialName(host), sandbox.AppSchema))
}

// ServerUUID is that of a host's server: another one after each copy.
func (l *Lab) ServerUUID(ctx context.Context, host string) (string, error) {
	db, err := l.Root(host)
	if err != nil {
		return "", err
	}
	defer db.Close()
	var uuid string
	err = db.QueryRowContext(ctx, "SELECT @@server_uuid").Scan(&uuid)
	return uuid, err
}

// Copies are the directories beside a host's data, and the throw-away servers that
// run there.
func (h *Host) Copies() []string {
	var out []string
	found, _ := filepath.Glob(h.Path(MySQLDisk + "/data.*"))
	for _, path := range found {
		out = append(out, filepath.Base(path))
	}
	for _, pid := range h.PIDs(Mysqld) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(line), MySQLDisk+"/data.clone") {
			out = append(out, fmt.Sprintf("process %d", pid))
		}
	}
	return out
}
