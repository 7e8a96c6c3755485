package main

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"ha/agent/api"
)

// leaves lists every command that does something, with its path.
func leaves(commands []*cli.Command, path ...string) map[string]*cli.Command {
	out := map[string]*cli.Command{}
	for _, c := range commands {
		p := append(slices.Clone(path), c.Name)
		if len(c.Subcommands) == 0 {
			out[strings.Join(p, " ")] = c
		}
		for name, leaf := range leaves(c.Subcommands, p...) {
			out[name] = leaf
		}
	}
	return out
}

// Each flag of each command means the same before and after the arguments, and
// with = or a blank.
func TestFlagsMayStandAnywhere(t *testing.T) {
	for path, leaf := range leaves(newApp(io.Discard, io.Discard).Commands) {
		for _, f := range leaf.Flags {
			t.Run(path+" --"+f.Names()[0], func(t *testing.T) {
				name, value := "--"+f.Names()[0], ""
				switch f.(type) {
				case *cli.BoolFlag:
				case *cli.IntFlag:
					value = "7"
				case *cli.DurationFlag:
					value = "7s"
				default:
					value = "x"
				}
				words := strings.Fields(path)
				forms := [][]string{{name}}
				if value != "" {
					forms = [][]string{{name, value}, {name + "=" + value}}
				}
				for _, form := range forms {
					for _, argv := range [][]string{
						slices.Concat([]string{"ha"}, words, form, []string{"A", "B"}),
						slices.Concat([]string{"ha"}, words, []string{"A"}, form, []string{"B"}),
						slices.Concat([]string{"ha"}, words, []string{"A", "B"}, form),
					} {
						checkSeen(t, argv, path, f.Names()[0])
					}
				}
			})
		}
	}
}

// checkSeen runs argv with the command's action replaced by one that looks.
func checkSeen(t *testing.T, argv []string, path, flag string) {
	t.Helper()
	app := newApp(io.Discard, io.Discard)
	ran := false
	leaves(app.Commands)[path].Action = func(c *cli.Context) error {
		ran = true
		if !c.IsSet(flag) || !slices.Equal(c.Args().Slice(), []string{"A", "B"}) {
			t.Errorf("%v: flag set %v, arguments %v", argv, c.IsSet(flag), c.Args().Slice())
		}
		return nil
	}
	arranged, err := arrange(app, argv)
	if err == nil {
		err = app.RunContext(t.Context(), arranged)
	}
	if err != nil || !ran {
		t.Errorf("%v: ran %v, %v", argv, ran, err)
	}
}

func TestArrange(t *testing.T) {
	for _, tt := range []struct{ in, out, err string }{
		{"ha status", "ha status", ""},
		{"ha status -w --addr a:1", "ha status -w --addr a:1", ""},
		{"ha sandbox kill n1 mysqld --dir d", "ha sandbox kill --dir d -- n1 mysqld", ""},
		{"ha sandbox kill n1 -- -x", "ha sandbox kill -- n1 -x", ""},
		{"ha agent --join a --join b,c", "ha agent --join a --join b,c", ""},
		{"ha help", "ha --help", ""},
		{"ha help sandbox up", "ha sandbox up --help", ""},
		{"ha sandbox --help", "ha sandbox --help", ""},
		{"ha --version", "ha --version", ""},

		{"ha", "", "a command is missing"},
		{"ha sandbox", "", "a command is missing"},
		{"ha statsu", "", "unknown command"},
		{"ha --addr x status", "", "comes before the command"},
		{"ha status --adr x", "", "unknown flag --adr"},
		{"ha status --addr", "", "needs a value"},
	} {
		got, err := arrange(newApp(io.Discard, io.Discard), strings.Fields(tt.in))
		switch {
		case tt.err == "" && (err != nil || strings.Join(got, " ") != tt.out):
			t.Errorf("%s: %q %v, want %q", tt.in, strings.Join(got, " "), err, tt.out)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || api.ExitCode(err) != api.ExitUsage):
			t.Errorf("%s: %v", tt.in, err)
		}
	}
}

func TestJoinKeepsCommas(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	leaves(app.Commands)["agent"].Action = func(c *cli.Context) error {
		if got := c.StringSlice("join"); !slices.Equal(got, []string{"a", "b,c"}) {
			t.Errorf("%q", got)
		}
		return nil
	}
	if err := app.RunContext(t.Context(), strings.Fields("ha agent --join a --join b,c")); err != nil {
		t.Fatal(err)
	}
}
