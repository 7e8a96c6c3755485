package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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
// not, now or later, but not twice.
type history struct {
	began time.Time
	next  atomic.Int64 // value: each is written once

	mu      sync.Mutex
	ops     []porcupine.Operation
	unknown int
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
	if !known {
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
		row := n % hotRows
		var old int64
		if err := db.QueryRowContext(ctx, "SELECT v FROM hot WHERE id = ?", row).Scan(&old); err == nil {
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
		}
		pause(ctx, 30*time.Millisecond)
	}
}

// check says whether what was acknowledged can have happened in some order. final is
// what the rows are at the end.
func (h *history) check(final []int64) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ops := h.ops
	for row, v := range final {
		ops = append(ops, porcupine.Operation{ClientId: 1000 + row, Input: swap{Row: row, Old: v, Read: true}, Call: h.now(), Output: true, Return: h.now() + 1})
	}
	text := fmt.Sprintf("%d compare-and-sets on %d rows acknowledged, %d of unknown outcome", len(h.ops)-h.unknown, hotRows, h.unknown)
	switch porcupine.CheckOperationsTimeout(model, ops, checkBound) {
	case porcupine.Ok:
		return text + ": linearizable", nil
	case porcupine.Unknown:
		return text + fmt.Sprintf(": not decided within %s", checkBound), nil
	}
	return text, fmt.Errorf("%s: NOT linearizable", text)
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
