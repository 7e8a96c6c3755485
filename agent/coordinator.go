package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"ha/agent/api"
	"ha/raftfsm"
)

const (
	// tickEvery is how often time alone is looked at while leading.
	tickEvery = 100 * time.Millisecond
	// votersEvery is how often the Raft configuration is looked at.
	votersEvery = time.Second
	commitBound = 5 * time.Second
	// proofLasts is how long a commit or a verification proves leadership well
	// enough to give orders: agents check the token anyway.
	proofLasts = 500 * time.Millisecond
)

// group is what a coordinator needs of Raft.
type group interface {
	Apply(ctx context.Context, cmd []byte) (index uint64, resp any, err error)
	Barrier(ctx context.Context) error
	VerifyLeader(ctx context.Context) error
	LastIndex() uint64
	TransferLeadership(ctx context.Context, id, addr string) error
}

// coordinator turns what is seen into decisions while this node leads the Raft
// group: gather, decide, commit, order, again.
type coordinator struct {
	self    raftfsm.NodeID
	fsm     *fsm
	raft    group
	servers func() []raftfsm.RaftServer
	change  func(context.Context, raftfsm.VoterChange, raftfsm.State) error
	order   func(context.Context, raftfsm.Order) (raftfsm.Answer, error)
	answers func(context.Context, raftfsm.Member) bool // its agent, when asked who it is
	log     *slog.Logger
	now     func() time.Time
	at      func(step string) // nil but in tests

	kick chan struct{}

	mu      sync.Mutex
	board   *raftfsm.Board // nil while this node does not lead
	began   time.Time      // zero of the board's clock
	doing   string
	proven  time.Time // when leadership was last proven
	orderWG sync.WaitGroup
}

// lead coordinates until ctx ends (leadership lost, or the agent stops).
func (c *coordinator) lead(ctx context.Context) {
	bctx, cancel := context.WithTimeout(ctx, commitBound)
	err := c.raft.Barrier(bctx) // State holds all that was committed before us
	cancel()
	if err != nil {
		c.log.Warn("cannot coordinate yet", "op", "barrier", "err", err)
		return
	}
	c.mu.Lock()
	c.began = c.now()
	c.board, c.proven, c.doing = raftfsm.NewBoard(c.self, 0), c.began, ""
	c.mu.Unlock()
	c.log.Info("coordinating")
	ctx, cancel = context.WithCancel(ctx)
	defer func() {
		cancel()
		c.orderWG.Wait()
		c.mu.Lock()
		c.board = nil
		c.mu.Unlock()
		c.log.Info("no longer coordinating")
	}()
	timer := time.NewTimer(tickEvery)
	defer timer.Stop()
	var votersAt time.Time
	for {
		again, recheck := c.step(ctx)
		if now := c.now(); now.Sub(votersAt) >= votersEvery {
			if !c.voters(ctx) { // else look again at the next tick
				votersAt = now
			}
		}
		if again {
			continue
		}
		if recheck > 0 {
			timer.Reset(min(recheck, tickEvery))
		}
		select {
		case <-ctx.Done():
			return
		case <-c.kick:
		case <-timer.C:
		}
		timer.Reset(tickEvery)
	}
}

// wake makes the coordinator look again.
func (c *coordinator) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// look gives the state and the view of it.
func (c *coordinator) look() (raftfsm.State, raftfsm.View, bool) {
	s := c.fsm.State()
	servers := c.servers()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.board == nil {
		return s, raftfsm.View{}, false
	}
	c.board.Tick(c.now().Sub(c.began))
	v := c.board.View(&s, servers)
	for i := range v.Nodes {
		if hasFullRaftDisk(v.Nodes[i].Report) {
			v.Nodes[i].Voter = false // a vote, but nobody to hand coordination to
		}
	}
	return s, v, true
}

// step decides once and does what was decided. It says whether to decide again
// at once, because something was committed, or when time may change the decision.
func (c *coordinator) step(ctx context.Context) (again bool, recheck time.Duration) {
	s, v, ok := c.look()
	if !ok || ctx.Err() != nil {
		return false, 0
	}
	d := raftfsm.Decide(s, v)
	c.say(s, d.Why)
	if len(d.Commit) > 0 {
		return c.commit(ctx, d.Commit), 0
	}
	if len(d.Do) > 0 && c.prove(ctx) {
		for _, o := range d.Do {
			c.send(ctx, o)
		}
	}
	if d.Handover != "" {
		c.handover(ctx, s, d.Handover, "this is the primary's host")
	}
	return false, d.Recheck
}

// commit commits commands in order until one cannot be, or is dropped. It says
// whether to decide again.
func (c *coordinator) commit(ctx context.Context, cmds []raftfsm.Command) bool {
	for _, cmd := range cmds {
		_, dropped, err := c.apply(ctx, cmd)
		if err != nil {
			if ctx.Err() == nil {
				c.log.Warn("not committed", "cmd", cmd.Kind, "err", err)
			}
			return false
		}
		if dropped != "" {
			return true
		}
	}
	return true
}

// apply commits one command; dropped says why it changed nothing. After an error
// it may be committed yet.
func (c *coordinator) apply(ctx context.Context, cmd raftfsm.Command) (index uint64, dropped string, err error) {
	began := c.now()
	cmd.At = began.UnixMilli()
	cctx, cancel := context.WithTimeout(ctx, commitBound)
	defer cancel()
	index, resp, err := c.raft.Apply(cctx, cmd.Encode())
	if err != nil {
		return 0, "", err
	}
	c.mu.Lock()
	c.proven = began
	if cmd.Kind == raftfsm.CmdCheckpoint && c.board != nil {
		c.board.Checkpointed(cmd.Checkpoints)
	}
	c.mu.Unlock()
	c.reached("committed " + string(cmd.Kind))
	if r, _ := resp.(raftfsm.Result); r.Dropped != "" {
		c.log.Debug("dropped", "cmd", cmd.Kind, "index", index, "why", r.Dropped)
		return index, r.Dropped, nil
	}
	c.announce(cmd, index)
	return index, "", nil
}

func (c *coordinator) reached(step string) {
	if c.at != nil {
		c.at(step)
	}
}

// announce logs what changed: a person reads these lines.
func (c *coordinator) announce(cmd raftfsm.Command, index uint64) {
	s := c.fsm.State()
	at := []any{"epoch", s.Epoch, "index", index}
	switch cmd.Kind {
	case raftfsm.CmdRevoke:
		c.log.Info("closing the epoch", append(at, "why", cmd.Why)...)
	case raftfsm.CmdPromote:
		c.log.Info("promoting", append(at, "primary", s.Name(cmd.Primary), "acks", cmd.K)...)
	case raftfsm.CmdSettle:
		c.log.Info("primary settled", append(at, "primary", s.Name(s.Primary))...)
	case raftfsm.CmdAcks:
		c.log.Info("ack set changed", append(at, "acks", s.K, "ackers", ackNames(&s), "why", cmd.Why)...)
	case raftfsm.CmdRebuild:
		c.log.Info("rebuild granted", append(at, "recipient", s.Name(cmd.Rebuild.Recipient), "donor", s.Name(cmd.Rebuild.Donor), "why", cmd.Rebuild.Why)...)
	case raftfsm.CmdRebuildEnd:
		c.log.Info("rebuild ended", append(at, "recipient", s.Name(cmd.Node), "err", cmd.Why)...)
	case raftfsm.CmdRequest, raftfsm.CmdResume, raftfsm.CmdPolicy, raftfsm.CmdRemoveMember:
		if n := len(s.Events); n > 0 && s.Events[n-1].Index == index {
			c.log.Info("event", append(at, "what", s.Events[n-1].Text)...)
		}
	case raftfsm.CmdMember:
		c.log.Info("member", append(at, "name", cmd.Member.Name, "address", cmd.Member.Address)...)
	}
}

func ackNames(s *raftfsm.State) []string {
	var out []string
	for _, a := range s.Ackers {
		out = append(out, s.Name(a.Node))
	}
	return out
}

// say keeps what the coordinator is doing for status.
func (c *coordinator) say(s raftfsm.State, why string) {
	c.mu.Lock()
	changed := why != c.doing
	c.doing = why
	c.mu.Unlock()
	if changed && why != "" {
		c.log.Debug("waiting", "epoch", s.Epoch, "phase", s.Phase, "why", why)
	}
}

// prove makes sure that this node still leads, before it gives orders.
func (c *coordinator) prove(ctx context.Context) bool {
	c.mu.Lock()
	at := c.proven
	c.mu.Unlock()
	if c.now().Sub(at) < proofLasts {
		return true
	}
	return c.verify(ctx) == nil
}

func (c *coordinator) verify(ctx context.Context) error {
	began := c.now()
	vctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := c.raft.VerifyLeader(vctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if began.After(c.proven) {
		c.proven = began
	}
	return nil
}

// send gives an order and notes its answer when it comes.
func (c *coordinator) send(ctx context.Context, o raftfsm.Order) {
	bound := raftfsm.OrderBound(o.Op)
	c.mu.Lock()
	if c.board == nil {
		c.mu.Unlock()
		return
	}
	c.board.Sent(o)
	c.mu.Unlock()
	c.log.Debug("order", "op", o.Op, "to", o.To, "token", o.Token.String())
	c.reached("sending " + string(o.Op))
	c.orderWG.Add(1)
	go func() {
		defer c.orderWG.Done()
		octx, cancel := context.WithTimeout(ctx, bound)
		defer cancel()
		began := c.now()
		a, err := c.order(octx, o)
		if err != nil {
			a = raftfsm.Answer{Token: o.Token, Op: o.Op, Code: raftfsm.CodeUnreachable, Err: err.Error()}
		}
		took := c.now().Sub(began)
		c.reached("answered " + string(o.Op))
		c.log.Debug("answer", "op", o.Op, "to", o.To, "token", o.Token.String(), "ok", a.OK, "code", a.Code, "err", a.Err, "took", took)
		c.mu.Lock()
		if c.board != nil {
			c.board.Tick(c.now().Sub(c.began))
			c.board.Answered(o, a)
		}
		c.mu.Unlock()
		c.wake()
	}()
}

func (c *coordinator) handover(ctx context.Context, s raftfsm.State, to raftfsm.NodeID, why string) {
	m, ok := s.Member(to)
	if !ok {
		return
	}
	hctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c.log.Info("handing coordination over", "to", m.Name, "why", why)
	if err := c.raft.TransferLeadership(hctx, string(to), m.Address); err != nil && ctx.Err() == nil {
		c.log.Warn("coordination not handed over", "to", m.Name, "err", err)
	}
}

// voters makes one step towards the wanted Raft configuration; false: it is as
// wanted, or cannot be changed now.
func (c *coordinator) voters(ctx context.Context) bool {
	s, v, ok := c.look()
	if !ok || s.Cluster == "" {
		return false
	}
	if _, member := s.Member(c.self); !member {
		c.standAside(ctx)
		return false
	}
	ch, ok := raftfsm.DecideVoters(s, v, c.servers(), c.raft.LastIndex())
	if !ok {
		return false
	}
	cctx, cancel := context.WithTimeout(ctx, commitBound)
	defer cancel()
	c.log.Info("Raft configuration", "op", ch.Kind, "node", s.Name(ch.Node))
	if err := c.change(cctx, ch, s); err != nil {
		if ctx.Err() == nil {
			c.log.Warn("Raft configuration not changed", "op", ch.Kind, "node", s.Name(ch.Node), "err", err)
		}
		return false
	}
	return true
}

var errNotCoordinator = errors.New("not the coordinator")

// report takes a node's report and gives the lease that it earns.
func (c *coordinator) report(ctx context.Context, r *raftfsm.Report) (raftfsm.Grant, error) {
	c.mu.Lock()
	if c.board == nil {
		c.mu.Unlock()
		return raftfsm.Grant{}, errNotCoordinator
	}
	c.board.Tick(c.now().Sub(c.began))
	news := false
	if !r.GrantOnly {
		news = notable(c.board.Reported(r), r)
	}
	c.mu.Unlock()
	if news {
		c.wake()
	}
	s := c.fsm.State()
	g := raftfsm.GrantFor(&s, r.Node)
	if g.Lease == 0 {
		g.Reader = c.reader(ctx, r)
		return g, nil
	}
	// The proof has to begin after the report came, and the state has to be
	// looked at after that: a deposed leader must not prolong a lease.
	if err := c.verify(ctx); err != nil {
		return raftfsm.Grant{}, err
	}
	s = c.fsm.State()
	return raftfsm.GrantFor(&s, r.Node), nil
}

// reader is the lease of the readers' address that a replica's report earns.
func (c *coordinator) reader(ctx context.Context, r *raftfsm.Report) time.Duration {
	if _, configured := readerVIP(r); !configured || !c.prove(ctx) {
		return 0
	}
	s, v, leading := c.look()
	if !leading || readerOf(&s, &v) != r.Node {
		return 0
	}
	return s.Policy.Lease
}

// notable says that a report is worth a look before the next tick.
func notable(old, r *raftfsm.Report) bool {
	if old == nil || old.Mysqld != r.Mysqld || old.Token != r.Token || old.SuperReadOnly != r.SuperReadOnly ||
		(old.Replica == nil) != (r.Replica == nil) || len(old.Attached) != len(r.Attached) {
		return true
	}
	if (old.Rebuild == nil) != (r.Rebuild == nil) || r.Rebuild != nil && r.Rebuild.Done != old.Rebuild.Done {
		return true
	}
	return r.Replica != nil && (old.Replica.IORunning != r.Replica.IORunning || old.Replica.SQLRunning != r.Replica.SQLRunning)
}

// status gives what the coordinator sees, for `ha status`.
func (c *coordinator) status() (s raftfsm.State, v raftfsm.View, doing string, leading bool) {
	s, v, leading = c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	return s, v, c.doing, leading
}

// join makes a node a member, or tells why not.
func (c *coordinator) join(ctx context.Context, req api.JoinRequest) api.JoinReply {
	s, v, leading := c.look()
	switch {
	case !leading:
		return api.JoinReply{Err: "not the coordinator"}
	case s.Cluster == "":
		return api.JoinReply{Err: "the cluster is being founded"}
	case req.Cluster != "" && req.Cluster != s.Cluster:
		return api.JoinReply{Refused: true, Code: "HA-OTHER-CLUSTER",
			Err: "this node belongs to cluster " + req.Cluster + ", not to " + s.Cluster}
	}
	ok := api.JoinReply{OK: true, Cluster: s.Cluster, AgentPassword: s.AgentPassword}
	m := req.Member
	if _, known := s.Member(m.ID); req.Was && !known {
		return refuseRemoved(m.Name)
	}
	if old, taken := s.MemberByName(m.Name); taken && old.ID != m.ID {
		if reply, gone := c.takeOver(ctx, s, v, old); !gone {
			return reply
		}
		return api.JoinReply{Err: "the dead node of that name was forgotten; joining"} // and again at once
	}
	if old, known := s.Member(m.ID); known {
		if m = m.Noted(old); m == old {
			return ok
		}
	}
	if !c.commit(ctx, []raftfsm.Command{{Kind: raftfsm.CmdMember, Member: &m}}) {
		return api.JoinReply{Err: "not committed; try again"}
	}
	c.wake()
	return ok
}

// takeOver forgets a dead member whose name a new node brings. A live one's name
// is refused.
func (c *coordinator) takeOver(ctx context.Context, s raftfsm.State, v raftfsm.View, old raftfsm.Member) (api.JoinReply, bool) {
	n := v.Node(old.ID)
	_, acker := s.Acker(old.ID)
	switch {
	case c.answers(ctx, old):
		return api.JoinReply{Refused: true, Code: "HA-NAME-TAKEN",
			Err: "a live node at " + old.Address + " is called " + old.Name}, false
	case n.Report != nil && n.Age <= s.Policy.DeadAfter:
		return api.JoinReply{Err: old.Name + " at " + old.Address + " was alive a moment ago"}, false
	case v.Leading <= s.Policy.DeadAfter:
		return api.JoinReply{Err: "not yet known whether " + old.Name + " at " + old.Address + " is alive"}, false
	case old.ID == s.Primary || acker:
		return api.JoinReply{Err: "the dead " + old.Name + " is still the primary or in the ack set"}, false
	}
	if err := c.stillSeen(&s, &v, old); err != nil {
		return api.JoinReply{Err: err.Error()}, false // it may acknowledge yet
	}
	return api.JoinReply{}, c.commit(ctx, []raftfsm.Command{{Kind: raftfsm.CmdRemoveMember, Node: old.ID, On: s.Version}})
}
