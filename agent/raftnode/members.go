package raftnode

import (
	"context"

	"github.com/hashicorp/raft"
)

// Server is a member of the group.
type Server struct {
	ID, Addr string
	Voter    bool
}

// Servers returns the members of the group's latest configuration, which may not be committed yet.
func (n *Node) Servers() []Server {
	conf := n.raft.GetConfiguration().Configuration() // a local copy: no error, no wait
	servers := make([]Server, 0, len(conf.Servers))
	for _, s := range conf.Servers {
		servers = append(servers, Server{ID: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter})
	}
	return servers
}

// AddNonvoter adds a member without a vote, or changes the address of a member (which keeps its vote).
// An address that another member has is refused: remove that one first. Like the other changes of
// membership it works on the leader only and returns when the change is committed; errors are
// [ErrNotLeader], [ErrOutcomeUnknown], or Raft's reason to refuse.
func (n *Node) AddNonvoter(ctx context.Context, id, addr string) error {
	_, err := wait(ctx, n.stop, func() raft.IndexFuture {
		return n.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(addr), 0, enqueueTimeout(ctx))
	})
	return err
}

// Promote gives a member its vote, or adds one with a vote. It counts at once, so the member should have
// caught up before.
func (n *Node) Promote(ctx context.Context, id, addr string) error {
	_, err := wait(ctx, n.stop, func() raft.IndexFuture {
		return n.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(addr), 0, enqueueTimeout(ctx))
	})
	return err
}

// Demote takes a member's vote away; it stays a member.
func (n *Node) Demote(ctx context.Context, id string) error {
	_, err := wait(ctx, n.stop, func() raft.IndexFuture {
		return n.raft.DemoteVoter(raft.ServerID(id), 0, enqueueTimeout(ctx))
	})
	return err
}

// Remove takes a member out of the group. It is not told: it must ask others for the configuration.
func (n *Node) Remove(ctx context.Context, id string) error {
	_, err := wait(ctx, n.stop, func() raft.IndexFuture {
		return n.raft.RemoveServer(raft.ServerID(id), 0, enqueueTimeout(ctx))
	})
	return err
}

// TransferLeadership hands leadership to a voter and returns when this node has stepped down. Errors
// mean that this node may still lead. It takes milliseconds, at most the election timeout. A voter that
// does not answer is refused at once.
func (n *Node) TransferLeadership(ctx context.Context, id, addr string) error {
	if !n.IsLeader() {
		return ErrNotLeader
	}
	if err := n.peers.answers(raft.ServerID(id)); err != nil {
		return err
	}
	_, err := wait(ctx, n.stop, func() raft.Future {
		return n.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(addr))
	})
	n.watchTransfer(err)
	return err
}
