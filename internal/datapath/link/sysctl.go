// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	if err := n.setIfThere("net/ipv4/conf/"+name+"/rp_filter", "0"); err != nil {
		return err
	}
	for _, s := range [][2]string{{"accept_ra", "0"}, {"accept_dad", "0"}, {"dad_transmits", "0"}, {"addr_gen_mode", "1"}} {
		if err := n.setIfThere("net/ipv6/conf/"+name+"/"+s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
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
	err := os.WriteFile(filepath.Join(n.opt.ProcSys, path), []byte(value), 0o644)
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("set sysctl %s to %s: %w (mount the node's /proc/sys/net writable into the agent, or set it on the node)",
			strings.ReplaceAll(path, "/", "."), value, err)
	}
	if err != nil {
		return fmt.Errorf("set sysctl %s: %w", strings.ReplaceAll(path, "/", "."), err)
	}
	return nil
}

// setIfThere does nothing where the kernel or the namespace lacks the family.
func (n *Node) setIfThere(path, value string) error {
	if err := n.set(path, value); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
