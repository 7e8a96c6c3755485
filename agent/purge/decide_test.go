package purge

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
)

const uuid = "00000000-0000-0000-0000-00000000000a"

// upTo is what a holder has that has the first n files of the table below: ten
// transactions are in each.
func upTo(n int) gtid.Set {
	if n == 0 {
		return gtid.Set{}
	}
	return gtid.MustParse(fmt.Sprintf("%s:1-%d", uuid, 10*n))
}

// Logs go from the oldest on, when their time is over and nobody lacks them; a member
// is waited for no longer than a weekend, and not where room is short; the archive is
// waited for.
func TestDecide(t *testing.T) {
	const day, gb = 24 * time.Hour, int64(1) << 30
	now := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	member := func(name string, n int) Holder { return Holder{Name: name, Has: upTo(n)} }
	archive := func(n int) Holder { return Holder{Name: "the archive", Has: upTo(n), Archive: true} }
	all := []Holder{member("n2", 9), member("n3", 9), archive(9)}
	const plenty = 500 * gb // of 1000; 10 have to be free
	for _, c := range []struct {
		name    string
		ages    []time.Duration // of files of 1 GB, without the last, which is young
		keep    time.Duration
		free    int64
		holders []Holder
		n       int
		early   bool
		lack    string
		held    string
	}{
		{name: "nothing but the log that is written to", keep: day, free: plenty, holders: all},
		{name: "young", ages: []time.Duration{day, day / 2}, keep: day, free: plenty, holders: all},
		{name: "old", ages: []time.Duration{3 * day, 2 * day, day / 2}, keep: day, free: plenty, holders: all, n: 2},
		{name: "a lone server", ages: []time.Duration{3 * day, 2 * day, day / 2}, keep: day, free: plenty, n: 2},
		{name: "a clock that jumped: an old one behind a young one", ages: []time.Duration{day / 2, 3 * day}, keep: day, free: plenty, holders: all},
		{name: "one from the future", ages: []time.Duration{-day, 3 * day}, keep: day, free: plenty, holders: all},
		{name: "for ever", ages: []time.Duration{900 * day}, keep: 0, free: plenty, holders: all},
		{name: "for ever, also without room", ages: []time.Duration{900 * day}, keep: 0, free: gb, holders: all},
		{name: "many", ages: slices.Repeat([]time.Duration{2 * day}, 15), keep: day, free: plenty, n: 10},

		{name: "a member lacks some", ages: []time.Duration{3 * day, 3 * day, 2 * day}, keep: day, free: plenty,
			holders: []Holder{member("n2", 9), member("n3", 1)}, n: 1, held: "n3 lacks transactions in binlog.000002"},
		{name: "a new member lacks all", ages: []time.Duration{3 * day}, keep: day, free: plenty,
			holders: []Holder{member("n2", 9), member("n4", 0)}, held: "n4 lacks transactions in binlog.000001"},
		{name: "a member lacks what is young", ages: []time.Duration{3 * day, day / 2}, keep: day, free: plenty,
			holders: []Holder{member("n2", 1)}, n: 1},
		{name: "a member is gone for a weekend", ages: []time.Duration{day + grace, day + grace}, keep: day, free: plenty,
			holders: []Holder{member("n2", 1)}, n: 1, held: "n2 lacks transactions in binlog.000002"},
		{name: "a member is gone for good", ages: []time.Duration{2*day + grace, 2*day + grace, 2 * day}, keep: day, free: plenty,
			holders: []Holder{member("n2", 1), member("n3", 0)}, n: 2, lack: "n2 n3", held: "n2 lacks transactions in binlog.000003"},

		{name: "the archive lacks some", ages: []time.Duration{900 * day, 900 * day}, keep: day, free: plenty,
			holders: []Holder{member("n2", 9), archive(1)}, n: 1, held: "the archive lacks transactions in binlog.000002"},
		{name: "an archive that is not open", ages: []time.Duration{900 * day}, keep: day, free: plenty,
			holders: []Holder{member("n2", 9), archive(0)}, held: "the archive lacks transactions in binlog.000001"},

		{name: "room is just enough", ages: []time.Duration{day / 2}, keep: day, free: 10 * gb, holders: all},
		{name: "room is short: the young go, as many as it takes", ages: []time.Duration{day / 2, day / 2, day / 2}, keep: day, free: 8 * gb, holders: all, n: 2, early: true},
		{name: "room is short, old ones are enough", ages: []time.Duration{3 * day, 2 * day, day / 2}, keep: day, free: 9 * gb, holders: all, n: 2},
		{name: "there is no room, but for the last", ages: []time.Duration{day / 2, day / 3}, keep: day, free: roomLeast, holders: all, n: 2, early: true},
		{name: "there is not even room to purge", ages: []time.Duration{2 * day}, keep: day, free: roomLeast - 1, holders: all},
		{name: "room is short, and a member is gone", ages: []time.Duration{2 * day, day / 2, day / 3}, keep: day, free: 8 * gb,
			holders: []Holder{member("n2", 1), member("n3", 9)}, n: 2, early: true, lack: "n2"},
		{name: "room was short, the rest is kept for a member", ages: []time.Duration{2 * day, 2 * day}, keep: day, free: 9 * gb,
			holders: []Holder{member("n2", 0)}, n: 1, lack: "n2", held: "n2 lacks transactions in binlog.000002"},
		{name: "room is short, and the archive stands", ages: []time.Duration{day / 2, day / 2}, keep: day, free: gb,
			holders: []Holder{member("n2", 0), archive(1)}, n: 1, early: true, lack: "n2", held: "the archive lacks transactions in binlog.000002"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var files []mysqlctl.Binlog
			for i, age := range append(c.ages, 0) {
				files = append(files, mysqlctl.Binlog{Name: fmt.Sprintf("binlog.%06d", i+1), Size: gb, Closed: now.Add(-age)})
			}
			asked := 0
			holds := func(i int) (gtid.Set, error) {
				asked++
				return upTo(i + 1).Minus(upTo(i)), nil
			}
			v, err := decide(files, holds, facts{now: now, keep: c.keep, size: 1000 * gb, free: c.free, holders: c.holders})
			if err != nil || v.n != c.n || v.early != c.early || strings.Join(v.lack, " ") != c.lack || v.held != c.held {
				t.Errorf("%+v, %v", v, err)
			}
			if asked > v.n+1 {
				t.Errorf("%d files were opened for %d", asked, v.n)
			}
		})
	}
}

// A replica's logs are short: as many bytes of them go as of long ones, in so many files as
// are not too many to ask for what is in them.
func TestDecideShortLogs(t *testing.T) {
	for _, c := range []struct {
		size int64
		n    int
	}{{1 << 30, 10}, {100 << 20, 103}, {32 << 20, filesAtOnce}, {4096, filesAtOnce}} {
		files := make([]mysqlctl.Binlog, 1000)
		for i := range files {
			files[i].Size = c.size
		}
		v, err := decide(files, func(int) (gtid.Set, error) { return upTo(1), nil }, facts{now: time.Now(), keep: time.Hour, size: 1 << 40, free: 1 << 40})
		if v.n != c.n || err != nil {
			t.Errorf("of files of %d bytes: %d, %v", c.size, v.n, err)
		}
	}
}

// What cannot be read is kept, and what is before it goes.
func TestDecideUnreadable(t *testing.T) {
	bad := errors.New("unreadable")
	files := make([]mysqlctl.Binlog, 4)
	v, err := decide(files, func(i int) (gtid.Set, error) {
		if i == 1 {
			return gtid.Set{}, bad
		}
		return upTo(1), nil
	}, facts{now: time.Now(), keep: time.Hour, size: 1 << 30, free: 1 << 30})
	if v.n != 1 || !errors.Is(err, bad) {
		t.Errorf("%+v, %v", v, err)
	}
}

// A twentieth of a disk is to stay free, on a large one 10 GB.
func TestMissing(t *testing.T) {
	const gb = int64(1) << 30
	for _, c := range []struct{ size, free, want int64 }{
		{20 * gb, gb, 0}, {20 * gb, 0, gb}, {1000 * gb, 10 * gb, 0}, {1000 * gb, 4 * gb, 6 * gb}, {20 * gb, 19 * gb, -18 * gb},
	} {
		f := facts{size: c.size, free: c.free}
		if got := f.missing(); got != c.want {
			t.Errorf("%d of %d free: %d missing, not %d", c.free, c.size, got, c.want)
		}
	}
}
