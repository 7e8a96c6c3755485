package load

import (
	"slices"
	"testing"
)

func TestReigns(t *testing.T) {
	// ok is an OK of a server for a statement sent and acknowledged at these times.
	ok := func(server string, sent, came int) Ack { return Ack{Server: server, Sent: at(sent), At: at(came)} }
	// every is one each 10 ms.
	every := func(server string, from, to int) (out []Ack) {
		for ms := from; ms < to; ms += 10 {
			out = append(out, ok(server, ms, ms+5))
		}
		return out
	}
	change := slices.Concat(every("a", 0, 500), every("b", 600, 1600))
	back := slices.Concat(change, every("a", 1700, 2700))
	for _, tt := range []struct {
		name                  string
		acks                  []Ack
		epochs                int
		changes, late, double int
		ok                    bool
	}{
		{"nobody", nil, 0, 0, 0, 0, true},
		{"one", every("a", 0, 500), 0, 0, 0, 0, true},
		{"a change", change, 1, 1, 0, 0, true},
		{"and back", back, 2, 2, 0, 0, true},
		{"of unknown epochs", back, -1, 2, 0, 0, true},
		{"with epochs that nobody acknowledged in", back, 5, 2, 0, 0, true},
		{"a change without an epoch", change, 0, 1, 0, 0, false},
		{"two changes in one epoch", back, 1, 2, 0, 0, false},
		{"sent before, and late", slices.Concat(change, []Ack{ok("a", 590, 900)}), 1, 1, 1, 0, true},
		{"late after two changes", slices.Concat(back, []Ack{ok("b", 1690, 2000), ok("a", 590, 1000)}), 2, 2, 2, 0, true},
		{"sent after the successor's first OK", slices.Concat(change, []Ack{ok("a", 606, 900)}), 1, 1, 0, 1, false},
		{"of unknown epochs, too", slices.Concat(change, []Ack{ok("a", 606, 900)}), -1, 1, 0, 1, false},
		{"both", slices.Concat(every("a", 0, 1000), every("b", 503, 1000)), 1, 1, 0, 49, false},
		{"both, one after the other's silence", slices.Concat(every("a", 0, 500), every("b", 600, 700), []Ack{ok("a", 1000, 1005)}, every("b", 1300, 1400)), 1, 3, 0, 0, false},
		{"one that never reigned", slices.Concat(every("a", 0, 500), []Ack{ok("b", -50, 202)}), 0, 1, 1, 0, false},
		{"one that never reigned, for what was sent since", slices.Concat(every("a", 0, 500), []Ack{ok("b", 50, 202)}), 1, 0, 0, 1, false},
		// It was stopped before anybody had its OK, and deposed (a chaos run).
		{"late without one before", slices.Concat(every("a", 0, 500), []Ack{ok("b", -50, 202), ok("b", -60, 203)}), 1, 1, 2, 0, true},
		{"through an address that moves", slices.Concat(change, every("vip", 0, 2000)), 1, 1, 0, 0, true},
	} {
		slices.SortStableFunc(tt.acks, func(a, b Ack) int { return a.At.Compare(b.At) })
		r := reigns([]Server{{Name: "a"}, {Name: "b"}}, tt.acks, tt.epochs)
		if want := (Reigns{tt.changes, tt.epochs, tt.late, tt.double}); r != want || r.OK() != tt.ok {
			t.Errorf("%s: %+v, OK %v; want %+v, OK %v", tt.name, r, r.OK(), want, tt.ok)
		}
	}
}

func TestVerdictNeedsOnePrimaryAtATime(t *testing.T) {
	good := Verdict{Acked: 1, Missing: map[string]int{"a": 0}, Reigns: Reigns{Changes: 1, Epochs: 1, Late: 3}}
	bad := good
	bad.Double = 1
	if !good.OK() || bad.OK() {
		t.Errorf("%s: %v, %s: %v", good, good.OK(), bad, bad.OK())
	}
}
