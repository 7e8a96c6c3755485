package raftfsmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// TestScenarios plays raftfsm/testdata/scenarios/*.txt: the stories by which the
// first draft of the rules lost rows. Each is a schedule (see ParseSchedule) with
// some more words:
//
//	vary NAME x | y | z     played once with each value in place of $NAME; also 1..9
//	writes FROM TO STEP at NODE
//	burst AT N at NODE volatile|lasting
//
// Events that never happen, whatever varies, are errors: the story would not be told.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("../testdata/scenarios/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("only %d scenarios: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			playScenario(t, string(text))
		})
	}
}

func playScenario(t *testing.T, text string) {
	variants := vary(text)
	if raceEnabled { // the rules are the same: only the speed is not
		variants = variants[:min(len(variants), 4)]
	}
	var (
		mu      sync.Mutex
		wg      sync.WaitGroup
		waiting = map[string]bool{} // for its event in every variant
		fired   = map[string]bool{}
		turns   = make(chan struct{}, runtime.GOMAXPROCS(0))
	)
	for i, v := range variants {
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			s := v.schedule(t, uint64(i+1))
			sim := NewSim(&s)
			err := sim.Play(false)
			mu.Lock()
			defer mu.Unlock()
			for j, e := range s.Entries {
				if e.On == "" {
					continue
				}
				on := e.On + " " + strconv.Itoa(j)
				if slices.ContainsFunc(sim.unfired, func(u Entry) bool { return u == e }) {
					waiting[on] = true
				} else {
					fired[on] = true
				}
			}
			if err != nil {
				t.Errorf("%s: %v\nreplay with -sim.replay=FILE -sim.trace:\n%s", v.values, err, &s)
			}
		})
	}
	wg.Wait()
	for on := range waiting {
		if !fired[on] && !raceEnabled {
			t.Errorf("no variant ever came to event %s", on)
		}
	}
	t.Logf("%d variants", len(variants))
}

// variant is a scenario with a value for each of its variables.
type variant struct {
	text   string
	values string
}

// vary gives every combination of the values of the variables.
func vary(text string) []variant {
	var rest strings.Builder
	out := []variant{{}}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "vary" {
			rest.WriteString(line)
			continue
		}
		_, list, _ := strings.Cut(strings.TrimSpace(line), f[1])
		var next []variant
		for _, v := range out {
			for _, value := range values(list) {
				next = append(next, variant{v.text + "\x00$" + f[1] + "\x00" + value, v.values + " " + f[1] + "=" + value})
			}
		}
		out = next
	}
	for i, v := range out {
		pairs := strings.Split(strings.TrimPrefix(v.text, "\x00"), "\x00")
		if v.text == "" {
			pairs = nil
		}
		out[i].text = strings.NewReplacer(pairs...).Replace(rest.String())
	}
	return out
}

func values(list string) []string {
	if from, to, ok := strings.Cut(strings.TrimSpace(list), ".."); ok {
		lo, _ := strconv.Atoi(from)
		hi, _ := strconv.Atoi(to)
		var out []string
		for i := lo; i <= hi; i++ {
			out = append(out, strconv.Itoa(i))
		}
		return out
	}
	var out []string
	for v := range strings.SplitSeq(list, "|") {
		out = append(out, strings.TrimSpace(v))
	}
	return out
}

// schedule spells the writes out.
func (v variant) schedule(t *testing.T, seed uint64) Schedule {
	t.Helper()
	var b strings.Builder
	rows := 0
	write := func(at int, who, kind string) {
		rows++
		fmt.Fprintf(&b, "%d write T%d at %s %s\n", at, rows, who, strings.TrimPrefix(kind, "volatile"))
	}
	for line := range strings.Lines(v.text) {
		f := strings.Fields(line)
		var n [3]int
		for i := range n {
			if i+1 < len(f) {
				n[i], _ = strconv.Atoi(f[i+1])
			}
		}
		switch {
		case len(f) == 6 && f[0] == "writes":
			for at := n[0]; at < n[1]; at += n[2] {
				write(at, f[5], "")
			}
		case len(f) == 6 && f[0] == "burst":
			for i := range n[1] {
				write(n[0]+i*30/n[1], f[4], f[5])
			}
		default:
			b.WriteString(line)
		}
	}
	s, err := ParseSchedule(b.String())
	if err != nil {
		t.Fatal(err)
	}
	s.Seed = seed
	s.sort()
	return s
}
