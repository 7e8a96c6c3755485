package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"ha/mysqlctl"
	"ha/raftfsm"
)

const (
	// freshLook is what the look for the report after an opening may take.
	freshLook = 200 * time.Millisecond
	// drainPatience is how long clients of a candidate may hold up its applier;
	// drainAgain is when those are ended that came after.
	drainPatience = time.Second
	drainAgain    = 3 * time.Second
)

// carryOut is one order, its token stored and its turn come.
func (n *Node) carryOut(ctx context.Context, o raftfsm.Order, a *raftfsm.Answer) error {
	switch o.Op {
	case raftfsm.OpSeal:
		return n.seal(ctx, o, a)
	case raftfsm.OpPrepare:
		return n.prepare(ctx, a)
	case raftfsm.OpPromote:
		return n.promote(ctx, o, a)
	case raftfsm.OpBarrier:
		return n.barrier(ctx, o)
	case raftfsm.OpFollow:
		return n.follow(ctx, o)
	case raftfsm.OpSetAcks:
		return n.setAcks(ctx, o)
	case raftfsm.OpExclude:
		return n.md.SetReplicaAck(ctx, false)
	case raftfsm.OpLockOut:
		if err := n.md.LockAccount(ctx, o.Account, true); err != nil {
			return err
		}
		return n.md.KillDump(ctx, o.UUID, o.Account)
	case raftfsm.OpAccounts:
		return n.accounts(ctx, o)
	case raftfsm.OpReady:
		return n.ready(ctx, o)
	case raftfsm.OpEvents:
		return n.md.EnableEvents(ctx)
	case raftfsm.OpStart:
		return n.startFormer(ctx, o, a)
	case raftfsm.OpRebuild:
		return n.beginRebuild(o)
	case raftfsm.OpSwap:
		return n.swap(ctx, o)
	case raftfsm.OpEndRebuild:
		return n.endRebuild(ctx, o)
	}
	return refuse(raftfsm.CodeFailed, "operation %q is not known to this agent", o.Op)
}

// prepare makes the candidate apply all that it received.
func (n *Node) prepare(ctx context.Context, a *raftfsm.Answer) error {
	if err := n.ensureUp(ctx); err != nil {
		return err
	}
	stop := n.endBlockers(ctx)
	executed, err := n.md.Drain(ctx)
	stop()
	if err != nil {
		if errors.Is(err, mysqlctl.ErrApplier) {
			a.ApplierError = err.Error()
		}
		return err
	}
	st, err := n.md.Status(ctx)
	if err != nil {
		return err
	}
	a.Executed, a.Received, a.ServerUUID, a.Running = executed, st.Received, st.ServerUUID, true
	return nil
}

// endBlockers ends the clients' sessions, again and again, where the applier takes
// long: a LOCK TABLES or a transaction that somebody forgot may hold it up for ever,
// and the cluster has no primary meanwhile.
func (n *Node) endBlockers(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for wait := drainPatience; sleep(ctx, wait); wait = drainAgain {
			n.log.Warn("the applier takes long: ending the clients' sessions, which may hold it up")
			n.cutClients(ctx)
		}
	}()
	return func() { cancel(); <-done }
}

// promote opens the server for writes. Read-only off is the last step, and is
// not taken without a lease for the order's epoch that was asked for after the
// order had come (R8).
func (n *Node) promote(ctx context.Context, o raftfsm.Order, a *raftfsm.Answer) error {
	if !n.isUp() {
		return refuse(raftfsm.CodeFailed, "mysqld is not running")
	}
	// Both at once: clients wait.
	group, both := errgroup.WithContext(ctx)
	group.Go(func() error { return n.requestGrant(both, o.Token.Epoch) })
	group.Go(func() error { return n.md.ConfigureSource(both, o.K) })
	if err := group.Wait(); err != nil {
		return err
	}
	n.obs.countAnew(n.clock.Boottime())
	if err := n.openWrites(ctx, o.Token.Epoch); err != nil {
		return err
	}
	n.tell(ctx)
	pos, err := n.md.Position(ctx)
	if err != nil {
		return err
	}
	answerPosition(a, pos)
	return nil
}

// tell has the coordinator know what this server has executed before it hears that the
// server is open: whoever has rows that an earlier look had not seen would be errant.
func (n *Node) tell(ctx context.Context) {
	wait := time.NewTimer(freshLook)
	defer wait.Stop()
	select {
	case <-n.obs.look():
	case <-wait.C:
	case <-ctx.Done():
		return
	}
	r, at := n.report()
	_, _ = n.send(ctx, r, at) // else the next report does
}

// requestGrant asks for the lease of an epoch, without waiting for a look at mysqld,
// and notes it.
func (n *Node) requestGrant(ctx context.Context, epoch uint64) error {
	r, at := n.report()
	r.GrantOnly = true
	g, err := n.send(ctx, r, at)
	switch {
	case err != nil:
		return refuse(raftfsm.CodeNoGrant, "ask for a lease: %w", err)
	case g.Primary != n.cfg.ID || g.Epoch != epoch || g.Lease <= 0:
		return refuse(raftfsm.CodeNoGrant, "no lease for epoch %d: the coordinator answered epoch %d, primary %q, lease %s", epoch, g.Epoch, g.Primary, g.Lease)
	case n.lease.held() != epoch:
		return refuse(raftfsm.CodeNoGrant, "the lease for epoch %d was over when it came", epoch)
	}
	return nil
}

// openWrites is the last step. The fence watches from before it, and whatever
// goes wrong after its statement was sent closes the server again.
func (n *Node) openWrites(ctx context.Context, epoch uint64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if n.lease.held() != epoch { // what came before took too long, or this agent was stopped
		return refuse(raftfsm.CodeNoGrant, "the lease for epoch %d was over before the server was opened", epoch)
	}
	n.fence.arm()
	err := n.md.OpenWrites(ctx)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && n.lease.held() != epoch { // this agent was stopped in between
		err = refuse(raftfsm.CodeNoGrant, "the lease for epoch %d ended while the server was being opened", epoch)
	}
	if err != nil {
		n.fence.arm() // a fence that came before the statement has disarmed it
		n.fenceNow(context.WithoutCancel(ctx))
		return err
	}
	n.opened(n.lease.get())
	n.log.Info("open for writes", "epoch", epoch)
	return nil
}

// barrier commits one row, and proves with its OK that the attached ackers hold
// all before it. So only the allowed ones may be attached, before and after.
func (n *Node) barrier(ctx context.Context, o raftfsm.Order) error {
	st, err := n.md.Status(ctx)
	if err != nil {
		return err
	}
	strays := strays(&st, o.Allowed)
	for _, uuid := range strays {
		n.log.Warn("ending the connection of a replica that acknowledges and is not in the ack set", "server_uuid", uuid)
		if err := n.md.KillDump(ctx, uuid, ""); err != nil {
			return refuse(raftfsm.CodeStray, "%s is attached and cannot be ended: %w", uuid, err)
		}
	}
	if len(strays) > 0 {
		if err := n.noStrays(ctx, o.Allowed); err != nil {
			return err
		}
	}
	if err := n.md.EnsureSchema(ctx, n.cfg.Cluster()); err != nil {
		return err
	}
	if err := n.md.Barrier(ctx, o.Token.Epoch, o.Token.Index); err != nil {
		return err
	}
	// One that was being committed when the source was told to wait is counted as let
	// go when it is done, with no ack (tried on 9.7.4). All of those are done now, and
	// whoever acknowledged the barrier has them.
	if err := n.noStrays(ctx, o.Allowed); err != nil {
		return err
	}
	n.obs.countAnew(n.clock.Boottime())
	return nil
}

// noStrays sees that those who can have acknowledged are the allowed ones, and that
// the server waits for them: where MySQL switched semi-sync off by itself a row that
// was committed is perhaps nowhere else.
func (n *Node) noStrays(ctx context.Context, allowed []string) error {
	st, err := n.md.Status(ctx)
	switch strays := strays(&st, allowed); {
	case err != nil:
		return err
	case len(strays) > 0:
		return refuse(raftfsm.CodeStray, "attached and not in the ack set: %v", strays)
	case st.Source.Enabled && !st.Source.On:
		return refuse(raftfsm.CodeFailed, "semi-sync is off, though it is enabled: the server let commits go by itself")
	}
	return nil
}

// strays are the attached semi-sync replicas that may not acknowledge.
func strays(st *mysqlctl.Status, allowed []string) []string {
	acking, _ := dumps(st)
	return slices.DeleteFunc(acking, func(uuid string) bool { return slices.Contains(allowed, uuid) })
}

// follow makes the node a replica of the source.
func (n *Node) follow(ctx context.Context, o raftfsm.Order) error {
	if o.Source == nil {
		return refuse(raftfsm.CodeFailed, "the order names no source")
	}
	if n.tokens.Now().Role == RolePrimary && !n.isUp() {
		// To start it would make its last rows its own, which may be cut off before (R9).
		return refuse(raftfsm.CodeFailed, "mysqld of a former primary is down: it is started by an order of its own")
	}
	if err := n.ensureUp(ctx); err != nil {
		return err
	}
	if n.reigned() {
		if err := n.depose(ctx); err != nil {
			return err
		}
	}
	if o.Discard {
		if err := n.md.DiscardReceived(ctx); err != nil {
			return err
		}
	}
	src := mysqlctl.Source{Host: o.Source.Host, Port: o.Source.Port, User: o.Source.User, Password: o.Source.Password}
	if err := n.md.Follow(ctx, src, o.Ack); err != nil {
		return err
	}
	return n.tokens.SetRole(o.Token, RoleReplica)
}

// depose closes a server that was a primary, before it follows another. If it
// cannot be closed it is killed, and stays down: its waiting commits are rows
// that nobody else has, and what becomes of them is not decided here.
func (n *Node) depose(ctx context.Context) error {
	gen := n.fence.armed()
	limited, cancel := context.WithTimeout(ctx, closeTimeout)
	err := n.md.Fence(limited)
	cancel()
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		n.log.Warn("former primary does not become read-only: killing it", "why", err)
		if killed := n.kill(ctx); killed != nil {
			return errors.Join(err, killed)
		}
		n.fence.disarm(gen)
		n.closed(false)
		return fmt.Errorf("killed, as it could not be made read-only: %w", err)
	}
	n.fence.disarm(gen)
	n.closed(false)
	n.cutClients(ctx)
	return nil
}

// setAcks changes how many acks commits wait for. Fewer let waiting commits go:
// only on a primary that reigns for sure.
func (n *Node) setAcks(ctx context.Context, o raftfsm.Order) error {
	if s := n.tokens.Now(); s.Role != RolePrimary || s.Reign != o.Token.Epoch {
		return refuse(raftfsm.CodeFailed, "not the primary of epoch %d", o.Token.Epoch)
	}
	if n.lease.held() != o.Token.Epoch {
		if err := n.requestGrant(ctx, o.Token.Epoch); err != nil {
			return err
		}
	}
	if err := n.md.ConfigureSource(ctx, o.K); err != nil {
		return err
	}
	n.obs.countAnew(n.clock.Boottime())
	return nil
}

// accounts makes the replication accounts and takes the locks off.
func (n *Node) accounts(ctx context.Context, o raftfsm.Order) error {
	for _, acc := range o.Accounts {
		if err := n.md.EnsureReplicationAccount(ctx, acc.User, acc.Password); err != nil {
			return err
		}
		if err := n.md.LockAccount(ctx, acc.User, false); err != nil {
			return err
		}
	}
	return nil
}

// ready prepares a replica for a switchover to it, while its primary serves still.
// In a new binary log the others find their places at once.
func (n *Node) ready(ctx context.Context, o raftfsm.Order) error {
	if _, err := n.md.WaitExecuted(ctx, o.Await); err != nil {
		return err
	}
	return n.md.FlushBinlog(ctx)
}

// startFormer starts the mysqld of a former primary. Its last transactions are
// recovered then; from now on the agent may start it again by itself.
func (n *Node) startFormer(ctx context.Context, o raftfsm.Order, a *raftfsm.Answer) error {
	if o.Cut {
		if err := n.cut(ctx, o); err != nil {
			return err
		}
	}
	if err := n.ensureUp(ctx); err != nil {
		return err
	}
	st, err := n.md.Status(ctx)
	if err != nil {
		return err
	}
	a.Executed, a.Received, a.ServerUUID, a.Running = st.Executed, st.Received, st.ServerUUID, true
	if s := n.tokens.Now(); s.Role == RolePrimary && (s.Reign >= o.Token.Epoch || !st.SuperReadOnly) {
		return nil // it reigns, or is open still: that does not end here
	}
	return n.tokens.SetRole(o.Token, RoleNone)
}

// cut removes the transactions that were never acknowledged from the binary log of
// a former primary that is down (R9). Where that must not be, the server is started
// as it is: what it then has too much is seen by comparing.
func (n *Node) cut(ctx context.Context, o raftfsm.Order) error {
	if err := n.hold(ctx); err != nil { // nobody starts it meanwhile
		return err
	}
	defer n.release()
	if s := n.tokens.Now(); n.md.Alive() || s.Role != RolePrimary || s.Reign >= o.Token.Epoch {
		return nil
	}
	done, err := n.md.CutTail(ctx, o.Keep)
	switch {
	case errors.Is(err, mysqlctl.ErrNoCut):
		n.log.Warn("the tail of the binary log stays", "why", err)
		return nil
	case err != nil:
		return err
	case done.Transactions > 0:
		n.log.Info("unacknowledged transactions cut off", "gtid", done.Removed, "transactions", done.Transactions, "copy", done.Copy)
	}
	return nil
}
