package node

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ha/mysqlctl/mysqltest"
	"ha/raftfsm"
)

// cell is some nodes on real servers, and what a coordinator would do for them.
type cell struct {
	t     *testing.T
	nodes []*cellNode

	mu      sync.Mutex
	epoch   uint64
	primary raftfsm.NodeID
	silent  bool // no grants
	index   uint64
}

type cellNode struct {
	*mysqltest.Node
	cell *cell
	n    *Node
	cfg  Config
	stop func()
	mu   sync.Mutex
	last raftfsm.Report
}

func newCell(t *testing.T, count int) *cell {
	t.Helper()
	c := &cell{t: t}
	for i := range count {
		server := mysqltest.New(t)
		m := &cellNode{Node: server, cell: c}
		m.cfg = Config{ID: raftfsm.NodeID(fmt.Sprintf("n%d", i)), DataDir: t.TempDir(), RuntimeDir: t.TempDir(),
			Mysqld: server.Server, MysqlDir: server.Config.DataDir, StartTimeout: time.Minute,
			Cluster: func() string { return "c1" }, Send: m.send,
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)).With("node", i)}
		c.nodes = append(c.nodes, m)
	}
	for _, m := range c.nodes {
		m.begin()
	}
	for _, m := range c.nodes {
		mysqltest.Eventually(t, time.Minute, "mysqld is up", m.n.isUp)
	}
	return c
}

func (m *cellNode) begin() {
	m.cell.t.Helper()
	n, err := New(m.cfg)
	if err != nil {
		m.cell.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var once sync.Once
	m.n, m.stop = n, func() {
		once.Do(func() {
			cancel()
			if err := errors.Join(<-done, n.Close()); err != nil {
				m.cell.t.Errorf("%s: %v", m.cfg.ID, err)
			}
		})
	}
	m.cell.t.Cleanup(m.stop)
	mysqltest.Eventually(m.cell.t, 20*time.Second, "taken over", func() bool { return n.running() != nil })
}

func (m *cellNode) send(_ context.Context, r raftfsm.Report) (raftfsm.Grant, error) {
	m.mu.Lock()
	m.last = r
	m.mu.Unlock()
	c := m.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent {
		return raftfsm.Grant{}, errTest
	}
	g := raftfsm.Grant{Epoch: c.epoch, Primary: c.primary}
	if c.primary == m.cfg.ID {
		g.Lease = testLease
	}
	return g, nil
}

func (m *cellNode) report() raftfsm.Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// order gives one under the cell's epoch and a fresh index.
func (m *cellNode) order(o raftfsm.Order) raftfsm.Answer {
	m.cell.mu.Lock()
	m.cell.index++
	o.Token = raftfsm.Token{Epoch: m.cell.epoch, Index: m.cell.index, Step: 1}
	m.cell.mu.Unlock()
	o.To = m.cfg.ID
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return m.n.Execute(ctx, o)
}

func (m *cellNode) must(o raftfsm.Order) raftfsm.Answer {
	m.cell.t.Helper()
	began := time.Now()
	a := m.order(o)
	if !a.OK {
		m.cell.t.Fatalf("%s to %s: %s %s", o.Op, m.cfg.ID, a.Code, a.Err)
	}
	m.cell.t.Logf("%s to %s took %s", o.Op, m.cfg.ID, time.Since(began).Round(100*time.Microsecond))
	return a
}

func (m *cellNode) uuid() string {
	m.cell.t.Helper()
	return m.MustStatus().ServerUUID
}

func (m *cellNode) source() *raftfsm.Source {
	return &raftfsm.Source{Node: m.cfg.ID, Host: m.Config.Host, Port: m.Config.Port, User: mysqltest.ReplUser, Password: mysqltest.ReplPassword}
}

// reign makes a node the primary of the next epoch, with the others as ackers.
func (c *cell) reign(p *cellNode, k int, ackers ...*cellNode) {
	c.t.Helper()
	c.mu.Lock()
	c.epoch++
	c.primary = p.cfg.ID
	c.mu.Unlock()
	p.must(raftfsm.Order{Op: raftfsm.OpPromote, K: k})
	var allowed []string
	for _, a := range ackers {
		a.must(raftfsm.Order{Op: raftfsm.OpFollow, Source: p.source(), Ack: true})
		allowed = append(allowed, a.uuid())
	}
	p.must(raftfsm.Order{Op: raftfsm.OpBarrier, Allowed: allowed})
}

// writers insert rows until stopped, and keep those that were acknowledged.
type writers struct {
	stop   func()
	acked  sync.Map
	count  atomic.Int64
	failed atomic.Int64
}

func write(t *testing.T, db *sql.DB, clients int) *writers {
	t.Helper()
	w := &writers{}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for c := range clients {
		group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				v := fmt.Sprintf("%d-%d", c, i)
				if _, err := db.ExecContext(ctx, "INSERT INTO app.t (v) VALUES (?)", v); err == nil {
					w.acked.Store(v, true)
					w.count.Add(1)
				} else if w.failed.Add(1); !pause(ctx) {
					return
				}
			}
		})
	}
	w.stop = sync.OnceFunc(func() {
		cancel()
		group.Wait()
	})
	t.Cleanup(w.stop)
	return w
}

func pause(ctx context.Context) bool { return sleep(ctx, 10*time.Millisecond) }

// lost gives how many acknowledged rows the server lacks.
func (w *writers) lost(t *testing.T, m *cellNode) (lost int) {
	t.Helper()
	have := map[string]bool{}
	rows, err := m.Root.Query("SELECT v FROM app.t")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			t.Fatal(err)
		}
		have[v] = true
	}
	w.acked.Range(func(v, _ any) bool {
		if !have[v.(string)] {
			lost++
		}
		return true
	})
	return lost
}

const allRows = "SELECT id, v FROM app.t ORDER BY id"
