package lab

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"ha/bench/load"
)

// pace is how often each writer writes at most: appliers of three servers on two
// cores have to keep up, as one that lags leaves the ack set.
const pace = 10 * time.Millisecond

// ViaVIP names a client's writer, which does not know what server it talks to.
func ViaVIP(client string) string { return "vip from " + client }

// Scene is a lab under load: there is a writer on every host, one from the first
// client to every host's address, and one from every client through the virtual
// IP; and a reader from every client through that.
type Scene struct {
	*Lab
	Load *load.Load

	servers []load.Server // for checks: on the hosts
	past    []load.Ack    // of earlier loads
	epoch   uint64        // before past began
	reads   *readers
}

// NewScene puts a healthy lab under load.
func (l *Lab) NewScene(ctx context.Context) (*Scene, error) {
	s := &Scene{Lab: l}
	for _, h := range l.Hosts {
		if !h.Witness {
			s.servers = append(s.servers, load.Server{Name: h.Name, DSN: l.LocalDSN(h.Name)})
		}
	}
	if err := load.CreateTable(ctx, s.servers); err != nil {
		return nil, err
	}
	st, err := l.Status(ctx)
	if err != nil {
		return nil, err
	}
	s.epoch = st.Epoch
	return s, s.Resume(ctx)
}

// Resume begins to write and to read anew.
func (s *Scene) Resume(ctx context.Context) error {
	writers := slices.Clone(s.servers)
	for _, h := range s.Hosts {
		if !h.Witness {
			writers = append(writers, load.Server{Name: h.Name, DSN: s.DSN(s.Clients[0].Name, h.Addr, 5*time.Second)})
		}
	}
	for _, c := range s.Clients {
		writers = append(writers, load.Server{Name: ViaVIP(c.Name), DSN: s.DSN(c.Name, VIP, time.Second)})
	}
	var err error
	if s.Load, err = load.Start(ctx, writers, pace); err != nil {
		return err
	}
	s.reads, err = s.startReaders(ctx)
	return err
}

// Stop ends writers and readers.
func (s *Scene) Stop() {
	if s.Load != nil {
		s.past = append(s.past, s.Load.Stop()...)
		s.Load = nil
		s.reads.end()
	}
}

// Acks are those of the load that runs, in order of time, of the writers that keep
// says yes to.
func (s *Scene) Acks(keep func(server string) bool) []load.Ack {
	acks := s.Load.Acks()
	return slices.DeleteFunc(acks, func(a load.Ack) bool { return keep != nil && !keep(a.Server) })
}

// Direct is true for writers that have a list of servers to try.
func (s *Scene) Direct(server string) bool {
	return slices.ContainsFunc(s.servers, func(x load.Server) bool { return x.Name == server })
}

// Grow waits until that many more rows are acknowledged.
func (s *Scene) Grow(n int64, bound time.Duration) error {
	want := s.Load.Count() + n
	return Eventually(bound, func() error {
		if has := s.Load.Count(); has < want {
			return fmt.Errorf("%d of %d rows acknowledged", has, want)
		}
		return nil
	})
}

// readers read through the virtual IP what is newest of each writer.
type readers struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	samples []sample
}

// sample is what a read saw that was sent at a time: the newest row of each writer.
type sample struct {
	at     time.Time
	newest map[int64]int64
}

const readEvery = 20 * time.Millisecond

func (s *Scene) startReaders(ctx context.Context) (*readers, error) {
	ctx, stop := context.WithCancel(ctx)
	r := &readers{stop: stop}
	for _, c := range s.Clients {
		db, err := sql.Open("mysql", s.DSN(c.Name, VIP, time.Second))
		if err != nil {
			stop()
			return nil, err
		}
		r.done.Go(func() {
			defer db.Close()
			tick := time.NewTicker(readEvery)
			defer tick.Stop()
			for ctx.Err() == nil {
				if one, err := read(ctx, db); err == nil {
					r.mu.Lock()
					r.samples = append(r.samples, one)
					r.mu.Unlock()
				}
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
			}
		})
	}
	return r, nil
}

func (r *readers) end() { r.stop(); r.done.Wait() }

func read(ctx context.Context, db *sql.DB) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := db.Conn(ctx)
	if err != nil {
		return sample{}, err
	}
	defer c.Close()
	one := sample{time.Now(), map[int64]int64{}}
	rows, err := c.QueryContext(ctx, "SELECT writer, MAX(seq) FROM load_rows GROUP BY writer")
	if err != nil {
		return one, err
	}
	defer rows.Close()
	for rows.Next() {
		var writer, seq int64
		if err := rows.Scan(&writer, &seq); err != nil {
			return one, err
		}
		one.newest[writer] = seq
	}
	return one, rows.Err()
}

// stalest is the age of the oldest row that was acknowledged before some read was
// sent and that it did not see.
func stalest(samples []sample, acks []load.Ack) (worst time.Duration) {
	by := map[int64][]load.Ack{} // in order of time, which is that of seq
	for _, a := range acks {
		by[a.Row.Writer] = append(by[a.Row.Writer], a)
	}
	writers := slices.Collect(maps.Keys(by))
	for _, one := range samples {
		for _, w := range writers {
			own := by[w]
			i, _ := slices.BinarySearchFunc(own, one.newest[w]+1, func(a load.Ack, seq int64) int { return int(a.Row.Seq - seq) })
			if i < len(own) && own[i].At.Before(one.at) {
				worst = max(worst, one.at.Sub(own[i].At))
			}
		}
	}
	return worst
}
