package raftnode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// smallDisk gives a node a file system of its own, 512 KB.
func smallDisk(t *testing.T, g *group, id string) (dir string) {
	t.Helper()
	dir = filepath.Join(g.dir, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	// Run after the nodes are stopped; detached, should one hang.
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fill leaves no room; the returned function makes room again.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !isFull(err) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// diskGroup is a group in real time, in which fatal errors are collected.
func diskGroup(t *testing.T) (*group, chan error) {
	g := newGroup(t)
	fatal := make(chan error, 9)
	g.tune = func(c *Config) {
		c.Fatal = func(err error) { fatal <- err }
		c.Timing.DiskCheck = 200 * time.Millisecond
	}
	return g, fatal
}

func big(i int) string { return fmt.Sprint(i) + strings.Repeat("x", 2000) }

// commit has whoever leads take n commands.
func (g *group) commit(n int) {
	g.t.Helper()
	for i := range n {
		within(g.t, 10*time.Second, "a commit", func() bool {
			for _, n := range g.nodes {
				if n.IsLeader() {
					_, _, err := n.Apply(ctxFor(g.t, time.Second), []byte(big(i)))
					return err == nil
				}
			}
			return false
		})
	}
}

// A follower whose disk is full is noticed though nothing is committed; the group goes on without it; it
// neither votes nor stands; with room again it catches up by itself, and at once.
func TestFullFollower(t *testing.T) {
	g, fatal := diskGroup(t)
	dir := smallDisk(t, g, "c")
	g.found("a", "b", "c")
	g.commit(3)
	empty := fill(t, dir)
	c := g.nodes["c"]
	within(t, 2*time.Second, "it is noticed while idle", func() bool { return c.DiskFull() != nil })
	g.commit(60)
	within(t, 2*time.Second, "it stores no more", c.store.disk.isStuck)
	if err := g.nodes["a"].TransferLeadership(ctxFor(t, time.Second), "c", "host-c"); err == nil {
		t.Error("leadership was handed to a node that cannot store")
	}

	// It is not elected, and elects nobody.
	term := c.Term()
	g.stop("a")
	for range 150 {
		if c.IsLeader() || g.nodes["b"].IsLeader() {
			t.Fatal("a leader without a majority that can store")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if c.Term() > term+3 {
		t.Errorf("its term went from %d to %d", term, c.Term())
	}
	g.start("a")
	g.leader(5 * time.Second)
	g.commit(3)

	empty()
	took := within(t, 5*time.Second, "it catches up", func() bool { return c.LastIndex() == g.nodes["a"].LastIndex() && c.DiskFull() == nil })
	t.Logf("caught up %v after there was room", took.Round(time.Millisecond))
	if took > 1500*time.Millisecond {
		t.Errorf("caught up only %v after there was room", took)
	}
	select {
	case err := <-fatal:
		t.Errorf("ended: %v", err)
	default:
	}
	log := ""
	within(t, 5*time.Second, "it is told that there is room", func() bool { // after it is so
		log += g.log.take()
		return strings.Count(log, CodeDisk) >= 2
	})
	if got := strings.Count(log, CodeDisk); got != 2 {
		t.Errorf("said %d times:\n%s", got, log)
	}
}

// A leader whose store takes no entry leads no longer and is not elected again, until there is room.
func TestFullLeader(t *testing.T) {
	g, _ := diskGroup(t)
	dir := smallDisk(t, g, "a")
	g.found("a", "b", "c")
	g.commit(3)
	a := g.nodes["a"]
	empty := fill(t, dir)
	g.commit(60)
	if a.IsLeader() || !a.store.disk.isStuck() {
		t.Errorf("leads %v, cannot store: %v", a.IsLeader(), a.store.disk.isStuck())
	}
	for range 100 {
		if a.IsLeader() {
			t.Fatal("it leads again")
		}
		time.Sleep(10 * time.Millisecond)
	}
	empty()
	leader := g.leader(5 * time.Second)
	within(t, 5*time.Second, "it catches up", func() bool { return a.LastIndex() == g.nodes[leader].LastIndex() })
}

// A founder alone stops leading as well, and leads again when there is room: no restart.
func TestFullAlone(t *testing.T) {
	g, _ := diskGroup(t)
	dir := smallDisk(t, g, "a")
	g.found("a")
	a := g.nodes["a"]
	empty := fill(t, dir)
	var err error
	for i := 0; i < 60 && err == nil; i++ {
		_, _, err = a.Apply(ctxFor(t, time.Second), []byte(big(i)))
	}
	if err == nil || !errors.Is(err, ErrOutcomeUnknown) {
		t.Fatalf("apply: %v", err)
	}
	time.Sleep(time.Second)
	if a.IsLeader() {
		t.Error("it leads")
	}
	empty()
	g.leader(5 * time.Second)
	g.commit(1)
}

// A node starts on a full disk, and says what is wrong.
func TestStartOnFullDisk(t *testing.T) {
	g, _ := diskGroup(t)
	dir := smallDisk(t, g, "c")
	g.found("a", "b", "c")
	g.commit(10)
	g.stop("c")
	empty := fill(t, dir)
	g.commit(60)
	c := g.start("c")
	within(t, 3*time.Second, "it hears the leader and says that its disk is full", func() bool {
		id, _ := c.Leader()
		return id == "a" && c.DiskFull() != nil
	})
	empty()
	within(t, 5*time.Second, "it catches up", func() bool { return c.LastIndex() == g.nodes["a"].LastIndex() })
}

// A file system that has become read-only ends the process, also on an idle follower: nothing is panicking.
func TestReadOnlyDisk(t *testing.T) {
	g, fatal := diskGroup(t)
	dir := smallDisk(t, g, "c")
	g.found("a", "b", "c")
	g.commit(3)
	// A file that is open for writing keeps a file system from being made read-only; a file system's own
	// error does it nevertheless. So it is only the flag that this test can show.
	g.stop("c")
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	d := &disk{dir: dir}
	if err := d.look(); !errors.Is(err, syscall.EROFS) {
		t.Errorf("look: %v", err)
	}
	cfg := Config{Dir: dir, ID: "c", Addr: "host-c", FSM: &journal{}, Listener: g.net.listen("host-c"), Dial: g.net.dialer("host-c")}
	if _, err := Open(cfg); !errors.Is(err, ErrDisk) || !strings.Contains(err.Error(), dir) {
		t.Errorf("open: %v", err)
	}
	if len(fatal) > 0 {
		t.Error(<-fatal)
	}
}

// What cannot be written for another reason than a full disk ends the process, with the reason and
// without a panic, whatever it was that was to be written.
func TestBrokenDisk(t *testing.T) {
	g, fatal := diskGroup(t)
	g.found("a", "b", "c")
	g.commit(3)
	g.agree(big(0), big(1), big(2))

	// c can write nothing any more: the next entry, and then the next term.
	for _, what := range []string{"entry", "term"} {
		g.stop("c")
		c := g.start("c")
		within(t, 5*time.Second, "c hears a leader", func() bool { id, _ := c.Leader(); return id != "" })
		breakDisk(c)
		if what == "term" {
			g.stop(g.leader(time.Second))
		} else {
			g.commit(1)
		}
		select {
		case err := <-fatal:
			if !errors.Is(err, ErrDisk) || !strings.Contains(err.Error(), c.cfg.Dir) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: c goes on", what)
		}
		if len(fatal) > 0 {
			t.Errorf("%s: twice", what)
		}
	}
}

// breakDisk closes the file under a store's feet: each write gives EBADF from now on. Reading goes on.
func breakDisk(n *Node) {
	path := filepath.Join(n.cfg.Dir, boltFile)
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, e := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && to == path {
			var fd int
			fmt.Sscan(e.Name(), &fd)
			ro, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				panic(err)
			}
			_ = unix.Dup3(ro, fd, unix.O_CLOEXEC)
			_ = unix.Close(ro)
		}
	}
}

// What a peer's answer says about its store.
func TestPatientWithFullPeer(t *testing.T) {
	g, _ := diskGroup(t)
	dir := smallDisk(t, g, "b")
	g.found("a", "b")
	empty := fill(t, dir)
	a, b := g.nodes["a"], g.nodes["b"]
	within(t, 2*time.Second, "b is full", func() bool { return b.DiskFull() != nil })
	var ended atomic.Bool
	go func() {
		for i := range 60 {
			if _, _, err := a.Apply(ctxFor(t, 20*time.Second), []byte(big(i))); err != nil {
				break
			}
		}
		ended.Store(true)
	}()
	within(t, 5*time.Second, "b is stuck", b.store.disk.isStuck)
	time.Sleep(2 * time.Second)
	if ended.Load() {
		t.Error("committed without b")
	}
	a.peers.mu.Lock()
	lost := a.peers.lost[raft.ServerID("b")]
	a.peers.mu.Unlock()
	if !lost {
		t.Error("the leader does not know that b cannot store")
	}
	empty()
	within(t, 5*time.Second, "all is committed", ended.Load)
}
