package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ha/mysqlctl"
	"ha/raftfsm"
)

// ackedRow is a row for which a client got its OK.
type ackedRow struct {
	key, body string
	on        *bubbleHost
	at        time.Duration
}

var errSessionEnded = errors.New("this session was ended")

// insert is a client's transaction.
func (s *fakeServer) insert(ctx context.Context, body string) (key string, err error) {
	var w *fakeWaiter
	for {
		s.db.mu.Lock()
		exit, changed, ended := s.exit, s.changed, s.clients
		switch {
		case !s.alive:
			err = mysqlctl.ErrNotRunning
		case s.setting > 0:
		case s.superRO:
			err = mysqlctl.ErrReadOnly
		default:
			var t *fakeTxn
			t, w = s.write(body)
			key = t.key
		}
		s.db.mu.Unlock()
		if err != nil || key != "" && w == nil {
			return key, err
		}
		done := (chan struct{})(nil)
		if w != nil {
			done, changed = w.done, nil
		}
		select {
		case <-done:
			return key, nil
		case <-changed:
		case <-exit:
			return key, mysqlctl.ErrNotRunning
		case <-ended:
			return key, errSessionEnded
		case <-ctx.Done():
			return key, ctx.Err()
		}
	}
}

// writePause is the longest pause between two rows of a client.
const writePause = 20 * time.Millisecond

// clients has one client write to each server, on the server's own host, for as
// long as the bubble lasts.
func (b *bubble) clients() {
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	for _, h := range b.hosts {
		if h.db == nil {
			continue
		}
		b.load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				body := fmt.Sprintf("row %d of %s", i, h.name)
				if key, err := h.db.insert(ctx, body); err == nil {
					b.mu.Lock()
					b.rows = append(b.rows, ackedRow{key, body, h, b.now()})
					b.mu.Unlock()
				}
				_ = pause(ctx, some(writePause))
			}
		})
	}
}

// acked gives the rows that were acknowledged since then.
func (b *bubble) acked(since time.Duration) []ackedRow {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := len(b.rows); ; i-- {
		if i == 0 || b.rows[i-1].at < since {
			return append([]ackedRow(nil), b.rows[i:]...)
		}
	}
}

// checkRows looks for each acknowledged row on a server, with its content.
func (b *bubble) checkRows(on *bubbleHost) {
	b.t.Helper()
	rows := b.acked(0)
	b.db.mu.Lock()
	defer b.db.mu.Unlock()
	lost := 0
	for _, r := range rows {
		if on.db.img.rows[r.key] != r.body {
			if lost++; lost < 4 {
				b.t.Errorf("%v: %s, acknowledged by %s at %v as %q, is %q on %s", b.now(), r.key, r.on.name, r.at, r.body, on.db.img.rows[r.key], on.name)
			}
		}
	}
	if lost > 0 {
		b.t.Fatalf("%d of %d acknowledged rows are lost", lost, len(rows))
	}
}

// coordinator gives the host whose agent coordinates, as its own state has it.
func (b *bubble) coordinator() (*bubbleHost, raftfsm.State) {
	for _, h := range b.hosts {
		if h.alive() && h.node.Load() != nil && h.raft.IsLeader() {
			if s, _, _, leading := h.coord.status(); leading {
				return h, s
			}
		}
	}
	return nil, raftfsm.State{}
}

// doing says what the coordinator waits for.
func (h *bubbleHost) doing() string {
	_, _, doing, _ := h.coord.status()
	return doing
}

// primaryOf finds the primary's host, by name: an agent that was started just now does not
// know its id yet.
func (b *bubble) primaryOf(s *raftfsm.State) *bubbleHost {
	for _, h := range b.hosts {
		if h.name == s.Name(s.Primary) {
			return h
		}
	}
	b.t.Fatalf("no host is called %q", s.Name(s.Primary))
	return nil
}

// isWell says that all is as it should be at rest: else what is not.
func (b *bubble) isWell() (bool, string) {
	if ok, seen := b.oneCluster(); !ok {
		return false, seen
	}
	c, s := b.coordinator()
	data := s.DataMembers()
	switch {
	case c == nil:
		return false, "nobody coordinates"
	case s.Phase != raftfsm.PhaseSettled || s.Intent != nil || s.K != s.KPolicy() || len(s.Ackers) != len(data)-1:
		return false, fmt.Sprintf("epoch %d, phase %s, primary %s, k %d, ackers %v, intent %v", s.Epoch, s.Phase, s.Name(s.Primary), s.K, ackNames(&s), s.Intent)
	case c.id == s.Primary:
		return false, "the primary's host coordinates"
	}
	return true, ""
}

// writable says whether clients of that server can write now.
func (h *bubbleHost) writable() bool {
	h.db.db.mu.Lock()
	defer h.db.db.mu.Unlock()
	return h.db.alive && !h.db.superRO
}

// policy changes the cluster's.
func (b *bubble) policy(change func(*raftfsm.Policy)) {
	b.t.Helper()
	c, s := b.coordinator()
	change(&s.Policy)
	if _, dropped, err := c.coord.apply(b.t.Context(), raftfsm.Command{Kind: raftfsm.CmdPolicy, Policy: &s.Policy, On: s.Version}); err != nil || dropped != "" {
		b.t.Fatalf("policy: %v %s", err, dropped)
	}
}

// dataCluster starts a cluster of so many data hosts and witnesses, under load.
func (b *bubble) dataCluster(data, witnesses int) {
	var all []string
	for i := range data + witnesses {
		all = append(all, hostIP(i+1)+":8801")
	}
	for i := range data + witnesses {
		join := all
		if i == 0 {
			join = nil
		}
		if i < data {
			b.dataHost(join...).start()
		} else {
			b.host(join...).start()
		}
	}
	b.clients()
	b.within(time.Minute, "the cluster is well", b.isWell)
}
