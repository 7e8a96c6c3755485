// Package purge removes binary logs that nobody needs any more from this node's server,
// primary or replica. mysqld by itself would go by their age alone: also where a member
// that is to follow, or the archive, has not got what is in them.
package purge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
)

// CodeKept is the code word of logs that are kept though their time is over.
const CodeKept = "HA-BINLOGS-KEPT"

const (
	// Every is how often the logs are looked at.
	Every   = 10 * time.Second
	timeout = 5 * time.Second // for a round
)

// Server is the local one.
type Server interface {
	TakePurging(ctx context.Context) (after time.Duration, err error)
	Binlogs() ([]mysqlctl.Binlog, error)
	BinlogRoom() (size, free int64, err error)
	BinlogBefore(ctx context.Context, name string) (gtid.Set, error)
	PurgeTo(ctx context.Context, name string) error
}

// Config is what a Purger is made from.
type Config struct {
	Server  Server
	Holders func() []Holder
	Note    func(text string) // tells of logs that went though somebody may want them
	Every   time.Duration     // default Every
	Log     *slog.Logger
}

// Purger purges the binary logs of one server. Make it with New and run it once.
type Purger struct {
	cfg Config

	mu      sync.Mutex
	problem string
}

// New makes a purger and touches nothing.
func New(cfg Config) *Purger {
	if cfg.Every == 0 {
		cfg.Every = Every
	}
	return &Purger{cfg: cfg}
}

// Problem says why logs are kept though their time is over; "" if none are. It may be
// called at any time.
func (p *Purger) Problem() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem
}

// Run purges until ctx ends.
func (p *Purger) Run(ctx context.Context) {
	tick := time.NewTicker(p.cfg.Every)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		text := ""
		if err := p.round(ctx); err != nil {
			text = err.Error()
		}
		if text != "" && text != last { // a server that is down has a word of its own
			p.cfg.Log.Debug("binary logs not purged", "err", text)
		}
		last = text
	}
}

// round looks once, and purges what it may.
func (p *Purger) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	keep, err := p.cfg.Server.TakePurging(ctx)
	if err != nil {
		return err
	}
	files, err := p.cfg.Server.Binlogs()
	if err != nil {
		return err
	}
	f := facts{now: time.Now(), keep: keep, holders: p.cfg.Holders()}
	if f.size, f.free, err = p.cfg.Server.BinlogRoom(); err != nil {
		return err
	}
	v, err := decide(files, func(i int) (gtid.Set, error) {
		before, err := p.cfg.Server.BinlogBefore(ctx, files[i].Name)
		if err != nil {
			return before, err
		}
		all, err := p.cfg.Server.BinlogBefore(ctx, files[i+1].Name)
		return all.Minus(before), err
	}, f)
	p.tell(v.held, err)
	if v.n > 0 {
		err = errors.Join(err, p.purge(ctx, files[:v.n+1], v, f))
	}
	return err
}

func (p *Purger) tell(held string, err error) {
	if err != nil && held == "" {
		held = err.Error()
	}
	if held != "" {
		held = "binary logs are kept though their time is over: " + held
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problem = held
}

// purge removes all of the files but the last.
func (p *Purger) purge(ctx context.Context, files []mysqlctl.Binlog, v verdict, f facts) error {
	to := files[len(files)-1].Name
	if err := p.cfg.Server.PurgeTo(ctx, to); err != nil {
		return fmt.Errorf("purge binary logs before %s: %w", to, err)
	}
	left, err := p.cfg.Server.Binlogs()
	if err != nil || len(left) == 0 || left[0].Name == files[0].Name { // a replica is reading it
		return err
	}
	text := fmt.Sprintf("binary logs from %s up to before %s purged", files[0].Name, left[0].Name)
	if v.early {
		text += fmt.Sprintf(" early: only %d MB were free on their disk", f.free>>20)
	}
	if len(v.lack) > 0 {
		text += "; what was in them is missing on " + strings.Join(v.lack, ", ")
	}
	p.cfg.Log.Info("purged", "what", text)
	if v.early || len(v.lack) > 0 {
		p.cfg.Note(text)
	}
	return nil
}
