package agent

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// maxScript is how much of a script is looked into.
const maxScript = 256 << 10

// text is what a hook would run, as far as it can be read: its arguments, and the
// scripts that it runs. What it only reads or writes, a log say, is none of them: the
// address may come to stand there.
func (h Hook) text() string {
	text := strings.Join(h, " ")
	for _, word := range h.programs() {
		path, err := exec.LookPath(word)
		if err != nil { // sh reads what it may not run
			path = word
		}
		text += "\n" + script(path)
	}
	return text
}

// programs are the words of a hook that name what is run.
func (h Hook) programs() (out []string) {
	commands := [][]string{h}
	if len(h) > 2 && interprets(h[0]) && h[1] == "-c" {
		for _, command := range between.Split(h[2], -1) {
			commands = append(commands, strings.Fields(command))
		}
	}
	for _, words := range commands {
		for _, w := range words {
			if w = bare(w); strings.HasPrefix(w, "-") || strings.Contains(w, "=") || slices.Contains(prefixes, w) {
				continue
			}
			if filepath.IsAbs(w) || len(out) == 0 {
				out = append(out, w)
			}
			if w != "." && w != "source" && !interprets(w) {
				break
			}
		}
	}
	return out
}

// prefixes are words of a shell that stand before the one that names a program.
var prefixes = []string{"sudo", "exec", "env", "nohup", "command", "time", "if", "then", "else", "elif", "while", "until", "do", "!", ""}

// interprets says that a program runs the script that its next argument names.
func interprets(program string) bool {
	name := strings.TrimRight(filepath.Base(program), "0123456789.")
	return slices.Contains([]string{"sh", "bash", "dash", "ksh", "zsh", "python", "perl"}, name)
}

// script is the text of a file without lines of comment; empty if it is no text.
func script(path string) string {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() { // a pipe would keep us here
		return ""
	}
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return "" // the agent runs it with the same rights
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxScript))
	if err != nil || bytes.IndexByte(b, 0) >= 0 {
		return ""
	}
	return comment.ReplaceAllString(string(b), "")
}

var (
	comment   = regexp.MustCompile(`(?m)^[ \t]*#.*$`)
	continued = regexp.MustCompile(`\\\r?\n`)
	between   = regexp.MustCompile("[;&|(\n`]+")
	vipName   = regexp.MustCompile(`\bHA_VIP\b`)
)

// managesVIP gives the command of a text that puts the addresses of $HA_VIP on or
// off or announces them, or what may be them: whatever it does so with an address
// that does not stand there, in a text that has $HA_VIP. Empty: there is none.
func managesVIP(text string) string {
	if !vipName.MatchString(text) {
		return ""
	}
	for _, command := range between.Split(continued.ReplaceAllString(text, " "), -1) {
		words := strings.Fields(command)
		for i, w := range words {
			if changesAddress(filepath.Base(bare(w)), words[i+1:]) && !slices.ContainsFunc(words, literal) {
				return strings.Join(words[i:], " ")
			}
		}
	}
	return ""
}

// changesAddress says that a program with these arguments puts an address on an
// interface or off, or tells the network that it is there.
func changesAddress(program string, args []string) bool {
	switch program {
	case "ip":
		for i := 1; i < len(args); i++ {
			verb := bare(args[i])
			if begins("address", bare(args[i-1])) && (strings.Contains(args[i], "$") ||
				slices.ContainsFunc([]string{"add", "replace", "change", "append", "delete"}, func(v string) bool { return begins(v, verb) })) {
				return true
			}
		}
	case "ifconfig":
		return len(args) > 1 && slices.ContainsFunc(args[1:], func(a string) bool { return !slices.Contains([]string{"up", "down"}, bare(a)) })
	case "nmcli":
		return slices.ContainsFunc(args, func(a string) bool { return strings.HasSuffix(bare(a), ".addresses") })
	case "arping", "arpsend", "send_arp", "ndsend":
		return len(args) > 0
	}
	return false
}

// begins says that a word is a keyword of ip, which may be shortened.
func begins(keyword, word string) bool { return word != "" && strings.HasPrefix(keyword, word) }

// bare is a word without what shells and other languages put around it.
func bare(word string) string { return strings.Trim(word, "\"'()[]{},$") }

// literal says that a word is an address, and no mask.
func literal(word string) bool {
	host, _, _ := strings.Cut(bare(word), "/")
	_, err := netip.ParseAddr(host)
	return err == nil && !strings.HasPrefix(host, "255.")
}
