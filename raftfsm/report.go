package raftfsm

import (
	"fmt"
	"time"

	"ha/mysqlctl/gtid"
)

// Token makes orders comparable: an agent stores it durably before it acts and
// refuses what is not greater than the stored one (R7).
type Token struct {
	Epoch uint64 `json:"epoch"`
	Index uint64 `json:"index"` // Raft index of the command that authorised the order
	Step  uint64 `json:"step"`  // counts the orders to one agent under one command
}

// Compare is -1, 0 or 1, by epoch, then index, then step.
func (t Token) Compare(u Token) int {
	for _, p := range [][2]uint64{{t.Epoch, u.Epoch}, {t.Index, u.Index}, {t.Step, u.Step}} {
		if p[0] < p[1] {
			return -1
		}
		if p[0] > p[1] {
			return 1
		}
	}
	return 0
}

func (t Token) String() string { return fmt.Sprintf("%d.%d.%d", t.Epoch, t.Index, t.Step) }

// Op is what an order asks of one agent. Each is idempotent.
type Op string

// The operations.
const (
	// OpSeal ends every acknowledgement by this node and answers its final
	// position (R3). A replica: IO thread stopped, then received ∪ executed. A
	// primary: super_read_only returned and no commit waits, else SIGKILL and
	// its binlog read offline. A replica whose mysqld is down is started
	// without replication first; a former primary that is down is not started.
	//
	// Gentle, to a primary that is to be switched over: where that does not
	// return soon the server goes on as before and the answer is CodeBlocked;
	// EndBlockers ends the sessions in the way first. With Await a replica seals
	// when it has executed that set, or after a second.
	OpSeal Op = "seal"
	// OpReady makes a replica ready to take over by a switchover: it waits until
	// Await is executed and begins a new binary log.
	OpReady Op = "ready"
	// OpPrepare makes the candidate ready: starts its mysqld if it is down
	// (super_read_only, without replication), applies all that it received,
	// answers the executed set.
	OpPrepare Op = "prepare"
	// OpPromote opens the primary: semi-sync source with K acks, verified; a
	// fresh report answered with a grant for this epoch (R8); read-only off;
	// VIP. Then the old replication channel is reset.
	OpPromote Op = "promote"
	// OpBarrier commits one row of ha's own table, after checking that only
	// Allowed server_uuids are attached as semi-sync replicas (R6).
	OpBarrier Op = "barrier"
	// OpFollow makes the node replicate from Source, acknowledging iff Ack. It
	// starts mysqld if it is down. Discard drops received transactions that
	// were proven unacknowledged and are not applied.
	OpFollow Op = "follow"
	// OpSetAcks makes the primary wait for K acks (0: semi-sync off).
	OpSetAcks Op = "set_acks"
	// OpExclude makes a replica stop acknowledging: flag off, IO thread
	// restarted, status off.
	OpExclude Op = "exclude"
	// OpLockOut makes the primary lock Account and end the dump thread of
	// UUID, and see it gone.
	OpLockOut Op = "lock_out"
	// OpAccounts makes the primary create (and unlock) the replication
	// accounts named in Accounts, and drop the locks of OpLockOut.
	OpAccounts Op = "accounts"
	// OpEvents makes the primary switch on the scheduled events that are off
	// because it was a replica.
	OpEvents Op = "events"
	// OpStart starts mysqld of a former primary, super_read_only and without
	// replication, so that its executed set can be compared. With Cut the
	// transactions that Keep lacks are cut off its binary log first (R9), if
	// that is possible.
	OpStart Op = "start"
	// OpRebuild copies the data of Source beside the node's own. It is answered
	// when begun; the report tells how it goes. A copy without Keep is taken back.
	OpRebuild Op = "rebuild"
	// OpSwap puts the copy made under Lease, which is ready, in the place of the
	// node's data and starts mysqld on it. It is answered when they are swapped.
	// The old data are removed once the new ones hold all of them, with KeepOld
	// when the next copy comes; what nobody else has is kept for good.
	OpSwap Op = "swap"
	// OpEndRebuild ends the copy that is made under Lease, which has ended, and
	// removes what there is of it.
	OpEndRebuild Op = "end_rebuild"
)

// Source says where a replica finds its primary, or a recipient its donor.
type Source struct {
	Node     NodeID `json:"node"`
	Host     string `json:"host"`
	Port     int    `json:"port"`
	UUID     string `json:"uuid"`
	User     string `json:"user"`
	Password string `json:"password"`
}

// Account is a replication account.
type Account struct {
	User     string `json:"user"`
	Password string `json:"password"`
}

// Order is one action that a coordinator asks of one agent.
type Order struct {
	Token Token  `json:"token"`
	To    NodeID `json:"to"`
	Op    Op     `json:"op"`

	K        int       `json:"k,omitempty"`
	Source   *Source   `json:"source,omitempty"`
	Ack      bool      `json:"ack,omitempty"`
	Discard  bool      `json:"discard,omitempty"`
	Allowed  []string  `json:"allowed,omitempty"`
	Accounts []Account `json:"accounts,omitempty"`
	Account  string    `json:"account,omitempty"`
	UUID     string    `json:"uuid,omitempty"`
	// Former says that the node is no acker of the epoch being closed (it may be
	// a former primary): its mysqld is not started to be sealed.
	Former      bool     `json:"former,omitempty"`
	Gentle      bool     `json:"gentle,omitempty"`
	EndBlockers bool     `json:"end_blockers,omitempty"`
	Await       gtid.Set `json:"await"`
	Cut         bool     `json:"cut,omitempty"`
	Keep        gtid.Set `json:"keep"`
	// Lease is the index of the rebuild lease that OpRebuild and OpSwap carry out
	// and that OpEndRebuild saw end.
	Lease uint64 `json:"lease,omitempty"`
	Copying
	KeepOld bool `json:"keep_old,omitempty"`
}

// Answer is what an agent says to an order.
type Answer struct {
	Token Token `json:"token"`
	Op    Op    `json:"op"`
	OK    bool  `json:"ok"`
	// Code is a stable word for a refusal (HA-STALE-TOKEN, HA-NO-GRANT, ...);
	// Err is for people.
	Code string `json:"code,omitempty"`
	Err  string `json:"err,omitempty"`

	// Executed and Received are the final position after OpSeal, the executed
	// set after OpPrepare and OpPromote.
	Executed gtid.Set `json:"executed"`
	Received gtid.Set `json:"received"`
	// ServerUUID of the data that the position is of.
	ServerUUID string `json:"server_uuid,omitempty"`
	// Running says that mysqld runs, so that the node could be prepared at
	// once. A position read offline has it false.
	Running bool `json:"running"`
	// ApplierError is set when the applier stands on an error.
	ApplierError string `json:"applier_error,omitempty"`
}

// Position is all that the node holds: received ∪ executed.
func (a *Answer) Position() gtid.Set { return a.Executed.Union(a.Received) }

// Codes of refused orders.
const (
	CodeStaleToken = "HA-STALE-TOKEN" // the token is not greater than the stored one
	CodeBusy       = "HA-BUSY"        // another order is being carried out
	CodeNoGrant    = "HA-NO-GRANT"    // no lease could be had for the epoch (R8)
	CodeStray      = "HA-STRAY-ACKER" // an acker outside the ack set is attached
	CodeBlocked    = "HA-BLOCKED"     // it did not become read-only in time and goes on as before
	CodeFailed     = "HA-FAILED"      // the server did not do it; Err says why
	// CodeUnreachable is set by the coordinator: no answer came.
	CodeUnreachable = "HA-UNREACHABLE"
)

// MysqldState is how an agent finds its mysqld.
type MysqldState string

// The states.
const (
	MysqldNone     MysqldState = "none" // a witness has none
	MysqldDown     MysqldState = "down"
	MysqldStarting MysqldState = "starting"
	MysqldRunning  MysqldState = "running"
	MysqldHung     MysqldState = "hung" // runs and does not answer
)

// Report is what an agent pushes to the coordinator each heartbeat and on
// events. Reports start things; they never prove things.
type Report struct {
	Node  NodeID `json:"node"`
	Run   string `json:"run"`   // one run of the agent; random
	Seq   uint64 `json:"seq"`   // counts the reports of one run of the agent
	Token Token  `json:"token"` // stored
	// LastIndex is the node's own last Raft log index.
	LastIndex    uint64      `json:"last_index"`
	AgentVersion string      `json:"agent_version"`
	Mysqld       MysqldState `json:"mysqld"`
	MysqldErr    string      `json:"mysqld_err,omitempty"` // why it is down or hung
	// HungFor is for how long mysqld has not answered.
	HungFor time.Duration `json:"hung_for,omitempty"`
	// ClusterOnDisk is the cluster id that the data name, if any.
	ClusterOnDisk string `json:"cluster_on_disk,omitempty"`

	// What follows is as of the last good look at mysqld.
	Version       string   `json:"version,omitempty"`
	ServerUUID    string   `json:"server_uuid,omitempty"`
	ReadOnly      bool     `json:"read_only"`
	SuperReadOnly bool     `json:"super_read_only"`
	Executed      gtid.Set `json:"executed"`
	Received      gtid.Set `json:"received"`
	// Replica is nil when no channel is configured.
	Replica *ReplicaReport `json:"replica,omitempty"`
	// SourceOn, WaitFor, NoTx are the semi-sync source's: switched on, the
	// enforced number of acks, commits that were not acknowledged.
	SourceOn bool   `json:"source_on"`
	WaitFor  int    `json:"wait_for"`
	NoTx     uint64 `json:"no_tx"`
	// Unacked is how many of those there were since the source was last told to
	// wait: MySQL let them go by itself.
	Unacked uint64 `json:"unacked,omitempty"`
	// Attached are the server_uuids of the semi-sync replicas with a dump
	// thread here.
	Attached []string `json:"attached,omitempty"`
	// Dumps are all server_uuids with a dump thread here.
	Dumps []string `json:"dumps,omitempty"`
	// Waiting is the number of commits without their acks, WaitingFor for how
	// long some have waited while none was acknowledged.
	Waiting    int           `json:"waiting,omitempty"`
	WaitingFor time.Duration `json:"waiting_for,omitempty"`
	// Accounts are the replication accounts that exist here and are unlocked;
	// looked at on a writable server only, nil when not looked at.
	Accounts []string `json:"accounts"` // none and not looked at differ
	// SleepingEvents is the number of scheduled events that are switched off
	// here as this server was a replica; looked at on a writable server only.
	SleepingEvents int       `json:"sleeping_events,omitempty"`
	Problems       []Problem `json:"problems,omitempty"`
	// Blank says that mysqld was found or started on data without any schema but those
	// of a new server.
	Blank bool `json:"blank,omitempty"`
	// DataSize is what a copy of the data takes, DiskFree the room beside them, in
	// bytes; 0: not known, 1: none. OldData is what kept data of earlier copies take, OldWhy
	// why the last of them are not removed, if it is not for the policy.
	DataSize int64  `json:"data_size,omitempty"`
	DiskFree int64  `json:"disk_free,omitempty"`
	OldData  int64  `json:"old_data,omitempty"`
	OldWhy   string `json:"old_why,omitempty"`
	// NoCopy says why no copy can be put in the place of the data here.
	NoCopy string `json:"no_copy,omitempty"`
	// Giving: mysqld copies its data for a backup, and can give no other copy.
	Giving bool `json:"giving,omitempty"`
	// Engines are the tools that the agent knows, and why they cannot be used here. CLONE
	// is among them only where it cannot.
	Engines []EngineReport `json:"engines,omitempty"`

	// VIPs are the virtual IPs that the node is configured with.
	VIPs []VIPReport `json:"vips,omitempty"`

	// Archived is when the last transaction was committed that the node's archive of
	// binary logs holds; zero: it has none, or nothing in it yet.
	Archived time.Time `json:"archived,omitzero"`

	// LeaseEpoch is the epoch of the grant held; 0 is none.
	LeaseEpoch uint64 `json:"lease_epoch,omitempty"`
	// GrantOnly: what it says of mysqld may be old; it asks for a lease.
	GrantOnly bool `json:"grant_only,omitempty"`
	// Rebuild is how the rebuild under the lease with this index goes.
	Rebuild *RebuildReport `json:"rebuild,omitempty"`
}

// Position is what the report says the node holds.
func (r *Report) Position() gtid.Set { return r.Executed.Union(r.Received) }

// Problem is a setting or a fact that breaks a promise.
type Problem struct {
	Code string `json:"code"`
	Text string `json:"text"`
	// For is how long it has lasted, where that matters.
	For time.Duration `json:"for,omitempty"`
}

// VIPReport is one virtual IP on one node.
type VIPReport struct {
	Addr      string `json:"addr"`
	Reader    bool   `json:"reader,omitempty"` // for readers, on a replica
	Interface string `json:"interface"`
	Held      bool   `json:"held,omitempty"`
}

// ReplicaReport is the replication channel.
type ReplicaReport struct {
	SourceHost string `json:"source_host"`
	SourcePort int    `json:"source_port"`
	SourceUUID string `json:"source_uuid"`
	IORunning  bool   `json:"io_running"` // connected and receiving ("Yes", not "Connecting")
	IOWanted   bool   `json:"io_wanted"`  // the thread is on, connected or not
	SQLRunning bool   `json:"sql_running"`
	IOError    string `json:"io_error,omitempty"`
	// SQLError is why the applier stands, or stood until a moment ago.
	SQLError string `json:"sql_error,omitempty"`
	// Silence is how long nothing came from the source, heartbeats included.
	Silence time.Duration `json:"silence"`
	Lag     time.Duration `json:"lag"`
	// Ack: the connection acknowledges (Rpl_semi_sync_replica_status).
	Ack bool `json:"ack"`
	// AckWanted: the flag is on (rpl_semi_sync_replica_enabled).
	AckWanted bool `json:"ack_wanted"`
}

// RebuildReport is the progress of a copy.
type RebuildReport struct {
	Index uint64 `json:"index"` // of the lease
	Phase string `json:"phase"` // prepare, copy, verify, ready, swap, start
	Done  bool   `json:"done"`
	Err   string `json:"err,omitempty"`
	Bytes int64  `json:"bytes,omitempty"`
	Total int64  `json:"total,omitempty"` // an estimate
	Rate  int64  `json:"rate,omitempty"`  // bytes per second now
}

// underWay says that the copy is being made or put in place.
func (r *RebuildReport) underWay() bool { return r != nil && !r.Done && r.Err == "" }

// Grant answers a report. It is given by a coordinator that verified its
// leadership after the report had come; the lease counts from the sending of
// the report.
type Grant struct {
	Epoch   uint64        `json:"epoch"`
	Primary NodeID        `json:"primary"`
	Lease   time.Duration `json:"lease"` // 0: not granted
	// Reader is how long the node may hold the address of the readers; 0: it may
	// not. No decision rests on it.
	Reader time.Duration `json:"reader,omitempty"`
}
