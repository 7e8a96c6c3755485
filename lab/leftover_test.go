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

// child makes a small lab, names the processes of its hosts, and ends as it is
// told. It is this test program, started again by TestNothingStays.
func child(how string) {
	dir, err := os.MkdirTemp("", "ha-lab-")
	if err != nil {
		panic(err)
	}
	l, err := lab.Up(context.Background(), lab.Options{Hosts: 1, Clients: 1, Dir: dir, Mysqld: os.Getenv("HA_MYSQLD")})
	if err != nil {
		panic(err)
	}
	_ = os.RemoveAll(dir) // it stays otherwise: it has the logs
	for _, h := range l.Hosts {
		if err := h.Freeze(lab.MySQLDisk); err != nil { // what dies worst
			panic(err)
		}
		for _, pid := range h.PIDs("") {
			fmt.Print(pid, " ")
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
			pids := strings.Fields(line)
			if len(pids) < 2 {
				t.Errorf("the lab had the processes %q", line)
			}
			for end := time.Now().Add(20 * time.Second); ; {
				left := remains(cmd.Process.Pid, pids)
				if left == "" {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("still there: %s", left)
				}
				<-time.After(50 * time.Millisecond)
			}
		})
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
