// Package gtid parses, prints and computes with MySQL GTID sets, tags included.
//
// A GTID names one transaction: the uuid of the server that committed it first,
// an optional tag (MySQL 8.3 and later) and a number. A set is kept as sorted,
// disjoint, non-adjacent intervals per (uuid, tag), so that equal sets have one
// form only and every operation is one linear merge.
//
// It knows MySQL's sets only. MariaDB's domain-server-number GTIDs are another
// thing and do not parse.
package gtid

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// maxNumber is the greatest GTID number: MySQL's GNO_END is INT64_MAX and exclusive.
const maxNumber = math.MaxInt64 - 1

// Set is an immutable set of GTIDs. The zero value is the empty set. Copies are
// cheap and share memory, which is safe, also between goroutines, as no method
// but UnmarshalText changes a Set. Compare with Equal; == does not compile.
type Set struct {
	// Sorted by uuid, then tag ("" first); no source without intervals; nil if empty.
	sources []source
}

// origin is who issued a GTID: a server uuid in lower case, and a tag or "".
type origin struct{ uuid, tag string }

// source is an origin and the numbers it issued.
type source struct {
	origin
	intervals []interval // sorted, disjoint, not adjacent, never empty
}

// interval holds the numbers first to last, both included.
type interval struct{ first, last uint64 }

// IsEmpty reports whether s holds no GTID.
func (s Set) IsEmpty() bool { return len(s.sources) == 0 }

// Contains reports whether every GTID of t is in s. Every set contains the
// empty set: a caller for whom an unknown set is the empty one must check first.
func (s Set) Contains(t Set) bool {
	i := 0
	for _, want := range t.sources {
		for i < len(s.sources) && compareOrigin(s.sources[i].origin, want.origin) < 0 {
			i++
		}
		if i == len(s.sources) || compareOrigin(s.sources[i].origin, want.origin) != 0 ||
			!containsIntervals(s.sources[i].intervals, want.intervals) {
			return false
		}
	}
	return true
}

// Has reports whether one GTID is in s, without making a set of it. The uuid is in
// lower case; tag is "" for a GTID without one.
func (s Set) Has(uuid, tag string, number uint64) bool {
	i, ok := slices.BinarySearchFunc(s.sources, origin{uuid, tag}, func(src source, want origin) int {
		return compareOrigin(src.origin, want)
	})
	if !ok {
		return false
	}
	_, ok = slices.BinarySearchFunc(s.sources[i].intervals, number, func(iv interval, n uint64) int {
		switch {
		case iv.last < n:
			return -1
		case iv.first > n:
			return 1
		}
		return 0
	})
	return ok
}

// Equal reports whether s and t hold the same GTIDs.
func (s Set) Equal(t Set) bool {
	return slices.EqualFunc(s.sources, t.sources, func(a, b source) bool {
		return a.origin == b.origin && slices.Equal(a.intervals, b.intervals)
	})
}

// Union returns the GTIDs that are in s, in t or in both.
func (s Set) Union(t Set) Set { return combine(s, t, uniteIntervals) }

// Minus returns the GTIDs of s that are not in t.
func (s Set) Minus(t Set) Set { return combine(s, t, subtractIntervals) }

// Intersect returns the GTIDs that are in both s and t.
func (s Set) Intersect(t Set) Set { return combine(s, t, intersectIntervals) }

// Count returns the number of GTIDs in s, or math.MaxUint64 if it is greater.
func (s Set) Count() uint64 {
	var total uint64
	for _, src := range s.sources {
		for _, iv := range src.intervals {
			sum, carry := bits.Add64(total, iv.last-iv.first+1, 0)
			if carry != 0 {
				return math.MaxUint64
			}
			total = sum
		}
	}
	return total
}

// UUIDs returns the uuids of the servers that issued GTIDs of s: sorted, in
// lower case, each once; nil for the empty set.
func (s Set) UUIDs() []string {
	var uuids []string
	for _, src := range s.sources {
		if len(uuids) == 0 || uuids[len(uuids)-1] != src.uuid {
			uuids = append(uuids, src.uuid)
		}
	}
	return uuids
}

// Only returns the GTIDs of s issued by the server with this uuid, whatever
// their tag. Case does not matter; an unknown or malformed uuid gives the empty set.
func (s Set) Only(uuid string) Set {
	uuid = strings.ToLower(uuid)
	var only []source
	for _, src := range s.sources {
		if src.uuid == uuid {
			only = append(only, src)
		}
	}
	return Set{only}
}

// String returns the set as MySQL prints it, but on one line: uuids in lower
// case and sorted; for each uuid the untagged intervals, then the sorted tags
// with theirs, as in "uuid1:1-5:7:tag_a:1-3,uuid2:1". The empty set is "".
func (s Set) String() string { return string(s.appendText(nil)) }

func (s Set) appendText(b []byte) []byte {
	for i, src := range s.sources {
		if i == 0 || s.sources[i-1].uuid != src.uuid {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, src.uuid...)
		}
		if src.tag != "" {
			b = append(b, ':')
			b = append(b, src.tag...)
		}
		for _, iv := range src.intervals {
			b = append(b, ':')
			b = strconv.AppendUint(b, iv.first, 10)
			if iv.last > iv.first {
				b = append(b, '-')
				b = strconv.AppendUint(b, iv.last, 10)
			}
		}
	}
	return b
}

// Binary returns the set as MySQL has it in Previous_gtids events and in the request
// for a dump: as servers before tags write it where the set has none.
func (s Set) Binary() []byte {
	tagged := slices.ContainsFunc(s.sources, func(src source) bool { return src.tag != "" })
	head := uint64(len(s.sources))
	if tagged {
		head = 1<<56 | head<<8 | 1
	}
	b := binary.LittleEndian.AppendUint64(nil, head)
	for _, src := range s.sources {
		uuid, _ := hex.DecodeString(strings.ReplaceAll(src.uuid, "-", "")) // Parse has seen it
		b = append(b, uuid...)
		if tagged {
			b = append(b, byte(len(src.tag)<<1))
			b = append(b, src.tag...)
		}
		b = binary.LittleEndian.AppendUint64(b, uint64(len(src.intervals)))
		for _, iv := range src.intervals {
			b = binary.LittleEndian.AppendUint64(b, iv.first)
			b = binary.LittleEndian.AppendUint64(b, iv.last+1)
		}
	}
	return b
}

// MarshalText returns what String does; JSON, YAML and TOML show a set as a
// string. It never fails.
func (s Set) MarshalText() ([]byte, error) { return s.appendText([]byte{}), nil }

// UnmarshalText sets s to what Parse makes of the text. On error, which is
// Parse's, s keeps its value.
func (s *Set) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}
