package stream

import (
	"context"
	"net/http"
	"time"
)

// Outlet is the way to the client: throttled, and with a bound on how long the
// client may take nothing (Stall).
type Outlet struct {
	ctx  context.Context
	w    http.ResponseWriter
	ctl  *http.ResponseController
	pace Pace
}

// NewOutlet is that of one answer. limit is in bytes per second; 0: none. After it
// the connection serves no other request.
func NewOutlet(ctx context.Context, w http.ResponseWriter, limit int64) *Outlet {
	w.Header().Set("Connection", "close") // the deadlines of its writes are not the next request's
	return &Outlet{ctx: ctx, w: w, ctl: http.NewResponseController(w), pace: Pace{Limit: limit}}
}

func (o *Outlet) Write(p []byte) (int, error) {
	if err := o.pace.Wait(o.ctx, len(p)); err != nil {
		return 0, err
	}
	if err := o.ctl.SetWriteDeadline(time.Now().Add(Stall)); err != nil {
		return 0, err
	}
	return o.w.Write(p)
}

// Flush sends what was written on its way.
func (o *Outlet) Flush() error { return o.ctl.Flush() }
