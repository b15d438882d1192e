// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// right is something that a network agent does.
type right struct {
	name string
	try  func(*rightsEnv) error
}

type rightsEnv struct {
	bpffs, cgroup, netns, sysctl string
	array                        *ebpf.Map
}

var rights = []right{
	{"bpffs is the node's", func(e *rightsEnv) error { return wantFS(e.bpffs, unix.BPF_FS_MAGIC) }},
	{"cgroup v2 is the node's", func(e *rightsEnv) error { return wantFS(e.cgroup, unix.CGROUP2_SUPER_MAGIC) }},
	{"create a map", createMap},
	{"create and update an LRU hash and an LPM trie", createOther},
	{"pin a map", pinMap},
	{"load a classifier", func(*rightsEnv) error { return withProgram(ebpf.SchedCLS, 0, func(*ebpf.Program) error { return nil }) }},
	{"attach a classifier with tc", attachTC},
	{"attach a classifier with tcx", attachTCX},
	{"attach to the node's cgroup", attachCgroup},
	{"run a program in a test", testRun},
	{"see network namespaces of pods", func(e *rightsEnv) error { _, err := os.ReadDir(e.netns); return err }},
	{"create a link", createLink},
	{"write sysctls of the network", writeSysctl},
	{"enter a network namespace", enterNetNS},
	{"mount a file system", mountFS},
	{"open a raw socket", func(*rightsEnv) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}},
}

// runRights tries each right and fails if one is missing.
func runRights(_ context.Context, args []string) error {
	fs := flag.NewFlagSet("rights", flag.ContinueOnError)
	e := &rightsEnv{}
	fs.StringVar(&e.bpffs, "bpffs", "/sys/fs/bpf", "the node's bpffs")
	fs.StringVar(&e.cgroup, "cgroup", "", "root of the node's cgroup v2 (default: as -mounts says)")
	fs.StringVar(&e.netns, "netns", "/run/netns", "the node's named network namespaces")
	fs.StringVar(&e.sysctl, "sysctl", "/proc/sys/net", "the node's network sysctls")
	mounts := fs.String("mounts", "/proc/1/mounts", "the node's mounts")
	if err := fs.Parse(args); err != nil {
		return exitCode{2, err}
	}
	if e.cgroup == "" {
		var err error
		if e.cgroup, err = cgroup2(*mounts); err != nil {
			return err
		}
	}
	missing := 0
	for _, r := range rights {
		if err := r.try(e); err != nil {
			missing++
			fmt.Printf("no   %s: %v\n", r.name, err)
			continue
		}
		fmt.Printf("yes  %s\n", r.name)
	}
	if missing > 0 {
		return fmt.Errorf("%d of %d rights are missing", missing, len(rights))
	}
	return nil
}

func cgroup2(mounts string) (string, error) {
	b, err := os.ReadFile(mounts)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", fmt.Errorf("%s: no cgroup2", mounts)
}

func wantFS(path string, magic int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	if int64(st.Type) != magic {
		return fmt.Errorf("%s is of another type (%#x)", path, st.Type)
	}
	return nil
}

func createMap(e *rightsEnv) (err error) {
	e.array, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	return err
}

func createOther(*rightsEnv) error {
	for _, spec := range []*ebpf.MapSpec{
		{Type: ebpf.LRUHash, KeySize: 8, ValueSize: 8, MaxEntries: 65536},
		{Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 8, MaxEntries: 1024, Flags: unix.BPF_F_NO_PREALLOC},
	} {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return fmt.Errorf("%s: %w", spec.Type, err)
		}
		defer m.Close()
		if err := m.Put(uint64(1), uint64(2)); err != nil {
			return fmt.Errorf("%s: %w", spec.Type, err)
		}
	}
	return nil
}

func pinMap(e *rightsEnv) error {
	if e.array == nil {
		return errors.New("no map")
	}
	path := filepath.Join(e.bpffs, "stentor-app-rights")
	if err := e.array.Pin(path); err != nil {
		return err
	}
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return err
	}
	return m.Unpin()
}

// withProgram loads a program that lets everything pass.
func withProgram(t ebpf.ProgramType, at ebpf.AttachType, f func(*ebpf.Program) error) error {
	ret := int32(0)
	if t == ebpf.CGroupSockAddr {
		ret = 1
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: t, AttachType: at, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, ret), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer p.Close()
	return f(p)
}

const testLink = "stentor-rights"

// withLink makes a veth pair for the time of f.
func withLink(f func(netlink.Link) error) error {
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: testLink}, PeerName: testLink[:13] + "1"}
	if err := netlink.LinkAdd(v); err != nil {
		return err
	}
	l, err := netlink.LinkByName(testLink)
	if err != nil {
		return err
	}
	return errors.Join(f(l), netlink.LinkDel(l))
}

func createLink(*rightsEnv) error { return withLink(func(netlink.Link) error { return nil }) }

func attachTC(*rightsEnv) error {
	return withProgram(ebpf.SchedCLS, 0, func(p *ebpf.Program) error {
		return withLink(func(l netlink.Link) error {
			q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
				LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
			}}
			if err := netlink.QdiscAdd(q); err != nil {
				return fmt.Errorf("add clsact: %w", err)
			}
			return netlink.FilterAdd(&netlink.BpfFilter{
				FilterAttrs: netlink.FilterAttrs{
					LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1,
				},
				Fd: p.FD(), Name: "rights", DirectAction: true,
			})
		})
	})
}

func attachTCX(*rightsEnv) error {
	return withProgram(ebpf.SchedCLS, 0, func(p *ebpf.Program) error {
		return withLink(func(l netlink.Link) error {
			k, err := link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				return err
			}
			return k.Close()
		})
	})
}

func attachCgroup(e *rightsEnv) error {
	return withProgram(ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect, func(p *ebpf.Program) error {
		k, err := link.AttachCgroup(link.CgroupOptions{Path: e.cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: p})
		if err != nil {
			return err
		}
		return k.Close()
	})
}

func testRun(*rightsEnv) error {
	return withProgram(ebpf.SchedCLS, 0, func(p *ebpf.Program) error {
		_, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
		return err
	})
}

func writeSysctl(e *rightsEnv) error {
	f := filepath.Join(e.sysctl, "ipv4/conf/lo/rp_filter")
	b, err := os.ReadFile(f)
	if err != nil {
		return err
	}
	return os.WriteFile(f, b, 0o644)
}

// enterNetNS enters the one it is in, which asks for the same right.
func enterNetNS(*rightsEnv) error {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

func mountFS(*rightsEnv) error {
	dir, err := os.MkdirTemp("", "rights")
	if err != nil {
		return err
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	return errors.Join(unix.Unmount(dir, 0), os.Remove(dir))
}
