package raftnode

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// Apply has the group commit cmd and returns its index and what the FSM answered. Errors are
// [ErrNotLeader] and [ErrOutcomeUnknown]; the context's deadline bounds the wait.
func (n *Node) Apply(ctx context.Context, cmd []byte) (index uint64, resp any, err error) {
	f, err := wait(ctx, func() raft.ApplyFuture { return n.raft.Apply(cmd, enqueueTimeout(ctx)) })
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
	_, err := wait(ctx, func() raft.Future { return n.raft.Barrier(enqueueTimeout(ctx)) })
	n.watchTransfer(err)
	return err
}

// VerifyLeader asks a majority whether this node still leads. [ErrNotLeader] says that it does not,
// [ErrOutcomeUnknown] that they did not answer in time.
func (n *Node) VerifyLeader(ctx context.Context) error {
	_, err := wait(ctx, n.raft.VerifyLeader)
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
// even starting can block when its main loop stands still.
func wait[F raft.Future](ctx context.Context, start func() F) (F, error) {
	type result struct {
		f   F
		err error
	}
	done := make(chan result, 1)
	go func() {
		f := start()
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
