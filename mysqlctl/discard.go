package mysqlctl

import (
	"context"
	"database/sql"
	"fmt"
)

// DiscardReceived throws away what was received and is not applied, and the
// channel with it. The caller knows that it was never acknowledged to a client.
// Nothing to do where there is no channel.
func (s *Server) DiscardReceived(ctx context.Context) error {
	d, err := s.dialect()
	if err != nil {
		return err
	}
	if _, err := s.SealReplica(ctx); err != nil {
		return err
	}
	if a, err := s.applier(ctx); err != nil || a.channels == 0 {
		return err
	}
	if err := s.StopApplier(ctx); err != nil {
		return err
	}
	if err := s.execWhole(ctx, d.resetReplicaAll()); err != nil {
		return fmt.Errorf("discard received: %w", err)
	}
	return nil
}

// ReplicationAccounts returns the accounts 'ha_r_...'@'%' that can be used: not locked,
// and with the last of their privileges, for to make one takes several commits and
// that may end between them. Sorted.
func (s *Server) ReplicationAccounts(ctx context.Context) ([]string, error) {
	d, err := s.dialect()
	if err != nil {
		return nil, err
	}
	whole := "Repl_slave_priv = 'Y'"
	if d.hasDynamicPrivileges() {
		whole += " AND EXISTS (SELECT 1 FROM mysql.global_grants g WHERE g.USER = u.User AND g.HOST = u.Host AND g.PRIV = 'BACKUP_ADMIN')"
	}
	users := []string{}
	err = s.read(ctx, func(rows *sql.Rows) error {
		users = users[:0]
		for rows.Next() {
			var user string
			if err := rows.Scan(&user); err != nil {
				return err
			}
			users = append(users, user)
		}
		return nil
	}, `SELECT User FROM mysql.user u WHERE User LIKE 'ha\_r\_%' AND Host = '%' AND account_locked = 'N' AND `+whole+` ORDER BY User`)
	return users, err
}
