package load

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Verdict is what became of the acknowledged rows.
type Verdict struct {
	Acked   int
	Missing map[string]int // rows that a server lacks, by its name
	Differs []string       // servers that hold other rows than the first
	Reigns
}

// OK tells whether nothing was lost.
func (v Verdict) OK() bool {
	for _, n := range v.Missing {
		if n > 0 {
			return false
		}
	}
	return len(v.Differs) == 0 && v.Reigns.OK()
}

// Lost is the greatest number of rows that one server lacks.
func (v Verdict) Lost() int { return slices.Max(append(slices.Collect(maps.Values(v.Missing)), 0)) }

func (v Verdict) String() string {
	s := fmt.Sprintf("%d rows acknowledged; missing:", v.Acked)
	for _, name := range slices.Sorted(maps.Keys(v.Missing)) {
		s += fmt.Sprintf(" %s %d", name, v.Missing[name])
	}
	if len(v.Differs) > 0 {
		s += fmt.Sprintf("; other contents than the first: %v", v.Differs)
	}
	return s + "; " + v.Reigns.String()
}

// Check reads all rows from all servers, once they hold the same or bound is
// over, and compares them with what was acknowledged, in order of time. The writers
// must have stopped. epochs are those that began while they wrote; -1: not known.
func Check(ctx context.Context, servers []Server, acks []Ack, epochs int, bound time.Duration) (Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for {
		v, err := check(ctx, servers, acks, epochs)
		if err == nil && v.OK() {
			return v, nil
		}
		select {
		case <-ctx.Done():
			// The last look has a time of its own.
			last, stop := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
			defer stop()
			return check(last, servers, acks, epochs)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func check(ctx context.Context, servers []Server, acks []Ack, epochs int) (Verdict, error) {
	v := Verdict{Acked: len(acks), Missing: map[string]int{}, Reigns: reigns(servers, acks, epochs)}
	var first map[Row]bool
	for _, s := range servers {
		rows, err := read(ctx, s)
		if err != nil {
			return v, fmt.Errorf("read the rows of %s: %w", s.Name, err)
		}
		v.Missing[s.Name] = 0
		for _, a := range acks {
			if !rows[a.Row] {
				v.Missing[s.Name]++
			}
		}
		if first == nil {
			first = rows
		} else if !maps.Equal(first, rows) {
			v.Differs = append(v.Differs, s.Name)
		}
	}
	return v, nil
}

// AwaitCaughtUp waits until every server shows all rows that were acknowledged,
// but for the last few.
func AwaitCaughtUp(ctx context.Context, servers []Server, l *Load) error {
	const few = 20
	for _, s := range servers {
		db, err := sql.Open("mysql", s.DSN)
		if err != nil {
			return err
		}
		defer db.Close()
		for {
			acked := l.Count()
			var has int64
			err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM load_rows").Scan(&has)
			if err == nil && has+few >= acked {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s shows %d of %d rows: %w", s.Name, has, acked, errors.Join(ctx.Err(), err))
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

// AwaitExecuted waits until a replica has executed what its primary has now.
func AwaitExecuted(ctx context.Context, primary, replica *sql.DB) error {
	var set string
	var timedOut int
	if err := primary.QueryRowContext(ctx, "SELECT @@global.gtid_executed").Scan(&set); err != nil {
		return err
	}
	if err := replica.QueryRowContext(ctx, "SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 300)", strings.ReplaceAll(set, "\n", "")).Scan(&timedOut); err != nil {
		return err
	}
	if timedOut != 0 {
		return errors.New("the replica has not caught up in 5 minutes")
	}
	return nil
}

func read(ctx context.Context, s Server) (map[Row]bool, error) {
	db, err := sql.Open("mysql", s.DSN)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rs, err := db.QueryContext(ctx, "SELECT writer, seq FROM load_rows")
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	rows := map[Row]bool{}
	for rs.Next() {
		var r Row
		if err := rs.Scan(&r.Writer, &r.Seq); err != nil {
			return nil, err
		}
		rows[r] = true
	}
	return rows, rs.Err()
}
