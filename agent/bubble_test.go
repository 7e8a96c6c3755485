package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ha/agent/nettest"
	"ha/agent/node"
	"ha/mysqlctl"
)

// The tests on bubbles run whole agents, with real Raft, gossip and TLS, on a
// network in memory and in virtual time. Their servers are fakes: see
// fakedb_test.go.

// bubble is a cluster in a synctest bubble.
type bubble struct {
	t     *testing.T
	began time.Time
	net   *nettest.Network
	dir   string
	log   safeBuffer
	db    *fakeDB
	hosts []*bubbleHost

	mu     sync.Mutex
	onStep func(h *bubbleHost, step string)
	rows   []ackedRow
	stop   context.CancelFunc // of the clients
	load   sync.WaitGroup
}

// bubbleHost is one host; its agent can be killed and started again.
type bubbleHost struct {
	*Agent
	b    *bubble
	name string
	ip   string
	cfg  Config
	proc *nettest.Process
	stop context.CancelFunc
	done chan struct{}
	err  error       // of Run, once done is closed
	db   *fakeServer // nil: a witness
}

// inBubble runs f with a bubble, and fails if something of the agents outlives it.
func inBubble(t *testing.T, f func(b *bubble)) {
	t.Helper()
	dir := bubbleDir(t)
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, began: time.Now(), net: nettest.New(), dir: dir, stop: func() {}}
		b.db = newFakeDB(b.net)
		defer b.end()
		f(b)
	})
}

// bubbleDir is in memory where that is possible: the agents sync a lot, and disks
// are not what is tested here.
func bubbleDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "ha-bubble-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (b *bubble) end() {
	b.stop()
	for _, h := range b.hosts {
		h.kill()
	}
	for _, h := range b.hosts {
		h.join()
	}
	b.db.end()
	b.load.Wait()
	time.Sleep(time.Minute) // what Raft has begun ends within its time limits
	if b.t.Failed() {
		b.t.Logf("log:\n%s", b.log.Bytes())
	}
}

// now is the virtual time since the bubble began.
func (b *bubble) now() time.Duration { return time.Since(b.began) }

// host adds a host, a witness; its agent is not started.
func (b *bubble) host(join ...string) *bubbleHost {
	i := len(b.hosts) + 1
	h := &bubbleHost{b: b, name: fmt.Sprintf("n%d", i), ip: hostIP(i)}
	dir := filepath.Join(b.dir, h.name)
	h.cfg = Config{Name: h.name, Listen: h.ip + ":8801", Join: join, Secret: "secret of the tests in bubbles",
		Witness: true, DataDir: dir, RuntimeDir: filepath.Join(dir, "run")}
	b.hosts = append(b.hosts, h)
	return h
}

// dataHost adds a host with a fake mysqld.
func (b *bubble) dataHost(join ...string) *bubbleHost {
	h := b.host(join...)
	h.cfg.Witness = false
	h.cfg.MySQL = MySQLConfig{Mysqld: "/bin/true", DataDir: filepath.Join(h.cfg.DataDir, "mysql"), Host: h.ip}
	h.db = b.db.server(h.cfg.MySQL.DataDir, h.ip)
	return h
}

func hostIP(i int) string { return fmt.Sprintf("10.0.0.%d", i) }

// start starts the agent.
func (h *bubbleHost) start() {
	b := h.b
	b.t.Helper()
	log := slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: logLevel()}))
	a, err := New(h.cfg, log.With("node", h.name), "test")
	if err != nil {
		b.t.Fatalf("New: %v", err)
	}
	h.proc = b.net.Process(h.ip)
	a.outside = outside{network: h.proc, clock: bubbleClock{b.began}, local: newQuietSocket}
	proc := h.proc
	a.outside.mysqld = func(c mysqlctl.Config) node.Mysqld {
		return fakeSQL{s: b.db.server(c.DataDir, h.ip), gone: proc.Dead()}
	}
	a.Step = func(step string) {
		b.mu.Lock()
		on := b.onStep
		b.mu.Unlock()
		if on != nil && !isOver(proc.Dead()) {
			on(h, step)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.Agent, h.stop, h.done = a, cancel, make(chan struct{})
	go func() {
		defer close(h.done)
		h.err = a.Run(ctx)
	}()
}

// kill ends the agent as SIGKILL does: nothing of it reaches anybody any more.
func (h *bubbleHost) kill() {
	if h.proc != nil {
		h.proc.Kill()
		h.stop()
	}
}

func (h *bubbleHost) alive() bool { return h.proc != nil && !isOver(h.proc.Dead()) }

// join waits until nothing of a killed agent is left.
func (h *bubbleHost) join() {
	if h.done != nil {
		<-h.done
	}
}

// within waits until ok holds and gives how long that took.
func (b *bubble) within(d time.Duration, what string, ok func() (bool, string)) time.Duration {
	b.t.Helper()
	began := time.Now()
	for {
		good, seen := ok()
		if good {
			return time.Since(began)
		}
		if time.Since(began) > d {
			b.t.Fatalf("at %v: not within %v: %s; last seen: %s", b.now(), d, what, seen)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// bubbleClock is the time since an imagined boot.
type bubbleClock struct{ began time.Time }

func (c bubbleClock) Boottime() time.Duration { return time.Since(c.began) + time.Hour }

// quietSocket is one that nobody knocks at.
type quietSocket struct {
	net.Listener
	done chan struct{}
}

func newQuietSocket(string) (net.Listener, error) {
	return &quietSocket{done: make(chan struct{})}, nil
}

func (s *quietSocket) Accept() (net.Conn, error) { <-s.done; return nil, net.ErrClosed }
func (s *quietSocket) Close() error              { close(s.done); return nil }
func (s *quietSocket) Addr() net.Addr            { return &net.UnixAddr{} }

func logLevel() slog.Level {
	if os.Getenv("HA_TEST_LOG") != "" {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// safeBuffer may be written to by many.
type safeBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Buffer.Write(p)
}
