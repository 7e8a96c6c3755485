package raftnode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestHungDisk(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		var hangs atomic.Bool
		release := make(chan struct{})
		fatal := map[string]chan string{"a": make(chan string, 9)}
		g.tune = func(c *Config) {
			c.Fatal = func(why error) { fatal[c.ID] <- why.Error() }
			c.ProbeDisk = func() error {
				if hangs.Load() {
					<-release
				}
				return nil
			}
		}
		g.found("a")
		time.Sleep(10 * time.Second)
		hangs.Store(true)
		start := time.Now()
		why := <-fatal["a"]
		took := time.Since(start)
		if !strings.Contains(why, g.nodes["a"].cfg.Dir) || took > g.nodes["a"].cfg.Timing.DiskCheck+g.nodes["a"].cfg.Timing.DiskBound+100*time.Millisecond {
			t.Errorf("after %v: %s", took, why)
		}
		t.Logf("after %v: %s", took, why)
		time.Sleep(10 * time.Second)
		if len(fatal["a"]) > 0 {
			t.Error("called again")
		}
		close(release)
	})
}

// A leader whose disk hangs is replaced while the primary's lease (5 s) lasts, and
// follows when its disk is well again.
func TestHungDiskOfLeader(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		var hangs atomic.Value // id of the node whose disk does
		hangs.Store("")
		release := make(chan struct{})
		g.tune = func(c *Config) {
			id := c.ID
			c.Fatal = func(why error) { t.Errorf("%s: %v", id, why) }
			c.ProbeDisk = func() error {
				if hangs.Load() == id {
					<-release
				}
				return nil
			}
		}
		g.found("a", "b", "c")
		old := g.leader(5 * time.Second)
		time.Sleep(10 * time.Second)
		hangs.Store(old)
		well := sync.OnceFunc(func() { hangs.Store(""); close(release) })
		defer well() // or nothing ends
		// 0.5 s to the next look, 2 s until it is muted, 0.6 to 1.2 s to an election, and to
		// another one where the two vote each for itself.
		took := within(t, 5*time.Second, "another leads", func() bool {
			for id, n := range g.nodes {
				if id != old && n.IsLeader() {
					return true
				}
			}
			return false
		})
		t.Logf("another leads after %v", took)
		well()
		g.apply(g.leader(5*time.Second), "1")
		g.agree("1")
		if n := g.nodes[old]; n.muted.Load() {
			t.Error("still muted")
		}
	})
}

func TestFailingDisk(t *testing.T) {
	for err, isFatal := range map[error]bool{
		&fs.PathError{Op: "write", Err: syscall.EIO}:    true,
		&fs.PathError{Op: "write", Err: syscall.ENOSPC}: false,
	} {
		inBubble(t, func(t *testing.T, g *group) {
			var calls atomic.Int32
			g.tune = func(c *Config) {
				c.Fatal = func(error) { calls.Add(1) }
				c.ProbeDisk = func() error { return err }
			}
			g.found("a")
			time.Sleep(5 * time.Second)
			if got := calls.Load(); got != 0 != isFatal || got > 1 {
				t.Errorf("%v: fatal %d times", err, got)
			}
		})
	}
}

func TestProbeWrites(t *testing.T) {
	dir := t.TempDir()
	s, err := openScratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := s.probe(); err != nil {
			t.Fatal(err)
		}
	}
	s.close()
	if b, _ := os.ReadFile(filepath.Join(dir, "probe")); len(b) != 8 || b[7] != 3 {
		t.Errorf("scratch file: %v", b)
	}
	if s.probe() == nil {
		t.Error("probe of a closed file")
	}
}

func TestStuckTransfer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := fmt.Errorf("%w: %w", ErrOutcomeUnknown, raft.ErrLeadershipTransferInProgress)
		s := stuckTransfer{bound: 600 * time.Millisecond}
		step := func(err error, want bool) {
			t.Helper()
			if got := s.observe(err, time.Now()); got != want {
				t.Errorf("%v: %v", err, got)
			}
			time.Sleep(400 * time.Millisecond)
		}
		step(nil, false)
		step(stuck, false)
		step(stuck, false)
		step(nil, false)
		step(stuck, false)
		step(errors.New("other"), false)
		step(stuck, false)
		step(stuck, false)
		step(stuck, true)
	})
}

func TestNodeID(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	id, fresh, err := LoadOrCreateID(dir)
	if err != nil || !fresh || len(id) != 16 {
		t.Fatalf("%q, %v, %v", id, fresh, err)
	}
	store := filepath.Join(dir, boltFile)
	mustWrite(t, store)
	if again, fresh, err := LoadOrCreateID(dir); again != id || fresh || err != nil {
		t.Errorf("again: %q, %v, %v", again, fresh, err)
	}

	// Without its store the id must not vote again.
	if err := os.Remove(store); err != nil {
		t.Fatal(err)
	}
	if other, fresh, err := LoadOrCreateID(dir); other == id || !fresh || err != nil {
		t.Errorf("without a store: %q, %v, %v", other, fresh, err)
	}

	mustWrite(t, filepath.Join(dir, snapshotDir, "1-2-3", "state.bin"))
	if _, _, err := LoadOrCreateID(dir); !errors.Is(err, ErrTorn) {
		t.Errorf("snapshots without a store: %v", err)
	}
	mustWrite(t, store)
	if err := os.Remove(filepath.Join(dir, IDFile)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadOrCreateID(dir); !errors.Is(err, ErrTorn) {
		t.Errorf("a store without an id: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, IDFile+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func mustWrite(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func TestSecondOpenFailsFast(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	n := g.start("a")
	start := time.Now()
	cfg := n.cfg
	cfg.Listener = g.net.listen("elsewhere")
	if _, err := Open(cfg); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), cfg.Dir) {
		t.Errorf("second Open: %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestOpenRefusesNonsense(t *testing.T) {
	g := newGroup(t)
	cfg := Config{Dir: filepath.Join(g.dir, "x"), ID: "", FSM: &journal{}, Listener: g.net.listen("x"), Dial: g.net.dialer("x")}
	if _, err := Open(cfg); err == nil {
		t.Error("opened without an id")
	}
	cfg.ID, cfg.Listener = "x", g.net.listen("x")
	cfg.Timing = Timing{Lease: time.Second}
	if _, err := Open(cfg); err == nil {
		t.Error("opened with a lease longer than the heartbeat")
	}
	cfg.Timing, cfg.Listener = Timing{}, g.net.listen("x")
	n, err := Open(cfg) // the failed ones have let go of the store
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Shutdown(ctxFor(t, 5*time.Second)); err != nil {
		t.Error(err)
	}
}
