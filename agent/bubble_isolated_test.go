package agent

import (
	"testing"
	"time"

	"ha/raftfsm"
)

// Hosts are cut off, in both ways or in one; their agents and servers live. A
// primary that gets no lease is closed when the last one ends, and another takes
// over, as soon as nobody hears it. A coordinator that is cut off is replaced, and
// no client notices.
func TestBubbleIsolated(t *testing.T) {
	type cut = func(from, to string) bool
	whole := func(h string) cut { return func(from, to string) bool { return from == h || to == h } }
	sends := func(h string) cut { return func(from, _ string) bool { return from == h } }
	hears := func(h string) cut { return func(_, to string) bool { return to == h } }
	primary := func(c func(string) cut) func(p, c string) cut { return func(p, _ string) cut { return c(p) } }
	coordinator := func(c func(string) cut) func(p, c string) cut { return func(_, co string) cut { return c(co) } }
	between := func(p, c string) cut {
		return func(from, to string) bool { return from == p && to == c || from == c && to == p }
	}
	// An agent fences at its lease's end; where commits wait it gives them half a
	// second, and kills then.
	closed := raftfsm.DefaultPolicy().Lease + 600*time.Millisecond
	for _, c := range []struct {
		name   string
		cut    func(primary, coordinator string) cut
		idle   bool          // no client writes
		fenced time.Duration // the longest until the old primary is closed; 0: it goes on
		waits  time.Duration // the longest that clients wait
	}{
		{"the primary", primary(whole), false, closed, 3 * time.Second},
		{"the primary of an idle cluster", primary(whole), true, closed, 3 * time.Second},
		{"what the primary sends", primary(sends), false, closed, 3 * time.Second},
		{"what the primary hears", primary(hears), false, closed, 7 * time.Second},
		{"primary and coordinator", between, false, closed, 3 * time.Second},
		{"the coordinator", coordinator(whole), false, 0, 500 * time.Millisecond},
		{"what the coordinator sends", coordinator(sends), false, 0, 500 * time.Millisecond},
		{"what the coordinator hears", coordinator(hears), false, 0, 500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(b *bubble) {
				b.dataCluster(3, 0)
				if c.idle {
					b.stop()
					b.load.Wait()
				}
				time.Sleep(time.Second)
				b.isolated(c.cut, c.fenced, c.waits, c.idle)
			})
		})
	}
}

func (b *bubble) isolated(cut func(p, c string) func(from, to string) bool, fenced, waits time.Duration, idle bool) {
	co, before := b.coordinator()
	old := b.primaryOf(&before)
	began := b.now()
	b.net.Cut(cut(old.ip, co.ip))
	var closed, opened time.Duration
	for b.now()-began < 15*time.Second {
		time.Sleep(10 * time.Millisecond)
		if closed == 0 && !old.writable() {
			closed = b.now() - began
		}
		for _, h := range b.hosts {
			if opened == 0 && h != old && h.writable() {
				opened = b.now() - began
			}
		}
	}
	gap := b.longestGap(began)
	if idle {
		gap = opened
	}
	b.t.Logf("closed after %v, another opened after %v, %v without a row", closed, opened, gap)
	_, after := b.coordinator()
	now := b.primaryOf(&after)
	b.checkRows(now)
	switch {
	case fenced == 0 && (closed > 0 || opened > 0 || now != old):
		b.t.Errorf("closed after %v, another opened after %v, primary %s, was %s", closed, opened, now.name, old.name)
	case fenced > 0 && (closed == 0 || closed > fenced || opened == 0 || now == old):
		b.t.Errorf("closed after %v, more than %v; another opened after %v; primary %s, was %s", closed, fenced, opened, now.name, old.name)
	case gap > waits:
		b.t.Errorf("%v without a row, more than %v", gap, waits)
	}
	b.net.Cut(nil)
	took := b.within(time.Minute, "all is well again", b.isWell)
	b.t.Logf("well %v after the cut was healed", took)
	_, after = b.coordinator()
	if n := after.Epoch - before.Epoch; n > 1 || n == 1 && fenced == 0 {
		b.t.Errorf("%d epochs", n)
	}
	b.checkRows(b.primaryOf(&after))
}
