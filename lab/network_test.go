package lab_test

import (
	"slices"
	"testing"
	"time"

	"ha/agent/api"
	"ha/lab"
)

func TestProcess(t *testing.T) { strikeAll(t, "Process") }
func TestNetwork(t *testing.T) { strikeAll(t, "Network") }

func init() {
	groups["Process"] = []fault{
		{name: "host of the primary loses power", quick: true, moves: moved, direct: 5 * time.Second, vip: 5 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.must(s.host(st.Primary).PowerOff())
			s.takenOver(st.Primary, at, 20*time.Second)
			s.must(s.Grow(100, 20*time.Second))
		}},
	}
	groups["Network"] = []fault{
		{name: "primary cut off together with clients", quick: true, moves: moved, direct: 8 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.must(s.Split([]string{st.Primary, s.Clients[0].Name}))
			s.takenOver(st.Primary, at, 20*time.Second)
			s.closed(st.Primary, at)
			s.must(s.Grow(100, 20*time.Second))
		}},
	}
}

// closed waits until a host that was cut off serves no more.
func (s *scene) closed(name string, since time.Time) {
	s.Helper()
	h := s.host(name)
	db, err := s.Root(name)
	s.must(err)
	defer db.Close()
	s.eventually(time.Until(since.Add(leaseOver)), name+" is read-only and without virtual IP", func() (bool, string) {
		var ro bool
		if err := db.QueryRowContext(s.Context(), "SELECT @@global.super_read_only").Scan(&ro); err == nil && !ro {
			return false, "writable"
		}
		has, err := h.Addresses()
		return err == nil && !slices.Contains(has, lab.VIP), "virtual IP"
	})
	s.seen("the old primary closed after %s", time.Since(since).Round(100*time.Millisecond))
}

// leaseOver is the lease, and what it may be late.
const leaseOver = 6500 * time.Millisecond
