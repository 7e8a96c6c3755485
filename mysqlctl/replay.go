package mysqlctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"

	"ha/mysqlctl/gtid"
)

var (
	// ErrLogGap says that binary logs do not follow on what is there.
	ErrLogGap = errors.New("transactions are missing")
	// ErrPast says that the data hold what was to be left out.
	ErrPast = errors.New("the data hold it already")
)

// ReplayServerID is what a server has to have as its server_id to replay: mysqld
// leaves out what carries its own.
const ReplayServerID = 1<<32 - 1

// Until is where a replay ends: before the transaction with this GTID, or before the
// first one that was committed at this time or later. Zero: with the last one.
type Until struct {
	GTID gtid.Set // one transaction
	Time time.Time
}

func (u Until) reached(t transaction) bool {
	return u.GTID.Has(uuidText(t.sid), t.tag, t.number) || !u.Time.IsZero() && !t.at.Before(u.Time)
}

// Replayed says what PrepareReplay found.
type Replayed struct {
	Set     gtid.Set // what the server has when it has replayed
	Files   int      // that it reads for that
	Reached bool     // a transaction at which it ends was found
	Torn    string   // the last log, if that ends within a transaction: it is left out
}

var errReached = errors.New("reached")

// PrepareReplay lays binary logs, in their order, compressed by PackLog or not, into the data directory of a server
// that has executed have and does not run, as its relay logs: then its own applier
// replays them, with all that it knows of formats, compression and parallel work, and
// leaves out what it has. What is not wanted is not copied, nor is a log of which it
// has all. ErrLogGap: they do not follow on have, or on each other; ErrPast: have is
// past until; ErrUnreadable: a log is damaged.
func (s *Server) PrepareReplay(ctx context.Context, have gtid.Set, logs []string, until Until) (Replayed, error) {
	r := Replayed{Set: have}
	if !until.GTID.IsEmpty() && have.Contains(until.GTID) {
		return r, fmt.Errorf("%s: %w", until.GTID, ErrPast)
	}
	var index strings.Builder
	for _, name := range logs {
		if r.Reached {
			break
		}
		relay := fmt.Sprintf("relay-bin.%06d", r.Files+1)
		found, reached, torn, err := copyLog(ctx, name, filepath.Join(s.cfg.DataDir, relay), have, r.Set, until)
		if err != nil {
			return r, fmt.Errorf("%s: %w", filepath.Base(name), err)
		}
		r.Reached, r.Torn = reached, ""
		if torn {
			r.Torn = filepath.Base(name)
		}
		if have.Contains(found) {
			continue
		}
		r.Files, r.Set = r.Files+1, r.Set.Union(found)
		index.WriteString("./" + relay + "\n")
		if err := s.giveAway(filepath.Join(s.cfg.DataDir, relay)); err != nil {
			return r, err
		}
	}
	if r.Files == 0 {
		return r, nil
	}
	name := filepath.Join(s.cfg.DataDir, "relay-bin.index")
	if err := os.WriteFile(name, []byte(index.String()), 0o640); err != nil {
		return r, err
	}
	return r, s.giveAway(name)
}

// copyLog copies a log up to where the replay ends, if it holds anything that have
// lacks. before is what there is once the logs before it are replayed. torn: it ends
// within a transaction.
func copyLog(ctx context.Context, from, to string, have, before gtid.Set, until Until) (found gtid.Set, reached, torn bool, err error) {
	if strings.HasSuffix(from, PackedSuffix) {
		unpacked := to + ".unpacked"
		if err := unpackLog(from, unpacked); err != nil {
			return found, false, false, err
		}
		from = unpacked
		defer os.Remove(unpacked)
	}
	in, err := os.Open(from)
	if err != nil {
		return found, false, false, err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return found, false, false, err
	}
	r := &binlogReader{file: in, size: st.Size(), parser: replication.NewBinlogParser()}
	r.parser.SetVerifyChecksum(true)
	var set gtidCollector
	end := int64(0) // of the last transaction that is wanted
	r.each = func(t transaction) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch has := have.Has(uuidText(t.sid), t.tag, t.number); {
		case until.reached(t) && has:
			return fmt.Errorf("transaction %d of %s: %w", t.number, uuidText(t.sid), ErrPast)
		case until.reached(t):
			return errReached
		}
		if _, err := r.verify(t.off, t.end); err != nil {
			return err
		}
		set.add(t.sid, t.tag, t.number, t.number)
		end = t.end
		return nil
	}
	if err := r.walk(); err != nil && !errors.Is(err, errReached) {
		return found, false, false, err
	} else if err != nil {
		reached = true
	}
	torn = r.torn != 0
	if !r.begun {
		return found, false, false, fmt.Errorf("%w: it has no Previous_gtids", ErrUnreadable)
	}
	if gap := r.previous.Minus(before); !gap.IsEmpty() {
		return found, false, false, fmt.Errorf("%w before it: %s", ErrLogGap, gap)
	}
	if found, err = set.set(); err != nil || have.Contains(found) {
		return found, reached, torn, err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return found, false, false, err
	}
	// What closes a log is left out: it names the next one of another server.
	_, err = io.Copy(out, io.NewSectionReader(in, 0, max(end, r.head)))
	return found, reached, torn, errors.Join(err, out.Close())
}

// Replay applies what PrepareReplay has laid into the data directory before this
// server was started, and returns when all of want is executed. progress is told how
// many transactions are not yet. ErrApplier with its reason where one cannot be
// applied, or the applier has had none in work for as long as stall: one alone may
// take hours.
func (s *Server) Replay(ctx context.Context, want gtid.Set, stall time.Duration, progress func(left uint64)) error {
	err := s.exec(ctx, "CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'none', SOURCE_AUTO_POSITION = 0, RELAY_LOG_FILE = 'relay-bin.000001', RELAY_LOG_POS = 4")
	if err == nil {
		err = s.exec(ctx, "START REPLICA SQL_THREAD")
	}
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	var last gtid.Set
	for moved := time.Now(); ; {
		st, err := s.Status(ctx)
		if err != nil {
			return fmt.Errorf("replay: %w", err)
		}
		working, err := s.ids(ctx, "SELECT WORKER_ID FROM performance_schema.replication_applier_status_by_worker WHERE APPLYING_TRANSACTION <> ''")
		if err != nil {
			return fmt.Errorf("replay: %w", err)
		}
		progress(want.Minus(st.Executed).Count())
		if !st.Executed.Equal(last) || len(working) > 0 {
			last, moved = st.Executed, time.Now()
		}
		if time.Since(moved) > stall {
			return fmt.Errorf("replay: %w: nothing to do for %s; not executed: %s", ErrApplier, stall, want.Minus(st.Executed))
		}
		if st.Executed.Contains(want) {
			break
		}
		if st.Replica == nil || st.Replica.SQLError.Number != 0 || st.Replica.SQLState != "Yes" {
			return fmt.Errorf("replay: %w: %s; not executed: %s", ErrApplier, reason(st.Replica), want.Minus(st.Executed))
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return fmt.Errorf("replay: %w", ctx.Err())
		}
	}
	if err := s.StopApplier(ctx); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	return s.execWhole(ctx, "RESET REPLICA ALL")
}

// reason says why an applier stands.
func reason(r *ReplicaStatus) string {
	if r == nil {
		return "replication is not set up"
	}
	return fmt.Sprintf("applier %s, error %d %s", r.SQLState, r.SQLError.Number, r.SQLError.Text)
}
