// Command outage measures how long clients of the virtual IP wait when the primary's
// mysqld is killed, at a switchover, and when its host loses power: in the lab, from
// hosts of their own, with ARP caches. It looks for every row afterwards.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/sandbox"
	"ha/bench/load"
	"ha/bench/stage"
	"ha/lab"
	"ha/raftfsm"
)

const (
	pace  = 5 * time.Millisecond // of each of two writers
	bound = 60 * time.Second     // for a successor, and for the old primary to be back
	after = 1500 * time.Millisecond
)

// rest is how long the primary has reigned before something happens: for cool_down
// after a change a host that is silent is given twice the time, and its last owner
// has just come back.
var rest = raftfsm.DefaultPolicy().CoolDown + time.Second

// event is something that moves the virtual IP.
type event struct {
	name             string
	wantP50, wantMax time.Duration // what is promised; 0: nothing
	do               func(ctx context.Context, h *lab.Host) error
}

var events = []event{
	{"mysqld of the primary killed", 300 * time.Millisecond, 0, func(_ context.Context, h *lab.Host) error {
		if h.Signal(lab.Mysqld, unix.SIGKILL) == 0 {
			return fmt.Errorf("no mysqld on %s", h.Name)
		}
		return nil
	}},
	{"ha switchover", 150 * time.Millisecond, 0, func(ctx context.Context, h *lab.Host) error {
		out, err := exec.CommandContext(ctx, "sh", "-c", h.Enter()+" -c 'ha switchover'").CombinedOutput()
		if err != nil {
			return fmt.Errorf("switchover: %w: %s", err, out)
		}
		return nil
	}},
	{"host of the primary without power", 2500 * time.Millisecond, 5 * time.Second, func(_ context.Context, h *lab.Host) error { return h.PowerOff() }},
}

func main() {
	lab.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "outage:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	rounds := flag.Int("rounds", 20, "how often each happens")
	flag.Parse()
	if m := lab.Missing(); m != "" {
		return fmt.Errorf("no lab can be made here: %s", m)
	}
	here, err := filepath.Abs("ha")
	if err != nil {
		return err
	}
	mysqld, err := sandbox.FindMysqld("", here)
	if err != nil {
		return err
	}
	dir, err := lab.Scratch()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := lab.Up(ctx, lab.Options{Hosts: 3, Clients: 2, Dir: dir, Mysqld: mysqld})
	if err != nil {
		return err
	}
	defer l.Down()
	return measure(ctx, l, *rounds)
}

func measure(ctx context.Context, l *lab.Lab, rounds int) error {
	var servers, writers []load.Server
	for _, h := range l.Hosts {
		servers = append(servers, load.Server{Name: h.Name, DSN: l.LocalDSN(h.Name)})
	}
	for _, c := range l.Clients {
		writers = append(writers, load.Server{Name: lab.ViaVIP(c.Name), DSN: l.DSN(c.Name, lab.VIP, time.Second)})
	}
	if err := load.CreateTable(ctx, servers); err != nil {
		return err
	}
	w, err := load.Start(ctx, writers, pace)
	if err != nil {
		return err
	}
	defer w.Stop()
	var errs []error
	for _, e := range events {
		var all, each []time.Duration
		for range rounds {
			gap, worst, err := once(ctx, l, w, e)
			if err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			all, each = append(all, gap), append(each, worst)
		}
		errs = append(errs, e.judge("all clients of the virtual IP", all), e.judge("the one of them that waited longest", each))
	}
	v, err := load.Check(ctx, servers, w.Stop(), -1, bound)
	fmt.Println(v)
	if err == nil && !v.OK() {
		err = errors.New("rows were lost")
	}
	return errors.Join(append(errs, err)...)
}

// judge prints how long clients waited and compares that with what is promised.
func (e event) judge(who string, gaps []time.Duration) error {
	p50, worst := stage.Percentile(gaps, 50), stage.Percentile(gaps, 100)
	fmt.Printf("%s: %d times, %s: p50 %d ms p95 %d ms max %d ms\n", e.name, len(gaps), who,
		p50.Milliseconds(), stage.Percentile(gaps, 95).Milliseconds(), worst.Milliseconds())
	if p50 > e.wantP50 || e.wantMax > 0 && worst > e.wantMax {
		return fmt.Errorf("%s: %s: too slow: p50 at most %s, max at most %s (0s: any)", e.name, who, e.wantP50, e.wantMax)
	}
	return nil
}

// once has it happen to a healthy cluster and gives the longest time without an
// acknowledged row around it: of all clients, and of the one that waited longest.
func once(ctx context.Context, l *lab.Lab, w *load.Load, e event) (gap, worst time.Duration, err error) {
	st, err := l.AwaitHealthy(ctx, bound)
	if err != nil {
		return 0, 0, err
	}
	h, err := l.Host(st.Primary)
	if err != nil {
		return 0, 0, err
	}
	if err := rested(ctx, l, w, st.Primary); err != nil {
		return 0, 0, err
	}
	at := time.Now()
	if err := e.do(ctx, h); err != nil {
		return 0, 0, err
	}
	if err := resumed(ctx, l, w, st.Primary); err != nil {
		return 0, 0, err
	}
	acks, from, to := w.Acks(), at.Add(-100*time.Millisecond), time.Now()
	return load.Gap(acks, from, to), load.WorstWriter(acks, from, to), h.On()
}

// rested waits until the primary has been the same for long enough and every client
// has written meanwhile.
func rested(ctx context.Context, l *lab.Lab, w *load.Load, primary string) error {
	from := time.Now()
	return lab.Eventually(bound, func() error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if st, err := l.Status(ctx); err != nil || st.Primary != primary {
			from = time.Now()
		}
		if reign := time.Since(from); reign <= rest {
			return fmt.Errorf("%s has been the primary for %s only", primary, reign)
		}
		return allWrite(l, w, from)
	})
}

// resumed waits until there is another primary and every client writes for a while:
// one that waits still would have no end of its gap.
func resumed(ctx context.Context, l *lab.Lab, w *load.Load, old string) error {
	var moved time.Time
	return lab.Eventually(bound, func() error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if moved.IsZero() {
			st, err := l.Status(ctx)
			if err != nil || st.Primary == "" || st.Primary == old {
				return errors.Join(fmt.Errorf("no other primary than %s", old), err)
			}
			moved = time.Now()
		}
		if time.Since(moved) <= after { // looking costs time
			return errors.New("there has just been another primary")
		}
		return allWrite(l, w, moved.Add(after))
	})
}

// allWrite names what is missing until every client has had a row acknowledged since then.
func allWrite(l *lab.Lab, w *load.Load, since time.Time) error {
	writing := map[string]bool{}
	for _, a := range w.Acks() {
		if a.At.After(since) {
			writing[a.Server] = true
		}
	}
	if len(writing) < len(l.Clients) {
		return fmt.Errorf("%d of %d clients write", len(writing), len(l.Clients))
	}
	return nil
}
