package node

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"ha/raftfsm"
)

// Files are counted when the free room says that they have changed, and never for more
// than a hundredth of the time.
func TestRoomDue(t *testing.T) {
	const free = 10 << 30
	r := room{sizedAt: time.Hour, sizeTook: 300 * time.Millisecond, sizeFree: free}
	for _, tc := range []struct {
		after time.Duration
		free  int64
		due   bool
	}{
		{time.Second, free, false},
		{time.Second, free - sizeMoved, false}, // so soon
		{31 * time.Second, free - sizeMoved, true},
		{31 * time.Second, free + sizeMoved, true},
		{31 * time.Second, free - sizeMoved + 1, false},
		{sizeEvery + time.Second, free, true},
	} {
		if got := r.due(time.Hour+tc.after, tc.free); got != tc.due {
			t.Errorf("%s later, %d free: %v", tc.after, tc.free, got)
		}
	}
	if !(&room{}).due(time.Second, free) {
		t.Error("never counted, and not due")
	}
}

// A disk without any room is not one of which nothing is known.
func TestRoomOfAFullDisk(t *testing.T) {
	for _, before := range []int64{0, 10 << 30} {
		r := room{free: before}
		r.sawFree(0)
		var sent, got raftfsm.Report
		r.fill(&sent)
		text, err := json.Marshal(sent)
		if err == nil {
			err = json.Unmarshal(text, &got)
		}
		if err != nil || got.DiskFree == 0 || got.DiskFree > 1<<10 {
			t.Errorf("after %d: %d, %v", before, got.DiskFree, err)
		}
	}
	r := room{free: 10 << 30}
	if r.sawFree(10<<30 - 1); r.free != 10<<30 {
		t.Error("a byte is reported")
	}
}

// What forbids to put a copy in place, or to make one, is reported before it is tried.
func TestNoCopyIsReported(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(b *bench)
		no     string
		engine bool // CLONE cannot
	}{
		"none":    {func(*bench) {}, "", false},
		"a link":  {func(b *bench) { b.link() }, "is no directory of its own", false},
		"outside": {func(b *bench) { b.cfg.NoCopy = func() string { return "undo logs elsewhere" } }, "undo logs elsewhere", false},
		"too many": {func(b *bench) {
			for _, name := range []string{".old", ".kept-1", ".kept-2", ".kept-3"} {
				if err := os.Mkdir(b.md.dir+name, 0o700); err != nil {
					b.t.Fatal(err)
				}
			}
		}, "too many old data are kept", false},
		"no CLONE": {func(b *bench) { b.md.set(func(f *fakeMysqld) { f.noClone = true }) }, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.oldData()
				tc.change(b)
				b.up()
				time.Sleep(2 * houseEvery)
				r := b.co.last()
				if !strings.Contains(r.NoCopy, tc.no) || tc.no == "" && r.NoCopy != "" || tc.engine != (len(r.Engines) == 1 && r.Engines[0].Engine == raftfsm.EngineClone && r.Engines[0].No != "") {
					t.Errorf("%q, %+v", r.NoCopy, r.Engines)
				}
			})
		})
	}
}

// link moves the data away and leaves a symbolic link to them.
func (b *bench) link() {
	b.t.Helper()
	err := os.Rename(b.md.dir, b.md.dir+"-real")
	if err == nil {
		err = os.Symlink(b.md.dir+"-real", b.md.dir)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// What a copy left that ended while mysqld could not be stopped for the removal goes at
// any later time, and not only with the next start: it takes the room of the next copy.
func TestLeftoversGoWhileMysqldRuns(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.oldData()
		b.up()
		time.Sleep(2*houseEvery + houseEvery/2) // between two rounds
		for _, name := range []string{".clone", ".new", ".gone"} {
			if err := os.MkdirAll(b.md.dir+name+"/app", 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(b.md.dir+name+"/app/t.ibd", make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b.within(2*houseEvery, "nothing is left", func() bool { return len(b.leftovers()) == 0 })
		if b.data() != "old" || !b.n.isUp() {
			t.Errorf("data %q, up %v", b.data(), b.n.isUp())
		}
	})
}
