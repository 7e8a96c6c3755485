package lab

import (
	"errors"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// Busy runs loops that want a core each until stop is called or this process ends,
// however it does, and gives their process ids.
func Busy(n int) (pids []int, stop func(), err error) {
	started, end, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		// They die with the thread that starts them: it does nothing else.
		runtime.LockOSThread()
		defer close(ended)
		var cmds []*exec.Cmd
		var errs []error
		for range n {
			cmd := exec.Command("sh", "-c", "while :; do :; done")
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := cmd.Start(); err != nil {
				errs = append(errs, err)
				continue
			}
			cmds = append(cmds, cmd)
			pids = append(pids, cmd.Process.Pid)
		}
		started <- errors.Join(errs...)
		<-end
		for _, cmd := range cmds {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	err = <-started
	return pids, sync.OnceFunc(func() { close(end); <-ended }), err
}
