// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// supervisor starts processes and, as a pid 1 must, waits for every child,
// also those it did not start. The mutex makes a child known before reap can
// see it end.
type supervisor struct {
	log   *slog.Logger
	mu    sync.Mutex
	known map[int]chan syscall.WaitStatus
	born  chan struct{} // wakes reap when it had no child to wait for
}

func newSupervisor(log *slog.Logger) *supervisor {
	return &supervisor{log: log, known: map[int]chan syscall.WaitStatus{}, born: make(chan struct{}, 1)}
}

// reap collects ended children for ever.
func (s *supervisor) reap() {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.ECHILD):
			<-s.born
			continue
		case err != nil:
			s.log.Warn("children cannot be waited for", "error", err)
			return
		}
		s.mu.Lock()
		done := s.known[pid]
		delete(s.known, pid)
		s.mu.Unlock()
		if done != nil {
			done <- ws
		}
	}
}

// start runs a program with its output appended to /var/log/NAME.log.
func (s *supervisor) start(name, path string, args ...string) (pid int, done <-chan syscall.WaitStatus, err error) {
	path, err = exec.LookPath(path)
	if err != nil {
		return 0, nil, err
	}
	out, err := os.OpenFile(filepath.Join("/var/log", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, nil, err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err = syscall.ForkExec(path, append([]string{path}, args...), &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(),
		Files: []uintptr{null.Fd(), out.Fd(), out.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, nil, &os.PathError{Op: "exec", Path: path, Err: err}
	}
	ch := make(chan syscall.WaitStatus, 1)
	s.known[pid] = ch
	select {
	case s.born <- struct{}{}:
	default:
	}
	return pid, ch, nil
}

// run starts a program and waits for its end.
func (s *supervisor) run(name, path string, args ...string) (code int, err error) {
	_, done, err := s.start(name, path, args...)
	if err != nil {
		return -1, err
	}
	return (<-done).ExitStatus(), nil
}

// restartDelay keeps a daemon that dies at once from using up a core.
const restartDelay = time.Second

// keep starts a daemon and starts it again whenever it ends.
func (s *supervisor) keep(name, path string, args ...string) {
	go func() {
		for {
			pid, done, err := s.start(name, path, args...)
			if err != nil {
				s.log.Warn("daemon cannot start", "daemon", name, "error", err)
			} else {
				s.log.Info("daemon started", "daemon", name, "pid", pid)
				ws := <-done
				s.log.Warn("daemon ended", "daemon", name, "pid", pid, "exitCode", ws.ExitStatus(), "signal", ws.Signal())
			}
			time.Sleep(restartDelay)
		}
	}()
}
