// Command failover measures how long clients wait when the primary's mysqld is
// killed, and whether a row is lost. Beside it, in the same run, it measures the
// least that a script could do with bare semi-synchronous servers.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"ha/agent/sandbox"
	"ha/bench/bare"
	"ha/bench/load"
	"ha/bench/stage"
)

// What is promised.
const (
	wantP50   = 200 * time.Millisecond
	wantMax   = 1500 * time.Millisecond
	wantRatio = 1.6 // of the p50 to that of the script in the same run
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	rounds := flag.Int("rounds", 20, "how often the primary is killed")
	bareRounds := flag.Int("bare", 10, "how often the bare servers' primary is killed; 0: not at all")
	pace := flag.Duration("pace", time.Millisecond, "time between two rows that a writer wants to write")
	logMB := flag.Int("log", 0, "MB that are written to each server's binary log first")
	base := flag.String("base-address", "127.0.60.0", "of the sandbox; the bare servers use the network after it")
	binary := flag.String("ha", "", "path of ha; built if empty")
	flag.Parse()

	var gaps []time.Duration
	var verdict load.Verdict
	if *rounds > 0 {
		var err error
		if gaps, verdict, err = measure(ctx, *binary, *base, *rounds, *logMB, *pace); err != nil {
			return err
		}
		report("ha", gaps)
		fmt.Println(verdict)
	}
	var script []time.Duration
	if *bareRounds > 0 {
		var err error
		if script, err = measureBare(ctx, *base, *bareRounds, *pace); err != nil {
			return fmt.Errorf("bare semi-sync: %w", err)
		}
		report("bare semi-sync by a script", script)
	}
	if *rounds == 0 {
		return nil
	}
	if script != nil {
		fmt.Printf("ratio of p50: %.2f\n", ratio(gaps, script))
	}
	if !verdict.OK() {
		return fmt.Errorf("rows were lost, or two servers acknowledged: %s", verdict)
	}
	return judge(gaps, script)
}

// judge compares with what is promised. Without rounds of the script there is no ratio.
func judge(gaps, script []time.Duration) error {
	var errs []error
	if p50, worst := stage.Percentile(gaps, 50), stage.Percentile(gaps, 100); p50 > wantP50 || worst > wantMax {
		errs = append(errs, fmt.Errorf("too slow: p50 %s (at most %s), max %s (at most %s)", ms(p50), ms(wantP50), ms(worst), ms(wantMax)))
	}
	if script != nil && ratio(gaps, script) > wantRatio {
		errs = append(errs, fmt.Errorf("too slow: %.2f times the script's p50 (at most %.1f)", ratio(gaps, script), wantRatio))
	}
	return errors.Join(errs...)
}

func ratio(gaps, script []time.Duration) float64 {
	return float64(stage.Percentile(gaps, 50)) / float64(stage.Percentile(script, 50))
}

func report(what string, gaps []time.Duration) {
	fmt.Printf("%s: %d failovers, client-seen gap p50 %s p95 %s max %s\n", what, len(gaps),
		ms(stage.Percentile(gaps, 50)), ms(stage.Percentile(gaps, 95)), ms(stage.Percentile(gaps, 100)))
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// measure kills the primary again and again, with full recovery in between.
func measure(ctx context.Context, binary, base string, rounds, logMB int, pace time.Duration) ([]time.Duration, load.Verdict, error) {
	var v load.Verdict
	st, err := stage.Up(ctx, binary, base)
	if err != nil {
		return nil, v, err
	}
	defer st.Down()
	began, err := st.Status(ctx)
	if err != nil {
		return nil, v, err
	}
	if err := load.CreateTable(ctx, st.Servers); err != nil {
		return nil, v, err
	}
	if err := fillLogs(ctx, st, logMB); err != nil {
		return nil, v, err
	}
	l, err := load.Start(ctx, st.Servers, pace)
	if err != nil {
		return nil, v, err
	}
	defer l.Stop()
	if err := settle(ctx, l); err != nil {
		return nil, v, err
	}
	var gaps []time.Duration
	for round := 1; round <= rounds; round++ {
		old, err := st.Primary(ctx)
		if err != nil {
			return nil, v, err
		}
		f, err := failover(ctx, l, old, func() error {
			_, err := st.Kill(old, sandbox.KillMysqld)
			return err
		})
		if err != nil {
			return nil, v, fmt.Errorf("round %d: %w", round, err)
		}
		gaps = append(gaps, f.gap)
		if f.gap > wantMax {
			at := f.first.At.Add(-f.took)
			st.Explain(at, at.Add(-time.Second), f.first.At.Add(2*time.Second))
		}
		began := time.Now()
		if err := recovered(ctx, st, l); err != nil {
			return nil, v, fmt.Errorf("round %d: recovery of %s: %w", round, old, err)
		}
		fmt.Printf("%2d: %s killed, gap %s (from %d ms after the kill), first row from %s after %s; recovered %.1f s later, %d rows so far\n",
			round, old, ms(f.gap), f.began.Milliseconds(), f.first.Server, ms(f.took), time.Since(began).Seconds(), l.Count())
	}
	acks := l.Stop()
	end, err := st.Status(ctx)
	if err != nil {
		return nil, v, err
	}
	v, err = load.Check(ctx, st.Servers, acks, int(end.Epoch-began.Epoch), 30*time.Second)
	return gaps, v, err
}

// fillLogs makes all binary logs that long.
func fillLogs(ctx context.Context, st *stage.Stage, mb int) error {
	if mb == 0 {
		return nil
	}
	name, err := st.Primary(ctx)
	if err != nil {
		return err
	}
	var primary *sql.DB
	var replicas []*sql.DB
	for _, n := range st.Nodes {
		db, err := st.Root(n.Name)
		if err != nil {
			return err
		}
		defer db.Close()
		if n.Name == name {
			primary = db
		} else {
			replicas = append(replicas, db)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	began := time.Now()
	if err := load.FillLog(ctx, mb, primary, replicas...); err != nil {
		return err
	}
	if _, err := st.AwaitHealthy(ctx, nil); err != nil {
		return err
	}
	fmt.Printf("%d MB of binary log were written in %.0f s\n", mb, time.Since(began).Seconds())
	return nil
}

// measureBare does the same to bare servers by a script.
func measureBare(ctx context.Context, base string, rounds int, pace time.Duration) ([]time.Duration, error) {
	b, err := bare.New(ctx, base)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	servers := b.Load()
	if err := load.CreateTable(ctx, servers[:1]); err != nil {
		return nil, err
	}
	l, err := load.Start(ctx, servers, pace)
	if err != nil {
		return nil, err
	}
	defer l.Stop()
	if err := settle(ctx, l); err != nil {
		return nil, err
	}
	primary := b.Servers[0]
	var gaps []time.Duration
	for range rounds {
		var next *bare.Server
		old := primary
		f, err := failover(ctx, l, old.Name, func() (err error) {
			next, err = b.FailOver(ctx, old)
			return err
		})
		if err != nil {
			return nil, err
		}
		gaps = append(gaps, f.gap)
		primary = next
		if err := b.Replace(ctx, old, primary); err != nil {
			return nil, fmt.Errorf("bring %s back: %w", old.Name, err)
		}
		wctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		err = load.AwaitCaughtUp(wctx, servers, l)
		cancel()
		if err != nil {
			return nil, err
		}
	}
	return gaps, nil
}

// takeover is one failover as the writers saw it.
type takeover struct {
	gap   time.Duration // the longest time without an acknowledged row around it
	began time.Duration // of the gap, since the kill
	took  time.Duration // from the kill to the successor's first OK
	first load.Ack      // that OK
}

// failover kills and waits for the successor.
func failover(ctx context.Context, l *load.Load, old string, kill func() error) (takeover, error) {
	var f takeover
	at := time.Now()
	if err := kill(); err != nil {
		return f, err
	}
	wctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var err error
	if f.first, err = l.AwaitOther(wctx, old, at); err != nil {
		return f, fmt.Errorf("no other server than %s acknowledges: %w", old, err)
	}
	// What follows the first OK belongs to it: a successor that stops again.
	if err := settle(ctx, l); err != nil {
		return f, err
	}
	gap, began := load.LongestGap(l.Acks(), at.Add(-100*time.Millisecond), f.first.At.Add(time.Second))
	f.gap, f.began, f.took = gap, began.Sub(at), f.first.At.Sub(at)
	return f, nil
}

// settle lets the writers run for a moment and sees that they get somewhere.
func settle(ctx context.Context, l *load.Load) error {
	before := l.Count()
	deadline := time.After(30 * time.Second)
	for pause := time.After(1500 * time.Millisecond); ; pause = time.After(100 * time.Millisecond) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("no row is acknowledged for 30 s")
		case <-pause:
		}
		if l.Count() > before+10 {
			return nil
		}
	}
}

// recovered waits until the killed server is back, acknowledges, and no replica
// is behind: a failover to servers that are busy catching up is another matter.
func recovered(ctx context.Context, st *stage.Stage, l *load.Load) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, err := st.AwaitHealthy(ctx, nil); err != nil {
		return err
	}
	return load.AwaitCaughtUp(ctx, st.Servers, l)
}
