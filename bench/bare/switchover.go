package bare

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// SwitchOver hands the primary's role to the next server: that catches up, the third
// replicates from it beforehand, so that its first commit is acknowledged at once, the
// old primary becomes read-only, and the next one opens when it has all of it.
func (b *Cluster) SwitchOver(ctx context.Context, old *Server) (*Server, error) {
	var rest []*Server
	for _, s := range b.Servers {
		if s != old {
			rest = append(rest, s)
		}
	}
	next, other := rest[0], rest[1]
	chain := []string{"STOP REPLICA IO_THREAD", fmt.Sprintf("CHANGE REPLICATION SOURCE TO SOURCE_HOST='%s'", next.IP), "START REPLICA IO_THREAD"}
	if err := other.Exec(ctx, chain...); err != nil {
		return nil, err
	}
	if err := other.attached(ctx); err != nil {
		return nil, err
	}
	if err := old.Exec(ctx, "SET GLOBAL super_read_only=ON"); err != nil {
		return nil, err
	}
	var set string
	if err := old.DB.QueryRowContext(ctx, "SELECT @@global.gtid_executed").Scan(&set); err != nil {
		return nil, err
	}
	var timedOut int
	if err := next.DB.QueryRowContext(ctx, "SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 30)", strings.ReplaceAll(set, "\n", "")).Scan(&timedOut); err != nil || timedOut != 0 {
		return nil, errors.Join(fmt.Errorf("%s does not catch up", next.Name), err)
	}
	err := next.Exec(ctx, "STOP REPLICA IO_THREAD", "SET GLOBAL rpl_semi_sync_source_enabled=ON", "SET GLOBAL super_read_only=OFF, GLOBAL read_only=OFF")
	if err != nil {
		return nil, err
	}
	// Clients write again; what follows is housekeeping. The old primary receives at
	// once: to switch its source side off takes a second, and it would stay behind.
	if err := errors.Join(next.Exec(ctx, "STOP REPLICA", "RESET REPLICA ALL"), old.Exec(ctx, source(next), "START REPLICA IO_THREAD")); err != nil {
		return nil, err
	}
	return next, old.Exec(ctx, "SET GLOBAL rpl_semi_sync_source_enabled=OFF", "START REPLICA SQL_THREAD")
}

// attached waits until the receiver is connected.
func (s *Server) attached(ctx context.Context) error {
	return s.await(ctx, attachBound, func(ctx context.Context) bool {
		var state string
		return s.DB.QueryRowContext(ctx, "SELECT SERVICE_STATE FROM performance_schema.replication_connection_status").Scan(&state) == nil && state == "ON"
	})
}
