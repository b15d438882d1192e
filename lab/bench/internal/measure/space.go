// SPDX-License-Identifier: Apache-2.0

// Package measure measures Stentor beside what the kernel and the bridge plugin do.
package measure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// space is a network namespace without a name: it goes with this process,
// however that ends.
type space struct {
	name string
	file *os.File
}

// newSpace makes a namespace whose loopback is up.
func newSpace(name string) (*space, error) {
	s := &space{name: name}
	err := ownThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		s.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create network namespace %s: %w", name, err)
	}
	return s, s.run("ip link set lo up")
}

// path leads to the namespace for this process and its children's mounts.
func (s *space) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.file.Fd()) }

func (s *space) close() { s.file.Close() }

// do runs f on a thread in the namespace. What f starts is born there.
func (s *space) do(f func() error) error {
	return ownThread(func() error {
		if err := unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", s.name, err)
		}
		return f()
	})
}

// ownThread runs f on a thread that ends with it.
func ownThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- f()
	}()
	return <-done
}

// run carries out commands, one a line.
func (s *space) run(lines string) error {
	return s.do(func() error {
		for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
			args := strings.Fields(line)
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %s: %w: %s", s.name, strings.TrimSpace(line), err, strings.TrimSpace(string(out)))
			}
		}
		return nil
	})
}

// sysctl writes a setting of the namespace.
func (s *space) sysctl(key, value string) error {
	return s.do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0o644)
	})
}

// wire makes a veth pair between two namespaces; both ends come up.
func wire(a *space, nameA string, b *space, nameB string) error {
	if err := a.run(fmt.Sprintf("ip link add %s type veth peer name %s netns %s", nameA, nameB, b.path())); err != nil {
		return err
	}
	return errors.Join(a.run("ip link set "+nameA+" up"), b.run("ip link set "+nameB+" up"))
}

// Isolate starts this program again where it disturbs nobody: with mounts of
// its own, a bpf file system at BPFRoot, and off the processor that both ends
// of the measurements are pinned to. It returns at once in the program that was
// started; the other one ends with its exit code.
func Isolate(ctx context.Context) (code int, isolated bool, err error) {
	const mark = "STENTOR_BENCH_ISOLATED"
	if os.Getenv(mark) != "" {
		os.Unsetenv(mark)
		return 0, true, nil
	}
	err = ownThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare mounts: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("separate mounts: %w", err)
		}
		if err := unix.Mount("bpf", BPFRoot, "bpf", 0, ""); err != nil {
			return fmt.Errorf("mount bpf file system at %s: %w", BPFRoot, err)
		}
		if err := leaveCPU(); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
		cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), mark+"=1")
		cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGTERM}
		err := cmd.Run()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitCode()
			return nil
		}
		return err
	})
	return code, false, err
}

// BPFRoot is where Isolate mounts a bpf file system.
const BPFRoot = "/sys/fs/bpf"

// benchCPU is the processor that both ends of a measurement share.
const benchCPU = 0

// leaveCPU takes the calling thread off benchCPU, if there is another one.
func leaveCPU() error {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return fmt.Errorf("get affinity: %w", err)
	}
	if set.Count() > 1 {
		set.Clear(benchCPU)
	}
	return unix.SchedSetaffinity(0, &set)
}
