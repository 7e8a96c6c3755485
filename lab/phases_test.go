package lab_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"time"

	"ha/agent/api"
	"ha/bench/load"
	"ha/lab"
)

// Who decides or is promoted dies at a given step (see [agent.Agent.Step]), once for
// each of some steps; with " host" its mysqld dies too.
var (
	coordinatorSteps = []string{"committed revoke", "answered seal", "committed promote", "answered promote", "committed settle"}
	candidateSteps   = []string{"stored promote host", "done promote host", "stored barrier host"} // writable from the second on
)

// stepBound is how long a cluster may need to be well after such a death.
const stepBound = 60 * time.Second

var phaseFaults = []fault{
	{name: "coordinator killed at each phase of a failover", faulty: true, moves: maybe, strike: func(s *scene, _ api.Status) {
		s.eachStep(coordinatorSteps, s.failover)
	}},
	{name: "coordinator killed at each phase of a switchover", faulty: true, moves: maybe, strike: func(s *scene, _ api.Status) {
		s.eachStep(coordinatorSteps, s.handover)
	}},
	{name: "candidate killed during its promotion, before and after it is writable", faulty: true, moves: maybe, well: 30 * time.Second, strike: func(s *scene, _ api.Status) {
		s.eachStep(candidateSteps, s.failover)
	}},
}

// eachStep has something begin that is to be finished by others than who dies, for
// each step, and waits until all is well again.
func (s *scene) eachStep(steps []string, begin func(st api.Status) (end func())) {
	s.Helper()
	for _, step := range steps {
		before, err := s.AwaitHealthy(s.Context(), stepBound)
		s.must(err)
		s.arm(step)
		at := time.Now()
		end := begin(before)
		who := s.died(step, 15*time.Second)
		s.writes("writers that know all servers, after "+step, s.Direct)
		gap := load.Gap(s.Acks(s.Direct), at, time.Now())
		end()
		after, err := s.AwaitHealthy(s.Context(), stepBound)
		s.must(err)
		s.seen("%s: %s died, direct %d ms, epoch %d to %d", step, who, gap.Milliseconds(), before.Epoch, after.Epoch)
		if after.Epoch <= before.Epoch {
			s.Errorf("%s: epoch %d after %d", step, after.Epoch, before.Epoch)
		}
		if candidate := strings.HasSuffix(step, " host"); candidate && who == before.Primary || !candidate && who != before.Coordinator {
			s.Errorf("%s: %s died; %s was the primary, %s the coordinator", step, who, before.Primary, before.Coordinator)
		}
	}
}

// failover has one begin.
func (s *scene) failover(st api.Status) (end func()) {
	s.Helper()
	s.kill(st.Primary, lab.Mysqld)
	return func() {}
}

// handover asks for a switchover, which may be given up.
func (s *scene) handover(st api.Status) (end func()) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
	cmd := exec.CommandContext(ctx, "sh", "-c", s.replica(st).Enter()+" -c 'ha switchover --timeout 15s'")
	s.must(cmd.Start())
	return func() {
		_ = cmd.Wait()
		cancel()
	}
}

// arm names the step at which somebody dies.
func (s *scene) arm(step string) {
	s.Helper()
	file := s.FaultFile()
	_ = os.Remove(file + ".taken")
	s.must(os.WriteFile(file+".new", []byte(step), 0o600))
	s.must(os.Rename(file+".new", file))
	s.Cleanup(func() { _ = os.Remove(file) })
}

// died waits until somebody has, and gives its name.
func (s *scene) died(step string, bound time.Duration) (who string) {
	s.Helper()
	s.eventually(bound, "the end of who is at "+step, func() (bool, string) {
		text, err := os.ReadFile(s.FaultFile() + ".taken")
		if err != nil || len(text) == 0 || strings.Contains(string(text), " ") {
			return false, string(text)
		}
		who = string(text)
		return true, ""
	})
	return who
}
