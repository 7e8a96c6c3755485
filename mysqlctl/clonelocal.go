package mysqlctl

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// CloneLocal copies this server's own data into dataDir on its own disk: a
// consistent copy of all committed rows, while the server goes on, read-only or not,
// replicating or not. dataDir must not exist, and mysqld must be able to write to its
// parent. progress, if not nil, is called about every 200 ms.
//
// A clone that failed or was ended leaves its files: to remove them is the caller's.
// A server makes one clone at a time. MySQL has no throttle for it.
func (s *Server) CloneLocal(ctx context.Context, dataDir string, progress func(CloneProgress)) error {
	s.mu.Lock()
	has := s.info.hasClone
	s.mu.Unlock()
	if !has {
		return fmt.Errorf("%w: the clone plugin is not loaded", ErrUnsupported)
	}
	p, err := s.connected()
	if err != nil {
		return err
	}
	c, err := p.get(ctx)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		keep, err := s.execOn(ctx, c, cloneGrace, "CLONE LOCAL DATA DIRECTORY = "+quote(dataDir))
		p.put(c, keep)
		done <- err
	}()
	if err := s.watchClone(ctx, done, progress); err != nil {
		return fmt.Errorf("clone to %s: %w", dataDir, err)
	}
	return nil
}

// CopyOptions are what a server must be told to start on a copy of this one's data,
// as --name=value: mysqld refuses to start with other values than the data were made
// with.
func (s *Server) CopyOptions(ctx context.Context) ([]string, error) {
	names := []string{"lower_case_table_names", "innodb_page_size", "innodb_data_file_path"}
	values := make([]string, len(names))
	dest := make([]any, len(names))
	for i := range values {
		dest[i] = &values[i]
	}
	if err := s.readOne(ctx, dest, "SELECT @@global."+strings.Join(names, ", @@global.")); err != nil {
		return nil, err
	}
	for i, name := range names {
		values[i] = "--" + strings.ReplaceAll(name, "_", "-") + "=" + values[i]
	}
	return values, nil
}

// ForgetCluster removes from the data what names the cluster that they come from: the
// schema ha and the accounts of its replicas. It writes no GTID. It opens the server
// for a moment, and so is for one that nobody else can reach.
func (s *Server) ForgetCluster(ctx context.Context) error {
	var users []string
	err := s.read(ctx, func(rows *sql.Rows) error {
		users = nil
		for rows.Next() {
			var user string
			if err := rows.Scan(&user); err != nil {
				return err
			}
			users = append(users, user)
		}
		return nil
	}, `SELECT User FROM mysql.user WHERE User LIKE 'ha\_r\_%' AND Host = '%'`)
	if err != nil {
		return fmt.Errorf("forget cluster: %w", err)
	}
	statements := []string{"SET SESSION sql_log_bin = 0", "SET GLOBAL super_read_only = 0", "DROP DATABASE IF EXISTS ha"}
	for _, user := range users {
		statements = append(statements, "DROP USER IF EXISTS "+quote(user)+"@'%'")
	}
	statements = append(statements, "SET GLOBAL super_read_only = 1", "SET SESSION sql_log_bin = 1")
	if err := s.exec(ctx, strings.Join(statements, "; ")); err != nil {
		return fmt.Errorf("forget cluster: %w", err)
	}
	return nil
}
