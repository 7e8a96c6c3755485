package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
)

const (
	ownUUID   = "00000000-0000-0000-0000-00000000000a"
	otherUUID = "00000000-0000-0000-0000-00000000000b"
	killGrace = 20 * time.Millisecond // of a fake's statement that is KILLed
)

// fakeMysqld is a server with a memory. A method named in hang does not return
// before its context ends, and a little later; one named in fail fails.
type fakeMysqld struct {
	t *testing.T

	mu       sync.Mutex
	dir      string
	inited   bool
	alive    bool
	runs     int
	exit     chan struct{}
	superRO  bool
	k        int // 0: semi-sync off
	waiting  int // commits that wait: a Fence does not return
	waitFor  time.Duration
	events   int   // scheduled ones that are off
	yes, no  int64 // commits acknowledged, and let go without
	frozen   bool
	dumping  bool
	channel  string // host of the source; "" none
	io, ack  bool
	attached []string
	binlog   int64 // bytes in the one that is written to
	executed gtid.Set
	received gtid.Set
	offline  gtid.Set
	uuid     string
	named    bool // a copy has got a uuid of its own
	hang     map[string]bool
	fail     map[string]error
	after    map[string]func(*fakeMysqld) // what else happens by the time a method returns
	noClone  bool
	startFor time.Duration
	lookFor  time.Duration // what a Status takes
	clone    func(ctx context.Context, dir string) error

	log  []string // effects, in their order
	inst atomic.Int32
}

func newFake(t *testing.T) *fakeMysqld {
	exited := make(chan struct{})
	close(exited)
	return &fakeMysqld{t: t, inited: true, superRO: true, exit: exited, uuid: ownUUID, startFor: 900 * time.Millisecond,
		hang: map[string]bool{}, fail: map[string]error{}, after: map[string]func(*fakeMysqld){},
		executed: gtid.MustParse(otherUUID + ":1-10"), offline: gtid.MustParse(otherUUID + ":1-10")}
}

// set changes the server behind the node's back.
func (f *fakeMysqld) set(change func(*fakeMysqld)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeMysqld) effects() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.log, " ")
}

func (f *fakeMysqld) did(effect string) bool {
	return slices.Contains(strings.Fields(f.effects()), effect)
}

func (f *fakeMysqld) forget() { f.set(func(f *fakeMysqld) { f.log = nil }) }

// run starts the process: as mysqld always starts.
func (f *fakeMysqld) run() {
	f.alive, f.superRO, f.io, f.k, f.frozen, f.dumping, f.waiting = true, true, false, 0, false, false, 0
	f.exit = make(chan struct{})
	f.runs++
}

func (f *fakeMysqld) die() {
	if errors.Is(f.fail["ProbeDisk"], mysqlctl.ErrDiskWait) { // its death is the cure
		delete(f.fail, "ProbeDisk")
	}
	if f.alive {
		f.alive, f.dumping = false, false
		close(f.exit)
	}
}

// crash ends the process by itself.
func (f *fakeMysqld) crash() { f.set(func(f *fakeMysqld) { f.die() }) }

// changes is a method with an effect: one at a time, but for the fence's.
func (f *fakeMysqld) changes(ctx context.Context, name string, effect func() error) error {
	switch name {
	case "Fence", "KillClients", "KillOwnSessions":
	default:
		if f.inst.Add(1) > 1 {
			f.t.Errorf("%s while another statement of ours runs", name)
		}
		defer f.inst.Add(-1)
	}
	f.mu.Lock()
	alive, frozen, hang, err := f.alive, f.frozen, f.hang[name] || name == "Fence" && f.waiting > 0, f.fail[name]
	exit := f.exit
	f.mu.Unlock()
	switch {
	case !alive:
		return mysqlctl.ErrNotRunning
	case err != nil:
		return err
	case hang, frozen:
		select {
		case <-ctx.Done():
			time.Sleep(killGrace)
			f.set(func(f *fakeMysqld) { f.log = append(f.log, name+"-ended") })
			if frozen {
				return fmt.Errorf("%w: %w", mysqlctl.ErrAbandoned, ctx.Err())
			}
			return ctx.Err()
		case <-exit:
			return mysqlctl.ErrNotRunning
		}
	case ctx.Err() != nil:
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, name)
	err = effect()
	if after := f.after[name]; after != nil {
		after(f)
	}
	return err
}

// reads is a method without an effect.
func (f *fakeMysqld) reads(ctx context.Context, name string) error {
	f.mu.Lock()
	alive, stuck, err := f.alive, f.frozen || f.hang[name], f.fail[name]
	exit := f.exit
	f.mu.Unlock()
	switch {
	case !alive:
		return mysqlctl.ErrNotRunning
	case err != nil:
		return err
	case stuck:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-exit:
			return mysqlctl.ErrNotRunning
		}
	}
	return ctx.Err()
}

func (f *fakeMysqld) Initialized() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inited, nil
}

func (f *fakeMysqld) Initialize(ctx context.Context) error {
	if !sleep(ctx, time.Second) {
		return ctx.Err()
	}
	f.set(func(f *fakeMysqld) { f.inited = true; f.log = append(f.log, "Initialize") })
	return nil
}

func (f *fakeMysqld) Start(ctx context.Context) error {
	f.mu.Lock()
	if f.alive {
		f.mu.Unlock()
		return mysqlctl.ErrRunning
	}
	f.log = append(f.log, "Start")
	if err := f.fail["Start"]; err != nil {
		f.mu.Unlock()
		return err
	}
	f.run()
	f.named = true
	exit, takes := f.exit, f.startFor
	f.mu.Unlock()
	select {
	case <-time.After(takes):
		return nil
	case <-exit:
		return mysqlctl.ErrExited
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fakeMysqld) Adopt(ctx context.Context) (bool, error) {
	f.mu.Lock()
	alive := f.alive
	f.mu.Unlock()
	if !alive {
		return false, nil
	}
	return true, f.reads(ctx, "Adopt")
}

func (f *fakeMysqld) PID() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.alive {
		return 0
	}
	return 1000 + f.runs
}

func (f *fakeMysqld) Alive() bool { return f.PID() != 0 }

func (f *fakeMysqld) Exited() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.exit
}

func (f *fakeMysqld) CoreDumping() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dumping
}

func (f *fakeMysqld) Kill(context.Context) error {
	f.set(func(f *fakeMysqld) {
		f.log = append(f.log, "Kill")
		f.die()
	})
	return nil
}

func (f *fakeMysqld) StopFast(ctx context.Context) error {
	return f.changes(ctx, "StopFast", func() error { f.die(); return nil })
}

func (f *fakeMysqld) Close() error { return nil }

func (f *fakeMysqld) Status(ctx context.Context) (mysqlctl.Status, error) {
	if err := f.reads(ctx, "Status"); err != nil {
		return mysqlctl.Status{}, err
	}
	f.mu.Lock()
	takes := f.lookFor
	f.mu.Unlock()
	if takes > 0 && !sleep(ctx, takes) {
		return mysqlctl.Status{}, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	st := mysqlctl.Status{ServerUUID: f.uuid, Version: "9.7.4", NoClone: f.noClone, ReadOnly: f.superRO, SuperReadOnly: f.superRO,
		Executed: f.executed, Received: f.received, ReplicaAck: f.io && f.ack, ReplicaAckWanted: f.ack, Waiting: f.waiting, WaitingFor: f.waitFor}
	st.Source = mysqlctl.SourceStatus{Plugin: true, Enabled: f.k > 0, On: f.k > 0, WaitForCount: f.k, YesTx: f.yes, NoTx: f.no}
	for _, uuid := range f.attached {
		st.DumpThreads = append(st.DumpThreads, mysqlctl.DumpThread{ReplicaUUID: uuid, SemiSync: true})
	}
	if f.channel != "" {
		state := map[bool]string{true: "Yes", false: "No"}
		st.Replica = &mysqlctl.ReplicaStatus{SourceHost: f.channel, SourcePort: 3306, SourceUUID: otherUUID, IOState: state[f.io], SQLState: "Yes", Channels: 1}
	}
	return st, nil
}

// ServerUUIDOnDisk is empty of a copy that was never started.
func (f *fakeMysqld) ServerUUIDOnDisk() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if content, _ := os.ReadFile(filepath.Join(f.dir, "ibdata1")); string(content) == "new" && !f.named {
		return "", nil
	}
	return f.uuid, nil
}

func (f *fakeMysqld) OfflinePosition() (gtid.Set, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.alive {
		return gtid.Set{}, mysqlctl.ErrRunning
	}
	f.log = append(f.log, "OfflinePosition")
	return f.offline, f.fail["OfflinePosition"]
}

func (f *fakeMysqld) OfflineReceived() (gtid.Set, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.received, f.fail["OfflineReceived"]
}

// CutTail cuts what the binary log has beyond keep, and takes the uuid away.
func (f *fakeMysqld) CutTail(ctx context.Context, keep gtid.Set) (mysqlctl.Cut, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, "cut")
	var cut mysqlctl.Cut
	if f.alive {
		return cut, mysqlctl.ErrNoCut
	}
	cut.Removed = f.offline.Minus(keep)
	if cut.Transactions = int(cut.Removed.Count()); cut.Transactions > 0 {
		f.offline, f.uuid = f.offline.Intersect(keep), otherUUID
	}
	return cut, ctx.Err()
}

func (f *fakeMysqld) Blockers(ctx context.Context) ([]mysqlctl.Blocker, error) {
	return nil, f.reads(ctx, "blockers")
}

func (f *fakeMysqld) WaitExecuted(ctx context.Context, set gtid.Set) (gtid.Set, error) {
	for f.reads(ctx, "wait") == nil {
		f.mu.Lock()
		executed := f.executed
		f.mu.Unlock()
		if executed.Contains(set) {
			return executed, nil
		}
		if !sleep(ctx, 10*time.Millisecond) {
			break
		}
	}
	return gtid.Set{}, ctx.Err()
}

func (f *fakeMysqld) FlushBinlog(ctx context.Context) error {
	return f.changes(ctx, "flush", func() error { f.binlog = 0; return nil })
}

func (f *fakeMysqld) BinlogSize() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.binlog, nil
}

func (f *fakeMysqld) DisabledEvents(ctx context.Context) (int, error) {
	err := f.reads(ctx, "events")
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.events, err
}

func (f *fakeMysqld) NoteEvents(ctx context.Context) error { return f.reads(ctx, "noteEvents") }

func (f *fakeMysqld) EnableEvents(ctx context.Context) error {
	return f.changes(ctx, "enableEvents", func() error { f.events = 0; return nil })
}

func (f *fakeMysqld) ClusterID(ctx context.Context) (string, error) {
	return "c1", f.reads(ctx, "ClusterID")
}

func (f *fakeMysqld) ReplicationAccounts(ctx context.Context) ([]string, error) {
	return []string{"ha_r_n1"}, f.reads(ctx, "ReplicationAccounts")
}

func (f *fakeMysqld) ProbeDisk(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fail["ProbeDisk"]
}

func (f *fakeMysqld) KillOwnSessions(ctx context.Context) error {
	return f.changes(ctx, "KillOwnSessions", func() error { return nil })
}

func (f *fakeMysqld) KillClients(ctx context.Context) error {
	return f.changes(ctx, "KillClients", func() error { return nil })
}

func (f *fakeMysqld) KillDump(ctx context.Context, uuid, _ string) error {
	return f.changes(ctx, "KillDump", func() error {
		f.attached = slices.DeleteFunc(f.attached, func(u string) bool { return u == uuid })
		return nil
	})
}

func (f *fakeMysqld) Fence(ctx context.Context) error {
	err := f.changes(ctx, "Fence", func() error { f.superRO = true; return nil })
	if err != nil {
		return fmt.Errorf("%w: %w", mysqlctl.ErrNotFenced, err)
	}
	return nil
}

func (f *fakeMysqld) Poison(ctx context.Context) error {
	return f.changes(ctx, "Poison", func() error { f.k = 100; return nil })
}

func (f *fakeMysqld) OpenWrites(ctx context.Context) error {
	return f.changes(ctx, "OpenWrites", func() error { f.superRO = false; return nil })
}

func (f *fakeMysqld) ConfigureSource(ctx context.Context, k int) error {
	return f.changes(ctx, fmt.Sprintf("ConfigureSource%d", k), func() error { f.k = k; return nil })
}

func (f *fakeMysqld) EnsureSchema(ctx context.Context, _ string) error {
	return f.changes(ctx, "EnsureSchema", func() error { return nil })
}

func (f *fakeMysqld) Barrier(ctx context.Context, _, _ uint64) error {
	return f.changes(ctx, "Barrier", func() error { return nil })
}

func (f *fakeMysqld) EnsureReplicationAccount(ctx context.Context, user, _ string) error {
	return f.changes(ctx, "Account-"+user, func() error { return nil })
}

func (f *fakeMysqld) LockAccount(ctx context.Context, user string, locked bool) error {
	return f.changes(ctx, fmt.Sprintf("Lock-%s-%v", user, locked), func() error { return nil })
}

func (f *fakeMysqld) SealReplica(ctx context.Context) (mysqlctl.Position, error) {
	err := f.changes(ctx, "SealReplica", func() error { f.io = false; return nil })
	return f.position(), err
}

func (f *fakeMysqld) Position(ctx context.Context) (mysqlctl.Position, error) {
	err := f.reads(ctx, "Position")
	return f.position(), err
}

func (f *fakeMysqld) position() mysqlctl.Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	return mysqlctl.Position{Executed: f.executed, Received: f.received, ServerUUID: f.uuid}
}

func (f *fakeMysqld) Drain(ctx context.Context) (gtid.Set, error) {
	err := f.changes(ctx, "Drain", func() error { f.executed = f.executed.Union(f.received); return nil })
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.executed, err
}

func (f *fakeMysqld) StopApplier(ctx context.Context) error {
	return f.changes(ctx, "StopApplier", func() error { return nil })
}

func (f *fakeMysqld) Follow(ctx context.Context, src mysqlctl.Source, ack bool) error {
	return f.changes(ctx, "Follow", func() error {
		f.superRO, f.k, f.channel, f.io, f.ack = true, 0, src.Host, true, ack
		return nil
	})
}

func (f *fakeMysqld) SetReplicaAck(ctx context.Context, ack bool) error {
	return f.changes(ctx, fmt.Sprintf("SetReplicaAck-%v", ack), func() error { f.ack = ack; return nil })
}

func (f *fakeMysqld) ResetReplica(ctx context.Context) error {
	return f.changes(ctx, "ResetReplica", func() error { f.channel = ""; return nil })
}

func (f *fakeMysqld) DiscardReceived(ctx context.Context) error {
	return f.changes(ctx, "DiscardReceived", func() error { f.received = gtid.Set{}; f.channel = ""; return nil })
}

func (f *fakeMysqld) Clone(ctx context.Context, _ mysqlctl.Source, dir string, _ int64, progress func(mysqlctl.CloneProgress)) error {
	if err := f.reads(ctx, "Clone"); err != nil {
		return err
	}
	f.set(func(f *fakeMysqld) { f.log = append(f.log, "Clone") })
	progress(mysqlctl.CloneProgress{Done: 5, Estimate: 10})
	if f.clone != nil {
		return f.clone(ctx, dir)
	}
	return cloneFiles(dir)
}

func cloneFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for _, name := range []string{"ibdata1", "mysql.ibd"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("new"), 0o640); err != nil {
			return err
		}
	}
	return nil
}

var _ Mysqld = (*mysqlctl.Server)(nil)
