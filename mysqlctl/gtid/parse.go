package gtid

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// space is what MySQL skips; strings.TrimSpace would take more.
const space = " \t\n\v\f\r"

const (
	uuidLength   = 36
	maxTagLength = 32
)

// Parse reads a set as in @@gtid_executed, SHOW REPLICA STATUS or what a person
// types: spaces and newlines between the parts, upper case, empty parts between
// commas, and intervals in any order, overlapping, adjacent or repeated are
// allowed. "" is the empty set. After a tag, intervals belong to this tag up to
// the next tag or uuid.
//
// The error names the offending part. Parse is stricter than the server where
// the server's reading could surprise, as a set that is silently smaller than
// meant can lose transactions. It alone rejects reversed intervals (5-3, for the
// server an empty interval), a uuid or a tag without intervals (the server: the
// empty set), numbers with leading zeros (decimal for 9.7, octal in the source of
// earlier 8.x), and uuids in braces or without dashes (9.7 takes them, earlier
// servers do not). No server prints any of these.
func Parse(s string) (Set, error) {
	found := make(map[origin][]interval)
	for group := range strings.SplitSeq(s, ",") {
		group = strings.Trim(group, space)
		if group == "" {
			continue
		}
		if err := parseGroup(group, found); err != nil {
			return Set{}, fmt.Errorf("gtid: %w", err)
		}
	}
	if len(found) == 0 {
		return Set{}, nil
	}
	sources := make([]source, 0, len(found))
	for from, ivs := range found {
		sources = append(sources, source{from, normalise(ivs)})
	}
	slices.SortFunc(sources, func(a, b source) int { return compareOrigin(a.origin, b.origin) })
	return Set{sources}, nil
}

// MustParse is Parse for tests and constants: it panics where Parse fails.
func MustParse(s string) Set {
	set, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return set
}

// parseGroup adds "uuid:1-5:7:tag_a:1" to found.
func parseGroup(group string, found map[origin][]interval) error {
	uuid, rest, ok := strings.Cut(group, ":")
	uuid = strings.ToLower(strings.TrimRight(uuid, space))
	if !isUUID(uuid) {
		return fmt.Errorf("%s is not a server uuid (want 8-4-4-4-12 hexadecimal digits)", quote(uuid))
	}
	if !ok {
		return fmt.Errorf("no intervals after uuid %s", quote(uuid))
	}
	from := origin{uuid: uuid}
	var ivs []interval // of from, in this group
	for part := range strings.SplitSeq(rest, ":") {
		part = strings.Trim(part, space)
		if !startsTag(part) {
			iv, err := parseInterval(part)
			if err != nil {
				return fmt.Errorf("%s of uuid %s: %w", quote(part), uuid, err)
			}
			ivs = append(ivs, iv)
			continue
		}
		tag := strings.ToLower(part)
		if !isTag(tag) {
			return fmt.Errorf("%s of uuid %s is not a tag (want a letter or _, then letters, digits or _, 32 at most)", quote(part), uuid)
		}
		if from.tag != "" && len(ivs) == 0 {
			return fmt.Errorf("no intervals after tag %s of uuid %s", quote(from.tag), uuid)
		}
		if len(ivs) > 0 {
			found[from] = append(found[from], ivs...)
		}
		from.tag, ivs = tag, nil
	}
	if len(ivs) == 0 {
		return fmt.Errorf("no intervals after tag %s of uuid %s", quote(from.tag), uuid)
	}
	found[from] = append(found[from], ivs...)
	return nil
}

func parseInterval(s string) (interval, error) {
	from, to, isRange := strings.Cut(s, "-")
	first, err := parseNumber(strings.TrimRight(from, space))
	if err != nil {
		return interval{}, err
	}
	if !isRange {
		return interval{first, first}, nil
	}
	last, err := parseNumber(strings.TrimLeft(to, space))
	if err != nil {
		return interval{}, err
	}
	if first > last {
		return interval{}, errors.New("the interval ends before it starts")
	}
	return interval{first, last}, nil
}

func parseNumber(s string) (uint64, error) {
	if s == "" || s[0] < '1' || s[0] > '9' {
		return 0, errors.New("a GTID number is decimal, from 1, without sign or leading zeros")
	}
	// A base given, ParseUint takes digits only: no sign, no underscore.
	n, err := strconv.ParseUint(s, 10, 64)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0, errors.New("a GTID number is decimal")
	}
	if err != nil || n > maxNumber {
		return 0, fmt.Errorf("the greatest GTID number is %d", uint64(maxNumber))
	}
	return n, nil
}

// isUUID wants lower case.
func isUUID(s string) bool {
	if len(s) != uuidLength {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}

func startsTag(s string) bool {
	return s != "" && (s[0] == '_' || s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z')
}

// isTag wants lower case.
func isTag(s string) bool {
	if len(s) > maxTagLength || !startsTag(s) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// quote shortens what may be a whole file given by mistake.
func quote(s string) string {
	if len(s) > 60 {
		s = s[:60] + "..."
	}
	return strconv.Quote(s)
}
