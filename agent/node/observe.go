package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"ha/mysqlctl"
	"ha/raftfsm"
)

// observer keeps the last look at mysqld and what was reported of it. Looking
// and reporting are apart: a mysqld that hangs delays no heartbeat.
type observer struct {
	mu       sync.Mutex
	seen     bool // there was a good look at this mysqld
	status   mysqlctl.Status
	at       time.Duration // of the last good look
	err      error         // of the last one
	dumping  bool          // mysqld dumps its core
	accounts []string
	cluster  string
	asleep   int           // scheduled events that are off
	acked    int64         // commits acknowledged so far
	ackedAt  time.Duration // when that last moved, or nothing waited
	noTx     int64         // commits let go when the source was last told to wait; -1: to be read
	recount  time.Duration // looks that began before do not count
	slowAt   time.Duration // accounts and cluster were looked at; 0: never
	stood    string        // the error with which the applier last stood still
	stoodAt  time.Duration // when it was last seen to
	disk     *raftfsm.Problem
	diskAt   time.Duration // when it was first seen
	run      uint64        // counts the mysqlds seen
	seq      uint64
	last     raftfsm.Report
	pushed   time.Duration // the last report was due
	resumed  time.Duration // the agent itself came back from a pause

	next  chan struct{} // closed when the next look is done
	ask   chan struct{}
	slots chan struct{}
	sends sync.WaitGroup
}

func (o *observer) init() {
	o.next = make(chan struct{})
	o.ask = make(chan struct{}, 1)
	o.slots = make(chan struct{}, maxSends)
}

// forget drops what was seen: there is another mysqld, or other data.
func (o *observer) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.run++
	o.seen, o.err, o.dumping, o.slowAt = false, nil, false, 0
	o.accounts, o.cluster = nil, ""
	o.ackedAt, o.noTx = 0, -1
	o.stood = ""
	if o.disk != nil && o.disk.Code == raftfsm.ProblemDiskWait { // that was the other mysqld
		o.disk = nil
	}
}

// countAnew counts the commits that are let go without acks from the next look on.
func (o *observer) countAnew(now time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.noTx, o.recount = -1, now
	o.accounts, o.cluster = nil, ""
}

// refresh has the slow facts looked at again.
func (o *observer) refresh() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.slowAt = 0
}

// look asks for a look that begins now; the channel is closed when it is done.
func (o *observer) look() <-chan struct{} {
	o.mu.Lock()
	done := o.next
	o.mu.Unlock()
	signal(o.ask)
	return done
}

func (n *Node) keepLooking(ctx context.Context) error {
	for {
		select {
		case <-n.obs.ask:
		case <-ctx.Done():
			return ctx.Err()
		}
		n.obs.mu.Lock()
		done := n.obs.next
		n.obs.next = make(chan struct{})
		n.obs.mu.Unlock()
		n.lookAt(ctx)
		close(done)
	}
}

// status reads mysqld's state.
func (n *Node) status(ctx context.Context, d time.Duration) (mysqlctl.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return n.md.Status(ctx)
}

// lookAt looks at mysqld once.
func (n *Node) lookAt(ctx context.Context) {
	if !n.isUp() {
		return
	}
	n.obs.mu.Lock()
	run := n.obs.run
	n.obs.mu.Unlock()
	began := n.clock.Boottime()
	st, err := n.status(ctx, lookTimeout)
	dumping := err != nil && n.md.CoreDumping()

	n.obs.mu.Lock()
	if n.obs.run != run {
		n.obs.mu.Unlock()
		return
	}
	n.obs.err, n.obs.dumping = err, dumping
	now := n.clock.Boottime()
	if err == nil {
		n.obs.seen, n.obs.status, n.obs.at = true, st, now
		if st.Waiting == 0 || st.Source.YesTx != n.obs.acked || n.obs.ackedAt == 0 {
			n.obs.acked, n.obs.ackedAt = st.Source.YesTx, now
		}
		if n.obs.noTx < 0 && began >= n.obs.recount {
			n.obs.noTx = st.Source.NoTx
		}
	}
	slow := err == nil && (n.obs.slowAt == 0 || now-n.obs.slowAt > refreshEvery)
	if slow {
		n.obs.slowAt = now
	}
	n.obs.mu.Unlock()

	if err == nil && !st.SuperReadOnly {
		if n.fence.armed() == 0 {
			n.fence.arm() // whoever opened it: without a lease it is closed
		}
		if st.Replica != nil || st.ReplicaAckWanted {
			signal(n.tidy)
		}
	}
	if slow {
		n.lookSlowly(ctx, run, st)
	}
}

// lookSlowly looks at what rarely changes.
func (n *Node) lookSlowly(ctx context.Context, run uint64, st mysqlctl.Status) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	cluster, clusterErr := n.md.ClusterID(ctx)
	var accounts []string
	var accountsErr, asleepErr error
	asleep := 0
	if !st.SuperReadOnly {
		asleep, asleepErr = n.md.DisabledEvents(ctx)
		if accounts, accountsErr = n.md.ReplicationAccounts(ctx); accountsErr == nil && accounts == nil {
			accounts = []string{}
		}
	}
	n.obs.mu.Lock()
	defer n.obs.mu.Unlock()
	if n.obs.run != run {
		return
	}
	if clusterErr == nil {
		n.obs.cluster = cluster
	}
	if accountsErr == nil {
		n.obs.accounts = accounts
	}
	if asleepErr == nil {
		n.obs.asleep = asleep
	}
}

// keepProbing tries the disk. A disk that hangs holds up nothing but this.
func (n *Node) keepProbing(ctx context.Context) error {
	for sleep(ctx, probeEvery) {
		if !n.isUp() { // the probe's file would make an empty directory a used one
			continue
		}
		limited, cancel := context.WithTimeout(ctx, probeEvery)
		err := n.md.ProbeDisk(limited)
		cancel()
		problem := diskProblem(err)
		n.obs.mu.Lock()
		before := n.obs.disk
		n.obs.disk = problem
		if before == nil {
			n.obs.diskAt = n.clock.Boottime()
		}
		n.obs.mu.Unlock()
		if (before == nil) != (problem == nil) || before != nil && before.Code != problem.Code {
			if problem != nil {
				n.log.Warn("disk of mysqld is not well", "code", problem.Code, "err", err)
			} else {
				n.log.Info("disk of mysqld is well again")
			}
			n.Trigger()
		}
		if problem != nil && problem.Code == raftfsm.ProblemDiskWait {
			n.endWait(ctx)
		}
	}
	return ctx.Err()
}

// waitsLong is how long mysqld may wait for room that it has before it is ended.
const waitsLong = 3 * time.Second

// endWait kills the mysqld of a replica that waits for room on a disk where there is some
// again: it comes up at once and follows, and would do nothing for up to a minute else.
// A primary is the coordinator's.
func (n *Node) endWait(ctx context.Context) {
	n.obs.mu.Lock()
	long := n.clock.Boottime()-n.obs.diskAt >= waitsLong
	n.obs.mu.Unlock()
	if !long || n.reigned() || n.copy.active() {
		return
	}
	select {
	case n.exec.turn <- struct{}{}:
	default: // an order is being carried out
		return
	}
	defer func() { <-n.exec.turn }()
	n.log.Warn("mysqld waits for room that there is: it is started anew")
	if err := n.kill(ctx); err != nil {
		n.log.Warn("mysqld not ended", "err", err)
	}
}

func diskProblem(err error) *raftfsm.Problem {
	code := ""
	switch {
	case errors.Is(err, mysqlctl.ErrDiskFull):
		code = "HA-DISK-FULL"
	case errors.Is(err, mysqlctl.ErrDiskReadOnly):
		code = "HA-READ-ONLY-FS"
	case errors.Is(err, mysqlctl.ErrDiskHung):
		code = "HA-DISK-STALL"
	case errors.Is(err, mysqlctl.ErrDiskWait):
		code = raftfsm.ProblemDiskWait
	default:
		return nil
	}
	return &raftfsm.Problem{Code: code, Text: err.Error()}
}

// keepReporting sends a report each heartbeat, and at once when triggered.
func (n *Node) keepReporting(ctx context.Context) error {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		if n.md != nil {
			wait.Reset(lookWait)
			select {
			case <-n.obs.look():
			case <-wait.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.push(ctx)
		select {
		case <-tick.C:
		case <-n.trigger:
		case <-ctx.Done():
		}
	}
}

// push sends a report without waiting for its answer.
func (n *Node) push(ctx context.Context) {
	select {
	case n.obs.slots <- struct{}{}:
	default:
		return // the next heartbeat tries again
	}
	r, at := n.report()
	if r.Mysqld == raftfsm.MysqldRunning && r.ServerUUID == "" {
		// It was not looked at since it runs, or since this agent does: the report
		// would say that it waits for nobody. Without an answer it hangs soon.
		<-n.obs.slots
		return
	}
	n.obs.sends.Go(func() {
		defer func() { <-n.obs.slots }()
		_, _ = n.send(ctx, r, at)
	})
}

// send sends a report and applies the grant that answers it.
func (n *Node) send(ctx context.Context, r raftfsm.Report, at time.Duration) (raftfsm.Grant, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	g, err := n.cfg.Send(ctx, r)
	if err != nil {
		return g, err
	}
	n.take(g, at)
	return g, nil
}

// Report is the last report that was made.
func (n *Node) Report() raftfsm.Report {
	n.obs.mu.Lock()
	defer n.obs.mu.Unlock()
	return n.obs.last
}

// report makes a report; the time is that from which its grant counts.
func (n *Node) report() (raftfsm.Report, time.Duration) {
	r := raftfsm.Report{Node: n.cfg.ID, Run: n.id, AgentVersion: n.cfg.Version, Mysqld: raftfsm.MysqldNone,
		Token: n.tokens.Now().Token, LeaseEpoch: n.lease.held(), Rebuild: n.copy.report()}
	if n.cfg.LastIndex != nil {
		r.LastIndex = n.cfg.LastIndex()
	}
	if n.cfg.Problems != nil {
		r.Problems = n.cfg.Problems()
	}
	if n.cfg.Archived != nil {
		r.Archived = n.cfg.Archived()
	}
	if n.cfg.VIPs != nil {
		r.VIPs = n.cfg.VIPs()
	}
	if n.cfg.Engines != nil {
		r.Engines = n.cfg.Engines()
	}
	r.Giving = n.cfg.Giving != nil && n.cfg.Giving()
	n.room.fill(&r)
	var stateErr error
	var upSince time.Duration
	if n.md != nil {
		r.Mysqld, stateErr = n.mysqldState()
		n.sup.mu.Lock()
		upSince = n.sup.upSince
		n.sup.mu.Unlock()
	}
	o := &n.obs
	o.mu.Lock()
	defer o.mu.Unlock()
	now := n.clock.Boottime()
	if o.pushed != 0 && now-o.pushed > pausedAfter {
		o.resumed = now
	}
	o.pushed = now
	o.seq++
	r.Seq = o.seq
	if r.Mysqld == raftfsm.MysqldHung { // since it was found
		r.HungFor = now - max(upSince, o.resumed)
	}
	if r.Mysqld == raftfsm.MysqldRunning {
		if silent := now - max(o.at, upSince, o.resumed); silent > lookTimeout {
			r.Mysqld, r.HungFor = raftfsm.MysqldHung, silent
		}
		stateErr = o.err
		if o.dumping {
			r.Mysqld, r.HungFor, stateErr = raftfsm.MysqldDown, 0, errors.New("mysqld crashed and is dumping its core")
		}
	}
	if stateErr != nil && r.Mysqld != raftfsm.MysqldRunning {
		r.MysqldErr = stateErr.Error()
	}
	if o.seen {
		fill(&r, &o.status)
		if o.status.NoClone && r.Mysqld == raftfsm.MysqldRunning {
			r.Engines = append(slices.Clip(r.Engines), raftfsm.EngineReport{Engine: raftfsm.EngineClone, No: "its clone plugin is not active"})
		}
		r.WaitingFor = min(r.WaitingFor, now-max(o.ackedAt, o.resumed))
		if let := o.status.Source.NoTx - o.noTx; o.noTx >= 0 && let > 0 && r.SourceOn {
			r.Unacked = uint64(let)
		}
		o.remember(r.Replica, now)
	}
	r.ClusterOnDisk = o.cluster
	if !r.SuperReadOnly && o.seen {
		r.Accounts, r.SleepingEvents = o.accounts, o.asleep
	}
	if o.disk != nil {
		problem := *o.disk
		problem.For = now - max(o.diskAt, o.resumed)
		r.Problems = append(slices.Clip(r.Problems), problem)
	}
	o.last = r
	return r, now
}

// standsAgain is how soon an applier that is started after an error meets it again, at
// the longest.
const standsAgain = 5 * time.Second

// remember keeps telling an applier's error while it is not known whether that is over:
// each START makes it run for a moment.
func (o *observer) remember(c *raftfsm.ReplicaReport, now time.Duration) {
	switch {
	case c == nil:
		o.stood = ""
	case c.SQLError != "":
		o.stood, o.stoodAt = c.SQLError, now
	case now-o.stoodAt < standsAgain:
		c.SQLError = o.stood
	default:
		o.stood = ""
	}
}

// fill copies a status into a report.
func fill(r *raftfsm.Report, st *mysqlctl.Status) {
	r.Version, r.ServerUUID = st.Version, st.ServerUUID
	r.ReadOnly, r.SuperReadOnly = st.ReadOnly, st.SuperReadOnly
	r.Executed, r.Received = st.Executed, st.Received
	r.SourceOn, r.WaitFor, r.NoTx = st.Source.On, st.Source.WaitForCount, uint64(max(st.Source.NoTx, 0))
	r.Waiting, r.WaitingFor = st.Waiting, st.WaitingFor
	for _, p := range st.Problems {
		if p.Code == "HA-SYNC-RELAY" && !st.ReplicaAckWanted {
			continue // a receiver that does not acknowledge may be lazy; mysqlctl makes it so
		}
		r.Problems = append(r.Problems, raftfsm.Problem{Code: p.Code, Text: p.Text})
	}
	r.Attached, r.Dumps = dumps(st)
	c := st.Replica
	if c == nil {
		return
	}
	r.Replica = &raftfsm.ReplicaReport{
		SourceHost: c.SourceHost, SourcePort: c.SourcePort, SourceUUID: c.SourceUUID,
		IORunning: c.IOState == "Yes", IOWanted: c.IOState != "No", SQLRunning: c.SQLState == "Yes",
		IOError: c.IOError.Text, SQLError: c.SQLError.Text,
		Silence: c.HeartbeatAge, Lag: max(c.Lag, 0), Ack: st.ReplicaAck, AckWanted: st.ReplicaAckWanted,
	}
	if c.HeartbeatAge < 0 {
		r.Replica.Silence = never
	}
}

// never is the silence of a source that never said anything.
const never = 365 * 24 * time.Hour

// dumps gives the server_uuids of the attached semi-sync replicas, and of all.
func dumps(st *mysqlctl.Status) (acking, all []string) {
	for _, d := range st.DumpThreads {
		all = append(all, d.ReplicaUUID)
		if d.SemiSync {
			acking = append(acking, d.ReplicaUUID)
		}
	}
	slices.Sort(acking)
	slices.Sort(all)
	return slices.Compact(acking), slices.Compact(all)
}
