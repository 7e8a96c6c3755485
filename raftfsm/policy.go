package raftfsm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Availability says what happens when fewer ackers than wanted can be had.
type Availability string

const (
	// Available lowers k to the number of ackers that there are.
	Available Availability = "available"
	// Strict keeps k: writes wait.
	Strict Availability = "strict"
)

// Policy is what operators may set. Durations are in nanoseconds in JSON.
type Policy struct {
	// Acks is the wanted k; negative means half of the data members.
	Acks         int           `json:"acks"`
	Availability Availability  `json:"availability"`
	DeadAfter    time.Duration `json:"dead_after"`    // silence after which a node is taken for dead
	Lease        time.Duration `json:"lease"`         // how long a grant lasts
	AckerGone    time.Duration `json:"acker_gone"`    // detached that long, an acker leaves the ack set
	AcksShort    time.Duration `json:"acks_short"`    // fewer than k attached that long, k is lowered (available)
	AckStalled   time.Duration `json:"ack_stalled"`   // a commit waits that long though ackers are attached: k is lowered (available)
	HungAfter    time.Duration `json:"hung_after"`    // mysqld without an answer that long is hung
	MaxAckerLag  time.Duration `json:"max_acker_lag"` // an acker that applies later than that leaves, if k remain
	CoolDown     time.Duration `json:"cool_down"`     // a primary that lives is not replaced again that soon
	MaxVoters    int           `json:"max_voters"`
	ForgetAfter  time.Duration `json:"forget_after"` // a voter dead that long is replaced
	// RebuildDiverged lets a diverged node be copied anew without a person.
	RebuildDiverged bool `json:"rebuild_diverged"`
	// RebuildBroken is how long an applier may stand on an error before its node
	// is copied anew, where RebuildDiverged lets it; 0: for ever.
	RebuildBroken time.Duration `json:"rebuild_broken,omitempty"`
	// RebuildKeepOld keeps the data that a copy replaced until the next copy,
	// also where the copy holds all of them.
	RebuildKeepOld bool `json:"rebuild_keep_old,omitempty"`
	// MaxRebuilds is how many copies may be made at once; 0: the default.
	MaxRebuilds int  `json:"max_rebuilds,omitempty"`
	Paused      bool `json:"paused,omitempty"` // opens no Revoke; leases go on
}

// DefaultPolicy is what a new cluster starts with; docs/DEFAULTS.md gives the
// reasons.
func DefaultPolicy() Policy {
	return Policy{
		Acks:            -1,
		Availability:    Available,
		DeadAfter:       1500 * time.Millisecond,
		Lease:           5 * time.Second,
		AckerGone:       2 * time.Second,
		AcksShort:       time.Second,
		AckStalled:      10 * time.Second,
		HungAfter:       3 * time.Second,
		MaxAckerLag:     30 * time.Second,
		CoolDown:        10 * time.Second,
		MaxVoters:       5,
		ForgetAfter:     10 * time.Minute,
		RebuildDiverged: true,
		RebuildBroken:   10 * time.Minute,
		MaxRebuilds:     2,
	}
}

// rebuildCap is MaxRebuilds, also of a policy that was stored before there was one.
func (p *Policy) rebuildCap() int {
	if p.MaxRebuilds == 0 {
		return DefaultPolicy().MaxRebuilds
	}
	return p.MaxRebuilds
}

// PolicyField is one setting under the name that people use.
type PolicyField struct {
	Name string
	Get  func(*Policy) string
	Set  func(*Policy, string) error
}

// PolicyFields are all settings, in the order in which they are shown.
var PolicyFields = []PolicyField{
	{"acks", func(p *Policy) string {
		if p.Acks < 0 {
			return "half"
		}
		return strconv.Itoa(p.Acks)
	}, func(p *Policy, v string) (err error) {
		if p.Acks = -1; v != "half" {
			p.Acks, err = number(v, 0, 100)
		}
		return err
	}},
	{"availability", func(p *Policy) string { return string(p.Availability) }, func(p *Policy, v string) error {
		if a := Availability(v); a != Available && a != Strict {
			return fmt.Errorf("%q is neither %s nor %s", v, Available, Strict)
		}
		p.Availability = Availability(v)
		return nil
	}},
	durationField("dead_after", func(p *Policy) *time.Duration { return &p.DeadAfter }, time.Second, time.Minute),
	durationField("lease", func(p *Policy) *time.Duration { return &p.Lease }, 2*time.Second, time.Minute),
	durationField("acker_gone", func(p *Policy) *time.Duration { return &p.AckerGone }, time.Second, time.Hour),
	durationField("acks_short", func(p *Policy) *time.Duration { return &p.AcksShort }, 500*time.Millisecond, time.Hour),
	durationField("ack_stalled", func(p *Policy) *time.Duration { return &p.AckStalled }, 2*time.Second, time.Hour),
	durationField("hung_after", func(p *Policy) *time.Duration { return &p.HungAfter }, time.Second, time.Hour),
	durationField("max_acker_lag", func(p *Policy) *time.Duration { return &p.MaxAckerLag }, time.Second, 24*time.Hour),
	durationField("cool_down", func(p *Policy) *time.Duration { return &p.CoolDown }, 0, 24*time.Hour),
	{"max_voters", func(p *Policy) string { return strconv.Itoa(p.MaxVoters) }, func(p *Policy, v string) error {
		n, err := number(v, 1, 9)
		if err == nil && n%2 == 0 {
			err = errors.New("an even number of voters survives no more failures than one less")
		}
		p.MaxVoters = n
		return err
	}},
	durationField("forget_after", func(p *Policy) *time.Duration { return &p.ForgetAfter }, time.Minute, 365*24*time.Hour),
	boolField("rebuild_diverged", func(p *Policy) *bool { return &p.RebuildDiverged }),
	durationField("rebuild_broken", func(p *Policy) *time.Duration { return &p.RebuildBroken }, 0, 365*24*time.Hour),
	boolField("rebuild_keep_old", func(p *Policy) *bool { return &p.RebuildKeepOld }),
	{"max_rebuilds", func(p *Policy) string { return strconv.Itoa(p.rebuildCap()) }, func(p *Policy, v string) (err error) {
		p.MaxRebuilds, err = number(v, 1, 100)
		return err
	}},
	boolField("paused", func(p *Policy) *bool { return &p.Paused }),
}

func durationField(name string, at func(*Policy) *time.Duration, least, most time.Duration) PolicyField {
	return PolicyField{name, func(p *Policy) string { return at(p).String() }, func(p *Policy, v string) error {
		d, err := time.ParseDuration(v)
		if err == nil && (d < least || d > most) {
			err = fmt.Errorf("%s is not between %s and %s", d, least, most)
		}
		*at(p) = d
		return err
	}}
}

func boolField(name string, at func(*Policy) *bool) PolicyField {
	return PolicyField{name, func(p *Policy) string { return strconv.FormatBool(*at(p)) }, func(p *Policy, v string) (err error) {
		*at(p), err = strconv.ParseBool(v)
		return err
	}}
}

func number(v string, least, most int) (int, error) {
	n, err := strconv.Atoi(v)
	if err == nil && (n < least || n > most) {
		err = fmt.Errorf("%d is not between %d and %d", n, least, most)
	}
	return n, err
}

// With gives the policy with settings changed, each as name=value. All that is
// wrong is told at once.
func (p Policy) With(settings ...string) (Policy, error) {
	var errs []error
	for _, setting := range settings {
		name, value, ok := strings.Cut(setting, "=")
		field := policyField(name)
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("%q: want name=value", setting))
		case field == nil:
			errs = append(errs, fmt.Errorf("%s: no such setting; there are %s", name, policyNames()))
		default:
			if err := field.Set(&p, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	if len(errs) == 0 && p.DeadAfter >= p.Lease {
		errs = append(errs, fmt.Errorf("dead_after (%s) has to be shorter than lease (%s)", p.DeadAfter, p.Lease))
	}
	return p, errors.Join(errs...)
}

func policyField(name string) *PolicyField {
	for i := range PolicyFields {
		if PolicyFields[i].Name == name {
			return &PolicyFields[i]
		}
	}
	return nil
}

func policyNames() string {
	var out []string
	for _, f := range PolicyFields {
		out = append(out, f.Name)
	}
	return strings.Join(out, ", ")
}
