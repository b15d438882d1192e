// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/lab/internal/cgroup"
	"github.com/stentor-net/stentor/lab/internal/fabric"
)

// Command is a program to run inside a machine of the lab with the caller's
// standard streams or others.
type Command struct {
	Args    []string
	Pid     int    // pid 1 of the node to run in; 0 for a bare network namespace
	NetNS   string // network namespace, if Pid is 0
	Cgroups []cgroup.Hierarchy
	Cgroup  string // joined first, so that the lab's end is the program's too
	Files   [3]*os.File
}

// Run runs the program and returns its exit code, 128+n after signal n. The
// calling process stays in the lab's cgroup.
func (c Command) Run() (int, error) {
	if len(c.Args) == 0 {
		return 0, errors.New("no command given")
	}
	if err := cgroup.Enter(c.Cgroups, c.Cgroup, 0); err != nil {
		return 0, err
	}
	// The terminal sends these to the program as well, which decides.
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT)
	defer signal.Reset(syscall.SIGINT, syscall.SIGQUIT)
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // its namespaces change: never used again
		code, err := c.runHere()
		done <- result{code, err}
	}()
	r := <-done
	return r.code, r.err
}

func (c Command) runHere() (int, error) {
	if err := c.enter(); err != nil {
		return 0, err
	}
	// The helper in between ties the program's life to ours (RunChild).
	self := insideBin + "/stentor-lab"
	if c.Pid == 0 {
		self = "/proc/self/exe"
	}
	args := append([]string{"stentor-lab", "exec-child", "--"}, c.Args...)
	var files []uintptr
	for _, f := range c.Files {
		files = append(files, f.Fd())
	}
	pid, err := syscall.ForkExec(self, args, &syscall.ProcAttr{Dir: c.dir(), Env: environment(), Files: files})
	if err != nil {
		return 126, &os.PathError{Op: "exec", Path: self, Err: err}
	}
	stop := passSignals(pid)
	defer stop()
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &ws, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ws.ExitStatus(), nil
	}
}

// passSignals hands signals that come to this process alone to pid.
func passSignals(pid int) (stop func()) {
	ch := make(chan os.Signal, 4)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for s := range ch {
			_ = syscall.Kill(pid, s.(syscall.Signal))
		}
	}()
	return func() {
		signal.Stop(ch)
		close(ch)
	}
}

// enter moves the calling thread.
func (c Command) enter() error {
	if c.Pid == 0 {
		return fabric.Enter(c.NetNS)
	}
	type ns struct {
		name string
		flag int
	}
	// The mount namespace last: /proc is then another one.
	order := []ns{
		{"cgroup", unix.CLONE_NEWCGROUP}, {"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS},
		{"net", unix.CLONE_NEWNET}, {"pid", unix.CLONE_NEWPID}, {"mnt", unix.CLONE_NEWNS},
	}
	// A mount namespace can only be entered by a thread with its own root
	// and working directory.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare file system attributes: %w", err)
	}
	var fds []int
	for _, n := range order {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", c.Pid, n.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s namespace of process %d: %w", n.name, c.Pid, err)
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	for i, n := range order {
		if err := unix.Setns(fds[i], n.flag); err != nil {
			return fmt.Errorf("enter %s namespace: %w", n.name, err)
		}
	}
	return nil
}

const path = insideBin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is clean but for what a terminal needs.
func environment() []string {
	env := []string{"PATH=" + path, "HOME=/root"}
	for _, k := range []string{"TERM", "LANG", "COLUMNS", "LINES", "NO_COLOR"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// dir is where the program starts: on a node its root, else the caller's folder.
func (c Command) dir() string {
	if c.Pid != 0 {
		return "/"
	}
	return ""
}

// RunChild becomes the program args, after asking to be killed when the
// parent, which is in another pid namespace, dies. (SysProcAttr.Pdeathsig
// takes a parent of another pid namespace for a dead one.) It returns only
// on error, with the exit code a shell would give.
func RunChild(args []string) (int, error) {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0); err != nil {
		return 126, err
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return 127, err
	}
	return 126, &os.PathError{Op: "exec", Path: path, Err: syscall.Exec(path, args, os.Environ())}
}
