package lab_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/api"
	"ha/lab"
)

func TestDisk(t *testing.T) { strikeAll(t, "Disk and machine") }

func init() {
	groups["Disk and machine"] = []fault{
		{name: "data disk of the primary full", quick: true, moves: moved, direct: 10 * time.Second, vip: 10 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.must(s.host(st.Primary).Fill(lab.MySQLDisk))
			s.takenOver(st.Primary, at, 30*time.Second)
			s.must(s.host(st.Primary).Free(lab.MySQLDisk))
		}},
		// MySQL looks for room once a minute, however soon there is some.
		{name: "data disk of the primary full for a second", moves: moved, direct: 12 * time.Second, vip: 12 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.must(s.host(st.Primary).Fill(lab.MySQLDisk))
			s.wait(time.Second)
			s.must(s.host(st.Primary).Free(lab.MySQLDisk))
			s.takenOver(st.Primary, at, 30*time.Second)
		}},
		// MySQL looks for room once a minute, and appliers have to catch up with what
		// was written without them.
		{name: "data disks of all ackers full", direct: 5 * time.Second, well: 180 * time.Second, strike: func(s *scene, st api.Status) {
			for _, r := range replicas(st) {
				s.must(s.host(r).Fill(lab.MySQLDisk))
			}
			s.wait(8 * time.Second)
			s.seen("status says %s", s.codes())
			for _, r := range replicas(st) {
				s.must(s.host(r).Free(lab.MySQLDisk))
			}
		}},
		{name: "file system of the primary read-only", quick: true, moves: moved, direct: 10 * time.Second, vip: 10 * time.Second, strike: func(s *scene, st api.Status) {
			h := s.host(st.Primary)
			at := time.Now()
			s.must(h.ReadOnly(lab.MySQLDisk))
			s.takenOver(st.Primary, at, 30*time.Second)
			s.must(s.Grow(50, 10*time.Second))
			s.must(h.PowerOff()) // a boot mounts it anew
		}},
		{name: "file system of a replica read-only", direct: 4 * time.Second, strike: func(s *scene, st api.Status) {
			h := s.replica(st)
			s.must(h.ReadOnly(lab.MySQLDisk))
			s.wait(8 * time.Second)
			s.must(h.PowerOff())
		}},
		{name: "data disk of the primary hangs", moves: moved, direct: 10 * time.Second, vip: 10 * time.Second, strike: func(s *scene, st api.Status) {
			h := s.host(st.Primary)
			at := time.Now()
			s.must(h.Freeze(lab.MySQLDisk))
			defer func() { _ = h.Thaw(lab.MySQLDisk) }()
			s.takenOver(st.Primary, at, 30*time.Second)
			s.wait(2 * time.Second)
		}},
		{name: "data disk of the primary slow", moves: maybe, strike: func(s *scene, st api.Status) {
			s.slow(s.host(st.Primary), lab.MySQLDisk, 300*time.Millisecond, 100*time.Millisecond, 12*time.Second)
		}},
		{name: "data disk of a replica hangs for 6 s", direct: 4 * time.Second, vip: 4 * time.Second, strike: func(s *scene, st api.Status) {
			h := s.replica(st)
			s.must(h.Freeze(lab.MySQLDisk))
			s.wait(6 * time.Second)
			s.must(h.Thaw(lab.MySQLDisk))
		}},
		{name: "disk of the primary's agent full", direct: 2 * time.Second, vip: 2 * time.Second, strike: func(s *scene, st api.Status) {
			h := s.host(st.Primary)
			s.must(h.Fill(lab.AgentDisk))
			s.wait(10 * time.Second)
			s.must(h.Free(lab.AgentDisk))
		}},
		{name: "disk of the coordinator's agent full, and the primary dies", moves: moved, direct: 5 * time.Second, vip: 5 * time.Second, strike: func(s *scene, st api.Status) {
			h := s.host(st.Coordinator)
			s.must(h.Fill(lab.AgentDisk))
			s.wait(2 * time.Second)
			at := time.Now()
			s.kill(st.Primary, lab.Mysqld)
			s.takenOver(st.Primary, at, 20*time.Second)
			s.must(h.Free(lab.AgentDisk))
		}},
		{name: "disk of the coordinator's agent hangs for 12 s", direct: 2 * time.Second, vip: 2 * time.Second, well: 30 * time.Second, strike: func(s *scene, st api.Status) {
			h := s.host(st.Coordinator)
			s.must(h.Freeze(lab.AgentDisk))
			s.wait(12 * time.Second)
			now, _ := s.Status(s.Context())
			s.seen("coordinator %s, then %s", st.Coordinator, now.Coordinator)
			s.must(h.Thaw(lab.AgentDisk))
		}},
		{name: "disk of the primary's agent hangs for 12 s", moves: maybe, direct: 8 * time.Second, well: 30 * time.Second, strike: func(s *scene, st api.Status) {
			h := s.host(st.Primary)
			s.must(h.Freeze(lab.AgentDisk))
			s.wait(12 * time.Second)
			s.must(h.Thaw(lab.AgentDisk))
		}},
		{name: "connection storm on the primary", quick: true, direct: 2 * time.Second, strike: func(s *scene, st api.Status) {
			s.storm(st.Primary, 12*time.Second)
		}},
		{name: "connection storm on the primary, and it dies", moves: moved, direct: 5 * time.Second, strike: func(s *scene, st api.Status) {
			s.storm(st.Primary, 3*time.Second)
			at := time.Now()
			s.kill(st.Primary, lab.Mysqld)
			s.takenOver(st.Primary, at, 20*time.Second)
		}},
		{name: "agent of the primary has 5 % of a processor", direct: 2 * time.Second, vip: 2 * time.Second, strike: func(s *scene, st api.Status) {
			s.starve(s.host(st.Primary), 12*time.Second)
		}},
		{name: "all agents have 5 % of a processor", direct: 2 * time.Second, vip: 2 * time.Second, strike: func(s *scene, _ api.Status) {
			s.starve(nil, 12*time.Second)
		}},
		{name: "nobody reads the agents' logs, and the primary dies", moves: moved, direct: 5 * time.Second, vip: 5 * time.Second, strike: func(s *scene, st api.Status) {
			for _, h := range s.Hosts {
				s.must(h.Mute())
				defer func() { _ = h.Hear() }()
			}
			at := time.Now()
			s.kill(st.Primary, lab.Mysqld)
			s.takenOver(st.Primary, at, 20*time.Second)
			s.wait(8 * time.Second)
		}},
	}
}

// slow lets a disk hang again and again.
func (s *scene) slow(h *lab.Host, disk string, hang, work, long time.Duration) {
	s.Helper()
	for began := time.Now(); time.Since(began) < long; {
		s.must(h.Freeze(disk))
		s.wait(hang)
		s.must(h.Thaw(disk))
		s.wait(work)
	}
}

// starve lets the agent of a host, or of all, run for 5 of each 100 ms.
func (s *scene) starve(h *lab.Host, long time.Duration) {
	s.Helper()
	hosts := []*lab.Host{h}
	if h == nil {
		hosts = s.Hosts
	}
	var pids []int
	for _, h := range hosts {
		pids = append(pids, h.PIDs(lab.Agent)...)
	}
	all := func(sig unix.Signal) {
		for _, pid := range pids {
			_ = unix.Kill(pid, sig)
		}
	}
	defer all(unix.SIGCONT)
	for began := time.Now(); time.Since(began) < long; {
		all(unix.SIGSTOP)
		s.wait(95 * time.Millisecond)
		all(unix.SIGCONT)
		s.wait(5 * time.Millisecond)
	}
}

// storm takes every connection that a server has and whatever becomes free, for
// some time.
func (s *scene) storm(host string, long time.Duration) {
	s.Helper()
	h := s.host(host)
	db, err := sql.Open("mysql", s.DSN(s.Clients[0].Name, h.Addr, 2*time.Second))
	s.must(err)
	defer db.Close()
	ctx, cancel := context.WithTimeout(s.Context(), long)
	defer cancel()
	held := 0
	for ctx.Err() == nil {
		c, err := db.Conn(ctx)
		if err == nil {
			held++
			defer c.Close()
			continue
		}
		if held < 10 {
			s.Fatalf("only %d connections: %v", held, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.seen("%s", fmt.Sprintf("%d connections were taken", held))
}
