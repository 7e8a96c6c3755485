package raftfsmtest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var (
	simSeed    = flag.Uint64("sim.seed", 0, "replay this one seed")
	simRuns    = flag.Int("sim.runs", 0, "number of seeds")
	simFrom    = flag.Uint64("sim.from", 1, "first seed")
	simMutant  = flag.String("sim.mutant", "", "rules switched off, with commas")
	simProfile = flag.String("sim.profile", "", "kind of faults; empty: by the seed")
	simSafety  = flag.Bool("sim.safety", false, "stop at the first violation of S1 to S7, and do not look at liveness")
	simTrace   = flag.Bool("sim.trace", false, "print what happens")
)

// TestSim runs seeds: first faults with the checkers at every step, then all is
// healed and the cluster has to become well and then quiet.
func TestSim(t *testing.T) {
	from, runs := *simFrom, *simRuns
	if runs == 0 {
		runs = 200
	}
	if *simSeed != 0 {
		from, runs = *simSeed, 1
	}
	failed := 0
	for seed := from; seed < from+uint64(runs); seed++ {
		sim := NewSim(seed, *simProfile)
		for _, m := range strings.Split(*simMutant, ",") {
			sim.World.mutants[m] = true
		}
		var log []string
		if *simTrace {
			sim.World.trace = func(s string) { fmt.Fprintf(os.Stdout, "%8d %s\n", sim.World.now, s) }
		} else {
			_ = log
		}
		if err := sim.Play(); err != nil {
			if *simSafety && !errors.Is(err, errUnsafe) {
				continue
			}
			failed++
			t.Errorf("seed %d (%s): %v\nreplay: go test ./raftfsm/raftfsmtest -run TestSim -sim.seed=%d -sim.trace", seed, sim.Profile, err, seed)
			if failed == 5 || *simSafety {
				t.Fatalf("%d seeds run", seed-from+1)
			}
		}
	}
}
