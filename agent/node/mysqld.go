package node

import (
	"context"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
)

// Mysqld is what a node needs of its mysqld; *mysqlctl.Server is one, and says
// what each method promises.
type Mysqld interface {
	Initialized() (bool, error)
	Initialize(ctx context.Context) error
	Start(ctx context.Context) error
	Adopt(ctx context.Context) (bool, error)
	PID() int
	Alive() bool
	Exited() <-chan struct{}
	CoreDumping() bool
	Kill(ctx context.Context) error
	StopFast(ctx context.Context) error
	Close() error

	Status(ctx context.Context) (mysqlctl.Status, error)
	ServerUUIDOnDisk() (string, error)
	OfflinePosition() (gtid.Set, error)
	OfflineReceived() (gtid.Set, error)
	CutTail(ctx context.Context, keep gtid.Set) (mysqlctl.Cut, error)
	ClusterID(ctx context.Context) (string, error)
	ReplicationAccounts(ctx context.Context) ([]string, error)
	ProbeDisk(ctx context.Context) error
	BinlogSize() (int64, error)
	Blockers(ctx context.Context) ([]mysqlctl.Blocker, error)
	DisabledEvents(ctx context.Context) (int, error)
	EnableEvents(ctx context.Context) error
	NoteEvents(ctx context.Context) error

	KillOwnSessions(ctx context.Context) error
	KillClients(ctx context.Context) error
	KillDump(ctx context.Context, replicaUUID, account string) error
	Fence(ctx context.Context) error
	Poison(ctx context.Context) error
	OpenWrites(ctx context.Context) error
	ConfigureSource(ctx context.Context, k int) error
	EnsureSchema(ctx context.Context, clusterID string) error
	Barrier(ctx context.Context, epoch, index uint64) error
	EnsureReplicationAccount(ctx context.Context, user, password string) error
	LockAccount(ctx context.Context, user string, locked bool) error

	Position(ctx context.Context) (mysqlctl.Position, error)
	SealReplica(ctx context.Context) (mysqlctl.Position, error)
	Drain(ctx context.Context) (gtid.Set, error)
	WaitExecuted(ctx context.Context, set gtid.Set) (gtid.Set, error)
	FlushBinlog(ctx context.Context) error
	StopApplier(ctx context.Context) error
	Follow(ctx context.Context, src mysqlctl.Source, ack bool) error
	SetReplicaAck(ctx context.Context, ack bool) error
	ResetReplica(ctx context.Context) error
	DiscardReceived(ctx context.Context) error

	Clone(ctx context.Context, donor mysqlctl.Source, dir string, limit int64, progress func(mysqlctl.CloneProgress)) error
}
