package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"ha/agent/api"
	"ha/agent/wire"
	"ha/raftfsm"
)

// maxBody bounds a request: GTID sets can be long, nothing else is.
const (
	maxBody  = 16 << 20
	maxError = 64 << 10
)

// handler serves the agent's API.
func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathPing, answer(func(context.Context) (api.Ping, error) { return a.ping(), nil }))
	mux.HandleFunc("GET "+api.PathSelf, answer(func(context.Context) (api.Self, error) { return a.selfView(), nil }))
	mux.HandleFunc("GET "+api.PathStatus, answer(a.Status))
	mux.HandleFunc("GET "+api.PathCoordinator, answer(func(ctx context.Context) (api.Status, error) {
		st, ok := a.coordinatorStatus(ctx)
		if !ok {
			return st, errNotCoordinator
		}
		return st, nil
	}))
	mux.HandleFunc("POST "+api.PathJoin, take(a.takeJoin))
	mux.HandleFunc("POST "+api.PathReport, func(w http.ResponseWriter, r *http.Request) {
		take(func(ctx context.Context, rep raftfsm.Report) (raftfsm.Grant, error) {
			if wire.PeerName(r.TLS) != string(rep.Node) {
				return raftfsm.Grant{}, fmt.Errorf("a report of %s came from %s", rep.Node, wire.PeerName(r.TLS))
			}
			return a.coord.report(ctx, &rep)
		})(w, r)
	})
	mux.HandleFunc("POST "+api.PathHandOver, func(w http.ResponseWriter, r *http.Request) {
		take(func(ctx context.Context, req api.HandOver) (struct{}, error) {
			if wire.PeerName(r.TLS) != string(req.From) {
				return struct{}{}, fmt.Errorf("%s asks for %s", wire.PeerName(r.TLS), req.From)
			}
			return a.coord.takeHandOver(ctx, req)
		})(w, r)
	})
	mux.HandleFunc("POST "+api.PathNote, func(w http.ResponseWriter, r *http.Request) {
		take(func(ctx context.Context, n api.Note) (struct{}, error) {
			if wire.PeerName(r.TLS) != string(n.Node) {
				return struct{}{}, fmt.Errorf("a note of %s came from %s", n.Node, wire.PeerName(r.TLS))
			}
			return a.coord.takeNote(ctx, n)
		})(w, r)
	})
	mux.HandleFunc("POST "+api.PathOrder, take(func(ctx context.Context, o raftfsm.Order) (raftfsm.Answer, error) {
		return a.execute(ctx, o)
	}))
	mux.HandleFunc("POST "+api.PathBackup, func(w http.ResponseWriter, r *http.Request) {
		if d := a.donor.Load(); d != nil {
			d.ServeHTTP(w, r)
			return
		}
		api.WriteError(w, errNoDonor)
	})
	mux.HandleFunc("POST "+api.PathCopy, a.giveCopy)
	a.operations(mux)
	a.copies(mux)
	return mux
}

// local serves the unix socket: what reads, and what is about this host alone.
// Who may open the socket may do that: it is 0600.
func (a *Agent) local() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathPing, answer(func(context.Context) (api.Ping, error) { return a.ping(), nil }))
	mux.HandleFunc("GET "+api.PathSelf, answer(func(context.Context) (api.Self, error) { return a.selfView(), nil }))
	mux.HandleFunc("GET "+api.PathStatus, answer(a.Status))
	mux.HandleFunc("POST "+api.PathStepDown, take(a.stepDown))
	return mux
}

// answer serves a document.
func answer[T any](get func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		doc, err := get(r.Context())
		reply(w, doc, err)
	}
}

// take serves a document that answers one.
func take[In, Out any](do func(context.Context, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in); err != nil {
			http.Error(w, "read request: "+err.Error(), http.StatusBadRequest)
			return
		}
		out, err := do(r.Context(), in)
		reply(w, out, err)
	}
}

func reply(w http.ResponseWriter, doc any, err error) {
	if err != nil {
		code := http.StatusInternalServerError
		var own *api.Error
		if errors.As(err, &own) {
			api.WriteError(w, err)
			return
		}
		if errors.Is(err, errNotCoordinator) {
			code = http.StatusMisdirectedRequest
		}
		http.Error(w, err.Error(), code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(doc) // the peer is gone: nobody is left to tell
}

// call sends a document to another agent and reads the one that answers it.
func call[Out any](ctx context.Context, client *http.Client, addr, path string, in any) (Out, error) {
	var out Out
	method, body := http.MethodGet, io.Reader(nil)
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return out, fmt.Errorf("encode request: %w", err)
		}
		method, body = http.MethodPost, bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+addr+path, body)
	if err != nil {
		return out, fmt.Errorf("request to %s: %w", addr, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return out, wire.ClassifyDialError(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxError))
		if own := api.ReadError(text); own != nil {
			return out, own
		}
		err := fmt.Errorf("%s%s: %s: %s", addr, path, resp.Status, bytes.TrimSpace(text[:min(len(text), 1024)]))
		if resp.StatusCode == http.StatusMisdirectedRequest {
			err = fmt.Errorf("%w (%s)", errNotCoordinator, addr)
		}
		return out, err
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&out); err != nil {
		return out, fmt.Errorf("read answer of %s: %w", addr, err)
	}
	return out, nil
}

// execute carries out an order that came from a coordinator.
func (a *Agent) execute(ctx context.Context, o raftfsm.Order) (raftfsm.Answer, error) {
	if o.To != a.id {
		return raftfsm.Answer{}, fmt.Errorf("an order for %s came to %s", o.To, a.id)
	}
	n := a.node.Load()
	if n == nil {
		return raftfsm.Answer{Token: o.Token, Op: o.Op, Code: raftfsm.CodeBusy, Err: "the agent is starting"}, nil
	}
	return (*n).Execute(ctx, o), nil
}

// sendOrder gives an order to its agent, which may be this one.
func (a *Agent) sendOrder(ctx context.Context, o raftfsm.Order) (raftfsm.Answer, error) {
	if o.To == a.id {
		return a.execute(ctx, o)
	}
	addr, ok := a.addressOf(string(o.To))
	if !ok {
		return raftfsm.Answer{}, fmt.Errorf("no address of %s is known", o.To)
	}
	return call[raftfsm.Answer](ctx, a.client, addr, api.PathOrder, o)
}

// sendReport gives a report to the coordinator, which may be this node.
func (a *Agent) sendReport(ctx context.Context, r raftfsm.Report) (raftfsm.Grant, error) {
	id, addr := a.raft.Leader()
	switch {
	case id == "":
		return raftfsm.Grant{}, errNotCoordinator
	case id == string(a.id):
		return a.coord.report(ctx, &r)
	}
	if now, ok := a.addressOf(id); ok {
		addr = now
	}
	return call[raftfsm.Grant](ctx, a.client, addr, api.PathReport, r)
}

// addressOf gives where a node's agent is: as the group knows, else as gossip
// says.
func (a *Agent) addressOf(id string) (string, bool) {
	s := a.fsm.State()
	if m, ok := s.Member(raftfsm.NodeID(id)); ok {
		return m.Address, true
	}
	if g := a.gossip.Load(); g != nil {
		for _, p := range g.Peers() {
			if p.ID == id {
				return p.Addr, true
			}
		}
	}
	return "", false
}

func (a *Agent) ping() api.Ping {
	_, leader := a.leader()
	return api.Ping{Node: a.id, Name: a.cfg.Name, Cluster: a.cluster(), Leader: leader, Version: a.version}
}

// leader gives the Raft leader's id and its agent's address; empty: none known.
func (a *Agent) leader() (id, addr string) {
	id, addr = a.raft.Leader()
	if now, ok := a.addressOf(id); ok && id != "" {
		addr = now
	}
	return id, addr
}

func (a *Agent) cluster() string {
	s := a.fsm.State()
	return s.Cluster
}

// selfView is what this agent knows by itself, without secrets.
func (a *Agent) selfView() api.Self {
	leader, _ := a.raft.Leader()
	self := api.Self{Node: a.id, Name: a.cfg.Name, Leader: raftfsm.NodeID(leader), State: withoutSecrets(a.fsm.State())}
	if n := a.node.Load(); n != nil {
		r := (*n).Report()
		self.Report = &r
	}
	for _, srv := range a.raftServers() {
		self.Raft = append(self.Raft, api.RaftServer{ID: srv.ID, Voter: srv.Voter})
	}
	return self
}

func withoutSecrets(s raftfsm.State) raftfsm.State {
	s.AgentPassword = ""
	for i := range s.Members {
		s.Members[i].ReplicationPassword = ""
	}
	return s
}

// statusBound is how long an agent waits for another one's answer when it
// answers for the cluster.
const statusBound = time.Second

// Status answers for the cluster: by itself if it coordinates, through the
// coordinator if there is one, else from what every agent knows by itself.
func (a *Agent) Status(ctx context.Context) (api.Status, error) {
	return a.removedIssue(a.status(ctx)), nil
}

func (a *Agent) status(ctx context.Context) api.Status {
	if st, ok := a.coordinatorStatus(ctx); ok {
		return st
	}
	if !a.isRemoved() { // else nobody tells it of a leader
		a.awaitLeader(ctx)
	}
	if id, addr := a.leader(); id != "" && id != string(a.id) {
		cctx, cancel := context.WithTimeout(ctx, statusBound)
		st, err := call[api.Status](cctx, a.client, addr, api.PathCoordinator, nil)
		cancel()
		if err == nil {
			return st
		}
	}
	return a.gather(ctx)
}
