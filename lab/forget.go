package lab

import (
	"context"

	"ha/agent/sandbox"
)

// Forget drops the rows that were checked, so that a long run does not compare them
// again and again. The load must have stopped.
func (s *Scene) Forget(ctx context.Context) error {
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	db, err := s.Root(st.Primary)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "TRUNCATE "+sandbox.AppSchema+".load_rows"); err != nil {
		return err
	}
	s.past, s.epoch = nil, st.Epoch
	return nil
}
