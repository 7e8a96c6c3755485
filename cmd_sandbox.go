package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/urfave/cli/v2"

	"ha/agent/api"
	"ha/agent/locate"
	"ha/agent/sandbox"
)

func sandboxCommand() *cli.Command {
	where := []cli.Flag{
		&cli.StringFlag{Name: "dir", Usage: "the sandbox in `DIR` (default: the only one)"},
		&cli.StringFlag{Name: "addr", Usage: "the sandbox that has the agent at `ADDRESS`"},
	}
	with := func(more ...cli.Flag) []cli.Flag { return append(more, where...) }
	deadline := func(d time.Duration) cli.Flag {
		return &cli.DurationFlag{Name: "timeout", Usage: "`TIME` to wait", Value: d}
	}
	return &cli.Command{
		Name:  "sandbox",
		Usage: "try ha out: a cluster on this machine",
		Description: "Real agents and real mysqlds, each node on a loopback address of its own, with\n" +
			"configuration files to learn from. Everything is in one directory.",
		Subcommands: []*cli.Command{
			{
				Name:  "up",
				Usage: "make a sandbox and start it, or start what does not run",
				Description: "Node i is n<i> at 127.0.1.<i>: agent port 8801, MySQL port 3306. Returns when\n" +
					"every replica acknowledges. The account app (password app) may do all in the schema app.",
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "nodes", Usage: "`NUMBER` of nodes with a mysqld", Value: sandbox.DefaultNodes},
					&cli.IntFlag{Name: "witnesses", Usage: "`NUMBER` of nodes without"},
					&cli.StringFlag{Name: "dir", Usage: "`DIR` for all of it (default: sandbox in $XDG_STATE_HOME/ha or ~/.local/state/ha)"},
					&cli.StringFlag{Name: "mysqld", Usage: "`PATH` of mysqld (default: HA_MYSQLD, PATH, then what make deps got)"},
					&cli.StringFlag{Name: "base-address", Usage: "loopback `ADDRESS` before that of n1", Value: sandbox.DefaultBase},
					&cli.IntFlag{Name: "port", Usage: "`PORT` of the agents", Value: sandbox.DefaultPort},
					&cli.IntFlag{Name: "mysql-port", Usage: "`PORT` of the mysqlds", Value: sandbox.DefaultMySQLPort},
					deadline(2 * time.Minute),
				},
				Action: sandboxUp,
			},
			{
				Name:  "status",
				Usage: "say how the sandbox's cluster is, like ha status",
				Flags: with(outputFlag("table", "wide", "json"), &cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "ask again each second"},
					deadline(locate.DefaultTimeout)),
				Action: sandboxStatus,
			},
			{
				Name:      "kill",
				Usage:     "end a part of a node at once (SIGKILL): mysqld, agent, or host (both)",
				ArgsUsage: "NODE mysqld|agent|host",
				Flags:     with(),
				Action:    sandboxKill,
			},
			{
				Name:      "start",
				Usage:     "start a node again",
				ArgsUsage: "NODE",
				Flags:     with(deadline(time.Minute)),
				Action:    sandboxStart,
			},
			{
				Name:  "add",
				Usage: "add a node with an empty data directory, as a new host joins",
				Description: "Where there is a lot of data it is filled by a copy of another node's, else it\n" +
					"replicates from the first binary log. Returns when it acknowledges.",
				Flags:  with(deadline(10 * time.Minute)),
				Action: sandboxAdd,
			},
			{
				Name:   "down",
				Usage:  "stop everything",
				Flags:  with(&cli.BoolFlag{Name: "purge", Usage: "remove its files too"}),
				Action: sandboxDown,
			},
		},
	}
}

func sandboxUp(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	o := sandbox.Options{Dir: c.String("dir"), Mysqld: c.String("mysqld"), Witnesses: -1}
	// What nobody said must not contradict the sandbox that is there.
	for flag, field := range map[string]*int{
		"nodes": &o.Nodes, "witnesses": &o.Witnesses, "port": &o.Port, "mysql-port": &o.MySQLPort,
	} {
		if c.IsSet(flag) {
			*field = c.Int(flag)
		}
	}
	if c.IsSet("base-address") {
		o.Base = c.String("base-address")
	}
	if err := checkUp(c, o); err != nil {
		return err
	}
	p := newProgress(c.App.ErrWriter)
	o.Progress = p.say
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	began := time.Now()
	s, st, err := sandbox.Up(ctx, o)
	p.done()
	if c.Context.Err() != nil {
		fmt.Fprintln(c.App.ErrWriter, "What was started keeps running: ha sandbox up goes on, ha sandbox down ends it.")
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "healthy after %.1f s\n", time.Since(began).Seconds())
	_, err = fmt.Fprintf(c.App.Writer, "%s\n%s", renderStatus(st, false, colourful(c.App.Writer)), s.Connect(st.Primary))
	return err
}

func checkUp(c *cli.Context, o sandbox.Options) error {
	for flag, port := range map[string]int{"port": o.Port, "mysql-port": o.MySQLPort} {
		if c.IsSet(flag) && (port < 1 || port > 65535) {
			return api.Usage("--%s: %d is not a port", flag, port).WithHint("Use 1 to 65535.")
		}
	}
	if c.IsSet("nodes") && o.Nodes < 1 {
		return api.Usage("--nodes: %d: a sandbox has at least one node with a mysqld", o.Nodes).WithHint("Use 3, or 2 with --witnesses 1.")
	}
	if c.IsSet("witnesses") && o.Witnesses < 0 {
		return api.Usage("--witnesses: %d is less than none", o.Witnesses).WithHint("Use 0 or 1.")
	}
	return checkTimeout(c)
}

func sandboxStatus(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	s, err := sandbox.Find(c.String("dir"), c.String("addr"))
	if err != nil {
		return err
	}
	cluster, err := s.Cluster()
	if err != nil {
		return err
	}
	return showStatus(c, cluster)
}

func sandboxKill(c *cli.Context) error {
	if err := arguments(c, "NODE", "mysqld|agent|host"); err != nil {
		return err
	}
	s, err := sandbox.Find(c.String("dir"), c.String("addr"))
	if err != nil {
		return err
	}
	node, what := c.Args().Get(0), c.Args().Get(1)
	n, err := s.Kill(node, what)
	if err != nil {
		return err
	}
	if n == 0 {
		fmt.Fprintf(c.App.ErrWriter, "%s of %s does not run\n", what, node)
		return nil
	}
	fmt.Fprintf(c.App.ErrWriter, "killed %s of %s\n", what, node)
	return nil
}

func sandboxStart(c *cli.Context) error {
	if err := arguments(c, "NODE"); err != nil {
		return err
	}
	if err := checkTimeout(c); err != nil {
		return err
	}
	s, err := sandbox.Find(c.String("dir"), c.String("addr"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	note, err := s.Start(ctx, c.Args().First())
	if err == nil {
		fmt.Fprintln(c.App.ErrWriter, note)
	}
	return err
}

func sandboxAdd(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if err := checkTimeout(c); err != nil {
		return err
	}
	s, err := sandbox.Find(c.String("dir"), c.String("addr"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	began := time.Now()
	n, err := s.Add(ctx)
	if err != nil {
		return err
	}
	p := newProgress(c.App.ErrWriter)
	_, err = s.AwaitHealthy(ctx, p.say)
	p.done()
	if err == nil {
		fmt.Fprintf(c.App.ErrWriter, "%s acknowledges after %.1f s\n", n.Name, time.Since(began).Seconds())
	}
	return err
}

func sandboxDown(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	s, err := sandbox.Find(c.String("dir"), c.String("addr"))
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(c.App.ErrWriter, "%s: nothing to stop\n", err)
		return nil
	}
	if err != nil {
		return err
	}
	p := newProgress(c.App.ErrWriter)
	err = s.Down(c.Context, c.Bool("purge"), p.say)
	p.done()
	if err == nil {
		fmt.Fprintf(c.App.ErrWriter, "the sandbox in %s is down\n", s.Dir)
	}
	return err
}

func checkTimeout(c *cli.Context) error {
	if d := c.Duration("timeout"); d <= 0 {
		return api.Usage("--timeout: %s is no time to wait", d).WithHint("Use something like 60s.")
	}
	return nil
}

// progress shows what is being done: one line that changes on a terminal, a
// line for each change elsewhere.
type progress struct {
	w        io.Writer
	terminal bool
	last     string
}

func newProgress(w io.Writer) *progress { return &progress{w: w, terminal: isTerminal(w)} }

func (p *progress) say(what string) {
	if what == p.last {
		return
	}
	p.last = what
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", what)
		return
	}
	fmt.Fprintln(p.w, what)
}

// line says something that stays.
func (p *progress) line(what string) {
	p.done()
	p.last = ""
	fmt.Fprintln(p.w, what)
}

// done ends the line.
func (p *progress) done() {
	if p.terminal && p.last != "" {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
