package backup

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"ha/agent/api"
	"ha/xtra"
)

// outlet is the way to the client: throttled, and with a bound on how long the
// client may take nothing.
type outlet struct {
	ctx   context.Context
	w     http.ResponseWriter
	ctl   *http.ResponseController
	limit int64 // bytes per second; 0: none
	began time.Time
	sent  int64
}

func newOutlet(ctx context.Context, w http.ResponseWriter, limit int64) *outlet {
	return &outlet{ctx: ctx, w: w, ctl: http.NewResponseController(w), limit: limit, began: time.Now()}
}

func (o *outlet) Write(p []byte) (int, error) {
	if err := o.wait(); err != nil {
		return 0, err
	}
	if err := o.ctl.SetWriteDeadline(time.Now().Add(stall)); err != nil {
		return 0, err
	}
	n, err := o.w.Write(p)
	o.sent += int64(n)
	return n, err
}

func (o *outlet) Flush() error { return o.ctl.Flush() }

// wait sleeps until what was sent is within the limit. What was not sent in a quiet
// second is not made up for later.
func (o *outlet) wait() error {
	if o.limit <= 0 {
		return o.ctx.Err()
	}
	due := o.began.Add(time.Duration(float64(o.sent) / float64(o.limit) * float64(time.Second)))
	now := time.Now()
	if now.Sub(due) > time.Second {
		o.began, o.sent = now, 0
		return o.ctx.Err()
	}
	t := time.NewTimer(due.Sub(now))
	defer t.Stop()
	select {
	case <-o.ctx.Done():
		return o.ctx.Err()
	case <-t.C:
		return nil
	}
}

// during runs one phase and says meanwhile how it goes: so the client knows that the
// donor lives, and the donor that the client does.
func during(ctx context.Context, s *xtra.Sender, phase string, run func(ctx context.Context, report func(done, total int64)) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	now := make(chan api.BackupProgress, 1)
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, func(bytes, total int64) {
			select {
			case <-now:
			default:
			}
			now <- api.BackupProgress{Phase: phase, Done: bytes, Total: total}
		})
	}()
	at := api.BackupProgress{Phase: phase}
	tick := time.NewTicker(beat)
	defer tick.Stop()
	var lost error
	for {
		if lost == nil {
			if lost = s.Note(noteProgress, at); lost != nil {
				cancel() // and wait: what runs leaves files
			}
		}
		select {
		case err := <-done:
			if lost != nil {
				return fmt.Errorf("the client is gone: %w", lost)
			}
			return err
		case <-tick.C:
			select {
			case at = <-now:
			default:
			}
		}
	}
}
