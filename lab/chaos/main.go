// Command chaos breaks a cluster in the lab, again and again and by chance, while
// clients write and read, and looks after each blow whether all that was promised
// still holds. One seed gives one sequence of blows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ha/lab"
)

func main() {
	lab.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// layout is a kind of cluster.
type layout struct {
	name            string
	data, witnesses int
}

var layouts = []layout{
	{"3 data hosts", 3, 0},
	{"2 data hosts and a witness", 2, 1},
	{"5 data hosts", 5, 0},
}

func run(ctx context.Context) error {
	minutes := flag.Float64("minutes", 3, "how long, of all layouts together")
	seed := flag.Uint64("seed", uint64(time.Now().Unix()), "of the blows")
	only := flag.String("layout", "", "only the layout whose name contains this")
	mysqld := flag.String("mysqld", os.Getenv("HA_MYSQLD"), "path of mysqld")
	report := flag.String("report", "", "write the report to this file as well")
	keep := flag.String("keep", "", "directory for logs; they are removed if empty and nothing was wrong")
	flag.Parse()
	if m := lab.Missing(); m != "" {
		fmt.Printf("NOT TESTED: chaos: %s\n", m)
		return nil
	}
	if *mysqld == "" {
		return errors.New("no mysqld: give -mysqld, or set HA_MYSQLD")
	}
	var chosen []layout
	for _, l := range layouts {
		if strings.Contains(l.name, *only) {
			chosen = append(chosen, l)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no layout is called %q", *only)
	}
	total := time.Duration(*minutes * float64(time.Minute))
	fmt.Printf("chaos: seed %d, %s, %d layouts\n", *seed, total, len(chosen))
	var errs []error
	out := fmt.Sprintf("# Chaos of seed %d, %s\n", *seed, total)
	for i, l := range chosen {
		c, err := newChaos(ctx, l, *seed+uint64(i)*1_000_003, *mysqld, *keep)
		if err == nil {
			err = c.play(ctx, total/time.Duration(len(chosen)))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w (seed %d)", l.name, err, *seed))
		}
		if c != nil {
			c.end(err != nil && ctx.Err() == nil)
			out += c.report(*seed, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	fmt.Print(out)
	if *report != "" {
		errs = append(errs, write(*report, out))
	}
	return errors.Join(errs...)
}

func write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // for people
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644) //nolint:gosec // a report
}
