package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"ha/agent/api"
	"ha/agent/raftnode"
	"ha/raftfsm"
)

// raftDiskHint is what to do where the Raft store cannot be written.
const raftDiskHint = "make room on the file system of its data_dir, or mend it; the agent goes on by itself, or when it is started again"

// raftError is why Raft does not start or cannot go on, for a person.
func raftError(err error) error {
	if errors.Is(err, raftnode.ErrDisk) {
		e := api.Failed("%w; mysqld is left as it is", err).WithHint(raftDiskHint)
		e.Word = raftnode.CodeDisk
		return e
	}
	if errors.Is(err, raftnode.ErrOldStore) {
		return api.Refused(raftnode.CodeOldStore, "%w: with it this node could elect a coordinator that lacks what was committed", err).
			WithHint("move all but mysqld's data out of the agent's data_dir and start it with --join: it comes back as a new node under its old name")
	}
	return api.Failed("Raft: %w", err)
}

// raftMarkFile stands in mysqld's data dir.
const raftMarkFile = "ha.mark"

// raftMarks are where this node keeps how far its Raft store has come: on what
// are other file systems, usually.
func (a *Agent) raftMarks(id string) []raftnode.MarkFile {
	files := []raftnode.MarkFile{{Path: filepath.Join(a.cfg.RuntimeDir, "mark-"+id)}}
	if !a.cfg.Witness {
		files = append(files, raftnode.MarkFile{Path: filepath.Join(a.cfg.MySQL.DataDir, raftMarkFile), Ready: func() bool {
			n := a.node.Load() // an empty directory has to stay empty until mysqld has initialised it
			return n != nil && (*n).Report().Mysqld == raftfsm.MysqldRunning
		}})
	}
	return files
}

// ownDirError is why something in the agent's own data dir, where the Raft store
// is as well, cannot be opened.
func ownDirError(what string, err error) error {
	for _, sick := range []error{syscall.EROFS, syscall.EIO, syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, sick) {
			return raftError(fmt.Errorf("%w: %s: %w", raftnode.ErrDisk, what, err))
		}
	}
	return api.Failed("%s: %w", what, err)
}

// raftProblems goes into this node's reports.
func (a *Agent) raftProblems() []raftfsm.Problem {
	if err := a.raft.DiskFull(); err != nil {
		return []raftfsm.Problem{{Code: raftnode.CodeDisk, Text: fmt.Sprintf("its Raft store finds no room: it counts for nothing in the group's majority (%v)", err)}}
	}
	return nil
}

func hasFullRaftDisk(r *raftfsm.Report) bool {
	return r != nil && slices.ContainsFunc(r.Problems, func(p raftfsm.Problem) bool { return p.Code == raftnode.CodeDisk })
}

// leaveFullDisk hands leadership to a voter that has room, when this node has
// none: before a command finds that out, which would cost an election. Where
// nobody has room it stays, and leases are granted until something is to be
// committed.
func (a *Agent) leaveFullDisk(ctx context.Context) {
	for pause(ctx, time.Second) == nil {
		if a.raft.DiskFull() == nil || !a.raft.IsLeader() {
			continue
		}
		s, v, _, leading := a.coord.status()
		if !leading {
			continue
		}
		if to := otherVoter(&s, &v); to != "" {
			a.coord.handover(ctx, s, to, "the disk of the Raft store is full here")
		}
	}
}

// otherVoter is a living voter to hand coordination to, off the primary's host if
// there is one; empty: none.
func otherVoter(s *raftfsm.State, v *raftfsm.View) (to raftfsm.NodeID) {
	for _, n := range v.Nodes {
		if n.ID == v.Self || !n.Voter || n.Report == nil || n.Age > s.Policy.DeadAfter {
			continue
		}
		if to == "" || to == s.Primary {
			to = n.ID
		}
	}
	return to
}
