package lab_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/api"
	"ha/bench/load"
	"ha/lab"
)

func TestReplication(t *testing.T) { strikeAll(t, "Replication") }

func init() {
	groups["Replication"] = []fault{
		{name: "errant transaction on a replica", quick: true, direct: 3 * time.Second, well: 60 * time.Second, strike: func(s *scene, st api.Status) {
			r := s.replica(st).Name
			s.exec(r, "SET GLOBAL super_read_only=0", fmt.Sprintf("INSERT INTO app.load_rows VALUES (%d, 7)", -time.Now().UnixNano()), "SET GLOBAL super_read_only=1")
			s.eventually(10*time.Second, "it is flagged", func() (bool, string) {
				said := s.status()
				return strings.Contains(said, "HA-ERRANT") || strings.Contains(said, "HA-DIVERGED") || strings.Contains(said, "rebuil"), said
			})
		}},
		{name: "replication account dropped", direct: 3 * time.Second, strike: func(s *scene, st api.Status) {
			s.exec(st.Primary, "DROP USER '"+s.account(st)+"'@'%'")
			s.endDumps(st.Primary)
			s.wait(5 * time.Second)
		}},
		{name: "replication password wrong", direct: 3 * time.Second, well: 60 * time.Second, strike: func(s *scene, st api.Status) {
			s.exec(st.Primary, "ALTER USER '"+s.account(st)+"'@'%' IDENTIFIED BY 'another'")
			s.endDumps(st.Primary)
			s.wait(5 * time.Second)
		}},
		{name: "replication accounts dropped, and the primary dies", moves: moved, direct: 5 * time.Second, strike: func(s *scene, st api.Status) {
			for _, n := range st.Nodes {
				s.exec(st.Primary, "DROP USER IF EXISTS 'ha_r_"+n.ID+"'@'%'")
			}
			at := time.Now()
			s.kill(st.Primary, lab.Mysqld)
			s.takenOver(st.Primary, at, 20*time.Second)
		}},
		{name: "connections of all replicas ended", direct: 3 * time.Second, strike: func(s *scene, st api.Status) {
			s.endDumps(st.Primary)
			s.wait(5 * time.Second)
		}},
		{name: "an acker hangs for 6 s", direct: 2 * time.Second, vip: 2 * time.Second, strike: func(s *scene, st api.Status) {
			thaw := s.freeze(s.replica(st).Name, lab.Mysqld)
			s.wait(6 * time.Second)
			thaw()
		}},
		{name: "all ackers hang for 15 s", direct: 13 * time.Second, well: 30 * time.Second, strike: func(s *scene, st api.Status) {
			for _, r := range replicas(st) {
				defer s.freeze(r, lab.Mysqld)()
			}
			s.wait(15 * time.Second)
			s.seen("status says %s", s.codes())
		}},
		{name: "all ackers killed", direct: 4 * time.Second, well: 30 * time.Second, strike: func(s *scene, st api.Status) {
			for _, r := range replicas(st) {
				s.kill(r, lab.Mysqld)
			}
			s.wait(5 * time.Second)
		}},
		{name: "an ack is dropped on a quiet system", direct: 5 * time.Second, strike: func(s *scene, st api.Status) {
			// What is received before the connection breaks is not acknowledged by
			// the next one: the commit waits for somebody else's.
			rs := replicas(st)
			s.must(s.Lose(lab.Loss{From: rs[0], To: st.Primary, Port: mysqlPort}, lab.Loss{From: rs[1], To: st.Primary, Port: mysqlPort}))
			s.wait(500 * time.Millisecond)
			for _, r := range rs {
				s.host(r).Signal(lab.Mysqld, unix.SIGSTOP)
			}
			s.endDumps(st.Primary)
			s.must(s.Lose())
			for _, r := range rs {
				s.host(r).Signal(lab.Mysqld, unix.SIGCONT)
			}
			s.wait(5 * time.Second)
		}},
		{name: "SQL thread stopped on a replica, and the primary dies", moves: moved, direct: 5 * time.Second, strike: func(s *scene, st api.Status) {
			s.exec(s.replica(st).Name, "STOP REPLICA SQL_THREAD")
			s.wait(100 * time.Millisecond)
			at := time.Now()
			s.kill(st.Primary, lab.Mysqld)
			s.takenOver(st.Primary, at, 20*time.Second)
		}},
		{name: "SQL threads stopped on all replicas, and the primary loses power", moves: moved, direct: 8 * time.Second, strike: func(s *scene, st api.Status) {
			for _, r := range replicas(st) {
				s.exec(r, "STOP REPLICA SQL_THREAD")
			}
			at := time.Now()
			s.must(s.host(st.Primary).PowerOff())
			s.takenOver(st.Primary, at, 20*time.Second)
		}},
		{name: "appliers of all replicas 4 s behind, and the primary dies", moves: moved, direct: 10 * time.Second, strike: func(s *scene, st api.Status) {
			end := s.locked(replicas(st)...)
			s.wait(4 * time.Second)
			at := time.Now()
			s.kill(st.Primary, lab.Mysqld)
			end()
			s.takenOver(st.Primary, at, 20*time.Second)
		}},
		{name: "a session holds up the applier of a replica, and the primary dies", moves: moved, direct: 10 * time.Second, strike: func(s *scene, st api.Status) {
			defer s.locked(s.replica(st).Name)()
			s.wait(2 * time.Second)
			at := time.Now()
			s.kill(st.Primary, lab.Mysqld)
			s.takenOver(st.Primary, at, 20*time.Second)
		}},
		{name: "sessions hold up the appliers of all replicas, and the primary dies", moves: moved, direct: 10 * time.Second, strike: func(s *scene, st api.Status) {
			defer s.locked(replicas(st)...)()
			s.wait(2 * time.Second)
			at := time.Now()
			s.kill(st.Primary, lab.Mysqld)
			s.takenOver(st.Primary, at, 20*time.Second)
		}},
		{name: "replication stopped by hand on a replica", direct: 2 * time.Second, vip: 2 * time.Second, strike: func(s *scene, st api.Status) {
			s.exec(s.replica(st).Name, "STOP REPLICA")
			s.wait(3 * time.Second)
		}},
		{name: "semi-sync switched off by hand", direct: 3 * time.Second, strike: func(s *scene, st api.Status) {
			s.exec(st.Primary, "SET GLOBAL rpl_semi_sync_source_enabled=OFF")
			s.wait(3 * time.Second)
		}},
		{name: "the others purged what a replica lacks", direct: 3 * time.Second, well: 60 * time.Second, strike: func(s *scene, st api.Status) {
			r := s.replica(st)
			s.must(r.PowerOff())
			s.must(s.Grow(200, 20*time.Second))
			for _, h := range s.others(r.Name) {
				s.exec(h, "FLUSH BINARY LOGS", "PURGE BINARY LOGS BEFORE NOW(6)")
			}
		}},
		{name: "the old primary comes back ahead of the new one", quick: true, moves: moved, direct: 8 * time.Second, strike: func(s *scene, st api.Status) {
			// For a moment nobody receives what it commits.
			s.must(s.Lose(both(st.Primary, s.others(st.Primary), mysqlPort)...))
			s.wait(300 * time.Millisecond)
			s.must(s.host(st.Primary).PowerOff())
			s.must(s.Lose())
			at := time.Now()
			s.takenOver(st.Primary, at, 20*time.Second)
		}},
		{name: "switchover", quick: true, moves: moved, direct: 2 * time.Second, vip: 2 * time.Second, strike: func(s *scene, _ api.Status) {
			s.switchover(api.ExitOK)
		}},
		{name: "switchover during a long transaction", moves: moved, direct: 2 * time.Second, vip: 2 * time.Second, strike: func(s *scene, st api.Status) {
			s.holding(st.Primary, "BEGIN", fmt.Sprintf("INSERT INTO app.load_rows VALUES (%d, 1)", -time.Now().UnixNano()))
			s.switchover(api.ExitOK)
		}},
		{name: "switchover during FLUSH TABLES WITH READ LOCK", moves: moved, direct: 5 * time.Second, strike: func(s *scene, st api.Status) {
			s.holding(st.Primary, "FLUSH TABLES WITH READ LOCK")
			s.switchover(api.ExitOK)
		}},
		{name: "switchover during DDL", direct: 2 * time.Second, vip: 2 * time.Second, strike: func(s *scene, st api.Status) {
			s.exec(st.Primary, "DROP TABLE IF EXISTS app.slow", "CREATE TABLE IF NOT EXISTS app.one (i INT PRIMARY KEY)", "REPLACE INTO app.one VALUES (1)")
			done := make(chan struct{})
			db := s.root(st.Primary)
			go func() {
				defer close(done)
				_, _ = db.ExecContext(s.Context(), "CREATE TABLE app.slow SELECT i, SLEEP(8) FROM app.one")
			}()
			s.wait(500 * time.Millisecond)
			s.switchover(api.ExitBusy)
			<-done
		}},
		{name: "switchover while commits wait for acks", moves: maybe, direct: 13 * time.Second, well: 30 * time.Second, strike: func(s *scene, st api.Status) {
			for _, r := range replicas(st) {
				defer s.freeze(r, lab.Mysqld)()
			}
			s.wait(500 * time.Millisecond)
			code, said := s.ha("switchover", "--timeout", "10s")
			s.seen("exit %d", code)
			if code == api.ExitOK {
				s.Errorf("nobody could take over: %s", said)
			}
		}},
	}
}

// locked lets no applier write rows, on these hosts, until end is called.
func (s *scene) locked(hosts ...string) (end func()) {
	s.Helper()
	var ends []func()
	for _, h := range hosts {
		one, err := load.Lock(s.Context(), s.root(h), "app.load_rows")
		s.must(err)
		ends = append(ends, one)
	}
	return func() {
		for _, one := range ends {
			one()
		}
	}
}

// account is the one with which a replica connects.
func (s *scene) account(st api.Status) string {
	r := s.replica(st).Name
	for _, n := range st.Nodes {
		if n.Name == r {
			return "ha_r_" + n.ID
		}
	}
	return ""
}

// endDumps ends the connections of a server's replicas.
func (s *scene) endDumps(host string) {
	s.Helper()
	s.must(load.EndDumps(s.Context(), s.root(host)))
}

// holding keeps a session that has run statements until the test's end.
func (s *scene) holding(host string, stmts ...string) {
	s.Helper()
	c, err := s.root(host).Conn(s.Context())
	s.must(err)
	s.Cleanup(func() { c.Close() })
	for _, stmt := range stmts {
		_, err := c.ExecContext(s.Context(), stmt)
		s.must(err)
	}
}

// ha runs the command line on a host, as a person would.
func (s *scene) ha(args ...string) (code int, said string) {
	s.Helper()
	cmd := exec.CommandContext(s.Context(), "sh", "-c", strings.TrimSuffix(s.Hosts[0].Enter(), "bash")+"ha "+strings.Join(args, " "))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		s.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), strings.TrimSpace(string(out))
}

func (s *scene) switchover(want int) {
	s.Helper()
	code, said := s.ha("switchover", "--timeout", "20s")
	s.seen("exit %d", code)
	if code != want {
		s.Errorf("switchover: exit %d, want %d: %s", code, want, said)
	}
}
