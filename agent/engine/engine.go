// Package engine copies a server's data with a tool that streams them: xtrabackup for
// MySQL, mariadb-backup for MariaDB. The donor's agent runs the tool and sends what it
// writes; the recipient's unpacks that, has the tool prepare it, and reads from it at
// which transaction it is.
//
// A copy is whole only if the tool on the donor said so and exited with 0, if all that
// it wrote came, by its sum, and if unpacking and preparing went well too. Until then
// Fetch gives nothing.
package engine

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"ha/agent/api"
)

// Engine is one tool. Their forms are the same: the one was made from the other.
type Engine struct {
	Name   string
	Server string // whose data it copies: MySQL or MariaDB
	backup string // the program that reads data, and prepares copies
	unpack string // the program that unpacks what it streams
	// positions are the names that the file with the position has had, newest first;
	// states likewise for the file with the state of the copy.
	positions, states []string
	// prepared is the state of a copy that a server can be started on.
	prepared string
}

// XtraBackup is Percona's tool for MySQL. It was not run yet: what it writes is taken
// from its documentation.
var XtraBackup = Engine{
	Name: "xtrabackup", Server: "MySQL", backup: "xtrabackup", unpack: "xbstream",
	positions: []string{"xtrabackup_binlog_info"}, states: []string{"xtrabackup_checkpoints"}, prepared: "full-prepared",
}

// MariaDBBackup is MariaDB's tool.
var MariaDBBackup = Engine{
	Name: "mariadb-backup", Server: "MariaDB", backup: "mariadb-backup", unpack: "mbstream",
	positions: []string{"mariadb_backup_binlog_info", "xtrabackup_binlog_info"},
	states:    []string{"mariadb_backup_checkpoints", "xtrabackup_checkpoints"}, prepared: "log-applied",
}

// All are the engines of this package.
var All = []Engine{XtraBackup, MariaDBBackup}

// Find finds one by its name; an api.Error if there is none.
func Find(name string) (Engine, error) {
	var names []string
	for _, e := range All {
		if e.Name == name {
			return e, nil
		}
		names = append(names, e.Name)
	}
	return Engine{}, api.Usage("there is no engine %q", name).WithHint("Engines: %s.", strings.Join(names, ", "))
}

// versionBound is how long a tool may take to tell its version.
const versionBound = 5 * time.Second

// Check says why the engine cannot be used here, beside a server of that version
// (@@version); "" if it can. It runs the tool.
func (e Engine) Check(ctx context.Context, server string) string {
	if _, err := exec.LookPath(e.unpack); err != nil {
		return fmt.Sprintf("%s is not installed", e.unpack)
	}
	path, err := exec.LookPath(e.backup)
	if err != nil {
		return fmt.Sprintf("%s is not installed", e.backup)
	}
	ctx, cancel := context.WithTimeout(ctx, versionBound)
	defer cancel()
	said, err := exec.CommandContext(ctx, path, "--no-defaults", "--version").CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s --version: %s", e.backup, errors.Join(err, ctx.Err()))
	}
	return e.fits(string(said), server)
}

// based finds in "xtrabackup version 8.4.0-2 based on MySQL server 8.4.0 Linux (x86_64)"
// or "mariadb-backup based on MariaDB server 10.11.19-MariaDB debian-linux-gnu" what a
// tool was made of.
var (
	based   = regexp.MustCompile(`based on (MySQL|MariaDB) server (\d+)\.(\d+)\.(\d+)`)
	release = regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)`)
)

// fits says why a tool cannot read the data of a server; "" if it can. The format of
// the redo log changes between releases, and MySQL 8.0 changed it within one.
func (e Engine) fits(tool, server string) string {
	is := "MySQL"
	if strings.Contains(strings.ToLower(server), "mariadb") {
		is = "MariaDB"
	}
	if is != e.Server {
		return fmt.Sprintf("%s copies %s, and the server is %s %s", e.Name, e.Server, is, server)
	}
	t, s := based.FindStringSubmatch(tool), release.FindStringSubmatch(server)
	if t == nil || t[1] != e.Server || s == nil {
		return fmt.Sprintf("it is not known whether %q can copy %s %s", strings.TrimSpace(tool), is, server)
	}
	patch, _ := strconv.Atoi(t[4])
	need, _ := strconv.Atoi(s[3])
	if t[2] != s[1] || t[3] != s[2] || s[1]+"."+s[2] == "8.0" && patch < need {
		return fmt.Sprintf("%s is of %s %s.%s.%s, and the server is %s", e.backup, is, t[2], t[3], t[4], server)
	}
	return ""
}
