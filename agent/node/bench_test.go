package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ha/raftfsm"
)

// testClock is the bubble's clock, and can jump as a suspended machine's does.
type testClock struct {
	began time.Time
	jump  atomic.Int64
}

func (c *testClock) Boottime() time.Duration {
	return time.Hour + time.Since(c.began) + time.Duration(c.jump.Load())
}

// coordinator is the far end of Send.
type coordinator struct {
	mu      sync.Mutex
	grant   raftfsm.Grant
	err     error
	delay   time.Duration
	hook    func(raftfsm.Report)
	reports []raftfsm.Report
	times   []time.Time
}

func (c *coordinator) send(ctx context.Context, r raftfsm.Report) (raftfsm.Grant, error) {
	c.mu.Lock()
	c.reports = append(c.reports, r)
	c.times = append(c.times, time.Now())
	grant, err, delay, hook := c.grant, c.err, c.delay, c.hook
	c.mu.Unlock()
	if hook != nil {
		hook(r)
	}
	if delay > 0 && !sleep(ctx, delay) {
		return raftfsm.Grant{}, ctx.Err()
	}
	return grant, err
}

func (c *coordinator) set(change func(*coordinator)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

// all gives the reports so far and when they were sent.
func (c *coordinator) all() ([]raftfsm.Report, []time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.reports), slices.Clone(c.times)
}

func (c *coordinator) last() raftfsm.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.reports) == 0 {
		return raftfsm.Report{}
	}
	return c.reports[len(c.reports)-1]
}

// bench is one node on a fake mysqld in a bubble.
type bench struct {
	t     *testing.T
	n     *Node
	md    *fakeMysqld
	co    *coordinator
	clock *testClock
	cfg   Config
	stop  func()
	hooks []string
	mu    sync.Mutex
}

// inBubble runs f on a node whose Run has not begun.
func inBubble(t *testing.T, f func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, md: newFake(t), co: &coordinator{}, clock: &testClock{began: time.Now()}}
		dir := t.TempDir()
		b.md.dir = filepath.Join(dir, "mysql")
		if err := os.Mkdir(b.md.dir, 0o750); err != nil {
			t.Fatal(err)
		}
		b.cfg = Config{ID: "n1", Version: "test", DataDir: dir, RuntimeDir: dir, Mysqld: b.md, MysqlDir: b.md.dir,
			Cluster: func() string { return "c1" }, LastIndex: func() uint64 { return 7 }, Send: b.co.send, Clock: b.clock,
			Opened: func(uint64, time.Duration) { b.note("open") }, Closed: b.noteClosed,
			Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))}
		f(b)
		b.end()
	})
}

func (b *bench) note(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.hooks) == 0 || b.hooks[len(b.hooks)-1] != s {
		b.hooks = append(b.hooks, s)
	}
}

// noteClosed is not for what every node says at its start.
func (b *bench) noteClosed(bool) {
	if b.hooked() != "" {
		b.note("closed")
	}
}

func (b *bench) hooked() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.hooks, " ")
}

// begin makes the node and runs it.
func (b *bench) begin() {
	b.t.Helper()
	n, err := New(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	b.n = n
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
		if err := n.Close(); err != nil {
			b.t.Errorf("Close: %v", err)
		}
	}
	synctest.Wait()
}

func (b *bench) end() {
	if b.stop != nil {
		b.stop()
		b.stop = nil
	}
}

// up begins on a running mysqld.
func (b *bench) up() {
	b.t.Helper()
	b.md.set(func(f *fakeMysqld) { f.run() })
	b.begin()
}

// order executes one with a generous deadline.
func (b *bench) order(o raftfsm.Order) raftfsm.Answer {
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	o.To = "n1"
	return b.n.Execute(ctx, o)
}

// mustOrder is an order that has to be carried out.
func (b *bench) mustOrder(o raftfsm.Order) raftfsm.Answer {
	b.t.Helper()
	a := b.order(o)
	if !a.OK {
		b.t.Fatalf("%s: %s %s", o.Op, a.Code, a.Err)
	}
	return a
}

const testLease = 5 * time.Second

// lead makes the node primary of an epoch.
func (b *bench) lead(epoch uint64) {
	b.t.Helper()
	b.co.set(func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: epoch, Primary: "n1", Lease: testLease} })
	b.mustOrder(raftfsm.Order{Token: tok(epoch, 10*epoch, 1), Op: raftfsm.OpPromote, K: 1})
}

// within polls each millisecond of the bubble's time and gives how long it took.
func (b *bench) within(d time.Duration, what string, ok func() bool) time.Duration {
	b.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > d {
			b.t.Fatalf("not within %s: %s (%s)", d, what, b.md.effects())
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

func (b *bench) open() bool {
	b.md.mu.Lock()
	defer b.md.mu.Unlock()
	return b.md.alive && !b.md.superRO
}

var errTest = errors.New("made by the test")
