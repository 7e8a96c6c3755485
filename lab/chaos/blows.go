package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/api"
	"ha/lab"
)

// blow is something that goes wrong. do begins it and gives what ends it; that may be
// called after the host was switched off and on.
type blow struct {
	name  string
	lasts [2]time.Duration // at least and at most
	do    func(ctx context.Context, c *chaos, t targets) (undo func() error, err error)
}

// targets are who is meant, as it was when the blow fell.
type targets struct {
	primary, replica, coordinator *lab.Host
	others                        []*lab.Host // all but the primary
}

func nothing() error { return nil }

var (
	short = [2]time.Duration{500 * time.Millisecond, 2 * time.Second}
	while = [2]time.Duration{3 * time.Second, 9 * time.Second}
)

// kill strikes once.
func kill(kind string, whom func(targets) *lab.Host) func(context.Context, *chaos, targets) (func() error, error) {
	return func(_ context.Context, _ *chaos, t targets) (func() error, error) {
		whom(t).Signal(kind, unix.SIGKILL)
		return nothing, nil
	}
}

// stop stops processes for a while.
func stop(kind string, whom func(targets) *lab.Host) func(context.Context, *chaos, targets) (func() error, error) {
	return func(_ context.Context, _ *chaos, t targets) (func() error, error) {
		h := whom(t)
		h.Signal(kind, unix.SIGSTOP)
		return func() error { h.Signal(kind, unix.SIGCONT); return nil }, nil
	}
}

// off takes the power away.
func off(whom func(targets) *lab.Host) func(context.Context, *chaos, targets) (func() error, error) {
	return func(_ context.Context, _ *chaos, t targets) (func() error, error) {
		h := whom(t)
		return h.On, h.PowerOff()
	}
}

// lose loses packets. What ends it makes the whole network well.
func lose(losses func(targets) []lab.Loss) func(context.Context, *chaos, targets) (func() error, error) {
	return func(_ context.Context, c *chaos, t targets) (func() error, error) {
		return c.lab.Heal, c.lab.Lose(losses(t)...)
	}
}

func primary(t targets) *lab.Host     { return t.primary }
func replica(t targets) *lab.Host     { return t.replica }
func coordinator(t targets) *lab.Host { return t.coordinator }

// onDisk is what the names of blows to a disk begin with.
const onDisk = "disk of the primary"

// blows are all that chaos knows.
var blows = []blow{
	{"mysqld of the primary killed", short, kill(lab.Mysqld, primary)},
	{"mysqld of a replica killed", short, kill(lab.Mysqld, replica)},
	{"agent of the primary killed", short, kill(lab.Agent, primary)},
	{"agent of the coordinator killed", short, kill(lab.Agent, coordinator)},
	{"agent of the primary killed for good", while, func(_ context.Context, _ *chaos, t targets) (func() error, error) {
		err := t.primary.HoldAgent()
		t.primary.Signal(lab.Agent, unix.SIGKILL)
		return t.primary.StartAgent, err
	}},
	{"agent of the primary stopped", while, stop(lab.Agent, primary)},
	{"agent of a replica stopped", while, stop(lab.Agent, replica)},
	{"mysqld of the primary stopped", while, stop(lab.Mysqld, primary)},
	{"mysqld of a replica stopped", while, stop(lab.Mysqld, replica)},
	{"host of the primary without power", while, off(primary)},
	{"host of a replica without power", while, off(replica)},
	{"primary cut off", while, func(_ context.Context, c *chaos, t targets) (func() error, error) {
		return c.lab.Heal, c.lab.Isolate(t.primary.Name)
	}},
	{"primary cut off with a client", while, func(_ context.Context, c *chaos, t targets) (func() error, error) {
		return c.lab.Heal, c.lab.Split([]string{t.primary.Name, c.lab.Clients[1].Name})
	}},
	{"replica cut off", while, func(_ context.Context, c *chaos, t targets) (func() error, error) {
		return c.lab.Heal, c.lab.Isolate(t.replica.Name)
	}},
	{"nothing reaches the primary", while, lose(func(t targets) []lab.Loss { return []lab.Loss{{To: t.primary.Name}} })},
	{"nothing of the primary reaches the others", while, lose(func(t targets) []lab.Loss { return []lab.Loss{{From: t.primary.Name}} })},
	{"replication ports cut", while, lose(func(t targets) (out []lab.Loss) {
		for _, o := range t.others {
			out = append(out, lab.Loss{From: t.primary.Name, To: o.Name, Port: 3306})
		}
		return out
	})},
	{"30 % of all packets lost", while, lose(func(targets) []lab.Loss { return []lab.Loss{{Share: 0.3}} })},
	{"90 % of the primary's packets lost", while, lose(func(t targets) []lab.Loss {
		return []lab.Loss{{From: t.primary.Name, Share: 0.9}, {To: t.primary.Name, Share: 0.9}}
	})},
	{"cable of the primary comes and goes", while, func(ctx context.Context, c *chaos, t targets) (func() error, error) {
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			for ctx.Err() == nil {
				err := c.lab.Unplug(t.primary.Name)
				pause(ctx, 700*time.Millisecond)
				if err = errors.Join(err, c.lab.Plug(t.primary.Name)); err != nil {
					break
				}
				pause(ctx, 1300*time.Millisecond)
			}
			done <- c.lab.Plug(t.primary.Name)
		}()
		return func() error { cancel(); <-done; return c.lab.Heal() }, nil
	}},
	{"disk of the primary full", while, func(_ context.Context, _ *chaos, t targets) (func() error, error) {
		return func() error { return freed(t.primary) }, t.primary.Fill(lab.MySQLDisk)
	}},
	{"disk of the primary hangs", while, func(_ context.Context, _ *chaos, t targets) (func() error, error) {
		return func() error { _ = t.primary.Thaw(lab.MySQLDisk); return nil }, t.primary.Freeze(lab.MySQLDisk)
	}},
	{"disk of the primary read-only", while, func(_ context.Context, _ *chaos, t targets) (func() error, error) {
		return func() error { return errors.Join(t.primary.PowerOff(), t.primary.On()) }, t.primary.ReadOnly(lab.MySQLDisk)
	}},
	{"switchover", short, func(ctx context.Context, c *chaos, _ targets) (func() error, error) {
		c.switchover(ctx)
		return nothing, nil
	}},
}

// freed ends Fill, also if the host was off in between.
func freed(h *lab.Host) error {
	if !h.Running() {
		return nil // its undo comes later, and the file with it: see heal
	}
	return h.Free(lab.MySQLDisk)
}

// strike is one entry of the sequence: a blow, or two that overlap.
type strike struct {
	first, second *blow
	lasts         time.Duration // of the first
	after         time.Duration // the second comes that long after the first
	secondLasts   time.Duration
}

func (s strike) name() string {
	if s.second == nil {
		return s.first.name
	}
	return s.first.name + " + " + s.second.name
}

// sequence gives the blows of a seed: each once in random order, alone, then pairs
// at random, and so on.
func sequence(seed uint64) func() strike {
	r := rand.New(rand.NewPCG(seed, 1))
	span := func(lasts [2]time.Duration) time.Duration {
		return lasts[0] + time.Duration(r.Int64N(int64(lasts[1]-lasts[0]+1)))
	}
	var alone []int
	return func() strike {
		if len(alone) == 0 {
			alone = r.Perm(len(blows))
		}
		b := &blows[alone[0]]
		alone = alone[1:]
		s := strike{first: b, lasts: span(b.lasts)}
		if r.IntN(5) < 2 {
			s.second = other(b, r)
			s.after = time.Duration(r.Int64N(int64(s.lasts)))
			s.secondLasts = span(s.second.lasts)
		}
		return s
	}
}

// other chooses what overlaps with a blow. A disk that is struck already bears no second
// one: who fills a disk that hangs hangs with it.
func other(b *blow, r *rand.Rand) *blow {
	for {
		o := &blows[r.IntN(len(blows))]
		if !strings.HasPrefix(b.name, onDisk) || !strings.HasPrefix(o.name, onDisk) {
			return o
		}
	}
}

// aim says who is who now.
func (c *chaos) aim(st api.Status) (targets, error) {
	var t targets
	for _, h := range c.lab.Hosts {
		switch {
		case h.Name == st.Primary:
			t.primary = h
		default:
			t.others = append(t.others, h)
		}
		if h.Name == st.Coordinator {
			t.coordinator = h
		}
	}
	data := slices.DeleteFunc(slices.Clone(t.others), func(h *lab.Host) bool { return h.Witness })
	if t.primary == nil || t.coordinator == nil || len(data) == 0 {
		return t, fmt.Errorf("nobody to strike: primary %q, coordinator %q", st.Primary, st.Coordinator)
	}
	t.replica = data[c.rand.IntN(len(data))]
	return t, nil
}
