// Package node does everything that one agent does to its own mysqld: it watches
// it and reports, carries out orders, holds the lease and fences, starts mysqld
// again, and copies its data anew.
//
// It acts on orders and grants only, never on the agent's copy of the replicated
// state. What must survive the agent lies in two small files: the token of the
// last order, and the deadline of the lease.
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
	"ha/xtra"
)

const (
	// heartbeat is how often a report is sent when nothing happens.
	heartbeat = 200 * time.Millisecond
	// lookWait is how long a report waits for a look at mysqld that was just
	// begun: 2 ms is usual, and the heartbeat must not wait for a slow one.
	lookWait = 50 * time.Millisecond
	// lookTimeout ends a look; mysqld is called hung when none has succeeded
	// for that long.
	lookTimeout = time.Second
	// pausedAfter: reports further apart than that mean that this agent was
	// stopped or starved itself, and blames nobody for the time between.
	pausedAfter = 3 * heartbeat
	// sendTimeout must be longer than a bad network's round trip.
	sendTimeout = 2 * time.Second
	// maxSends may be under way at once: a dead coordinator must not keep the
	// next one from being told.
	maxSends = 4
	// refreshEvery is how often slow facts are looked at.
	refreshEvery = 10 * time.Second
	// probeEvery is how often the disk is tried.
	probeEvery = time.Second
)

// Config is what a node is made from.
type Config struct {
	ID      raftfsm.NodeID
	Version string // of the agent
	// DataDir holds the token file, RuntimeDir the lease.
	DataDir, RuntimeDir string

	// Mysqld is nil for a witness. MysqlDir is its data directory.
	Mysqld   Mysqld
	MysqlDir string
	// Scratch makes a throw-away server on an empty data directory, to copy
	// with when the node's own does not start; nil: that is not possible. The
	// server must not listen where the own one does.
	Scratch func(dataDir string) Mysqld
	// Engines tells of the tools that copies can be made with here. Stream makes the
	// copy that an order asks for with one in dir, which does not exist but whose
	// parent does, and has mysqld on it know which transactions are in it; a server that
	// it starts for that is as Scratch's. The stage of its progress is "verify" when
	// nothing more comes from the donor. nil: only CLONE makes copies.
	Engines func() []raftfsm.EngineReport
	Stream  func(ctx context.Context, o raftfsm.Order, dir string, progress func(mysqlctl.CloneProgress)) error
	// AwaitArchived, if set, waits until an archive of binary logs holds that set, or
	// will not: a copy has none of them.
	AwaitArchived func(ctx context.Context, set gtid.Set)
	// Giving, if set, says that the data are being copied for a backup.
	Giving func() bool
	// NoCopy, if set, says why no copy can be put in the place of the data, beyond what
	// the node sees by itself; "": it can.
	NoCopy func() string
	// StartTimeout bounds a start of mysqld, crash recovery included. Default
	// 10 minutes.
	StartTimeout time.Duration

	// Cluster is the id of the cluster, LastIndex the node's last Raft index.
	Cluster   func() string
	LastIndex func() uint64
	// Problems, if set, are those of the agent itself: they go into each report.
	Problems func() []raftfsm.Problem
	// Archived, if set, is the report's.
	Archived func() time.Time
	// Send gives a report to the coordinator and returns its grant. It is
	// called from several goroutines.
	Send func(context.Context, raftfsm.Report) (raftfsm.Grant, error)
	// Opened and Closed, if set, are called when the node begins and ceases to
	// serve as primary: for the VIP. Opened gets the epoch and the end of the lease
	// on the boottime clock, and is called again with each grant. They must return
	// at once. Where Closed is called with succession the server is read-only or
	// gone, and the group may be about to have another one: until that is there,
	// clients are better refused here than not answered at all.
	// Closed is called at the start as well, if the node does not serve then.
	Opened func(epoch uint64, until time.Duration)
	Closed func(succession bool)
	// Reader, if set, is called with the time until which this node may hold the
	// address of the readers; 0: it may not. It must return at once.
	Reader func(until time.Duration)
	// VIPs, if set, are the virtual IPs for the reports.
	VIPs func() []raftfsm.VIPReport

	// Step, if set, is called when an order's token is stored ("stored OP") and
	// when it was carried out ("done OP"): tests die there.
	Step func(step string)

	Clock Clock // default SystemClock
	Log   *slog.Logger
}

// Node is one agent's hold on its mysqld.
type Node struct {
	cfg    Config
	log    *slog.Logger
	clock  Clock
	md     Mysqld
	place  xtra.Place
	tokens *Tokens
	lease  *lease

	exec  executor
	sup   supervisor
	obs   observer
	fence fencer
	read  reader
	copy  rebuilder
	room  room

	trigger chan struct{} // send a report now
	tidy    chan struct{} // there is something to tidy up

	id  string // of this run of the agent; random
	mu  sync.Mutex
	run context.Context // of Run; nil before
}

// New opens the token file and the lease. Nothing is done to mysqld before Run.
func New(cfg Config) (*Node, error) {
	if cfg.Clock == nil {
		cfg.Clock = SystemClock{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Step == nil {
		cfg.Step = func(string) {}
	}
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = 10 * time.Minute
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, log: cfg.Log, clock: cfg.Clock, md: cfg.Mysqld,
		place:   xtra.Place{DataDir: cfg.MysqlDir},
		id:      rand.Text(),
		trigger: make(chan struct{}, 1),
		tidy:    make(chan struct{}, 1),
	}
	if n.tokens, err = OpenTokens(cfg.DataDir); err != nil {
		return nil, err
	}
	if n.lease, err = openLease(cfg.RuntimeDir, cfg.ID, boot, n.clock); err != nil {
		return nil, errors.Join(err, n.tokens.Close())
	}
	n.exec.turn = make(chan struct{}, 1)
	n.exec.ctx, n.exec.cancel = context.WithCancelCause(context.Background())
	n.sup.init()
	n.obs.init()
	n.fence.init()
	return n, nil
}

// Close closes the files. Run must have returned.
func (n *Node) Close() error { return errors.Join(n.tokens.Close(), n.lease.close()) }

// Stored is what the node keeps of the orders it was given.
func (n *Node) Stored() Stored { return n.tokens.Now() }

// Run takes mysqld over, or starts it, and looks after it until ctx ends. mysqld
// goes on running then. The start-up fence comes before anything else.
func (n *Node) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if n.md != nil {
		n.takeOver(ctx)
		group.Go(func() error { return n.supervise(ctx) })
		group.Go(func() error { return n.keepFenced(ctx) })
		group.Go(func() error { return n.keepLooking(ctx) })
		group.Go(func() error { return n.keepProbing(ctx) })
		group.Go(func() error { return n.keepTidy(ctx) })
		group.Go(func() error { return n.keepHouse(ctx) })
	}
	n.mu.Lock()
	n.run = ctx
	n.mu.Unlock()
	group.Go(func() error { return n.keepReporting(ctx) })
	err := group.Wait()
	n.mu.Lock()
	n.run = nil
	n.mu.Unlock()
	n.obs.sends.Wait()
	_ = n.copy.stop(context.Background())
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// running gives the context of Run, nil if it does not run.
func (n *Node) running() context.Context {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run
}

// Trigger sends a report at once.
func (n *Node) Trigger() { signal(n.trigger) }

// signal wakes the reader of a channel of capacity one.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
