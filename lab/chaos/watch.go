package main

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"time"

	"ha/lab"
)

const (
	watchEvery = 20 * time.Millisecond
	// watchBound is what a look may take: a server that is stopped answers nothing.
	watchBound = 200 * time.Millisecond
)

// watch looks at every host again and again, for the report: who is writable, who
// has the VIP. Nothing is judged by it: looks at two hosts are never at one time.
type watch struct {
	done sync.WaitGroup

	mu    sync.Mutex
	hosts map[string]look
	seen  seen
}

type look struct {
	at             time.Time
	writable, held bool
}

// seen counts what was seen since the last mark.
type seen struct {
	looks, twoWritable, twoHolders int
}

func (w *watch) start(ctx context.Context, l *lab.Lab) error {
	w.hosts = make(map[string]look)
	for _, h := range l.Hosts {
		if h.Witness {
			continue
		}
		db, err := l.Root(h.Name)
		if err != nil {
			return err
		}
		db.SetMaxOpenConns(1)
		w.done.Go(func() {
			defer db.Close()
			for ctx.Err() == nil {
				w.note(h.Name, one(ctx, db, h))
				pause(ctx, watchEvery)
			}
		})
	}
	return nil
}

func one(ctx context.Context, db *sql.DB, h *lab.Host) look {
	ctx, cancel := context.WithTimeout(ctx, watchBound)
	defer cancel()
	var ro bool
	l := look{}
	if h.Running() {
		l.writable = db.QueryRowContext(ctx, "SELECT @@global.super_read_only").Scan(&ro) == nil && !ro
		if has, err := h.Addresses(); err == nil {
			l.held = slices.Contains(has, lab.VIP)
		}
	}
	l.at = time.Now()
	return l
}

func (w *watch) note(name string, l look) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[name] = l
	w.seen.looks++
	writable, holders := 0, 0
	for _, o := range w.hosts {
		if l.at.Sub(o.at) > 2*watchEvery {
			continue // too old to be compared
		}
		if o.writable {
			writable++
		}
		if o.held {
			holders++
		}
	}
	if writable > 1 {
		w.seen.twoWritable++
	}
	if holders > 1 {
		w.seen.twoHolders++
	}
}

// since tells what was seen since it was asked last.
func (w *watch) since() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.seen
	w.seen = seen{}
	return fmt.Sprintf("of %d looks %d saw two writable, %d two with the VIP", s.looks, s.twoWritable, s.twoHolders)
}
