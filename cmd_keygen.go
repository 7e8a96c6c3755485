package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"ha/agent/wire"
)

func keygenCommand() *cli.Command {
	return &cli.Command{
		Name:  "keygen",
		Usage: "print a new cluster secret",
		Description: "The secret is all that an agent needs to prove that it belongs to the cluster.\n" +
			"Keep it in a file that only the agent can read, the same on every host:\n\n" +
			"    (umask 077; ha keygen > /etc/ha/secret)",
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if _, err := fmt.Fprintln(c.App.Writer, wire.NewSecret()); err != nil {
				return err
			}
			fmt.Fprintln(c.App.ErrWriter, "Keep it in a file that only the agent can read (chmod 600), the same on every host of the\n"+
				"cluster, and name that file: secret_file = \"/etc/ha/secret\", or --secret-file.")
			return nil
		},
	}
}
