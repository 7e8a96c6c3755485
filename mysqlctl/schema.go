package mysqlctl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
)

const (
	barrierRows = 64 // a barrier that waits holds its row: the next one takes another
	maxBarriers = 4  // that wait in the server at a time
)

// barriers counts those that still wait.
type barriers struct {
	next    atomic.Uint64
	waiting atomic.Int64
}

// ClusterID returns the cluster that the data belong to, "" if none.
func (s *Server) ClusterID(ctx context.Context) (string, error) {
	var tables int
	err := s.readOne(ctx, []any{&tables}, "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'ha' AND TABLE_NAME = 'cluster'")
	if err != nil || tables == 0 {
		return "", err
	}
	var id string
	err = s.readOne(ctx, []any{&id}, "SELECT id FROM ha.cluster LIMIT 1")
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return id, err
}

// EnsureSchema makes the schema ha with the barrier table and the cluster id, on
// the writable primary. It writes nothing, no GTID either, if all is there. Its
// statements wait for acknowledgements like any commit. ErrForeignCluster if the
// data name another cluster, ErrReadOnly where it cannot write.
func (s *Server) EnsureSchema(ctx context.Context, clusterID string) error {
	id, err := s.ClusterID(ctx)
	if err != nil {
		return err
	}
	if id != "" && id != clusterID {
		return fmt.Errorf("%w: %s", ErrForeignCluster, id)
	}
	var tables int
	err = s.readOne(ctx, []any{&tables}, "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'ha' AND TABLE_NAME IN ('cluster', 'barrier')")
	if err != nil {
		return err
	}
	if tables < 2 {
		for _, statement := range []string{
			"CREATE DATABASE IF NOT EXISTS ha",
			"CREATE TABLE IF NOT EXISTS ha.barrier (id INT UNSIGNED NOT NULL PRIMARY KEY, epoch BIGINT UNSIGNED NOT NULL, token BIGINT UNSIGNED NOT NULL, ts TIMESTAMP(6) NOT NULL) ENGINE=InnoDB",
			"CREATE TABLE IF NOT EXISTS ha.cluster (id VARCHAR(64) NOT NULL PRIMARY KEY) ENGINE=InnoDB",
		} {
			if err := s.commit(ctx, statement); err != nil {
				return readOnly(err)
			}
		}
	}
	if id == "" {
		return readOnly(s.commit(ctx, "INSERT INTO ha.cluster (id) VALUES (?)", clusterID))
	}
	return nil
}

// Barrier commits one row of ha's own table. Its OK proves that as many of the
// replicas attached now as a commit waits for hold everything before it. If ctx
// ends first the row goes on waiting in the server, where nothing can end it; with
// 4 of them waiting the answer is ErrBusy. ErrReadOnly on a read-only server.
func (s *Server) Barrier(ctx context.Context, epoch, index uint64) error {
	if s.barriers.waiting.Add(1) > maxBarriers {
		s.barriers.waiting.Add(-1)
		return fmt.Errorf("barrier: %w", ErrBusy)
	}
	p, err := s.connected()
	if err != nil {
		s.barriers.waiting.Add(-1)
		return err
	}
	c, err := p.get(ctx)
	if err != nil {
		s.barriers.waiting.Add(-1)
		return fmt.Errorf("barrier: %w", err)
	}
	done := make(chan error, 1)
	go func() {
		defer s.barriers.waiting.Add(-1)
		err := s.barrier(context.WithoutCancel(ctx), c, epoch, index)
		p.put(c, err == nil)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("barrier: %w", readOnly(err))
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("barrier: %w", ctx.Err())
	}
}

// barrier holds its session until the row is acknowledged.
func (s *Server) barrier(ctx context.Context, c *session, epoch, index uint64) error {
	for try := 0; ; try++ {
		row := s.barriers.next.Add(1) % barrierRows
		_, err := c.conn.ExecContext(ctx, "REPLACE INTO ha.barrier (id, epoch, token, ts) VALUES (?, ?, ?, NOW(6))", row, epoch, index)
		// A barrier of an earlier agent may still wait with its row locked.
		if !isError(err, errLockWait) || try == barrierRows {
			return err
		}
	}
}

// readOnly marks an error that came because the server is read-only.
func readOnly(err error) error {
	if isError(err, errReadOnly) {
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return err
}
