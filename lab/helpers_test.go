package lab_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/api"
	"ha/lab"
	"ha/mysqlctl/mysqltest"
	"ha/raftfsm"
)

// others are the data hosts that are not this one.
func (s *scene) others(name string) (out []string) {
	for _, h := range s.Hosts {
		if h.Name != name && !h.Witness {
			out = append(out, h.Name)
		}
	}
	return out
}

// replica is one that does not coordinate, if there is one.
func (s *scene) replica(st api.Status) *lab.Host {
	s.Helper()
	name := ""
	for _, n := range st.Nodes {
		if n.Role == "replica" && (name == "" || n.Name != st.Coordinator) {
			name = n.Name
		}
	}
	return s.host(name)
}

// wait is for what lasts a while: a fault.
func (s *scene) wait(d time.Duration) {
	s.Helper()
	select {
	case <-time.After(d):
	case <-s.Context().Done():
		s.Fatal(s.Context().Err())
	}
}

// root is a server's root, until the test's end.
func (s *scene) root(host string) *sql.DB {
	s.Helper()
	db, err := s.Root(host)
	s.must(err)
	s.Cleanup(func() { db.Close() })
	return db
}

func (s *scene) exec(host string, stmts ...string) {
	s.Helper()
	db := s.root(host)
	for _, stmt := range stmts {
		if _, err := db.ExecContext(s.Context(), stmt); err != nil {
			s.Fatalf("%s on %s: %v", stmt, host, err)
		}
	}
}

// kill sends SIGKILL to what is there.
func (s *scene) kill(host, kind string) {
	s.Helper()
	if s.host(host).Signal(kind, unix.SIGKILL) == 0 {
		s.Fatalf("no %s on %s", kind, host)
	}
}

// freeze stops processes until thaw or the test's end, and waits until they stand.
func (s *scene) freeze(host string, kinds ...string) (thaw func()) {
	s.Helper()
	h := s.host(host)
	for _, kind := range kinds {
		if h.Signal(kind, unix.SIGSTOP) == 0 {
			s.Fatalf("no %s on %s", kind, host)
		}
	}
	thaw = sync.OnceFunc(func() {
		for _, kind := range kinds {
			h.Signal(kind, unix.SIGCONT)
		}
	})
	s.Cleanup(thaw)
	for _, kind := range kinds {
		mysqltest.Eventually(s.T, 10*time.Second, kind+" of "+host+" stands", func() bool { return mysqltest.Stands(h.PIDs(kind)...) })
	}
	return thaw
}

// count says how often the agents of all hosts have said it.
func (s *scene) count(what string) (n int) {
	s.Helper()
	for _, h := range s.Hosts {
		text, err := os.ReadFile(h.AgentLog())
		s.must(err)
		n += strings.Count(string(text), what)
	}
	return n
}

// both is packets lost between one host and others, both ways.
func both(one string, others []string, port int) (out []lab.Loss) {
	for _, o := range others {
		out = append(out, lab.Loss{From: one, To: o, Port: port}, lab.Loss{From: o, To: one, Port: port})
	}
	return out
}

// replicas are all of them.
func replicas(st api.Status) (out []string) {
	for _, n := range st.Nodes {
		if n.Role == "replica" {
			out = append(out, n.Name)
		}
	}
	return out
}

// noVIP waits until a host has lost the virtual IP with nobody's help.
func (s *scene) noVIP(name string, since time.Time) {
	s.Helper()
	s.eventually(time.Until(since.Add(leaseOver)), name+" without virtual IP", func() (bool, string) {
		has, err := s.host(name).Addresses()
		return err == nil && !slices.Contains(has, lab.VIP), fmt.Sprint(has, err)
	})
	s.seen("virtual IP gone from there after %s", time.Since(since).Round(100*time.Millisecond))
}

// phase waits until the state is in it, as an agent sees it, and gives the node
// that is or is to be the primary.
func (s *scene) phase(want raftfsm.Phase, ask string) string {
	s.Helper()
	name := ""
	s.eventually(10*time.Second, "phase "+fmt.Sprint(want), func() (bool, string) {
		self, err := s.Self(s.Context(), ask)
		m, _ := self.State.Member(self.State.Primary)
		name = m.Name
		return err == nil && self.State.Phase == want, fmt.Sprint(self.State.Phase, err)
	})
	return name
}

// status says what status does, or nothing.
func (s *scene) status() string {
	ctx, cancel := context.WithTimeout(s.Context(), 3*time.Second)
	defer cancel()
	st, err := s.Status(ctx)
	return fmt.Sprint(st.Health, " ", st.Doing, " ", st.Issues, " ", err)
}

// codes are those of the issues that status names.
func (s *scene) codes() string {
	s.Helper()
	st, err := s.Status(s.Context())
	s.must(err)
	var codes []string
	for _, i := range st.Issues {
		codes = append(codes, i.Code)
	}
	slices.Sort(codes)
	return strings.Join(slices.Compact(codes), " ")
}
