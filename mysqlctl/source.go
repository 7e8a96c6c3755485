package mysqlctl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// letGoTime is how long a session may take to end that a fence has let go.
	letGoTime = 500 * time.Millisecond
	letGoPoll = 2 * time.Millisecond
)

// poisonCount is more acknowledgements than there can ever be replicas.
const poisonCount = 100

// isClient picks the threads of connections. Others pass through the same states:
// appliers do so all the time, and InnoDB's clone_gtid_thread keeps the name of a
// state that it left long ago.
const isClient = "t.TYPE = 'FOREGROUND' AND t.NAME LIKE '%one_connection'"

// Fence makes the server read-only. nil means that the SET has returned and that
// no commit waits for an acknowledgement: nothing is committed or acknowledged by
// clients from then on. Otherwise the error is ErrNotFenced, and the SET was taken
// back (or ErrAbandoned too): commits that wait hold it up, and it lets every new
// write queue behind it meanwhile. Takes 0.1 ms on an idle server.
func (s *Server) Fence(ctx context.Context) error {
	if err := s.exec(ctx, "SET GLOBAL super_read_only = ON"); err != nil {
		return fmt.Errorf("%w: %w", ErrNotFenced, err)
	}
	// Whoever waits is there at each look. Sessions that were let go, or that read, are in
	// the same states for a moment.
	var waiting []uint64
	for end := time.Now().Add(letGoTime); ; {
		now, err := s.waiting(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotFenced, err)
		}
		if waiting == nil {
			waiting = now
		}
		waiting = slices.DeleteFunc(waiting, func(id uint64) bool { return !slices.Contains(now, id) })
		if len(waiting) == 0 {
			return nil
		}
		if time.Now().After(end) || !sleep(ctx, letGoPoll) {
			return fmt.Errorf("%w: %w (%d)", ErrNotFenced, ErrWaitingCommits, len(waiting))
		}
	}
}

// waiting are the sessions that wait for an acknowledgement, and those that look so.
func (s *Server) waiting(ctx context.Context) ([]uint64, error) {
	return s.ids(ctx, "SELECT t.PROCESSLIST_ID FROM performance_schema.threads t WHERE t.PROCESSLIST_STATE IN "+waitingStates+" AND "+isClient)
}

// Poison makes a living server unable to acknowledge anything, old or new, by
// asking for more acknowledgements than there can be: 1 ms, and no lock that a
// waiting commit holds is needed. ConfigureSource undoes it. Without semi-sync on
// it does nothing for commits: see Fence.
func (s *Server) Poison(ctx context.Context) error {
	info, err := s.withSource()
	if err != nil {
		return err
	}
	return s.exec(ctx, fmt.Sprintf("SET GLOBAL %s = %d", info.dialect.waitCount(), poisonCount))
}

// OpenWrites lets clients write. It is the last step of a promotion, and checks
// nothing.
func (s *Server) OpenWrites(ctx context.Context) error {
	return s.exec(ctx, "SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF")
}

// ConfigureSource sets how many acknowledgements a commit waits for, and verifies
// it: k > 0 with AFTER_SYNC, the endless timeout, wait_no_replica ON and the status
// ON. k = 0 switches waiting off, which takes a second with replicas attached. A
// lower k, and 0, let commits that wait for more go: the caller has recorded that.
func (s *Server) ConfigureSource(ctx context.Context, k int) error {
	info, err := s.withSource()
	if err != nil {
		return err
	}
	d := info.dialect
	sets, err := s.readSets(ctx, info.selectVariables())
	if err != nil {
		return err
	}
	have := make(map[string]string)
	info.addVariables(have, sets["variable"])
	var set []string
	want := func(name, value string) {
		if !strings.EqualFold(have[name], value) {
			literal := value
			if name == d.semiSourceVar("wait_point") {
				literal = quote(value)
			}
			set = append(set, "GLOBAL "+name+" = "+literal)
		}
	}
	if k <= 0 {
		want(d.semiSource(), "OFF")
	} else {
		want(d.semiSourceVar("wait_point"), "AFTER_SYNC")
		want(d.semiSourceVar("timeout"), fmt.Sprint(int64(ackTimeout)))
		want(d.waitNoReplica(), "ON")
		want(d.waitCount(), fmt.Sprint(k))
		want(d.semiSource(), "ON") // last: the rest holds when it comes on
	}
	if len(set) > 0 {
		query := "SET " + strings.Join(set, ", ")
		if k <= 0 {
			err = s.execWhole(ctx, query)
		} else {
			err = s.exec(ctx, query)
		}
		if err != nil {
			return fmt.Errorf("configure source for %d acks: %w", k, err)
		}
	}
	for {
		if have, err = s.sourceVariables(ctx, d); err != nil {
			return fmt.Errorf("verify source: %w", err)
		}
		on := isOn(have["rpl_semi_sync_"+d.source+"_status"])
		if k > 0 && on && isOn(have[d.semiSource()]) && have[d.waitCount()] == fmt.Sprint(k) || k <= 0 && !isOn(have[d.semiSource()]) {
			return nil
		}
		if !sleep(ctx, 5*time.Millisecond) {
			return fmt.Errorf("semi-sync source is not %v with %d acks: %w", k > 0, k, ctx.Err())
		}
	}
}

func (s *Server) sourceVariables(ctx context.Context, d dialect) (map[string]string, error) {
	s.mu.Lock()
	info := s.info
	s.mu.Unlock()
	sets, err := s.readSets(ctx, info.selectVariables()+`;
SELECT 'global' AS kind, VARIABLE_NAME AS name, VARIABLE_VALUE AS value FROM performance_schema.global_status WHERE VARIABLE_NAME = 'Rpl_semi_sync_`+d.source+"_status'")
	if err != nil {
		return nil, err
	}
	have := make(map[string]string)
	for _, row := range sets["global"] {
		have[strings.ToLower(row["name"])] = row["value"]
	}
	info.addVariables(have, sets["variable"])
	return have, nil
}

// withSource returns what is known of the server if it can wait for acks.
func (s *Server) withSource() (serverInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool == nil {
		return s.info, ErrNotRunning
	}
	if !s.info.source {
		return s.info, fmt.Errorf("%w: the semi-sync source plugin is not loaded", ErrUnsupported)
	}
	return s.info, nil
}

// KillClients ends all client sessions: not ours, not the system's, not those of
// replicas and clones. It returns when all have been told; clients are cut off then,
// though the thread of a commit that waits stays in the server, unacknowledged.
func (s *Server) KillClients(ctx context.Context) error {
	p, err := s.connected()
	if err != nil {
		return err
	}
	query := `SELECT t.PROCESSLIST_ID FROM performance_schema.threads t WHERE ` + isClient + `
 AND t.PROCESSLIST_USER IS NOT NULL AND t.PROCESSLIST_USER <> ?
 AND t.PROCESSLIST_COMMAND NOT LIKE 'Binlog Dump%' AND t.PROCESSLIST_COMMAND <> 'clone'`
	ids, err := s.ids(ctx, query, s.cfg.Account.User)
	if err != nil {
		return err
	}
	c, err := p.get(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err = c.conn.ExecContext(ctx, fmt.Sprintf("KILL %d", id)); err != nil && !isError(err, errNoSuchThread) {
			break
		}
		err = nil
	}
	p.put(c, err == nil)
	return orDeadline(ctx, err)
}

// KillOwnSessions ends all other sessions of the agent's own account, those of an
// agent that was here before, and sees them gone: its abandoned SETs would take
// effect later. Commits that wait for an acknowledgement stay: nothing ends them,
// and ours carry nothing but barriers and accounts.
func (s *Server) KillOwnSessions(ctx context.Context) error {
	p, err := s.connected()
	if err != nil {
		return err
	}
	err = s.endAll(ctx, "sessions of an earlier agent", func() ([]uint64, error) {
		ids, err := s.ids(ctx, "SELECT t.PROCESSLIST_ID FROM performance_schema.threads t WHERE t.PROCESSLIST_USER = ? AND "+
			isClient+" AND COALESCE(t.PROCESSLIST_STATE, '') NOT IN "+waitingStates, s.cfg.Account.User)
		own := p.own()
		return slices.DeleteFunc(ids, func(id uint64) bool { return slices.Contains(own, id) }), err
	})
	if errors.Is(err, errStillThere) {
		return fmt.Errorf("%w: %w", ErrAbandoned, err)
	}
	return err
}

// KillDump ends the connections of the replica with this server uuid, and all of account
// unless that is empty, and sees them gone, which takes up to a second. A replica that has
// logged in and asks for no binary log yet is known by its account only. It comes back by
// itself: LockAccount first keeps it out.
func (s *Server) KillDump(ctx context.Context, replicaUUID, account string) error {
	return s.endAll(ctx, "connections of replica "+replicaUUID, func() ([]uint64, error) {
		return s.ids(ctx, `SELECT t.PROCESSLIST_ID FROM performance_schema.threads t
 JOIN performance_schema.user_variables_by_thread u ON u.THREAD_ID = t.THREAD_ID
 WHERE u.VARIABLE_NAME IN ('replica_uuid', 'slave_uuid') AND u.VARIABLE_VALUE = ? AND t.PROCESSLIST_COMMAND <> 'Sleep'
 UNION SELECT PROCESSLIST_ID FROM performance_schema.threads WHERE PROCESSLIST_USER = ? AND PROCESSLIST_USER <> ''`, replicaUUID, account)
	})
}

var errStillThere = errors.New("still there")

// endAll kills the sessions of a list, once each, until it is empty; errStillThere if ctx
// ends before.
func (s *Server) endAll(ctx context.Context, what string, list func() ([]uint64, error)) error {
	told := make(map[uint64]bool)
	for {
		ids, err := list()
		if err != nil || len(ids) == 0 {
			return err
		}
		for _, id := range ids {
			if told[id] {
				continue
			}
			told[id] = true
			if err := s.killSession(id, 0); err != nil {
				return fmt.Errorf("end session %d: %w", id, err)
			}
		}
		if !sleep(ctx, killPoll) {
			return fmt.Errorf("%d %s: %w: %w", len(ids), what, errStillThere, ctx.Err())
		}
	}
}

// ids reads a column of connection ids.
func (s *Server) ids(ctx context.Context, query string, args ...any) ([]uint64, error) {
	var ids []uint64
	err := s.read(ctx, func(rows *sql.Rows) error {
		ids = nil
		for rows.Next() {
			var id uint64
			if err := rows.Scan(&id); err != nil {
				return err
			}
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
		return nil
	}, query, args...)
	return ids, err
}
