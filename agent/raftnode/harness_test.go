package raftnode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal is an FSM that keeps every command, and refuses to see one twice.
type journal struct {
	mu    sync.Mutex
	Last  uint64 // index
	Items []string
}

func (j *journal) Apply(l *raft.Log) any {
	j.mu.Lock()
	defer j.mu.Unlock()
	if l.Index <= j.Last {
		panic(fmt.Sprintf("entry %d after %d", l.Index, j.Last))
	}
	j.Last = l.Index
	j.Items = append(j.Items, string(l.Data))
	return len(j.Items)
}

func (j *journal) Snapshot() (raft.FSMSnapshot, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b, err := json.Marshal(j)
	return frozen(b), err
}

func (j *journal) Restore(r io.ReadCloser) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.Last, j.Items = 0, nil
	return json.NewDecoder(r).Decode(j)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.Items)
}

type frozen []byte

func (f frozen) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(f); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}
func (frozen) Release() {}

// pipes is a network in memory, so that a test inside synctest needs no real time.
type pipes struct {
	mu    sync.Mutex
	hosts map[string]*pipeListener
	cut   func(a, b string) bool // nil: all is connected
	conns map[*pipeConn]struct{}
}

func newPipes() *pipes {
	return &pipes{hosts: map[string]*pipeListener{}, conns: map[*pipeConn]struct{}{}}
}

type pipeConn struct {
	net.Conn
	net      *pipes
	from, to string
}

func (c *pipeConn) Write(b []byte) (int, error) {
	if c.net.isCut(c.from, c.to) {
		return 0, syscall.ECONNRESET
	}
	return c.Conn.Write(b)
}

func (n *pipes) isCut(a, b string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut != nil && n.cut(a, b)
}

// isolate cuts the named hosts off from the rest, and heals what was cut before.
func (n *pipes) isolate(hosts ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = func(a, b string) bool { return slices.Contains(hosts, a) != slices.Contains(hosts, b) }
}

func (n *pipes) dialer(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, to string) (net.Conn, error) {
		n.mu.Lock()
		l := n.hosts[to]
		n.mu.Unlock()
		if l == nil || n.isCut(from, to) {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
		a, b := net.Pipe()
		select {
		case l.queue <- &pipeConn{b, n, to, from}:
			return &pipeConn{a, n, from, to}, nil
		case <-l.done:
		case <-ctx.Done():
		}
		a.Close()
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
}

// pipeListener closes what it accepted, as wire's does.
type pipeListener struct {
	net   *pipes
	addr  string
	queue chan net.Conn
	done  chan struct{}
	mu    sync.Mutex
	open  []net.Conn
}

func (n *pipes) listen(addr string) net.Listener {
	l := &pipeListener{net: n, addr: addr, queue: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr] = l
	return l
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.open = append(l.open, c)
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Addr() net.Addr { return address(l.addr) }

func (l *pipeListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.done)
	for _, c := range l.open {
		c.Close()
	}
	return nil
}

// buffer is a bytes.Buffer that may be written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// take returns what was written since the last take.
func (b *buffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.b.Reset()
	return b.b.String()
}

// group is a set of nodes that can be stopped and started again.
type group struct {
	t     *testing.T
	dir   string
	net   *pipes
	log   buffer // of all nodes, info and up
	nodes map[string]*Node
	fsms  map[string]*journal
	tune  func(*Config)
}

func newGroup(t *testing.T) *group {
	g := &group{t: t, dir: t.TempDir(), net: newPipes(), nodes: map[string]*Node{}, fsms: map[string]*journal{}}
	t.Cleanup(func() {
		for id := range g.nodes {
			g.stop(id)
		}
	})
	return g
}

// inBubble runs f with virtual time.
func inBubble(t *testing.T, f func(t *testing.T, g *group)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// Registered first, so run last: what Raft has begun ends within its time limits.
		t.Cleanup(func() { time.Sleep(time.Minute) })
		f(t, newGroup(t))
	})
}

func (g *group) start(id string) *Node {
	g.t.Helper()
	g.fsms[id] = &journal{}
	cfg := Config{
		Dir:      filepath.Join(g.dir, id),
		ID:       id,
		Addr:     "host-" + id,
		FSM:      g.fsms[id],
		Listener: g.net.listen("host-" + id),
		Dial:     g.net.dialer("host-" + id),
		Logger:   slog.New(slog.NewTextHandler(&g.log, nil)).With("on", id),
		Fatal:    func(why error) { g.t.Errorf("fatal on %s: %s", id, why) },
		// Writing is as fast as the disk of the test machine: not in virtual time.
		ProbeDisk: func() error { return nil },
	}
	if g.tune != nil {
		g.tune(&cfg)
	}
	n, err := Open(cfg)
	if err != nil {
		g.t.Fatalf("open %s: %v", id, err)
	}
	g.nodes[id] = n
	return n
}

func (g *group) stop(id string) {
	g.t.Helper()
	n := g.nodes[id]
	delete(g.nodes, id)
	if n == nil {
		return
	}
	if err := n.Shutdown(ctxFor(g.t, 10*time.Second)); err != nil {
		g.t.Errorf("shutdown of %s: %v", id, err)
	}
}

// crash stops a node without letting it write anything more.
func (g *group) crash(id string) {
	g.t.Helper()
	n := g.nodes[id]
	n.store.mu.Lock()
	n.store.noted = ^uint64(0) // noteCommit has nothing to add
	n.store.mu.Unlock()
	n.marks.mu.Lock()
	n.marks.files = nil
	n.marks.mu.Unlock()
	g.stop(id)
}

func ctxFor(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// within fails the test if ok does not come to hold in d, and returns how long it took.
func within(t *testing.T, d time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > d {
			t.Fatalf("not within %v: %s", d, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(start)
}

// leader waits for one that can commit and returns its id.
func (g *group) leader(d time.Duration) string {
	g.t.Helper()
	var leader string
	within(g.t, d, "a leader", func() bool {
		for id, n := range g.nodes {
			if n.IsLeader() && n.VerifyLeader(ctxFor(g.t, time.Second)) == nil {
				leader = id
				return true
			}
		}
		return false
	})
	return leader
}

func (g *group) apply(id, cmd string) {
	g.t.Helper()
	if _, _, err := g.nodes[id].Apply(ctxFor(g.t, 5*time.Second), []byte(cmd)); err != nil {
		g.t.Fatalf("apply %q on %s: %v", cmd, id, err)
	}
}

// found starts the nodes: the first founds the group, the others become voters.
func (g *group) found(ids ...string) {
	g.t.Helper()
	first := g.start(ids[0])
	if err := first.Bootstrap(); err != nil {
		g.t.Fatalf("bootstrap: %v", err)
	}
	g.leader(5 * time.Second)
	for _, id := range ids[1:] {
		g.start(id)
		ctx := ctxFor(g.t, 5*time.Second)
		err := errors.Join(first.AddNonvoter(ctx, id, "host-"+id), first.Promote(ctx, id, "host-"+id))
		if err != nil {
			g.t.Fatalf("add %s: %v", id, err)
		}
	}
}

// agree waits until all running nodes have seen exactly want.
func (g *group) agree(want ...string) {
	g.t.Helper()
	for id := range g.nodes {
		within(g.t, 5*time.Second, fmt.Sprintf("%s has seen %v", id, want), func() bool {
			return slices.Equal(g.fsms[id].all(), want)
		})
	}
}
