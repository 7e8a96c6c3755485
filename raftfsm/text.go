package raftfsm

import (
	"cmp"
	"strconv"
	"strings"
)

func orNobody(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}

func plural(n int) string {
	if n == 1 {
		return "one"
	}
	return strconv.Itoa(n)
}

// CompareVersions compares the release series of two MySQL versions ("9.7.4" and
// "9.7.6" are equal: within a series replication goes both ways).
func CompareVersions(a, b string) int {
	series := func(v string) (int, int) {
		parts := strings.SplitN(v, ".", 3)
		if len(parts) < 2 {
			return 0, 0
		}
		x, _ := strconv.Atoi(parts[0])
		y, _ := strconv.Atoi(parts[1])
		return x, y
	}
	a1, a2 := series(a)
	b1, b2 := series(b)
	return cmp.Or(cmp.Compare(a1, b1), cmp.Compare(a2, b2))
}
