package raftnode

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// copyDir copies a node's directory, as a backup would while the node is down.
func (g *group) copyDir(from, to string) {
	g.t.Helper()
	if err := errors.Join(os.RemoveAll(filepath.Join(g.dir, to)), os.CopyFS(filepath.Join(g.dir, to), os.DirFS(filepath.Join(g.dir, from)))); err != nil {
		g.t.Fatal(err)
	}
}

// tryOpen opens a node that may be refused.
func (g *group) tryOpen(id string, marks ...MarkFile) error {
	g.t.Helper()
	cfg := Config{Dir: filepath.Join(g.dir, id), ID: id, Addr: "host-" + id, FSM: &journal{},
		Listener: g.net.listen("host-" + id), Dial: g.net.dialer("host-" + id), Marks: marks}
	n, err := Open(cfg)
	if err == nil {
		g.nodes[id] = n
	}
	return err
}

// marked gives every node a mark file outside of its directory.
func (g *group) marked() (path func(id string) string) {
	path = func(id string) string { return filepath.Join(g.dir, "mark-"+id) }
	g.tune = func(c *Config) { c.Marks = []MarkFile{{Path: path(c.ID)}} }
	return path
}

// A store that is put back from an old copy is refused; the one that it replaced is not, nor is the old
// one once nobody knows better.
func TestOldStoreIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		path := g.marked()
		g.found("a", "b", "c")
		g.apply("a", "1")
		g.agree("1")
		g.stop("c")
		g.copyDir("c", "c.old")
		g.start("c")
		g.apply("a", "2")
		g.agree("1", "2")
		time.Sleep(1100 * time.Millisecond)
		g.crash("c") // nothing is written at the end
		g.copyDir("c", "c.new")
		mark, err := os.ReadFile(path("c"))
		if err != nil || len(mark) != markSize {
			t.Fatalf("mark %q, %v", mark, err)
		}

		g.copyDir("c.old", "c")
		err = g.tryOpen("c", MarkFile{Path: path("c")})
		if !errors.Is(err, ErrOldStore) || !strings.Contains(err.Error(), path("c")) {
			t.Fatalf("the old store: %v", err)
		}
		t.Log(err)
		if err := g.tryOpen("c", MarkFile{Path: path("c")}); !errors.Is(err, ErrOldStore) {
			t.Errorf("tried again: %v", err)
		}

		g.copyDir("c.new", "c")
		g.start("c")
		g.agree("1", "2")

		// What is torn, of another node, missing or of another size says nothing.
		g.stop("c")
		g.copyDir("c.old", "c")
		for name, text := range map[string][]byte{
			"torn":    append(append([]byte{}, mark[:60]...), make([]byte, markSize-60)...),
			"short":   mark[:50],
			"empty":   {},
			"another": mark2("b", 99, 99, 99),
			"damaged": []byte(strings.Replace(string(mark), " c ", " d ", 1)),
		} {
			other := filepath.Join(g.dir, "mark-of-"+name)
			if err := os.WriteFile(other, text, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := g.tryOpen("c", MarkFile{Path: other}, MarkFile{Path: filepath.Join(g.dir, "missing")}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			g.stop("c")
			g.copyDir("c.old", "c")
			if m, ok := decodeMark(must(os.ReadFile(other))); !ok || m.id != "c" {
				t.Errorf("%s was not overwritten: %v, %v", name, m, ok)
			}
		}
		// A term is enough: a vote may have been given in it.
		other := filepath.Join(g.dir, "mark-of-term")
		if err := os.WriteFile(other, mark2("c", 99, 1, 1), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := g.tryOpen("c", MarkFile{Path: other}); !errors.Is(err, ErrOldStore) {
			t.Errorf("an old term: %v", err)
		}
	})
}

func mark2(id string, term, index, last uint64) []byte {
	return mark{id: id, term: term, index: index, last: last}.encode()
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// An entry is committed by a and c, and c forgets it: c and b could elect b, which never had it, and what
// b commits in its place would be another history. Without marks that happens; with them it does not.
func TestOldStoreWouldLoseACommit(t *testing.T) {
	for _, marked := range []bool{false, true} {
		inBubble(t, func(t *testing.T, g *group) {
			var marks []MarkFile
			if marked {
				path := g.marked()
				marks = []MarkFile{{Path: path("c")}}
			}
			g.found("a", "b", "c")
			g.apply("a", "1")
			g.agree("1")
			g.stop("c")
			g.copyDir("c", "c.old")
			g.start("c")
			within(t, 5*time.Second, "c follows", func() bool { id, _ := g.nodes["c"].Leader(); return id == "a" })
			g.net.isolate("host-b")
			g.apply("a", "committed")
			time.Sleep(1100 * time.Millisecond)
			g.crash("c")
			g.copyDir("c.old", "c")
			g.net.isolate("host-a")
			err := g.tryOpen("c", marks...)
			if marked != errors.Is(err, ErrOldStore) {
				t.Fatalf("marks %v: %v", marked, err)
			}
			time.Sleep(5 * time.Second)
			lead := g.nodes["b"].IsLeader() || !marked && g.nodes["c"].IsLeader()
			if lead == marked {
				t.Errorf("marks %v: a leader without the entry: %v", marked, lead)
			}
			if !marked {
				return // the damage is done
			}
			g.net.isolate()
			leader := g.leader(5 * time.Second)
			g.apply(leader, "after")
			g.agree("1", "committed", "after")
		})
	}
}

// An idle group writes no mark; a busy one at most one a second; a directory that was swapped gets it
// again, and one that is not ready does not.
func TestMarksAreWrittenRarely(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		var ready atomic.Bool
		var writes int
		path := filepath.Join(g.dir, "mark")
		g.tune = func(c *Config) { c.Marks = []MarkFile{{Path: path, Ready: ready.Load}} }
		g.found("a")
		read := func() mark { m, _ := decodeMark(must(os.ReadFile(path))); return m }
		g.apply("a", "1")
		time.Sleep(3 * time.Second)
		if _, err := os.Stat(path); err == nil {
			t.Error("written though not ready")
		}
		ready.Store(true)
		time.Sleep(1100 * time.Millisecond)
		before := read()
		if before.id != "a" || before.index != g.nodes["a"].LastIndex() {
			t.Errorf("mark %v", before)
		}
		stamp := time.Unix(1, 0)
		for range 30 {
			if err := os.Chtimes(path, stamp, stamp); err != nil {
				t.Fatal(err)
			}
			g.apply("a", "more")
			time.Sleep(100 * time.Millisecond)
			if info, err := os.Stat(path); err != nil || !info.ModTime().Equal(stamp) {
				writes++
			}
		}
		if writes < 2 || writes > 4 {
			t.Errorf("%d writes in 3 s", writes)
		}
		time.Sleep(1100 * time.Millisecond)
		if err := os.Chtimes(path, stamp, stamp); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if info, err := os.Stat(path); err != nil || !info.ModTime().Equal(stamp) {
			t.Error("written though nothing happened")
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond)
		if m := read(); m.index != g.nodes["a"].LastIndex() {
			t.Errorf("after its directory was swapped: %v", m)
		}
	})
}

// Between taking back entries that a new leader does not have and storing that leader's, the store is
// behind where it was. A node that ends just there is taken again.
func TestMarkBeforeACut(t *testing.T) {
	inBubble(t, func(t *testing.T, g *group) {
		path := g.marked()
		g.found("a")
		for _, s := range []string{"1", "2", "3"} {
			g.apply("a", s)
		}
		time.Sleep(1100 * time.Millisecond)
		a := g.nodes["a"]
		last := a.LastIndex()
		if err := a.store.disk.DeleteRange(last-1, last); err != nil {
			t.Fatal(err)
		}
		if m, ok := decodeMark(must(os.ReadFile(path("a")))); !ok || m.index != last-2 {
			t.Errorf("mark %v after entries from %d on were taken back", m, last-1)
		}
		have, err := a.store.mark("a")
		if err != nil || have.index != last-2 {
			t.Fatalf("%v, %v", have, err)
		}
		if err := a.store.check(a.cfg); err != nil {
			t.Error(err)
		}
	})
}

func TestMarkText(t *testing.T) {
	m := mark{"0123456789abcdef", ^uint64(0), ^uint64(0), ^uint64(0)}
	b := m.encode()
	if got, ok := decodeMark(b); !ok || got != m || len(b) != markSize {
		t.Errorf("%v, %v, %d bytes", got, ok, len(b))
	}
	for _, c := range []struct {
		m     mark
		ahead bool
	}{
		{mark{term: 3, index: 9, last: 2}, false}, {mark{term: 3, index: 10, last: 2}, true}, {mark{term: 3, index: 8, last: 3}, true},
		{mark{term: 4, index: 9, last: 2}, true}, {mark{term: 2, index: 20, last: 1}, false}, {mark{}, false},
	} {
		if got := c.m.ahead(mark{term: 3, index: 9, last: 2}); got != c.ahead {
			t.Errorf("%v: %v", c.m, got)
		}
	}
}
