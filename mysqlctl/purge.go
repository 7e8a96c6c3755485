package mysqlctl

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ha/mysqlctl/gtid"
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
func (s *Server) TakePurging(ctx context.Context) (after time.Duration, err error) {
	values := make(map[string]string)
	err = s.read(ctx, func(rows *sql.Rows) error {
		for rows.Next() {
			var name, value string
			if err := rows.Scan(&name, &value); err != nil {
				return err
			}
			values[strings.ToLower(name)] = value
		}
		return nil
	}, "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM performance_schema.global_variables WHERE VARIABLE_NAME IN ('binlog_expire_logs_auto_purge', 'binlog_expire_logs_seconds', 'expire_logs_days')")
	if err != nil {
		return 0, fmt.Errorf("retention of binary logs: %w", err)
	}
	const auto = "binlog_expire_logs_auto_purge"
	if values[auto] == "" {
		return 0, fmt.Errorf("%w: %s", ErrUnsupported, auto)
	}
	if isOn(values[auto]) {
		if err := s.exec(ctx, "SET GLOBAL "+auto+" = OFF"); err != nil {
			return 0, fmt.Errorf("%s: %w", auto, err)
		}
	}
	// Where the days are set the seconds are 0.
	seconds := max(number(values["binlog_expire_logs_seconds"]), 24*3600*number(values["expire_logs_days"]))
	return time.Duration(seconds) * time.Second, nil
}

// PurgeTo removes the binary logs before this one, but for the first that a replica is
// reading and those after it. What happens late harms nobody.
func (s *Server) PurgeTo(ctx context.Context, name string) error {
	return s.exec(ctx, "PURGE BINARY LOGS TO "+quote(name))
}
