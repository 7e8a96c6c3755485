package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ha/mysqlctl/gtid"
	"ha/raftfsm"
	"ha/xtra"
)

// stopTimeout is what a clean end of mysqld may take before the swap; it is
// killed then. Its data are kept beside the new ones either way.
const stopTimeout = 20 * time.Second

// archiveTimeout is how long a swap waits for an archive, which takes what the primary's
// checkpoint has.
const archiveTimeout = 15 * time.Second

// judgeTimeout bounds the first question to mysqld on a copy; judgeAgain is when it is
// asked again that could not answer.
const (
	judgeTimeout = time.Minute
	judgeAgain   = time.Second
)

// swap stops mysqld and puts the copy in place of its data. It is an order of its
// own: a copy whose lease has ended meanwhile is put in place of nothing, as a
// newer order has come then. What forbade the rebuild at its start forbids it here.
func (n *Node) swap(ctx context.Context, o raftfsm.Order) error {
	now, floor := n.copy.report(), n.copy.mustHold()
	switch {
	case now == nil || now.Index != o.Lease:
		return refuse(raftfsm.CodeBusy, "there is no copy under lease %d yet", o.Lease)
	case now.Done || now.Phase == phaseStart:
		return nil
	case now.Err != "" || now.Phase != raftfsm.CopyReady:
		return refuse(raftfsm.CodeBusy, "the copy is not ready: %s", now.Phase)
	}
	if err := n.hold(ctx); err != nil {
		return err
	}
	defer n.release()
	old := xtra.Replaced{Keep: o.KeepOld, Floor: floor.String()}
	if err := n.mayCopyOver(ctx, o); err != nil {
		return err
	}
	n.phase(phaseSwap)
	if err := n.putInPlace(ctx, o, old); err != nil {
		if ctx.Err() != nil { // a newer order came: this one may come again
			n.phase(raftfsm.CopyReady)
		} else { // a full disk, say: nobody asks again, and the lease ends with the copy
			n.copy.end(err)
		}
		return err
	}
	close(n.copy.swapped)
	return nil
}

// mayCopyOver refuses to replace the data of a server that is open, or may be.
func (n *Node) mayCopyOver(ctx context.Context, o raftfsm.Order) error {
	if n.isUp() {
		st, err := n.status(ctx, lookTimeout)
		if err == nil && !st.SuperReadOnly {
			return refuse(raftfsm.CodeFailed, "a writable server is not rebuilt")
		}
	}
	return n.mayReplace(o.Token.Epoch)
}

func (n *Node) putInPlace(ctx context.Context, o raftfsm.Order, old xtra.Replaced) error {
	if err := n.makeWay(); err != nil {
		return err
	}
	held, err := n.lastPosition(ctx)
	known := err == nil
	if known {
		n.awaitArchived(ctx, held)
	}
	if err := n.stopMysqld(ctx); err != nil {
		return err
	}
	if !known {
		if held, err = n.lastOnDisk(); err != nil { // then they are kept
			n.log.Warn("what the old data hold is not known", "err", err)
		}
	}
	if err == nil {
		old.Position, old.Known = held.String(), true
	}
	if err := n.place.Mark(o.Lease, old); err != nil {
		return err
	}
	if err := n.place.Swap(); err != nil {
		return err
	}
	n.obs.forget()
	return n.tokens.SetRole(o.Token, RoleNone)
}

// awaitArchived gives an archive the time to take what the data hold, before they go.
func (n *Node) awaitArchived(ctx context.Context, held gtid.Set) {
	if n.cfg.AwaitArchived == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, archiveTimeout)
	defer cancel()
	n.cfg.AwaitArchived(ctx, held)
}

// lastPosition is all that the data hold: nothing comes to them after it.
func (n *Node) lastPosition(ctx context.Context) (gtid.Set, error) {
	if !n.isUp() {
		return gtid.Set{}, errors.New("mysqld does not run")
	}
	limited, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	position, err := n.md.SealReplica(limited)
	return position.All(), err
}

// lastOnDisk is the same of a server that is down.
func (n *Node) lastOnDisk() (gtid.Set, error) {
	if ok, err := n.md.Initialized(); err == nil && !ok {
		return gtid.Set{}, nil // there are none
	}
	executed, err := n.md.OfflinePosition()
	if err != nil {
		return gtid.Set{}, err
	}
	received, err := n.md.OfflineReceived()
	return executed.Union(received), err
}

// makeWay puts the data that an earlier copy replaced out of the way of the ones
// that are replaced now: for good if they may hold what this server has not.
func (n *Node) makeWay() error {
	old, there := n.place.Replaced()
	if !there || n.holdsAll(old) {
		return nil // Swap removes them
	}
	n.log.Warn("data that a copy replaced may hold what nobody else has: kept", "position", old.Position, "known", old.Known)
	return n.place.KeepOld()
}

// startCopy has mysqld started on the copy that is in place, and the old data put back
// where it does not start or lacks what the copy must hold.
func (n *Node) startCopy(ctx context.Context, o raftfsm.Order, floor gtid.Set) error {
	n.phase(phaseStart)
	err := n.ensureUp(ctx)
	if err != nil {
		err = fmt.Errorf("mysqld does not start on the copy: %w", err)
	} else {
		err = n.judge(ctx, floor)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		err = errors.Join(err, n.putBack(o))
	}
	return err
}

// judge says what the running copy lacks.
func (n *Node) judge(ctx context.Context, floor gtid.Set) error {
	limited, cancel := context.WithTimeout(ctx, judgeTimeout)
	defer cancel()
	position, err := n.md.Position(limited)
	for err != nil && sleep(limited, judgeAgain) { // it has only just started
		position, err = n.md.Position(limited)
	}
	if err != nil {
		return fmt.Errorf("read the position of the copy: %w", err)
	}
	if lacks := floor.Minus(position.Executed); !lacks.IsEmpty() {
		return fmt.Errorf("the copy lacks %s, which its donor had when it began", lacks)
	}
	return nil
}

// putBack undoes a swap: the copy is no good.
func (n *Node) putBack(o raftfsm.Order) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout+killTimeout)
	defer cancel()
	if err := n.hold(ctx); err != nil {
		return err
	}
	defer n.release()
	if err := n.mayReplace(o.Token.Epoch); err != nil {
		return err
	}
	if err := n.kill(ctx); err != nil {
		return err
	}
	n.log.Warn("the copy is no good: the old data are put back")
	err := n.place.Undo()
	n.obs.forget()
	if errors.Is(err, os.ErrNotExist) {
		return nil // there were none
	}
	return err
}

// empty removes the data before there is a copy: a person asked for that.
func (n *Node) empty(ctx context.Context, o raftfsm.Order) error {
	if err := n.mayCopyOver(ctx, o); err != nil {
		return err
	}
	if held, err := n.lastPosition(ctx); err == nil {
		n.awaitArchived(ctx, held)
	}
	if err := n.stopMysqld(ctx); err != nil {
		return err
	}
	n.log.Warn("data removed to make room for a copy", "dir", n.place.DataDir)
	err := n.place.Empty()
	n.obs.forget()
	return errors.Join(err, n.tokens.SetRole(o.Token, RoleNone))
}

// stopMysqld ends the mysqld of data that are replaced, in an orderly way, else by SIGKILL.
func (n *Node) stopMysqld(ctx context.Context) error {
	if !n.md.Alive() {
		return nil
	}
	n.sup.mu.Lock()
	n.sup.stopping = true
	n.sup.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, stopTimeout)
	err := n.md.StopFast(limited)
	cancel()
	if err == nil && !n.md.Alive() {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return n.kill(ctx)
}
