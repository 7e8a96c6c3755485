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
