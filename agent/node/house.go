package node

import (
	"context"
	"sync"
	"time"

	"ha/mysqlctl/gtid"
	"ha/raftfsm"
	"ha/xtra"
)

const (
	// houseEvery is how often the directories beside the data are looked at.
	houseEvery = 10 * time.Second
	// sizeEvery is how often files are counted, which takes a while where there
	// are many.
	sizeEvery = 10 * time.Minute
)

// room is what is known of the disk: for reports.
type room struct {
	mu              sync.Mutex
	data, old, free int64
	sizedAt         time.Duration // 0: not yet, or they have changed
}

// forget has the files counted again.
func (r *room) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sizedAt = 0
}

func (r *room) fill(rep *raftfsm.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep.DataSize, rep.OldData, rep.DiskFree = r.data, r.old, r.free
}

// keepHouse removes what copies left behind and old data that nobody needs, and
// looks how much room there is.
func (n *Node) keepHouse(ctx context.Context) error {
	left := true // by an agent before this one
	for {
		if n.isUp() && n.copy.dirs.TryLock() {
			n.clean(ctx, left)
			left = false
			n.copy.dirs.Unlock()
		}
		n.measure()
		if !sleep(ctx, houseEvery) {
			return ctx.Err()
		}
	}
}

// clean is called while no copy is made and mysqld runs: its data are in place.
func (n *Node) clean(ctx context.Context, left bool) {
	if left {
		if err := n.place.Clean(); err != nil {
			n.log.Warn("leftovers of a copy not removed", "err", err)
		}
	}
	old, there := n.place.Replaced()
	if !there || old.Keep || old.Surplus && !old.Known || ctx.Err() != nil {
		return
	}
	r := n.Report()
	if r.Mysqld != raftfsm.MysqldRunning || r.Replica == nil || !r.Replica.IORunning || old.Known && !n.holdsAll(old) {
		return
	}
	if err := n.place.DropOld(); err != nil {
		n.log.Warn("old data not removed", "err", err)
		return
	}
	n.room.forget()
	n.log.Info("old data removed: the copy holds all of them", "dir", n.place.Old())
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

func (n *Node) measure() {
	now := n.clock.Boottime()
	n.room.mu.Lock()
	due := n.room.sizedAt == 0 || now-n.room.sizedAt > sizeEvery
	n.room.mu.Unlock()
	free, err := n.place.Free()
	var data, old int64
	if due {
		data, old = n.place.DataSize(), n.place.OldSize()
	}
	n.room.mu.Lock()
	defer n.room.mu.Unlock()
	if err == nil && (free-n.room.free > n.room.free/50 || n.room.free-free > n.room.free/50) {
		n.room.free = free // what is noticeable
	}
	if due {
		n.room.data, n.room.old, n.room.sizedAt = data, old, now
	}
}
