package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/go-sql-driver/mysql"
)

// hotRows is how many rows the compare-and-set clients fight for.
const hotRows = 3

// checkBound is what the search for a linearization may take.
const checkBound = time.Minute

// swap is a compare-and-set on one row: to New if it is Old. A read of what is there
// at the end has no New.
type swap struct {
	Row      int
	Old, New int64
	Read     bool
}

// history is what clients of the hot rows were told. Refused swaps are not in it:
// they are reads, which may be stale. One without an answer may have happened or
// not, now or later, but not twice. It is judged and begun anew at moments at which
// no client waits for an answer: no search has to look at all of it.
type history struct {
	began time.Time
	next  atomic.Int64 // value: each is written once

	gate sync.RWMutex // held by each client while it waits for answers

	mu    sync.Mutex
	ops   []porcupine.Operation // since the last cut
	from  int64                 // the last cut
	start [hotRows]int64        // what the rows were then

	cuts, acked, unknown int
}

// model is a row: swaps that were answered OK form a chain.
var model = porcupine.Model{
	Init: func() any { return int64(0) },
	Partition: func(h []porcupine.Operation) [][]porcupine.Operation {
		rows := make([][]porcupine.Operation, hotRows)
		for _, o := range h {
			row := o.Input.(swap).Row
			rows[row] = append(rows[row], o)
		}
		return rows
	},
	Step: func(state, input, output any) (bool, any) {
		in, known := input.(swap), output.(bool)
		switch {
		case state.(int64) == in.Old && in.Read:
			return true, state
		case state.(int64) == in.Old:
			return true, in.New
		}
		return !known, state // an unknown one that never happened comes last
	},
	DescribeOperation: func(input, output any) string {
		in := input.(swap)
		return fmt.Sprintf("row %d: %d → %d (read %v, known %v)", in.Row, in.Old, in.New, in.Read, output)
	},
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) add(client int, in swap, call int64, known bool) {
	end := h.now()
	if !known {
		end = math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if known {
		h.acked++
	} else {
		h.unknown++
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: known, Return: end})
}

// createHot makes the hot rows.
func createHot(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, "CREATE TABLE hot (id INT PRIMARY KEY, v BIGINT NOT NULL)"); err != nil {
		return err
	}
	for i := range hotRows {
		if _, err := db.ExecContext(ctx, "INSERT INTO hot VALUES (?, 0)", i); err != nil {
			return err
		}
	}
	return nil
}

// fight is one client: it reads a row and swaps what it saw.
func (h *history) fight(ctx context.Context, client int, db *sql.DB) {
	for n := client; ctx.Err() == nil; n++ {
		if h.attempt(ctx, client, n%hotRows, db) {
			pause(ctx, 30*time.Millisecond)
		} else {
			pause(ctx, 100*time.Millisecond) // a replica says no all the time
		}
	}
}

func (h *history) attempt(ctx context.Context, client, row int, db *sql.DB) bool {
	h.gate.RLock()
	defer h.gate.RUnlock()
	var old int64
	if err := db.QueryRowContext(ctx, "SELECT v FROM hot WHERE id = ?", row).Scan(&old); err != nil {
		return false
	}
	in := swap{Row: row, Old: old, New: h.next.Add(1)}
	call := h.now()
	res, err := db.ExecContext(ctx, "UPDATE hot SET v = ? WHERE id = ? AND v = ?", in.New, row, old)
	switch {
	case err == nil:
		if done, err := res.RowsAffected(); err != nil || done == 1 {
			h.add(client, in, call, err == nil)
		}
	case !refused(err):
		h.add(client, in, call, false)
	}
	return err == nil
}

// cut waits until no client waits for an answer, has the rows read, and says whether
// what was acknowledged since the last cut can have happened in some order.
func (h *history) cut(read func() ([]int64, error)) error {
	h.gate.Lock()
	defer h.gate.Unlock()
	final, err := read()
	if err != nil {
		return fmt.Errorf("read the hot rows: %w", err)
	}
	return h.check(final)
}

// check judges what was told since the last cut. final is what the rows are now.
func (h *history) check(final []int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	ops := mattering(h.ops, final)
	for row, v := range final {
		ops = append(ops,
			porcupine.Operation{ClientId: 1000 + row, Input: swap{Row: row, New: h.start[row]}, Call: h.from - 2, Output: true, Return: h.from - 1},
			porcupine.Operation{ClientId: 1000 + row, Input: swap{Row: row, Old: v, Read: true}, Call: h.now(), Output: true, Return: h.now() + 1})
	}
	h.cuts++
	if err := judged(porcupine.CheckOperationsTimeout(model, ops, checkBound)); err != nil {
		return fmt.Errorf("compare-and-sets since the last of %d looks, %d to judge: %w", h.cuts, len(ops), err)
	}
	h.from = h.now()
	h.ops = pending(h.ops, final, h.from)
	copy(h.start[:], final)
	return nil
}

func judged(r porcupine.CheckResult) error {
	switch r {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("undecided within %s whether they are linearizable", checkBound)
	}
	return errors.New("NOT linearizable")
}

// value is one of a row: it is written once.
type value struct {
	row int
	v   int64
}

func (s swap) before() value { return value{s.Row, s.Old} }
func (s swap) after() value  { return value{s.Row, s.New} }

// mattering leaves away swaps of unknown outcome that cannot have happened: nobody
// saw their value and it is not there now, and no swap leads back from it. Each of
// them would double what a search has to look at.
func mattering(ops []porcupine.Operation, final []int64) (out []porcupine.Operation) {
	seen := map[value]bool{}
	for row, v := range final {
		seen[value{row, v}] = true
	}
	makers := map[value][]porcupine.Operation{}
	var left []value
	for _, o := range ops {
		in := o.Input.(swap)
		if o.Output.(bool) {
			out = append(out, o)
			seen[in.before()] = true
		} else {
			makers[in.after()] = append(makers[in.after()], o)
		}
	}
	left = slices.AppendSeq(left, maps.Keys(seen))
	for len(left) > 0 {
		v := left[0]
		left = left[1:]
		for _, o := range makers[v] {
			out = append(out, o)
			if b := o.Input.(swap).before(); !seen[b] {
				seen[b] = true
				left = append(left, b)
			}
		}
		delete(makers, v)
	}
	return out
}

// pending are the swaps of unknown outcome that may happen yet, at from or later: a
// server may still be at them. No value comes back, so they swap what is there now
// or what another one of them would make of it.
func pending(ops []porcupine.Operation, final []int64, from int64) (out []porcupine.Operation) {
	now := map[value]bool{}
	for row, v := range final {
		now[value{row, v}] = true
	}
	unknown := slices.DeleteFunc(slices.Clone(ops), func(o porcupine.Operation) bool { return o.Output.(bool) })
	for more := true; more; {
		more = false
		unknown = slices.DeleteFunc(unknown, func(o porcupine.Operation) bool {
			in := o.Input.(swap)
			if !now[in.before()] {
				return false
			}
			o.Call, more = from, true
			now[in.after()] = true
			out = append(out, o)
			return true
		})
	}
	return out
}

// String tells what was judged.
func (h *history) String() string {
	return fmt.Sprintf("%d compare-and-sets on %d rows acknowledged, %d of unknown outcome: linearizable, looked at %d times", h.acked, hotRows, h.unknown, h.cuts)
}

// readHot reads the hot rows.
func readHot(ctx context.Context, db *sql.DB) ([]int64, error) {
	out := make([]int64, hotRows)
	for i := range out {
		if err := db.QueryRowContext(ctx, "SELECT v FROM hot WHERE id = ?", i).Scan(&out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// refused says that the server told that it did nothing: it is read-only, has no
// connection left, or rolled back. After any other error it may have happened.
func refused(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && slices.Contains([]uint16{1290, 1836, 1040, 1205, 1213}, e.Number)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
