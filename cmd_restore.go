package main

import (
	"fmt"
	"log/slog"

	"github.com/urfave/cli/v2"

	"ha/agent"
	"ha/agent/backup"
)

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "put a backup in the place of a node's data, which are gone",
		ArgsUsage: "DIR/NAME",
		Description: "Run it on the node's host, as the user and with the configuration of its agent, which does\n" +
			"not run yet. The data are copied beside, compared with the manifest, opened once by a mysqld\n" +
			"that nobody can reach, and then renamed: under their name they are whole or not there.\n" +
			"Without join in the configuration, `ha agent` founds a new cluster on them, and others that\n" +
			"join it are filled from there. With join, the node comes back to the cluster of the backup.\n" +
			"With --binlogs the new cluster has what those logs hold as well, or what was committed before\n" +
			"--until: before a DROP TABLE, its rows are back.\n" +
			"Exit codes: 0 done, 1 failed, 3 refused (HA-NOT-EMPTY, HA-BAD-BACKUP, HA-NO-SPACE, HA-PLACE,\n" +
			"HA-LOG-GAP, HA-BAD-LOG, HA-NOT-REACHED, HA-TOO-LATE), 9 another restore is running, 130 interrupted. But for 0 nothing is left.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "the agent's configuration `FILE` (TOML)", EnvVars: []string{"HA_CONFIG"}},
			&cli.StringFlag{Name: "listen", Usage: "own `ADDRESS` of the agent, as for ha agent"},
			&cli.StringSliceFlag{Name: "join", Usage: "`ADDRESS` of another agent, as for ha agent"},
			&cli.StringFlag{Name: "secret-file", Usage: "`FILE` with the cluster's secret, as for ha agent"},
			&cli.StringFlag{Name: "data-dir", Usage: "`DIR` of the agent: it must not have run"},
			&cli.StringFlag{Name: "mysqld", Usage: "`PATH` of mysqld (default: the one in PATH)"},
			&cli.StringFlag{Name: "mysql-data-dir", Usage: "mysqld's data `DIR`, which is empty or missing"},
			&cli.StringFlag{Name: "binlogs", Usage: "`DIR` with one server's binary logs since the backup, or an archive of them, to be replayed"},
			&cli.StringFlag{Name: "until", Usage: "`TIME|GTID` before which the replay ends: 2026-01-31T12:00:00Z, or a transaction"},
			outputFlag("text", "json"),
		},
		Action: restore,
	}
}

func restore(c *cli.Context) error {
	if err := arguments(c, "DIR/NAME"); err != nil {
		return err
	}
	format, err := output(c, "text", "json")
	if err != nil {
		return err
	}
	cfg, err := agentConfig(c)
	if err != nil {
		return err
	}
	r := backup.Restore{Backup: c.Args().First(), Logs: c.String("binlogs"), Log: slog.New(slog.DiscardHandler)}
	if r.Until, err = backup.ParseUntil(c.String("until"), r.Logs); err != nil {
		return err
	}
	talk := newProgress(c.App.ErrWriter)
	defer talk.done()
	m, err := agent.Restore(c.Context, cfg, r, meter(talk))
	talk.done()
	if err != nil {
		return err
	}
	if format == "json" {
		return printJSON(c.App.Writer, m)
	}
	if !r.Until.Time.IsZero() && !m.Reached {
		talk.line("the logs have no transaction of that time or later: all of them were replayed")
	}
	if m.Torn != "" {
		talk.line(m.Torn + " ends within a transaction, as a log does that is being written or was copied in part: what comes after is not in the data")
	}
	next := "`ha agent` founds a new cluster on them; others are started with --join and empty directories"
	if len(cfg.Join) > 0 {
		next = "`ha agent` takes the node back into cluster " + m.Cluster
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s has the data of %s: %s, GTID set %s\n%s\n", cfg.MySQL.DataDir, c.Args().First(), sizeText(m.Bytes), m.Set, next)
	return err
}
