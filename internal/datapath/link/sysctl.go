// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctls switches forwarding on and reverse path filtering of all devices off.
func (n *Node) sysctls(up []Device) error {
	if n.opt.IPv4 {
		if err := n.set("net/ipv4/ip_forward", "1"); err != nil {
			return err
		}
		if err := n.releaseReversePath(); err != nil {
			return err
		}
	}
	if err := n.reservePorts(); err != nil {
		return err
	}
	if !n.opt.IPv6 {
		return nil
	}
	for _, d := range up {
		// A forwarding device ignores router advertisements unless told otherwise.
		path := "net/ipv6/conf/" + d.Name + "/accept_ra"
		if n.get(path) == "1" {
			if err := n.set(path, "2"); err != nil {
				return err
			}
		}
	}
	return n.set("net/ipv6/conf/all/forwarding", "1")
}

// reservePorts keeps the kernel from giving a socket a port of the reserved range
// of its own accord: a connection with it would be taken for one to a service. What
// is reserved already stays; what the kernel gives to nobody needs nothing. The
// sysctls are for both families.
func (n *Node) reservePorts() error {
	const local, reserved = "net/ipv4/ip_local_port_range", "net/ipv4/ip_local_reserved_ports"
	first, last := n.opt.Reserved[0], n.opt.Reserved[1]
	if last == 0 {
		return nil
	}
	var low, high uint16
	if _, err := fmt.Sscan(n.get(local), &low, &high); err != nil {
		return fmt.Errorf("read sysctl %s: %w", sysctlName(local), err)
	}
	if last < low || first > high {
		return nil
	}
	had := n.get(reserved)
	all, err := parsePorts(had)
	if err != nil {
		return fmt.Errorf("read sysctl %s: %w", sysctlName(reserved), err)
	}
	if slices.ContainsFunc(all, func(r [2]uint16) bool { return r[0] <= first && last <= r[1] }) {
		return nil
	}
	want := fmt.Sprintf("%d-%d", first, last)
	if had != "" {
		want = had + "," + want
	}
	return n.set(reserved, want)
}

// parsePorts reads a list such as 8080,9000-9100.
func parsePorts(text string) (out [][2]uint16, err error) {
	for _, one := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		first, last, is := strings.Cut(one, "-")
		if !is {
			last = first
		}
		low, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is no range of ports", one)
		}
		high, err := strconv.ParseUint(last, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is no range of ports", one)
		}
		out = append(out, [2]uint16{uint16(low), uint16(high)})
	}
	return out, nil
}

// releaseReversePath lets each device decide for itself: the kernel takes the
// larger of `all` and the device's own value, so a filter in `all` would apply
// to ours. Devices that are not ours keep the filter that they have.
func (n *Node) releaseReversePath() error {
	all := n.get("net/ipv4/conf/all/rp_filter")
	if all == "" || all == "0" {
		return nil
	}
	dirs, err := os.ReadDir(filepath.Join(n.opt.ProcSys, "net/ipv4/conf"))
	if err != nil {
		return fmt.Errorf("read sysctls: %w", err)
	}
	for _, d := range dirs {
		path := "net/ipv4/conf/" + d.Name() + "/rp_filter"
		if d.Name() == "all" || ours(d.Name()) || n.get(path) >= all {
			continue
		}
		if err := n.set(path, all); err != nil {
			return err
		}
	}
	return n.set("net/ipv4/conf/all/rp_filter", "0")
}

// quietDevice stops the kernel's own IPv6 chatter and path filter on a device of ours.
func (n *Node) quietDevice(name string) error {
	if err := n.setDevice("ipv4", name, [][2]string{{"rp_filter", "0"}}); err != nil {
		return err
	}
	return n.setDevice("ipv6", name, [][2]string{{"accept_ra", "0"}, {"accept_dad", "0"}, {"dad_transmits", "0"}, {"addr_gen_mode", "1"}})
}

// setDevice sets several sysctls of one device of the calling thread's
// namespace; it does nothing where the kernel or the namespace lacks the family.
// The folder is looked up once: below /proc/sys/net the kernel finds a name the
// slower the more namespaces there are.
func (n *Node) setDevice(family, name string, settings [][2]string) error {
	path := filepath.Join("net", family, "conf", name)
	dir, err := unix.Open(filepath.Join(n.opt.ProcSys, path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open sysctls of %s: %w", name, err)
	}
	defer unix.Close(dir)
	for _, s := range settings {
		if err := setAt(dir, s[0], s[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return sysctlError(path+"/"+s[0], s[1], err)
		}
	}
	return nil
}

// setAt writes a sysctl of an open folder unless it has the value already.
func setAt(dir int, name, value string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	refused := err
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var now [32]byte
	got, err := unix.Pread(fd, now[:], 0)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(now[:got])) == value {
		return nil
	}
	if refused != nil {
		return refused
	}
	_, err = unix.Pwrite(fd, []byte(value), 0)
	return err
}

func (n *Node) get(path string) string {
	b, err := os.ReadFile(filepath.Join(n.opt.ProcSys, path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// set writes a sysctl unless it has the value already: a container may have
// /proc/sys read-only on a node that an init step has prepared.
func (n *Node) set(path, value string) error {
	if n.get(path) == value {
		return nil
	}
	if err := os.WriteFile(filepath.Join(n.opt.ProcSys, path), []byte(value), 0o644); err != nil {
		return sysctlError(path, value, err)
	}
	return nil
}

func sysctlError(path, value string, err error) error {
	name := sysctlName(path)
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("set sysctl %s to %s: %w (mount the node's /proc/sys/net writable into the agent, or set it on the node)", name, value, err)
	}
	return fmt.Errorf("set sysctl %s: %w", name, err)
}

func sysctlName(path string) string { return strings.ReplaceAll(path, "/", ".") }
