// Command writer is the application of the demonstration: it writes rows to
// whichever server of a sandbox takes them, says each second how many were
// acknowledged, and at its end (SIGINT or SIGTERM) looks for every one of them
// on every server. It ends with 1 if one is missing.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"ha/agent/sandbox"
	"ha/bench/load"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "writer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir := flag.String("dir", "", "directory of the sandbox")
	pace := flag.Duration("pace", time.Millisecond, "time between two rows")
	flag.Parse()
	s, err := sandbox.Find(*dir, "")
	if err != nil {
		return err
	}
	var servers []load.Server
	for _, n := range s.Nodes {
		if dsn, err := s.DSN(n.Name); err == nil {
			servers = append(servers, load.Server{Name: n.Name, DSN: dsn})
		}
	}
	if err := load.CreateTable(ctx, servers); err != nil {
		return err
	}
	l, err := load.Start(ctx, servers, *pace)
	if err != nil {
		return err
	}
	var last int64
	began := time.Now()
	for tick := time.NewTicker(time.Second); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-tick.C:
			now := l.Count()
			fmt.Printf("writer: %4d rows acknowledged in this second, %6d in all\n", now-last, now)
			last = now
		}
	}
	acks := l.Stop()
	fmt.Printf("writer: longest time without an acknowledged row: %d ms\n", load.Gap(acks, began, time.Now()).Milliseconds())
	v, err := load.Check(context.Background(), servers, acks, -1, 30*time.Second)
	if err != nil {
		return err
	}
	fmt.Printf("writer: %d rows acknowledged, %d rows lost (looked for on %d servers)\n", v.Acked, v.Lost(), len(servers))
	if !v.OK() || v.Acked == 0 {
		return fmt.Errorf("%s", v)
	}
	return nil
}
