package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"ha/agent"
	"ha/agent/api"
)

// arrange rewrites a command line so that urfave/cli understands what a person
// means: it takes flags after the first argument for arguments, so they go
// before it. What cannot be understood is an error with the nearest word that
// could.
func arrange(app *cli.App, argv []string) ([]string, error) {
	if len(argv) == 0 {
		return nil, errors.New("no program name")
	}
	out, rest := []string{argv[0]}, argv[1:]
	path, commands := []string{app.Name}, app.Commands
	var command *cli.Command
	for len(commands) > 0 {
		// One that does something by itself, too, is meant where no subcommand follows.
		if command != nil && command.Action != nil && (len(rest) == 0 || strings.HasPrefix(rest[0], "-") && !isHelp(rest[0])) {
			break
		}
		if len(rest) == 0 {
			return nil, api.Usage("%s: a command is missing", strings.Join(path, " ")).
				WithHint("Commands: %s. `%s --help` says what each does.", strings.Join(names(commands), ", "), strings.Join(path, " "))
		}
		word := rest[0]
		if isHelp(word) || len(path) == 1 && (word == "--version" || word == "-v") {
			return append(out, word), nil
		}
		if word == "help" {
			// `ha help status` is `ha status --help`.
			return arrange(app, append(append(out, rest[1:]...), "--help"))
		}
		if strings.HasPrefix(word, "-") {
			return nil, api.Usage("%s: the flag %s comes before the command", strings.Join(path, " "), word).
				WithHint("Put the command first: %s COMMAND %s ...", strings.Join(path, " "), word)
		}
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(word) })
		if i < 0 {
			e := api.Usage("%s: unknown command %q", strings.Join(path, " "), word)
			if near := agent.Nearest(word, names(commands)); near != "" {
				return nil, e.WithHint("Did you mean %s %s?", strings.Join(path, " "), near)
			}
			return nil, e.WithHint("Commands: %s.", strings.Join(names(commands), ", "))
		}
		command = commands[i]
		out, rest, path = append(out, word), rest[1:], append(path, word)
		commands = command.Subcommands
	}
	flags, args, err := split(command, strings.Join(path, " "), rest)
	if err != nil {
		return nil, err
	}
	out = append(out, flags...)
	if len(args) > 0 {
		out = append(append(out, "--"), args...)
	}
	return out, nil
}

// split parts what follows a command into flags, with their values, and
// arguments.
func split(command *cli.Command, path string, rest []string) (flags, args []string, err error) {
	for len(rest) > 0 {
		word := rest[0]
		rest = rest[1:]
		if word == "--" {
			return flags, append(args, rest...), nil
		}
		if !strings.HasPrefix(word, "-") || word == "-" {
			args = append(args, word)
			continue
		}
		flags = append(flags, word)
		if isHelp(word) {
			continue
		}
		name, _, valued := strings.Cut(strings.TrimLeft(word, "-"), "=")
		i := slices.IndexFunc(command.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
		if i < 0 {
			return nil, nil, unknownFlag(command, path, name)
		}
		if _, isBool := command.Flags[i].(*cli.BoolFlag); isBool || valued {
			continue
		}
		if len(rest) == 0 {
			return nil, nil, api.Usage("%s: --%s needs a value", path, name).
				WithHint("`%s --help` says which.", path)
		}
		flags = append(flags, rest[0])
		rest = rest[1:]
	}
	return flags, args, nil
}

func unknownFlag(command *cli.Command, path, name string) error {
	var known []string
	for _, f := range command.Flags {
		for _, n := range f.Names() {
			if len(n) > 1 {
				known = append(known, n)
			}
		}
	}
	e := api.Usage("%s: unknown flag --%s", path, name)
	if near := agent.Nearest(name, known); near != "" {
		return e.WithHint("Did you mean --%s?", near)
	}
	return e.WithHint("`%s --help` lists its flags.", path)
}

func isHelp(word string) bool { return word == "--help" || word == "-h" || word == "-help" }

func names(commands []*cli.Command) []string {
	var out []string
	for _, c := range commands {
		if !c.Hidden {
			out = append(out, c.Name)
		}
	}
	return out
}
