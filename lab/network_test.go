package lab_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"ha/agent/api"
	"ha/lab"
)

func TestNetwork(t *testing.T) { strikeAll(t, "Network") }

const (
	agentPort = 8801
	mysqlPort = 3306
)

func init() {
	groups["Network"] = []fault{
		{name: "primary cut off together with clients", quick: true, follows: true, moves: moved, direct: 8 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.must(s.Split([]string{st.Primary, s.Clients[0].Name}))
			s.takenOver(st.Primary, at, 20*time.Second)
			closed := s.closed(st.Primary, at)
			s.must(s.Grow(100, 20*time.Second))
			s.silent(st.Primary, closed, s.Clients[0])
		}},
		{name: "primary cut off from the others, not from clients", follows: true, moves: moved, direct: 8 * time.Second, strike: func(s *scene, st api.Status) {
			waits := s.patient(s.Clients[1].Name)
			at := time.Now()
			s.must(s.Lose(both(st.Primary, s.others(st.Primary), 0)...))
			s.takenOver(st.Primary, at, 20*time.Second)
			closed := s.closed(st.Primary, at)
			s.toldOff(waits, at)
			s.must(s.Grow(100, 20*time.Second))
			s.silent(st.Primary, closed)
		}},
		{name: "nobody hears the primary", follows: true, moves: moved, direct: 8 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.must(s.Lose(lab.Loss{From: st.Primary, To: s.others(st.Primary)[0]}, lab.Loss{From: st.Primary, To: s.others(st.Primary)[1]}))
			s.takenOver(st.Primary, at, 20*time.Second)
			s.silent(st.Primary, s.closed(st.Primary, at))
		}},
		{name: "the primary hears nobody", follows: true, moves: moved, direct: 8 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.must(s.Lose(lab.Loss{To: st.Primary}))
			s.takenOver(st.Primary, at, 20*time.Second)
			s.silent(st.Primary, s.closed(st.Primary, at))
		}},
		// Nobody tells the primary that its replicas' connections are gone; they
		// themselves hear no more.
		{name: "only the replication ports are cut", direct: 5 * time.Second, vip: 5 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.must(s.Lose(both(st.Primary, s.others(st.Primary), mysqlPort)...))
			s.eventually(15*time.Second, "status says that nobody acknowledges", func() (bool, string) {
				now, _ := s.Status(s.Context())
				return now.Acks == 0, fmt.Sprint(now.Acks)
			})
			s.seen("recorded as async after %s", time.Since(at).Round(100*time.Millisecond))
			s.wait(5 * time.Second)
		}},
		{name: "agents cut off while replicas stream, for 3 s", strike: func(s *scene, st api.Status) {
			s.must(s.Lose(both(st.Primary, s.others(st.Primary), agentPort)...))
			s.wait(3 * time.Second)
		}, direct: time.Second, vip: time.Second},
		{name: "agents cut off while replicas stream", follows: true, moves: moved, direct: 4 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.must(s.Lose(both(st.Primary, s.others(st.Primary), agentPort)...))
			closed := s.closed(st.Primary, at)
			s.takenOver(st.Primary, at, 20*time.Second)
			s.silent(st.Primary, closed)
		}},
		{name: "the coordinator cut off", direct: 3 * time.Second, vip: 3 * time.Second, strike: func(s *scene, st api.Status) {
			s.must(s.Isolate(st.Coordinator))
			s.wait(8 * time.Second)
		}},
		{name: "a replica cut off", direct: 3 * time.Second, vip: 3 * time.Second, strike: func(s *scene, st api.Status) {
			s.must(s.Isolate(s.replica(st).Name))
			s.wait(8 * time.Second)
		}},
		{name: "everybody cut off from everybody", moves: maybe, well: 30 * time.Second, strike: func(s *scene, st api.Status) {
			at := time.Now()
			s.must(s.Isolate("n1", "n2", "n3"))
			s.closed(st.Primary, at)
			s.wait(4 * time.Second)
		}},
		{name: "90 % of the primary's packets lost", moves: maybe, well: 30 * time.Second, strike: func(s *scene, st api.Status) {
			s.must(s.Lose(lab.Loss{From: st.Primary, Share: 0.9}, lab.Loss{To: st.Primary, Share: 0.9}))
			s.wait(15 * time.Second)
		}},
		{name: "5 % of all packets lost", direct: 2 * time.Second, strike: func(s *scene, _ api.Status) {
			s.must(s.Lose(lab.Loss{Share: 0.05}))
			s.wait(15 * time.Second)
		}},
		{name: "300 ms latency of the primary", direct: 2 * time.Second, strike: func(s *scene, st api.Status) {
			s.must(s.host(st.Primary).Delay(150*time.Millisecond, 0))
			s.wait(15 * time.Second)
		}},
		{name: "100 ms latency of everybody", direct: 2 * time.Second, strike: func(s *scene, _ api.Status) {
			s.far(50 * time.Millisecond)
		}},
		{name: "300 ms latency of everybody", direct: 2 * time.Second, moves: maybe, strike: func(s *scene, _ api.Status) {
			s.far(150 * time.Millisecond)
		}},
		{name: "a third of the primary's packets reordered", direct: 2 * time.Second, strike: func(s *scene, st api.Status) {
			s.must(s.host(st.Primary).Delay(time.Millisecond, 0.33))
			s.wait(15 * time.Second)
		}},
		{name: "the primary's link flaps every 5 s", moves: maybe, well: 30 * time.Second, strike: func(s *scene, st api.Status) {
			for range 3 {
				s.must(s.Unplug(st.Primary))
				s.wait(5 * time.Second)
				s.must(s.Plug(st.Primary))
				s.wait(5 * time.Second)
			}
		}},
		{name: "the primary's link flaps every second", moves: maybe, well: 30 * time.Second, strike: func(s *scene, st api.Status) {
			for range 8 {
				s.must(s.Unplug(st.Primary))
				s.wait(time.Second)
				s.must(s.Plug(st.Primary))
				s.wait(time.Second)
			}
		}},
		// Without packets memberlist asks through a stream: those are not opened either.
		{name: "gossip calls healthy peers dead", faulty: true, direct: time.Second, vip: time.Second, strike: func(s *scene, _ api.Status) {
			deaf := s.FaultFile() + ".deaf"
			s.must(os.WriteFile(deaf, nil, 0o600))
			defer os.Remove(deaf)
			calls := s.count("gossip: peer does not answer")
			s.must(s.Lose(lab.Loss{Port: agentPort, UDP: true}))
			took := s.eventually(10*time.Second, "every agent calls both others dead", func() (bool, string) {
				n := s.count("gossip: peer does not answer") - calls
				return n >= 6, fmt.Sprint(n)
			})
			s.seen("every agent calls both others dead after %s", took.Round(100*time.Millisecond))
			s.wait(10 * time.Second)
			if n := s.count("gossip: peer is alive"); s.Heal() == nil && os.Remove(deaf) == nil {
				s.eventually(10*time.Second, "and knows afterwards that they live", func() (bool, string) {
					again := s.count("gossip: peer is alive") - n
					return again >= 6, fmt.Sprint(again)
				})
			}
		}},
	}
}

// far lets everything between hosts take that long one way.
func (s *scene) far(way time.Duration) {
	s.Helper()
	for _, h := range s.Hosts {
		s.must(h.Delay(way/2, 0)) // there is a box at either end
	}
	s.wait(15 * time.Second)
}
