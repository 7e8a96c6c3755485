// Package agent runs one node: it observes its mysqld, leads when its Raft node
// is elected, executes orders, fences itself and serves the API.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"ha/agent/api"
	"ha/agent/archive"
	"ha/agent/backup"
	"ha/agent/engine"
	"ha/agent/hook"
	"ha/agent/node"
	"ha/agent/purge"
	"ha/agent/raftnode"
	"ha/agent/wire"
	"ha/gossip"
	"ha/raftfsm"
	"ha/vip"
)

// nodeSide is what an agent does to its own mysqld, or, for a witness, does not.
type nodeSide interface {
	Run(ctx context.Context) error
	Execute(ctx context.Context, o raftfsm.Order) raftfsm.Answer
	Report() raftfsm.Report
	Reigns() bool
	Trigger()
	EndForGood(ctx context.Context) error
	Close() error
}

// Agent is one node's daemon. Build it with New, run it once with Run.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	version string
	id      raftfsm.NodeID
	outside outside

	wire    *wire.Server
	client  *http.Client
	streams *http.Client // for copies
	raft    *raftnode.Node
	fsm     *fsm
	gossip  atomic.Pointer[gossip.Gossip]
	coord   *coordinator
	node    atomic.Pointer[nodeSide]
	donor   atomic.Pointer[backup.Donor] // nil: no mysqld, or not yet
	copier  atomic.Pointer[engine.Donor] // likewise
	// engines are the tools of this host; nil: not known yet.
	engines atomic.Pointer[[]raftfsm.EngineReport]
	// outsideData is the option by which data lie outside of their directory.
	outsideData atomic.Pointer[string]
	// archive is nil where no binary logs are archived, or not yet.
	archive atomic.Pointer[archive.Archive]
	purger  atomic.Pointer[purge.Purger] // nil: no mysqld, or not yet
	vip     *vip.Manager                 // nil: no virtual IPs
	// unserved are the virtual IPs that mysqld does not listen on.
	unserved atomic.Pointer[[]raftfsm.Problem]
	hooks    *hook.Runner // nil: there are none
	notes    chan string
	fatal    chan error
	// removed: the cluster has forgotten this node.
	removed atomic.Bool

	// Step, if set before Run, is called between the steps of what an agent does:
	// "committed KIND" and "sending OP", "answered OP" where it coordinates,
	// "stored OP" and "done OP" where it carries out. Tests die there.
	Step func(step string)
	// Whisper, if set before Run, is asked before gossip opens a stream to a peer: an
	// error is that of the stream. Tests have peers called dead so.
	Whisper func() error
}

// New checks the configuration and reads the secret; it starts nothing. Errors
// carry an exit code.
func New(cfg Config, log *slog.Logger, version string) (*Agent, error) {
	cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := cfg.ReadSecret(); err != nil {
		return nil, err
	}
	return &Agent{cfg: cfg, log: log, version: version, outside: host(log), fsm: newFSM(), fatal: make(chan error, 1), notes: make(chan string, maxNotes)}, nil
}

// stopBound is how long each part may take to stop.
const stopBound = 3 * time.Second

// Run starts the agent and returns when ctx ends (nil) or it cannot go on (an
// error with an exit code). mysqld is left running: it outlives its agent.
func (a *Agent) Run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var undo []func()
	defer func() {
		cancel()
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}()

	if err := a.openVIP(); err != nil {
		return err
	}
	if a.vip != nil {
		undo = append(undo, a.vip.Close)
	}
	for _, dir := range []string{a.cfg.DataDir, a.cfg.RuntimeDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return api.Failed("make directory: %w", err)
		}
	}
	id, fresh, err := raftnode.LoadOrCreateID(a.cfg.DataDir)
	if err != nil {
		return ownDirError("node id", err)
	}
	a.id = raftfsm.NodeID(id)
	if err := openStored(a.cfg.DataDir, fresh); err != nil {
		return err
	}
	identity, err := wire.NewIdentity(wire.DeriveKeys(a.cfg.Secret), id)
	if err != nil {
		return api.Failed("certificate: %w", err)
	}
	identity.Network = a.outside.network
	a.client, a.streams = wire.HTTPClient(identity), wire.StreamClient(identity)
	a.wire, err = wire.Listen(ctx, a.cfg.Listen, identity, a.log)
	if errors.Is(err, syscall.EADDRINUSE) {
		return api.Failed("%w", err).WithHint("another agent, or another program, has this port: stop it, or give this agent another --listen")
	}
	if err != nil {
		return api.Failed("listen: %w", err)
	}
	undo = append(undo, func() { _ = a.wire.Close() })

	a.raft, err = raftnode.Open(raftnode.Config{Dir: a.cfg.DataDir, ID: id, Addr: a.cfg.Advertise, FSM: a.fsm,
		Listener: a.wire.Raft(), Logger: a.log, Resolve: a.addressOf, Fatal: a.fail, Marks: a.raftMarks(id),
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			return wire.Dial(ctx, addr, wire.ProtoRaft, identity)
		}})
	if err != nil {
		return raftError(err)
	}
	undo = append(undo, func() { a.bounded(a.raft.Shutdown) })
	a.coord = a.newCoordinator()
	a.openHooks()

	undo = append(undo, a.serveLocal())
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.wire.Serve(a.handler()) })
	group.Go(func() error { a.coordinate(gctx); return nil })
	group.Go(func() error { a.leaveFullDisk(gctx); return nil })
	group.Go(func() error { a.watchRemoval(gctx); return nil })
	group.Go(func() error { a.keepNoting(gctx); return nil })
	group.Go(func() error { return a.runVIP(gctx) })
	group.Go(func() error { return a.runHooks(gctx) })
	group.Go(func() error { a.watchServed(gctx); return nil })
	group.Go(func() error { return a.watchFatal(gctx) })
	group.Go(func() error { return a.beMember(gctx, identity, fresh) })
	group.Go(func() error { // the port closes first: nobody waits for answers that cannot come
		<-gctx.Done()
		return a.wire.Close()
	})
	if err = group.Wait(); errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// openStored makes a new node's token file, and refuses to go on without an old
// one's: an agent that forgot the orders it obeyed would obey old ones again.
func openStored(dir string, fresh bool) error {
	if _, err := os.Stat(filepath.Join(dir, node.TokenFile)); !fresh && errors.Is(err, fs.ErrNotExist) {
		return api.Refused("HA-TORN", "%s has a node id but no token file: part of it was lost", dir).
			WithHint("empty it and start the agent with --join: it comes back as a new node under its old name")
	}
	t, err := node.OpenTokens(dir)
	if err != nil {
		return ownDirError("token file", err)
	}
	return t.Close()
}

// watchFatal ends the agent for a reason that came up elsewhere.
func (a *Agent) watchFatal(ctx context.Context) error {
	select {
	case err := <-a.fatal:
		return err
	case <-ctx.Done():
		return nil
	}
}

// beMember forms or joins the cluster and then runs the node side.
func (a *Agent) beMember(ctx context.Context, identity *wire.Identity, fresh bool) error {
	if err := a.form(ctx, fresh); err != nil {
		return err
	}
	stop, err := a.startGossip(identity)
	if err != nil {
		return err
	}
	defer stop()
	return a.serveNode(ctx)
}

func (a *Agent) bounded(stop func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), stopBound)
	defer cancel()
	if err := stop(ctx); err != nil {
		a.log.Debug("stop", "err", err)
	}
}

// fail ends the agent: its node would block the group.
func (a *Agent) fail(reason error) {
	select {
	case a.fatal <- raftError(reason):
	default:
	}
}

// form makes this node a member of a cluster: the one its data dir names, a new
// one (no --join), or the seeds'.
func (a *Agent) form(ctx context.Context, fresh bool) error {
	switch {
	case a.raft.HasState() && (len(a.cfg.Join) > 0 || a.cluster() != ""):
		go func() { // the group goes on meanwhile
			if err := a.resume(ctx); err != nil {
				select {
				case a.fatal <- err:
				default:
				}
			}
		}()
		return nil
	case len(a.cfg.Join) == 0:
		return a.found(ctx)
	}
	if fresh {
		a.log.Info("joining", "seeds", a.cfg.Join)
	}
	return a.join(ctx)
}

// startGossip begins to say who we are; the members and seeds are asked for the
// others.
func (a *Agent) startGossip(identity *wire.Identity) (stop func(), err error) {
	addr, err := net.ResolveUDPAddr("udp", a.cfg.Advertise)
	if err != nil {
		return nil, api.Failed("advertise address %s: %w", a.cfg.Advertise, err)
	}
	meta := gossip.Meta{ID: string(a.id), Name: a.cfg.Name, Addr: a.cfg.Advertise, Cluster: a.cluster(), Version: a.version, Witness: a.cfg.Witness, MACs: a.macs()}
	g, err := gossip.Start(gossip.Config{Meta: meta, Advertise: unmapped(addr.AddrPort()), Packets: a.wire.Packets(), Streams: a.wire.Gossip(),
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			if a.Whisper != nil {
				if err := a.Whisper(); err != nil {
					return nil, err
				}
			}
			return wire.Dial(ctx, addr, wire.ProtoGossip, identity)
		},
		Key: wire.DeriveKeys(a.cfg.Secret).GossipKey(), Seeds: a.peers, Logger: a.log})
	if err != nil {
		return nil, api.Failed("gossip: %w", err)
	}
	a.gossip.Store(g)
	return func() {
		if err := g.Stop(); err != nil {
			a.log.Debug("stop gossip", "err", err)
		}
	}, nil
}

func unmapped(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// peers are the addresses of the other agents: members first, then seeds.
func (a *Agent) peers() []string {
	var out []string
	seen := map[string]bool{a.cfg.Advertise: true}
	s := a.fsm.State()
	for _, m := range s.Members {
		if !seen[m.Address] {
			seen[m.Address] = true
			out = append(out, m.Address)
		}
	}
	for _, addr := range a.seeds() {
		if !seen[addr] {
			out = append(out, addr)
		}
	}
	return out
}

// newCoordinator wires a coordinator to Raft and to the orders' way out.
func (a *Agent) newCoordinator() *coordinator {
	return &coordinator{self: a.id, fsm: a.fsm, raft: a.raft, servers: a.raftServers, change: a.changeVoters,
		order: a.sendOrder, answers: a.answers, log: a.log, now: time.Now, kick: make(chan struct{}, 1), at: a.Step}
}

// coordinate coordinates whenever this node leads.
func (a *Agent) coordinate(ctx context.Context) {
	var wg sync.WaitGroup
	stop := func() {}
	defer func() { stop(); wg.Wait() }()
	for {
		select {
		case <-ctx.Done():
			return
		case leading := <-a.raft.Leadership():
			stop()
			wg.Wait() // one coordinator at a time
			if !leading {
				continue
			}
			lctx, cancel := context.WithCancel(ctx)
			stop = cancel
			wg.Add(1)
			go func() {
				defer wg.Done()
				for lctx.Err() == nil && a.raft.IsLeader() {
					a.coord.lead(lctx)
					_ = pause(lctx, 100*time.Millisecond) // the barrier failed; still the leader
				}
			}()
		}
	}
}

func (a *Agent) raftServers() []raftfsm.RaftServer {
	var out []raftfsm.RaftServer
	for _, s := range a.raft.Servers() {
		out = append(out, raftfsm.RaftServer{ID: raftfsm.NodeID(s.ID), Voter: s.Voter})
	}
	return out
}

// changeVoters carries out one change of the Raft configuration.
func (a *Agent) changeVoters(ctx context.Context, ch raftfsm.VoterChange, s raftfsm.State) error {
	m, _ := s.Member(ch.Node)
	switch ch.Kind {
	case raftfsm.VoterAdd:
		return a.raft.AddNonvoter(ctx, string(ch.Node), m.Address)
	case raftfsm.VoterPromote:
		return a.raft.Promote(ctx, string(ch.Node), m.Address)
	case raftfsm.VoterDemote:
		return a.raft.Demote(ctx, string(ch.Node))
	case raftfsm.VoterRemove:
		return a.raft.Remove(ctx, string(ch.Node))
	}
	return fmt.Errorf("unknown change %q", ch.Kind)
}

// serveLocal serves the unix socket for the command line on this host.
func (a *Agent) serveLocal() (stop func()) {
	path := localSocket(a.cfg.RuntimeDir, string(a.id))
	_ = os.Remove(path) // of an earlier run; the port is ours, so that one is gone
	l, err := a.outside.local(path)
	if err != nil {
		a.log.Warn("no local socket", "path", path, "err", err)
		return func() {}
	}
	srv := &http.Server{Handler: a.local(), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = srv.Serve(l) }()
	return func() { _ = srv.Close() }
}
