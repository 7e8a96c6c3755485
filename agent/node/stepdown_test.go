package node

import (
	"context"
	"testing"
	"time"

	"ha/raftfsm"
)

// A primary is poisoned, then killed, and neither time nor an order brings it up
// again. Its position can still be read.
func TestEndForGood(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.up()
		b.lead(1)
		if !b.n.Reigns() {
			t.Error("a primary does not reign")
		}
		b.md.forget()
		if err := b.n.EndForGood(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := b.md.effects(); got != "Poison Kill" {
			t.Errorf("did %s", got)
		}
		if b.n.Reigns() {
			t.Error("a dead one reigns")
		}
		if a := b.order(raftfsm.Order{Token: tok(1, 30, 1), Op: raftfsm.OpStart}); a.OK {
			t.Errorf("started: %+v", a)
		}
		if a := b.order(raftfsm.Order{Token: tok(1, 31, 1), Op: raftfsm.OpSeal, Former: true}); !a.OK || a.Running {
			t.Errorf("sealed: %+v", a)
		}
		time.Sleep(10 * time.Minute)
		if b.md.did("Start") {
			t.Errorf("did %s", b.md.effects())
		}
	})
}

// Nor does a start that was under way.
func TestEndForGoodDuringStart(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.md.set(func(f *fakeMysqld) { f.startFor = 20 * time.Second })
		b.begin()
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.n.EndForGood(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if b.md.Alive() {
			t.Errorf("it runs: %s", b.md.effects())
		}
	})
}
