package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"ha/agent/api"
	"ha/agent/backup"
	"ha/agent/locate"
)

func backupCommand() *cli.Command {
	return &cli.Command{
		Name:  "backup",
		Usage: "take a backup; list, verify and delete backups",
		Description: "A backup is a directory below --to: the data as they are, ready to be started on, and\n" +
			"manifest.json with GTID set, versions, sizes and SHA-256 sums. The donor copies its data on\n" +
			"its own disk with CLONE, opens the copy once, and sends it. The backup gets its name when it\n" +
			"is whole and durable.\n" +
			"Exit codes: 0 done, 1 failed, 3 refused (HA-NO-SPACE, HA-NO-DONOR), 6 no agent answers,\n" +
			"9 the donor is busy, 130 interrupted. But for 0 nothing is left.",
		Flags: clientFlags(
			&cli.StringFlag{Name: "to", Usage: "`DIR` that keeps the backups"},
			&cli.StringFlag{Name: "from", Value: backup.Best, Usage: "`NODE` that gives it, or best: a replica with little lag"},
			&cli.StringFlag{Name: "throttle", Usage: "`RATE` on the network in bytes per second, like 100MB"},
			outputFlag("text", "json"),
		),
		Action: takeBackup,
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list the backups in DIR, and what interrupted ones left", ArgsUsage: "DIR",
				Flags:  []cli.Flag{outputFlag("table", "json")},
				Action: listBackups,
			},
			{
				Name: "verify", Usage: "read all of a backup and compare it with its manifest", ArgsUsage: "DIR/NAME",
				Description: "Exit codes: 0 it is what was taken, 1 it is not: the file that differs is named.",
				Action:      verifyBackup,
			},
			{
				Name: "delete", Usage: "delete all but the newest whole backups of each cluster", ArgsUsage: "DIR",
				Description: "What interrupted backups left is deleted too. Broken ones are not.",
				Flags:       []cli.Flag{&cli.IntFlag{Name: "keep", Usage: "`NUMBER` of backups to keep, 1 or more"}},
				Action:      deleteBackups,
			},
		},
	}
}

func takeBackup(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "text", "json")
	if err != nil {
		return err
	}
	dir := c.String("to")
	if dir == "" {
		return api.Usage("ha backup: --to is missing").WithHint("Name the directory that keeps the backups: ha backup --to DIR")
	}
	rate, err := bytesOf(c.String("throttle"))
	if err != nil {
		return err
	}
	if err := checkTimeout(c); err != nil {
		return err
	}
	cluster, err := locate.Find(locate.Options{Config: c.String("config"), Addr: c.String("addr")})
	if err != nil {
		return err
	}
	client, err := cluster.Client()
	if err != nil {
		return err
	}
	st, err := askStatus(c.Context, client, c.Duration("timeout"))
	if err != nil {
		return err
	}
	donor, why, err := backup.Choose(st, c.String("from"))
	if err != nil {
		return err
	}
	talk := newProgress(c.App.ErrWriter)
	defer talk.done()
	talk.line(fmt.Sprintf("backup of %s: %s", donor.Name, why))
	left, err := backup.Leftovers(dir)
	if err != nil {
		return api.Failed("look for what is in %s: %w", dir, err)
	}
	for _, name := range left {
		talk.line(fmt.Sprintf("%s is left of an interrupted backup: ha backup delete removes it", filepath.Join(dir, name)))
	}
	stream, err := cluster.Stream()
	if err != nil {
		return err
	}
	defer stream.CloseIdleConnections()
	m, err := backup.Fetch(c.Context, stream, donor.Address, dir, api.BackupRequest{Throttle: rate}, meter(talk))
	talk.done()
	if err != nil {
		return err
	}
	if format == "json" {
		return printJSON(c.App.Writer, m)
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s\n%s in %d files from %s (MySQL %s), %.1f s, GTID set %s\n", filepath.Join(dir, m.Name),
		sizeText(m.Bytes), len(m.Files), m.Donor, m.MySQL, m.Ended.Sub(m.Began).Seconds(), m.Executed)
	return err
}

// meter says how a copy goes: on a terminal always, else when a phase begins and
// about each ten seconds.
func meter(talk *progress) func(backup.Progress) {
	phase := ""
	var began, told time.Time
	return func(p backup.Progress) {
		now := time.Now()
		if p.Phase != phase {
			phase, began, told = p.Phase, now, time.Time{}
		}
		every := 10 * time.Second
		if talk.terminal {
			every = 200 * time.Millisecond
		}
		if now.Sub(told) < every {
			return
		}
		told = now
		text := p.Phase
		switch {
		case p.Phase == backup.PhaseReplay:
			text += fmt.Sprintf(" %d of %d transactions", p.Done, p.Total)
		case p.Total > 0:
			text += fmt.Sprintf(" %s of %s", sizeText(p.Done), sizeText(p.Total))
			if took := now.Sub(began).Seconds(); took > 1 && p.Done > 0 {
				rate := float64(p.Done) / took
				left := max(float64(p.Total-p.Done), 0) / rate
				text += fmt.Sprintf(", %s/s, %.0f s left", sizeText(int64(rate)), left)
			}
		}
		talk.say(text)
	}
}

func sizeText(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MB", n>>20)
	}
	return fmt.Sprintf("%d kB", n>>10)
}

// bytesOf reads a number of bytes, like 100MB; "" is 0.
func bytesOf(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	number, factor := strings.ToUpper(strings.TrimSpace(text)), int64(1)
	number = strings.TrimSuffix(strings.TrimSuffix(number, "/S"), "B")
	for suffix, f := range map[string]int64{"K": 1 << 10, "M": 1 << 20, "G": 1 << 30} {
		if n, ok := strings.CutSuffix(number, suffix); ok {
			number, factor = n, f
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 1 || n > (1<<62)/factor {
		return 0, api.Usage("--throttle: %q is no rate", text).WithHint("Use bytes per second, like 100MB.")
	}
	return n * factor, nil
}

func listBackups(c *cli.Context) error {
	if err := arguments(c, "DIR"); err != nil {
		return err
	}
	format, err := output(c, "table", "json")
	if err != nil {
		return err
	}
	list, err := backup.List(c.Args().First())
	if err != nil {
		return err
	}
	if format == "json" {
		return printJSON(c.App.Writer, list)
	}
	rows := make([]table.Row, 0, len(list))
	for _, b := range list {
		if b.State != "whole" {
			rows = append(rows, table.Row{b.Name, b.State, "", "", "", b.Why})
			continue
		}
		rows = append(rows, table.Row{b.Name, b.State, sizeText(b.Bytes), b.Donor, b.MySQL, b.Executed})
	}
	if len(rows) == 0 {
		_, err = fmt.Fprintln(c.App.Writer, "no backups")
		return err
	}
	_, err = io.WriteString(c.App.Writer, plainTable(table.Row{"name", "state", "size", "donor", "mysql", "gtid executed"}, rows)+"\n")
	return err
}

func verifyBackup(c *cli.Context) error {
	if err := arguments(c, "DIR/NAME"); err != nil {
		return err
	}
	talk := newProgress(c.App.ErrWriter)
	m, err := backup.Verify(c.Context, c.Args().First(), meter(talk))
	talk.done()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s is whole: %s in %d files\n", c.Args().First(), sizeText(m.Bytes), len(m.Files))
	return err
}

func deleteBackups(c *cli.Context) error {
	if err := arguments(c, "DIR"); err != nil {
		return err
	}
	if c.Int("keep") < 1 {
		return api.Usage("ha backup delete: --keep is to be 1 or more").WithHint("The newest whole backup is never deleted.")
	}
	if _, err := os.Stat(c.Args().First()); errors.Is(err, os.ErrNotExist) {
		return api.Usage("there is no directory %s", c.Args().First())
	}
	deleted, err := backup.Delete(c.Args().First(), c.Int("keep"))
	for _, d := range deleted {
		fmt.Fprintf(c.App.Writer, "deleted %s: %s\n", d.Name, d.Why)
	}
	if err == nil && len(deleted) == 0 {
		_, err = fmt.Fprintln(c.App.Writer, "nothing to delete")
	}
	return err
}
