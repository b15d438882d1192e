// SPDX-License-Identifier: Apache-2.0

// Package nstest makes network namespaces for tests of the datapath.
package nstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// prefix of every namespace of a test, so that leftovers can be told.
const prefix = "st-dp-"

// made tells namespaces of tests that run at the same time.
var made atomic.Int64

// Namespace is a network namespace with a thread that lives in it.
type Namespace struct {
	Name string
	Path string
	do   chan func()
}

// RequireRoot skips the test where namespaces and programs cannot be made.
func RequireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces and loads programs")
	}
}

// New makes a namespace that goes with the test.
func New(t *testing.T, suffix string) *Namespace {
	t.Helper()
	n := &Namespace{Name: fmt.Sprintf("%s%d-%d-%s", prefix, os.Getpid(), made.Add(1), suffix), do: make(chan func())}
	n.Path = filepath.Join("/run/netns", n.Name)
	if out, err := exec.Command("ip", "netns", "add", n.Name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add %s: %v: %s", n.Name, err, out)
	}
	ready := make(chan error)
	go n.serve(ready)
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(n.do)
		if out, err := exec.Command("ip", "netns", "del", n.Name).CombinedOutput(); err != nil {
			t.Errorf("ip netns del %s: %v: %s", n.Name, err, out)
		}
	})
	n.Run(t, "ip link set lo up")
	return n
}

// serve is the thread of the namespace; it ends with the namespace.
func (n *Namespace) serve(ready chan error) {
	runtime.LockOSThread()
	h, err := netns.GetFromPath(n.Path)
	if err == nil {
		err = netns.Set(h)
		h.Close()
	}
	ready <- err
	for f := range n.do {
		f()
	}
}

// Do runs f on the namespace's thread. Sockets, netlink handles and processes
// that f makes belong to the namespace.
func (n *Namespace) Do(f func()) {
	done := make(chan struct{})
	n.do <- func() {
		defer close(done) // also when f ends the goroutine by t.FailNow
		f()
	}
	<-done
}

// Go runs f on a thread of its own in the namespace; the channel closes when it ends.
func (n *Namespace) Go(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		h, err := netns.GetFromPath(n.Path)
		if err != nil {
			panic(err)
		}
		defer h.Close()
		if err := netns.Set(h); err != nil {
			panic(err)
		}
		f()
	}()
	return done
}

// Run runs commands, one a line, in the namespace and fails the test if one fails.
func (n *Namespace) Run(t *testing.T, lines string) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		if out, err := n.Output(line); err != nil {
			t.Fatalf("%s: %s: %v: %s", n.Name, strings.TrimSpace(line), err, out)
		}
	}
}

// Output runs one command in the namespace.
func (n *Namespace) Output(line string) (out string, err error) {
	args := strings.Fields(line)
	n.Do(func() {
		var b []byte
		b, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		out = string(b)
	})
	return out, err
}

// BPFDir mounts a bpf file system that goes with the test.
func BPFDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bpf")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpf file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount bpf file system: %v", err)
		}
	})
	return dir
}
