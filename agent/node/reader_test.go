package node

import (
	"fmt"
	"testing"
	"time"

	"ha/raftfsm"
)

// The readers' address is held as long as answers say so, and given up with mysqld.
func TestReader(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.cfg.Reader = func(until time.Duration) { b.note(fmt.Sprint(until > b.clock.Boottime()+testLease-time.Second)) }
		b.co.set(func(c *coordinator) { c.grant = raftfsm.Grant{Epoch: 1, Primary: "n2", Reader: testLease} })
		b.up()
		b.within(time.Second, "told to hold it", func() bool { return b.hooked() == "true" })
		b.co.set(func(c *coordinator) { c.grant.Reader = 0 })
		b.within(time.Second, "told to drop it", func() bool { return b.hooked() == "true false" })
		b.co.set(func(c *coordinator) { c.grant.Reader = testLease })
		b.within(time.Second, "told to hold it again", func() bool { return b.hooked() == "true false true" })
		b.co.set(func(c *coordinator) { c.grant.Reader = 0; c.err = errTest })
		b.md.crash()
		b.within(50*time.Millisecond, "dropped with mysqld", func() bool { return b.hooked() == "true false true false" })
	})
}

// Answers that overtake each other, and leases that are over.
func TestTakeReader(t *testing.T) {
	inBubble(t, func(b *bench) {
		var got []time.Duration
		b.cfg.Reader = func(until time.Duration) { got = append(got, until) }
		b.co.set(func(c *coordinator) { c.err = errTest })
		b.begin()
		now := b.n.clock.Boottime()
		b.n.takeReader(testLease, now)
		b.n.takeReader(0, now-time.Second) // late
		b.n.takeReader(0, now+time.Second)
		b.n.takeReader(testLease, now)             // late
		b.n.takeReader(0, now+2*time.Second)       // no news
		b.n.takeReader(testLease, now-2*testLease) // over before it came
		if fmt.Sprint(got) != fmt.Sprint([]time.Duration{now + testLease, 0}) {
			t.Errorf("%v", got)
		}
	})
}
