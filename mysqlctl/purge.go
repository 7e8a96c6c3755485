package mysqlctl

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ha/mysqlctl/gtid"
)

// The variables that say when a server purges its binary logs by itself.
const (
	autoPurge     = "binlog_expire_logs_auto_purge"
	expireSeconds = "binlog_expire_logs_seconds"
	expireDays    = "expire_logs_days" // in old versions
)

// Binlog is one file of the server's binary log.
type Binlog struct {
	Name   string // without a directory
	Size   int64
	Closed time.Time // when it was last written to
}

// Binlogs lists the binary logs, the oldest first; the last is being written to. No
// SQL: SHOW BINARY LOGS hangs behind a rotation that waits for commits.
func (s *Server) Binlogs() ([]Binlog, error) {
	names, err := s.binlogFiles()
	if err != nil {
		return nil, err
	}
	files := make([]Binlog, len(names))
	for i, name := range names {
		st, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		files[i] = Binlog{filepath.Base(name), st.Size(), st.ModTime()}
	}
	return files, nil
}

// BinlogSize is how long the binary log is that is being written to, in bytes. No SQL.
func (s *Server) BinlogSize() (int64, error) {
	names, err := s.binlogFiles()
	if err != nil || len(names) == 0 {
		return 0, err
	}
	st, err := os.Stat(names[len(names)-1])
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// BinlogRoom is how large the file system of the binary logs is, and what of it is
// free, in bytes.
func (s *Server) BinlogRoom() (size, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(s.cfg.logBin()), &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

// BinlogBefore returns what is in the binary logs before this one, and was before them.
// The server is asked, as the file may be encrypted.
func (s *Server) BinlogBefore(ctx context.Context, name string) (gtid.Set, error) {
	text, found := "", false
	err := s.read(ctx, func(rows *sql.Rows) error {
		for rows.Next() {
			var kind, info string
			var skip any
			if err := rows.Scan(&skip, &skip, &kind, &skip, &skip, &info); err != nil {
				return err
			}
			if kind == "Previous_gtids" {
				text, found = info, true
			}
		}
		return nil
	}, "SHOW BINLOG EVENTS IN "+quote(name)+" LIMIT 2")
	if err == nil && !found {
		err = fmt.Errorf("%w: it has no Previous_gtids", ErrUnreadable)
	}
	if err != nil {
		return gtid.Set{}, fmt.Errorf("binary log %s: %w", name, err)
	}
	return gtid.Parse(text)
}

// TakePurging sees to it that the server purges no binary logs by itself, and returns
// after how long it would: 0 is never. ErrUnsupported before 8.0.29: it goes on then.
// ErrBusy: an earlier statement hangs in the server, as a PURGE does on a full disk,
// where no KILL ends it; more would pile up.
func (s *Server) TakePurging(ctx context.Context) (after time.Duration, err error) {
	s.mu.Lock()
	info := s.info
	s.mu.Unlock()
	sets, err := s.readSets(ctx, info.selectVariables()+`;
SELECT 'hangs' AS kind, t.PROCESSLIST_INFO AS statement FROM performance_schema.threads t WHERE t.PROCESSLIST_USER = `+quote(s.cfg.Account.User)+`
 AND (t.PROCESSLIST_INFO LIKE 'SHOW BINLOG EVENTS%' OR t.PROCESSLIST_INFO LIKE 'PURGE BINARY LOGS%')`)
	if err != nil {
		return 0, fmt.Errorf("retention of binary logs: %w", err)
	}
	if hangs := sets["hangs"]; len(hangs) > 0 {
		return 0, fmt.Errorf("%w: %s", ErrBusy, hangs[0]["statement"])
	}
	have := make(map[string]string)
	info.addVariables(have, sets["variable"])
	if have[autoPurge] == "" {
		return 0, fmt.Errorf("%w: %s", ErrUnsupported, autoPurge)
	}
	if isOn(have[autoPurge]) {
		if err := s.exec(ctx, "SET GLOBAL "+autoPurge+" = OFF"); err != nil {
			return 0, fmt.Errorf("%s: %w", autoPurge, err)
		}
	}
	// Where the days are set the seconds are 0.
	seconds := max(number(have[expireSeconds]), 24*3600*number(have[expireDays]))
	return time.Duration(seconds) * time.Second, nil
}

// PurgeTo removes the binary logs before this one, but for the first that a replica is
// reading and those after it. What happens late harms nobody.
func (s *Server) PurgeTo(ctx context.Context, name string) error {
	return s.exec(ctx, "PURGE BINARY LOGS TO "+quote(name))
}
