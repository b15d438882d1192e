// SPDX-License-Identifier: Apache-2.0

// Package measure measures Stentor beside what the kernel and the bridge plugin do.
package measure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/bench"
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

// apart measures a part in a process of its own, where it disturbs nobody:
// with mounts that go with it, and off the processor that both ends of the
// measurements are pinned to.
func (e *Env) apart(ctx context.Context, p Part) error {
	dir, err := os.MkdirTemp("", "stentor-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "rows")
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "apart", p.Name, "-root", e.Root, fmt.Sprintf("-fast=%v", e.Fast))
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = time.Minute
	var last lastLine
	cmd.Stderr = io.MultiWriter(e.Log, &last)
	cmd.Env = append(os.Environ(), bench.FileEnv+"="+file)
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGTERM}
	err = ownThread(func() error {
		if !p.Wide {
			if err := leaveCPU(); err != nil {
				return err
			}
		}
		return cmd.Run()
	})
	rows, readErr := bench.Read(file)
	e.take(rows)
	if err != nil {
		err = fmt.Errorf("%s (%w)", last, err)
	}
	return errors.Join(err, readErr)
}

// lastLine keeps the last line that was written: why a process failed.
type lastLine []byte

func (l *lastLine) Write(b []byte) (int, error) {
	all := bytes.TrimRight(append(*l, b...), "\n")
	*l = append(lastLine(nil), all[bytes.LastIndexByte(all, '\n')+1:]...)
	if len(b) > 0 && b[len(b)-1] == '\n' {
		*l = append(*l, '\n')
	}
	return len(b), nil
}

func (l lastLine) String() string { return strings.TrimSpace(string(l)) }

// Apart is what the process that apart starts does.
func Apart(ctx context.Context, e *Env, name string) error {
	if err := unix.Mount("bpf", BPFRoot, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount bpf file system at %s: %w", BPFRoot, err)
	}
	for _, p := range append(Parts(), ServiceParts()...) {
		if p.Name != name {
			continue
		}
		e.part = p.Title
		err := p.Run(ctx, e)
		return errors.Join(err, bench.Append(os.Getenv(bench.FileEnv), e.rows...))
	}
	return fmt.Errorf("there is no part %q", name)
}

// BPFRoot is where parts have a bpf file system of their own.
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
