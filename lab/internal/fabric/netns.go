// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// nsDir is where named network namespaces are kept, as ip-netns(8) does.
const nsDir = "/run/netns"

// NSPath is the file of a named network namespace.
func NSPath(name string) string { return filepath.Join(nsDir, name) }

// onOwnThread runs f on a thread that is thrown away afterwards, so that f
// may change the thread's namespaces.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// In runs f on a thread inside the named network namespace. Whatever f forks
// is born there.
func In(name string, f func() error) error {
	return onOwnThread(func() error {
		if err := Enter(name); err != nil {
			return err
		}
		return f()
	})
}

// Enter moves the calling thread into the named network namespace.
func Enter(name string) error {
	ns, err := os.Open(NSPath(name))
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", name, err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", name, err)
	}
	return nil
}

// Exists says whether the named network namespace is there.
func Exists(name string) bool {
	_, err := os.Stat(NSPath(name))
	return err == nil
}

// shareDir makes nsDir a mount of its own, as ip-netns(8) does before it puts
// the first namespace there. Where that comes later, it covers the namespaces
// that are there already, and they can never be removed.
func shareDir() error {
	if err := os.MkdirAll(nsDir, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", nsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) {
		if err = unix.Mount(nsDir, nsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", nsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", nsDir, err)
	}
	return nil
}

// releaseDir undoes shareDir once nobody has a namespace there. Somebody
// else's mount is as good as ours: whoever needs it makes it again.
func releaseDir() {
	if entries, err := os.ReadDir(nsDir); err == nil && len(entries) == 0 {
		_ = unix.Unmount(nsDir, 0) // busy, or no mount: it stays
	}
}

func createNS(name string) error {
	if err := shareDir(); err != nil {
		return err
	}
	path := NSPath(name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("create network namespace %s: %w", name, err)
	}
	f.Close()
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, "")
	})
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("create network namespace %s: %w", name, err)
	}
	return nil
}

// DeleteNS removes a named network namespace; that it is not there is no error.
func DeleteNS(name string) error {
	path := NSPath(name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil &&
		!errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete network namespace %s: %w", name, err)
	}
	return nil
}
