package main_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/sandbox"
)

// standIn behaves towards agents as xtrabackup and xbstream do, by their documentation;
// the copy itself is made by CLONE and tar. Its position is that of before the copy.
const standIn = `#!/bin/sh
set -e
case "$*" in
*--version*) echo "xtrabackup version VERSION-1 based on MySQL server VERSION Linux (x86_64) (revision id: 0)" >&2 ;;
*--backup*)
	options=${1#--defaults-file=}
	for a; do case $a in --target-dir=*) dir=${a#--target-dir=} ;; esac; done
	position=$(CLIENT --defaults-file="$options" -NBe "SELECT @@gtid_executed")
	CLIENT --defaults-file="$options" -e "CLONE LOCAL DATA DIRECTORY = '$dir/copy'"
	printf 'binlog.000001\t4\t%b\n' "$position" >"$dir/copy/xtrabackup_binlog_info"
	tar -C "$dir/copy" -cf - .
	echo "completed OK!" >&2
	;;
*--prepare*)
	dir=${3#--target-dir=}
	echo "backup_type = full-prepared" >"$dir/xtrabackup_checkpoints"
	echo "completed OK!" >&2
	;;
*) exec tar -xf - -C "$3" ;;
esac
`

// standIns puts them where agents that are started from now on look for them.
func standIns(t *testing.T) (install func()) {
	t.Helper()
	mysqld := os.Getenv("HA_MYSQLD")
	if testing.Short() || mysqld == "" {
		t.Skip("needs a mysqld: set HA_MYSQLD (make test does), and no -short")
	}
	client := filepath.Join(filepath.Dir(mysqld), "mysql")
	if _, err := os.Stat(client); err != nil {
		t.Skip("NOT TESTED: a rebuild by a tool; there is no mysql beside mysqld")
	}
	said, err := exec.Command(mysqld, "--no-defaults", "--version").Output()
	version := regexp.MustCompile(`\d+\.\d+\.\d+`).FindString(string(said))
	if err != nil || version == "" {
		t.Fatalf("version of mysqld: %v: %s", err, said)
	}
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	text := strings.NewReplacer("VERSION", version, "CLIENT", client).Replace(standIn)
	return func() {
		for _, name := range []string{"xbstream", "xtrabackup"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A replica is rebuilt by a tool, under load, also where its mysqld does not start; and
// refused where the tool is missing, or not for this server.
func TestCopyByATool(t *testing.T) {
	install := standIns(t)
	c := newCopies(t, "127.0.114.0")
	st := c.healthy()
	node := c.replicas(st)[0]
	ask := func(engine string, more ...string) []string {
		return append([]string{"rebuild", "--node", node, "--from", "best", "--engine", engine}, more...)
	}
	// The agents have looked which tools there are.
	var said string
	c.eventually(20*time.Second, "a reason", func() (bool, string) {
		_, said = c.try(ask("xtrabackup", "--dry-run")...)
		return strings.Contains(said, "is not installed"), said
	})
	said = c.must(api.ExitRefused, ask("xtrabackup", "--dry-run")...)
	if !strings.Contains(said, "HA-NO-ENGINE") || !strings.Contains(said, node+" cannot copy with xtrabackup: xbstream is not installed") {
		t.Errorf("said %s", said)
	}
	if said := c.must(api.ExitRefused, ask("mariadb-backup")...); !strings.Contains(said, "cannot copy with mariadb-backup") {
		t.Errorf("said %s", said)
	}
	install()
	found := func() {
		t.Helper()
		c.eventually(60*time.Second, "the tool is found", func() (bool, string) {
			code, said := c.try(ask("xtrabackup", "--dry-run")...)
			return code == 0 && strings.Contains(said, "by xtrabackup"), said
		})
	}
	found()
	for _, state := range []string{"healthy", "garbage"} {
		if state == "garbage" {
			c.garble(node)
			found()
		}
		uuid := ""
		if state == "healthy" {
			uuid = c.value(node, "SELECT @@server_uuid")
		}
		at := time.Now()
		said := c.must(0, ask("xtrabackup", "--wait", "90s")...)
		t.Logf("%s: %s after %s", state, strings.TrimSpace(said), time.Since(at).Round(10*time.Millisecond))
		c.well(node)
		if c.value(node, "SELECT @@server_uuid") == uuid {
			t.Error("the copy has the server_uuid of the old data")
		}
		if _, err := os.Stat(filepath.Join(c.NodeDir(node), "data", "xtrabackup_checkpoints")); err != nil {
			t.Errorf("the data were not copied by the tool: %v", err)
		}
	}
	faults := toolFaults[:2]
	if os.Getenv("HA_COPIES") == "all" {
		faults = slices.Concat(toolFaults, copyFaults)
	}
	for _, f := range faults {
		if t.Failed() {
			return
		}
		c.fault(f, 30, "xtrabackup")
		c.noTools()
	}
	c.check()
}

// toolFaults happen to copies by tools only, or elsewhere in them; the first two are
// the fast choice.
var toolFaults = []copyFault{
	{"donor's tool killed", func(c copies, _, from string) { c.killAt(toolDir(c, from)) }, true, 0},
	{"recipient's agent killed while the copy is opened", func(c copies, to, _ string) {
		c.eventually(60*time.Second, "the copy is opened", func() (bool, string) {
			return len(processes("--datadir="+unfinished(c, to))) > 0, c.rebuild(to).Phase
		})
		c.kill(to, sandbox.KillAgent)
		c.start(to)
	}, true, 0},
	{"unpacking tool killed", func(c copies, to, _ string) { c.killAt(unfinished(c, to)) }, true, 0},
}

func toolDir(c copies, node string) string { return filepath.Join(c.NodeDir(node), "data.tool") }
func unfinished(c copies, node string) string {
	return filepath.Join(c.NodeDir(node), "data.clone", "data")
}

// killAt kills what has that directory in its command line.
func (c copies) killAt(dir string) {
	c.Helper()
	found := processes(dir)
	if len(found) == 0 {
		c.Fatalf("nothing runs in %s", dir)
	}
	for pid, line := range found {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			c.Errorf("kill %s: %v", line, err)
		}
	}
}

// noTools waits until no tool runs or has left anything on any donor.
func (c copies) noTools() {
	c.Helper()
	for _, n := range c.status().Nodes {
		dir := toolDir(c, n.Name)
		c.eventually(20*time.Second, "no tool in "+dir, func() (bool, string) {
			_, err := os.Lstat(dir)
			left := processes(dir)
			return errors.Is(err, fs.ErrNotExist) && len(left) == 0, fmt.Sprint(left, err)
		})
	}
}
