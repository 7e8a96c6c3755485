package lab_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"ha/agent/api"
	"ha/bench/load"
	"ha/lab"
	"ha/raftfsm"
)

// What holds of a primary that is cut off from the others.

const (
	lease = 5 * time.Second
	// leaseOver is the lease, and what the virtual IP may be late (S4).
	leaseOver = lease + 1500*time.Millisecond
	// closedBy is the lease, the 500 ms after which a SET of super_read_only that does
	// not return becomes a kill, and as much for a look on a busy machine.
	closedBy = lease + time.Second
)

// followsWithin is how long after the end of a cut the old primary may take: what is
// promised, and twice that in make test, on whatever machine that runs.
func followsWithin() time.Duration {
	if *all {
		return 10 * time.Second
	}
	return 20 * time.Second
}

// closed waits until a host that was cut off serves no more, and says since when it
// is read-only or stopped.
func (s *scene) closed(name string, since time.Time) (at time.Time) {
	s.Helper()
	h := s.host(name)
	db := s.root(name)
	s.eventually(time.Until(since.Add(closedBy)), name+" is read-only or stopped", func() (bool, string) {
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		var ro bool
		var down *net.OpError // nobody listens
		err := db.QueryRowContext(ctx, "SELECT @@global.super_read_only").Scan(&ro)
		at = time.Now()
		return err == nil && ro || errors.As(err, &down) && ctx.Err() == nil, fmt.Sprint("read-only: ", ro, " ", err)
	})
	s.seen("the old primary closed after %s", at.Sub(since).Round(100*time.Millisecond))
	s.eventually(time.Until(since.Add(leaseOver)), name+" is without virtual IP", func() (bool, string) {
		has, err := h.Addresses()
		return err == nil && !slices.Contains(has, lab.VIP), fmt.Sprint(has, err)
	})
	return at
}

// silent sees that such a host acknowledged nothing that was sent after it had closed,
// to nobody: all writers try all the time. Those of clients that are cut off with it
// reach nobody else through the virtual IP.
func (s *scene) silent(name string, closed time.Time, with ...*lab.Client) {
	s.Helper()
	s.wait(2 * time.Second)
	from := []string{name}
	for _, c := range with {
		from = append(from, lab.ViaVIP(c.Name))
	}
	late := s.Acks(func(server string) bool { return slices.Contains(from, server) })
	late = slices.DeleteFunc(late, func(a load.Ack) bool { return !a.Sent.After(closed) })
	if len(late) > 0 {
		s.Errorf("%s acknowledged %d rows after it had closed, the first sent to %q %s later", name, len(late), late[0].Server, late[0].Sent.Sub(closed))
	}
}

// cutOff is the state of a host before it was cut off.
type cutOff struct {
	name  string
	event uint64 // the last one
	old   bool   // it had data from before a copy
}

func (s *scene) beforeCut(st api.Status) cutOff {
	s.Helper()
	return cutOff{st.Primary, slices.MaxFunc(s.events(), func(a, b raftfsm.Event) int { return int(a.Index) - int(b.Index) }).Index, s.oldData(st.Primary)}
}

func (s *scene) events() []raftfsm.Event {
	s.Helper()
	st, err := s.Status(s.Context())
	s.must(err)
	self, err := s.Self(s.Context(), st.Coordinator)
	s.must(err)
	return self.State.Events
}

func (s *scene) oldData(host string) bool {
	_, err := os.Stat(s.host(host).Path(lab.MySQLDisk + "/data.old"))
	return err == nil
}

// follows waits until the old primary replicates: its cut has been healed.
func (s *scene) follows(name string, healed time.Time) {
	s.Helper()
	s.eventually(time.Until(healed.Add(followsWithin())), name+" follows the new primary", func() (bool, string) {
		st, err := s.Status(s.Context())
		for _, n := range st.Nodes {
			if n.Name == name {
				return n.Role == "replica" && n.Agent == "up" && n.LagSeconds != nil, fmt.Sprintf("%+v", n)
			}
		}
		return false, fmt.Sprint(err)
	})
	s.seen("it follows %s after the cut", time.Since(healed).Round(100*time.Millisecond))
}

// notRebuilt sees that it does so with its own data.
func (s *scene) notRebuilt(was cutOff) {
	s.Helper()
	for _, e := range s.events() {
		if e.Index > was.event && e.Kind == raftfsm.CmdRebuild {
			s.Errorf("%s was copied anew: %s", was.name, e.Text)
		}
	}
	if !was.old && s.oldData(was.name) {
		s.Errorf("%s has data.old: it was copied anew", was.name)
	}
}

// patient has a client that bounds nothing wait for an answer through the virtual IP,
// and gives when it was told that there will be none.
func (s *scene) patient(client string) <-chan time.Time {
	s.Helper()
	db, err := sql.Open("mysql", s.DSN(client, lab.VIP, 0))
	s.must(err)
	ctx, stop := context.WithCancel(context.Background())
	told := make(chan time.Time, 1)
	s.Cleanup(func() { stop(); db.Close() })
	c, err := db.Conn(ctx)
	s.must(err)
	go func() {
		_, _ = c.ExecContext(ctx, "DO SLEEP(1000000)")
		told <- time.Now()
		c.Close()
	}()
	return told
}

// toldOff waits until such a client does not wait any more: when the lease is over.
func (s *scene) toldOff(told <-chan time.Time, since time.Time) {
	s.Helper()
	select {
	case at := <-told:
		s.seen("a client that waits for ever was told after %s", at.Sub(since).Round(100*time.Millisecond))
	case <-time.After(time.Until(since.Add(leaseOver + time.Second))):
		s.Errorf("a client that was connected to the virtual IP on the old primary waits still")
	}
}
