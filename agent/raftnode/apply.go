package raftnode

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/hashicorp/raft"
)

// Apply has the group commit cmd and returns its index and what the FSM answered. Errors are
// [ErrNotLeader] and [ErrOutcomeUnknown]; the context's deadline bounds the wait.
func (n *Node) Apply(ctx context.Context, cmd []byte) (index uint64, resp any, err error) {
	f, err := wait(ctx, n.stop, func() raft.ApplyFuture { return n.raft.Apply(cmd, enqueueTimeout(ctx)) })
	n.watchTransfer(err)
	switch {
	case err == nil:
		return f.Index(), f.Response(), nil
	case errors.Is(err, ErrNotLeader), errors.Is(err, ErrOutcomeUnknown):
		return 0, nil, err
	default: // the store did not take it, but may have written it
		return 0, nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
}

// Barrier returns when the FSM has seen everything that was committed before. Call it once after
// winning leadership. Errors as for [Node.Apply].
func (n *Node) Barrier(ctx context.Context) error {
	_, err := wait(ctx, n.stop, func() raft.Future { return n.raft.Barrier(enqueueTimeout(ctx)) })
	n.watchTransfer(err)
	return err
}

// VerifyLeader asks a majority whether this node still leads. [ErrNotLeader] says that it does not,
// [ErrOutcomeUnknown] that they did not answer in time.
func (n *Node) VerifyLeader(ctx context.Context) error {
	_, err := wait(ctx, n.stop, n.raft.VerifyLeader)
	if errors.Is(err, raft.ErrLeadershipLost) {
		return fmt.Errorf("%w: %w", ErrNotLeader, raft.ErrLeadershipLost)
	}
	return err
}

// enqueueTimeout is how long Raft may take to begin, for calls that want it as a duration. Zero would
// mean for ever.
func enqueueTimeout(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(deadline), time.Millisecond)
}

// wait starts something in Raft and waits for it, but not beyond ctx: Raft's own waits have no end, and
// even starting can block when its main loop stands still. What has been started is given up when
// stopped is closed.
func wait[F raft.Future](ctx context.Context, stopped chan struct{}, start func() F) (F, error) {
	type result struct {
		f   F
		err error
	}
	done := make(chan result, 1)
	go func() {
		f := start()
		endWith(f, stopped)
		done <- result{f, f.Error()}
	}()
	select {
	case r := <-done:
		return r.f, classify(r.err)
	case <-ctx.Done():
		var none F
		return none, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	}
}

// endWith has the future's Error return once stopped is closed. Raft that shuts down forgets the futures
// that are in its queues (hashicorp/raft issue 498); what it has against that, a channel in each future,
// it sets in few of them, and nothing but reflection reaches it from here.
func endWith(f raft.Future, stopped chan struct{}) {
	v := reflect.Indirect(reflect.ValueOf(f))
	if v.Kind() != reflect.Struct {
		return
	}
	if ch := v.FieldByName("ShutdownCh"); ch.CanSet() {
		ch.Set(reflect.ValueOf(stopped))
	}
}

func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader):
		return ErrNotLeader
	case errors.Is(err, raft.ErrLeadershipLost),
		errors.Is(err, raft.ErrEnqueueTimeout),
		errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrAbortedByRestore),
		errors.Is(err, raft.ErrRaftShutdown):
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	default:
		return err
	}
}
