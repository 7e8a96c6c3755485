package mysqlctl

import (
	"context"
	"fmt"

	"ha/mysqlctl/gtid"
)

// AddExecuted has the server take transactions for executed whose rows it has: those of
// set that it does not know of yet. It writes no GTID of its own and may be read-only.
// To add what is there is no error.
func (s *Server) AddExecuted(ctx context.Context, set gtid.Set) error {
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	missing := set.Minus(st.Executed)
	if missing.IsEmpty() {
		return nil
	}
	if err := s.exec(ctx, "SET GLOBAL gtid_purged = "+quote("+"+missing.String())); err != nil {
		return fmt.Errorf("add %s to what was executed: %w", missing, err)
	}
	return nil
}
