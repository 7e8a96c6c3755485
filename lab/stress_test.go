package lab_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ha/lab"
)

var stress = flag.Duration("stress", 0, "how long to see that nothing is failed over under stress")

const (
	busyLoops = 4 // per core
	stopFor   = 200 * time.Millisecond
	stopEvery = 2 * time.Second // at random, twice that at most
	lostShare = 0.05
)

// TestStress lets other processes want every core several times over, packets get
// lost and agents be stopped for a moment, and demands that nobody is taken for dead.
func TestStress(t *testing.T) {
	if *stress == 0 {
		t.Skip("not asked for: make stress MINUTES=20")
	}
	s := newScene(t)
	before, err := s.AwaitHealthy(t.Context(), time.Minute)
	s.must(err)
	s.busy(busyLoops * runtime.NumCPU())
	s.must(s.Lose(lab.Loss{Share: lostShare}))
	stops := 0
	for end := time.Now().Add(*stress); time.Now().Before(end); stops++ {
		h := s.Hosts[rand.IntN(len(s.Hosts))]
		h.Signal(lab.Agent, unix.SIGSTOP)
		s.wait(stopFor)
		h.Signal(lab.Agent, unix.SIGCONT)
		s.wait(rand.N(2 * stopEvery))
		if st, err := s.Status(t.Context()); err == nil && st.Epoch != before.Epoch {
			t.Fatalf("failed over after %d stops: %s of epoch %d was succeeded by %s, epoch %d", stops, before.Primary, before.Epoch, st.Primary, st.Epoch)
		}
	}
	s.must(s.Heal())
	v, err := s.Check(context.WithoutCancel(t.Context()), 2*time.Minute)
	s.must(err)
	if v.Status.Epoch != before.Epoch {
		t.Errorf("epoch %d became %d", before.Epoch, v.Status.Epoch)
	}
	t.Logf("%s with %d busy loops per core, %.0f %% loss and %d stops of an agent for %s: no failover; %s", *stress, busyLoops, 100*lostShare, stops, stopFor, v.Rows)
}

// busy runs loops until the test's end.
func (s *scene) busy(n int) {
	s.Helper()
	_, stop, err := lab.Busy(n)
	s.Cleanup(stop)
	s.must(err)
}
