package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"ha/agent/node"
	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
)

// fakeSQL is one agent's hold on a fake server. What is not faked panics.
type fakeSQL struct {
	node.Mysqld
	s    *fakeServer
	gone <-chan struct{} // closed when the agent is killed
}

var errAgentGone = errors.New("this agent was killed")

const fakeStatement = 200 * time.Microsecond

// do carries a statement out on a running server, the lock held.
func (c fakeSQL) do(ctx context.Context, f func(s *fakeServer) error) error {
	time.Sleep(fakeStatement)
	s := c.s
	s.db.mu.Lock()
	defer s.db.mu.Unlock()
	switch {
	case isOver(c.gone):
		return errAgentGone
	case ctx.Err() != nil:
		return ctx.Err()
	case !s.alive:
		return mysqlctl.ErrNotRunning
	}
	err := f(s)
	s.notify()
	return err
}

// await looks at each change of a running server until ok, the lock held.
func (c fakeSQL) await(ctx context.Context, ok func(s *fakeServer) (bool, error)) error {
	for {
		var changed <-chan struct{}
		good := false
		s := c.s
		s.db.mu.Lock()
		exit, err := s.exit, error(nil)
		switch {
		case isOver(c.gone):
			err = errAgentGone
		case !s.alive:
			err = mysqlctl.ErrNotRunning
		default:
			good, err = ok(s)
		}
		changed = s.changed
		s.db.mu.Unlock()
		if good || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-exit:
		case <-c.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// commit waits for its acknowledgements; its transaction waits on without it.
func (c fakeSQL) commit(ctx context.Context, body string) error {
	time.Sleep(fakeStatement)
	var w *fakeWaiter
	var exit <-chan struct{}
	err := c.await(ctx, func(s *fakeServer) (bool, error) {
		switch {
		case s.setting > 0:
			return false, nil
		case s.superRO:
			return false, mysqlctl.ErrReadOnly
		}
		_, w = s.write(body)
		exit = s.exit
		return true, nil
	})
	if err != nil || w == nil {
		return err
	}
	select {
	case <-w.done:
		return nil
	case <-exit:
		return mysqlctl.ErrNotRunning
	case <-c.gone:
		return errAgentGone
	case <-ctx.Done():
		return ctx.Err()
	}
}

// --- the process.

func (c fakeSQL) Initialized() (bool, error) {
	_, err := os.Stat(filepath.Join(c.s.dir, imageFile))
	return err == nil, nil
}

func (c fakeSQL) Initialize(context.Context) error {
	time.Sleep(3 * time.Second)
	c.s.db.mu.Lock()
	defer c.s.db.mu.Unlock()
	if isOver(c.gone) {
		return errAgentGone
	}
	return c.s.db.put(c.s.dir, &fakeImage{next: 1, uuid: c.s.db.newUUID(), rows: map[string]string{}, accounts: map[string]fakeAccount{}})
}

func (c fakeSQL) Start(ctx context.Context) error {
	s := c.s
	s.db.mu.Lock()
	s.load()
	switch {
	case isOver(c.gone):
		s.db.mu.Unlock()
		return errAgentGone
	case s.alive:
		s.db.mu.Unlock()
		return mysqlctl.ErrRunning
	case s.img == nil:
		s.db.mu.Unlock()
		return errors.New("fake mysqld: no data")
	}
	s.begin()
	exit := s.exit
	s.db.mu.Unlock()
	select {
	case <-time.After(fakeStart):
		return nil
	case <-exit:
		return mysqlctl.ErrExited
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c fakeSQL) Adopt(context.Context) (bool, error) {
	if isOver(c.gone) {
		return false, errAgentGone
	}
	return c.Alive(), nil
}

func (c fakeSQL) PID() int {
	c.s.db.mu.Lock()
	defer c.s.db.mu.Unlock()
	if !c.s.alive {
		return 0
	}
	return 1000 + c.s.runs
}

func (c fakeSQL) Alive() bool { return c.PID() != 0 }

func (c fakeSQL) Exited() <-chan struct{} {
	c.s.db.mu.Lock()
	defer c.s.db.mu.Unlock()
	return c.s.exit
}

func (c fakeSQL) CoreDumping() bool { return false }
func (c fakeSQL) Close() error      { return nil }

func (c fakeSQL) Kill(context.Context) error {
	if isOver(c.gone) {
		return errAgentGone
	}
	c.s.crash()
	return nil
}

func (c fakeSQL) StopFast(ctx context.Context) error {
	return c.do(ctx, func(s *fakeServer) error {
		s.semi = false
		s.release() // a clean end answers OK to what waits
		s.img.fileAt = len(s.img.binlog)
		s.die()
		return nil
	})
}

// --- looks.

func (c fakeSQL) Status(ctx context.Context) (mysqlctl.Status, error) {
	var st mysqlctl.Status
	err := c.do(ctx, func(s *fakeServer) error {
		img, now := s.img, time.Now()
		st = mysqlctl.Status{ServerUUID: img.uuid, Version: "9.7.4", ReadOnly: s.superRO, SuperReadOnly: s.superRO,
			Executed: img.executed, Received: img.received, ReplicaAck: s.link != nil && s.link.ack, ReplicaAckWanted: s.ackFlag}
		st.Source = mysqlctl.SourceStatus{Plugin: true, Enabled: s.semi, On: s.semi, WaitForCount: s.k, NoTx: s.no, YesTx: s.yes}
		for _, w := range s.waiters {
			st.Waiting++
			st.WaitingFor = max(st.WaitingFor, now.Sub(w.from))
		}
		for _, l := range s.attached() {
			st.DumpThreads = append(st.DumpThreads, mysqlctl.DumpThread{ReplicaUUID: l.uuid, SemiSync: l.ack})
		}
		if ch := img.channel; ch != nil {
			r := &mysqlctl.ReplicaStatus{SourceHost: ch.Host, SourcePort: ch.Port, SourceUUID: img.source, User: ch.User,
				IOState: "No", SQLState: "No", HeartbeatAge: -1, Channels: 1, AutoPos: true}
			switch {
			case s.link != nil:
				r.IOState = "Yes"
			case s.io:
				r.IOState = "Connecting"
			}
			if s.ioErr != "" {
				r.IOError = mysqlctl.ReplicaError{Number: 2003, Text: s.ioErr}
			}
			if s.sql {
				r.SQLState = "Yes"
			}
			if !s.heard.IsZero() {
				r.HeartbeatAge = now.Sub(s.heard)
			}
			st.Replica = r
		}
		return nil
	})
	return st, err
}

func (c fakeSQL) ServerUUIDOnDisk() (string, error) {
	s := c.s
	s.db.mu.Lock()
	defer s.db.mu.Unlock()
	if !s.alive {
		s.load()
	}
	if s.img == nil {
		return "", errors.New("fake mysqld: no data")
	}
	return s.img.uuid, nil
}

func (c fakeSQL) OfflinePosition() (gtid.Set, error) {
	s := c.s
	s.db.mu.Lock()
	defer s.db.mu.Unlock()
	if s.alive {
		return gtid.Set{}, mysqlctl.ErrRunning
	}
	s.load()
	if s.img == nil {
		return gtid.Set{}, errors.New("fake mysqld: no data")
	}
	return s.img.executed.Union(s.img.logged), nil
}

func (c fakeSQL) OfflineReceived() (gtid.Set, error) { return gtid.Set{}, nil }

func (c fakeSQL) ClusterID(ctx context.Context) (id string, err error) {
	err = c.do(ctx, func(s *fakeServer) error { id = s.img.cluster; return nil })
	return id, err
}

func (c fakeSQL) ReplicationAccounts(ctx context.Context) ([]string, error) {
	out := []string{}
	err := c.do(ctx, func(s *fakeServer) error {
		for user, a := range s.img.accounts {
			if !a.locked {
				out = append(out, user)
			}
		}
		slices.Sort(out)
		return nil
	})
	return out, err
}

func (c fakeSQL) ProbeDisk(context.Context) error                      { return nil }
func (c fakeSQL) Blockers(context.Context) ([]mysqlctl.Blocker, error) { return nil, nil }
func (c fakeSQL) DisabledEvents(context.Context) (int, error)          { return 0, nil }
func (c fakeSQL) EnableEvents(context.Context) error                   { return nil }
func (c fakeSQL) NoteEvents(context.Context) error                     { return nil }
func (c fakeSQL) BinlogSize() (int64, error)                           { return 0, nil }
func (c fakeSQL) FlushBinlog(ctx context.Context) error {
	return c.do(ctx, func(*fakeServer) error { return nil })
}
func (c fakeSQL) KillOwnSessions(ctx context.Context) error { return c.FlushBinlog(ctx) }

// --- as a source.

func (c fakeSQL) KillClients(ctx context.Context) error {
	return c.do(ctx, func(s *fakeServer) error {
		close(s.clients)
		s.clients = make(chan struct{})
		return nil
	})
}

func (c fakeSQL) KillDump(ctx context.Context, uuid, _ string) error {
	return c.do(ctx, func(s *fakeServer) error {
		s.links = slices.DeleteFunc(s.links, func(l *fakeLink) bool {
			if l.uuid == uuid {
				l.ended = true
				l.replica.notify()
			}
			return l.uuid == uuid
		})
		return nil
	})
}

func (c fakeSQL) Fence(ctx context.Context) error {
	run := 0
	if err := c.do(ctx, func(s *fakeServer) error { s.setting++; run = s.runs; return nil }); err != nil {
		return fmt.Errorf("%w: %w", mysqlctl.ErrNotFenced, err)
	}
	err := c.await(ctx, func(s *fakeServer) (bool, error) {
		if s.runs != run {
			return false, mysqlctl.ErrNotRunning
		}
		if len(s.waiters) > 0 {
			return false, nil
		}
		s.superRO = true
		return true, nil
	})
	c.s.db.mu.Lock()
	defer c.s.db.mu.Unlock()
	if c.s.runs == run && c.s.alive {
		c.s.setting--
		c.s.notify()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", mysqlctl.ErrNotFenced, err)
	}
	return nil
}

func (c fakeSQL) Poison(ctx context.Context) error {
	return c.do(ctx, func(s *fakeServer) error { s.k = 100; return nil })
}

func (c fakeSQL) OpenWrites(ctx context.Context) error {
	return c.do(ctx, func(s *fakeServer) error { s.superRO = false; return nil })
}

func (c fakeSQL) ConfigureSource(ctx context.Context, k int) error {
	return c.do(ctx, func(s *fakeServer) error {
		if s.semi = k > 0; s.semi {
			s.k = k
		}
		s.release()
		return nil
	})
}

func (c fakeSQL) EnsureSchema(ctx context.Context, cluster string) error {
	id, err := c.ClusterID(ctx)
	switch {
	case err != nil:
		return err
	case id == cluster:
		return nil
	case id != "":
		return mysqlctl.ErrForeignCluster
	}
	return c.commit(ctx, "cluster "+cluster)
}

func (c fakeSQL) Barrier(ctx context.Context, epoch, index uint64) error {
	return c.commit(ctx, fmt.Sprintf("barrier of %d under %d", epoch, index))
}

func (c fakeSQL) EnsureReplicationAccount(ctx context.Context, user, password string) error {
	there := false
	if err := c.do(ctx, func(s *fakeServer) error { there = s.img.accounts[user].password == password; return nil }); err != nil || there {
		return err
	}
	return c.commit(ctx, "account "+user+" "+password)
}

func (c fakeSQL) LockAccount(ctx context.Context, user string, locked bool) error {
	return c.do(ctx, func(s *fakeServer) error {
		a, there := s.img.accounts[user]
		switch {
		case !there:
			return fmt.Errorf("lock account: there is no %s", user)
		case a.locked == locked:
			return nil
		case s.superRO:
			return mysqlctl.ErrReadOnly
		}
		a.locked = locked
		s.img.accounts[user] = a
		return nil
	})
}

// --- as a replica.

func (c fakeSQL) SealReplica(ctx context.Context) (mysqlctl.Position, error) {
	var p mysqlctl.Position
	err := c.do(ctx, func(s *fakeServer) error {
		s.io = false
		s.hangUp()
		p = s.position()
		return nil
	})
	return p, err
}

func (c fakeSQL) Position(ctx context.Context) (p mysqlctl.Position, err error) {
	err = c.do(ctx, func(s *fakeServer) error {
		p = s.position()
		return nil
	})
	return p, err
}

func (s *fakeServer) position() mysqlctl.Position {
	return mysqlctl.Position{Executed: s.img.executed, Received: s.img.received, ServerUUID: s.img.uuid}
}

func (c fakeSQL) Drain(ctx context.Context) (gtid.Set, error) {
	var set gtid.Set
	err := c.do(ctx, func(s *fakeServer) error {
		if s.img.channel == nil && len(s.img.relay) > 0 {
			return mysqlctl.ErrApplier
		}
		s.sql = s.img.channel != nil
		set = s.img.received
		return nil
	})
	if err != nil {
		return set, err
	}
	return c.WaitExecuted(ctx, set)
}

func (c fakeSQL) WaitExecuted(ctx context.Context, set gtid.Set) (executed gtid.Set, err error) {
	err = c.await(ctx, func(s *fakeServer) (bool, error) {
		executed = s.img.executed
		return executed.Contains(set), nil
	})
	return executed, err
}

func (c fakeSQL) StopApplier(ctx context.Context) error {
	return c.do(ctx, func(s *fakeServer) error { s.sql = false; return nil })
}

func (c fakeSQL) Follow(ctx context.Context, src mysqlctl.Source, ack bool) error {
	if err := c.Fence(ctx); err != nil {
		return err
	}
	time.Sleep(10 * time.Millisecond)
	err := c.do(ctx, func(s *fakeServer) error {
		now := s.img.channel
		if now == nil || *now != src || s.ackFlag != ack || !s.io {
			s.hangUp()
			s.img.channel, s.ackFlag, s.io, s.ioErr, s.retryAt = &src, ack, true, "", time.Time{}
		}
		s.sql = true
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.connected(ctx); err != nil {
		return err
	}
	return c.ConfigureSource(ctx, 0)
}

func (c fakeSQL) connected(ctx context.Context) error {
	return c.await(ctx, func(s *fakeServer) (bool, error) {
		if s.link == nil && s.ioErr != "" {
			return false, fmt.Errorf("%w: %s", mysqlctl.ErrNotConnected, s.ioErr)
		}
		return s.link != nil, nil
	})
}

func (c fakeSQL) SetReplicaAck(ctx context.Context, ack bool) error {
	runs := false
	err := c.do(ctx, func(s *fakeServer) error {
		if s.ackFlag != ack || s.link != nil && s.link.ack != ack {
			s.hangUp()
			s.ackFlag, s.retryAt = ack, time.Time{}
		}
		runs = s.io
		return nil
	})
	if err != nil || !runs {
		return err
	}
	return c.connected(ctx)
}

func (c fakeSQL) ResetReplica(ctx context.Context) error {
	return c.do(ctx, func(s *fakeServer) error {
		if len(s.img.relay) > 0 {
			return mysqlctl.ErrApplier
		}
		s.reset()
		return nil
	})
}

func (c fakeSQL) DiscardReceived(ctx context.Context) error {
	return c.do(ctx, func(s *fakeServer) error { s.reset(); return nil })
}

// reset removes the channel with all that is received only; the lock is held.
func (s *fakeServer) reset() {
	s.hangUp()
	s.io, s.sql = false, false
	s.img.channel, s.img.relay, s.img.received, s.img.source = nil, nil, gtid.Set{}, ""
}

// --- copies and cuts.

// CutTail takes what keep lacks off the end of the last binary log file, as long
// as the engine has not committed it.
func (c fakeSQL) CutTail(_ context.Context, keep gtid.Set) (mysqlctl.Cut, error) {
	s := c.s
	s.db.mu.Lock()
	defer s.db.mu.Unlock()
	if s.alive {
		return mysqlctl.Cut{}, mysqlctl.ErrRunning
	}
	s.load()
	img := s.img
	at := slices.IndexFunc(img.binlog, func(t loggedTxn) bool { return !keep.Contains(t.set) })
	if at < 0 {
		return mysqlctl.Cut{}, nil
	}
	var cut mysqlctl.Cut
	for _, t := range img.binlog[at:] {
		if at < img.fileAt || keep.Contains(t.set) || img.executed.Contains(t.set) {
			return mysqlctl.Cut{}, fmt.Errorf("%w: %s", mysqlctl.ErrNoCut, t.key)
		}
		cut.Removed = cut.Removed.Union(t.set)
		cut.Transactions++
	}
	img.binlog, img.logged = img.binlog[:at], img.logged.Minus(cut.Removed)
	img.uuid, img.next = s.db.newUUID(), 1
	return cut, nil
}

func (c fakeSQL) Clone(ctx context.Context, donor mysqlctl.Source, dir string, _ int64, progress func(mysqlctl.CloneProgress)) error {
	time.Sleep(time.Second)
	return c.do(ctx, func(s *fakeServer) error {
		d := s.db.at(donor.Host)
		if d == nil || !s.db.net.Reaches(s.ip, d.ip) || !s.db.net.Reaches(d.ip, s.ip) {
			return errors.New("fake clone: the donor does not answer")
		}
		return s.db.put(dir, copyOf(d.img))
	})
}
