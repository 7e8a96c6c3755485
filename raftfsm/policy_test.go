package raftfsm

import (
	"strings"
	"testing"
	"time"
)

func TestPolicyWith(t *testing.T) {
	p, err := DefaultPolicy().With("acks=2", "availability=strict", "dead_after=2s", "paused=true", "max_voters=3")
	if err != nil || p.Acks != 2 || p.Availability != Strict || p.DeadAfter != 2*time.Second || !p.Paused || p.MaxVoters != 3 {
		t.Errorf("got %+v, %v", p, err)
	}
	if p, err = p.With("acks=half"); err != nil || p.Acks != -1 {
		t.Errorf("acks=half: %d, %v", p.Acks, err)
	}
	_, err = DefaultPolicy().With("acks=x", "nonsense=1", "lease", "max_voters=4", "availability=maybe", "lease=1s")
	for _, want := range []string{"acks", "no such setting", "name=value", "even", "neither", "between"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if _, err = DefaultPolicy().With("dead_after=6s"); err == nil {
		t.Error("dead_after longer than the lease was taken")
	}
}

// What is shown can be set again, and every setting is in the table.
func TestPolicyFieldsRoundTrip(t *testing.T) {
	want := DefaultPolicy()
	var settings []string
	for _, f := range PolicyFields {
		settings = append(settings, f.Name+"="+f.Get(&want))
	}
	got, err := Policy{}.With(settings...)
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}
