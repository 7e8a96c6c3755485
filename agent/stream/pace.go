package stream

import (
	"context"
	"time"
)

// Pace bounds how fast something goes. Its zero value does not.
type Pace struct {
	Limit int64 // bytes per second; 0: none
	began time.Time
	done  int64
}

// Wait waits until what was counted before is within the limit, and counts n bytes.
// What was not used of a quiet second is not made up for later.
func (p *Pace) Wait(ctx context.Context, n int) error {
	if p.Limit <= 0 {
		return ctx.Err()
	}
	now := time.Now()
	due := p.began.Add(time.Duration(float64(p.done) / float64(p.Limit) * float64(time.Second)))
	if now.Sub(due) > time.Second {
		p.began, p.done = now, int64(n)
		return ctx.Err()
	}
	p.done += int64(n)
	t := time.NewTimer(due.Sub(now))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
