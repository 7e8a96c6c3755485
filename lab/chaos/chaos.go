package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"ha/bench/load"
	"ha/lab"
)

const (
	// wellBound is how long a cluster may need to be well when nothing is wrong any
	// more: a copy anew is in that, where a tail cannot be cut.
	wellBound = 90 * time.Second
	// writeBound is how long after that clients may need to find the virtual IP.
	writeBound = 20 * time.Second
	// answerBound is what a client of a hot row waits for an answer.
	answerBound = 4 * time.Second
)

// chaos is one cluster, its clients and what they were told.
type chaos struct {
	layout layout
	lab    *lab.Lab
	scene  *lab.Scene
	rand   *rand.Rand
	seed   uint64
	dir    string
	kept   bool // dir is the caller's

	history history
	hot     []*sql.DB
	watch   watch
	clients sync.WaitGroup
	stop    context.CancelFunc

	outages []outage
	strikes int
	rows    int
}

func newChaos(ctx context.Context, l layout, seed uint64, mysqld, keep string) (*chaos, error) {
	c := &chaos{layout: l, seed: seed, rand: rand.New(rand.NewPCG(seed, 2)), dir: keep, kept: keep != "", stop: func() {}}
	var err error
	if c.dir == "" {
		if c.dir, err = lab.Scratch(); err != nil {
			return nil, err
		}
	}
	c.lab, err = lab.Up(ctx, lab.Options{Hosts: l.data, Witnesses: l.witnesses, Clients: 2, Dir: c.dir, Mysqld: mysqld})
	if err != nil {
		return c, err
	}
	return c, c.begin(ctx)
}

// begin starts the clients: the scene's, and those of the hot rows.
func (c *chaos) begin(ctx context.Context) (err error) {
	if c.scene, err = c.lab.NewScene(ctx); err != nil {
		return err
	}
	db, err := c.fighters()
	if err != nil {
		return err
	}
	if err := createHot(ctx, db); err != nil {
		return err
	}
	ctx, c.stop = context.WithCancel(ctx)
	c.history.began = time.Now()
	for i, db := range c.hot {
		c.clients.Go(func() { c.history.fight(ctx, i, db) })
	}
	return c.watch.start(ctx, c.lab)
}

// fighters connects the clients of the hot rows: from every client through the
// virtual IP, and to every host: whoever is cut off with a deposed primary talks to
// that one. It gives the first that goes through the virtual IP.
func (c *chaos) fighters() (*sql.DB, error) {
	to := []string{lab.VIP}
	for _, h := range c.lab.Hosts {
		if !h.Witness {
			to = append(to, h.Addr)
		}
	}
	for _, addr := range to {
		for _, client := range c.lab.Clients {
			db, err := sql.Open("mysql", c.lab.DSN(client.Name, addr, answerBound))
			if err != nil {
				return nil, err
			}
			db.SetMaxOpenConns(1)
			c.hot = append(c.hot, db)
		}
	}
	return c.hot[0], nil
}

// quiet judges what the clients of the hot rows were told since it was called last.
// The cluster is well: the primary knows what there is.
func (c *chaos) quiet(ctx context.Context, primary string) error {
	db, err := sql.Open("mysql", c.lab.LocalDSN(primary))
	if err != nil {
		return err
	}
	defer db.Close()
	return c.history.cut(func() ([]int64, error) { return readHot(ctx, db) })
}

// play strikes until the time is over, and judges then what only the whole shows.
func (c *chaos) play(ctx context.Context, total time.Duration) error {
	end := time.Now().Add(total)
	next := sequence(c.seed)
	for time.Now().Before(end) && ctx.Err() == nil {
		if err := c.round(ctx, next()); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.stop()
	c.clients.Wait()
	st, err := c.lab.AwaitHealthy(ctx, wellBound)
	if err != nil {
		return err
	}
	return c.quiet(ctx, st.Primary)
}

// round strikes once, puts all right and looks whether all holds.
func (c *chaos) round(ctx context.Context, s strike) error {
	st, err := c.lab.AwaitHealthy(ctx, wellBound)
	if err != nil {
		return err
	}
	t, err := c.aim(st)
	if err != nil {
		return err
	}
	if err := c.written(ctx); err != nil { // else an outage would have no beginning
		return err
	}
	c.strikes++
	c.watch.since()
	began := time.Now()
	undo, err := c.strike(ctx, s, t)
	struck := time.Since(began)
	if err = errors.Join(err, undo()); err != nil {
		return fmt.Errorf("%s: %w", s.name(), err)
	}
	_, err = c.lab.AwaitHealthy(ctx, wellBound) // with the load on
	gerr := c.written(ctx)                      // what has not ended would not be counted
	gap := load.Gap(c.viaVIP(), began, time.Now())
	v, verr := c.scene.Check(ctx, wellBound)
	err = errors.Join(err, gerr, verr)
	if err == nil {
		err = c.quiet(ctx, v.Status.Primary)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.name(), err)
	}
	c.outages = append(c.outages, outage{s, gap})
	c.rows += v.Rows.Acked
	fmt.Printf("%3d %-80s %5.1f s, %s → %s, VIP out for %s; %s; %s\n", c.strikes, s.name(), struck.Seconds(), st.Primary, v.Status.Primary,
		gap.Round(time.Millisecond), v.Rows, c.watch.since())
	if err := c.scene.Forget(ctx); err != nil {
		return err
	}
	return c.scene.Resume(ctx)
}

// viaVIP is what clients of the virtual IP were told.
func (c *chaos) viaVIP() []load.Ack {
	return c.scene.Acks(func(server string) bool { return !c.scene.Direct(server) })
}

// written waits until clients of the virtual IP write.
func (c *chaos) written(ctx context.Context) error {
	from := time.Now()
	return lab.Eventually(writeBound, func() error {
		acks := c.viaVIP()
		switch {
		case len(acks) > 0 && acks[len(acks)-1].At.After(from):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		return errors.New("nobody writes through the virtual IP, though all is well")
	})
}

// strike begins a blow, or two, and gives what ends them after their time.
func (c *chaos) strike(ctx context.Context, s strike, t targets) (undo func() error, err error) {
	first, err := s.first.do(ctx, c, t)
	if s.second == nil || err != nil {
		pause(ctx, s.lasts)
		return first, err
	}
	pause(ctx, s.after)
	second, impossible := s.second.do(ctx, c, t)
	if impossible != nil { // the first left it nothing: a host is off, a disk takes no file
		fmt.Printf("    %s was not possible: %v\n", s.second.name, impossible)
	}
	pause(ctx, max(s.lasts-s.after, s.secondLasts))
	return func() error {
		err := second()
		if impossible != nil {
			err = nil
		}
		return errors.Join(err, first(), c.heal())
	}, nil
}

// heal is for two blows that ended each other's half way.
func (c *chaos) heal() error {
	var errs []error
	for _, h := range c.lab.Hosts {
		if !h.Running() {
			errs = append(errs, h.On())
		}
		if !h.Witness {
			_ = h.Free(lab.MySQLDisk)
		}
	}
	return errors.Join(append(errs, c.lab.Heal())...)
}

// switchover asks for one, which may be refused.
func (c *chaos) switchover(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	on := c.lab.Hosts[c.rand.IntN(len(c.lab.Hosts))]
	_ = exec.CommandContext(ctx, "sh", "-c", on.Enter()+" -c 'ha switchover'").Run()
}

func (c *chaos) end(failed bool) {
	c.stop()
	c.clients.Wait()
	c.watch.done.Wait()
	for _, db := range c.hot {
		db.Close()
	}
	if c.scene != nil {
		c.scene.Stop()
	}
	if c.lab != nil {
		if failed {
			c.keepLogs()
		}
		c.lab.Down()
	}
	switch {
	case failed:
		lab.Keep(c.dir)
		fmt.Printf("logs and binary logs are in %s\n", c.dir)
	case !c.kept:
		_ = os.RemoveAll(c.dir)
	}
}

// keepLogs copies what mysqld wrote beside what the agents said.
func (c *chaos) keepLogs() {
	for _, h := range c.lab.Hosts {
		for _, pattern := range []string{"mysqld.log", "data/binlog.*", "data/*relay*", "data/token", "data/ha.*"} {
			files, _ := filepath.Glob(h.Path(filepath.Join(lab.MySQLDisk, pattern)))
			for _, f := range files {
				if text, err := os.ReadFile(f); err == nil {
					_ = os.WriteFile(filepath.Join(c.dir, h.Name+"."+filepath.Base(f)), text, 0o600)
				}
			}
		}
	}
}
