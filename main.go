// Command ha keeps MySQL highly available: it is the agent beside each mysqld
// and the client that people and scripts use.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"ha/agent/api"
	"ha/agent/wire"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second signal is for the impatient: it ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args, os.Stdout, os.Stderr))
}

// run turns a command line into one call and one exit code. stdout is the
// answer, stderr the talk.
func run(ctx context.Context, argv []string, stdout, stderr io.Writer) int {
	app := newApp(stdout, stderr)
	arranged, err := arrange(app, argv)
	if err == nil {
		err = app.RunContext(ctx, arranged)
	}
	code := exitCode(ctx, err)
	complain(stderr, err, code)
	return code
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:  "ha",
		Usage: "keeps MySQL highly available",
		Description: "One binary: the agent beside each mysqld (ha agent) and the command line that\n" +
			"people and scripts use. Exit codes: 0 done, 1 failed, 2 usage or configuration,\n" +
			"3 refused, 4 no quorum, 5 timed out, 6 unreachable, 7 degraded, 8 no primary, 9 busy.",
		Version:                   version,
		HideHelpCommand:           true,
		DisableSliceFlagSeparator: true,
		Writer:                    stdout,
		ErrWriter:                 stderr,
		// Only main exits, with the code that run finds.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
		Commands: []*cli.Command{
			agentCommand(), statusCommand(), switchoverCommand(), failoverCommand(), pauseCommand(), resumeCommand(),
			rebuildCommand(), removeCommand(), configCommand(), eventsCommand(), backupCommand(), restoreCommand(), stepDownCommand(), keygenCommand(), sandboxCommand(), versionCommand(),
		},
	}
	prepare(app.Commands)
	return app
}

// prepare sets what every command has in common.
func prepare(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = usageError
		c.HideHelpCommand = true
		prepare(c.Subcommands)
	}
}

func usageError(c *cli.Context, err error, _ bool) error {
	return api.Usage("%s: %w", c.Command.HelpName, err).WithHint("`%s --help` says what it takes.", c.Command.HelpName)
}

// exitCodes maps errors that have no code of their own.
var exitCodes = []struct {
	err  error
	code int
}{
	{wire.ErrWrongSecret, api.ExitRefused},
	{context.DeadlineExceeded, api.ExitTimeout},
	{os.ErrDeadlineExceeded, api.ExitTimeout},
	{context.Canceled, api.ExitInterrupted},
}

func exitCode(ctx context.Context, err error) int {
	if err == nil {
		return api.ExitOK
	}
	// Whatever went wrong after Ctrl-C went wrong because of it.
	if ctx.Err() != nil {
		return api.ExitInterrupted
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	for _, m := range exitCodes {
		if errors.Is(err, m.err) {
			return m.code
		}
	}
	return api.ExitFailed
}

// healthCode is the exit code of an answer that was given in full: there is
// nothing to complain about.
type healthCode int

func (c healthCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }
func (c healthCode) ExitCode() int { return int(c) }

// complain says what is wrong, then what to do.
func complain(w io.Writer, err error, code int) {
	var health healthCode
	if err == nil || errors.As(err, &health) {
		return
	}
	if code == api.ExitInterrupted {
		fmt.Fprintln(w, "ha: interrupted")
	}
	var e *api.Error
	if !errors.As(err, &e) {
		if code != api.ExitInterrupted {
			fmt.Fprintln(w, withProgram(err.Error()))
		}
		return
	}
	word := ""
	if e.Word != "" {
		word = " [" + e.Word + "]"
	}
	if code != api.ExitInterrupted || !errors.Is(err, context.Canceled) {
		fmt.Fprintln(w, withProgram(err.Error())+word)
	}
	if e.Hint != "" {
		fmt.Fprintf(w, "    %s\n", e.Hint)
	}
}

// withProgram starts a message with the program's name, if it does not yet.
func withProgram(msg string) string {
	if strings.HasPrefix(msg, "ha: ") || strings.HasPrefix(msg, "ha ") {
		return msg
	}
	return "ha: " + msg
}

// noArguments refuses words that a command would not look at.
func noArguments(c *cli.Context) error { return arguments(c) }

// arguments checks that the command has exactly these arguments.
func arguments(c *cli.Context, want ...string) error {
	name := c.Command.HelpName
	if c.NArg() > len(want) {
		return api.Usage("%s: unexpected argument %q", name, c.Args().Get(len(want))).
			WithHint("Usage: %s", usageLine(name, want))
	}
	if c.NArg() < len(want) {
		return api.Usage("%s: %s is missing", name, want[c.NArg()]).
			WithHint("Usage: %s", usageLine(name, want))
	}
	return nil
}

func usageLine(name string, want []string) string {
	for _, w := range want {
		name += " " + w
	}
	return name + " [flags]"
}
