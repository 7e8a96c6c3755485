package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"ha/agent"
	"ha/agent/api"
	"ha/agent/locate"
)

const (
	// operationTimeout is how long a switchover, failover or removal is waited for.
	operationTimeout = 30 * time.Second
	// askBound is what one agent has to tell how it goes.
	askBound = 3 * time.Second
	// askEvery is how often it is asked.
	askEvery = 50 * time.Millisecond
)

func switchoverCommand() *cli.Command {
	return &cli.Command{
		Name:  "switchover",
		Usage: "make another node the primary, in an orderly way",
		Description: "The next primary is made ready first, then the present one becomes read-only. Where\n" +
			"that does not work in time nothing has changed. Without --to the best node is taken.\n" +
			"Exit codes: 0 done or already so, 1 not done, 3 refused, 5 timed out (`ha events` tells\n" +
			"how it went on), 9 another operation is under way, or a session blocks it.",
		Flags: operationFlags(
			&cli.StringFlag{Name: "to", Usage: "`NODE` (name or id) that is to be the primary"},
			&cli.BoolFlag{Name: "end-blockers", Usage: "end sessions that keep the primary from becoming read-only"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, and change nothing"},
		),
		Action: func(c *cli.Context) error {
			ask := api.Ask{Node: c.String("to"), EndBlockers: c.Bool("end-blockers"), Timeout: c.Duration("timeout") * 2 / 3}
			return operate(c, operation{name: "switchover", path: api.PathSwitchover, ask: ask})
		},
	}
}

func failoverCommand() *cli.Command {
	return &cli.Command{
		Name:  "failover",
		Usage: "make another node the primary, whatever the present one is doing",
		Description: "The epoch of the present primary is closed: by the primary if it answers, else by its\n" +
			"ackers. Where neither can be done it is refused: acknowledged rows would be lost.\n" +
			"--allow-data-loss gives up such rows, and needs --yes or your answer on a terminal.\n" +
			"Exit codes: 0 done, 1 another one was promoted, 3 refused, 5 timed out (`ha events` tells\n" +
			"how it went on), 9 another operation is under way.",
		Flags: operationFlags(
			&cli.StringFlag{Name: "to", Usage: "`NODE` (name or id) that is to be the primary"},
			&cli.BoolFlag{Name: "allow-data-loss", Usage: "promote the best of those that answer, even if acknowledged rows are on others only"},
			&cli.BoolFlag{Name: "yes", Usage: "do not ask whether that is meant"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, and change nothing"},
		),
		Action: func(c *cli.Context) error {
			loss := c.Bool("allow-data-loss")
			if c.Bool("yes") && !loss {
				return api.Usage("ha failover: --yes goes with --allow-data-loss").WithHint("Without it nothing is asked.")
			}
			o := operation{name: "failover", path: api.PathFailover, ask: api.Ask{Node: c.String("to"), AllowLoss: loss}}
			if loss && !c.Bool("yes") && !c.Bool("dry-run") {
				if !isTerminalInput(c.App.Reader) {
					return api.Usage("ha failover: --allow-data-loss needs --yes where nobody can be asked").
						WithHint("`ha failover --allow-data-loss --dry-run` says what may be lost.")
				}
				o.confirm = true
			}
			return operate(c, o)
		},
	}
}

func removeCommand() *cli.Command {
	return &cli.Command{
		Name:      "remove",
		Usage:     "take a node out of the cluster",
		ArgsUsage: "NODE",
		Description: "It leaves the ack set, then it is forgotten. Its agent and mysqld keep running, read-only;\n" +
			"to come back it is started with an empty data_dir and --join, as a new node.\n" +
			"Exit codes: 0 done or already so, 3 refused: the primary, the last node with a mysqld, or\n" +
			"one without which nothing could be decided or acknowledged, 5 timed out.",
		Flags: operationFlags(
			&cli.BoolFlag{Name: "gone", Usage: "its host is gone for good: do not wait for its agent"},
		),
		Action: func(c *cli.Context) error {
			if err := arguments(c, "NODE"); err != nil {
				return err
			}
			return operate(c, operation{name: "remove", path: api.PathRemove, ask: api.Ask{Node: c.Args().First(), Gone: c.Bool("gone")}})
		},
	}
}

func operationFlags(more ...cli.Flag) []cli.Flag {
	return askFlags(operationTimeout, append(more, outputFlag("text", "json"))...)
}

// operation is something that is begun and then waited for.
type operation struct {
	name    string
	path    string
	ask     api.Ask
	confirm bool // a person is asked before rows may be lost
}

// operate has an operation begun by the coordinator and waits for its outcome,
// which any agent can tell: the coordinator may change meanwhile.
func operate(c *cli.Context, o operation) error {
	removing := o.path == api.PathRemove
	if !removing {
		if err := noArguments(c); err != nil {
			return err
		}
	}
	format, err := output(c, "text", "json")
	if err != nil {
		return err
	}
	client, err := clientOf(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	talk := newProgress(c.App.ErrWriter)
	defer talk.done()

	if !removing {
		// First it is only looked at: what is begun then is begun once, also where
		// an answer is lost and another agent is asked.
		plan, err := o.begin(ctx, client, true)
		if err != nil || plan.Already || c.Bool("dry-run") {
			return o.answerPlan(c, plan, format, err)
		}
		if err := o.warn(ctx, c, plan); err != nil {
			return err
		}
		o.ask.Node, o.ask.Seen = string(plan.Target), plan.Seen
	}
	begun, err := o.begin(ctx, client, false)
	if err != nil {
		return o.unknown(c.Context, err)
	}
	if begun.Already {
		return o.answerPlan(c, begun, format, nil)
	}
	out, err := o.await(ctx, client, begun, talk)
	talk.done()
	if err != nil {
		return o.unfinished(c, err)
	}
	return o.answer(c, begun, out, format)
}

func (o *operation) begin(ctx context.Context, client *api.Client, dryRun bool) (api.Begun, error) {
	o.ask.DryRun = dryRun
	var b api.Begun
	err := client.Post(ctx, o.path, o.ask, &b)
	return b, err
}

// warn says what may be lost, and waits for a yes where nobody gave one before.
func (o *operation) warn(ctx context.Context, c *cli.Context, plan api.Begun) error {
	if !o.ask.AllowLoss {
		return nil
	}
	w := c.App.ErrWriter
	if plan.Loss == "" {
		fmt.Fprintf(w, "epoch %d can be closed: nothing that was acknowledged is lost, unless more hosts fail now\n", plan.Epoch)
	} else {
		for _, step := range plan.Plan {
			fmt.Fprintln(w, step)
		}
		fmt.Fprintln(w, "MAY BE LOST:", plan.Loss)
	}
	if !o.confirm {
		return nil
	}
	fmt.Fprint(w, "Type yes to go on: ")
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(c.App.Reader).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(w)
		return fmt.Errorf("nothing was begun: %w", ctx.Err())
	case a := <-answer:
		if a != "yes" {
			return api.Failed("ha failover: not confirmed: nothing was begun")
		}
	}
	return nil
}

// await asks until it is done. What happens is said meanwhile.
func (o *operation) await(ctx context.Context, client *api.Client, b api.Begun, talk *progress) (api.Outcome, error) {
	q := url.Values{"index": {strconv.FormatUint(b.Index, 10)}, "target": {string(b.Target)}}
	if o.path == api.PathRemove {
		q = url.Values{"index": {strconv.FormatUint(b.Index, 10)}, "removed": {string(b.Target)}}
	}
	var told uint64
	for n := 0; ; n++ {
		var out api.Outcome
		actx, cancel := context.WithTimeout(ctx, askBound)
		_, err := client.Get(actx, api.PathRequest+"?"+q.Encode(), &out)
		cancel()
		switch {
		case ctx.Err() != nil:
			return out, ctx.Err()
		case err != nil:
			talk.say("no agent answers; it goes on meanwhile")
		}
		for _, e := range out.Events {
			if e.Index > told {
				told = e.Index
				if !out.Done || !strings.HasPrefix(out.Text, e.Text) { // else it is the answer
					talk.line(e.Text)
				}
			}
		}
		if err == nil && out.Done {
			return out, nil
		}
		if out.Doing != "" {
			talk.say(out.Doing)
		}
		if o.ask.Gone && n%10 == 9 { // a step further, as soon as nothing rests on it
			actx, cancel := context.WithTimeout(ctx, askBound)
			var again *api.Error
			if _, err := o.begin(actx, client, false); errors.As(err, &again) && again.Code == api.ExitRefused {
				cancel()
				return out, err
			}
			cancel()
		}
		select {
		case <-ctx.Done():
			return out, ctx.Err()
		case <-time.After(askEvery):
		}
	}
}

// answerPlan prints what would be done, or that nothing is to be done.
func (o *operation) answerPlan(c *cli.Context, b api.Begun, format string, err error) error {
	if err != nil {
		return err
	}
	w := c.App.Writer
	if format == "json" {
		return printJSON(w, b)
	}
	if b.Already {
		_, err = fmt.Fprintln(w, b.Text)
		return err
	}
	var text strings.Builder
	to := b.Name
	if to == "" {
		to = "the best node"
	}
	fmt.Fprintf(&text, "%s from %s to %s would go like this:\n", o.name, b.Primary, to)
	for i, step := range b.Plan {
		fmt.Fprintf(&text, "%2d. %s\n", i+1, step)
	}
	if b.Loss != "" {
		fmt.Fprintf(&text, "MAY BE LOST: %s\n", b.Loss)
	}
	text.WriteString("Nothing was changed.\n")
	_, err = io.WriteString(w, text.String())
	return err
}

func (o *operation) answer(c *cli.Context, b api.Begun, out api.Outcome, format string) error {
	text := out.Text
	if o.path == api.PathRemove && out.OK {
		text = b.Name + " was taken out of the cluster"
	} else if out.OK && out.TookMS > 0 {
		text += fmt.Sprintf(" (was %s; %.2f s)", b.Primary, float64(out.TookMS)/1000)
	}
	var err error
	switch {
	case format == "json":
		err = printJSON(c.App.Writer, out)
	case out.OK:
		_, err = fmt.Fprintln(c.App.Writer, text)
	}
	if out.OK || err != nil {
		return err
	}
	e := api.Errorf(out.Exit, "%s", out.Text)
	e.Word = out.Code
	return e.WithHint("%s", out.Next)
}

// unknown is the error of a request whose answer did not come: it may have been
// recorded.
func (o *operation) unknown(ctx context.Context, err error) error {
	var own *api.Error
	if ctx.Err() == nil && (!errors.As(err, &own) || own.Code != api.ExitTimeout) {
		return err
	}
	return o.goesOn(err)
}

// unfinished is the error of an operation that is not waited for any longer.
func (o *operation) unfinished(c *cli.Context, err error) error {
	var own *api.Error
	switch {
	case c.Context.Err() != nil:
		return o.goesOn(c.Context.Err())
	case errors.As(err, &own):
		return err
	}
	return o.goesOn(fmt.Errorf("not done after %s; the outcome is unknown: %w", c.Duration("timeout"), err))
}

func (o *operation) goesOn(err error) error {
	e := api.Timeout("%w", err)
	next := "`ha events` and `ha status` tell how it ends."
	if o.path == api.PathRemove {
		next = "the same command waits for it again; `ha status` tells how far it is."
	}
	return e.WithHint("The %s goes on in the agents: %s", o.name, next)
}

// clientOf makes the client of a command with clientFlags.
func clientOf(c *cli.Context) (*api.Client, error) {
	if err := checkTimeout(c); err != nil {
		return nil, err
	}
	cluster, err := locate.Find(locate.Options{Config: c.String("config"), Addr: c.String("addr")})
	if err != nil {
		return nil, err
	}
	return cluster.Client()
}

func isTerminalInput(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && isTerminal(f)
}

// --- what is done at once.

func pauseCommand() *cli.Command {
	return switchCommand("pause", "true", "start no failover by itself, until ha resume",
		"For maintenance. Leases, replication, acknowledgements and what you ask for yourself\n"+
			"(switchover, failover) go on. Pausing twice is no error.",
		"paused: no failover starts by itself", "already paused")
}

func resumeCommand() *cli.Command {
	return switchCommand("resume", "false", "fail over by itself again, after ha pause",
		"Resuming what is not paused is no error.",
		"resumed: failover is automatic", "already resumed: it is not paused")
}

func switchCommand(name, paused, usage, description, done, already string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, Description: description,
		Flags: askFlags(locate.DefaultTimeout, outputFlag("text", "json")),
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			return setPolicy(c, []string{"paused=" + paused}, func(p api.Policy) string {
				if len(p.Changed) == 0 {
					return already + "\n"
				}
				return done + "\n"
			})
		},
	}
}

func configCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "show or change the cluster's policy",
		Description: "The policy is one for the whole cluster and lives in the replicated state; what is of\n" +
			"one host is in its agent's file (docs/CONFIG.md).",
		Subcommands: []*cli.Command{
			{
				Name:  "show",
				Usage: "show all settings, and which are not as they come",
				Flags: askFlags(locate.DefaultTimeout, outputFlag("table", "json")),
				Action: func(c *cli.Context) error {
					if err := noArguments(c); err != nil {
						return err
					}
					return showPolicy(c)
				},
			},
			{
				Name:        "set",
				Usage:       "change settings: all of those given, or none",
				ArgsUsage:   "NAME=VALUE...",
				Description: "Prints what was changed. To change nothing is no error.",
				Flags:       askFlags(locate.DefaultTimeout, outputFlag("text", "json")),
				Action: func(c *cli.Context) error {
					if c.NArg() == 0 {
						return arguments(c, "NAME=VALUE...")
					}
					set := c.Args().Slice()
					if err := agent.CheckSettings(set); err != nil {
						return err
					}
					return setPolicy(c, set, changes)
				},
			},
		},
	}
}

func setPolicy(c *cli.Context, set []string, text func(api.Policy) string) error {
	format, err := output(c, "text", "json")
	if err != nil {
		return err
	}
	client, err := clientOf(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	var p api.Policy
	if err := client.Post(ctx, api.PathPolicy, api.SetPolicy{Set: set}, &p); err != nil {
		return err
	}
	if format == "json" {
		return printJSON(c.App.Writer, p)
	}
	_, err = io.WriteString(c.App.Writer, text(p))
	return err
}

func changes(p api.Policy) string {
	if len(p.Changed) == 0 {
		return "nothing to change: it is so already\n"
	}
	var b strings.Builder
	for _, ch := range p.Changed {
		fmt.Fprintf(&b, "%s: %s -> %s\n", ch.Name, ch.From, ch.To)
	}
	return b.String()
}

func showPolicy(c *cli.Context) error {
	var p api.Policy
	return show(c, api.PathPolicy, &p, func() string { return renderPolicy(p) })
}

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name:  "events",
		Usage: "tell what happened to the cluster, the newest last",
		Description: "The last 300 events are kept, on every node. An agent answers from its own copy where\n" +
			"no coordinator does.",
		Flags: askFlags(locate.DefaultTimeout, outputFlag("table", "json"),
			&cli.IntFlag{Name: "number", Aliases: []string{"n"}, Usage: "`NUMBER` of events", Value: 20}),
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if n := c.Int("number"); n < 1 {
				return api.Usage("--number: %d is not a number of events", n).WithHint("Use 1 or more; 300 are kept.")
			}
			var e api.Events
			return show(c, api.PathEvents+"?n="+strconv.Itoa(c.Int("number")), &e, func() string { return renderEvents(e, time.Now()) })
		},
	}
}

// show asks any agent for a document and prints it.
func show[T any](c *cli.Context, path string, doc *T, table func() string) error {
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
	if _, err := client.Get(ctx, path, doc); err != nil {
		return err
	}
	if format == "json" {
		return printJSON(c.App.Writer, doc)
	}
	_, err = io.WriteString(c.App.Writer, table())
	return err
}
