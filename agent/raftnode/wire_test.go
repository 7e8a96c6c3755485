package raftnode_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"ha/agent/raftnode"
	"ha/agent/wire"
)

// tape is the smallest FSM that can be compared.
type tape struct {
	mu sync.Mutex
	s  string
}

func (f *tape) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.s += string(l.Data) + " "
	return nil
}

func (f *tape) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.s
}

func (f *tape) Snapshot() (raft.FSMSnapshot, error) {
	return nil, errors.New("too few entries for one")
}
func (f *tape) Restore(io.ReadCloser) error { return errors.New("there is no snapshot") }

// agent is a node on its own port.
type agent struct {
	id     string
	addr   string
	server *wire.Server
	node   *raftnode.Node
	fsm    *tape
}

func startAgent(t *testing.T, dir, name, addr, secret string) *agent {
	t.Helper()
	dir = filepath.Join(dir, name)
	id, _, err := raftnode.LoadOrCreateID(dir)
	if err != nil {
		t.Fatal(err)
	}
	ident, err := wire.NewIdentity(wire.DeriveKeys(secret), id)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	server, err := wire.Listen(t.Context(), addr, ident, log)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{id: id, addr: server.Addr().String(), server: server, fsm: &tape{}}
	a.node, err = raftnode.Open(raftnode.Config{
		Dir:      dir,
		ID:       id,
		Addr:     a.addr,
		FSM:      a.fsm,
		Listener: server.Raft(),
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			return wire.Dial(ctx, addr, wire.ProtoRaft, ident)
		},
		Fatal:  func(why error) { t.Errorf("fatal on %s: %s", name, why) },
		Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *agent) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := errors.Join(a.node.Shutdown(ctx), a.server.Close()); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func poll(t *testing.T, d time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > d {
			t.Fatalf("not within %v: %s", d, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(start)
}

func leaderOf(agents []*agent) (leader, follower *agent) {
	for _, a := range agents {
		if a.node.IsLeader() {
			leader = a
		} else {
			follower = a
		}
	}
	return leader, follower
}

// Three nodes over real ports, with TLS, disks and time.
func TestOverTheWire(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	names := []string{"n1", "n2", "n3"}
	var agents []*agent
	for _, name := range names {
		agents = append(agents, startAgent(t, dir, name, "127.0.0.1:0", "secret"))
	}
	defer func() {
		for _, a := range agents {
			a.stop(t)
		}
	}()
	founder := agents[0].node
	if err := founder.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	poll(t, 5*time.Second, "the founder leads", founder.IsLeader)
	for _, a := range agents[1:] {
		if err := founder.AddNonvoter(ctx, a.id, a.addr); err != nil {
			t.Fatal(err)
		}
		poll(t, 5*time.Second, "caught up", func() bool { return a.node.LastIndex() == founder.LastIndex() })
		if err := founder.Promote(ctx, a.id, a.addr); err != nil {
			t.Fatal(err)
		}
	}

	want := ""
	for round := range 4 {
		leader, follower := leaderOf(agents)
		word := fmt.Sprint("round", round)
		want += word + " "
		start := time.Now()
		if _, _, err := leader.node.Apply(ctx, []byte(word)); err != nil {
			t.Fatal(err)
		}
		t.Logf("applied in %v", time.Since(start).Round(10*time.Microsecond))
		for i, a := range agents {
			poll(t, 5*time.Second, "all agree", func() bool { return a.fsm.text() == want })
			if a == leader && round < 3 {
				a.stop(t)
				took := poll(t, 5*time.Second, "a new leader", func() bool {
					for _, b := range agents {
						if b != a && b.node.IsLeader() {
							return true
						}
					}
					return false
				})
				t.Logf("a new leader in %v", took.Round(time.Millisecond))
				agents[i] = startAgent(t, dir, names[i], a.addr, "secret")
			}
		}
		if round == 3 {
			if err := leader.node.TransferLeadership(ctx, follower.id, follower.addr); err != nil {
				t.Error(err)
			}
			poll(t, time.Second, "the leader is who it should be", follower.node.IsLeader)
		}
	}

	for i, a := range agents {
		a.stop(t)
		agents[i] = startAgent(t, dir, names[i], a.addr, "secret")
		if got := agents[i].fsm.text(); got != want {
			t.Errorf("%s after its restart: %q, want %q", names[i], got, want)
		}
	}
	leader := poll(t, 5*time.Second, "a leader after the restart of all", func() bool { l, _ := leaderOf(agents); return l != nil })
	t.Logf("a leader %v after the restart of the last", leader.Round(time.Millisecond))
}

// A node with another secret gets nowhere.
func TestWrongSecretStaysOut(t *testing.T) {
	dir := t.TempDir()
	a, b := startAgent(t, dir, "a", "127.0.0.1:0", "one"), startAgent(t, dir, "b", "127.0.0.1:0", "two")
	defer a.stop(t)
	defer b.stop(t)
	if err := a.node.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	poll(t, 5*time.Second, "the founder leads", a.node.IsLeader)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := a.node.AddNonvoter(ctx, b.id, b.addr); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.node.Apply(ctx, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if b.node.LastIndex() != 0 || b.node.HasState() || strings.Contains(b.fsm.text(), "x") {
		t.Error("entries crossed")
	}
}
