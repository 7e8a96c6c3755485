package mysqlctl

import (
	"context"
	"database/sql"
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

// flushRoom is what must be free for a new binary log: the applier goes on writing.
const flushRoom = 16 << 20

// FlushBinlog begins a new binary log on a replica. One that attaches from then on
// finds its place at once: in a long file the server has to look for it from the
// beginning. It is not tried where the statement would hang and could not be ended:
// on a server whose commits may wait for acknowledgements (ErrWaitingCommits), and
// where there is hardly room (ErrDiskFull).
func (s *Server) FlushBinlog(ctx context.Context) error {
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	if st.Source.On || st.Source.Enabled {
		return fmt.Errorf("flush binary log: %w", ErrWaitingCommits)
	}
	if _, free, err := s.BinlogRoom(); err == nil && free < flushRoom {
		return fmt.Errorf("flush binary log: %w", ErrDiskFull)
	}
	return s.exec(ctx, "FLUSH NO_WRITE_TO_BINLOG BINARY LOGS")
}

// Blocker is a session that keeps the server from becoming read-only.
type Blocker struct {
	ID   uint64        `json:"id"`   // of the connection
	User string        `json:"user"` // user@host
	What string        `json:"what"` // see Blockers
	For  time.Duration `json:"for"`
	// Statement is the beginning of what it runs, or ran last, as MySQL's digest has
	// it: with a ? for each value.
	Statement string `json:"statement,omitempty"`
}

func (b Blocker) String() string {
	text := fmt.Sprintf("session %d of %s: %s for %s", b.ID, b.User, b.What, b.For.Round(time.Second))
	if b.Statement != "" {
		text += " (" + b.Statement + ")"
	}
	return text
}

// Words for what a blocker does.
const (
	BlockerTableLock = "LOCK TABLES"
	BlockerCommit    = "commit that waits for its acknowledgement"
	BlockerStatement = "statement that runs"
)

// maxStatement is how many characters of a statement are told.
const maxStatement = 80

// Blockers are the sessions behind which SET GLOBAL super_read_only waits: that SET
// takes the global lock for writes, and then that for commits, so it is those that
// hold one of them. They are locked tables, statements that run or hang themselves
// (changes of data or tables, SELECT FOR UPDATE), commits that wait for an
// acknowledgement. Not those that wait for that SET, nor transactions that are open
// and idle, nor a global read lock, nor what only reads: they do not hold it up. Ours
// and the threads of replication are left out. The longest comes first.
func (s *Server) Blockers(ctx context.Context) ([]Blocker, error) {
	var out []Blocker
	err := s.read(ctx, func(rows *sql.Rows) error {
		out = nil
		for rows.Next() {
			var b Blocker
			var state string
			var seconds, picoseconds int64
			var idle bool // and holds a lock all the same
			if err := rows.Scan(&b.ID, &b.User, &state, &seconds, &picoseconds, &b.Statement, &idle); err != nil {
				return err
			}
			b.For = max(time.Duration(seconds)*time.Second, time.Duration(picoseconds/1000))
			switch {
			case state != "" && strings.Contains(waitingStates, "'"+state+"'"):
				b.What = BlockerCommit
			case idle:
				b.What = BlockerTableLock
			default:
				b.What = BlockerStatement
			}
			out = append(out, b)
		}
		return nil
	}, `SELECT t.PROCESSLIST_ID, CONCAT(t.PROCESSLIST_USER, '@', COALESCE(t.PROCESSLIST_HOST, '')), COALESCE(t.PROCESSLIST_STATE, ''), COALESCE(t.PROCESSLIST_TIME, 0),
 COALESCE(MAX(IF(e.END_EVENT_ID IS NULL, e.TIMER_WAIT, 0)), 0), LEFT(COALESCE(MAX(e.DIGEST_TEXT), ''), ?), t.PROCESSLIST_COMMAND = 'Sleep'
 FROM performance_schema.metadata_locks m JOIN performance_schema.threads t ON t.THREAD_ID = m.OWNER_THREAD_ID
 LEFT JOIN performance_schema.events_statements_current e ON e.THREAD_ID = t.THREAD_ID AND e.NESTING_EVENT_ID IS NULL
 WHERE m.OBJECT_TYPE IN ('GLOBAL', 'COMMIT') AND m.LOCK_TYPE = 'INTENTION_EXCLUSIVE' AND m.LOCK_STATUS = 'GRANTED'
 AND (`+isClient+` OR t.NAME LIKE '%/event_worker') AND t.PROCESSLIST_USER <> ?
 GROUP BY t.PROCESSLIST_ID, t.PROCESSLIST_USER, t.PROCESSLIST_HOST, t.PROCESSLIST_STATE, t.PROCESSLIST_COMMAND, t.PROCESSLIST_TIME ORDER BY t.PROCESSLIST_TIME DESC, t.PROCESSLIST_ID`,
		maxStatement, s.cfg.Account.User)
	if err != nil {
		return nil, fmt.Errorf("look for blockers: %w", err)
	}
	return out, nil
}
