package backup

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/mysqlctl"
)

// What cannot be restored leaves the place as it was, and nothing beside it.
func TestRestoreLeavesNothing(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		backup string
		there  string // a file in the data directory
		dir    bool   // which is there
		ctx    context.Context
		code   int
		want   string
	}{
		"data are there":      {backup: "1", there: "ibdata1", dir: true, code: api.ExitRefused, want: "not empty"},
		"file missing":        {backup: "broken", code: api.ExitRefused, want: "ibdata1 differs: it is missing"},
		"file missing, empty": {backup: "broken", dir: true, code: api.ExitRefused, want: "no good"},
		"no backup":           {backup: "1/data", code: api.ExitRefused, want: "manifest.json"},
		"does not open":       {backup: "1", dir: true, code: api.ExitFailed, want: "open the copy"},
		"ended":               {backup: "1", ctx: ended, code: api.ExitFailed, want: "canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			host := t.TempDir()
			r := Restore{Server: mysqlctl.Config{Mysqld: "/bin/false", DataDir: filepath.Join(host, "mysql"), Socket: filepath.Join(host, "s"), PidFile: filepath.Join(host, "p")},
				Backup: filepath.Join(lay(t, "1", "broken"), c.backup), StartTimeout: time.Minute}
			var want []string
			if c.dir {
				want = append(want, "mysql")
				if err := os.Mkdir(r.Server.DataDir, 0o750); err != nil {
					t.Fatal(err)
				}
			}
			if c.there != "" {
				if err := os.WriteFile(filepath.Join(r.Server.DataDir, c.there), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ctx := c.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			_, err := r.Run(ctx, func(Progress) {})
			if err == nil || !strings.Contains(err.Error(), c.want) || api.ExitCode(err) != c.code {
				t.Errorf("exit %d: %v", api.ExitCode(err), err)
			}
			entries, _ := os.ReadDir(host)
			var left []string
			for _, e := range entries {
				left = append(left, e.Name())
			}
			if strings.Join(left, " ") != strings.Join(want, " ") {
				t.Errorf("left %q, want %q", left, want)
			}
			if inside, _ := os.ReadDir(r.Server.DataDir); c.there == "" && len(inside) > 0 || c.there != "" && len(inside) != 1 {
				t.Errorf("in the data directory: %v", inside)
			}
		})
	}
}

// Two restores to one place do not meet.
func TestRestoreOnce(t *testing.T) {
	r := Restore{Server: mysqlctl.Config{DataDir: filepath.Join(t.TempDir(), "mysql")}, Backup: filepath.Join(lay(t, "1"), "1")}
	if err := os.MkdirAll(filepath.Join(r.dir(), "of an interrupted one"), 0o750); err != nil {
		t.Fatal(err)
	}
	release, err := r.begin(0)
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(r.dir()); len(left) > 0 {
		t.Errorf("left is %v", left)
	}
	if _, err := r.begin(0); api.ExitCode(err) != api.ExitBusy {
		t.Errorf("%v", err)
	}
	release()
}

// Logs are replayed in the order of their numbers, and those of one server only.
func TestRestoreLogs(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		want  string // base names; or what the error says
	}{
		"order":       {[]string{"db.1-bin.999999", "db.1-bin.1000000", "db.1-bin.index", "relay-bin.000001", "notes", ".ha_cut.db.1-bin.999999.15432"}, "db.1-bin.999999 db.1-bin.1000000"},
		"two servers": {[]string{"a.000001", "b.000001"}, "two names"},
		"none":        {[]string{"relay-bin.000001", "binlog.index"}, "no binary logs"},
	} {
		t.Run(name, func(t *testing.T) {
			r := Restore{Logs: t.TempDir()}
			for _, f := range c.files {
				if err := os.WriteFile(filepath.Join(r.Logs, f), []byte("1234"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			names, size, err := r.logs()
			if err != nil {
				if api.ExitCode(err) != api.ExitUsage || !strings.Contains(err.Error(), c.want) {
					t.Error(err)
				}
				return
			}
			for i := range names {
				names[i] = filepath.Base(names[i])
			}
			if strings.Join(names, " ") != c.want || size != int64(4*len(names)) {
				t.Errorf("%q, %d bytes", names, size)
			}
		})
	}
}

func TestParseUntil(t *testing.T) {
	const gtid = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
	for text, ok := range map[string]bool{"": true, "2026-01-31T12:00:00.5+01:00": true, gtid + ":7": true, gtid + ":tag:7": true,
		"2026-01-31T12:00:00": false, "2026-01-31 12:00:00": false, gtid + ":7-8": false, gtid: false, "yesterday": false} {
		_, err := ParseUntil(text, "logs")
		if (err == nil) != ok || err != nil && api.ExitCode(err) != api.ExitUsage {
			t.Errorf("%q: %v", text, err)
		}
		if _, err := ParseUntil(text, ""); (err == nil) != (text == "") {
			t.Errorf("%q without logs: %v", text, err)
		}
	}
}
