package agent

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"ha/agent/nettest"
	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
)

// Fake MySQL servers for bubbles. They have what the promises rest on: binary
// logs, GTID sets, replication with receivers and appliers over the bubble's
// network, semi-sync acknowledgements after the binary log (AFTER_SYNC), commits
// that wait, recovery after a crash, read-only servers. fakesql_test.go lets an
// agent at them.

const (
	fakeTransit   = 6 * time.Millisecond   // from a binary log to a replica, at most
	fakeApply     = 3 * time.Millisecond   // from there to its own, at most
	fakeBeat      = 250 * time.Millisecond // of a source that has nothing to send
	fakeNetLost   = 4 * time.Second        // replica_net_timeout
	fakeReconnect = time.Second
	fakeStart     = 700 * time.Millisecond
)

// fakeDB is all servers of a bubble. Its lock is never held while something waits.
type fakeDB struct {
	net *nettest.Network
	wg  sync.WaitGroup

	mu      sync.Mutex
	images  map[string]*fakeImage  // by the text of the file that stands for them
	servers map[string]*fakeServer // by data directory
	uuids   int
}

func newFakeDB(net *nettest.Network) *fakeDB {
	return &fakeDB{net: net, images: map[string]*fakeImage{}, servers: map[string]*fakeServer{}}
}

// fakeTxn is a transaction with its content: rows of GTIDs alone say nothing.
type fakeTxn struct {
	key  string // GTID
	set  gtid.Set
	body string
}

type loggedTxn struct {
	*fakeTxn
	at time.Time // of a received one: when it will be applied
}

type fakeAccount struct {
	password string
	locked   bool
}

// fakeImage is a data directory.
type fakeImage struct {
	uuid     string
	next     uint64
	binlog   []loggedTxn
	fileAt   int               // where the last file of it begins
	logged   gtid.Set          // what is in it
	executed gtid.Set          // in the engine
	purged   gtid.Set          // executed and not in the binary log
	rows     map[string]string // content by GTID, of what is executed
	relay    []loggedTxn       // received and not applied
	received gtid.Set
	channel  *mysqlctl.Source
	source   string // uuid of the channel's
	accounts map[string]fakeAccount
	cluster  string
}

// fakeServer is a mysqld on a data directory, running or not.
type fakeServer struct {
	db  *fakeDB
	dir string
	ip  string

	img     *fakeImage // nil: nothing is in the directory
	alive   bool
	runs    int
	exit    chan struct{} // closed with the process
	changed chan struct{} // closed and replaced at each change
	clients chan struct{} // closed when client sessions are ended

	superRO bool
	setting int // SETs of super_read_only that wait
	semi    bool
	k       int
	waiters []*fakeWaiter
	acked   map[string]int // by replica uuid: so much of the binary log
	links   []*fakeLink
	yes, no int64

	ackFlag bool
	io, sql bool
	ioErr   string
	link    *fakeLink
	retryAt time.Time
	heard   time.Time
}

// fakeWaiter is a commit that is in the binary log and not acknowledged.
type fakeWaiter struct {
	t    *fakeTxn
	at   int // place in the binary log
	from time.Time
	done chan struct{}
}

// fakeLink is a replica's connection.
type fakeLink struct {
	src, replica *fakeServer
	run          int // of the source
	uuid         string
	ack          bool
	next         int // place in the source's binary log
	told         int // acknowledged so far
	delay        time.Duration
	ended        bool
}

// some is a random part of d: replicas are not equally fast.
func some(d time.Duration) time.Duration { return time.Duration(1 + rand.Int64N(int64(d))) }

// server gives the server on a data directory.
func (db *fakeDB) server(dir, ip string) *fakeServer {
	db.mu.Lock()
	defer db.mu.Unlock()
	s := db.servers[dir]
	if s == nil {
		s = &fakeServer{db: db, dir: dir, ip: ip, exit: make(chan struct{}), changed: make(chan struct{}), clients: make(chan struct{})}
		close(s.exit)
		db.servers[dir] = s
	}
	return s
}

// at finds the server that listens on a host.
func (db *fakeDB) at(host string) *fakeServer {
	for _, s := range db.servers {
		if s.ip == host && s.alive && !strings.Contains(s.dir, "scratch") {
			return s
		}
	}
	return nil
}

func (db *fakeDB) newUUID() string {
	db.uuids++
	return fmt.Sprintf("%08d-0000-0000-0000-%012d", db.uuids, db.uuids)
}

func (s *fakeServer) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// --- data directories.

const imageFile = "ibdata1"

// put writes the files that stand for an image.
func (db *fakeDB) put(dir string, img *fakeImage) error {
	key := fmt.Sprintf("image %d", len(db.images)+1)
	db.images[key] = img
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, imageFile), []byte(key), 0o600),
		os.WriteFile(filepath.Join(dir, "mysql.ibd"), []byte(key), 0o600))
}

// load finds the image that a directory holds; it may have been swapped.
func (s *fakeServer) load() {
	b, _ := os.ReadFile(filepath.Join(s.dir, imageFile))
	s.img = s.db.images[string(b)]
}

// copyOf is a clone: what is in the engine, and no identity.
func copyOf(d *fakeImage) *fakeImage {
	img := &fakeImage{next: 1, executed: d.executed, purged: d.executed, rows: map[string]string{}, accounts: map[string]fakeAccount{}, cluster: d.cluster}
	for k, v := range d.rows {
		img.rows[k] = v
	}
	for k, v := range d.accounts {
		img.accounts[k] = v
	}
	if d.channel != nil {
		c := *d.channel
		img.channel = &c
	}
	return img
}

// has says that the transaction was received or executed.
func (i *fakeImage) has(t *fakeTxn) bool {
	return i.executed.Contains(t.set) || i.received.Contains(t.set)
}

// execute commits in the engine. Some bodies mean something.
func (i *fakeImage) execute(t *fakeTxn) {
	i.executed = i.executed.Union(t.set)
	i.rows[t.key] = t.body
	what := strings.Fields(t.body)
	switch {
	case len(what) == 3 && what[0] == "account":
		i.accounts[what[1]] = fakeAccount{password: what[2], locked: i.accounts[what[1]].locked}
	case len(what) == 2 && what[0] == "cluster":
		i.cluster = what[1]
	}
}

func (i *fakeImage) log(t *fakeTxn) {
	i.binlog = append(i.binlog, loggedTxn{t, time.Now()})
	i.logged = i.logged.Union(t.set)
}

// --- processes.

// begin starts the process; the lock is held.
func (s *fakeServer) begin() {
	img := s.img
	for _, t := range img.binlog[img.fileAt:] { // recovery
		if !img.executed.Contains(t.set) {
			img.execute(t.fakeTxn)
		}
	}
	img.fileAt = len(img.binlog)
	if img.uuid == "" {
		img.uuid = s.db.newUUID()
	}
	s.alive, s.runs = true, s.runs+1
	s.exit, s.clients = make(chan struct{}), make(chan struct{})
	s.superRO, s.setting, s.semi, s.k, s.waiters, s.acked, s.links = true, 0, false, 1, nil, map[string]int{}, nil
	s.yes, s.no = 0, 0
	s.ackFlag, s.io, s.sql, s.ioErr, s.link = false, false, false, "", nil
	s.notify()
	exit := s.exit
	s.db.wg.Go(func() { s.replicate(exit) })
}

// die is SIGKILL; the lock is held. Nobody is answered.
func (s *fakeServer) die() {
	if !s.alive {
		return
	}
	s.alive = false
	close(s.exit)
	if s.link != nil {
		s.link.ended = true
	}
	s.waiters, s.links, s.link = nil, nil, nil
	s.notify()
}

func (s *fakeServer) crash() {
	s.db.mu.Lock()
	defer s.db.mu.Unlock()
	s.die()
}

// end kills all servers.
func (db *fakeDB) end() {
	db.mu.Lock()
	for _, s := range db.servers {
		s.die()
	}
	db.mu.Unlock()
	db.wg.Wait()
}

// --- the source's side.

// write puts a transaction into the binary log; the lock is held. The waiter is
// nil if nothing has to be waited for.
func (s *fakeServer) write(body string) (*fakeTxn, *fakeWaiter) {
	img := s.img
	var t *fakeTxn
	for t == nil || img.has(t) || img.logged.Contains(t.set) {
		key := fmt.Sprintf("%s:%d", img.uuid, img.next)
		t = &fakeTxn{key: key, set: gtid.MustParse(key), body: body}
		img.next++
	}
	img.log(t)
	s.notify()
	if !s.semi && len(s.waiters) == 0 {
		img.execute(t)
		s.no++
		return t, nil
	}
	w := &fakeWaiter{t: t, at: len(img.binlog), from: time.Now(), done: make(chan struct{})}
	s.waiters = append(s.waiters, w)
	return t, w
}

// release answers the commits that have their acknowledgements; the lock is held.
func (s *fakeServer) release() {
	for len(s.waiters) > 0 {
		w, n := s.waiters[0], 0
		for _, at := range s.acked {
			if at >= w.at {
				n++
			}
		}
		if s.semi && n < s.k {
			return
		}
		if s.semi {
			s.yes++
		} else {
			s.no++
		}
		s.waiters = s.waiters[1:]
		s.img.execute(w.t)
		close(w.done)
		s.notify()
	}
}

// attached are the dump threads: one whose replica hung up without our hearing of
// it stays.
func (s *fakeServer) attached() []*fakeLink {
	var out []*fakeLink
	for _, l := range s.links {
		if !l.ended || !s.db.net.Reaches(l.replica.ip, s.ip) {
			out = append(out, l)
		}
	}
	s.links = out
	return out
}

// --- the replica's side.

// replicate receives and applies until the process ends.
func (s *fakeServer) replicate(exit <-chan struct{}) {
	for {
		cuts := s.db.net.Changed()
		s.db.mu.Lock()
		if isOver(exit) {
			s.db.mu.Unlock()
			return
		}
		now := time.Now()
		wait := min(s.receive(now), s.apply(now))
		changed, source := s.changed, (chan struct{})(nil)
		if s.link != nil {
			source = s.link.src.changed
		}
		s.db.mu.Unlock()
		timer := time.NewTimer(max(wait, time.Microsecond))
		select {
		case <-exit:
		case <-changed:
		case <-source:
		case <-cuts:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func isOver(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// hangUp ends the receiver's connection; the lock is held.
func (s *fakeServer) hangUp() {
	if s.link != nil {
		s.link.ended = true
		s.link = nil
		s.notify()
	}
}

// receive takes in what there is and gives when to look again; the lock is held.
func (s *fakeServer) receive(now time.Time) time.Duration {
	if !s.io || s.img.channel == nil {
		s.hangUp()
		return time.Hour
	}
	if s.link == nil {
		if wait := s.retryAt.Sub(now); wait > 0 {
			return wait
		}
		s.retryAt = now.Add(fakeReconnect)
		s.connect(now)
		if s.link == nil {
			return fakeReconnect
		}
	}
	l := s.link
	if !s.db.net.Reaches(l.src.ip, s.ip) {
		if silent := now.Sub(s.heard); silent < fakeNetLost {
			return fakeNetLost - silent
		}
		s.hangUp()
		return 0
	}
	if l.ended || !l.src.alive || l.src.runs != l.run {
		s.hangUp()
		return 0
	}
	s.heard = now
	log := l.src.img.binlog
	for ; l.next < len(log); l.next++ {
		t := log[l.next]
		if wait := t.at.Add(l.delay).Sub(now); wait > 0 {
			return wait
		}
		l.delay = some(fakeTransit)
		if !s.img.has(t.fakeTxn) {
			s.img.relay = append(s.img.relay, loggedTxn{t.fakeTxn, now.Add(some(fakeApply))})
			s.img.received = s.img.received.Union(t.set)
		}
	}
	if l.ack && l.told < l.next && s.db.net.Reaches(s.ip, l.src.ip) {
		l.told = l.next
		l.src.acked[l.uuid] = max(l.src.acked[l.uuid], l.next)
		l.src.release()
	}
	return fakeBeat
}

// connect tries to; the lock is held.
func (s *fakeServer) connect(now time.Time) {
	c := s.img.channel
	src := s.db.at(c.Host)
	s.ioErr = ""
	switch {
	case !s.db.net.Reaches(s.ip, c.Host) || !s.db.net.Reaches(c.Host, s.ip):
		return // the attempt hangs
	case src == nil:
		s.ioErr = "error connecting to source: connection refused"
	case src.img.accounts[c.User].password != c.Password:
		s.ioErr = "error connecting to source: access denied"
	case src.img.accounts[c.User].locked:
		s.ioErr = "error connecting to source: account is locked"
	default:
		mine := s.img.executed.Union(s.img.received)
		switch {
		case !src.img.logged.Union(src.img.purged).Contains(mine.Only(src.img.uuid)):
			s.ioErr, s.io = "replica has more GTIDs than the source has", false
		case !mine.Contains(src.img.purged):
			s.ioErr, s.io = "source has purged required binary logs", false
		default:
			for _, old := range src.links {
				if old.uuid == s.img.uuid {
					old.ended = true
				}
			}
			s.link = &fakeLink{src: src, replica: s, run: src.runs, uuid: s.img.uuid, ack: s.ackFlag}
			src.links = append(src.links, s.link)
			s.img.source, s.heard = src.img.uuid, now
			src.notify()
		}
	}
	s.notify()
}

// apply executes what was received and gives when to look again; the lock is held.
func (s *fakeServer) apply(now time.Time) time.Duration {
	if !s.sql {
		return time.Hour
	}
	for len(s.img.relay) > 0 {
		t := s.img.relay[0]
		if wait := t.at.Sub(now); wait > 0 {
			return wait
		}
		s.img.relay = s.img.relay[1:]
		if !s.img.executed.Contains(t.set) {
			s.img.log(t.fakeTxn)
			s.img.execute(t.fakeTxn)
		}
		s.notify()
	}
	return time.Hour
}
