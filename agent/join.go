package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ha/agent/api"
	"ha/agent/backup"
	"ha/agent/wire"
	"ha/raftfsm"
	"ha/xtra"
)

const (
	seedBound  = 2 * time.Second
	seedPause  = 300 * time.Millisecond
	nobodyText = 10 * time.Second // then it is said that nobody has founded
)

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand aborts the program instead
	return hex.EncodeToString(b)
}

// member is this node's description of itself.
func (a *Agent) member() raftfsm.Member {
	c := a.cfg
	m := raftfsm.Member{ID: a.id, Name: c.Name, Address: c.Advertise, Witness: c.Witness,
		Zone: c.Zone, Priority: c.Priority, NoPromote: c.NoPromote}
	if !c.Witness {
		m.MySQLHost, m.MySQLPort = c.MySQL.Host, c.MySQL.Port
		m.ReplicationPassword = random(16)
	}
	return m
}

// markFile stands in mysqld's data dir and names the cluster that the data
// belong to, readable without a server.
const markFile = "ha.cluster"

// clusterOfData gives the cluster id that mysqld's data dir names; named is true
// also if it belongs to a cluster whose id cannot be read without a server.
func clusterOfData(dir string) (id string, named bool) {
	if dir == "" {
		return "", false
	}
	if b, err := os.ReadFile(filepath.Join(dir, markFile)); err == nil {
		return strings.TrimSpace(string(b)), true
	}
	_, err := os.Stat(filepath.Join(dir, "ha"))
	return "", err == nil
}

// foreignSchemas are those in a data dir that neither a new server nor ha has made.
func foreignSchemas(dir string) []string {
	all, _ := xtra.Schemas(dir) // none if there is no directory yet
	return slices.DeleteFunc(all, func(name string) bool { return name == "ha" })
}

// restored says that `ha restore` has put the data there for a new cluster.
func restored(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, backup.RestoredFile))
	return err == nil
}

// found begins a new cluster with this node as its only member.
func (a *Agent) found(ctx context.Context) error {
	if id, named := clusterOfData(a.cfg.MySQL.DataDir); named {
		return api.Refused("HA-NOT-EMPTY", "%s holds the data of cluster %s, and this agent's data dir is new: it does not found another cluster on them", a.cfg.MySQL.DataDir, orUnknown(id)).
			WithHint("start it with --join and the address of an agent of that cluster")
	}
	if s := foreignSchemas(a.cfg.MySQL.DataDir); len(s) > 0 && !a.cfg.Found && !restored(a.cfg.MySQL.DataDir) {
		return api.Refused("HA-NOT-EMPTY", "%s holds schemas (%s) that did not come from ha", a.cfg.MySQL.DataDir, strings.Join(s, ", ")).
			WithHint("to found a cluster on these data say so with --found; to join one give --join")
	}
	if !a.raft.HasState() {
		if err := a.raft.Bootstrap(); err != nil {
			return api.Failed("bootstrap the Raft group: %w", err)
		}
	}
	for !a.raft.IsLeader() && a.cluster() == "" {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	if a.cluster() != "" || a.raft.Barrier(ctx) == nil && a.cluster() != "" {
		return nil // it had been founded already
	}
	policy := raftfsm.DefaultPolicy()
	m := a.member()
	c := raftfsm.Command{Kind: raftfsm.CmdFound, Cluster: random(8), Policy: &policy, AgentPassword: random(16), Member: &m, At: time.Now().UnixMilli()}
	if _, _, err := a.raft.Apply(ctx, c.Encode()); err != nil {
		return api.Failed("found the cluster: %w", err)
	}
	a.log.Info("cluster founded", "cluster", a.cluster(), "node", a.cfg.Name)
	return nil
}

func orUnknown(s string) string {
	if s == "" {
		return "(unreadable without a server)"
	}
	return s
}

// seeds are the configured addresses without our own.
func (a *Agent) seeds() []string {
	var out []string
	for _, s := range a.cfg.Join {
		if s != a.cfg.Advertise && s != a.cfg.Listen {
			out = append(out, s)
		}
	}
	return out
}

// join asks the seeds until one of them passes us on to a coordinator that takes
// us. It never bootstraps. A refusal that trying again cannot cure ends it.
func (a *Agent) join(ctx context.Context) error {
	dataOf, named := clusterOfData(a.cfg.MySQL.DataDir)
	req := api.JoinRequest{Member: a.member(), Cluster: dataOf, Version: a.version}
	if named && dataOf == "" {
		a.log.Warn("the data dir belongs to a cluster; which one will be known when mysqld runs", "dir", a.cfg.MySQL.DataDir)
	}
	began, told := time.Now(), false
	for {
		var last error
		for _, seed := range a.allAddresses(a.seeds()) {
			done, err := a.askToJoin(ctx, seed, req)
			if done {
				return err
			}
			last = err
		}
		if !told && time.Since(began) > nobodyText {
			told = true
			a.log.Warn("no seed belongs to a cluster yet: has an agent been started without --join, to found it?",
				"seeds", strings.Join(a.cfg.Join, " "), "err", last)
		}
		if err := pause(ctx, seedPause); err != nil {
			return err
		}
	}
}

// askToJoin asks one seed. done: it is over, well or not.
func (a *Agent) askToJoin(ctx context.Context, seed string, req api.JoinRequest) (done bool, err error) {
	sctx, cancel := context.WithTimeout(ctx, seedBound)
	defer cancel()
	r, err := call[api.JoinReply](sctx, a.client, seed, api.PathJoin, req)
	switch {
	case errors.Is(err, wire.ErrWrongSecret):
		return true, api.Refused("HA-WRONG-SECRET", "%s has another cluster secret than this agent", seed).
			WithHint("give all agents of a cluster the same secret (secret_file)")
	case err != nil:
		return false, err
	case r.Refused:
		e := api.Refused(r.Code, "%s", r.Err)
		if r.Code == "HA-NAME-TAKEN" {
			e = e.WithHint("give this node another name")
		}
		return true, e
	case !r.OK:
		return false, errors.New(r.Err)
	}
	if !req.Was {
		a.log.Info("joined", "cluster", r.Cluster, "seed", seed, "node", a.cfg.Name)
	}
	return true, nil
}

// allAddresses resolves names to all of their addresses.
func (a *Agent) allAddresses(seeds []string) []string {
	var out []string
	for _, s := range seeds {
		host, port, err := net.SplitHostPort(s)
		if err != nil || net.ParseIP(host) != nil {
			out = append(out, s)
			continue
		}
		ips, err := net.LookupHost(host)
		if err != nil {
			out = append(out, s)
			continue
		}
		for _, ip := range ips {
			out = append(out, net.JoinHostPort(ip, port))
		}
	}
	return out
}

// takeJoin passes a join request to the coordinator, or is it.
func (a *Agent) takeJoin(ctx context.Context, req api.JoinRequest) (api.JoinReply, error) {
	id, addr := a.leader()
	switch {
	case id == string(a.id):
		return a.coord.join(ctx, req), nil
	case id == "" && a.cluster() == "":
		return api.JoinReply{Err: a.cfg.Name + " belongs to no cluster yet"}, nil
	case id == "":
		return api.JoinReply{Err: "no coordinator is elected"}, nil
	}
	r, err := call[api.JoinReply](ctx, a.client, addr, api.PathJoin, req)
	if err != nil {
		return api.JoinReply{Err: "pass on to the coordinator: " + err.Error()}, nil //nolint:nilerr // said in the reply
	}
	return r, nil
}

// resume checks, for a node that is a member already, that its seeds have not
// become another cluster's, tells the group a changed address, and learns whether
// it was removed meanwhile. It returns when a coordinator has answered.
func (a *Agent) resume(ctx context.Context) error {
	own := a.cluster()
	for ctx.Err() == nil {
		for _, seed := range a.allAddresses(a.seeds()) {
			sctx, cancel := context.WithTimeout(ctx, seedBound)
			p, err := call[api.Ping](sctx, a.client, seed, api.PathPing, nil)
			cancel()
			if errors.Is(err, wire.ErrWrongSecret) {
				return api.Refused("HA-WRONG-SECRET", "%s has another cluster secret than this agent", seed).
					WithHint("give all agents of a cluster the same secret (secret_file)")
			}
			if err == nil && own != "" && p.Cluster != "" && p.Cluster != own {
				return api.Refused("HA-OTHER-CLUSTER", "%s belongs to cluster %s, and this agent's data dir %s to %s", seed, p.Cluster, a.cfg.DataDir, own).
					WithHint("point --join at its own cluster, or start it with a new data dir")
			}
		}
		switch told, err := a.describeSelf(ctx); {
		case isRemovedError(err):
			a.noteRemoved()
			return nil
		case err != nil:
			return err
		case told && a.upToDate(a.fsm.State()):
			return nil
		}
		if err := pause(ctx, seedPause); err != nil {
			return nil //nolint:nilerr // the agent is being stopped
		}
	}
	return nil
}

// describeSelf tells the group how this node is configured now. Any member passes
// it on: a leader that knows only our old address cannot reach us.
func (a *Agent) describeSelf(ctx context.Context) (told bool, err error) {
	own := a.cluster()
	// What it knows of a cluster came through Raft, so it was a member.
	req := api.JoinRequest{Member: a.member(), Cluster: own, Version: a.version, Was: own != ""}
	if a.raft.IsLeader() {
		return a.coord.join(ctx, req).OK, nil
	}
	for _, addr := range a.peers() {
		if done, err := a.askToJoin(ctx, addr, req); done {
			return true, err
		}
	}
	return false, nil
}

// answers says that the member's agent is alive: at its address somebody answers
// with its id.
func (a *Agent) answers(ctx context.Context, m raftfsm.Member) bool {
	ctx, cancel := context.WithTimeout(ctx, statusBound)
	defer cancel()
	p, err := call[api.Ping](ctx, a.client, m.Address, api.PathPing, nil)
	return err == nil && p.Node == m.ID
}

// upToDate says that the group knows this node as it is configured.
func (a *Agent) upToDate(s raftfsm.State) bool {
	m, ok := s.Member(a.id)
	return ok && m == a.member().Noted(m)
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
