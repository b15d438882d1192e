// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/lab/internal/cgroup"
)

// mounter mounts until the first error, below root.
type mounter struct {
	root string
	err  error
}

func (m *mounter) path(p string) string { return filepath.Join(m.root, p) }

func (m *mounter) mount(source, target, fstype string, flags uintptr, data string) {
	if m.err != nil {
		return
	}
	t := m.path(target)
	if m.err = os.MkdirAll(t, 0o755); m.err != nil {
		return
	}
	if err := unix.Mount(source, t, fstype, flags, data); err != nil {
		m.err = fmt.Errorf("mount %s at %s: %w", fstype, target, err)
	}
}

// bind shows the machine's file or folder source at target.
func (m *mounter) bind(source, target string, readOnly bool) {
	if m.err != nil {
		return
	}
	t := m.path(target)
	info, err := os.Stat(source)
	if err == nil && info.IsDir() {
		err = os.MkdirAll(t, 0o755)
	} else if err == nil {
		err = touch(t)
	}
	if err == nil {
		err = unix.Mount(source, t, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err == nil && readOnly {
		err = unix.Mount("", t, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err != nil {
		m.err = fmt.Errorf("bind %s to %s: %w", source, target, err)
	}
}

func touch(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// buildRoot gives the node a root of its own: the machine's file system,
// read-only below a tmpfs that takes the writes, with the node's folders,
// kernel file systems and devices on top. The machine's mounts are let go, so
// that the node keeps none of them busy.
func buildRoot(s *Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	base := filepath.Join(s.Dir, "root")
	b := &mounter{root: base}
	b.mount("tmpfs", "/", "tmpfs", 0, "mode=755")
	for _, d := range []string{"upper", "work", "merged"} {
		if b.err == nil {
			b.err = os.Mkdir(b.path(d), 0o755)
		}
	}
	b.mount("overlay", "merged", "overlay", 0,
		fmt.Sprintf("lowerdir=/,upperdir=%s,workdir=%s", b.path("upper"), b.path("work")))
	m := &mounter{root: b.path("merged"), err: b.err}
	mountKernel(m, s)
	mountDevices(m)
	for _, f := range folders {
		target := "/" + f
		if f == "log" {
			target = "/var/log"
		}
		m.bind(filepath.Join(s.Dir, f), target, false)
	}
	m.bind(s.BinDir, insideBin, true)
	m.bind(s.ImageDir, insideImages, true)
	if m.err != nil {
		return m.err
	}
	if err := ownFiles(m, s); err != nil {
		return err
	}
	if err := pivot(m.root); err != nil {
		return err
	}
	if err := fakeSysctls(); err != nil {
		return err
	}
	// The kubelet wants mounts of containers to propagate; the peer group is
	// this node's alone.
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

func mountKernel(m *mounter, s *Spec) {
	const nosuid = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	m.mount("proc", "/proc", "proc", nosuid, "")
	m.mount("sysfs", "/sys", "sysfs", nosuid, "") // shows this network namespace's devices
	if cgroup.Unified(s.Cgroups) {
		m.mount("cgroup2", "/sys/fs/cgroup", "cgroup2", nosuid, "")
	} else {
		m.mount("tmpfs", "/sys/fs/cgroup", "tmpfs", nosuid, "mode=755")
		for _, h := range s.Cgroups {
			mountCgroup(m, h)
		}
	}
	m.mount("bpffs", "/sys/fs/bpf", "bpf", nosuid, "mode=700")
	m.mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
	m.mount("tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	for _, d := range []string{"/run/lock", "/run/netns"} {
		if m.err == nil {
			m.err = os.MkdirAll(m.path(d), 0o755)
		}
	}
}

func mountCgroup(m *mounter, h cgroup.Hierarchy) {
	const nosuid = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if h.V2 {
		m.mount("cgroup2", "/sys/fs/cgroup/unified", "cgroup2", nosuid, "")
		return
	}
	names := h.Controllers()
	dir := strings.Join(names, ",")
	m.mount("cgroup", "/sys/fs/cgroup/"+dir, "cgroup", nosuid, h.Options)
	for _, n := range names {
		if n != dir && m.err == nil {
			m.err = os.Symlink(dir, m.path("/sys/fs/cgroup/"+n))
		}
	}
}

// mountDevices makes a /dev with what containers need and none of the
// machine's disks.
func mountDevices(m *mounter) {
	m.mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=755")
	for _, d := range []string{"null", "zero", "full", "random", "urandom", "tty", "kmsg", "fuse", "net/tun"} {
		if _, err := os.Stat("/dev/" + d); err == nil {
			m.bind("/dev/"+d, "/dev/"+d, false)
		}
	}
	m.mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
	m.mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	m.mount("mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if m.err == nil {
			m.err = os.Symlink(target, m.path("/dev/"+name))
		}
	}
}

// ownFiles replaces files of the machine that say who and where it is.
func ownFiles(m *mounter, s *Spec) error {
	hosts, err := os.ReadFile(filepath.Join(s.Dir, "etc/hosts"))
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"/etc/hosts":       string(hosts),
		"/etc/hostname":    s.Name + "\n",
		"/etc/resolv.conf": "", // a lab has no names but its own
	} {
		// Remove first: the machine's file may be a link that leads out.
		if err := os.Remove(m.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(m.path(name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pivot makes root the root of this mount namespace and lets the old one go.
func pivot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return err
	}
	// Both at one place: the old root is then on top and is unmounted first.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount old root: %w", err)
	}
	return unix.Chdir("/")
}

// fakeSysctls puts files over the sysctls that the kubelet sets and that are
// the whole machine's, already holding the values it wants.
func fakeSysctls() error {
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0",
		"kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		fake := filepath.Join("/run/stentor-lab/sysctl", strings.ReplaceAll(name, "/", "."))
		if err := os.MkdirAll(filepath.Dir(fake), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(fake, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(fake, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover sysctl %s: %w", name, err)
		}
	}
	return nil
}
