package main

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// One seed gives one sequence, and every blow comes once before one comes again.
func TestSequence(t *testing.T) {
	a, b := sequence(7), sequence(7)
	seen := map[string]int{}
	pairs := 0
	for range 3 * len(blows) {
		x, y := a(), b()
		if x != y {
			t.Fatalf("the same seed gave %v and %v", x, y)
		}
		seen[x.first.name]++
		if x.second != nil {
			pairs++
			if strings.HasPrefix(x.first.name, onDisk) && strings.HasPrefix(x.second.name, onDisk) {
				t.Errorf("%s at once", x.name())
			}
		}
		if x.lasts < x.first.lasts[0] || x.lasts > x.first.lasts[1] || x.after > x.lasts {
			t.Errorf("%+v", x)
		}
	}
	for _, blow := range blows {
		if seen[blow.name] != 3 {
			t.Errorf("%s came %d times", blow.name, seen[blow.name])
		}
	}
	if pairs < len(blows)/2 || pairs > 2*len(blows) {
		t.Errorf("%d pairs", pairs)
	}
	if c := sequence(8); c() == sequence(7)() {
		t.Error("another seed begins in the same way") // 1 in 600; not with these
	}
}

// The report has each blow once, with what it took alone and with others.
func TestReport(t *testing.T) {
	a, b := &blow{name: "a"}, &blow{name: "b"}
	got := tables([]outage{
		{strike{first: a}, time.Second}, {strike{first: a}, 3 * time.Second}, {strike{first: a}, 2 * time.Second},
		{strike{first: b, second: a}, 9 * time.Second}, {strike{first: b, second: b}, 4 * time.Second},
	})
	for _, want := range []string{
		"| a | 3 | 2s | 3s | 1 | 9s | 9s |", "| b | 0 | – | – | 2 | 4s | 9s |", "| b + a | 1 | 9s | 9s |", "| b + b | 1 | 4s | 4s |",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	c := chaos{layout: layouts[0]}
	if text := c.report(1, errors.New("a row lost")); !strings.Contains(text, "FAILED**: a row lost") || strings.Contains(text, "none lost") {
		t.Errorf("of one that failed: %s", text)
	}
}

// The check of the hot rows sees a lost, a doubled and a stale swap, and lets one of
// unknown outcome happen or not.
func TestHistory(t *testing.T) {
	for name, tc := range map[string]struct {
		ops   []porcupine.Operation
		final int64
		ok    bool
	}{
		"one after the other":             {[]porcupine.Operation{op(1, 2, 0, 1, true), op(3, 4, 1, 2, true)}, 2, true},
		"the last one lost":               {[]porcupine.Operation{op(1, 2, 0, 1, true), op(3, 4, 1, 2, true)}, 1, false},
		"two from the same":               {[]porcupine.Operation{op(1, 2, 0, 1, true), op(3, 4, 0, 2, true)}, 2, false},
		"unknown and done":                {[]porcupine.Operation{op(1, 9e9, 0, 1, false), op(3, 4, 1, 2, true)}, 2, true},
		"unknown and not done":            {[]porcupine.Operation{op(1, 9e9, 0, 1, false), op(3, 4, 0, 2, true)}, 2, true},
		"unknown and done twice":          {[]porcupine.Operation{op(1, 9e9, 0, 1, false), op(3, 4, 1, 0, true), op(5, 6, 1, 3, true)}, 3, false},
		"acknowledged before it was sent": {[]porcupine.Operation{op(1, 2, 1, 2, true), op(3, 4, 0, 1, true)}, 2, false},
	} {
		h := history{ops: tc.ops, began: time.Now().Add(-time.Hour)}
		if err := h.check([]int64{tc.final, 0, 0}); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func op(call, end int64, old, to int64, known bool) porcupine.Operation {
	return porcupine.Operation{Input: swap{Old: old, New: to}, Call: call, Return: end, Output: known}
}

// What was seen at a cut is not undone later, and what was unknown then may still
// happen, once.
func TestHistoryGoesOnAfterACut(t *testing.T) {
	const never = math.MaxInt64
	for name, tc := range map[string]struct {
		first, second []porcupine.Operation
		cut, final    int64
		ok            bool
	}{
		"goes on":                        {[]porcupine.Operation{op(1, 2, 0, 1, true)}, []porcupine.Operation{op(0, 1, 1, 2, true)}, 1, 2, true},
		"lost after the cut":             {[]porcupine.Operation{op(1, 2, 0, 1, true)}, nil, 1, 0, false},
		"from what was before the cut":   {[]porcupine.Operation{op(1, 2, 0, 1, true)}, []porcupine.Operation{op(0, 1, 0, 2, true)}, 1, 2, false},
		"unknown happens later":          {[]porcupine.Operation{op(1, never, 0, 1, false)}, nil, 0, 1, true},
		"two unknown happen later":       {[]porcupine.Operation{op(1, never, 1, 2, false), op(1, never, 0, 1, false)}, nil, 0, 2, true},
		"unknown seen and then not done": {[]porcupine.Operation{op(1, never, 0, 1, false)}, []porcupine.Operation{op(0, 1, 0, 2, true)}, 1, 2, false},
		"unknown too late":               {[]porcupine.Operation{op(1, never, 0, 1, false), op(3, 4, 0, 2, true)}, nil, 2, 1, false},
	} {
		h := history{ops: tc.first, began: time.Now().Add(-time.Hour)}
		if err := h.check([]int64{tc.cut, 0, 0}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, o := range tc.second { // times after the cut
			o.Call, o.Return = h.now(), h.now()+1
			h.ops = append(h.ops, o)
		}
		if err := h.check([]int64{tc.final, 0, 0}); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Many clients that hear nothing of swaps of the same value leave nothing to search
// for; and what cannot be decided is no success.
func TestHistoryIsDecided(t *testing.T) {
	var ops []porcupine.Operation
	for i := range int64(200) {
		ops = append(ops, op(10*i, 10*i+5, i, i+1, true))
		for j := range int64(3) {
			ops = append(ops, op(10*i+j, math.MaxInt64, i, 1000+10*i+j, false))
		}
	}
	ops = append(ops, op(3000, 3001, 150, 5000, true)) // long over
	h := history{ops: ops, began: time.Now().Add(-time.Hour)}
	at := time.Now()
	err := h.check([]int64{5000, 0, 0})
	if err == nil || !strings.Contains(err.Error(), "NOT linearizable") || time.Since(at) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(at), err)
	}
	if err := judged(porcupine.Unknown); err == nil || !strings.Contains(err.Error(), "undecided") {
		t.Errorf("not decided: %v", err)
	}
}
