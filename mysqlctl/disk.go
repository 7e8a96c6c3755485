package mysqlctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	probeSize = 4096
	// fullBelow is the free space at which a disk is called full: mysqld stops
	// committing before the last byte is gone.
	fullBelow = 1 << 20
	// heldUpFor is how long a commit takes that is asked about.
	heldUpFor = time.Second
	// heldUpSlack: the second question comes after the first, and a commit meets the disk
	// a moment after its beginning.
	heldUpSlack = time.Second
	// fullRetry is when mysqld looks for room again.
	fullRetry = time.Minute
)

// diskProbe lets one probe run at a time: one that hangs would pile up.
type diskProbe struct {
	mu   sync.Mutex
	hung bool
}

// ProbeDisk writes a block to a scratch file on the data's file system, and on that
// of the binary log if it is another, and syncs it: ErrDiskHung if that does not
// return before ctx ends, ErrDiskFull, ErrDiskReadOnly. The block is preallocated,
// so a probe needs no space. ErrDiskWait: the disk is well, and mysqld does not know yet.
func (s *Server) ProbeDisk(ctx context.Context) error {
	s.disk.mu.Lock()
	if s.disk.hung {
		s.disk.mu.Unlock()
		return fmt.Errorf("%w: an earlier probe still writes", ErrDiskHung)
	}
	s.disk.hung = true
	s.disk.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		err := probeDisk(s.cfg.DataDir)
		if logs := filepath.Dir(s.cfg.logBin()); err == nil && otherDevice(logs, s.cfg.DataDir) {
			err = probeDisk(logs)
		}
		s.disk.mu.Lock()
		s.disk.hung = false
		s.disk.mu.Unlock()
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			err = s.waitsForRoom(ctx)
		}
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrDiskHung, ctx.Err())
	}
}

// waitsForRoom is ErrDiskWait while commits, or the receiver, are held up that have met a
// full disk. mysqld looks for room again a minute later, however soon there is some, and
// nothing ends that but its death. Commits that wait for acknowledgements have one of
// them that says so. A server that cannot be asked, or is older than 8.0.22 and keeps no
// log that can be, is taken for well.
func (s *Server) waitsForRoom(ctx context.Context) error {
	var waiting, acks, silent int
	var longest int64 // ps
	err := s.readOne(ctx, []any{&waiting, &acks, &longest, &silent}, `SELECT COUNT(*), COALESCE(SUM(t.PROCESSLIST_STATE LIKE 'Waiting for semi-sync%'), 0), COALESCE(MAX(e.TIMER_WAIT), 0),
 (SELECT COUNT(*) FROM performance_schema.replication_connection_status WHERE SERVICE_STATE = 'ON' AND
  GREATEST(LAST_HEARTBEAT_TIMESTAMP, LAST_QUEUED_TRANSACTION_END_QUEUE_TIMESTAMP, QUEUEING_TRANSACTION_START_QUEUE_TIMESTAMP) < NOW(6) - INTERVAL 2 SECOND)
 FROM performance_schema.threads t LEFT JOIN performance_schema.events_statements_current e ON e.THREAD_ID = t.THREAD_ID AND e.NESTING_EVENT_ID IS NULL
 WHERE t.PROCESSLIST_STATE IN `+waitingStates+` AND `+isClient)
	held, what := time.Duration(longest/1000), "commits have been"
	switch {
	case err != nil:
		return nil //nolint:nilerr // see above
	case waiting > 0 && acks == 0 && held >= heldUpFor:
	case silent > 0:
		held, what = fullRetry, "its receiver is"
	default:
		return nil
	}
	var met int
	err = s.readOne(ctx, []any{&met}, `SELECT COUNT(*) FROM performance_schema.error_log WHERE ERROR_CODE = 'MY-000035' AND LOGGED >= NOW(6) - INTERVAL ? MICROSECOND`, (held + heldUpSlack).Microseconds())
	if err != nil || met == 0 {
		return nil //nolint:nilerr // see above
	}
	return fmt.Errorf("%w: %s held up", ErrDiskWait, what)
}

func otherDevice(a, b string) bool {
	var sa, sb unix.Stat_t
	return unix.Stat(a, &sa) == nil && unix.Stat(b, &sb) == nil && sa.Dev != sb.Dev
}

func probeDisk(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return diskError(dir, err)
	}
	if fs.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("%w: %s", ErrDiskReadOnly, dir)
	}
	if fs.Bavail*uint64(fs.Bsize) < fullBelow {
		return fmt.Errorf("%w: %d bytes are free in %s", ErrDiskFull, fs.Bavail*uint64(fs.Bsize), dir)
	}
	f, err := os.OpenFile(filepath.Join(dir, ".ha_probe"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return diskError(dir, err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, probeSize), 0); err != nil {
		return diskError(dir, err)
	}
	return diskError(dir, unix.Fdatasync(int(f.Fd())))
}

// diskError names what can be named.
func diskError(dir string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: %s: %w", ErrDiskReadOnly, dir, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %s: %w", ErrDiskFull, dir, err)
	}
	return fmt.Errorf("probe %s: %w", dir, err)
}
