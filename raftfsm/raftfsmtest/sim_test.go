package raftfsmtest

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	simSeed    = flag.Uint64("sim.seed", 0, "play this one seed")
	simRuns    = flag.Int("sim.runs", 0, "number of seeds")
	simFrom    = flag.Uint64("sim.from", 1, "first seed")
	simMutant  = flag.String("sim.mutant", "", "rules of the agents switched off, with commas")
	simProfile = flag.String("sim.profile", "", "kind of faults; empty: by the seed")
	simSafety  = flag.Bool("sim.safety", false, "look for violations of S1 to S7 only, and stop at the first")
	simBlunt   = flag.Bool("sim.blunt", false, "see the loss of a row when it has come, not when it has become possible")
	simTrace   = flag.Bool("sim.trace", false, "print what happens")
	simReplay  = flag.String("sim.replay", "", "play the schedule in this file")
	simShrink  = flag.Duration("sim.shrink", 30*time.Second, "how long to make the schedule of a failure smaller; 0: not at all")
)

func play(s *Schedule) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	sim := NewSim(s)
	sim.World.blunt = *simBlunt
	if *simTrace {
		sim.World.trace = func(s string) { fmt.Fprintf(os.Stdout, "%8d %s\n", sim.World.now, s) }
	}
	return sim.Play(*simSafety)
}

// simMost is how long the 1,000 seeds of make test may take on a machine with two
// processors or more that does nothing else. Others' work makes them take longer, but
// hardly any more processor time: that is what is compared, shared out over the
// processors.
const simMost = 20 * time.Second

// processorTime is what this process has used so far.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestSim plays seeds: faults with the checkers at every step, then all is healed
// and the cluster has to become well and then quiet.
func TestSim(t *testing.T) {
	if *simReplay != "" {
		replay(t, *simReplay)
		return
	}
	from, runs := *simFrom, *simRuns
	if runs == 0 {
		if runs = 1000; raceEnabled {
			runs = 60
		}
	}
	if *simSeed != 0 {
		from, runs = *simSeed, 1
	}
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // much of it is waste at once
	began, used := time.Now(), processorTime(t)
	type failure struct {
		s       Schedule
		profile string
		err     error
	}
	var (
		next, done atomic.Uint64
		stop       atomic.Bool
		mu         sync.Mutex
		failures   []failure
		wg         sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !stop.Load() {
				i := next.Add(1) - 1
				if i >= uint64(runs) {
					return
				}
				s, profile := Generate(from+i, *simProfile)
				if *simMutant != "" {
					s.Mutants = strings.Split(*simMutant, ",")
				}
				err := play(&s)
				done.Add(1)
				if err == nil || *simSafety && !errors.Is(err, errUnsafe) {
					continue
				}
				mu.Lock()
				failures = append(failures, failure{s, profile, err})
				if len(failures) >= 5 || *simSafety {
					stop.Store(true)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	used = processorTime(t) - used
	share := used / time.Duration(runtime.GOMAXPROCS(0))
	t.Logf("%d seeds: %.1f s, %.1f s of processor time, %.1f s for each processor", done.Load(), time.Since(began).Seconds(), used.Seconds(), share.Seconds())
	standard := *simRuns == 0 && *simSeed == 0 && *simProfile == "" && *simMutant == "" && !*simTrace
	if standard && !raceEnabled && runtime.GOMAXPROCS(0) > 1 && share > simMost {
		t.Errorf("the seeds of make test take too long: %.1f s for each of %d processors, at most %s", share.Seconds(), runtime.GOMAXPROCS(0), simMost)
	}
	slices.SortFunc(failures, func(a, b failure) int { return cmp.Compare(a.s.Seed, b.s.Seed) })
	for i, f := range failures {
		t.Errorf("seed %d (%s), %d of %d entries: %v\nreplay: go test ./raftfsm/raftfsmtest -run TestSim -sim.seed=%d -sim.profile=%s -sim.trace",
			f.s.Seed, f.profile, len(f.s.Entries), len(f.s.Entries), f.err, f.s.Seed, f.profile)
		if i == 0 && *simShrink > 0 && !*simTrace {
			kind := kindOf(f.err)
			small := shrink(f.s, func(s *Schedule) bool { return kindOf(play(s)) == kind }, *simShrink)
			t.Errorf("made smaller: %v\nkeep it in raftfsm/testdata/sim, and replay it with -sim.replay=FILE -sim.trace:\n%s", play(&small), &small)
		}
	}
	if len(failures) > 0 {
		t.Fatalf("%d seeds run", done.Load())
	}
}

// TestSchedules plays raftfsm/testdata/sim/*.txt: schedules that failed once.
func TestSchedules(t *testing.T) {
	files, err := filepath.Glob("../testdata/sim/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { replay(t, file) })
	}
}

func replay(t *testing.T, file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSchedule(string(b))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := ParseSchedule(s.String()); got.String() != s.String() {
		t.Errorf("printed and read again it is another schedule:\n%s", &got)
	}
	if err := play(&s); err != nil {
		t.Error(err)
	}
}
