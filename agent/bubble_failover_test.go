package agent

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"ha/raftfsm"
)

// The coordinator's agent is killed at each point of a failover: after each
// command that it committed, before each order that it gives, and after each
// answer. Whoever coordinates next finishes what was begun: one primary, no row
// lost, no epoch more than needed, and soon.
func TestBubbleCoordinatorDies(t *testing.T) {
	for _, c := range []struct {
		name string
		data int
		host bool          // the primary's host dies, not only its mysqld
		back time.Duration // the coordinator's agent comes back after that; 0: when all is over
		took time.Duration // the longest that clients may wait: an election takes up to 2.5 s
	}{
		{"mysqld dies, the coordinator for good", 3, false, 0, 6 * time.Second},
		{"mysqld dies, the coordinator for a second", 3, false, time.Second, 6 * time.Second},
		{"host dies, the coordinator for a second", 3, true, time.Second, 6 * time.Second},
		{"host dies, the coordinator for good", 5, true, 0, 6 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(b *bubble) {
				b.dataCluster(c.data, 0)
				b.policy(func(p *raftfsm.Policy) { p.CoolDown = 0 }) // failovers come thick and fast
				for n := 1; ; n++ {
					f := failover{b: b, at: n, host: c.host, back: c.back}
					f.run()
					b.t.Logf("%v: %s", b.now(), &f)
					if f.outage > c.took {
						b.t.Errorf("clients waited for %v, more than %v", f.outage, c.took)
					}
					if f.victim == nil {
						break
					}
				}
			})
		})
	}
}

// failover is one, in which a coordinator dies at its nth step.
type failover struct {
	b    *bubble
	at   int
	host bool
	back time.Duration

	mu     sync.Mutex
	steps  int
	over   bool
	victim *bubbleHost // nil: it was over before
	step   string      // at which it died
	died   time.Duration
	first  bool // the victim's host was to be the next primary

	epochs uint64
	outage time.Duration
	next   string
}

func (f *failover) String() string {
	if f.victim == nil {
		return fmt.Sprintf("undisturbed: %d steps, +%d epochs, primary %s, %v without a row", f.steps, f.epochs, f.next, f.outage)
	}
	return fmt.Sprintf("%s dies at step %d, %q: +%d epochs, primary %s, %v without a row", f.victim.name, f.at, f.step, f.epochs, f.next, f.outage)
}

// onStep counts what coordinators do until the next reign is settled.
func (f *failover) onStep(h *bubbleHost, step string) {
	word, _, _ := strings.Cut(step, " ")
	f.mu.Lock()
	defer f.mu.Unlock()
	if word == "stored" || word == "done" || f.over || f.victim != nil {
		return
	}
	f.steps++
	if f.steps == f.at {
		s := h.fsm.State()
		f.victim, f.step, f.died, f.first = h, step, f.b.now(), s.Primary == h.id
		h.kill()
	} else if step == "committed "+string(raftfsm.CmdSettle) {
		f.over = true
	}
}

func (f *failover) run() {
	b := f.b
	_, before := b.coordinator()
	primary := b.primaryOf(&before)
	time.Sleep(500 * time.Millisecond)
	b.mu.Lock()
	b.onStep = f.onStep
	b.mu.Unlock()
	began := b.now()
	if f.host {
		b.net.Isolate(primary.ip)
		primary.kill()
	}
	primary.db.crash()

	returned := false
	var after raftfsm.State // what the coordinator knew that perhaps dies right then
	b.within(time.Minute, fmt.Sprintf("a settled primary (%d)", f.at), func() (bool, string) {
		f.mu.Lock()
		victim, died := f.victim, f.died
		f.mu.Unlock()
		if victim != nil && f.back > 0 && !returned && b.now() >= died+f.back {
			victim.join()
			victim.start()
			returned = true
		}
		c, s := b.coordinator()
		if c == nil {
			return false, "nobody coordinates"
		}
		after = s
		rows := b.acked(began)
		return s.Epoch > before.Epoch && s.Phase == raftfsm.PhaseSettled && len(rows) > 0 && rows[len(rows)-1].at > b.now()-100*time.Millisecond,
			fmt.Sprintf("epoch %d %s, primary %s, k %d, ackers %v, %d rows since; %s", s.Epoch, s.Phase, s.Name(s.Primary), s.K, ackNames(&s), len(rows), c.doing())
	})
	b.mu.Lock()
	b.onStep = nil
	b.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()

	f.epochs, f.next = after.Epoch-before.Epoch, after.Name(after.Primary)
	b.checkRows(b.primaryOf(&after))
	if f.victim != nil && !returned {
		f.victim.join()
		f.victim.start()
	}
	if f.host {
		b.net.Cut(nil)
		primary.join()
		primary.start()
	}
	b.within(time.Minute, fmt.Sprintf("all is well again (%d: %s)", f.at, f.step), b.isWell)
	_, after = b.coordinator()
	b.checkRows(b.primaryOf(&after))
	f.outage = b.longestGap(began)
	most := uint64(1)
	if f.first {
		most = 2 // the one that was to be opened lost its agent
	}
	if after.Epoch-before.Epoch > most {
		b.t.Errorf("%v: %s: %d epochs", b.now(), f, after.Epoch-before.Epoch)
	}
	for _, h := range b.hosts {
		if h.db != nil && h.writable() != (h.id == after.Primary) {
			b.t.Errorf("%v: %s: %s writable: %v, primary is %s", b.now(), f, h.name, h.writable(), after.Name(after.Primary))
		}
	}
}

// longestGap is the longest time in which nobody was told OK.
func (b *bubble) longestGap(since time.Duration) time.Duration {
	last, longest := since, time.Duration(0)
	for _, r := range b.acked(since) {
		longest, last = max(longest, r.at-last), r.at
	}
	return max(longest, b.now()-last)
}
