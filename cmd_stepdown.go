package main

import (
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"ha/agent"
	"ha/agent/api"
	"ha/agent/locate"
)

// stepDownTimeout is how long a switchover is waited for. The unit file gives
// systemd's patience, which has to be longer.
const stepDownTimeout = 20 * time.Second

func stepDownCommand() *cli.Command {
	return &cli.Command{
		Name:  "step-down",
		Usage: "make this host fit to be stopped: hand the primary's role over, or kill mysqld",
		Description: "For the shutdown of a host (deploy/systemd/ha-step-down.service). Where this node is\n" +
			"the primary another one is made it; if that cannot be done in time mysqld is killed\n" +
			"and stays down, as a mysqld that is asked to stop acknowledges commits that nobody\n" +
			"else has. It works through the agent of this host, and without one as far as it can.\n" +
			"Exit codes: 0 the host may be stopped, 1 neither could be done.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "the agent's configuration `FILE`", EnvVars: []string{"HA_CONFIG"}},
			&cli.DurationFlag{Name: "timeout", Usage: "`TIME` to wait for another primary", Value: stepDownTimeout},
		},
		Action: stepDown,
	}
}

func stepDown(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if err := checkTimeout(c); err != nil {
		return err
	}
	var cfg agent.Config
	path := c.String("config")
	for _, usual := range locate.UsualPlaces() {
		if _, err := os.Stat(usual); path == "" && err == nil {
			path = usual
		}
	}
	if path != "" {
		var err error
		if cfg, err = agent.LoadConfig(path); err != nil {
			return err
		}
	}
	cfg.SetDefaults()
	r, err := agent.StepDown(c.Context, cfg, c.Duration("timeout"))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, steppedDown(r))
	return err
}

func steppedDown(r api.StepDownReply) string {
	switch r.Done {
	case api.StepDownSwitched:
		return "stepped down: " + r.Primary + " is the primary"
	case api.StepDownKilled:
		return "mysqld was killed and stays down: " + r.Why
	}
	if r.Primary != "" {
		return "nothing to do: " + r.Primary + " is the primary"
	}
	return "nothing to do: this node is not the primary"
}
