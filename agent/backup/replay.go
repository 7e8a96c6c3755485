package backup

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"ha/agent/api"
	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
)

// PhaseReplay is the phase of a restore whose progress is in transactions.
const PhaseReplay = "replay"

// ParseUntil reads where a replay of logs is to end: a time with its zone, or a GTID;
// "" is with the last transaction. Errors are of usage.
func ParseUntil(text, logs string) (mysqlctl.Until, error) {
	if text == "" {
		return mysqlctl.Until{}, nil
	}
	if logs == "" {
		return mysqlctl.Until{}, api.Usage("--until goes with --binlogs").WithHint("name the directory with the binary logs: --binlogs DIR")
	}
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return mysqlctl.Until{Time: at}, nil
	}
	if set, err := gtid.Parse(text); err == nil && set.Count() == 1 {
		return mysqlctl.Until{GTID: set}, nil
	}
	return mysqlctl.Until{}, api.Usage("--until: %q is neither a time nor one transaction", text).
		WithHint("use a time with its zone, like 2026-01-31T12:00:00Z or 2026-01-31T13:00:00+01:00, or a GTID, like %s:7", "3e11fa47-71ca-11e1-9e33-c80aa9429562")
}

// logs finds the binary logs that are to be replayed, in their order, and their size.
func (r *Restore) logs() (names []string, size int64, err error) {
	if r.Logs == "" {
		return nil, 0, nil
	}
	entries, err := os.ReadDir(r.Logs)
	if err != nil {
		return nil, 0, api.Usage("binary logs: %w", err)
	}
	base := ""
	numbers := make(map[string]uint64)
	for _, e := range entries {
		plain := strings.TrimSuffix(e.Name(), mysqlctl.PackedSuffix)
		ext := filepath.Ext(plain)
		stem := strings.TrimSuffix(plain, ext)
		number, err := strconv.ParseUint(strings.TrimPrefix(ext, "."), 10, 64)
		if err != nil || stem == "relay-bin" || strings.HasPrefix(stem, ".") { // of a tail that was cut off
			continue
		}
		info, err := os.Stat(filepath.Join(r.Logs, e.Name())) // a link will do
		if err != nil {
			return nil, 0, api.Failed("binary logs: %w", err)
		}
		if !info.Mode().IsRegular() {
			continue
		}
		if base != "" && stem != base {
			return nil, 0, api.Usage("%s has binary logs of two names, %s and %s", r.Logs, base, stem).WithHint("give a directory with those of one server")
		}
		name := filepath.Join(r.Logs, e.Name())
		if plain != e.Name() {
			if _, err := os.Stat(filepath.Join(r.Logs, plain)); err == nil {
				continue // an archive is about to remove one of them
			}
		}
		bytes, err := mysqlctl.LogSize(name)
		if err != nil {
			return nil, 0, api.Failed("binary logs: %s: %w", e.Name(), err)
		}
		base, names, size, numbers[name] = stem, append(names, name), size+bytes, number
	}
	if len(names) == 0 {
		return nil, 0, api.Usage("%s has no binary logs", r.Logs).WithHint("name the directory with files like binlog.000001")
	}
	// By name binlog.1000000 is before binlog.999999.
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(numbers[a], numbers[b]) })
	return names, size, nil
}

// prepare lays what is to be replayed beside the data, or says why it is not.
func (r *Restore) prepare(ctx context.Context, md *mysqlctl.Server, m *Restored, logs []string) (mysqlctl.Replayed, error) {
	found, err := md.PrepareReplay(ctx, m.Executed, logs, r.Until)
	switch {
	case errors.Is(err, mysqlctl.ErrLogGap):
		return found, api.Refused("HA-LOG-GAP", "%w", err).WithHint("add the logs that hold them, or take a newer backup")
	case errors.Is(err, mysqlctl.ErrPast):
		return found, tooLate(err)
	case errors.Is(err, mysqlctl.ErrUnreadable):
		return found, api.Refused("HA-BAD-LOG", "%w", err).WithHint("take another server's logs, or end before it: `mysqlbinlog --verify-binlog-checksum` shows what can be read, --until leaves the rest out")
	case err != nil:
		return found, api.Failed("read logs: %w", err)
	case !found.Reached && !r.Until.GTID.IsEmpty():
		return found, api.Refused("HA-NOT-REACHED", "%s is not in the logs", r.Until.GTID).WithHint("`mysqlbinlog` prints what is in them")
	}
	return found, nil
}

// tooLate refuses a backup that holds what was to be left out.
func tooLate(err error) error {
	return api.Refused("HA-TOO-LATE", "the backup is later than --until: %w", err).WithHint("take an older one: `ha backup list`")
}

// replay has the server on the copy apply what was laid beside its data.
func (r *Restore) replay(ctx context.Context, md *mysqlctl.Server, m *Restored, progress func(Progress)) error {
	all := m.Set.Minus(m.Executed).Count()
	err := md.Replay(ctx, m.Set, r.StartTimeout, func(left uint64) {
		progress(Progress{Phase: PhaseReplay, Done: int64(all - left), Total: int64(all)})
	})
	if err != nil && ctx.Err() == nil {
		return api.Failed("%w", err).WithHint("where the transaction that it names cannot be applied, end before it: --until GTID")
	}
	return err
}
