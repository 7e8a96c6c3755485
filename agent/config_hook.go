package agent

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// HookConfig are the commands that are run when this node's role changes.
type HookConfig struct {
	OnPromote Hook `toml:"on_promote"` // its server is open for writes
	OnDemote  Hook `toml:"on_demote"`  // it is not any more
	// Timeout bounds each. Default 30 s.
	Timeout time.Duration `toml:"timeout"`
}

// Hook is a command: a list of arguments, or a string for /bin/sh -c.
type Hook []string

// UnmarshalTOML reads either form.
func (h *Hook) UnmarshalTOML(value any) error {
	switch v := value.(type) {
	case string:
		if strings.TrimSpace(v) == "" {
			return fmt.Errorf("an empty hook: leave it away")
		}
		*h = Hook{"/bin/sh", "-c", v}
		return nil
	case []any:
		for _, word := range v {
			s, ok := word.(string)
			if !ok {
				return fmt.Errorf("%v in a hook is no string: use a list of strings, or one string for /bin/sh", word)
			}
			*h = append(*h, s)
		}
		if len(*h) == 0 || (*h)[0] == "" {
			return fmt.Errorf("an empty hook: leave it away")
		}
		return nil
	}
	return fmt.Errorf("a hook is a list of strings, or one string for /bin/sh")
}

// leaveVIP says what to do instead.
const leaveVIP = "an address that a hook puts on has no lifetime and stays with a host that may not serve. " +
	"Remove that from the hook (or its script): the address is managed by its [[vip]]; to tell others use $HA_VIP. " +
	"If another address is meant, write it out"

func (c *Config) checkHooks(f *faults) {
	for _, h := range []struct {
		key  string
		argv Hook
	}{{"hooks.on_promote", c.Hooks.OnPromote}, {"hooks.on_demote", c.Hooks.OnDemote}} {
		if len(h.argv) == 0 {
			continue
		}
		if c.Witness {
			f.add(h.key, "a witness is never promoted: leave it away")
			continue
		}
		if _, err := exec.LookPath(h.argv[0]); err != nil {
			f.add(h.key, "%s cannot be run: %s", h.argv[0], cause(err))
		}
		text := h.argv.text()
		for _, a := range c.addresses() {
			if mentions(text, a.Addr) {
				f.add(h.key, "names %s, which ha puts on and takes off itself: %s", a.Addr, leaveVIP)
			}
		}
		if command := managesVIP(text); command != "" {
			f.add(h.key, "%q manages the addresses of $HA_VIP, which ha puts on, announces and takes off itself: %s", command, leaveVIP)
		}
	}
	if c.Hooks.Timeout < time.Second {
		f.add("hooks.timeout", "%s is too short: use something like \"30s\"", c.Hooks.Timeout)
	}
}

// mentions says that an address stands in a text, however it is written, as a word
// of its own: not as the beginning of a longer one.
func mentions(text string, addr netip.Addr) bool {
	words := strings.FieldsFunc(text, func(r rune) bool {
		return !strings.ContainsRune("0123456789abcdefABCDEF.:", r)
	})
	return slices.ContainsFunc(words, func(w string) bool {
		for _, w := range []string{w, strings.Trim(w, ".:"), hostOf(w)} { // a sentence's end, a port
			if a, err := netip.ParseAddr(w); err == nil && a.Unmap() == addr {
				return true
			}
		}
		return false
	})
}
