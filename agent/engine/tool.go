package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// threads is how many files a tool reads, or writes, at a time: a fast disk gives more to
// several readers than to one.
const threads = 4

// killBound is how long the end of a killed tool's pipes is waited for.
const killBound = 5 * time.Second

// tool is a program to be run: in a process group of its own, killed as a whole when
// its context or this process ends.
func tool(ctx context.Context, said *tail, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killBound
	return cmd
}

// run runs one until its end.
func run(ctx context.Context, cmd *exec.Cmd, said *tail) error {
	return ended(ctx, cmd, said, cmd.Run())
}

// ended explains how one ended.
func ended(ctx context.Context, cmd *exec.Cmd, said *tail, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", cmd.Args[0], context.Cause(ctx))
	}
	return fmt.Errorf("%s: %w: %s", cmd.Args[0], err, said.last(3))
}

// tail keeps the end of what a program said.
type tail struct{ buf bytes.Buffer }

const tailBytes = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if n := t.buf.Len(); n > 2*tailBytes {
		t.buf.Next(n - tailBytes)
	}
	return len(p), nil
}

// last gives the last n lines, in one.
func (t *tail) last(n int) string {
	lines := strings.Split(strings.TrimSpace(t.buf.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// done says that the program's last word was that all went well. Both tools say so on
// their standard error, when backing up and when preparing; their exit codes alone
// were not always to be trusted.
func (t *tail) done() bool { return strings.HasSuffix(t.last(1), "completed OK!") }

// optionFile writes what tools must know and nobody may read in the list of processes.
func optionFile(path string, l Login) error {
	var b strings.Builder
	fmt.Fprintf(&b, "[mysqld]\ndatadir=%s\n[client]\nsocket=%s\nuser=%s\n", quote(l.DataDir), quote(l.Socket), quote(l.User))
	if l.Password != "" {
		fmt.Fprintf(&b, "password=%s\n", quote(l.Password))
	}
	return os.WriteFile(path, []byte(b.String()), 0o600)
}

// quote makes a value of an option file: quoted, a # begins no comment and blanks stay.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s) + `"`
}
