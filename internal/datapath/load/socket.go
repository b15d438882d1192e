// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// attachSockets puts the socket programs on the cgroup, or takes them off it.
func (p *Programs) attachSockets() error {
	dir := filepath.Join(p.opt.Dir, "links")
	if p.sock == nil {
		return unpinAll(dir)
	}
	root, err := cgroupRoot(p.opt.Cgroup)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create %s: %w", dir, err)
	}
	for name, prog := range p.sock.Programs {
		kind := attachTypes[name]
		if kind == ebpf.AttachNone {
			return fmt.Errorf("attach %s: no hook is known for it", name)
		}
		if err := attachCgroup(filepath.Join(dir, name), root, kind, prog); err != nil {
			return fmt.Errorf("attach %s to %s: %w", name, root, explain(err))
		}
	}
	return nil
}

// attachCgroup updates the pinned link in place, or makes it where there is none
// for this cgroup yet.
func attachCgroup(pin, root string, kind ebpf.AttachType, prog *ebpf.Program) error {
	old, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		defer old.Close()
		if onCgroup(old, root) {
			return old.Update(prog)
		}
		if err := old.Unpin(); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: root, Attach: kind, Program: prog})
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Pin(pin)
}

var attachTypes = map[string]ebpf.AttachType{
	"sock_connect4":     ebpf.AttachCGroupInet4Connect,
	"sock_connect6":     ebpf.AttachCGroupInet6Connect,
	"sock_sendmsg4":     ebpf.AttachCGroupUDP4Sendmsg,
	"sock_sendmsg6":     ebpf.AttachCGroupUDP6Sendmsg,
	"sock_recvmsg4":     ebpf.AttachCGroupUDP4Recvmsg,
	"sock_recvmsg6":     ebpf.AttachCGroupUDP6Recvmsg,
	"sock_getpeername4": ebpf.AttachCgroupInet4GetPeername,
	"sock_getpeername6": ebpf.AttachCgroupInet6GetPeername,
	"sock_post_bind4":   ebpf.AttachCGroupInet4PostBind,
	"sock_post_bind6":   ebpf.AttachCGroupInet6PostBind,
}

func onCgroup(l link.Link, root string) bool {
	info, err := l.Info()
	if err != nil || info.Cgroup() == nil {
		return false
	}
	var st unix.Stat_t
	return unix.Stat(root, &st) == nil && st.Ino == info.Cgroup().CgroupId
}

// cgroupRoot finds where the cgroup v2 hierarchy is mounted.
func cgroupRoot(given string) (string, error) {
	if given != "" {
		var st unix.Statfs_t
		if err := unix.Statfs(given, &st); err != nil {
			return "", fmt.Errorf("cgroup root %s: %w", given, err)
		}
		if st.Type != unix.CGROUP2_SUPER_MAGIC {
			return "", fmt.Errorf("cgroup root %s is not on a cgroup v2 file system", given)
		}
		return given, nil
	}
	f, err := os.Open("/proc/mounts")
	if err != nil {
		return "", fmt.Errorf("find cgroup v2: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", errors.New("no cgroup v2 file system is mounted: mount one (mount -t cgroup2 none /run/cgroup2), or switch bpf-lb-sock off")
}

// unpinAll detaches links by removing their pins.
func unpinAll(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	var errs []error
	for _, e := range list {
		errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
