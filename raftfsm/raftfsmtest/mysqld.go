package raftfsmtest

import (
	"fmt"
	"slices"

	"ha/mysqlctl/gtid"
	"ha/raftfsm"
)

// Txn is a transaction with its content. Two with the same GTID and different
// bodies are what no GTID comparison can see.
type Txn struct {
	key  string // GTID
	set  gtid.Set
	Body string
	// lasting: its effect is not rolled back when its record is cut off.
	lasting bool
}

// waiter is a commit that is in the binlog and visible to every replica, and not
// yet in executed: it waits for its acknowledgements or, where it came to the
// binlog with semi-sync off, only for its turn.
type waiter struct {
	at    int // place in the binlog
	t     *Txn
	async bool
	until int64         // its turn
	done  func(ok bool) // nil: its client is gone
}

// dump is a replica's connection as its source sees it.
type dump struct {
	conn    int
	run     int // of the source
	replica *Mysqld
	uuid    string
	ack     bool
	next    int // place in the binlog
}

// Mysqld is a model of one server with its data directory.
type Mysqld struct {
	w    *World
	node raftfsm.NodeID
	own  *owner

	// On disk.
	uuid     string
	binlog   []*Txn
	logged   map[string]*Txn // by GTID, all in the binlog
	loggedS  gtid.Set
	rows     map[string]*Txn // committed in the engine, by GTID
	executed gtid.Set
	purged   gtid.Set // executed and not in the binlog
	relay    []*Txn   // received and not yet applied
	received gtid.Set
	channel  raftfsm.NodeID          // source; empty: no channel
	source   string                  // its uuid, as seen at the last connection
	accounts map[raftfsm.NodeID]bool // true: unlocked
	cluster  bool
	free     uint64          // below it no number of uuid is free
	lastFile int             // where the last binlog file begins
	inUse    bool            // that file was not closed
	effects  map[string]*Txn // what no rollback undoes, by GTID

	// In memory.
	up, starting bool
	hung         bool
	hungAt       int64
	run          int // counts the starts
	sro          bool
	setting      func(ok bool) // a SET super_read_only that waits
	sourceOn     bool
	k            int
	waiters      []waiter
	acked        map[string]int // by replica uuid: all before this place; kept after disconnect
	dumps        []*dump
	flag         bool // rpl_semi_sync_replica_enabled
	flagAtStart  bool // as it was when the receiver was started
	io           bool // the receiver is on
	ioErr        string
	link         *dump
	linkTo       *Mysqld
	retryAt      int64
	heard        int64
	sql          bool
	broken       bool // the applier stands on an error
	lagging      bool // receives nothing
	applyTime    int64
	applyNext    int64
	pumpAt       int64
	pumps        int
	wasWaiting   int64
}

func newMysqld(w *World, node raftfsm.NodeID) *Mysqld {
	m := &Mysqld{w: w, node: node, own: w.owner("mysqld " + string(node)), accounts: map[raftfsm.NodeID]bool{}}
	m.wipe()
	return m
}

// wipe makes an empty data directory.
func (m *Mysqld) wipe() {
	m.uuid = m.w.newUUID(m.node)
	m.binlog, m.logged, m.loggedS = nil, map[string]*Txn{}, gtid.Set{}
	m.rows, m.executed, m.purged = map[string]*Txn{}, gtid.Set{}, gtid.Set{}
	m.relay, m.received, m.channel, m.source = nil, gtid.Set{}, "", ""
	m.accounts, m.cluster, m.free = map[raftfsm.NodeID]bool{}, false, 1
	m.effects = map[string]*Txn{}
	m.lastFile, m.inUse, m.broken = 0, false, false
}

// copyOf makes the data a clone of another server's committed rows.
func (m *Mysqld) copyOf(d *Mysqld) {
	m.wipe()
	for k, t := range d.rows {
		m.rows[k] = t
	}
	for k, t := range d.effects {
		if d.rows[k] != nil { // what is not transactional is outside of all promises
			m.effects[k] = t
		}
	}
	m.executed, m.purged, m.cluster = d.executed, d.executed, d.cluster
	for k, v := range d.accounts {
		m.accounts[k] = v
	}
}

// --- process.

// start begins recovery: it commits what waits in the binlog.
func (m *Mysqld) start() {
	m.up, m.starting, m.hung = true, false, false
	m.run++
	m.sro, m.setting, m.sourceOn, m.k = true, nil, false, 1
	m.waiters, m.acked, m.dumps = nil, map[string]int{}, nil
	m.flag, m.io, m.ioErr, m.sql = false, false, "", false
	m.recover()
}

// recover commits what is in the binlog and opens a new file of it.
func (m *Mysqld) recover() {
	for _, t := range m.binlog[m.lastFile:] {
		m.engine(t)
	}
	m.lastFile, m.inUse = len(m.binlog), true
}

// kill is SIGKILL.
func (m *Mysqld) kill() { m.end(false) }

// end: those connected see a process that dies at once, and one whose host dies
// only by its silence.
func (m *Mysqld) end(host bool) {
	if !m.up && !m.starting {
		return
	}
	if m.starting && !m.up && m.w.chance(50) {
		m.recover() // a start that fails may have come that far
	}
	m.thaw()
	if m.up && m.w.rng != nil {
		m.unflushed(m.w.rng.IntN(4))
	}
	m.up, m.starting, m.hung = false, false, false
	m.run++
	host = host && m.w.rng != nil
	if host {
		m.disconnect(15000)
	} else {
		m.disconnect(500)
		for _, d := range m.dumps {
			d.replica.dropped(d)
		}
	}
	m.dumps, m.setting = nil, nil
	ws := m.waiters
	m.waiters = nil
	for _, x := range ws {
		x.answer(false)
	}
}

// unflushed: the engine has not synced its last commits; only their place in the
// binlog makes a recovery commit them.
func (m *Mysqld) unflushed(n int) {
	for at := len(m.binlog) - 1 - len(m.waiters); n > 0 && at >= m.lastFile; at, n = at-1, n-1 {
		t := m.binlog[at]
		delete(m.rows, t.key)
		m.executed = m.executed.Minus(t.set)
	}
}

// reinit: somebody puts an empty data directory in place.
func (m *Mysqld) reinit() {
	m.kill()
	m.wipe()
	for _, r := range m.w.rows {
		if !r.OK {
			continue
		}
		copies := 0
		for _, id := range m.w.order {
			if o := m.w.mysqld(id); o != nil && o.has(r) {
				copies++
			}
		}
		if copies == 0 {
			r.OK, r.Gone = false, true // it was async, or more than one host was lost
		}
	}
}

// terminate is SIGTERM: it ends with an OK for every commit that waits.
func (m *Mysqld) terminate() {
	if m.up && !m.hung {
		ws := m.waiters
		m.waiters = nil
		for _, x := range ws {
			m.engine(x.t)
			x.answer(true)
		}
		m.lastFile, m.inUse = len(m.binlog), false
	}
	m.kill()
}

// thaw is SIGCONT.
func (m *Mysqld) thaw() {
	m.hung = false
	m.w.thaw(m.w.mysqldOf(m.node))
}

func (x waiter) answer(ok bool) {
	if x.done != nil {
		x.done(ok)
	}
}

func (m *Mysqld) usable() bool { return m.up && !m.hung }

// --- source side.

// commit is a client's or the agent's transaction.
func (m *Mysqld) commit(body string, done func(ok bool)) *Txn {
	if m.setting != nil || m.sro || !m.usable() {
		panic("commit on a server that does not take writes")
	}
	for m.logged[m.key(m.free)] != nil || m.rows[m.key(m.free)] != nil {
		m.free++
	}
	t := &Txn{key: m.key(m.free), Body: body, lasting: m.w.writing}
	t.set = gtid.MustParse(t.key)
	m.log(t)
	x := waiter{at: len(m.binlog), t: t, async: !m.sourceOn || m.k == 0, done: done}
	if x.async && m.w.rng == nil && len(m.waiters) == 0 {
		m.engine(t)
		x.answer(true)
		return t
	}
	if len(m.waiters) == 0 {
		m.wasWaiting = m.w.now
	}
	if x.async { // whether it waits is settled when it is flushed; its OK comes a little later
		d := m.w.jitter(0, 3)
		x.until = m.w.now + d
		m.w.tell(m.w.mysqldOf(m.node), d, m.release)
	}
	m.waiters = append(m.waiters, x)
	return t
}

// flush is FLUSH TABLES by somebody: a transaction also where super_read_only is on.
func (m *Mysqld) flush() {
	if !m.usable() || m.setting != nil {
		return
	}
	sro := m.sro
	m.sro = false
	m.commit("flush", nil)
	m.sro = sro
}

func (m *Mysqld) key(n uint64) string { return fmt.Sprintf("%s:%d", m.uuid, n) }

func (m *Mysqld) log(t *Txn) {
	m.binlog = append(m.binlog, t)
	m.logged[t.key] = t
	m.loggedS = m.loggedS.Union(t.set)
	if t.lasting {
		m.effects[t.key] = t
	}
	for _, d := range m.dumps {
		d.replica.wake()
	}
}

// engine commits; some bodies mean something.
func (m *Mysqld) engine(t *Txn) {
	if m.rows[t.key] != nil {
		return
	}
	m.rows[t.key] = t
	m.executed = m.executed.Union(t.set)
	var who string
	if n, _ := fmt.Sscanf(t.Body, "account %s", &who); n == 1 {
		if _, there := m.accounts[raftfsm.NodeID(who)]; !there {
			m.accounts[raftfsm.NodeID(who)] = true
		}
	}
	if t.Body == "schema" {
		m.cluster = true
	}
}

// release answers the waiters that have their acknowledgements, in order.
func (m *Mysqld) release() {
	for len(m.waiters) > 0 && !m.hung {
		x := m.waiters[0]
		n := 0
		for _, at := range m.acked {
			if at >= x.at {
				n++
			}
		}
		if x.async && m.w.now < x.until || !x.async && m.sourceOn && n < m.k {
			return
		}
		m.waiters = m.waiters[1:]
		m.wasWaiting = m.w.now
		m.engine(x.t)
		x.answer(true)
	}
	if set := m.setting; len(m.waiters) == 0 && set != nil {
		m.setting = nil
		set(true)
	}
}

// setReadOnly calls done when the SET has returned; the variable reads 1 at once.
func (m *Mysqld) setReadOnly(done func(ok bool)) {
	if m.setting != nil {
		m.setting(false)
	}
	m.sro = true
	m.setting = done
	m.release()
}

// killSet ends the session of a SET that still waits.
func (m *Mysqld) killSet() {
	if set := m.setting; set != nil {
		m.sro, m.setting = false, nil
		set(false)
	}
}

// setAcks is ConfigureSource: k = 0 switches semi-sync off.
func (m *Mysqld) setAcks(k int) {
	m.sourceOn = k > 0
	if k > 0 {
		m.k = k
	}
	m.release()
}

func (m *Mysqld) ackedUpTo(uuid string, at int) {
	if m.acked[uuid] < at {
		m.acked[uuid] = at
		m.release()
	}
}

func (m *Mysqld) killDump(uuid string) {
	for _, d := range slices.Clone(m.dumps) {
		if d.uuid == uuid {
			m.dumps = slices.DeleteFunc(m.dumps, func(o *dump) bool { return o == d })
			d.replica.dropped(d)
		}
	}
}

// --- replica side.

// dropped notes that the connection is gone; the receiver tries again.
func (m *Mysqld) dropped(d *dump) {
	if m.link == d {
		m.link, m.linkTo = nil, nil
		m.retryAt = m.w.now + 1000
	}
}

// disconnect ends the connection. The source lists it for a while longer.
func (m *Mysqld) disconnect(most int64) {
	d, src := m.link, m.linkTo
	if d == nil {
		return
	}
	m.link, m.linkTo = nil, nil
	if m.w.rng == nil {
		src.forget(d)
		return
	}
	m.w.tell(m.w.mysqldOf(src.node), m.w.jitter(0, most), func() { src.forget(d) })
}

func (m *Mysqld) forget(d *dump) {
	m.dumps = slices.DeleteFunc(m.dumps, func(o *dump) bool { return o == d })
}

func (m *Mysqld) stopIO() { m.io = false; m.disconnect(1000) }

func (m *Mysqld) startIO() {
	if m.channel == "" {
		return
	}
	m.io, m.retryAt, m.flagAtStart = true, m.w.now, m.flag
}

// wake makes the replica look soon.
func (m *Mysqld) wake() {
	if m.pumpAt > m.w.now+12 {
		m.w.as(m.w.mysqldOf(m.node), func() { m.w.pumpIn(m, m.w.jitter(1, 12)) })
	}
}

// change is CHANGE REPLICATION SOURCE: with the applier stopped as well it throws
// away what was received.
func (m *Mysqld) change(source raftfsm.NodeID) {
	if m.io {
		panic("CHANGE REPLICATION SOURCE with the receiver running")
	}
	if !m.sql {
		m.relay, m.received = nil, gtid.Set{}
	}
	if m.channel != source {
		m.source = ""
	}
	m.channel = source
}

// reset is RESET REPLICA ALL.
func (m *Mysqld) reset() {
	m.stopIO()
	m.sql = false
	m.relay, m.received, m.channel, m.source = nil, gtid.Set{}, "", ""
}

func (m *Mysqld) position() gtid.Set { return m.executed.Union(m.received) }

// connect tries to reach the source.
func (m *Mysqld) connect() {
	src := m.w.mysqld(m.channel)
	m.retryAt = m.w.now + 1000
	switch {
	case src == nil || !src.usable() || !m.w.linked(m.node, m.channel):
		m.ioErr = "cannot connect"
	case !src.accounts[m.node]:
		m.ioErr = "account locked or unknown"
	case !src.loggedS.Union(src.executed).Contains(m.position().Only(src.uuid)):
		m.io, m.ioErr = false, "1236: replica has more GTIDs than the source has"
	case !m.position().Contains(src.purged):
		m.io, m.ioErr = false, "1236: the source purged required binary logs"
	default:
		m.ioErr = ""
		m.w.conns++
		for _, d := range slices.Clone(src.dumps) { // a new one takes the place of the old
			if d.uuid == m.uuid {
				src.forget(d)
			}
		}
		ack := m.flagAtStart
		if m.flag != ack && m.w.chance(50) { // it may be looked at again
			ack = m.flag
		}
		m.link = &dump{conn: m.w.conns, run: src.run, replica: m, uuid: m.uuid, ack: ack}
		m.linkTo = src
		m.source = src.uuid
		m.heard = m.w.now
		src.dumps = append(src.dumps, m.link)
	}
}

// pump lets the replica receive and apply a little.
func (m *Mysqld) pump(n int) (busy bool) {
	if !m.usable() {
		return false
	}
	if d := m.link; d != nil && m.linkTo.up && m.linkTo.run != d.run && m.w.linked(m.node, m.linkTo.node) {
		m.dropped(d) // its source was started anew and knows nothing of it
	}
	if m.io && m.link != nil && (!m.w.linked(m.node, m.linkTo.node) || !m.linkTo.usable()) {
		if m.w.now-m.heard > 2000 { // replica_net_timeout
			m.disconnect(6000)
			m.retryAt = m.w.now + 1000
		}
	} else if m.io && m.link == nil && m.w.now >= m.retryAt {
		m.connect()
	}
	if d := m.link; d != nil && m.io && m.linkTo.usable() && m.w.linked(m.node, m.linkTo.node) && !m.lagging {
		m.heard = m.w.now
		for i := 0; i < n && m.link == d && d.next < len(m.linkTo.binlog); {
			t := m.linkTo.binlog[d.next]
			d.next++
			if m.rows[t.key] != nil || m.received.Contains(t.set) {
				continue // skipped, and not acknowledged by itself
			}
			i++
			busy = true
			m.relay = append(m.relay, t)
			m.received = m.received.Union(t.set)
			if d.ack {
				m.acknowledge(d, m.linkTo, d.next)
			}
		}
	}
	if m.sql && !m.broken && !(m.sourceOn && m.k > 0) {
		for i := 0; i < n && len(m.relay) > 0 && m.w.now >= m.applyNext; i++ {
			busy = true
			m.applyNext = m.w.now + m.applyTime
			t := m.relay[0]
			m.relay = m.relay[1:]
			if m.rows[t.key] == nil {
				m.log(t)
				m.engine(t)
			}
		}
	}
	return busy
}

// acknowledge sends an ack. It is lost if the source has died by then; an ack
// that is in the socket when the receiver stops may still count.
func (m *Mysqld) acknowledge(d *dump, src *Mysqld, at int) {
	if m.w.loseAcks {
		return
	}
	f := m.w.fate("ack", "any", m.node)
	if f.lost { // with its connection
		src.killDump(d.uuid)
		return
	}
	m.w.happened("ack", "", m.node)
	run := src.run
	m.w.tell(m.w.mysqldOf(src.node), m.w.ackDelay()+f.late, func() {
		if src.run == run && src.usable() && m.w.linked(m.node, src.node) && (m.link == d || m.w.chance(30)) {
			src.ackedUpTo(d.uuid, at)
		}
	})
}

// --- what an agent sees.

func (m *Mysqld) fill(r *raftfsm.Report) {
	r.Version, r.ServerUUID = "9.7.4", m.uuid
	r.ReadOnly, r.SuperReadOnly = m.sro, m.sro
	r.Executed, r.Received = m.executed, m.received
	r.SourceOn, r.WaitFor = m.sourceOn, m.k
	r.Waiting = len(m.waiters)
	if r.Waiting > 0 {
		r.WaitingFor = ms(m.w.now - m.wasWaiting)
	}
	if m.w.big && len(m.rows) > 0 {
		r.DataSize = 1 << 30
	}
	r.Blank = len(m.rows) == 0
	if m.cluster {
		r.ClusterOnDisk = clusterID
	}
	for _, d := range m.dumps {
		r.Dumps = append(r.Dumps, d.uuid)
		if d.ack {
			r.Attached = append(r.Attached, d.uuid)
		}
	}
	slices.Sort(r.Attached)
	slices.Sort(r.Dumps)
	if !m.sro {
		r.Accounts = []string{}
		for _, id := range m.w.order {
			if m.accounts[id] {
				r.Accounts = append(r.Accounts, raftfsm.Member{ID: id}.ReplicationUser())
			}
		}
	}
	if m.channel == "" {
		return
	}
	lag := int64(0)
	if len(m.relay) > 0 {
		lag = int64(len(m.relay)) * m.applyTime
	}
	r.Replica = &raftfsm.ReplicaReport{Lag: ms(lag),
		SourceHost: string(m.channel), SourcePort: 3306, SourceUUID: m.source,
		IORunning: m.link != nil, IOWanted: m.io, SQLRunning: m.sql && !m.broken, IOError: m.ioErr,
		Silence: ms(m.w.now - m.heard), Ack: m.link != nil && m.link.ack, AckWanted: m.flag}
	if m.broken {
		r.Replica.SQLError = "1062 duplicate key"
	}
}
