// Package stage sets up a sandbox for a benchmark and takes it away again.
package stage

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ha/agent/sandbox"
	"ha/bench/load"
)

// Stage is a sandbox of its own, in a directory of its own.
type Stage struct {
	*sandbox.Sandbox
	Dir     string
	Servers []load.Server
}

// Up builds ha (unless binary names one) and brings up three nodes at base.
func Up(ctx context.Context, binary, base string) (*Stage, error) {
	dir, err := os.MkdirTemp("", "ha-bench-")
	if err != nil {
		return nil, err
	}
	st := &Stage{Dir: dir}
	if binary == "" {
		binary = filepath.Join(dir, "ha")
		build := exec.CommandContext(ctx, "go", "build", "-o", binary, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			st.Down()
			return nil, fmt.Errorf("build ha: %w", err)
		}
	}
	uctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	st.Sandbox, _, err = sandbox.Up(uctx, sandbox.Options{
		Dir: filepath.Join(dir, "sandbox"), Base: base, Witnesses: -1, Binary: binary, Mysqld: mysqld(),
	})
	if err != nil {
		st.Down()
		return nil, fmt.Errorf("sandbox up: %w", err)
	}
	for _, n := range st.Nodes {
		if dsn, err := st.DSN(n.Name); err == nil {
			st.Servers = append(st.Servers, load.Server{Name: n.Name, DSN: dsn})
		}
	}
	return st, nil
}

// mysqld is the one that `make deps` got, if nobody says otherwise.
func mysqld() string {
	if os.Getenv("HA_MYSQLD") != "" {
		return ""
	}
	if path, err := filepath.Abs(".deps/mysql/bin/mysqld"); err == nil {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// Down ends all of it and removes the files, whatever state it is in.
func (st *Stage) Down() {
	if st.Sandbox != nil {
		if err := st.Sandbox.Down(context.Background(), true, nil); err != nil {
			fmt.Fprintln(os.Stderr, "sandbox down:", err)
			return // the files may say why
		}
	}
	os.RemoveAll(st.Dir)
}

// Primary is the name of the primary.
func (st *Stage) Primary(ctx context.Context) (string, error) {
	s, err := st.Status(ctx)
	if err == nil && s.Primary == "" {
		err = fmt.Errorf("there is no primary: %s", s.Health)
	}
	return s.Primary, err
}

// Root connects to a node's server as a person who may do everything.
func (st *Stage) Root(node string) (*sql.DB, error) {
	return sql.Open("mysql", "root@unix("+filepath.Join(st.NodeDir(node), "mysqld.sock")+")/app?timeout=5s")
}

// Percentile of durations, by nearest rank.
func Percentile(d []time.Duration, p int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)-1, (len(s)*p+99)/100-1)]
}

// Explain prints what the agents logged between from and to, with times since at.
func (st *Stage) Explain(at, from, to time.Time) {
	var lines []string
	for _, n := range st.Nodes {
		text, _ := os.ReadFile(st.AgentLog(n.Name))
		for line := range strings.Lines(string(text)) {
			stamp, rest, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
			if t, err := time.Parse(time.RFC3339, stamp); err == nil && t.After(from) && t.Before(to) {
				lines = append(lines, fmt.Sprintf("    %6d ms %s %s", t.Sub(at).Milliseconds(), n.Name, rest))
			}
		}
	}
	slices.Sort(lines)
	fmt.Print(strings.Join(lines, ""))
}
