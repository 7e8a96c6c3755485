package raftfsmtest

import (
	"errors"
	"slices"
	"strings"
	"time"
)

// kindOf says what sort of failure an error is: a smaller schedule has to fail in
// the same way.
func kindOf(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, errUnsafe):
		return "unsafe"
	}
	text, _, _ := strings.Cut(err.Error(), ":")
	if strings.HasPrefix(text, "at ") {
		return "fault"
	}
	return text
}

// shrink leaves out what a failure does not need, within a bounded time: first of
// the writes, then of all, in ever smaller pieces. As what is left out moves
// everything after it, the seed of the small delays may change as well.
func shrink(s Schedule, fails func(s *Schedule) bool, budget time.Duration) Schedule {
	end := time.Now().Add(budget)
	try := func(entries []Entry) bool {
		c := s
		c.Entries = entries
		for i := range uint64(3) {
			if time.Now().After(end) {
				return false
			}
			c.Seed = s.Seed + i*1_000_003
			if fails(&c) {
				s = c
				return true
			}
		}
		return false
	}
	isWrite := func(e Entry) bool { return strings.HasPrefix(e.Do, "write ") }
	pass := func(may func(Entry) bool) (smaller bool) {
		for size := max(len(s.Entries)/2, 1); ; size /= 2 {
			for at := len(s.Entries); at > 0; at -= size {
				from := max(at-size, 0)
				rest := slices.Clone(s.Entries[:from])
				for i, e := range s.Entries[from:] {
					if i >= at-from || !may(e) {
						rest = append(rest, e)
					}
				}
				if len(rest) < len(s.Entries) && try(rest) {
					smaller = true
				}
				at = min(at, len(s.Entries)+size)
			}
			if size == 1 {
				return smaller
			}
		}
	}
	pass(isWrite)
	for pass(func(Entry) bool { return true }) && time.Now().Before(end) {
	}
	return s
}
