package gtid

import (
	"cmp"
	"slices"
	"strings"
)

// compareOrigin orders as MySQL does: by uuid, then tag, untagged first.
func compareOrigin(a, b origin) int {
	if c := strings.Compare(a.uuid, b.uuid); c != 0 {
		return c
	}
	return strings.Compare(a.tag, b.tag)
}

// combine applies op to the intervals of each source of s and t. A source that
// one of them lacks has no intervals there; one that has none left is dropped.
func combine(s, t Set, op func(a, b []interval) []interval) Set {
	var out []source
	add := func(from origin, a, b []interval) {
		if ivs := op(a, b); len(ivs) > 0 {
			out = append(out, source{from, ivs})
		}
	}
	i, j := 0, 0
	for i < len(s.sources) && j < len(t.sources) {
		a, b := s.sources[i], t.sources[j]
		switch c := compareOrigin(a.origin, b.origin); {
		case c < 0:
			add(a.origin, a.intervals, nil)
			i++
		case c > 0:
			add(b.origin, nil, b.intervals)
			j++
		default:
			add(a.origin, a.intervals, b.intervals)
			i, j = i+1, j+1
		}
	}
	for _, a := range s.sources[i:] {
		add(a.origin, a.intervals, nil)
	}
	for _, b := range t.sources[j:] {
		add(b.origin, nil, b.intervals)
	}
	return Set{out}
}

// The operations below take and return intervals that are sorted, disjoint and
// not adjacent. They never write to their arguments, but may return one.

// appendMerged appends iv, which must not begin before the last one, to ivs.
func appendMerged(ivs []interval, iv interval) []interval {
	if n := len(ivs); n > 0 && iv.first <= ivs[n-1].last+1 {
		ivs[n-1].last = max(ivs[n-1].last, iv.last)
		return ivs
	}
	return append(ivs, iv)
}

// normalise brings intervals into the form above. It overwrites its argument.
func normalise(ivs []interval) []interval {
	byFirst := func(a, b interval) int { return cmp.Compare(a.first, b.first) }
	if !slices.IsSortedFunc(ivs, byFirst) {
		slices.SortFunc(ivs, byFirst)
	}
	out := ivs[:0]
	for _, iv := range ivs {
		out = appendMerged(out, iv)
	}
	return out
}

func uniteIntervals(a, b []interval) []interval {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := make([]interval, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].first <= b[0].first {
			out, a = appendMerged(out, a[0]), a[1:]
		} else {
			out, b = appendMerged(out, b[0]), b[1:]
		}
	}
	for _, iv := range a {
		out = appendMerged(out, iv)
	}
	for _, iv := range b {
		out = appendMerged(out, iv)
	}
	return out
}

func subtractIntervals(a, b []interval) []interval {
	if len(b) == 0 {
		return a
	}
	var out []interval
	for _, iv := range a {
		for len(b) > 0 && b[0].last < iv.first {
			b = b[1:]
		}
		// An interval of b may reach into the next one of a: look, do not consume.
		rest := iv
		for _, hole := range b {
			if hole.first > rest.last {
				break
			}
			if hole.first > rest.first {
				out = append(out, interval{rest.first, hole.first - 1})
			}
			rest.first = hole.last + 1
			if rest.first > rest.last {
				break
			}
		}
		if rest.first <= rest.last {
			out = append(out, rest)
		}
	}
	return out
}

func intersectIntervals(a, b []interval) []interval {
	var out []interval
	for len(a) > 0 && len(b) > 0 {
		common := interval{max(a[0].first, b[0].first), min(a[0].last, b[0].last)}
		if common.first <= common.last {
			out = append(out, common)
		}
		if a[0].last < b[0].last {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

// containsIntervals reports whether a covers b.
func containsIntervals(a, b []interval) bool {
	for _, iv := range b {
		for len(a) > 0 && a[0].last < iv.first {
			a = a[1:]
		}
		// The intervals of a are not adjacent: one alone must cover iv.
		if len(a) == 0 || a[0].first > iv.first || a[0].last < iv.last {
			return false
		}
	}
	return true
}
