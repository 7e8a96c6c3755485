package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"ha/agent/api"
	"ha/agent/locate"
)

// watchPeriod is how often `ha status --watch` asks.
const watchPeriod = time.Second

// clientFlags are those of every command that asks the cluster.
func clientFlags(more ...cli.Flag) []cli.Flag { return askFlags(locate.DefaultTimeout, more...) }

func askFlags(timeout time.Duration, more ...cli.Flag) []cli.Flag {
	return append(more,
		&cli.StringFlag{Name: "addr", Usage: "`ADDRESS` of the agent to ask first, host[:port]"},
		&cli.StringFlag{Name: "config", Usage: "configuration `FILE` with the cluster's secret", EnvVars: []string{"HA_CONFIG"}},
		&cli.DurationFlag{Name: "timeout", Usage: "`TIME` to wait for an answer", Value: timeout},
	)
}

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "say how the cluster is, and what to do if it is not well",
		Description: "Any agent answers for the cluster; all known addresses are tried.\n" +
			"Exit codes: 0 ok, 7 degraded, 8 no writable primary, 4 no quorum, 6 no agent answers.",
		Flags: clientFlags(
			outputFlag("table", "wide", "json"),
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "ask again each second until interrupted"},
		),
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			cluster, err := locate.Find(locate.Options{Config: c.String("config"), Addr: c.String("addr")})
			if err != nil {
				return err
			}
			return showStatus(c, cluster)
		},
	}
}

// showStatus asks a cluster and prints the answer; the health is the exit code.
func showStatus(c *cli.Context, cluster locate.Cluster) error {
	format, err := output(c, "table", "wide", "json")
	if err != nil {
		return err
	}
	if err := checkTimeout(c); err != nil {
		return err
	}
	client, err := cluster.Client()
	if err != nil {
		return err
	}
	show := func(ctx context.Context, w io.Writer) error {
		st, err := askStatus(ctx, client, c.Duration("timeout"))
		if err != nil {
			return err
		}
		if format == "json" {
			err = printJSON(w, st)
		} else {
			_, err = io.WriteString(w, renderStatus(st, format == "wide", colourful(c.App.Writer)))
		}
		if err != nil {
			return err
		}
		if code := st.Health.ExitCode(); code != api.ExitOK {
			return healthCode(code)
		}
		return nil
	}
	if !c.Bool("watch") {
		return show(c.Context, c.App.Writer)
	}
	return watch(c.Context, c.App.Writer, show)
}

func askStatus(ctx context.Context, client *api.Client, timeout time.Duration) (api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var st api.Status
	_, err := client.Get(ctx, api.PathStatus, &st)
	return st, err
}

// watch shows the status again and again until it is interrupted. On a terminal
// each replaces the one before.
func watch(ctx context.Context, w io.Writer, show func(context.Context, io.Writer) error) error {
	clear := ""
	if isTerminal(w) {
		clear = "\x1b[H\x1b[2J"
	}
	ticker := time.NewTicker(watchPeriod)
	defer ticker.Stop()
	for {
		var p page
		err := show(ctx, &p)
		var health healthCode
		if err != nil && !errors.As(err, &health) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			var usage *api.Error
			if errors.As(err, &usage) && usage.Code == api.ExitUsage {
				return err
			}
			complain(&p, err, api.ExitFailed)
		}
		if _, err := fmt.Fprintf(w, "%s%s\n", clear, p); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// page collects what is written.
type page []byte

func (t *page) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	return len(p), nil
}
