package lab_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ha/lab"
)

// child makes a scratch directory, a busy loop and (for TestNothingStays) a small lab,
// names the directory and the processes, and ends as it is told. It is this test
// program, started again.
func child(how string) {
	dir, err := lab.Scratch()
	if err != nil {
		panic(err)
	}
	pids, _, err := lab.Busy(2)
	if err != nil {
		panic(err)
	}
	fmt.Print(dir)
	for _, pid := range pids {
		fmt.Print(" ", pid)
	}
	if how == "no lab" {
		fmt.Println()
		select {}
	}
	l, err := lab.Up(context.Background(), lab.Options{Hosts: 1, Clients: 1, Dir: dir, Mysqld: os.Getenv("HA_MYSQLD")})
	if err != nil {
		panic(err)
	}
	for _, h := range l.Hosts {
		if err := h.Freeze(lab.MySQLDisk); err != nil { // what dies worst
			panic(err)
		}
		for _, pid := range h.PIDs("") {
			fmt.Print(" ", pid)
		}
	}
	fmt.Println()
	if how == "panic" {
		panic("as I was told")
	}
	select {}
}

// However a program ends that made a lab, nothing of the lab stays.
func TestNothingStays(t *testing.T) {
	needLab(t)
	ends := []string{"SIGKILL"}
	if *all {
		ends = append(ends, "panic", "SIGINT")
	}
	for _, how := range ends {
		t.Run(how, func(t *testing.T) {
			cmd, line := startChild(t, how)
			var err error
			switch how {
			case "SIGKILL":
				err = cmd.Process.Kill()
			case "SIGINT":
				err = cmd.Process.Signal(syscall.SIGINT)
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			swept(t, cmd.Process.Pid, strings.Fields(line), 2+2)
		})
	}
}

// swept waits until nothing is left of a process that had a directory and at least
// that many processes.
func swept(t *testing.T, maker int, had []string, least int) {
	t.Helper()
	dir, pids := had[0], had[1:]
	if len(pids) < least {
		t.Errorf("it had the processes %q", pids)
	}
	for end := time.Now().Add(20 * time.Second); ; {
		left := remains(maker, pids)
		if left == "" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("still there: %s", left)
		}
		<-time.After(50 * time.Millisecond)
	}
	next, err := lab.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(next)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("still there: %s (%v)", dir, err)
	}
}

// The same without a lab. Directories of those who live stay, and what is to be kept.
func TestScratchAndLoops(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	kept, err := lab.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	own, err := lab.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	lab.Keep(kept)
	cmd, line := startChild(t, "no lab")
	had := strings.Fields(line)
	if left := remains(cmd.Process.Pid, had[1:]); left == "" {
		t.Error("no loop runs")
	}
	if next, err := lab.Scratch(); err != nil || os.RemoveAll(next) != nil {
		t.Error(err)
	}
	for _, dir := range []string{had[0], own, kept} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("gone while its owner lives: %v", err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	swept(t, cmd.Process.Pid, had, 2)
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("not kept: %v", err)
	}
}

// remains says what there is of the lab that a process had.
func remains(maker int, pids []string) string {
	for _, pid := range pids {
		if n, err := strconv.Atoi(pid); err != nil || syscall.Kill(n, 0) == nil {
			return "process " + pid
		}
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), fmt.Sprintf("lab-%d-", maker)) {
			return "disk " + string(text)
		}
	}
	return ""
}

// Ctrl-C ends the wait for a cluster that is not well, so that there is time to take
// the hosts away.
func TestCancelEndsTheWait(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	if _, err := (&lab.Lab{}).AwaitHealthy(ctx, 5*time.Second); err == nil || time.Since(began) > time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

// startChild starts this program as the one that is to end in some way, and gives the line in
// which it says what it has.
func startChild(t *testing.T, how string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=none")
	cmd.Env = append(os.Environ(), "HA_LAB_CHILD="+how)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd, line
}
