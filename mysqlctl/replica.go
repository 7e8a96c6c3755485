package mysqlctl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ha/mysqlctl/gtid"
)

// drainSlice is how long one wait for the applier lasts before its health is
// looked at again.
const drainSlice = 50 * time.Millisecond

// stopPatience is how long an applier may take to stop before its threads are KILLed.
// Without half a transaction it takes 2 to 4 ms.
const stopPatience = 40 * time.Millisecond

// Position reads what the server has received and executed, in this order. It is
// a final position only where nothing can be added: see SealReplica and Fence.
func (s *Server) Position(ctx context.Context) (Position, error) {
	var pos Position
	err := s.read(ctx, func(rows *sql.Rows) error {
		pos = Position{}
		for {
			for rows.Next() {
				var kind, text string
				if err := rows.Scan(&kind, &text); err != nil {
					return err
				}
				if kind == "uuid" {
					pos.ServerUUID = text
					continue
				}
				set, err := gtid.Parse(text)
				if err != nil {
					return err
				}
				if kind == "received" {
					pos.Received = pos.Received.Union(set)
				} else {
					pos.Executed = set
				}
			}
			if !rows.NextResultSet() {
				return rows.Err()
			}
		}
	}, `SELECT 'received', RECEIVED_TRANSACTION_SET FROM performance_schema.replication_connection_status; SELECT 'executed', @@global.gtid_executed UNION ALL SELECT 'uuid', @@global.server_uuid`)
	return pos, err
}

// SealReplica stops the receiver of every channel, sees that it is stopped, and
// then reads the position. Nothing is acknowledged after it returned: the position
// is final. The applier goes on. Takes 5 ms. ErrNotSealed if a receiver still runs.
func (s *Server) SealReplica(ctx context.Context) (Position, error) {
	d, err := s.dialect()
	if err != nil {
		return Position{}, err
	}
	if err := s.exec(ctx, d.stopReceiver()); err != nil {
		return Position{}, fmt.Errorf("stop receiver: %w", err)
	}
	var running int
	err = s.readOne(ctx, []any{&running}, `SELECT COUNT(*) FROM performance_schema.replication_connection_status WHERE SERVICE_STATE <> 'OFF'`)
	if err != nil {
		return Position{}, err
	}
	if running > 0 {
		return Position{}, fmt.Errorf("%w: %d receivers run", ErrNotSealed, running)
	}
	return s.Position(ctx)
}

// applier is the state of the applier threads of all channels.
type applier struct {
	Position
	channels int
	running  int
	err      ReplicaError
}

func (a applier) drained() bool { return a.Executed.Contains(a.Received) }

func (s *Server) applier(ctx context.Context) (applier, error) {
	var a applier
	d, err := s.dialect()
	if err != nil {
		return a, err
	}
	sets, err := s.readSets(ctx, d.showReplica()+`; SELECT 'now' AS kind, @@global.gtid_executed AS executed`)
	if err != nil {
		return a, err
	}
	a.channels = len(sets["replica"])
	for _, c := range sets["replica"] {
		received, err := gtid.Parse(c["Retrieved_Gtid_Set"])
		if err != nil {
			return a, err
		}
		a.Received = a.Received.Union(received)
		if isOn(strings.ToUpper(c["Replica_SQL_Running"])) {
			a.running++
		}
		if n := number(c["Last_SQL_Errno"]); n != 0 {
			a.err = ReplicaError{int(n), c["Last_SQL_Error"]}
		}
	}
	a.Executed, err = gtid.Parse(sets["now"][0]["executed"])
	return a, err
}

// Drain waits until everything that was received when it began is executed, and
// returns the executed set. It starts an applier that is stopped without an error.
// A transaction that was received in part does not hold it up. ErrApplier if the
// applier stands on an error. 1 ms where there is nothing to drain.
func (s *Server) Drain(ctx context.Context) (gtid.Set, error) {
	first, err := s.Position(ctx)
	if err != nil {
		return gtid.Set{}, err
	}
	if first.Executed.Contains(first.Received) {
		return first.Executed, nil
	}
	d, err := s.dialect()
	if err != nil {
		return gtid.Set{}, err
	}
	started := false
	for {
		a, err := s.applier(ctx)
		switch {
		case err != nil:
			return gtid.Set{}, err
		case a.Executed.Contains(first.Received):
			return a.Executed, nil
		case a.channels == 0:
			return a.Executed, fmt.Errorf("%w: no channel", ErrApplier)
		case a.running < a.channels && a.err.Number != 0 && started: // an earlier error may be gone
			return a.Executed, fmt.Errorf("%w: %d %s", ErrApplier, a.err.Number, a.err.Text)
		case a.running < a.channels:
			if err := s.exec(ctx, d.startApplier()); err != nil {
				return a.Executed, fmt.Errorf("start applier: %w", err)
			}
			started = true
		}
		var result int
		err = s.readOne(ctx, []any{&result}, "SELECT WAIT_FOR_EXECUTED_GTID_SET(?, ?)", first.Received.String(), drainSlice.Seconds())
		if err != nil {
			return a.Executed, fmt.Errorf("drain: %w", err)
		}
	}
}

// retryable: the applier was KILLed (StopApplier did that), it stands on nothing.
func retryable(e ReplicaError) bool { return e.Number == 1317 || e.Number == 1927 || e.Number == 3546 }

// StopApplier stops the applier without a wait for the rest of a transaction that
// was received in part: STOP REPLICA waits a minute for it. So the threads that have
// such a transaction open are KILLed, which rolls it back; it is applied anew when it
// is complete. The receiver has to be stopped.
func (s *Server) StopApplier(ctx context.Context) error {
	d, err := s.dialect()
	if err != nil {
		return err
	}
	a, err := s.applier(ctx)
	if err != nil {
		return err
	}
	if a.running == 0 {
		return nil
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.exec(ctx, d.stopApplier()) }()
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	for {
		select {
		case err := <-stopped:
			if err != nil {
				return fmt.Errorf("stop applier: %w", err)
			}
			return nil
		case <-patience.C:
			// Not only what performance_schema calls half received: after a restart it
			// does not know that any more.
			if err := s.killApplier(ctx); err != nil {
				s.log.Warn("applier threads not ended", "err", err)
			}
			patience.Reset(stopPatience)
		}
	}
}

// killApplier KILLs the coordinator, and the workers that apply what is not received
// completely. The others end by themselves, at the end of their transactions.
func (s *Server) killApplier(ctx context.Context) error {
	pos, err := s.Position(ctx)
	if err != nil {
		return err
	}
	all := pos.All()
	var ids []uint64
	err = s.read(ctx, func(rows *sql.Rows) error {
		ids = nil
		for rows.Next() {
			var text string
			var id uint64
			if err := rows.Scan(&text, &id); err != nil {
				return err
			}
			// What does not parse is the coordinator, which has none.
			if set, err := gtid.Parse(text); err != nil || !all.Contains(set) {
				ids = append(ids, id)
			}
		}
		return nil
	}, `SELECT w.APPLYING_TRANSACTION, t.PROCESSLIST_ID FROM performance_schema.replication_applier_status_by_worker w
 JOIN performance_schema.threads t ON t.THREAD_ID = w.THREAD_ID WHERE w.APPLYING_TRANSACTION <> ''
UNION ALL SELECT 'coordinator', t.PROCESSLIST_ID FROM performance_schema.threads t WHERE t.NAME IN ('thread/sql/replica_sql', 'thread/sql/slave_sql')`)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.killSession(id, 0); err != nil {
			return fmt.Errorf("end applier thread %d: %w", id, err)
		}
	}
	return nil
}

// ResetReplica removes the replication channels of a server that is a primary now:
// housekeeping after writes are open. 30 ms. Refused (ErrApplier) while something
// received is not executed: it would be lost.
func (s *Server) ResetReplica(ctx context.Context) error {
	d, err := s.dialect()
	if err != nil {
		return err
	}
	if _, err := s.SealReplica(ctx); err != nil {
		return err
	}
	a, err := s.applier(ctx)
	if err != nil || a.channels == 0 {
		return err
	}
	if !a.drained() {
		return fmt.Errorf("%w: %s is received and not executed", ErrApplier, a.Received.Minus(a.Executed))
	}
	if err := s.StopApplier(ctx); err != nil {
		return err
	}
	if err := s.execWhole(ctx, d.resetReplicaAll()); err != nil {
		return fmt.Errorf("reset replica: %w", err)
	}
	return nil
}

// SetReplicaAck makes the receiver acknowledge, or not, and verifies it: the flag
// alone does nothing while the receiver runs, so that is restarted. As long as it
// is the only acknowledger, commits wait for up to a second meanwhile: do not do
// it then. A receiver that is stopped stays so. Nothing to do if one runs that is so already.
// Off holds for one that cannot connect too: it was started with the flag off.
func (s *Server) SetReplicaAck(ctx context.Context, on bool) error {
	d, err := s.dialect()
	if err != nil {
		return err
	}
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	runs := st.Replica != nil && st.Replica.IOState != "No"
	if runs && st.ReplicaAckWanted == on && st.ReplicaAck == on && st.Replica.IOState == "Yes" {
		return nil
	}
	if runs {
		if err := s.exec(ctx, d.stopReceiver()); err != nil {
			return fmt.Errorf("stop receiver: %w", err)
		}
	}
	if err := s.setAckFlag(ctx, on); err != nil {
		return err
	}
	if !runs {
		return nil
	}
	if err := s.exec(ctx, d.startReceiver()); err != nil {
		return fmt.Errorf("start receiver: %w", err)
	}
	err = s.awaitReceiver(ctx, on)
	if !on && errors.Is(err, ErrNotConnected) {
		return nil
	}
	return err
}

// lazyRelaySync lets a receiver that does not acknowledge leave syncing its relay
// log to the kernel: with one fdatasync an event it is slower than a busy source
// that waits for nobody, and would never come near enough to be let in.
const lazyRelaySync = 10000

// setAckFlag sets the flag; the receiver is stopped. What it acknowledges from
// then on is on disk, with all that it received before.
func (s *Server) setAckFlag(ctx context.Context, on bool) error {
	s.mu.Lock()
	info := s.info
	s.mu.Unlock()
	if !info.replica {
		if on {
			return fmt.Errorf("%w: the semi-sync replica plugin is not loaded", ErrUnsupported)
		}
		return nil
	}
	value := "OFF"
	if on {
		value = "ON"
		if err := s.syncRelayLogs(ctx); err != nil {
			return err
		}
	} else if err := s.exec(ctx, "SET GLOBAL sync_relay_log = "+strconv.Itoa(lazyRelaySync)); err != nil {
		return err
	}
	return s.exec(ctx, "SET GLOBAL "+info.dialect.semiReplica()+" = "+value)
}

// syncRelayLogs makes the receiver sync each event from now on, and what it has
// written already.
func (s *Server) syncRelayLogs(ctx context.Context) error {
	var base string
	if err := s.readOne(ctx, []any{&base}, "SELECT @@global.relay_log_basename"); err != nil {
		return err
	}
	// It may be 1 because the server was started a moment ago, and have been another while
	// it received: so the files are synced whatever it was.
	if err := s.exec(ctx, "SET GLOBAL sync_relay_log = 1"); err != nil {
		return err
	}
	files, err := filepath.Glob(base + ".*")
	if err != nil {
		return fmt.Errorf("relay logs %s: %w", base, err)
	}
	for _, name := range files {
		if err := syncFile(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // the applier purges them
			return fmt.Errorf("sync relay log: %w", err)
		}
	}
	return nil
}

func syncFile(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// receiverPoll is how often awaitReceiver looks.
const receiverPoll = 2 * time.Millisecond

// awaitReceiver waits until the receiver is connected and acknowledges, or not, as
// wanted. An error it stands on, or has met while connecting, is returned at once.
// It asks for no more than that: Status costs the server ten times as much, and more
// than one of them waits here while clients wait for a new primary.
func (s *Server) awaitReceiver(ctx context.Context, ack bool) error {
	d, err := s.dialect()
	if err != nil {
		return err
	}
	last := errors.New("no channel")
	for {
		state, acks, met := "", false, ReplicaError{}
		err := s.read(ctx, func(rows *sql.Rows) error {
			for state = ""; rows.Next() && state == ""; {
				var status sql.NullString
				if err := rows.Scan(&state, &met.Number, &met.Text, &status); err != nil {
					return err
				}
				acks = isOn(status.String)
			}
			return rows.Err()
		}, `SELECT SERVICE_STATE, LAST_ERROR_NUMBER, LAST_ERROR_MESSAGE,
 (SELECT VARIABLE_VALUE FROM performance_schema.global_status WHERE VARIABLE_NAME = 'Rpl_semi_sync_`+d.replica+`_status')
 FROM performance_schema.replication_connection_status`)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case err != nil, state == "":
		case state == "ON" && acks == ack:
			return nil
		case state == "ON":
			last = ErrNotAcking
		case met.Number != 0:
			return fmt.Errorf("%w: %d %s", ErrNotConnected, met.Number, met.Text)
		default:
			last = fmt.Errorf("%w: %s", ErrNotConnected, strings.ToLower(state))
		}
		if !sleep(ctx, receiverPoll) {
			return errors.Join(last, ctx.Err())
		}
	}
}

func (s *Server) dialect() (dialect, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool == nil {
		return dialect{}, ErrNotRunning
	}
	return s.info.dialect, nil
}
