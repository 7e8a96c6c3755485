package mysqlctl

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	killPoll    = 3 * time.Millisecond
	upkeepEvery = 2 * time.Second
	upkeepTime  = 100 * time.Millisecond
)

// exec runs a statement whose late effect would do harm. It returns when the
// statement has: or, past the deadline of ctx, when the statement was KILLed and
// its session is gone from the server. If that cannot be seen: ErrAbandoned.
func (s *Server) exec(ctx context.Context, query string, args ...any) error {
	p, err := s.connected()
	if err != nil {
		return err
	}
	c, err := p.get(ctx)
	if err != nil {
		return err
	}
	keep, err := s.execOn(ctx, c, KillGrace, query, args...)
	p.put(c, keep)
	return err
}

// wholeTime is how long a statement has, once it has begun, that is not to be ended. One
// for a channel takes 10 to 30 ms, semi-sync is off after a second.
const wholeTime = 5 * time.Second

// execWhole is exec for a statement that is not ended when ctx is, but takes its time. A
// KILL in the midst of one that makes, repoints or removes a channel leaves a channel that
// the server cannot open any more (errors 1201, 1872), or none, where none can be made before
// the server is started again (error 1794). One that switches the source off is not ended
// by a KILL: it would seem to be abandoned, and the server would be killed for it.
func (s *Server) execWhole(ctx context.Context, query string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wholeTime)
	defer cancel()
	return s.exec(ctx, query)
}

func (s *Server) execOn(ctx context.Context, c *session, grace time.Duration, query string, args ...any) (keep bool, err error) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	gone := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		gone <- s.endSession(c, grace)
		cancel()
	})
	_, err = c.conn.ExecContext(run, query, args...)
	if stop() {
		// An error may have left half of a multi-statement behind it: a session
		// with sql_log_bin=0 for one. Such a session is not used again.
		return err == nil, err
	}
	abandoned := <-gone
	switch {
	case err == nil: // it was done before the KILL came
		return false, nil
	case abandoned != nil:
		return false, fmt.Errorf("%w: %w: %w", ErrAbandoned, ctx.Err(), abandoned)
	}
	return false, orDeadline(ctx, err)
}

// endSession sees to it that a session of ours is gone: by a KILL, if the server that
// it is in still lives.
func (s *Server) endSession(c *session, grace time.Duration) error {
	if !c.pool.proc.alive() {
		return nil
	}
	if p, err := s.connected(); err != nil || p != c.pool {
		return errors.New("connections were closed meanwhile")
	}
	return s.killSession(c.id, grace)
}

// commit runs a statement that may wait for an acknowledgement, where nothing
// ends it, and whose late effect does no harm. It returns at the deadline.
func (s *Server) commit(ctx context.Context, query string, args ...any) error {
	p, err := s.connected()
	if err != nil {
		return err
	}
	c, err := p.getBare(ctx)
	if err != nil {
		return err
	}
	_, err = c.conn.ExecContext(ctx, query, args...)
	p.put(c, false)
	return orDeadline(ctx, err)
}

// emergency is the connection that KILLs. It is opened when there is time, since
// in a connection storm, or while a CREATE USER waits for an acknowledgement, no
// new one can be had.
type emergency struct {
	mu   sync.Mutex // guards c
	use  sync.Mutex // held while c is in use
	c    *session
	pool *pool
}

// reset closes the connection and makes p the place to open the next one.
func (e *emergency) reset(p *pool) {
	e.mu.Lock()
	old := e.c
	e.c, e.pool = nil, p
	e.mu.Unlock()
	if old != nil {
		go old.close() // may be in use on a frozen server
	}
}

// get returns the open connection, or opens one.
func (e *emergency) get(ctx context.Context) (*session, error) {
	e.mu.Lock()
	c, p := e.c, e.pool
	e.mu.Unlock()
	if p == nil {
		return nil, ErrNotRunning
	}
	if c != nil && c.alive(ctx) {
		return c, nil
	}
	c.close()
	fresh, err := p.open(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pool != p {
		fresh.close()
		return nil, ErrNotRunning
	}
	e.c = fresh
	return fresh, err
}

// do runs f on the connection, and drops the connection if f fails.
func (e *emergency) do(ctx context.Context, f func(*session) error) error {
	for !e.use.TryLock() {
		if !sleep(ctx, time.Millisecond) {
			return ctx.Err()
		}
	}
	defer e.use.Unlock()
	c, err := e.get(ctx)
	if err != nil {
		return err
	}
	err = f(c)
	var fromServer *mysql.MySQLError
	if err != nil && !errors.As(err, &fromServer) {
		e.mu.Lock()
		if e.c == c {
			e.c = nil
		}
		e.mu.Unlock()
		c.close()
	}
	return err
}

// killSession KILLs a connection and waits, for grace at most, until it is gone from
// the server. With grace 0 it only sends the KILL.
func (s *Server) killSession(id uint64, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), max(grace, KillGrace))
	defer cancel()
	for first := true; ; first = false {
		left := 1
		err := s.emergency.do(ctx, func(c *session) error {
			if first {
				if _, err := c.conn.ExecContext(ctx, fmt.Sprintf("KILL %d", id)); err != nil && !isError(err, errNoSuchThread) {
					return err
				}
			}
			if grace == 0 {
				return nil
			}
			return c.conn.QueryRowContext(ctx,
				"SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_ID = ?", id).Scan(&left)
		})
		if err != nil || grace == 0 || left == 0 {
			return err
		}
		if !sleep(ctx, killPoll) {
			return fmt.Errorf("session %d is still there after KILL", id)
		}
	}
}

// upkeep opens again what was lost of the connections that have to be there before
// there is trouble. It must not hold up its caller: a login may hang.
func (s *Server) upkeep(ctx context.Context) {
	p, err := s.connected()
	if err != nil || !p.few() {
		return
	}
	if last := s.upkept.Load(); time.Now().UnixNano()-last < int64(upkeepEvery) || !s.upkept.CompareAndSwap(last, time.Now().UnixNano()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, upkeepTime)
	defer cancel()
	if s.emergency.do(ctx, func(*session) error { return nil }) == nil {
		_ = p.ready(ctx, readySessions)
	}
}
