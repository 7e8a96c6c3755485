package main

import (
	"io"
	"log/slog"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"ha/agent"
	"ha/agent/api"
)

func agentCommand() *cli.Command {
	return &cli.Command{
		Name:  "agent",
		Usage: "run the agent beside a mysqld, or as a witness",
		Description: "Without --join it founds a cluster of one; with it, it joins the cluster of the\n" +
			"agents named and never founds. Flags win over the file. SIGTERM stops it and\n" +
			"leaves mysqld running. docs/CONFIG.md describes the file.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE` (TOML)", EnvVars: []string{"HA_CONFIG"}},
			&cli.StringFlag{Name: "name", Usage: "what people call this node (default: the host name)"},
			&cli.StringFlag{Name: "listen", Usage: "own `ADDRESS`, host[:port], TCP and UDP (default: 127.0.0.1:8801)"},
			&cli.StringFlag{Name: "advertise", Usage: "`ADDRESS` where others reach it (default: that of --listen)"},
			&cli.StringSliceFlag{Name: "join", Usage: "`ADDRESS` of another agent, host[:port]; may be repeated"},
			&cli.BoolFlag{Name: "found", Usage: "found a cluster on a mysqld that holds data already"},
			&cli.StringFlag{Name: "secret-file", Usage: "`FILE` with the cluster's secret (see ha keygen)"},
			&cli.StringFlag{Name: "data-dir", Usage: "`DIR` for the node id and the Raft store"},
			&cli.StringFlag{Name: "runtime-dir", Usage: "`DIR` for the lease and the local socket"},
			&cli.BoolFlag{Name: "witness", Usage: "run without a mysqld: vote only"},
			&cli.StringFlag{Name: "mysqld", Usage: "`PATH` of mysqld (default: the one in PATH)"},
			&cli.StringFlag{Name: "mysql-data-dir", Usage: "mysqld's data `DIR`; initialised if empty (default: mysql in the data dir)"},
			&cli.StringFlag{Name: "mysql-host", Usage: "`ADDRESS` where mysqld listens (default: the host of --listen)"},
			&cli.StringFlag{Name: "mysql-port", Usage: "mysqld's `PORT` (default: 3306)"},
			&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error (default: info)"},
		},
		Action: runAgent,
	}
}

func runAgent(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	cfg, err := agentConfig(c)
	if err != nil {
		return err
	}
	log, flush := newLogger(c.App.ErrWriter, cfg.Log)
	defer flush()
	a, err := agent.New(cfg, log, version)
	if err != nil {
		return err
	}
	if err := a.Run(c.Context); err != nil && c.Context.Err() == nil {
		return err
	}
	return nil // asked to stop, and stopped
}

// agentConfig lays the flags over the file.
func agentConfig(c *cli.Context) (agent.Config, error) {
	var cfg agent.Config
	if path := c.String("config"); path != "" {
		var err error
		if cfg, err = agent.LoadConfig(path); err != nil {
			return cfg, err
		}
	}
	for flag, field := range map[string]*string{
		"name": &cfg.Name, "listen": &cfg.Listen, "advertise": &cfg.Advertise,
		"secret-file": &cfg.SecretFile, "data-dir": &cfg.DataDir, "runtime-dir": &cfg.RuntimeDir,
		"mysqld": &cfg.MySQL.Mysqld, "mysql-data-dir": &cfg.MySQL.DataDir, "mysql-host": &cfg.MySQL.Host,
		"log-level": &cfg.Log.Level,
	} {
		if c.IsSet(flag) {
			*field = c.String(flag)
		}
	}
	if c.IsSet("secret-file") {
		cfg.Secret = "" // the file's own
	}
	if c.IsSet("join") {
		cfg.Join = c.StringSlice("join")
	}
	if c.IsSet("witness") {
		cfg.Witness = c.Bool("witness")
	}
	cfg.Found = c.Bool("found")
	if c.IsSet("mysql-port") {
		port, err := strconv.Atoi(strings.TrimSpace(c.String("mysql-port")))
		if err != nil || port < 1 || port > 65535 {
			return cfg, api.Usage("--mysql-port: %q is not a port", c.String("mysql-port")).WithHint("Use 1 to 65535.")
		}
		cfg.MySQL.Port = port
	}
	cfg.SetDefaults()
	return cfg, cfg.Validate()
}

// newLogger logs to a file and waits for nobody who reads it; flush comes last.
func newLogger(to io.Writer, cfg agent.LogConfig) (log *slog.Logger, flush func()) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level = slog.LevelInfo // Validate has refused it before
	}
	opts := &slog.HandlerOptions{Level: level}
	w := newLogPipe(to, func(lost int) { log.Warn("nobody read the log: lines were dropped", "lines", lost) })
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), w.Close
	}
	return slog.New(slog.NewTextHandler(w, opts)), w.Close
}
