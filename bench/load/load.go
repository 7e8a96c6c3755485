// Package load writes rows to a MySQL cluster as an application does that tries
// all its servers, and finds out afterwards what became of them.
package load

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	refusedWait = 4 * time.Millisecond // before a server is asked again that refused a row
	commitBound = 5 * time.Second      // a commit without an answer is given up, its outcome unknown
)

// Server is one of the servers to write to.
type Server struct {
	Name string
	DSN  string
}

// Row is a row; no two attempts write the same one.
type Row struct{ Writer, Seq int64 }

// Ack is a server's OK for a row.
type Ack struct {
	Row      Row
	Server   string
	Sent, At time.Time // when the statement was given to the driver, and its OK came
}

// Load is a set of writers, one for each server. All try all the time: only the
// primary takes what they write.
type Load struct {
	stop  context.CancelFunc
	done  sync.WaitGroup
	count atomic.Int64

	mu   sync.Mutex
	acks []Ack

	warm func(ctx context.Context) error
}

// CreateTable makes an empty table for the rows on the server that takes it.
func CreateTable(ctx context.Context, servers []Server) error {
	var errs []error
	for _, s := range servers {
		db, err := sql.Open("mysql", s.DSN)
		if err != nil {
			return err
		}
		_, err = db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS load_rows (writer BIGINT, seq BIGINT, PRIMARY KEY (writer, seq))")
		db.Close()
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
	}
	return errors.Join(errs...)
}

// Start begins to write: to every server one row after the other, each pace at
// the most.
func Start(ctx context.Context, servers []Server, pace time.Duration) (*Load, error) {
	ctx, stop := context.WithCancel(ctx)
	l := &Load{stop: stop}
	for i, s := range servers {
		db, err := sql.Open("mysql", s.DSN)
		if err != nil {
			stop()
			return nil, err
		}
		db.SetMaxOpenConns(1)
		l.done.Go(func() {
			defer db.Close()
			l.write(ctx, db, s.Name, time.Now().UnixMicro()*10+int64(i), pace)
		})
	}
	return l, nil
}

// Roam begins to write with that many writers, each to the server that took its
// last row, and to the next one when that refuses.
func Roam(ctx context.Context, servers []Server, writers int, pace time.Duration) (*Load, error) {
	ctx, stop := context.WithCancel(ctx)
	l := &Load{stop: stop}
	dbs := make([]*sql.DB, len(servers))
	for i, s := range servers {
		var err error
		if dbs[i], err = sql.Open("mysql", s.DSN); err != nil {
			stop()
			return nil, err
		}
		dbs[i].SetMaxOpenConns(writers)
		dbs[i].SetMaxIdleConns(writers)
	}
	l.warm = func(ctx context.Context) error { return warm(ctx, dbs, writers) }
	for i := range writers {
		l.done.Go(func() { l.roam(ctx, servers, dbs, time.Now().UnixMicro()*100+int64(i), pace) })
	}
	go func() {
		l.done.Wait()
		for _, db := range dbs {
			db.Close()
		}
	}()
	return l, nil
}

// Warm gives the writers of [Roam] a connection each to every server, as a pool of
// an application has: servers end those of their clients when they are deposed.
func (l *Load) Warm(ctx context.Context) error { return l.warm(ctx) }

func warm(ctx context.Context, dbs []*sql.DB, writers int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, db := range dbs {
		var held []*sql.Conn
		var err error
		// The writers have the rest of the server that takes their rows.
		for db.Stats().OpenConnections < writers && err == nil {
			var c *sql.Conn
			if c, err = db.Conn(ctx); err == nil {
				held = append(held, c)
				err = c.PingContext(ctx)
			}
		}
		for _, c := range held {
			c.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// roam is one such writer: an application with a list of addresses.
func (l *Load) roam(ctx context.Context, servers []Server, dbs []*sql.DB, writer int64, pace time.Duration) {
	at := 0
	for row := (Row{Writer: writer}); ctx.Err() == nil; {
		row.Seq++
		cctx, cancel := context.WithTimeout(ctx, commitBound)
		sent := time.Now()
		_, err := dbs[at].ExecContext(cctx, fmt.Sprintf("INSERT INTO load_rows VALUES (%d, %d)", row.Writer, row.Seq))
		cancel()
		wait := pace
		if err == nil {
			l.acked(Ack{row, servers[at].Name, sent, time.Now()})
		} else {
			at, wait = (at+1)%len(servers), refusedWait
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (l *Load) write(ctx context.Context, db *sql.DB, server string, writer int64, pace time.Duration) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for row := (Row{Writer: writer}); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		row.Seq++
		cctx, cancel := context.WithTimeout(ctx, commitBound)
		sent := time.Now()
		_, err := db.ExecContext(cctx, fmt.Sprintf("INSERT INTO load_rows VALUES (%d, %d)", row.Writer, row.Seq))
		cancel()
		if err == nil {
			l.acked(Ack{row, server, sent, time.Now()})
			continue
		}
		wait := refusedWait
		var refused *mysql.MySQLError
		if errors.As(err, &refused) && refused.Number == accessDenied {
			wait = 100 * time.Millisecond // a login costs the server a lot
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// accessDenied: the server has no such account (yet).
const accessDenied = 1045

func (l *Load) acked(a Ack) {
	l.count.Add(1)
	l.mu.Lock()
	l.acks = append(l.acks, a)
	l.mu.Unlock()
}

// Count is how many rows were acknowledged so far.
func (l *Load) Count() int64 { return l.count.Load() }

// Stop ends the writers and returns what was acknowledged, in order of time.
func (l *Load) Stop() []Ack {
	l.stop()
	l.done.Wait()
	return l.Acks()
}

// Acks is what was acknowledged so far, in order of time.
func (l *Load) Acks() []Ack {
	l.mu.Lock()
	acks := slices.Clone(l.acks)
	l.mu.Unlock()
	slices.SortFunc(acks, func(a, b Ack) int { return a.At.Compare(b.At) })
	return acks
}

// AwaitOther waits until a server other than this one acknowledges a row after
// since.
func (l *Load) AwaitOther(ctx context.Context, not string, since time.Time) (Ack, error) {
	next := 0
	for {
		l.mu.Lock()
		fresh := l.acks[next:]
		next += len(fresh)
		fresh = slices.Clone(fresh)
		l.mu.Unlock()
		for _, a := range fresh {
			if a.Server != not && a.At.After(since) {
				return a, nil
			}
		}
		select {
		case <-ctx.Done():
			return Ack{}, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Gap is the longest time between two acknowledgements that follow each other,
// of those that end after from and begin before to.
func Gap(acks []Ack, from, to time.Time) time.Duration {
	longest, _ := LongestGap(acks, from, to)
	return longest
}

// WorstWriter is the longest time that one writer went without an acknowledgement
// between from and to.
func WorstWriter(acks []Ack, from, to time.Time) (worst time.Duration) {
	by := map[int64][]Ack{}
	for _, a := range acks {
		by[a.Row.Writer] = append(by[a.Row.Writer], a)
	}
	for _, own := range by {
		worst = max(worst, Gap(own, from, to))
	}
	return worst
}

// LongestGap is [Gap], and when it began.
func LongestGap(acks []Ack, from, to time.Time) (longest time.Duration, began time.Time) {
	for i := 1; i < len(acks); i++ {
		if acks[i].At.Before(from) {
			continue
		}
		if acks[i-1].At.After(to) {
			break
		}
		if gap := acks[i].At.Sub(acks[i-1].At); gap > longest {
			longest, began = gap, acks[i-1].At
		}
	}
	return longest, began
}

// init keeps the driver quiet about broken connections: breaking them is what
// this is about.
func init() { _ = mysql.SetLogger(quiet{}) }

type quiet struct{}

func (quiet) Print(...any) {}
