package load

import (
	"context"
	"database/sql"
	"fmt"
)

// fillRow is the size of a row of Fill, in MiB.
const fillRow = 2

// Fill sees that there are so many MiB in the table filler, for copies to carry. db is a
// connection of a person who may set session variables, with the schema chosen.
func Fill(ctx context.Context, db *sql.DB, mib int) error {
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	// The rows compress well: the binary logs, which copies do not carry, stay small.
	for _, stmt := range []string{
		"SET SESSION binlog_transaction_compression = ON",
		"CREATE TABLE IF NOT EXISTS filler (id INT AUTO_INCREMENT PRIMARY KEY, b LONGBLOB)",
	} {
		if _, err := c.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("%s: %w", stmt, err)
		}
	}
	var rows int
	if err := c.QueryRowContext(ctx, "SELECT COUNT(*) FROM filler").Scan(&rows); err != nil {
		return err
	}
	for ; rows*fillRow < mib; rows++ {
		if _, err := c.ExecContext(ctx, fmt.Sprintf("INSERT INTO filler (b) SELECT REPEAT(CHAR(65 + RAND() * 26), %d << 20)", fillRow)); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	return nil
}

// FillSum is a checksum over the rows of Fill.
func FillSum(ctx context.Context, db *sql.DB) (string, error) {
	var sum string
	err := db.QueryRowContext(ctx, "SELECT CONCAT(COUNT(*), ' ', SUM(CRC32(b))) FROM filler").Scan(&sum)
	return sum, err
}

// FillLog makes the binary logs of a primary and its replicas so many MiB longer, in
// events of 8 KB, and waits for the replicas. The connections are of a person who may set
// global variables, with the schema chosen: what replicas receive meanwhile they do not
// sync, event by event.
func FillLog(ctx context.Context, mib int, primary *sql.DB, replicas ...*sql.DB) error {
	for _, r := range replicas {
		if _, err := r.ExecContext(ctx, "SET GLOBAL sync_relay_log = 0"); err != nil {
			return err
		}
		defer func() { _, _ = r.ExecContext(context.WithoutCancel(ctx), "SET GLOBAL sync_relay_log = 1") }()
	}
	if _, err := primary.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS logged (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(9000))"); err != nil {
		return fmt.Errorf("fill log: %w", err)
	}
	for ; mib > 0; mib -= 8 {
		if _, err := primary.ExecContext(ctx, `INSERT INTO logged (v)
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT REPEAT('x', 8000) FROM n`); err != nil {
			return fmt.Errorf("fill log: %w", err)
		}
	}
	for _, r := range replicas {
		if err := AwaitExecuted(ctx, primary, r); err != nil {
			return err
		}
	}
	return nil
}
