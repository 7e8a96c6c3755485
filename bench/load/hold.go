package load

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Lock lets no applier write rows on a server until end is called. db is a connection
// of a person who may lock tables, with the schema chosen or named in front of table.
func Lock(ctx context.Context, db *sql.DB, table string) (end func(), err error) {
	db.SetMaxIdleConns(-1) // closed is closed
	c, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := c.ExecContext(ctx, "LOCK TABLES "+table+" READ"); err != nil {
		c.Close()
		return nil, err
	}
	return func() { _ = c.Close() }, nil
}

// EndDumps ends the connections of a server's replicas.
func EndDumps(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, "SELECT PROCESSLIST_ID FROM performance_schema.threads WHERE PROCESSLIST_COMMAND LIKE 'Binlog Dump%'")
	if err != nil {
		return err
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	errs := []error{rows.Err()}
	for _, id := range ids {
		_, err := db.ExecContext(ctx, fmt.Sprint("KILL ", id))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
