package mysqlctl

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	maxSessions    = 12              // of ours in one mysqld, beside the emergency one
	readySessions  = maxBarriers + 2 // opened at the start: a waiting CREATE USER blocks every new login
	connectTimeout = 2 * time.Second // for one connection
	killPoll       = 3 * time.Millisecond
	upkeepEvery    = 2 * time.Second
	upkeepTime     = 100 * time.Millisecond
)

// session is one connection with its id in the server, which is what KILL needs.
// database/sql's own pool hides which connection a statement runs on.
type session struct {
	conn *sql.Conn
	id   uint64
	pool *pool
}

func (c *session) close() {
	if c == nil {
		return
	}
	_ = c.conn.Close()
	c.pool.mu.Lock()
	delete(c.pool.ids, c.id)
	c.pool.mu.Unlock()
}

// alive looks at the socket, without a round trip.
func (c *session) alive(ctx context.Context) bool {
	return c.conn.Raw(func(dc any) error {
		if r, ok := dc.(driver.SessionResetter); ok {
			return r.ResetSession(ctx)
		}
		return nil
	}) == nil
}

// pool keeps sessions to one mysqld open.
type pool struct {
	proc  *process // the mysqld that the ids are good for
	db    *sql.DB
	slots chan struct{}

	mu     sync.Mutex
	free   []*session
	ids    map[uint64]bool // of all open sessions
	closed bool
}

func newPool(proc *process, socket string, acc Account) (*pool, error) {
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr = "unix", socket
	cfg.User, cfg.Passwd = acc.User, acc.Password
	cfg.Timeout = connectTimeout
	cfg.MultiStatements = true
	cfg.InterpolateParams = true
	cfg.Logger = log.New(io.Discard, "", 0) // it logs each closed connection to stderr
	// READ-COMMITTED: barriers must not lock gaps. The long wait_timeout: a
	// connection that is open must stay open, there may be no other later.
	cfg.Params = map[string]string{
		"wait_timeout":             "31536000",
		"innodb_lock_wait_timeout": "1",
		"lock_wait_timeout":        "31536000",
		"sql_mode":                 "'ANSI_QUOTES'",
		"time_zone":                "'+00:00'",
	}
	conn, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(conn)
	db.SetMaxIdleConns(-1) // the pool below keeps them
	return &pool{proc: proc, db: db, slots: make(chan struct{}, maxSessions), ids: make(map[uint64]bool)}, nil
}

// open makes a new session, whatever the number of those that exist.
func (p *pool) open(ctx context.Context) (*session, error) {
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	c := &session{conn: conn, pool: p}
	if err := conn.QueryRowContext(ctx, "SELECT CONNECTION_ID()").Scan(&c.id); err != nil {
		c.close()
		return nil, err
	}
	p.mu.Lock()
	p.ids[c.id] = true
	p.mu.Unlock()
	return c, nil
}

// few reports whether fewer sessions than there should be are open.
func (p *pool) few() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ids) <= readySessions // the emergency one is among them
}

// own returns the ids of all open sessions.
func (p *pool) own() []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.ids))
}

// get returns a free session or a new one. It waits while all are in use.
func (p *pool) get(ctx context.Context) (*session, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for {
		p.mu.Lock()
		n := len(p.free)
		if n == 0 || p.closed {
			p.mu.Unlock()
			break
		}
		c := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		if c.alive(ctx) {
			return c, nil
		}
		c.close()
	}
	c, err := p.open(ctx)
	if err != nil {
		<-p.slots
		return nil, err
	}
	return c, nil
}

// put gives a session back; keep is false where its state is not known.
func (p *pool) put(c *session, keep bool) {
	p.mu.Lock()
	keep = keep && !p.closed
	if keep {
		p.free = append(p.free, c)
	}
	p.mu.Unlock()
	if !keep {
		c.close()
	}
	<-p.slots
}

// ready opens sessions until n are free.
func (p *pool) ready(ctx context.Context, n int) error {
	var held []*session
	var err error
	for range n {
		var c *session
		if c, err = p.get(ctx); err != nil {
			break
		}
		held = append(held, c)
	}
	for _, c := range held {
		p.put(c, true)
	}
	return err
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	free := p.free
	p.free = nil
	p.mu.Unlock()
	for _, c := range free {
		c.close()
	}
	// database/sql would wait here for statements that run: let them be.
	go p.db.Close()
}

// connected returns the pool of the running server.
func (s *Server) connected() (*pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool == nil {
		return nil, ErrNotRunning
	}
	return s.pool, nil
}

// read runs a statement that changes nothing and hands its rows to scan. A lost
// connection is tried once more, as reading twice does no harm.
func (s *Server) read(ctx context.Context, scan func(*sql.Rows) error, query string, args ...any) error {
	p, err := s.connected()
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		c, err := p.get(ctx)
		if err != nil {
			return err
		}
		err = readOn(ctx, c, scan, query, args...)
		p.put(c, err == nil)
		if err == nil || try > 0 || ctx.Err() != nil || !lostConnection(err) {
			return err
		}
	}
}

func readOn(ctx context.Context, c *session, scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := c.conn.QueryContext(ctx, query, args...)
	if err != nil {
		return orDeadline(ctx, err)
	}
	defer rows.Close()
	if err := scan(rows); err != nil {
		return orDeadline(ctx, err)
	}
	return orDeadline(ctx, rows.Err())
}

// readOne reads the first row into dest; sql.ErrNoRows if there is none.
func (s *Server) readOne(ctx context.Context, dest []any, query string, args ...any) error {
	return s.read(ctx, func(rows *sql.Rows) error {
		if !rows.Next() {
			return errors.Join(rows.Err(), sql.ErrNoRows)
		}
		return rows.Scan(dest...)
	}, query, args...)
}

// lostConnection tells a connection that broke from an error the server sent.
func lostConnection(err error) bool {
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, io.EOF) ||
		errors.Is(err, sql.ErrConnDone)
}

// orDeadline says "deadline exceeded" where the driver says "invalid connection"
// because the deadline closed it.
func orDeadline(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", ctx.Err(), err)
	}
	return err
}

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
	c, err := p.get(ctx)
	if err != nil {
		return err
	}
	_, err = c.conn.ExecContext(ctx, query, args...)
	p.put(c, err == nil)
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

// Server error numbers that mean something here.
const (
	errNoSuchThread = 1094
	errReadOnly     = 1290
	errAccessDenied = 1045
	errLocked       = 3118
	errLockWait     = 1205
)

func isError(err error, numbers ...uint16) bool {
	var my *mysql.MySQLError
	if !errors.As(err, &my) {
		return false
	}
	for _, n := range numbers {
		if my.Number == n {
			return true
		}
	}
	return false
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
