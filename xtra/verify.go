package xtra

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// mariadbAccounts is MariaDB's file of accounts: it has no mysql.ibd.
const mariadbAccounts = "mysql/global_priv.MAD"

// verify looks for what every server has, and for CLONE's own marks of a copy
// that is not finished.
func verify(dir string) error {
	system := "mysql.ibd"
	if mariadb, err := exists(filepath.Join(dir, mariadbAccounts)); err != nil || mariadb {
		system = mariadbAccounts
	}
	for _, name := range []string{"ibdata1", system} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrIncomplete, err)
		}
		if !info.Mode().IsRegular() || info.Size() == 0 {
			return fmt.Errorf("%w: %s is empty", ErrIncomplete, name)
		}
	}
	for _, mark := range []string{"#status_in_progress", "#status_error"} {
		if found, err := exists(filepath.Join(dir, "#clone", mark)); err != nil || found {
			return errors.Join(fmt.Errorf("%w: %s", ErrIncomplete, mark), err)
		}
	}
	return nil
}
