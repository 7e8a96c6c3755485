// Command idle measures what the agents of an idle cluster cost: CPU time and
// resident memory, from /proc.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ha/bench/stage"
)

// What is promised, per agent.
const (
	maxCPU      = 2.0 // percent of a core
	coordinator = 4.0 // of the one that coordinates
	maxRSS      = 40  // MB
	ticksPerSec = 100 // USER_HZ, the same on every Linux
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "idle:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	period := flag.Duration("for", time.Minute, "how long to measure")
	base := flag.String("base-address", "127.0.62.0", "of the sandbox")
	binary := flag.String("ha", "", "path of ha; built if empty")
	flag.Parse()
	st, err := stage.Up(ctx, *binary, *base)
	if err != nil {
		return err
	}
	defer st.Down()
	// What starting has left to do is not idleness.
	if err := pause(ctx, 5*time.Second); err != nil {
		return err
	}
	before, err := usage(st)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := pause(ctx, *period); err != nil {
		return err
	}
	after, err := usage(st)
	if err != nil {
		return err
	}
	elapsed := time.Since(began)
	status, err := st.Status(ctx)
	if err != nil {
		return err
	}
	var over []string
	for _, n := range st.Nodes {
		cpu := float64(after[n.Name].ticks-before[n.Name].ticks) / ticksPerSec / elapsed.Seconds() * 100
		role, limit := "", maxCPU
		if n.Name == status.Coordinator {
			role, limit = " (coordinator)", coordinator
		}
		fmt.Printf("agent of %s%s: %.1f %% of a core over %.0f s, %d MB resident\n", n.Name, role, cpu, elapsed.Seconds(), after[n.Name].rss)
		if cpu > limit || after[n.Name].rss > maxRSS {
			over = append(over, n.Name)
		}
	}
	if len(over) > 0 {
		return fmt.Errorf("over the limit (%.0f %%, coordinator %.0f %%, %d MB): %s", maxCPU, coordinator, maxRSS, strings.Join(over, " "))
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

type used struct {
	ticks int64 // user and system time
	rss   int   // MB
}

func usage(st *stage.Stage) (map[string]used, error) {
	out := map[string]used{}
	for _, n := range st.Nodes {
		pids := st.PIDs(n.Name, "agent")
		if len(pids) != 1 {
			return nil, fmt.Errorf("%s has %d agents", n.Name, len(pids))
		}
		u, err := ofProcess(pids[0])
		if err != nil {
			return nil, err
		}
		out[n.Name] = u
	}
	return out, nil
}

func ofProcess(pid int) (used, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return used{}, err
	}
	// The command's name, in parentheses, may hold anything.
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if len(f) < 22 {
		return used{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	pages, err3 := strconv.ParseInt(f[21], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return used{}, fmt.Errorf("/proc/%d/stat: not numbers", pid)
	}
	return used{user + system, int(pages * int64(os.Getpagesize()) >> 20)}, nil
}
