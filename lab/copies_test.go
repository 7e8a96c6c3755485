package lab_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/lab"
	"ha/raftfsm"
)

// What needs a network and disks to break in the middle of a copy; the other faults
// of copies are in copies_test.go of the root.
// The other faults get another lab: this one has many rows to recover and compare.
func TestCopies(t *testing.T) {
	strikeAll(t, "Copies")
	endShared()
}

// slowly is so slow that a fault comes in between, in bytes per second.
const slowly = 12 << 20

func init() {
	add := func(name string, percent int64, f fault, during func(s *scene, to, from string)) {
		f.name = fmt.Sprintf("%s at %d %% of a copy", name, percent)
		f.before = func(s *scene, st api.Status) {
			s.must(s.FillTable(s.Context(), st.Primary))
			_, err := s.AwaitHealthy(s.Context(), 30*time.Second)
			s.must(err)
		}
		f.strike = func(s *scene, st api.Status) { s.duringCopy(st, percent, during) }
		// The recipient is no acker any more: writers do not notice. The donor is the
		// only one that is left: they wait until the group goes on without.
		if f.direct == 0 {
			f.direct, f.vip = time.Second, time.Second
		}
		groups["Copies"] = append(groups["Copies"], f)
	}
	for _, percent := range []int64{10, 50, 90} {
		add("recipient's disk full", percent, fault{}, func(s *scene, to, from string) {
			h := s.host(to)
			s.must(h.Fill(lab.MySQLDisk))
			took := s.eventually(60*time.Second, "the copy is given up and removed", func() (bool, string) {
				left := h.Copies()
				return len(left) == 0, fmt.Sprint(left)
			})
			s.seen("the copy was removed after %s", took.Round(100*time.Millisecond))
			s.must(h.Free(lab.MySQLDisk))
		})
		add("recipient cut off for 10 s", percent, fault{quick: percent == 50}, func(s *scene, to, from string) {
			s.must(s.Isolate(to))
			s.wait(10 * time.Second)
			s.must(s.Heal())
		})
		add("donor cut off for 10 s", percent, fault{direct: 6 * time.Second, vip: 6 * time.Second}, func(s *scene, to, from string) {
			s.must(s.Isolate(from))
			s.wait(10 * time.Second)
			s.must(s.Heal())
		})
	}
	// Longer than the lease of the copy: the coordinator gives it up, and the
	// recipient, which knows nothing of that, is told when it is back.
	add("recipient cut off for 75 s", 50, fault{}, func(s *scene, to, from string) {
		s.must(s.Isolate(to))
		s.wait(75 * time.Second)
		s.must(s.Heal())
	})
	// At last it is copied from the primary, at a time of its own choosing.
	add("no way between recipient and donor's mysqld", 50, fault{direct: 3 * time.Second, vip: 3 * time.Second}, func(s *scene, to, from string) {
		s.must(s.Lose(both(to, []string{from}, mysqlPort)...))
		s.copied(to, 8*time.Minute)
	})
}

// duringCopy lets something happen in the middle of a copy, which has to come to a
// good end in spite of it, and looks at what it leaves.
func (s *scene) duringCopy(st api.Status, percent int64, during func(s *scene, to, from string)) {
	s.Helper()
	ctx := s.Context()
	rs := replicas(st)
	slices.SortFunc(rs, func(a, b string) int {
		if a == st.Coordinator {
			return 1
		}
		return strings.Compare(a, b)
	})
	to, from := rs[0], rs[1]
	old, err := s.ServerUUID(ctx, to)
	s.must(err)
	_, err = s.AskRebuild(ctx, api.AskRebuild{Node: to, By: "a test", Copying: raftfsm.Copying{Engine: raftfsm.EngineClone, Throttle: slowly}})
	s.must(err)
	s.eventually(60*time.Second, fmt.Sprintf("%d %% are copied", percent), func() (bool, string) {
		r, err := s.Rebuild(ctx, to)
		if r.Done {
			s.Fatalf("it ended before: %+v", r)
		}
		return err == nil && r.Donor == from && r.Phase == raftfsm.CopyRunning && r.Total > 48<<20 && r.Bytes*100 >= r.Total*percent, fmt.Sprintf("%+v %v", r, err)
	})
	during(s, to, from)
	s.must(s.Heal())
	s.copied(to, 3*time.Minute)
	if now, err := s.ServerUUID(ctx, to); err != nil || now == old {
		s.Errorf("%s has the data it had (%s), %v", to, now, err)
	}
}

// copied waits for the good end of a copy and sees that its rows are the primary's and
// that nothing is left of it.
func (s *scene) copied(to string, bound time.Duration) {
	s.Helper()
	ctx := s.Context()
	var end api.RebuildStatus
	took := s.eventually(bound, "the end of the rebuild of "+to, func() (bool, string) {
		r, err := s.Rebuild(ctx, to)
		end = r
		return err == nil && r.Done, fmt.Sprintf("%+v %v", r, err)
	})
	if !end.OK {
		s.Fatalf("it failed: %+v", end)
	}
	s.seen("rebuilt from %s, %s later", end.Donor, took.Round(100*time.Millisecond))
	s.eventually(40*time.Second, "nothing is left of the copy", func() (bool, string) {
		left := s.host(to).Copies()
		return len(left) == 0, fmt.Sprint(left)
	})
	s.eventually(30*time.Second, "the same rows as the primary", func() (bool, string) {
		st, err := s.Status(ctx)
		if err != nil {
			return false, err.Error()
		}
		want, err := s.FillSum(ctx, st.Primary)
		if err != nil {
			return false, err.Error()
		}
		has, err := s.FillSum(ctx, to)
		return err == nil && has == want, fmt.Sprint(has, want, err)
	})
}
