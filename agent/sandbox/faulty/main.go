// Command faulty is the agent, for tests: it dies at a step that a file names.
// Everything else is that of the real binary.
//
//	HA_FAULT_FILE=FILE faulty agent --config CONFIG
//
// FILE holds a step (see [agent.Agent.Step]), or a step and "host": then mysqld dies
// with its agent. Of several agents the first that gets there takes the file away,
// leaves its name in FILE.taken, and dies. While there is a FILE.deaf, gossip opens no
// streams: without packets too it calls every peer dead, and all else goes on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"ha/agent"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "faulty:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if len(os.Args) < 2 || os.Args[1] != "agent" {
		return errors.New("usage: faulty agent --config FILE")
	}
	flags := flag.NewFlagSet("faulty agent", flag.ContinueOnError)
	path := flags.String("config", "", "configuration `FILE`")
	if err := flags.Parse(os.Args[2:]); err != nil {
		return err
	}
	cfg, err := agent.LoadConfig(*path)
	if err != nil {
		return err
	}
	a, err := agent.New(cfg, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})), "faulty")
	if err != nil {
		return err
	}
	cfg.SetDefaults()
	file := os.Getenv("HA_FAULT_FILE")
	a.Step = fault(file, cfg)
	a.Whisper = func() error {
		if _, err := os.Stat(file + ".deaf"); err == nil {
			return errors.New("deaf")
		}
		return nil
	}
	if err := a.Run(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// fault dies at the step that the file names.
func fault(file string, cfg agent.Config) func(string) {
	return func(step string) {
		text, err := os.ReadFile(filepath.Clean(file))
		want, host := strings.CutSuffix(strings.TrimSpace(string(text)), " host")
		if err != nil || step != want || os.Rename(file, file+".taken") != nil {
			return
		}
		fmt.Fprintln(os.Stderr, "faulty: dying at:", step)
		_ = os.WriteFile(file+".taken", []byte(cfg.Name), 0o600)
		if host {
			text, err := os.ReadFile(cfg.MySQL.PidFile)
			if pid, perr := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && perr == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // not one step further
	}
}
