package main

import "github.com/urfave/cli/v2"

func sandboxCommand() *cli.Command {
	return &cli.Command{Name: "sandbox", Usage: "try ha out: a cluster on this machine"}
}
