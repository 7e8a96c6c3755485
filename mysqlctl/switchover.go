package mysqlctl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"ha/mysqlctl/gtid"
)

// WaitExecuted waits until the server has executed the set, or ctx ends, and returns
// what it has executed.
func (s *Server) WaitExecuted(ctx context.Context, set gtid.Set) (gtid.Set, error) {
	for {
		var text string
		if err := s.readOne(ctx, []any{&text}, "SELECT @@global.gtid_executed"); err != nil {
			return gtid.Set{}, err
		}
		executed, err := gtid.Parse(text)
		if err != nil || executed.Contains(set) {
			return executed, err
		}
		if !sleep(ctx, 2*time.Millisecond) {
			return executed, fmt.Errorf("wait for %s: %w", set.Minus(executed), ctx.Err())
		}
	}
}

// FlushBinlog begins a new binary log on a replica. One that attaches from then on
// finds its place at once: in a long file the server has to look for it from the
// beginning. On a server whose commits may wait for acknowledgements, where the
// statement would hang behind them and cannot be ended, it is ErrWaitingCommits.
func (s *Server) FlushBinlog(ctx context.Context) error {
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	if st.Source.On || st.Waiting > 0 {
		return fmt.Errorf("flush binary log: %w", ErrWaitingCommits)
	}
	return s.exec(ctx, "FLUSH NO_WRITE_TO_BINLOG BINARY LOGS")
}

// Blocker is a session that keeps the server from becoming read-only.
type Blocker struct {
	ID   uint64        `json:"id"`   // of the connection
	User string        `json:"user"` // user@host
	What string        `json:"what"` // see Blockers
	For  time.Duration `json:"for"`
}

func (b Blocker) String() string {
	return fmt.Sprintf("session %d of %s: %s for %s", b.ID, b.User, b.What, b.For.Round(time.Second))
}

// Words for what a blocker does.
const (
	BlockerTableLock = "LOCK TABLES"
	BlockerCommit    = "commit that waits for its acknowledgement"
	BlockerStatement = "statement that runs"
)

// Blockers are the sessions behind which SET GLOBAL super_read_only waits: locked
// tables, statements that run (changes of data or tables), commits that wait for an
// acknowledgement. Not those that wait for that SET themselves, nor transactions that
// are open and idle, nor a global read lock: they do not hold it up. What they do is
// told without their statements, which may hold secrets.
func (s *Server) Blockers(ctx context.Context) ([]Blocker, error) {
	var out []Blocker
	err := s.read(ctx, func(rows *sql.Rows) error {
		out = nil
		for rows.Next() {
			var b Blocker
			var state, lock, command, info string
			var seconds int64
			if err := rows.Scan(&b.ID, &b.User, &state, &command, &info, &seconds, &lock); err != nil {
				return err
			}
			b.For = time.Duration(seconds) * time.Second
			switch {
			case lock != "":
				b.What = BlockerTableLock
			case strings.Contains(waitingStates, "'"+state+"'") && state != "":
				b.What = BlockerCommit
			case command != "Query" && command != "Execute" || strings.HasPrefix(state, "Waiting for"):
				continue
			case strings.EqualFold(info, "select") || strings.EqualFold(info, "show"):
				continue
			default:
				b.What = BlockerStatement
			}
			out = append(out, b)
		}
		return rows.Err()
	}, `SELECT t.PROCESSLIST_ID, CONCAT(t.PROCESSLIST_USER, '@', COALESCE(t.PROCESSLIST_HOST, '')), COALESCE(t.PROCESSLIST_STATE, ''), t.PROCESSLIST_COMMAND,
 COALESCE(SUBSTRING_INDEX(TRIM(t.PROCESSLIST_INFO), ' ', 1), ''), COALESCE(t.PROCESSLIST_TIME, 0),
 COALESCE((SELECT MIN(m.OBJECT_TYPE) FROM performance_schema.metadata_locks m WHERE m.OWNER_THREAD_ID = t.THREAD_ID AND m.LOCK_STATUS = 'GRANTED'
  AND m.OBJECT_TYPE = 'TABLE' AND m.LOCK_TYPE IN ('SHARED_NO_READ_WRITE', 'SHARED_READ_ONLY')), '')
 FROM performance_schema.threads t WHERE `+isClient+` AND t.PROCESSLIST_ID <> CONNECTION_ID() AND t.PROCESSLIST_COMMAND <> 'Daemon'
 AND t.PROCESSLIST_COMMAND NOT LIKE 'Binlog Dump%' AND t.PROCESSLIST_USER <> ? ORDER BY t.PROCESSLIST_TIME DESC`, s.cfg.Account.User)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("look for blockers: %w", err)
	}
	return out, err
}
