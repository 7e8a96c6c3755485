// Command switchover measures how long clients wait when the primary is switched
// over under load, plain and with an idle transaction open, and whether a row is
// lost.
package main

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"ha/bench/load"
	"ha/bench/stage"
)

// What is promised.
const (
	wantP50 = 60 * time.Millisecond
	wantMax = 500 * time.Millisecond
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "switchover:", err)
		os.Exit(1)
	}
}

type bench struct {
	*stage.Stage
	load *load.Load
}

func run(ctx context.Context) error {
	rounds := flag.Int("rounds", 20, "how often the primary is switched over, of each kind")
	writers := flag.Int("writers", 8, "clients that write")
	pace := flag.Duration("pace", 2*time.Millisecond, "rest of a writer between two rows")
	base := flag.String("base-address", "127.0.62.0", "of the sandbox")
	binary := flag.String("ha", "", "path of ha; built if empty")
	flag.Parse()

	st, err := stage.Up(ctx, *binary, *base)
	if err != nil {
		return err
	}
	defer st.Down()
	b := &bench{Stage: st}
	began, err := st.Status(ctx)
	if err != nil {
		return err
	}
	if err := load.CreateTable(ctx, st.Servers); err != nil {
		return err
	}
	if b.load, err = load.Roam(ctx, st.Servers, *writers, *pace); err != nil {
		return err
	}
	defer b.load.Stop()
	var slow error
	for _, kind := range []string{"plain", "idle BEGIN open"} {
		var gaps, worst []time.Duration
		for round := 1; round <= *rounds; round++ {
			gap, one, err := b.switchOver(ctx, kind != "plain")
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", kind, round, err)
			}
			gaps, worst = append(gaps, gap), append(worst, one)
		}
		p50, most := stage.Percentile(gaps, 50), stage.Percentile(gaps, 100)
		fmt.Printf("ha switchover, %d writers, %s: %d times, client-seen gap p50 %d ms p95 %d ms max %d ms; the unluckiest writer p50 %d ms max %d ms\n",
			*writers, kind, *rounds, p50.Milliseconds(), stage.Percentile(gaps, 95).Milliseconds(), most.Milliseconds(),
			stage.Percentile(worst, 50).Milliseconds(), stage.Percentile(worst, 100).Milliseconds())
		if p50 > wantP50 || most > wantMax {
			slow = fmt.Errorf("too slow: at most %s in the middle and %s ever are promised", wantP50, wantMax)
		}
	}
	acks := b.load.Stop()
	end, err := st.Status(ctx)
	if err != nil {
		return err
	}
	v, err := load.Check(ctx, st.Servers, acks, int(end.Epoch-began.Epoch), 30*time.Second)
	if err != nil {
		return err
	}
	fmt.Println(v)
	if !v.OK() {
		return fmt.Errorf("rows were lost, or two servers acknowledged")
	}
	return slow
}

// switchOver waits until all is well, switches over and says how long no row was
// acknowledged, and how long one writer had none.
func (b *bench) switchOver(ctx context.Context, idle bool) (gap, worst time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, err := b.AwaitHealthy(ctx, nil); err != nil {
		return 0, 0, err
	}
	if err := load.AwaitCaughtUp(ctx, b.Servers, b.load); err != nil {
		return 0, 0, err
	}
	old, err := b.Primary(ctx)
	if err != nil {
		return 0, 0, err
	}
	if idle {
		end, err := b.begin(ctx, old)
		if err != nil {
			return 0, 0, err
		}
		defer end()
	}
	if err := b.load.Warm(ctx); err != nil {
		return 0, 0, err
	}
	at := time.Now()
	if err := b.ask(ctx); err != nil {
		return 0, 0, err
	}
	first, err := b.load.AwaitOther(ctx, old, at)
	if err != nil {
		return 0, 0, err
	}
	for before := b.load.Count(); b.load.Count() < before+100; time.Sleep(5 * time.Millisecond) {
		if ctx.Err() != nil {
			return 0, 0, ctx.Err()
		}
	}
	acks, to := b.load.Acks(), time.Now()
	gap = load.Gap(acks, at, to)
	worst = load.WorstWriter(acks, at, to)
	if gap > wantMax {
		b.Explain(at, at, to)
	}
	fmt.Printf("%s to %s: gap %d ms, unluckiest writer %d ms\n", old, first.Server, gap.Milliseconds(), worst.Milliseconds())
	return gap, worst, nil
}

// begin opens a transaction that writes a row and then does nothing.
func (b *bench) begin(ctx context.Context, server string) (end func(), err error) {
	dsn, err := b.DSN(server)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		return nil, err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err == nil {
		_, err = tx.ExecContext(ctx, fmt.Sprintf("INSERT INTO load_rows VALUES (%d, 1)", -time.Now().UnixNano()))
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return func() {
		_ = tx.Rollback()
		db.Close()
	}, nil
}

// ask runs `ha switchover`.
func (b *bench) ask(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, b.Binary, "switchover", "--addr", b.Nodes[0].Agent, "--config", b.ClientConfig(), "--timeout", "20s")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ha switchover: %w\n%s", err, out)
	}
	return nil
}
