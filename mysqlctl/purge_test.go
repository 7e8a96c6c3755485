package mysqlctl_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/mysqltest"
)

// Binary logs are listed and read where they are, tags included; those before a name
// go, and nothing but the agent removes any, whatever my.cnf says.
func TestBinlogs(t *testing.T) {
	logs := t.TempDir()
	n := mysqltest.New(t, func(c *mysqlctl.Config) {
		c.LogBin = filepath.Join(logs, "bin")
		c.Options = append(c.Options, "--binlog-expire-logs-auto-purge=ON", "--binlog-expire-logs-seconds=1")
	})
	ctx := mysqltest.Ctx(t, enough)
	must(t, n.Start(ctx))
	mysqltest.Primary(t, 0, n)
	first := n.MustStatus().Executed
	n.Exec("FLUSH NO_WRITE_TO_BINLOG BINARY LOGS", "SET gtid_next = 'AUTOMATIC:tagged'", "INSERT INTO app.t (v) VALUES ('tagged')", "SET gtid_next = 'AUTOMATIC'")
	second := n.MustStatus().Executed
	files, err := n.Binlogs()
	must(t, err)
	must(t, os.Chtimes(filepath.Join(logs, files[0].Name), time.Time{}, time.Now().Add(-time.Hour)))
	n.Exec("FLUSH NO_WRITE_TO_BINLOG BINARY LOGS", "INSERT INTO app.t (v) VALUES ('one')")

	files, err = n.Binlogs()
	must(t, err)
	if len(files) < 3 || files[0].Size == 0 || time.Since(files[0].Closed) < time.Hour || time.Since(files[1].Closed) > time.Minute {
		t.Fatalf("%+v", files)
	}
	last := files[len(files)-1].Name
	for name, want := range map[string]string{files[len(files)-2].Name: first.String(), last: second.String()} {
		got, err := n.BinlogBefore(ctx, name)
		must(t, err)
		if got.String() != want {
			t.Errorf("before %s: %s, not %s", name, got, want)
		}
	}
	if _, err := n.BinlogBefore(ctx, "bin.999999"); err == nil {
		t.Error("there is no such log")
	}
	for _, auto := range []string{"OFF", "ON"} {
		n.Exec("SET GLOBAL binlog_expire_logs_auto_purge = " + auto)
		if after, err := n.TakePurging(ctx); err != nil || after != time.Second || n.Value("SELECT @@global.binlog_expire_logs_auto_purge") != "0" {
			t.Errorf("%s: %v, %v", auto, after, err)
		}
	}
	if size, free, err := n.BinlogRoom(); err != nil || free <= 0 || size < free {
		t.Errorf("%d of %d bytes are free: %v", free, size, err)
	}
	must(t, n.PurgeTo(ctx, last))
	if left, err := n.Binlogs(); err != nil || len(left) != 1 || left[0].Name != last {
		t.Errorf("left are %+v, %v", left, err)
	}
	must(t, n.Kill(ctx))
	if _, err := n.TakePurging(ctx); !errors.Is(err, mysqlctl.ErrNotRunning) {
		t.Error(err)
	}
}
