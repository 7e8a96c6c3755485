package node

import (
	"context"
	"fmt"
	"time"

	"ha/mysqlctl"
	"ha/raftfsm"
	"ha/xtra"
)

// streamer gives what copies with a tool. The node's own mysqld has no part in it, be
// it up or not. What it has made can be opened and names its transactions, like what
// CLONE makes: all that comes after is the same.
func (n *Node) streamer(ctx context.Context, o raftfsm.Order) (xtra.CloneFunc, func(), error) {
	cleanUp := func() {}
	if o.InPlace {
		if err := n.hold(ctx); err != nil {
			return nil, nil, err
		}
		if err := n.empty(ctx, o); err != nil {
			n.release()
			return nil, nil, err
		}
		cleanUp = n.release
	}
	return func(ctx context.Context, dir string, _ xtra.Progress) error {
		n.phase(raftfsm.CopyRunning)
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		watch := n.newCopyWatch(cancel)
		err := n.cfg.Stream(ctx, o, dir, func(p mysqlctl.CloneProgress) {
			if p.Stage == phaseVerify { // all has come, whatever the donor does now
				n.phase(phaseVerify)
				return
			}
			watch.progress(p)
		})
		if ctx.Err() != nil && err != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		n.phase(phaseVerify)
		return err
	}, cleanUp, nil
}

// copyWatch follows one copy: how fast it is, whether anything comes, whether it fits.
type copyWatch struct {
	n      *Node
	cancel context.CancelCauseFunc
	told   time.Duration // of the last report
	moved  time.Duration // when something last came
	at     time.Duration // of the last rate
	bytes  int64         // then
	last   mysqlctl.CloneProgress
}

func (n *Node) newCopyWatch(cancel context.CancelCauseFunc) *copyWatch {
	now := n.clock.Boottime()
	return &copyWatch{n: n, cancel: cancel, told: now, moved: now, at: now}
}

func (w *copyWatch) progress(p mysqlctl.CloneProgress) {
	now := w.n.clock.Boottime()
	if p.Stage != w.last.Stage || p.Done != w.last.Done || p.Network != w.last.Network {
		w.moved = now
	}
	w.last = p
	first := w.bytes == 0
	var rate int64 = -1
	if d := now - w.at; d >= progressEvery || first {
		if d > 0 {
			rate = int64(float64(p.Done-w.bytes) / d.Seconds())
		}
		w.at, w.bytes = now, p.Done
	}
	w.n.copy.change(func(r *raftfsm.RebuildReport) {
		r.Bytes, r.Total = p.Done, p.Estimate
		switch {
		case rate >= 0 && r.Rate > 0:
			r.Rate = (r.Rate + rate) / 2
		case rate > 0:
			r.Rate = rate
		}
	})
	if now-w.told <= progressEvery && !first {
		return
	}
	w.told = now
	w.n.Trigger()
	free, err := w.n.place.Free()
	switch {
	case now-w.moved > copyStall:
		w.cancel(fmt.Errorf("nothing has come from the donor for %s", copyStall))
	case err == nil && free < copySpare+max(p.Estimate-p.Done, 0) && (first || free < copySpare):
		w.cancel(fmt.Errorf("the copy does not fit: %d MB are free, and %d MB of it are to come", free>>20, (p.Estimate-p.Done)>>20))
	}
}
