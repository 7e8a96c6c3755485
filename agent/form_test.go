package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/node"
	"ha/raftfsm"
)

// These tests start real agents with real Raft, gossip and TLS on loopback, but
// as witnesses: without mysqld a cluster forms in a fraction of a second.

// runningAgent is an agent in this process.
type runningAgent struct {
	*Agent
	cfg  Config
	stop context.CancelFunc
	done chan error
}

var testHosts atomic.Uint32

// testAddr gives a free loopback address, TCP and UDP, at a host that no other has:
// at 127.0.0.1 a port found free may be the next one that an outgoing connection gets.
func testAddr(t *testing.T) string {
	t.Helper()
	i := testHosts.Add(1)
	host := fmt.Sprintf("127.%d.%d.%d", 100+os.Getpid()%100, i/250, 1+i%250)
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func witness(t *testing.T, name, addr string, join ...string) Config {
	t.Helper()
	dir := t.TempDir()
	return Config{Name: name, Listen: addr, Join: join, Secret: "secret of the tests of forming", Witness: true, DataDir: dir, RuntimeDir: dir}
}

func testLog(t *testing.T) *slog.Logger {
	t.Helper()
	w := io.Discard
	if os.Getenv("HA_TEST_LOG") != "" {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func mustStart(t *testing.T, cfg Config) *runningAgent {
	t.Helper()
	a, err := New(cfg, testLog(t).With("node", cfg.Name), "test")
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &runningAgent{Agent: a, cfg: cfg, stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- a.Run(ctx) }()
	t.Cleanup(func() { r.halt(t) })
	return r
}

// halt stops the agent and gives the error of its Run.
func (r *runningAgent) halt(t *testing.T) {
	t.Helper()
	began := time.Now()
	defer func() { t.Logf("%s stopped in %v", r.cfg.Name, time.Since(began)) }()
	r.stop()
	select {
	case err := <-r.done:
		r.done <- err
	case <-time.After(20 * time.Second):
		t.Errorf("%s did not stop within 20 s", r.cfg.Name)
		r.done <- errors.New("did not stop")
	}
}

// ended gives the error with which an agent ended by itself.
func (r *runningAgent) ended(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(15 * time.Second):
		t.Fatalf("%s still runs after 15 s", r.cfg.Name)
		return nil
	}
}

// eventually polls until ok or the bound is over.
func eventually(t *testing.T, bound time.Duration, what string, ok func() (bool, string)) {
	t.Helper()
	end := time.Now().Add(bound)
	for {
		good, seen := ok()
		if good {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s; last seen: %s", bound, what, seen)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// oneCluster waits until all agents know the same n members of one cluster, have
// one leader, and the voters are odd in number.
func oneCluster(t *testing.T, agents []*runningAgent, n int) string {
	t.Helper()
	var cluster string
	eventually(t, 30*time.Second, fmt.Sprintf("one cluster of %d", n), func() (bool, string) {
		var leader string
		cluster = ""
		var all []looked
		for _, a := range agents {
			st, err := a.look()
			if err != nil { // an agent that ended does not come back
				t.Fatal(err)
			}
			all = append(all, st)
		}
		for i, a := range agents {
			st := all[i]
			if cluster == "" {
				cluster, leader = st.cluster, st.leader
			}
			want := n
			if want > 5 {
				want = 5
			}
			if want%2 == 0 {
				want--
			}
			if st.cluster == "" || st.cluster != cluster || st.leader == "" || st.leader != leader || st.members != n || st.voters != want {
				return false, fmt.Sprintf("%s: %+v (first: cluster %s leader %s)", a.cfg.Name, st, cluster, leader)
			}
		}
		return true, ""
	})
	return cluster
}

type looked struct {
	cluster, leader string
	members, voters int
}

func (r *runningAgent) look() (looked, error) {
	select {
	case err := <-r.done:
		r.done <- err
		return looked{}, fmt.Errorf("%s ended: %w", r.cfg.Name, err)
	default:
	}
	var out looked
	if r.node.Load() == nil {
		return out, nil // still starting
	}
	s := r.fsm.State()
	out.cluster, out.members = s.Cluster, len(s.Members)
	out.leader, _ = r.raft.Leader()
	for _, srv := range r.raftServers() {
		if srv.Voter {
			out.voters++
		}
	}
	return out, nil
}

// Any order of starts, with pauses, seeds that answer late and the same list on
// all but the founder: always one cluster.
func TestFormInRandomOrders(t *testing.T) {
	runs := 40
	if testing.Short() {
		runs = 10
	}
	for seed := range runs {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(uint64(seed), 1))
			n := 3 + r.IntN(3)
			var addrs []string
			for range n {
				addrs = append(addrs, testAddr(t))
			}
			agents := make([]*runningAgent, 0, n)
			for _, i := range r.Perm(n) {
				var join []string
				if i > 0 {
					join = addrs
				}
				agents = append(agents, mustStart(t, witness(t, fmt.Sprintf("n%d", i+1), addrs[i], join...)))
				if r.IntN(2) == 0 {
					_ = pause(context.Background(), time.Duration(r.IntN(300))*time.Millisecond)
				}
			}
			oneCluster(t, agents, n)
		})
	}
}

func TestRestartBringsTheSameClusterBack(t *testing.T) {
	addrs := []string{testAddr(t), testAddr(t), testAddr(t)}
	var agents []*runningAgent
	for i, addr := range addrs {
		var join []string
		if i > 0 {
			join = addrs
		}
		agents = append(agents, mustStart(t, witness(t, fmt.Sprintf("n%d", i+1), addr, join...)))
	}
	before := oneCluster(t, agents, 3)
	for _, order := range [][]int{{2, 1, 0}, {1, 0, 2}} { // the founder last, too
		for _, a := range agents {
			a.halt(t)
		}
		old := agents
		agents = nil
		for _, i := range order {
			agents = append(agents, mustStart(t, old[indexOf(old, fmt.Sprintf("n%d", i+1))].cfg))
		}
		if after := oneCluster(t, agents, 3); after != before {
			t.Fatalf("cluster %s became %s", before, after)
		}
	}
	// One alone is restarted, at another address: the group learns it.
	one := agents[0]
	one.halt(t)
	cfg := one.cfg
	cfg.Listen = testAddr(t)
	agents[0] = mustStart(t, cfg)
	oneCluster(t, agents, 3)
	eventually(t, 10*time.Second, "its new address known", func() (bool, string) {
		s := agents[1].fsm.State()
		m, _ := s.MemberByName(cfg.Name)
		return m.Address == cfg.Listen, m.Address
	})
}

func indexOf(agents []*runningAgent, name string) int {
	for i, a := range agents {
		if a.cfg.Name == name {
			return i
		}
	}
	return -1
}

// refused checks an agent's end: its exit code, its code word and what it says.
func refused(t *testing.T, err error, code int, word string, says ...string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.ExitCode() != code || e.Word != word {
		t.Fatalf("got %#v (%v), want exit code %d and %q", err, err, code, word)
	}
	for _, s := range says {
		if !strings.Contains(err.Error()+" "+e.Hint, s) {
			t.Errorf("%q / %q does not say %q", err, e.Hint, s)
		}
	}
}

func TestRefusals(t *testing.T) {
	founder := mustStart(t, witness(t, "n1", testAddr(t)))
	oneCluster(t, []*runningAgent{founder}, 1)
	seed := founder.cfg.Listen

	t.Run("wrong secret", func(t *testing.T) {
		cfg := witness(t, "n2", testAddr(t), seed)
		cfg.Secret = "another secret, long enough"
		refused(t, mustStart(t, cfg).ended(t), api.ExitRefused, "HA-WRONG-SECRET", seed, "secret")
	})
	t.Run("another cluster's node", func(t *testing.T) {
		other := mustStart(t, witness(t, "m1", testAddr(t)))
		oneCluster(t, []*runningAgent{other}, 1)
		other.halt(t)
		cfg := other.cfg
		cfg.Join = []string{seed}
		refused(t, mustStart(t, cfg).ended(t), api.ExitRefused, "HA-OTHER-CLUSTER", "--join")
	})
	t.Run("data of another cluster", func(t *testing.T) {
		cfg := witness(t, "n2", testAddr(t), seed)
		cfg.Witness, cfg.MySQL = false, MySQLConfig{Mysqld: "/bin/false", DataDir: t.TempDir(), Host: "127.0.0.1"}
		mustWrite(t, filepath.Join(cfg.MySQL.DataDir, markFile), "feedfeed\n")
		refused(t, mustStart(t, cfg).ended(t), api.ExitRefused, "HA-OTHER-CLUSTER", "feedfeed")
	})
	t.Run("a live node's name", func(t *testing.T) {
		eventually(t, 10*time.Second, "a report of n1", func() (bool, string) {
			_, v, _, _ := founder.coord.status()
			return len(v.Nodes) == 1 && v.Nodes[0].Report != nil, fmt.Sprint(v.Nodes)
		})
		refused(t, mustStart(t, witness(t, "n1", testAddr(t), seed)).ended(t), api.ExitRefused, "HA-NAME-TAKEN", "n1", "another name")
	})
	t.Run("port taken", func(t *testing.T) {
		refused(t, mustStart(t, witness(t, "n9", seed)).ended(t), api.ExitFailed, "", seed)
	})
	t.Run("no secret off loopback", func(t *testing.T) {
		cfg := witness(t, "n9", "192.0.2.1:8801")
		cfg.Secret = ""
		_, err := New(cfg, testLog(t), "test")
		var e interface{ ExitCode() int }
		if !errors.As(err, &e) || e.ExitCode() != api.ExitUsage || !strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v, want exit code 2 and a word about the secret", err)
		}
	})
	// None of them became a member.
	if s := founder.fsm.State(); len(s.Members) != 1 {
		t.Errorf("members: %+v", s.Members)
	}
}

func mustWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A founder that lost its disk does not found again on data that name a cluster.
func TestFounderThatLostItsDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(dir string)
		want string
	}{
		{"named", func(dir string) { mustWrite(t, filepath.Join(dir, markFile), "feedfeed\n") }, "feedfeed"},
		{"schema ha", func(dir string) { _ = os.Mkdir(filepath.Join(dir, "ha"), 0o700) }, "--join"},
		{"others' data", func(dir string) { _ = os.Mkdir(filepath.Join(dir, "shop"), 0o700) }, "--found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := witness(t, "n1", testAddr(t))
			cfg.Witness, cfg.MySQL = false, MySQLConfig{Mysqld: "/bin/false", DataDir: t.TempDir(), Host: "127.0.0.1"}
			c.make(cfg.MySQL.DataDir)
			a := mustStart(t, cfg)
			refused(t, a.ended(t), api.ExitRefused, "HA-NOT-EMPTY", c.want)
			if id := a.cluster(); id != "" {
				t.Errorf("founded %s", id)
			}
		})
	}
}

// A dead node's name is taken over by a new one; its old id is forgotten.
func TestReplacedUnderItsOldName(t *testing.T) {
	addrs := []string{testAddr(t), testAddr(t), testAddr(t)}
	agents := []*runningAgent{
		mustStart(t, witness(t, "n1", addrs[0])),
		mustStart(t, witness(t, "n2", addrs[1], addrs...)),
		mustStart(t, witness(t, "n3", addrs[2], addrs...)),
	}
	oneCluster(t, agents, 3)
	oldID := agents[2].id
	agents[2].halt(t)
	agents[2] = mustStart(t, witness(t, "n3", addrs[2], addrs...)) // with an empty data dir
	oneCluster(t, agents, 3)
	s := agents[0].fsm.State()
	if m, _ := s.MemberByName("n3"); m.ID == oldID || m.ID != agents[2].id {
		t.Errorf("n3 is %s, was %s, should be %s", m.ID, oldID, agents[2].id)
	}
	eventually(t, 10*time.Second, "the lost node is no Raft server any more", func() (bool, string) {
		servers := agents[0].raftServers()
		for _, srv := range servers {
			if srv.ID == oldID {
				return false, fmt.Sprint(servers)
			}
		}
		return true, ""
	})
}

// An agent that lost its token file, but not its id, would obey old orders.
func TestLostTokenFile(t *testing.T) {
	a := mustStart(t, witness(t, "n1", testAddr(t)))
	oneCluster(t, []*runningAgent{a}, 1)
	a.halt(t)
	if err := os.Remove(filepath.Join(a.cfg.DataDir, node.TokenFile)); err != nil {
		t.Fatal(err)
	}
	refused(t, mustStart(t, a.cfg).ended(t), api.ExitRefused, "HA-TORN", "--join")
}

// What raftfsm refuses in an acker has to be what mysqlctl reports.
func TestAckProblemsAreReported(t *testing.T) {
	source, err := os.ReadFile("../mysqlctl/checks.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range raftfsm.AckProblems {
		if !strings.Contains(string(source), `"`+code+`"`) {
			t.Errorf("mysqlctl never reports %s", code)
		}
	}
}

// A lone founder that is started again does not found another cluster.
func TestLoneFounderRestarts(t *testing.T) {
	cfg := witness(t, "n1", testAddr(t))
	a := mustStart(t, cfg)
	before := oneCluster(t, []*runningAgent{a}, 1)
	a.halt(t)
	if after := oneCluster(t, []*runningAgent{mustStart(t, cfg)}, 1); after != before {
		t.Errorf("cluster %s became %s", before, after)
	}
}
