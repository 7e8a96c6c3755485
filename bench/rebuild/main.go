// Command rebuild measures how long `ha rebuild` takes, beside a script that does as
// much with CLONE and beside a plain copy of the files; and what clients notice of a
// rebuild with a throttle.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ha/bench/load"
	"ha/bench/stage"
)

// What is promised.
const (
	wantRatio = 0.9                    // of the script's speed
	wantGap   = 100 * time.Millisecond // without an acknowledged row
	wantShare = 0.7                    // of the rows that are acknowledged without a rebuild
)

type options struct {
	size     float64 // GB
	rounds   int
	throttle string
	writers  int
	pace     time.Duration
	base     string
	binary   string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "rebuild:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	flag.Float64Var(&o.size, "size", 5, "GB of data")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each is measured without load; 0: not at all")
	flag.StringVar(&o.throttle, "throttle", "40MB", "of the rebuild under load; empty: that is not measured")
	flag.IntVar(&o.writers, "writers", 4, "writers, under load")
	flag.DurationVar(&o.pace, "pace", 2*time.Millisecond, "time between two rows of a writer")
	flag.StringVar(&o.base, "base-address", "127.0.64.0", "of the sandbox; the script's server uses the network after it")
	flag.StringVar(&o.binary, "ha", "", "path of ha; built if empty")
	flag.Parse()

	// Three nodes, a copy beside one, and a copy more.
	if err := enoughRoom(os.TempDir(), int64(o.size*5.5e9)+4<<30); err != nil {
		return err
	}
	st, err := stage.Up(ctx, o.binary, o.base)
	if err != nil {
		return err
	}
	defer st.Down()
	if err := load.CreateTable(ctx, st.Servers); err != nil {
		return err
	}
	b := &bench{options: o, st: st}
	if err := b.fill(ctx); err != nil {
		return err
	}
	return errors.Join(b.quiet(ctx), b.loaded(ctx))
}

func enoughRoom(dir string, need int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < need {
		return fmt.Errorf("%s has %d GB free, and this takes %d GB: make room, set TMPDIR, or use less data (SIZE=)", dir, free>>30, need>>30)
	}
	return nil
}

type bench struct {
	options
	st *stage.Stage
}

func (b *bench) data(node string) string { return filepath.Join(b.st.NodeDir(node), "data") }

func (b *bench) fill(ctx context.Context) error {
	primary, err := b.st.Primary(ctx)
	if err != nil {
		return err
	}
	db, err := b.st.Root(primary)
	if err != nil {
		return err
	}
	defer db.Close()
	began := time.Now()
	if err := load.Fill(ctx, db, int(b.size*1000)); err != nil {
		return err
	}
	if err := b.well(ctx); err != nil {
		return err
	}
	fmt.Printf("%.1f GB of data were written in %.0f s\n", float64(dataSize(b.data(primary)))/1e9, time.Since(began).Seconds())
	return nil
}

func (b *bench) well(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	_, err := b.st.AwaitHealthy(ctx, nil)
	return err
}

// roles are the node to rebuild, and the one that it will be copied from.
func (b *bench) roles(ctx context.Context) (to, from, primary string, err error) {
	st, err := b.st.Status(ctx)
	if err != nil {
		return "", "", "", err
	}
	for _, n := range st.Nodes {
		switch {
		case n.Name == st.Primary:
		case to == "" && n.Name != st.Coordinator:
			to = n.Name
		default:
			from = n.Name
		}
	}
	return to, from, st.Primary, nil
}

// rebuild runs the command and gives what it took until the node acknowledges again
// and holds all that the primary had by then.
func (b *bench) rebuild(ctx context.Context, to, primary string, more ...string) (time.Duration, error) {
	began := time.Now()
	args := append([]string{"rebuild", "--config", b.st.ClientConfig(), "--node", to, "--from", "best", "--wait", "30m"}, more...)
	out, err := exec.CommandContext(ctx, b.st.Binary, args...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("ha %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	p, err := b.st.Root(primary)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	r, err := b.st.Root(to)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	err = load.AwaitExecuted(ctx, p, r)
	return time.Since(began), err
}

// quiet compares the three in turn, without load and throttle.
func (b *bench) quiet(ctx context.Context) error {
	if b.rounds == 0 {
		return nil
	}
	var ha, script, files []time.Duration
	for round := 1; round <= b.rounds; round++ {
		to, from, primary, err := b.roles(ctx)
		if err != nil {
			return err
		}
		var s, h time.Duration
		steps := []func() error{
			func() (err error) { s, err = b.script(ctx, from, primary); return err },
			func() (err error) { h, err = b.rebuild(ctx, to, primary); return err },
		}
		if round%2 == 0 { // whoever comes second finds more of the files in memory
			slices.Reverse(steps)
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
			if err := b.well(ctx); err != nil {
				return err
			}
		}
		if err := b.same(ctx, to, primary); err != nil {
			return err
		}
		if err := b.cleaned(ctx, to); err != nil {
			return err
		}
		f, err := b.files(ctx, from)
		if err != nil {
			return fmt.Errorf("copy files: %w", err)
		}
		fmt.Printf("%d: ha rebuild %s; CLONE, restart and CHANGE SOURCE by a script %s; a copy of the files with cp %s\n", round, sec(h), sec(s), sec(f))
		ha, script, files = append(ha, h), append(script, s), append(files, f)
	}
	h, s, f := stage.Percentile(ha, 50), stage.Percentile(script, 50), stage.Percentile(files, 50)
	ratio := s.Seconds() / h.Seconds()
	fmt.Printf("from the start to lag 0, without load, median of %d: ha rebuild %s, script %s, files %s; ha has %.2f of the script's speed\n",
		b.rounds, sec(h), sec(s), sec(f), ratio)
	if ratio < wantRatio {
		return fmt.Errorf("too slow: %.2f of the script's speed, and %.2f is wanted", ratio, wantRatio)
	}
	return nil
}

// same sees that the copy has the rows.
func (b *bench) same(ctx context.Context, nodes ...string) error {
	var first string
	for i, n := range nodes {
		db, err := b.st.Root(n)
		if err != nil {
			return err
		}
		sum, err := load.FillSum(ctx, db)
		db.Close()
		if err != nil {
			return err
		}
		if i == 0 {
			first = sum
		} else if sum != first {
			return fmt.Errorf("%s has other rows than %s: %s, not %s", n, nodes[0], sum, first)
		}
	}
	return nil
}

// cleaned waits until the old data are gone, so that they are not removed while the next
// one is measured.
func (b *bench) cleaned(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		left, err := filepath.Glob(b.data(node) + ".*")
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still there: %s", strings.Join(left, " "))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// loaded rebuilds under load, with a throttle, and compares what clients see with
// before.
func (b *bench) loaded(ctx context.Context) error {
	if b.throttle == "" {
		return nil
	}
	l, err := load.Roam(ctx, b.st.Servers, b.writers, b.pace)
	if err != nil {
		return err
	}
	defer l.Stop()
	if err := stretch(ctx, 5*time.Second); err != nil { // to warm up
		return err
	}
	to, _, primary, err := b.roles(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := stretch(ctx, 20*time.Second); err != nil {
		return err
	}
	at := time.Now()
	took, err := b.rebuild(ctx, to, primary, "--throttle", b.throttle)
	if err != nil {
		return err
	}
	end := time.Now()
	if err := b.well(ctx); err != nil {
		return err
	}
	// How long clients wait at the longest depends on for how long one looks, most of
	// all where three servers share a disk.
	rested := time.Now()
	if err := stretch(ctx, took); err != nil {
		return err
	}
	acks := l.Stop()
	before, during := rate(acks, began, at), rate(acks, at, end)
	gap, gapAt := load.LongestGap(acks, at, end)
	quiet := load.Gap(acks, rested, rested.Add(took))
	share := during / before
	fmt.Printf("under load (%d writers, %s between two rows), %s: ha rebuild %s; longest time without an acknowledged row %d ms, %s after its start (%d ms in as long a time after it); %.0f rows/s, %.0f %% of the %.0f before\n",
		b.writers, b.pace, b.throttle, sec(took), gap.Milliseconds(), sec(gapAt.Sub(at)), quiet.Milliseconds(), during, 100*share, before)
	if gap > wantGap {
		b.st.Explain(at, gapAt.Add(-time.Second), gapAt.Add(gap+time.Second))
	}
	v, err := load.Check(ctx, b.st.Servers, acks, -1, time.Minute)
	if err != nil {
		return err
	}
	fmt.Println(v)
	switch {
	case !v.OK():
		return fmt.Errorf("rows were lost: %s", v)
	case quiet > wantGap:
		return fmt.Errorf("the machine is too busy to tell: %d ms without a row, and without a rebuild", quiet.Milliseconds())
	case gap > wantGap || share < wantShare:
		return fmt.Errorf("clients noticed it: %d ms without a row (at most %d), %.0f %% of the rows (at least %.0f)",
			gap.Milliseconds(), wantGap.Milliseconds(), 100*share, 100*wantShare)
	}
	return b.same(ctx, to, primary)
}

// stretch lets the load run for a while.
func stretch(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func rate(acks []load.Ack, from, to time.Time) float64 {
	n := 0
	for _, a := range acks {
		if a.At.After(from) && a.At.Before(to) {
			n++
		}
	}
	return float64(n) / to.Sub(from).Seconds()
}

func sec(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func dataSize(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(d.Name(), ".ibd") {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
