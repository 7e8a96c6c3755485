package mysqlctl_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/mysqlctl/mysqltest"
)

// logged dumps what a server has beyond have into a log, up to a set, and returns what
// the log holds after each transaction, by its size.
func logged(t *testing.T, p *mysqltest.Node, name string, have, upTo gtid.Set) map[int64]gtid.Set {
	t.Helper()
	ctx, cancel := context.WithCancel(mysqltest.Ctx(t, time.Minute))
	defer cancel()
	var l *mysqlctl.LogFile
	held := make(map[int64]gtid.Set)
	var format []byte
	err := p.Dump(ctx, have, func(s mysqlctl.Sent) (err error) {
		switch {
		case s.Format:
			format = bytes.Clone(s.Raw)
			return nil
		case s.Idle:
			return nil
		case s.Begins != nil && l == nil:
			if l, err = mysqlctl.CreateLog(name, format, have); err != nil {
				return err
			}
			held[l.Size()] = have
			fallthrough
		case s.Begins != nil:
			err = l.Begin(s.Begins, s.Raw)
		default:
			err = l.Append(s.Raw)
		}
		if err == nil && l.Whole() {
			if held[l.Size()], err = l.Set(); held[l.Size()].Contains(upTo) {
				cancel()
			}
		}
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	must(t, l.Close())
	return held
}

// A log that was cut off anywhere, or has zeros or other bytes behind, goes on after its
// last whole transaction; nothing that was whole is lost.
func TestLogFileTorn(t *testing.T) {
	p := mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...)
	p.Exec("SET gtid_next = 'AUTOMATIC:tagged'", "INSERT INTO app.t (v) VALUES ('tagged')", "SET gtid_next = 'AUTOMATIC'")
	have := p.MustStatus().Executed
	p.Exec("INSERT INTO app.t (v) VALUES ('one')", "CREATE TABLE app.other (id INT PRIMARY KEY)", "BEGIN", "INSERT INTO app.other VALUES (1)",
		"INSERT INTO app.t (v) VALUES ('two')", "COMMIT", "SET SESSION binlog_transaction_compression = ON", "INSERT INTO app.t (v) VALUES ('three')")
	all := p.MustStatus().Executed
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	held := logged(t, p, whole, have, all)
	text, err := os.ReadFile(whole)
	must(t, err)
	if held[int64(len(text))].String() != all.String() || len(held) != 5 {
		t.Fatalf("%d bytes; it held %v", len(text), held)
	}

	cuts := []int{0, 3}
	for off := 4; off < len(text); {
		size := int(binary.LittleEndian.Uint32(text[off+9:]))
		cuts = append(cuts, off, off+1, off+10, off+18, off+size/2, off+size-1)
		off += size
	}
	sizes := make([]int64, 0, len(held))
	for size := range held {
		sizes = append(sizes, size)
	}
	slices.Sort(sizes)
	name := filepath.Join(dir, "binlog.000001")
	for _, cut := range append(cuts, len(text)) {
		for what, tail := range map[string][]byte{"": nil, "zeros": make([]byte, 100), "noise": bytes.Repeat([]byte{7, 200}, 50)} {
			torn := append(bytes.Clone(text[:cut]), tail...)
			must(t, os.WriteFile(name, torn, 0o600))
			cut := cut // or behind it, where what follows is what was there
			for cut < min(len(text), len(torn)) && torn[cut] == text[cut] {
				cut++
			}
			l, behind, err := mysqlctl.OpenLog(name)
			if int64(cut) < sizes[0] {
				mustBe(t, err, mysqlctl.ErrUnreadable)
				continue
			}
			must(t, err)
			size := sizes[0]
			for _, s := range sizes {
				if s <= int64(cut) {
					size = s
				}
			}
			got, err := l.Set()
			must(t, err)
			if l.Size() != size || !got.Equal(held[size]) || behind != int64(len(torn))-size {
				t.Errorf("cut at %d, behind it %q: %d bytes with %s and %d cut off; want %d with %s", cut, what, l.Size(), got, behind, size, held[size])
			}
			must(t, l.Close())
			if now, err := os.ReadFile(name); err != nil || !bytes.Equal(now, text[:size]) {
				t.Errorf("cut at %d, behind it %q: the file has %d bytes, not the first %d; %v", cut, what, len(now), size, err)
			}
		}
	}
}

// What was compressed says how large it is and is replayed as it was; damage is seen.
func TestLogPacked(t *testing.T) {
	p := mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...)
	must(t, p.Insert(t.Context(), "row"))
	all := p.MustStatus().Executed
	name := filepath.Join(t.TempDir(), "binlog.000001")
	logged(t, p, name, gtid.Set{}, all)
	must(t, mysqlctl.PackLog(name))
	want, err := os.Stat(name)
	must(t, err)
	packed := name + mysqlctl.PackedSuffix
	if size, err := mysqlctl.LogSize(packed); size != want.Size() || err != nil {
		t.Errorf("%d bytes, not %d; %v", size, want.Size(), err)
	}
	read := func() (mysqlctl.Replayed, error) {
		c := mysqltest.Config(t, t.TempDir())
		must(t, os.MkdirAll(c.DataDir, 0o750))
		r, err := mysqlctl.New(c, nil).PrepareReplay(t.Context(), gtid.Set{}, []string{packed}, mysqlctl.Until{})
		if left, _ := filepath.Glob(filepath.Join(c.DataDir, "*.unpacked")); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		return r, err
	}
	r, err := read()
	must(t, err)
	wantSet(t, "packed", r.Set, all)
	text, err := os.ReadFile(packed)
	must(t, err)
	text[len(text)/2] ^= 1
	must(t, os.WriteFile(packed, text, 0o600))
	_, err = read()
	mustBe(t, err, mysqlctl.ErrUnreadable)
}

// A dump that ends within a transaction leaves nothing of it in the log, and what does
// not belong there is refused.
func TestLogFileHalf(t *testing.T) {
	p := mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...)
	must(t, p.Insert(t.Context(), "row"))
	have := p.MustStatus().Executed
	must(t, p.Insert(t.Context(), "row"))
	name := filepath.Join(t.TempDir(), "binlog.000001")
	broken := errors.New("broken")
	var l *mysqlctl.LogFile
	var format []byte
	err := p.Dump(mysqltest.Ctx(t, time.Minute), have, func(s mysqlctl.Sent) (err error) {
		if s.Format {
			format = bytes.Clone(s.Raw)
		}
		if s.Begins == nil {
			return nil
		}
		if l, err = mysqlctl.CreateLog(name, format, have); err != nil {
			return err
		}
		if l.Append(s.Raw) == nil {
			t.Error("an event of no transaction was taken")
		}
		must(t, l.Begin(s.Begins, s.Raw))
		if l.Begin(s.Begins, s.Raw) == nil {
			t.Error("a transaction was begun within another")
		}
		return broken
	})
	if err == nil || !strings.Contains(err.Error(), broken.Error()) {
		t.Fatal(err)
	}
	must(t, l.Sync())
	must(t, l.Close())
	l, cut, err := mysqlctl.OpenLog(name)
	must(t, err)
	set, err := l.Set()
	must(t, err)
	if wantSet(t, "half a transaction", set, have); cut != 0 {
		t.Errorf("%d bytes of it were left", cut)
	}
	must(t, l.Close())
}
