package lab_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/bench/load"
	"ha/lab"
)

// fault is something that goes wrong under load, and what has to hold after it.
type fault struct {
	name string
	// quick ones are part of make test.
	quick bool
	// faulty ones need agents that die at a given step.
	faulty bool
	// before is done before times are measured. May be nil.
	before func(s *scene, st api.Status)
	// strike does it and puts it right again. What is still wrong with the network
	// when it returns is healed.
	strike func(s *scene, before api.Status)
	// moves says what becomes of the primary's role.
	moves moves
	// follows: the old primary has to follow within 10 s after the end of the fault,
	// with its own data.
	follows bool
	// direct is the longest that writers which know all servers may wait; vip those
	// that know the virtual IP. 0: not bounded.
	direct, vip time.Duration
	// well is how long it may take until all is well again; 0: 20 s.
	well time.Duration
	// known is what is wrong with the product; the fault fails, and make test does
	// without it.
	known string
}

type moves int

const (
	stays moves = iota // the same primary
	moved              // another one
	maybe
)

// scene is a lab under load, for a test.
type scene struct {
	*testing.T
	*lab.Scene
	note string // for the table
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// host finds one that exists.
func (s *scene) host(name string) *lab.Host {
	s.Helper()
	h, err := s.Host(name)
	s.must(err)
	return h
}

func (s *scene) eventually(bound time.Duration, what string, ok func() (bool, string)) time.Duration {
	s.Helper()
	began := time.Now()
	err := lab.Eventually(bound, func() error {
		if good, seen := ok(); !good {
			return fmt.Errorf("%s; last seen: %s", what, seen)
		}
		return nil
	})
	if err != nil {
		s.Fatalf("%v; status: %s", err, s.status())
	}
	return time.Since(began)
}

// takenOver waits for the first row that another server acknowledges.
func (s *scene) takenOver(old string, since time.Time, bound time.Duration) load.Ack {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), bound)
	defer cancel()
	for {
		first, err := s.Load.AwaitOther(ctx, old, since)
		if err != nil {
			st, _ := s.Status(s.Context())
			s.Fatalf("no other server than %s acknowledged a row within %s: %+v", old, bound, st)
		}
		if s.Direct(first.Server) {
			return first
		}
		since = first.At
	}
}

var results []lab.Result

// groups has all faults by heading.
var groups = map[string][]fault{}

func names() (out []string) {
	for _, g := range lab.Groups {
		for _, f := range groups[g] {
			out = append(out, f.name)
		}
	}
	return out
}

func strikeAll(t *testing.T, group string) {
	for _, f := range groups[group] {
		if *all || f.quick {
			t.Run(f.name, func(t *testing.T) { strike(t, group, f) })
		}
	}
}

// strike lets a fault happen and checks everything after it.
func strike(t *testing.T, group string, f fault) {
	s := newSceneOf(t, f.faulty)
	r := lab.Result{Group: group, Fault: f.name}
	// Whatever happens, there is a row in the table, and the next fault has a lab
	// that works.
	defer func() {
		r.Note = s.note
		if t.Failed() || t.Skipped() {
			r.Failed = "see the test's output"
			if f.known != "" {
				r.Failed = f.known
			}
			s.keep()
			endShared()
		}
		results = append(results, r)
	}()
	before, err := s.AwaitHealthy(t.Context(), 60*time.Second)
	s.must(err)
	if f.before != nil {
		f.before(s, before)
	}
	// The last client is never cut off together with the primary.
	viaVIP := func(server string) bool { return server == lab.ViaVIP(s.Clients[1].Name) }
	s.writes("writers that know all servers", s.Direct)
	s.writes("writers through the virtual IP", viaVIP)
	was := s.beforeCut(before)
	at := time.Now()
	f.strike(s, before)
	s.must(s.Heal())
	healed := time.Now()
	if f.follows {
		s.follows(before.Primary, healed)
	}
	for _, h := range s.Hosts {
		s.must(h.On())
	}
	s.writes("writers that know all servers", s.Direct)
	s.writes("writers through the virtual IP", viaVIP)
	r.Direct = load.Gap(s.Acks(s.Direct), at, time.Now())
	r.VIP = load.Gap(s.Acks(viaVIP), at, time.Now())
	well := f.well
	if well == 0 {
		well = 20 * time.Second
	}
	checked := time.Now()
	r.Verdict, err = s.Check(context.WithoutCancel(t.Context()), well)
	r.Verdict.Healthy += checked.Sub(healed)
	if f.follows {
		s.notRebuilt(was)
	}
	after := r.Verdict.Status
	if before.Primary != after.Primary {
		s.seen("%s took over from %s, epoch %d to %d", after.Primary, before.Primary, before.Epoch, after.Epoch)
	}
	t.Logf("direct %s, through the VIP %s, stalest read %s, well after %s; %s; late OKs %d; %s", r.Direct.Round(time.Millisecond), r.VIP.Round(time.Millisecond),
		r.Verdict.Stalest.Round(time.Millisecond), r.Verdict.Healthy.Round(10*time.Millisecond), s.note, r.Verdict.Rows.Late, r.Verdict.Rows)
	if err != nil {
		t.Error(err)
	}
	if is := before.Primary != after.Primary; f.moves != maybe && is != (f.moves == moved) {
		t.Errorf("the primary was %s and is %s", before.Primary, after.Primary)
	}
	if f.direct > 0 && r.Direct > f.direct {
		t.Errorf("writers waited %s, more than %s", r.Direct, f.direct)
	}
	if f.vip > 0 && r.VIP > f.vip {
		t.Errorf("writers through the virtual IP waited %s, more than %s", r.VIP, f.vip)
	}
}

// writes waits for a row from now on.
func (s *scene) writes(who string, keep func(string) bool) {
	s.Helper()
	since := time.Now()
	s.eventually(40*time.Second, who+" write again", func() (bool, string) {
		acks := s.Acks(keep)
		return len(acks) > 0 && acks[len(acks)-1].At.After(since), ""
	})
}

// seen adds to what the table says.
func (s *scene) seen(format string, args ...any) {
	if s.note != "" {
		s.note += "; "
	}
	s.note += fmt.Sprintf(format, args...)
}

// plain keeps what needs no quotes in a path.
func plain(r rune) rune {
	if r == '-' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
		return r
	}
	return '_'
}

// keep copies logs and binary logs to where they outlive the lab, and prints what
// the agents said last.
func (s *scene) keep() {
	dir := filepath.Join("..", "artifacts", "lab", strings.Map(plain, s.Name())+time.Now().Format("-150405"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.Log(err)
		return
	}
	for _, h := range s.Hosts {
		to := filepath.Join(dir, h.Name)
		_ = os.MkdirAll(to, 0o755)
		copyAll := fmt.Sprintf("cp %s %s/agent.log; cp %s/mysqld.log %s/data/*bin* %s/data/*relay* %s/", h.AgentLog(), to, h.Path(lab.MySQLDisk), h.Path(lab.MySQLDisk), h.Path(lab.MySQLDisk), to)
		_ = exec.Command("sh", "-c", copyAll).Run()
		text, _ := os.ReadFile(h.AgentLog())
		s.Logf("agent of %s:\n%s", h.Name, text[max(0, len(text)-4000):])
	}
	s.Log("kept in", dir)
}
