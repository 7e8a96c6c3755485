package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"ha/agent/api"
	"ha/agent/locate"
)

const (
	// rebuildEvery is how often it is asked how far a copy is.
	rebuildEvery = 200 * time.Millisecond
	// knownBound is how long an agent may need to know of what was recorded.
	knownBound = 10 * time.Second
)

func rebuildCommand() *cli.Command {
	return &cli.Command{
		Name:  "rebuild",
		Usage: "copy a replica's data anew from another node",
		Description: "The copy is made beside the old data and put in their place when it is whole: until\n" +
			"then the node has its old ones. It is done by the agents; this command only watches.\n" +
			"CLONE is MySQL's own. With another engine its tool is run on both hosts, and the agents\n" +
			"stream what it writes.\n" +
			"Refused for the primary, for an acker that is needed, from a node that has diverged,\n" +
			"across MySQL versions, where there is no room, or a host lacks the engine's tool.\n" +
			"Exit codes: 0 done (--detach: begun), 1 failed or canceled, 3 refused, 5 not done within\n" +
			"--wait, 9 a donor or the cluster is busy, 130 interrupted: it goes on in the agents.",
		Flags: askFlags(locate.DefaultTimeout,
			&cli.StringFlag{Name: "node", Usage: "`NODE` (name or id) whose data are replaced; default: that of the agent that is asked"},
			&cli.StringFlag{Name: "from", Usage: "`NODE` to copy from, or best"},
			&cli.StringFlag{Name: "engine", Usage: "`ENGINE` that makes the copy: " + strings.Join(api.Engines(), ", ") + "; default: the first of them that both hosts can"},
			&cli.StringFlag{Name: "throttle", Usage: "most bytes per second, like 50MB; the default is as fast as it goes"},
			&cli.BoolFlag{Name: "in-place", Usage: "remove the old data first: for a disk without room for both"},
			&cli.BoolFlag{Name: "detach", Usage: "do not wait for its end"},
			&cli.DurationFlag{Name: "wait", Usage: "`TIME` to wait for its end; 0: for ever"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be done and why from there, and change nothing"},
			outputFlag("text", "json"),
		),
		Action: rebuild,
		Subcommands: []*cli.Command{
			{
				Name:        "status",
				Usage:       "tell of the copies that are asked for, made, or were made last",
				Description: "With --node and --follow it waits for the end of that node's like ha rebuild does.",
				Flags: askFlags(locate.DefaultTimeout,
					&cli.StringFlag{Name: "node", Usage: "only that `NODE`"},
					&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "wait for its end"},
					&cli.DurationFlag{Name: "wait", Usage: "`TIME` to wait for it; 0: for ever"},
					outputFlag("table", "json")),
				Action: rebuildStatus,
			},
			{
				Name:        "cancel",
				Usage:       "end a rebuild: the node keeps its old data",
				Description: "Also one that began by itself, which does not begin again before you ask for it.\nTo cancel what is not under way is no error.",
				Flags: askFlags(locate.DefaultTimeout,
					&cli.StringFlag{Name: "node", Usage: "`NODE` whose rebuild is ended; default: that of the agent that is asked"},
					outputFlag("text", "json")),
				Action: rebuildCancel,
			},
		},
	}
}

func rebuild(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "text", "json")
	if err != nil {
		return err
	}
	ask, err := rebuildAsk(c)
	if err != nil {
		return err
	}
	client, err := clientOf(c)
	if err != nil {
		return err
	}
	if ask.Node, err = nodeMeant(c, client); err != nil {
		return err
	}
	// First it is only looked at: what is begun then is begun once, also where an
	// answer is lost and another agent is asked.
	plan, err := postRebuild(c, client, api.PathRebuild, ask, true)
	if err != nil || c.Bool("dry-run") {
		return showPlan(c, plan, format, err)
	}
	ask.Node, ask.Seen = string(plan.Node), plan.Seen
	begun, err := postRebuild(c, client, api.PathRebuild, ask, false)
	if err != nil {
		if c.Context.Err() != nil {
			fmt.Fprintf(c.App.ErrWriter, "it may have begun all the same; %s\n", comeBack(plan.Name))
		}
		return err
	}
	if c.Bool("detach") {
		if format == "json" {
			return printJSON(c.App.Writer, begun)
		}
		_, err := fmt.Fprintf(c.App.Writer, "the rebuild of %s from %s has begun; %s\n", begun.Name, begun.Donor, comeBack(begun.Name))
		return err
	}
	return watchRebuild(c, client, string(begun.Node), begun.Name, begun.Index, format == "json")
}

func rebuildAsk(c *cli.Context) (api.AskRebuild, error) {
	ask := api.AskRebuild{By: whoAsks(), From: c.String("from")}
	switch ask.From {
	case "":
		return ask, api.Usage("ha rebuild: --from is missing").WithHint("--from best takes the best donor; --dry-run says which that is.")
	case "best":
		ask.From = ""
	}
	var err error
	if name := c.String("engine"); name != "" {
		if ask.Engine, err = api.Engine(name); err != nil {
			return ask, err
		}
	}
	ask.InPlace = c.Bool("in-place")
	ask.Throttle, err = parseRate(c.String("throttle"))
	return ask, err
}

// whoAsks is who the others see in the events.
func whoAsks() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// parseRate reads a rate like 100MB, 50MiB/s or 1000000, in bytes per second.
func parseRate(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	word := strings.TrimSuffix(strings.ToLower(strings.TrimSpace(s)), "/s")
	unit := int64(1)
	for _, u := range []struct {
		suffix string
		unit   int64
	}{{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"kb", 1000}, {"mb", 1000_000}, {"gb", 1000_000_000}, {"k", 1000}, {"m", 1000_000}, {"g", 1000_000_000}} {
		if rest, ok := strings.CutSuffix(word, u.suffix); ok {
			word, unit = strings.TrimSpace(rest), u.unit
			break
		}
	}
	n, err := strconv.ParseFloat(word, 64)
	if err != nil || n*float64(unit) < 1<<20 || n*float64(unit) > 1<<40 {
		return 0, api.Usage("--throttle: %q is not a rate", s).WithHint("Give bytes per second, 1MiB at least: 50MB, 200MiB.")
	}
	return int64(n * float64(unit)), nil
}

// nodeMeant is the one that is named, else that of the agent which is asked first.
func nodeMeant(c *cli.Context, client *api.Client) (string, error) {
	if name := c.String("node"); name != "" {
		return name, nil
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	var p api.Ping
	first := api.Client{HTTP: client.HTTP, Addrs: client.Addrs[:min(1, len(client.Addrs))]}
	if _, err := first.Get(ctx, api.PathPing, &p); err != nil {
		return "", fmt.Errorf("which node is meant? %w", err)
	}
	return string(p.Node), nil
}

func postRebuild(c *cli.Context, client *api.Client, path string, ask api.AskRebuild, dryRun bool) (api.RebuildBegun, error) {
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	ask.DryRun = dryRun
	var b api.RebuildBegun
	err := client.Post(ctx, path, ask, &b)
	return b, err
}

func showPlan(c *cli.Context, b api.RebuildBegun, format string, err error) error {
	if err != nil {
		return err
	}
	if format == "json" {
		return printJSON(c.App.Writer, b)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "rebuild of %s from %s would go like this:\n", b.Name, b.Donor)
	for i, step := range b.Plan {
		fmt.Fprintf(&text, "%2d. %s\n", i+1, step)
	}
	text.WriteString("The donor:\n")
	for _, line := range b.Choice {
		fmt.Fprintf(&text, "  - %s\n", line)
	}
	text.WriteString("Nothing was changed.\n")
	_, err = io.WriteString(c.App.Writer, text.String())
	return err
}

func comeBack(name string) string {
	return fmt.Sprintf("`ha rebuild status --node %s --follow` comes back to it, `ha rebuild cancel --node %s` ends it", name, name)
}

// watchRebuild waits for the end of a copy and shows how far it is.
func watchRebuild(c *cli.Context, client *api.Client, node string, name string, index uint64, asJSON bool) error {
	ctx, cancel := c.Context, context.CancelFunc(func() {})
	if wait := c.Duration("wait"); wait > 0 {
		ctx, cancel = context.WithTimeout(ctx, wait)
	}
	defer cancel()
	view := newCopyView(c.App.ErrWriter)
	end, err := awaitRebuild(ctx, client, node, index, view)
	view.end()
	switch {
	case c.Context.Err() != nil:
		return api.Timeout("%w", c.Context.Err()).WithHint("The rebuild of %s goes on in the agents: %s.", name, comeBack(name))
	case errors.Is(err, context.DeadlineExceeded):
		return api.Timeout("the rebuild of %s is not done after %s", name, c.Duration("wait")).WithHint("It goes on: %s.", comeBack(name))
	case err != nil:
		return err
	}
	if asJSON {
		if err := printJSON(c.App.Writer, end); err != nil {
			return err
		}
	}
	switch {
	case end.OK && asJSON:
		return nil
	case end.OK:
		_, err := fmt.Fprintln(c.App.Writer, copyEnded(end))
		return err
	case end.Canceled:
		return api.Failed("the rebuild of %s was canceled %s", name, end.Err).WithHint("%s: %s. `ha status` says how it is.", name, end.Holds)
	}
	return api.Failed("the rebuild of %s failed: %s", name, end.Err).WithHint("%s: %s. `ha status` says how it is; the log of its agent says more.", name, end.Holds)
}

// awaitRebuild asks until it is done.
func awaitRebuild(ctx context.Context, client *api.Client, node string, index uint64, view copyView) (api.RebuildStatus, error) {
	began := time.Now()
	for {
		var all api.Rebuilds
		actx, cancel := context.WithTimeout(ctx, askBound)
		_, err := client.Get(actx, api.PathRebuild, &all)
		cancel()
		st, found := rebuildOf(all, node)
		switch {
		case ctx.Err() != nil:
			return st, ctx.Err()
		case err != nil:
			view.say("no agent answers; it goes on meanwhile")
		case found && st.Wish == index:
			if st.Done {
				return st, nil
			}
			view.show(st)
		case all.LastSeen < index && time.Since(began) < knownBound:
			view.say("waiting for an agent that knows of it")
		default:
			return st, api.Timeout("what became of it is forgotten: another rebuild came after it, or the node is gone").WithHint("`ha events` tells what happened.")
		}
		select {
		case <-ctx.Done():
			return st, ctx.Err()
		case <-time.After(rebuildEvery):
		}
	}
}

func rebuildOf(all api.Rebuilds, node string) (api.RebuildStatus, bool) {
	for _, st := range all.Rebuilds {
		if string(st.Node) == node || st.Name == node {
			return st, true
		}
	}
	return api.RebuildStatus{}, false
}

func rebuildStatus(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "table", "json")
	if err != nil {
		return err
	}
	client, err := clientOf(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	var all api.Rebuilds
	if _, err := client.Get(ctx, api.PathRebuild, &all); err != nil {
		return err
	}
	if name := c.String("node"); name != "" || c.Bool("follow") {
		if name == "" {
			if name, err = nodeMeant(c, client); err != nil {
				return err
			}
		}
		st, found := rebuildOf(all, name)
		if c.Bool("follow") && found && !st.Done {
			return watchRebuild(c, client, string(st.Node), st.Name, st.Wish, format == "json")
		}
		if all.Rebuilds = []api.RebuildStatus{}; found {
			all.Rebuilds = append(all.Rebuilds, st)
		}
	}
	if format == "json" {
		return printJSON(c.App.Writer, all)
	}
	_, err = io.WriteString(c.App.Writer, renderRebuilds(all))
	return err
}

func rebuildCancel(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "text", "json")
	if err != nil {
		return err
	}
	client, err := clientOf(c)
	if err != nil {
		return err
	}
	ask := api.AskRebuild{By: whoAsks()}
	if ask.Node, err = nodeMeant(c, client); err != nil {
		return err
	}
	b, err := postRebuild(c, client, api.PathRebuildCancel, ask, false)
	switch {
	case err != nil:
		return err
	case format == "json":
		return printJSON(c.App.Writer, b)
	case b.Already:
		_, err = fmt.Fprintln(c.App.Writer, b.Text)
	default:
		_, err = fmt.Fprintf(c.App.Writer, "the rebuild of %s is canceled: what was copied is removed, and its old data stay if they were not removed first (--in-place)\n", b.Name)
	}
	return err
}
