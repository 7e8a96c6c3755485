package node

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"ha/mysqlctl/gtid"
	"ha/raftfsm"
	"ha/xtra"
)

const (
	// houseEvery is how often the directories beside the data are looked at.
	houseEvery = 10 * time.Second
	// sizeEvery is how often files are counted at least. Where the free room has changed
	// by sizeMoved since, that is done at once, but never for more than a hundredth of
	// the time: it takes a while where there are many.
	sizeEvery = 10 * time.Minute
	sizeMoved = 32 << 20 // bytes
	sizeShare = 100
	// dropPause is the rest after each piece of old data that is removed: 800 MB/s at
	// the most.
	dropPause = 20 * time.Millisecond
)

// room is what is known of the disk: for reports.
type room struct {
	mu              sync.Mutex
	data, old, free int64
	sizedAt         time.Duration // 0: not yet, or they have changed
	sizeTook        time.Duration
	sizeFree        int64  // what was free then
	blank           bool   // there were no schemas when mysqld was found or started
	why             string // old data are kept
	no              string // copy can be put in place
}

// forget has the files counted again.
func (r *room) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sizedAt = 0
}

func (r *room) kept(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.why = why
}

func (r *room) place(no string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.no = no
}

func (r *room) fill(rep *raftfsm.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep.NoCopy, rep.Blank, rep.DataSize, rep.OldData, rep.OldWhy, rep.DiskFree = r.no, r.blank, r.data, r.old, r.why, r.free
}

// lookInside sees whether there is anything in the data, before it is told that mysqld
// runs on them.
func (n *Node) lookInside() {
	schemas, err := xtra.Schemas(n.cfg.MysqlDir)
	n.room.mu.Lock()
	defer n.room.mu.Unlock()
	n.room.blank = err == nil && len(schemas) == 0
}

// keepHouse removes what copies left behind and old data that nobody needs, and
// looks how much room there is.
func (n *Node) keepHouse(ctx context.Context) error {
	said := ""
	for {
		if n.isUp() && n.copy.dirs.TryLock() {
			err := n.clean(ctx)
			n.copy.dirs.Unlock()
			if err != nil && err.Error() != said {
				said = err.Error()
				n.log.Warn("what copies left behind is not removed", "err", err)
			}
		}
		n.measure()
		n.room.place(n.noCopy())
		if !sleep(ctx, houseEvery) {
			return ctx.Err()
		}
	}
}

// clean is called while no copy is made and mysqld runs: its data are in place.
func (n *Node) clean(ctx context.Context) error {
	// Commits wait for the same disk. A rebuild that begins removes the rest itself.
	more := func() bool {
		n.measure()
		return !n.copy.active() && sleep(ctx, dropPause)
	}
	if done, err := n.place.Sweep(more); !done || err != nil {
		return err
	}
	old, there := n.place.Replaced()
	r := n.Report()
	n.room.kept(whyKept(old, there, &r))
	if !there || old.Keep || ctx.Err() != nil || r.Replica == nil || !r.Replica.IORunning || !n.holdsAll(old) {
		return nil
	}
	done, err := n.place.DropOld(more)
	if err == nil && done {
		n.room.forget()
		n.log.Info("old data removed: the copy holds all of them", "dir", n.place.Old())
	}
	return err
}

// whyKept says why old data stay, if that will not end by itself. What the present
// primary wrote comes yet.
func whyKept(old xtra.Replaced, there bool, r *raftfsm.Report) string {
	position, err := gtid.Parse(old.Position)
	switch {
	case !there:
		return ""
	case !old.Known || err != nil:
		return "what they hold could not be read"
	case r.Mysqld != raftfsm.MysqldRunning || r.Replica == nil || !r.Replica.IORunning:
		return ""
	}
	lacks := position.Minus(r.Position())
	if lacks = lacks.Minus(lacks.Only(r.Replica.SourceUUID)); lacks.IsEmpty() {
		return ""
	}
	return "they hold transactions that the copy lacks: " + lacks.String()
}

// holdsAll says that this server has executed all that replaced data held.
func (n *Node) holdsAll(old xtra.Replaced) bool {
	position, err := gtid.Parse(old.Position)
	if err != nil || !old.Known {
		return false
	}
	r := n.Report()
	return r.Mysqld == raftfsm.MysqldRunning && r.Executed.Contains(position)
}

// noCopy says why no copy could be put in the place of the data: before one is made.
func (n *Node) noCopy() string {
	if err := n.place.Check(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err.Error()
	}
	// As makeWay does when there is a copy.
	if old, there := n.place.Replaced(); there && !n.holdsAll(old) {
		if err := n.place.MayKeep(); err != nil {
			return err.Error()
		}
	}
	if n.cfg.NoCopy != nil {
		return n.cfg.NoCopy()
	}
	return ""
}

func (n *Node) measure() {
	now := n.clock.Boottime()
	free, err := n.place.Free()
	n.room.mu.Lock()
	due := n.room.due(now, free)
	n.room.mu.Unlock()
	var data, old int64
	var took time.Duration
	if due {
		data, old = n.place.DataSize(), n.place.OldSize()
		took = n.clock.Boottime() - now
	}
	n.room.mu.Lock()
	defer n.room.mu.Unlock()
	if err == nil {
		n.room.sawFree(free)
	}
	if due {
		n.room.data, n.room.old, n.room.sizedAt, n.room.sizeTook, n.room.sizeFree = data, old, now, took, free
	}
}

// sawFree notes what is free, if the difference is noticeable. None at all is a byte in
// a report: 0 is not known there.
func (r *room) sawFree(free int64) {
	free = max(free, 1)
	if free-r.free > r.free/50 || r.free-free > r.free/50 {
		r.free = free
	}
}

// due says that files are to be counted now. What is free tells whether they may have
// changed a lot: a new member is filled by a copy if there is much to be copied.
func (r *room) due(now time.Duration, free int64) bool {
	since := now - r.sizedAt
	moved := max(free-r.sizeFree, r.sizeFree-free) >= sizeMoved
	return r.sizedAt == 0 || since > sizeEvery || moved && since > sizeShare*r.sizeTook
}
