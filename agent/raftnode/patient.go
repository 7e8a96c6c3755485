package raftnode

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// retryPause is how long after a failure a peer is tried again.
const retryPause = 100 * time.Millisecond

// patient keeps trying to reach a peer where Raft would wait longer and longer, in the end 10 s, before
// it sends entries again. For that long a voter that is back (its heartbeats are, at once) would be none:
// if another one fails meanwhile, a leader with a majority could commit nothing.
//
// To Raft it looks like a call that takes long. It ends with the leadership or the peer's membership.
type patient struct {
	*raft.NetworkTransport
	n *Node

	mu   sync.Mutex
	lost map[raft.ServerID]bool // peers that do not answer, or do not store
}

// AppendEntries sends entries until the peer answers. Heartbeats are not held up: Raft tries them often
// enough, and needs to know.
func (p *patient) AppendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	try := func() error {
		err := p.send(id, addr, req, resp)
		// The peer is in this term and its log fits, but its store did not take the entries. Raft would
		// send it older ones, less and less often.
		if err == nil && len(req.Entries) > 0 && !resp.Success && !resp.NoRetryBackoff && resp.Term <= req.Term {
			return fmt.Errorf("%s does not store what it is sent", id)
		}
		return err
	}
	if req.PrevLogEntry == 0 && len(req.Entries) == 0 && req.LeaderCommitIndex == 0 { // as Raft tells a heartbeat
		return try()
	}
	return p.persist(id, addr, req.Term, try)
}

// send sends entries or a heartbeat, unless this node's disk hangs: see [Node.watchDisk].
func (p *patient) send(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if p.n.muted.Load() {
		return errHangs
	}
	return p.NetworkTransport.AppendEntries(id, addr, req, resp)
}

// RequestVote asks for a vote, unless this node could not store what it would lead to.
func (p *patient) RequestVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if p.n.store.disk.isStuck() {
		return errFull
	}
	return p.NetworkTransport.RequestVote(id, addr, req, resp)
}

// RequestPreVote asks whether a vote would be given.
func (p *patient) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if p.n.store.disk.isStuck() {
		return errFull
	}
	return p.NetworkTransport.RequestPreVote(id, addr, req, resp)
}

// InstallSnapshot waits until the peer can be reached. The sending itself is tried once: data is not
// read twice.
func (p *patient) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	// The least that a peer answers: a heartbeat of this term.
	hello := raft.AppendEntriesRequest{RPCHeader: req.RPCHeader, Term: req.Term, Leader: req.Leader}
	err := p.persist(id, addr, req.Term, func() error {
		return p.send(id, addr, &hello, &raft.AppendEntriesResponse{})
	})
	if err != nil {
		return err
	}
	return p.NetworkTransport.InstallSnapshot(id, addr, req, resp, data)
}

func (p *patient) persist(id raft.ServerID, addr raft.ServerAddress, term uint64, try func() error) error {
	for {
		err := try()
		p.mark(id, err != nil)
		if err == nil || !p.worthwhile(id, addr, term) {
			return err
		}
		select {
		case <-time.After(retryPause):
		case <-p.n.stop:
			return err
		}
	}
}

// worthwhile tells whether this node still leads in term and has the peer at addr as a member.
func (p *patient) worthwhile(id raft.ServerID, addr raft.ServerAddress, term uint64) bool {
	<-p.n.started
	r := p.n.raft
	if r.State() != raft.Leader || r.CurrentTerm() != term {
		return false
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.ID == id {
			return s.Address == addr
		}
	}
	return false
}

func (p *patient) mark(id raft.ServerID, lost bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if lost {
		p.lost[id] = true
	} else {
		delete(p.lost, id)
	}
}

// answers returns an error if the peer is known not to answer, or not to store. To hand leadership to such a peer would
// fill a channel in Raft that nobody empties, and the second time block it for ever (hashicorp/raft#696).
func (p *patient) answers(id raft.ServerID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost[id] {
		return fmt.Errorf("%s does not answer, or cannot store", id)
	}
	return nil
}
