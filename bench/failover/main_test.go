package main

import (
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	gaps := func(ms ...int) (out []time.Duration) {
		for _, one := range ms {
			out = append(out, time.Duration(one)*time.Millisecond)
		}
		return out
	}
	for _, tt := range []struct {
		name       string
		gaps, bare []time.Duration
		ok         bool
	}{
		{"as promised", gaps(110, 120, 500), gaps(100, 105, 110), true},
		{"at the limits", gaps(200, 200, 1500), gaps(125, 125, 125), true},
		{"p50", gaps(110, 201, 220), gaps(150, 160, 170), false},
		{"p50, nothing to compare with", gaps(110, 201, 220), nil, false},
		{"max", gaps(110, 120, 1501), gaps(100, 105, 110), false},
		{"ratio", gaps(170, 170, 170), gaps(100, 105, 110), false},
		{"nothing to compare with", gaps(170, 170, 170), nil, true},
	} {
		if err := judge(tt.gaps, tt.bare); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
