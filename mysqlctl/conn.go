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
	bare  *sql.DB // without a schema
	slots chan struct{}

	mu     sync.Mutex
	free   []*session
	ids    map[uint64]bool // of all open sessions
	closed bool
}

func newPool(proc *process, socket string, acc Account) (*pool, error) {
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr = "unix", socket
	cfg.DBName = home
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
	without := cfg.Clone()
	without.DBName = ""
	bareConn, err := mysql.NewConnector(without)
	if err != nil {
		return nil, err
	}
	db, bare := sql.OpenDB(conn), sql.OpenDB(bareConn)
	db.SetMaxIdleConns(-1) // the pool below keeps them
	bare.SetMaxIdleConns(-1)
	return &pool{proc: proc, db: db, bare: bare, slots: make(chan struct{}, maxSessions), ids: make(map[uint64]bool)}, nil
}

// open makes a new session, whatever the number of those that exist.
func (p *pool) open(ctx context.Context) (*session, error) { return p.openOn(ctx, p.db) }

// getBare makes a new session without a schema, for one use. What is logged as a
// statement is logged with the schema of its session, and binlog-ignore-db goes by it.
func (p *pool) getBare(ctx context.Context) (*session, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c, err := p.openOn(ctx, p.bare)
	if err != nil {
		<-p.slots
	}
	return c, err
}

func (p *pool) openOn(ctx context.Context, db *sql.DB) (*session, error) {
	conn, err := db.Conn(ctx)
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

// closeFree closes the sessions that nobody uses now.
func (p *pool) closeFree() {
	p.mu.Lock()
	free := p.free
	p.free = nil
	p.mu.Unlock()
	for _, c := range free {
		c.close()
	}
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
	go p.bare.Close()
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

// Server error numbers that mean something here.
const (
	errNoSuchThread = 1094
	errReadOnly     = 1290
	errAccessDenied = 1045
	errSourceInit   = 1201 // the connection metadata of a channel cannot be read
	errApplierInit  = 1872 // nor those of its applier
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
