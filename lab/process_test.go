package lab_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/api"
	"ha/lab"
	"ha/raftfsm"
)

func TestProcess(t *testing.T) { strikeAll(t, "Process") }

func init() {
	groups["Process"] = append([]fault{
		// Its agent has it back within 2 s.
		{name: "mysqld of the primary killed", quick: true, moves: moved, direct: 2 * time.Second, vip: 2 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.kill(st.Primary, lab.Mysqld)
			s.takenOver(st.Primary, at, 20*time.Second)
		}},
		{name: "mysqld of the primary killed and started by a stranger", moves: moved, direct: 3 * time.Second, strike: func(s *scene, st api.Status) {
			argv := s.commandLine(st.Primary)
			at := time.Now()
			s.kill(st.Primary, lab.Mysqld)
			s.must(s.host(st.Primary).Start(argv...))
			s.takenOver(st.Primary, at, 20*time.Second)
			s.endLoser(st.Primary, argv)
		}},
		{name: "mysqld of the primary dies again and again", moves: moved, direct: 4 * time.Second, well: 60 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			for time.Since(at) < 10*time.Second {
				s.host(st.Primary).Signal(lab.Mysqld, unix.SIGKILL)
				s.wait(200 * time.Millisecond)
			}
			s.takenOver(st.Primary, at, 20*time.Second)
		}},
		{name: "agent of the primary killed, systemd starts it", direct: time.Second, vip: time.Second, strike: func(s *scene, st api.Status) {
			s.kill(st.Primary, lab.Agent)
			s.wait(7 * time.Second)
		}},
		{name: "agent of the primary killed for good", quick: true, moves: moved, direct: 4 * time.Second, strike: func(s *scene, st api.Status) {
			h := s.host(st.Primary)
			at := time.Now()
			s.must(h.HoldAgent())
			s.kill(st.Primary, lab.Agent)
			s.noVIP(st.Primary, at)
			s.takenOver(st.Primary, at, 20*time.Second)
			s.must(s.Grow(100, 20*time.Second))
			s.must(h.StartAgent())
		}},
		{name: "agent of the primary frozen for good", moves: moved, direct: 4 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			thaw := s.freeze(st.Primary, lab.Agent)
			s.noVIP(st.Primary, at)
			s.takenOver(st.Primary, at, 20*time.Second)
			s.must(s.Grow(100, 20*time.Second))
			thaw()
		}},
		{name: "agents of all killed at once", direct: time.Second, vip: time.Second, strike: func(s *scene, _ api.Status) {
			for _, h := range s.Hosts {
				h.Signal(lab.Agent, unix.SIGKILL)
			}
			s.wait(8 * time.Second)
		}},
		{name: "mysqld of the primary frozen", moves: moved, direct: 8 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			thaw := s.freeze(st.Primary, lab.Mysqld)
			s.takenOver(st.Primary, at, 20*time.Second)
			thaw()
		}},
		{name: "host of the primary frozen", moves: moved, direct: 10 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			thaw := s.freeze(st.Primary, lab.Mysqld, lab.Agent)
			s.takenOver(st.Primary, at, 20*time.Second)
			s.noVIP(st.Primary, at)
			thaw()
		}},
		{name: "host of the primary loses power", quick: true, moves: moved, direct: 5 * time.Second, vip: 5 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.must(s.host(st.Primary).PowerOff())
			s.takenOver(st.Primary, at, 20*time.Second)
			s.must(s.Grow(100, 20*time.Second))
		}},
		{name: "host of the primary loses power for a moment", moves: moved, direct: 10 * time.Second, strike: func(s *scene, st api.Status) {
			s.must(s.host(st.Primary).PowerOff())
			s.must(s.host(st.Primary).On())
		}},
		{name: "host of a replica loses power", direct: 3 * time.Second, vip: 3 * time.Second, strike: func(s *scene, st api.Status) {
			s.must(s.replica(st).PowerOff())
			s.wait(5 * time.Second)
		}},
		{name: "all hosts lose power", moves: maybe, well: 60 * time.Second, strike: func(s *scene, _ api.Status) {
			done := make(chan error)
			for _, h := range s.Hosts {
				go func() { done <- h.PowerOff() }()
			}
			for range s.Hosts {
				s.must(<-done)
			}
			for _, h := range s.Hosts {
				s.must(h.On())
			}
		}},
		{name: "coordinator's host loses power while the epoch is being closed", moves: maybe, direct: 8 * time.Second, strike: func(s *scene, st api.Status) {
			s.kill(st.Primary, lab.Mysqld)
			s.must(s.host(st.Coordinator).PowerOff())
			s.wait(5 * time.Second)
		}},
		{name: "candidate's host loses power while it is promoted", moves: maybe, direct: 10 * time.Second, strike: func(s *scene, st api.Status) {
			ask := st.Primary // its agent lives
			s.kill(st.Primary, lab.Mysqld)
			candidate := s.phase(raftfsm.PhasePromote, ask)
			s.must(s.host(candidate).PowerOff())
			s.seen("%s was being promoted", candidate)
			s.wait(5 * time.Second)
		}},
		{name: "a replica's agent restarted in the middle of a failover", moves: moved, direct: 8 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.kill(st.Primary, lab.Mysqld)
			s.kill(s.replica(st).Name, lab.Agent)
			s.takenOver(st.Primary, at, 20*time.Second)
		}},
	}, phaseFaults...)
}

// endLoser ends the mysqld that waits for another one's locks: of two that were
// started at once, the one whose number is not in the file for it.
func (s *scene) endLoser(host string, argv []string) {
	s.Helper()
	h, path := s.host(host), ""
	for _, arg := range argv {
		if v, ok := strings.CutPrefix(arg, "--pid-file="); ok {
			path = v
		}
	}
	s.eventually(20*time.Second, "one mysqld on "+host, func() (bool, string) {
		text, err := os.ReadFile(h.Path(path))
		winner := regexp.MustCompile(`(?m)^NSpid:.*\t` + strings.TrimSpace(string(text)) + "$")
		var rest []int
		pids := h.PIDs(lab.Mysqld)
		for _, pid := range pids {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if !winner.Match(status) {
				rest = append(rest, pid)
			}
		}
		if err != nil || len(text) == 0 || len(rest) == len(pids) {
			return false, fmt.Sprint("none of ", pids, " is ready; ", err)
		}
		for _, pid := range rest {
			s.must(unix.Kill(pid, unix.SIGKILL))
			s.seen("a second server waited for the locks of the first")
		}
		return len(rest) == 0, fmt.Sprint(pids)
	})
}

// commandLine is that of the server of a host.
func (s *scene) commandLine(host string) []string {
	s.Helper()
	pids := s.host(host).PIDs(lab.Mysqld)
	if len(pids) != 1 {
		s.Fatalf("%d servers on %s", len(pids), host)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pids[0]))
	s.must(err)
	return strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
}
