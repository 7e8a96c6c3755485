package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ha/mysqlctl"
	"ha/raftfsm"
)

// executor lets one order at a time touch mysqld. A newer order cancels the one
// that is being carried out and waits until that has returned: mysqlctl returns
// only when its SQL session is gone from the server.
type executor struct {
	turn     chan struct{} // holds one value while an order is being carried out
	declined raftfsm.Token // of the last gentle seal that was; whose turn it is has it

	mu     sync.Mutex
	token  raftfsm.Token // of the newest order, whose contexts are ended by cancel; none yet: what the first one ends
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// errSuperseded ends the context of an order when a newer one has come.
var errSuperseded = errors.New("a newer order has come")

// refusal is an error with a stable word.
type refusal struct {
	code string
	err  error
}

func (r refusal) Error() string { return r.err.Error() }
func (r refusal) Unwrap() error { return r.err }

func refuse(code, format string, args ...any) error {
	return refusal{code, fmt.Errorf(format, args...)}
}

// limits are the upper bounds of the operations; the caller's context is the
// other one. Those that may start mysqld have StartTimeout on top.
var limits = map[raftfsm.Op]time.Duration{
	raftfsm.OpSeal:     30 * time.Second,
	raftfsm.OpReady:    10 * time.Second,
	raftfsm.OpEvents:   10 * time.Second,
	raftfsm.OpPrepare:  time.Hour, // an applier far behind
	raftfsm.OpPromote:  10 * time.Second,
	raftfsm.OpBarrier:  10 * time.Second,
	raftfsm.OpFollow:   10 * time.Second,
	raftfsm.OpSetAcks:  5 * time.Second,
	raftfsm.OpExclude:  5 * time.Second,
	raftfsm.OpLockOut:  5 * time.Second,
	raftfsm.OpAccounts: 10 * time.Second,
	raftfsm.OpStart:    30 * time.Second,
	raftfsm.OpRebuild:  30 * time.Second,
	raftfsm.OpSwap:     time.Minute, // mysqld's clean end

	raftfsm.OpEndRebuild: 10 * time.Second,
}

var mayStart = map[raftfsm.Op]bool{
	raftfsm.OpSeal: true, raftfsm.OpPrepare: true, raftfsm.OpFollow: true, raftfsm.OpStart: true,
}

// Execute carries out an order and answers it. Its token is stored before
// anything is done (R7); the same order again is carried out again, as each is
// idempotent. It returns soon after ctx ends.
func (n *Node) Execute(ctx context.Context, o raftfsm.Order) raftfsm.Answer {
	began := time.Now()
	a := raftfsm.Answer{Token: o.Token, Op: o.Op}
	err := n.execute(ctx, o, &a)
	if err == nil {
		a.OK = true
		n.log.Info("order carried out", "op", o.Op, "token", o.Token, "took", time.Since(began).Round(time.Millisecond))
	} else {
		a.Code, a.Err = raftfsm.CodeFailed, err.Error()
		var r refusal
		if errors.As(err, &r) {
			a.Code = r.code
		}
		n.log.Debug("order failed", "op", o.Op, "token", o.Token, "code", a.Code, "err", err)
	}
	n.obs.refresh()
	n.Trigger()
	return a
}

func (n *Node) execute(ctx context.Context, o raftfsm.Order, a *raftfsm.Answer) error {
	run := n.running()
	limit, known := limits[o.Op]
	switch {
	case o.To != n.cfg.ID:
		return refuse(raftfsm.CodeFailed, "the order is for %s, this is %s", o.To, n.cfg.ID)
	case !known:
		return refuse(raftfsm.CodeFailed, "operation %q is not known to this agent", o.Op)
	case n.md == nil:
		return refuse(raftfsm.CodeFailed, "a witness has no mysqld")
	case run == nil:
		return refuse(raftfsm.CodeBusy, "the agent is starting or stopping")
	}
	if mayStart[o.Op] {
		limit += n.cfg.StartTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stopRun := context.AfterFunc(run, cancel)
	defer stopRun()

	ctx, release, err := n.admit(ctx, o)
	if err != nil {
		return err
	}
	defer release()
	n.cfg.Step("stored " + string(o.Op))
	err = n.carryOut(ctx, o, a)
	n.cfg.Step("done " + string(o.Op))
	if errors.Is(err, mysqlctl.ErrAbandoned) {
		// It may take effect at any time: the next order must not meet it.
		err = errors.Join(err, n.kill(context.WithoutCancel(ctx)))
	}
	if err != nil && errors.Is(context.Cause(ctx), errSuperseded) {
		return refuse(raftfsm.CodeStaleToken, "%w: %w", errSuperseded, err)
	}
	return err
}

// admit stores the token, ends what an older order does, and waits until that is
// gone. The context it gives ends when a newer order comes.
func (n *Node) admit(ctx context.Context, o raftfsm.Order) (context.Context, func(), error) {
	e := &n.exec
	e.mu.Lock()
	verdict, err := n.tokens.Accept(o)
	switch {
	case err != nil:
		e.mu.Unlock()
		return nil, nil, err
	case verdict == Stale:
		e.mu.Unlock()
		return nil, nil, refuse(raftfsm.CodeStaleToken, "token %s: %s was given already", o.Token, n.tokens.Now().Token)
	case e.token != o.Token:
		e.cancel(errSuperseded)
		e.token = o.Token
		e.ctx, e.cancel = context.WithCancelCause(context.Background())
	}
	newest := e.ctx
	e.mu.Unlock()

	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(newest, func() { cancel(errSuperseded) })
	done := func() {
		stop()
		cancel(nil)
	}
	if err := n.takeTurn(ctx, o.Op == raftfsm.OpSeal && verdict == Fresh); err != nil {
		done()
		return nil, nil, err
	}
	return ctx, func() {
		<-e.turn
		done()
	}, nil
}

// takeTurn waits until no order is being carried out. The one before has been
// told to end and does so within mysqlctl's grace; should it not, a new seal must
// not wait for it: SIGKILL ends whatever it waits for.
func (n *Node) takeTurn(ctx context.Context, urgent bool) error {
	var late <-chan time.Time
	if urgent {
		t := time.NewTimer(sealTimeout)
		defer t.Stop()
		late = t.C
	}
	for {
		select {
		case n.exec.turn <- struct{}{}:
			if ctx.Err() != nil { // both were ready
				<-n.exec.turn
				continue
			}
			return nil
		case <-late:
			late = nil
			n.log.Warn("an order does not end and a seal waits for it")
			_ = n.kill(ctx)
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errSuperseded) {
				return refuse(raftfsm.CodeStaleToken, "%w", errSuperseded)
			}
			return refuse(raftfsm.CodeBusy, "another order is being carried out")
		}
	}
}

// keepTidy does what is left to do when no order is being carried out. A primary: it
// takes away the replication channel of a server that is open. That is not in the
// promotion itself, where it would cost clients 30 ms. A look at the server asks for it,
// so that nothing is forgotten. A replica: it keeps its binary log short. Each MB of it
// would cost clients a millisecond of the failover to it: the other replicas acknowledge
// nothing until the server has looked through the log for their places.
func (n *Node) keepTidy(ctx context.Context) error {
	said := ""
	tick := time.NewTicker(binlogEvery)
	defer tick.Stop()
	for {
		select {
		case <-n.tidy:
			// A barrier follows a promotion at once; let it pass.
			if !sleep(ctx, tidyAfter) {
				return ctx.Err()
			}
		case <-tick.C:
			if !n.binlogIsLong() {
				continue
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		err := n.tidyUp(ctx)
		if err == nil || errors.Is(err, errSuperseded) || !n.md.Alive() {
			continue
		}
		if err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			n.log.Warn("not tidied up", "err", err)
		}
		if !sleep(ctx, refreshEvery) {
			return ctx.Err()
		}
	}
}

const (
	tidyAfter   = 500 * time.Millisecond
	binlogEvery = time.Second // a replica's is measured
	binlogLong  = 32 << 20    // bytes
	// flushTimeout is long: where the disk stalls the statement cannot be ended, and
	// mysqld would have to be killed, which goes on by itself once the disk does. An
	// order does not wait for it.
	flushTimeout = time.Minute
)

// binlogIsLong says that a replica should begin a new binary log.
func (n *Node) binlogIsLong() bool {
	if n.tokens.Now().Role != RoleReplica || !n.isUp() {
		return false
	}
	size, err := n.md.BinlogSize()
	return err == nil && size > binlogLong
}

// tidyUp does it, if the server is what it was taken for. A new order ends it.
func (n *Node) tidyUp(ctx context.Context) error {
	select {
	case n.exec.turn <- struct{}{}:
	default:
		return errSuperseded
	}
	defer func() { <-n.exec.turn }()
	n.exec.mu.Lock()
	newest := n.exec.ctx
	n.exec.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(newest, func() { cancel(errSuperseded) })()
	limited, stop := context.WithTimeout(ctx, limits[raftfsm.OpFollow])
	defer stop()
	st, err := n.md.Status(limited)
	switch {
	case err != nil:
	case n.tokens.Now().Role == RolePrimary && !st.SuperReadOnly:
		err = n.tidyPrimary(limited, st)
	case n.binlogIsLong() && st.SuperReadOnly && st.Replica != nil && st.Replica.IOState == "Yes":
		// One that does not receive may be about to be promoted.
		flushing, stop := context.WithTimeout(ctx, flushTimeout)
		defer stop()
		err = n.md.FlushBinlog(flushing)
	}
	if errors.Is(err, mysqlctl.ErrAbandoned) {
		err = errors.Join(err, n.kill(context.WithoutCancel(ctx)))
	}
	if err != nil && errors.Is(context.Cause(ctx), errSuperseded) {
		return errSuperseded
	}
	return err
}

// tidyPrimary removes what an open primary has of its time as a replica, the channel
// and the flag to acknowledge, and notes which events are off for the one after it.
func (n *Node) tidyPrimary(ctx context.Context, st mysqlctl.Status) error {
	if st.Replica != nil {
		if err := n.md.ResetReplica(ctx); err != nil {
			return err
		}
		n.log.Info("old replication channel removed")
	}
	if st.ReplicaAckWanted {
		if err := n.md.SetReplicaAck(ctx, false); err != nil {
			return err
		}
	}
	return n.md.NoteEvents(ctx) // for the server that is primary next
}
