package mysqlctl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-mysql-org/go-mysql/replication"

	"ha/mysqlctl/gtid"
)

// Where what stands in the crashed log.
const (
	crashedUUID   = "4fafe504-e6cd-11f1-a1e0-02fc00000001"
	crashedBefore = 298  // the first transaction
	crashedTail   = 1226 // the first of the two that waited
	crashedLast   = 1512
)

func crashedLog(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(crashed)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// appended is an event with a right checksum behind a log.
func appended(log []byte, kind replication.EventType, body int) []byte {
	e := make([]byte, headerSize+body, headerSize+body+checksumSize)
	e[4] = byte(kind)
	binary.LittleEndian.PutUint32(e[sizeOffset:], uint32(headerSize+body+checksumSize))
	e = binary.LittleEndian.AppendUint32(e, crc32.ChecksumIEEE(e))
	return append(slices.Clone(log), e...)
}

func tailOf(t *testing.T, log []byte, keep gtid.Set) (tail, error) {
	t.Helper()
	return findTail(t.Context(), bytes.NewReader(log), int64(len(log)), keep)
}

func TestFindTail(t *testing.T) {
	log := crashedLog(t)
	all, _, err := readBinlog(crashed)
	if err != nil {
		t.Fatal(err)
	}
	without := func(numbers string) gtid.Set { return all.Minus(gtid.MustParse(crashedUUID + ":" + numbers)) }
	closed := slices.Clone(log)
	closed[4+flagsOffset] &^= inUse
	for _, c := range []struct {
		what         string
		log          []byte
		keep         gtid.Set
		off          int64
		transactions int
		torn         bool
		refused      string
	}{
		{what: "nothing", log: log, keep: all},
		{what: "two", log: log, keep: without("41-42"), off: crashedTail, transactions: 2},
		{what: "one", log: log, keep: without("42"), off: crashedLast, transactions: 1},
		{what: "XA, its end and DDL", log: log, keep: without("37-42"), off: crashedBefore, transactions: 6},
		{what: "one is kept behind it", log: log, keep: without("41"), off: crashedTail, transactions: 1, refused: "stands behind"},
		{what: "Previous_gtids", log: log, keep: without("3:42"), off: crashedLast, transactions: 1, refused: "earlier logs"},
		{what: "only Previous_gtids", log: log, keep: without("3"), refused: "earlier logs"},
		{what: "closed", log: closed, keep: without("41-42"), off: crashedTail, transactions: 2, refused: "closed"},
		{what: "closed, and nothing to do", log: closed, keep: all, refused: "closed"},
		{what: "rotated", log: appended(log, replication.ROTATE_EVENT, 20), keep: without("42"), off: crashedLast, transactions: 1, refused: "rotation"},
		{what: "shut down", log: appended(log, replication.STOP_EVENT, 0), keep: without("42"), off: crashedLast, transactions: 1, refused: "shutdown"},
		{what: "without a GTID", log: appended(log, replication.ANONYMOUS_GTID_EVENT, 42), keep: without("42"), off: crashedLast, transactions: 1, refused: "in no transaction"},
		{what: "half a one behind", log: log[:len(log)-5], keep: without("41-42"), off: crashedTail, transactions: 1, torn: true},
		{what: "half a one alone", log: log[:len(log)-5], keep: without("42"), torn: true},
		{what: "half a header", log: log[:crashedLast+7], keep: without("41-42"), off: crashedTail, transactions: 1, torn: true},
		{what: "zeros", log: append(slices.Clone(log[:crashedLast+60]), make([]byte, 3<<20)...), keep: without("41-42"), off: crashedTail, transactions: 1, torn: true},
		{what: "zeros in a header", log: append(slices.Clone(log[:crashedLast+3]), make([]byte, 100)...), keep: without("41-42"), off: crashedTail, transactions: 1, torn: true},
	} {
		got, err := tailOf(t, c.log, c.keep)
		if err != nil || got.off != c.off || got.transactions != c.transactions || got.torn != c.torn || (got.refused != nil) != (c.refused != "") {
			t.Errorf("%s: %+v, %v", c.what, got, err)
		} else if c.refused != "" && !strings.Contains(got.refused.Error(), c.refused) {
			t.Errorf("%s: refused as %v", c.what, got.refused)
		}
	}
	zerosThenMore := append(slices.Clone(log[:crashedLast]), make([]byte, 100)...)
	for what, bad := range map[string][]byte{
		"encrypted":                  append([]byte{0xfd}, log[1:]...),
		"no log":                     []byte("nothing of the kind"),
		"garbage behind":             append(slices.Clone(log), bytes.Repeat([]byte{0xff}, 40)...),
		"zeros in the middle":        append(zerosThenMore, log[crashedLast+100:]...),
		"a long event behind":        append(slices.Clone(log), []byte{0, 0, 0, 0, byte(replication.GTID_EVENT), 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}...),
		"an event of no transaction": append(slices.Clone(log), []byte{0, 0, 0, 0, byte(replication.XID_EVENT), 0, 0, 0, 0, 31, 0, 0, 0, 0, 0, 0, 0, 0, 0}...),
	} {
		if got, err := tailOf(t, bad, without("41-42")); !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
}

// Whatever becomes of the bytes, it is cut where the first lacking one begins, or not
// at all.
func TestFindTailInDamagedLogs(t *testing.T) {
	log := crashedLog(t)
	all, _, err := readBinlog(crashed)
	if err != nil {
		t.Fatal(err)
	}
	keep := all.Minus(gtid.MustParse(crashedUUID + ":41-42"))
	look := func(what string, at int, bad []byte) (got tail) {
		got, err := tailOf(t, bad, keep)
		if err == nil && got.refused == nil && got.transactions > 0 && got.off != crashedTail {
			t.Errorf("%s at %d: %+v", what, at, got)
		}
		return got
	}
	for n := range log {
		if got := look("the end", n, log[:n]); n < crashedLast && got.transactions > 0 {
			t.Errorf("cut at %d: %+v", n, got)
		}
		for bit := range 8 {
			bad := slices.Clone(log)
			bad[n] ^= 1 << bit
			look("a bit", n, bad)
		}
	}
}

func TestHasXID(t *testing.T) {
	xid := []byte{17, 1, 2, 3, 4, 5, 6, 7, 8}
	before := slices.Concat([]byte{0, 1, 2, 3, 4}, []byte{1, 1, 2, 3, 4, 5, 6, 7, 8}, []byte{6, 3, 's', 't', 'd'}, []byte{3, 1, 0, 1, 0}, []byte{4, 1, 2, 3, 4, 5, 6},
		[]byte{5, 3, 'U', 'T', 'C'}, []byte{11, 1, 'u', 2, 'h', 'h'}, []byte{12, 2, 'a', 0, 'b', 'b', 0}, []byte{13, 1, 2, 3}, []byte{16, 1}, []byte{2, 1, 'x', 0})
	for _, c := range []struct {
		vars []byte
		want bool
	}{
		{nil, false}, {xid, true}, {slices.Concat(before, xid), true}, {slices.Concat(before, xid, []byte{18, 255, 0, 20, 0}), true}, {before, false},
		{slices.Concat([]byte{12, 254}, xid), true}, {slices.Concat([]byte{99}, xid), false}, {[]byte{12, 3, 'a', 0, 'b'}, false}, {[]byte{6}, false}, {xid[:5], false},
	} {
		if got := hasXID(c.vars); got != c.want {
			t.Errorf("%v: %v", c.vars, got)
		}
	}
	for n := range before {
		if hasXID(before[:n]) {
			t.Errorf("half of them at %d", n)
		}
	}
}
