package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"ha/agent/api"
	"ha/raftfsm"
)

// coordinatorStatus answers for the cluster if this agent coordinates. One that has
// only just begun to gives the others a moment to report: nobody is silent yet.
func (a *Agent) coordinatorStatus(ctx context.Context) (api.Status, bool) {
	s, v, doing, leading := a.coord.status()
	unheard := func(n raftfsm.NodeView) bool { return n.Report == nil }
	for leading && v.Leading < reportGrace && slices.ContainsFunc(v.Nodes, unheard) && pause(ctx, 20*time.Millisecond) == nil {
		s, v, doing, leading = a.coord.status()
	}
	if !leading {
		return api.Status{}, false
	}
	in := StatusInput{Self: a.id, Leader: a.id, Quorum: true, State: s, Doing: doing, Raft: raftOf(a.raftServers()),
		Reports: map[raftfsm.NodeID]SeenReport{}}
	for _, n := range v.Nodes {
		if n.Report != nil {
			in.Reports[n.ID] = SeenReport{Report: n.Report, Age: n.Age}
		}
	}
	return BuildStatus(in), true
}

func raftOf(servers []raftfsm.RaftServer) []api.RaftServer {
	var out []api.RaftServer
	for _, s := range servers {
		out = append(out, api.RaftServer{ID: s.ID, Voter: s.Voter})
	}
	return out
}

// gather answers for the cluster without a coordinator: every agent that can be
// reached says what it knows by itself. The newest copy of the state counts.
func (a *Agent) gather(ctx context.Context) api.Status {
	ctx, cancel := context.WithTimeout(ctx, statusBound)
	defer cancel()
	own := a.selfView()
	selves := []api.Self{own}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, addr := range a.peers() {
		wg.Add(1)
		go func() {
			defer wg.Done()
			s, err := call[api.Self](ctx, a.client, addr, api.PathSelf, nil)
			if err != nil || s.State.Cluster != "" && own.State.Cluster != "" && s.State.Cluster != own.State.Cluster {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			selves = append(selves, s)
		}()
	}
	wg.Wait()
	in := StatusInput{Self: a.id, State: own.State, Raft: own.Raft, Reports: map[raftfsm.NodeID]SeenReport{}}
	reached := map[raftfsm.NodeID]bool{}
	for _, s := range selves {
		reached[s.Node] = true
		if s.Report != nil {
			in.Reports[s.Node] = SeenReport{Report: s.Report}
		}
		if s.State.Version > in.State.Version {
			in.State, in.Raft = s.State, s.Raft
		}
		if s.Leader != "" && in.Leader == "" {
			in.Leader = s.Leader
		}
	}
	in.Quorum = majority(in.Raft, reached) && in.Leader != "" && reached[in.Leader]
	if !in.Quorum {
		in.Leader = ""
	}
	return BuildStatus(in)
}

// majority says that more than half of the voters were reached.
func majority(servers []api.RaftServer, reached map[raftfsm.NodeID]bool) bool {
	voters, up := 0, 0
	for _, s := range servers {
		if s.Voter {
			voters++
			if reached[s.ID] {
				up++
			}
		}
	}
	return up > voters/2
}

// awaitLeader gives Raft a moment to elect a leader: a status that is asked for
// in the middle of an election is not worth an alarm.
func (a *Agent) awaitLeader(ctx context.Context) {
	end := time.Now().Add(electionGrace)
	for time.Now().Before(end) {
		if id, _ := a.raft.Leader(); id != "" || pause(ctx, 20*time.Millisecond) != nil {
			return
		}
	}
}

const (
	electionGrace = 700 * time.Millisecond
	// reportGrace is how long the first reports may take to come to a new
	// coordinator.
	reportGrace = 600 * time.Millisecond
)
