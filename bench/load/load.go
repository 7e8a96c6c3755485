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
	connections = 4                    // per server
	refusedWait = 4 * time.Millisecond // before a server is asked again that refused a row, by one connection
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
	Row    Row
	Server string
	At     time.Time
}

// Load is a set of writers, one for each server. All try all the time: only the
// primary takes what they write.
type Load struct {
	servers []Server
	pace    time.Duration
	stop    context.CancelFunc
	done    sync.WaitGroup
	count   atomic.Int64

	mu   sync.Mutex
	acks []Ack
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

// Start begins to write a row each pace to every server.
func Start(ctx context.Context, servers []Server, pace time.Duration) (*Load, error) {
	ctx, stop := context.WithCancel(ctx)
	l := &Load{servers: servers, pace: pace, stop: stop}
	for i, s := range servers {
		db, err := sql.Open("mysql", s.DSN)
		if err != nil {
			stop()
			return nil, err
		}
		db.SetMaxOpenConns(connections)
		db.SetMaxIdleConns(connections)
		w := &writer{load: l, db: db, server: s.Name, id: time.Now().UnixMicro()*10 + int64(i), ticks: make(chan struct{}), probe: make(chan struct{}, 1)}
		w.probe <- struct{}{}
		l.done.Go(func() { l.tick(ctx, w.ticks) })
		var conns sync.WaitGroup
		for range connections {
			conns.Go(func() { w.run(ctx) })
		}
		l.done.Go(func() { conns.Wait(); db.Close() })
	}
	return l, nil
}

// tick paces the writers of one server; ticks that nobody can take are dropped.
func (l *Load) tick(ctx context.Context, ticks chan<- struct{}) {
	t := time.NewTicker(l.pace)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			select {
			case ticks <- struct{}{}:
			default:
			}
		}
	}
}

// writer writes to one server over several connections. While the server refuses
// rows, only the connection that holds the probe asks.
type writer struct {
	load   *Load
	db     *sql.DB
	server string
	id     int64
	seq    atomic.Int64
	ticks  chan struct{}
	open   atomic.Bool // the last row was acknowledged
	probe  chan struct{}
}

func (w *writer) run(ctx context.Context) {
	for {
		if !w.open.Load() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(refusedWait):
				continue // another one may have opened it
			case <-w.probe:
			}
			w.insert(ctx)
			w.probe <- struct{}{}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-w.ticks:
			w.insert(ctx)
		}
	}
}

func (w *writer) insert(ctx context.Context) {
	row := Row{w.id, w.seq.Add(1)}
	cctx, cancel := context.WithTimeout(ctx, commitBound)
	_, err := w.db.ExecContext(cctx, fmt.Sprintf("INSERT INTO load_rows VALUES (%d, %d)", row.Writer, row.Seq))
	cancel()
	w.open.Store(err == nil)
	if err == nil {
		w.load.acked(Ack{row, w.server, time.Now()})
		return
	}
	wait := refusedWait
	var refused *mysql.MySQLError
	if errors.As(err, &refused) && refused.Number == accessDenied {
		wait = 100 * time.Millisecond // a login costs the server a lot
	}
	select {
	case <-ctx.Done():
	case <-time.After(wait):
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
	var longest time.Duration
	for i := 1; i < len(acks); i++ {
		if acks[i].At.Before(from) {
			continue
		}
		if acks[i-1].At.After(to) {
			break
		}
		longest = max(longest, acks[i].At.Sub(acks[i-1].At))
	}
	return longest
}

// init keeps the driver quiet about broken connections: breaking them is what
// this is about.
func init() { _ = mysql.SetLogger(quiet{}) }

type quiet struct{}

func (quiet) Print(...any) {}
