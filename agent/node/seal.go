package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
)

const (
	// sealTimeout is what a living server has to end its acknowledgements; it
	// is killed then.
	sealTimeout = time.Second
	// closeTimeout is the same for a primary with commits on their way: their
	// acks may take a second where the only acker has just reconnected, and a
	// healthy server is not killed for that.
	closeTimeout = 1200 * time.Millisecond
	// poisonTimeout is for the try to leave a primary with waiting commits
	// unable to acknowledge before it is killed.
	poisonTimeout = 100 * time.Millisecond
	// gentleTimeout is what the primary of a switchover has to become read-only,
	// and again after the sessions in the way were ended. New writes queue
	// behind it meanwhile.
	gentleTimeout = 300 * time.Millisecond
	// awaitTimeout is for the target of a switchover to receive and apply the
	// primary's last transactions before it seals.
	awaitTimeout = time.Second
	// maxBlockers are named at most.
	maxBlockers = 5
)

// seal ends every acknowledgement by this node and answers its final position
// (R3). Nothing unseals the node but an order: mysqld always starts read-only
// and without replication.
func (n *Node) seal(ctx context.Context, o raftfsm.Order, a *raftfsm.Answer) error {
	if n.md.Alive() && n.md.CoreDumping() { // dead already: do not wait for the dump
		if err := n.kill(ctx); err != nil {
			return err
		}
	}
	state, _ := n.mysqldState()
	if state == raftfsm.MysqldDown && o.Former {
		return n.offline(a)
	}
	if n.reigned() {
		switch {
		case o.Gentle:
			return n.sealGently(ctx, o, a)
		case state == raftfsm.MysqldRunning || state == raftfsm.MysqldHung:
			return n.sealPrimary(ctx, a)
		}
	}
	if err := n.ensureUp(ctx); err != nil {
		return err
	}
	if !o.Await.IsEmpty() {
		limited, cancel := context.WithTimeout(ctx, awaitTimeout)
		_, err := n.md.WaitExecuted(limited, o.Await)
		cancel()
		if err != nil && ctx.Err() != nil {
			return err
		}
		// What it lacks is seen in its position.
	}
	return n.sealReplica(ctx, a)
}

// reigned says that this node's server may have been opened, or was seen open.
func (n *Node) reigned() bool {
	if n.tokens.Now().Role == RolePrimary || n.fence.armed() != 0 {
		return true
	}
	n.obs.mu.Lock()
	defer n.obs.mu.Unlock()
	return n.obs.seen && (!n.obs.status.SuperReadOnly || n.obs.status.Source.Enabled)
}

// sealReplica stops the receiver, and kills mysqld where that does not return:
// what it had received survives, and it comes up without replication.
func (n *Node) sealReplica(ctx context.Context, a *raftfsm.Answer) error {
	limited, cancel := context.WithTimeout(ctx, sealTimeout)
	pos, err := n.md.SealReplica(limited)
	cancel()
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		n.log.Warn("replica does not stop receiving: killing and restarting it", "err", err)
		if err := n.kill(ctx); err != nil {
			return err
		}
		if err := n.ensureUp(ctx); err != nil {
			return err
		}
		if pos, err = n.md.SealReplica(ctx); err != nil {
			return err
		}
	}
	if err := n.applierError(ctx, pos, a); err != nil {
		return err
	}
	answerPosition(a, pos)
	return nil
}

// applierError answers why an applier that has not executed all does not go on.
func (n *Node) applierError(ctx context.Context, pos mysqlctl.Position, a *raftfsm.Answer) error {
	if pos.Executed.Contains(pos.Received) {
		return nil
	}
	st, err := n.md.Status(ctx)
	if err != nil {
		return err
	}
	if r := st.Replica; r != nil && r.SQLState != "Yes" && r.SQLError.Number != 0 {
		a.ApplierError = fmt.Sprintf("%d %s", r.SQLError.Number, r.SQLError.Text)
	}
	return nil
}

func answerPosition(a *raftfsm.Answer, pos mysqlctl.Position) {
	a.Executed, a.Received, a.ServerUUID, a.Running = pos.Executed, pos.Received, pos.ServerUUID, true
}

// sealPrimary makes the server read-only, with no commit on its way. Where that
// does not return, nothing but SIGKILL ends what waits without acknowledging it.
func (n *Node) sealPrimary(ctx context.Context, a *raftfsm.Answer) error {
	gen := n.fence.armed()
	limited, cancel := context.WithTimeout(ctx, closeTimeout)
	err := n.md.Fence(limited)
	cancel()
	if err == nil {
		err = n.sealFenced(ctx, a)
		if err == nil {
			n.deposed(gen)
			return nil
		}
	}
	if ctx.Err() != nil {
		return err
	}
	n.log.Warn("primary does not become read-only: killing it", "why", err)
	poison, cancel := context.WithTimeout(ctx, poisonTimeout)
	_ = n.md.Poison(poison)
	cancel()
	if err := n.kill(ctx); err != nil {
		return err
	}
	n.fence.disarm(gen)
	n.closed(true)
	return n.offline(a)
}

// sealGently makes the primary of a switchover read-only, or leaves it as it was
// and says who is in the way.
func (n *Node) sealGently(ctx context.Context, o raftfsm.Order, a *raftfsm.Answer) error {
	if !n.isUp() {
		return refuse(raftfsm.CodeFailed, "mysqld is not running")
	}
	if o.Token == n.exec.declined { // it comes late once more: the switchover was given up
		return refuse(raftfsm.CodeBlocked, "it was declined already")
	}
	gen := n.fence.armed()
	err := n.fenceWithin(ctx, gentleTimeout)
	inTheWay := ""
	if err != nil && ctx.Err() == nil && !errors.Is(err, mysqlctl.ErrAbandoned) {
		inTheWay = n.blockers(ctx)
		if o.EndBlockers {
			n.log.Warn("ending the sessions that hold up a switchover", "sessions", inTheWay)
			n.cutClients(ctx)
			if err = n.fenceWithin(ctx, gentleTimeout); err != nil {
				inTheWay = n.blockers(ctx) // others than those that were ended
			}
		}
	}
	if err == nil {
		if err = n.sealFenced(ctx, a); err == nil {
			n.deposed(gen)
			return nil
		}
	}
	if errors.Is(err, mysqlctl.ErrAbandoned) {
		return err
	}
	if back := n.goOn(context.WithoutCancel(ctx)); back != nil {
		return errors.Join(err, back)
	}
	n.exec.declined = o.Token
	return refuse(raftfsm.CodeBlocked, "it does not become read-only within %s: %s", gentleTimeout, cmp.Or(inTheWay, err.Error()))
}

func (n *Node) fenceWithin(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return n.md.Fence(ctx)
}

// goOn makes sure that a primary that is not switched over after all is open, as
// long as it holds its lease.
func (n *Node) goOn(ctx context.Context) error {
	st, err := n.status(ctx, lookTimeout)
	if err != nil || !st.SuperReadOnly && !st.ReadOnly {
		return err
	}
	s := n.tokens.Now()
	if s.Role != RolePrimary || n.lease.held() != s.Reign {
		return refuse(raftfsm.CodeNoGrant, "it stays read-only: its lease is over")
	}
	return n.openWrites(ctx, s.Reign)
}

// blockers names who keeps the server from becoming read-only.
func (n *Node) blockers(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	bs, err := n.md.Blockers(ctx)
	if err != nil {
		return ""
	}
	var out []string
	for i, b := range bs {
		if i == maxBlockers {
			out = append(out, fmt.Sprintf("and %d more", len(bs)-i))
			break
		}
		out = append(out, b.String())
	}
	return strings.Join(out, "; ")
}

// deposed notes that a primary is closed for good and ends its clients' sessions,
// after whoever waits for that has his answer: they cannot write any more.
func (n *Node) deposed(gen uint64) {
	n.fence.disarm(gen)
	n.closed(true)
	if run := n.running(); run != nil {
		n.obs.sends.Go(func() { n.cutClients(run) })
	}
}

// sealFenced reads the position of a server that is read-only. A channel that it
// may have is sealed too.
func (n *Node) sealFenced(ctx context.Context, a *raftfsm.Answer) error {
	ctx, cancel := context.WithTimeout(ctx, sealTimeout)
	defer cancel()
	pos, err := n.md.SealReplica(ctx)
	if err != nil {
		return err
	}
	answerPosition(a, pos)
	return nil
}

// offline answers the position of a server that is down, from its binary log.
func (n *Node) offline(a *raftfsm.Answer) error {
	set, err := n.md.OfflinePosition()
	if err != nil {
		return fmt.Errorf("read the position offline: %w", err)
	}
	uuid, err := n.md.ServerUUIDOnDisk()
	if err != nil {
		return err
	}
	if uuid == "" {
		return errors.New("read the position offline: the data have no server_uuid")
	}
	a.Executed, a.Received, a.ServerUUID, a.Running = set, gtid.Set{}, uuid, false
	return nil
}
