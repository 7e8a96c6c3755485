package main

import (
	"encoding/json"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"ha/agent"
	"ha/agent/api"
)

// outputFlag is -o with its formats; the first is the default.
func outputFlag(formats ...string) cli.Flag {
	return &cli.StringFlag{
		Name: "output", Aliases: []string{"o"}, Value: formats[0],
		Usage: "`FORMAT` of the answer: " + strings.Join(formats, ", "),
	}
}

func output(c *cli.Context, formats ...string) (string, error) {
	format := c.String("output")
	if slices.Contains(formats, format) {
		return format, nil
	}
	e := api.Usage("%s: unknown format %q", c.Command.HelpName, format)
	if near := agent.Nearest(format, formats); near != "" {
		return "", e.WithHint("Did you mean -o %s?", near)
	}
	return "", e.WithHint("Formats: %s.", strings.Join(formats, ", "))
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// isTerminal tells whether a person looks at what is written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// colourful tells whether w takes colours (https://no-color.org).
func colourful(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}
