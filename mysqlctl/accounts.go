package mysqlctl

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// EnsureReplicationAccount makes the account 'user'@'%' that a replica, or a clone,
// of this primary uses: REPLICATION SLAVE and BACKUP_ADMIN, TLS required where the
// server has it. It writes nothing, no GTID either, if the account is right: the
// password is tried by logging in. It goes into the binary log, and so waits for
// acknowledgements like any commit, and while it waits nobody can log in. ErrReadOnly
// where the server is read-only and something is missing.
func (s *Server) EnsureReplicationAccount(ctx context.Context, user, password string) error {
	s.mu.Lock()
	d := s.info.dialect
	s.mu.Unlock()
	privileges := []string{"REPLICATION SLAVE"}
	grants := []string{"REPLICATION SLAVE ON *.*"}
	if d.hasDynamicPrivileges() {
		privileges = append(privileges, "BACKUP_ADMIN")
		grants = append(grants, "BACKUP_ADMIN ON *.*")
	}
	made, err := s.ensureUser(ctx, user, password, true)
	if err != nil {
		return err
	}
	if !made {
		var have int
		err := s.readOne(ctx, []any{&have}, "SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = ? AND PRIVILEGE_TYPE IN ('"+
			strings.Join(privileges, "', '")+"')", quote(user)+"@'%'")
		if err != nil || have == len(privileges) {
			return err
		}
	}
	return s.grant(ctx, user, grants)
}

// EnsureAccount makes an ordinary account 'user'@'%', like that of the sandbox's
// application. The grants ("ALL ON app.*") are given when it is made, not checked
// later; the agent's own account has to have them (Account.Extra).
func (s *Server) EnsureAccount(ctx context.Context, user, password string, grants ...string) error {
	made, err := s.ensureUser(ctx, user, password, false)
	if err != nil || !made {
		return err
	}
	return s.grant(ctx, user, grants)
}

func (s *Server) grant(ctx context.Context, user string, grants []string) error {
	for _, g := range grants {
		if err := s.commit(ctx, "GRANT "+g+" TO "+quote(user)+"@'%'"); err != nil {
			return fmt.Errorf("grant %s to %s: %w", g, user, readOnly(err))
		}
	}
	return nil
}

// ensureUser makes the account, or gives it the password if that does not fit.
func (s *Server) ensureUser(ctx context.Context, user, password string, wantTLS bool) (made bool, err error) {
	exists, _, err := s.account(ctx, user)
	if err != nil {
		return false, err
	}
	statement := "ALTER USER "
	if !exists {
		statement = "CREATE USER "
	} else if ok, err := s.login(ctx, user, password); err != nil || ok {
		return false, err
	}
	statement += quote(user) + "@'%' IDENTIFIED BY " + quote(password)
	if wantTLS {
		tls, err := s.hasTLS(ctx)
		if err != nil {
			return false, err
		}
		if tls {
			statement += " REQUIRE SSL"
		}
	}
	if err := s.commit(ctx, statement); err != nil {
		return false, fmt.Errorf("account %s: %w", user, readOnly(err))
	}
	return !exists, nil
}

// account reads whether 'user'@'%' exists, and is locked.
func (s *Server) account(ctx context.Context, user string) (exists, locked bool, err error) {
	var flag string
	err = s.readOne(ctx, []any{&flag}, "SELECT account_locked FROM mysql.user WHERE User = ? AND Host = '%'", user)
	if errors.Is(err, sql.ErrNoRows) {
		return false, false, nil
	}
	return err == nil, flag == "Y", err
}

func (s *Server) hasTLS(ctx context.Context) (bool, error) {
	var notAfter string
	err := s.readOne(ctx, []any{&notAfter}, "SELECT VARIABLE_VALUE FROM performance_schema.global_status WHERE VARIABLE_NAME = 'Ssl_server_not_after'")
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return notAfter != "", err
}

// login reports whether the password fits. A locked account answers only to the
// right one. TLS here is for accounts that require it; the socket is safe as it is.
func (s *Server) login(ctx context.Context, user, password string) (bool, error) {
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr, cfg.User, cfg.Passwd = "unix", s.cfg.Socket, user, password
	cfg.TLS = &tls.Config{InsecureSkipVerify: true}
	cfg.AllowFallbackToPlaintext = true
	cfg.Timeout = connectTimeout
	cfg.Logger = log.New(io.Discard, "", 0)
	conn, err := mysql.NewConnector(cfg)
	if err != nil {
		return false, err
	}
	c, err := conn.Connect(ctx)
	switch {
	case err == nil:
		return true, c.Close()
	case isError(err, errLocked):
		return true, nil
	case isError(err, errAccessDenied):
		return false, nil
	}
	return false, fmt.Errorf("try the password of %s: %w", user, orDeadline(ctx, err))
}

// LockAccount locks or unlocks 'user'@'%', outside the binary log. A locked account
// cannot log in; sessions that it has stay (KillDump). Works in 15 ms while commits
// wait. Nothing to do if it is so already; otherwise ErrReadOnly on a read-only
// server, where MySQL has no way to do it: unlock after OpenWrites.
func (s *Server) LockAccount(ctx context.Context, user string, locked bool) error {
	exists, is, err := s.account(ctx, user)
	switch {
	case err != nil:
		return err
	case !exists && !locked:
		return fmt.Errorf("unlock account: there is no '%s'@'%%'", user)
	case !exists, is == locked:
		return nil // nobody logs in as who is not there
	}
	word := "UNLOCK"
	if locked {
		word = "LOCK"
	}
	err = s.exec(ctx, "SET SESSION sql_log_bin = 0; ALTER USER "+quote(user)+"@'%' ACCOUNT "+word+"; SET SESSION sql_log_bin = 1")
	if err != nil {
		return fmt.Errorf("account %s %s: %w", user, strings.ToLower(word), readOnly(err))
	}
	return nil
}
