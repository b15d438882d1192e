// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// uplinks finds the devices by which the node speaks to others: those named in
// the options, or those with the node's addresses and those of its default
// routes. The device with the node's address comes first: it carries direct
// routes and gives the address for masquerading.
func (n *Node) uplinks() ([]Device, error) {
	links, err := again(n.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	addrs, err := again(func() ([]netlink.Addr, error) { return n.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byIndex := map[int]netlink.Link{}
	for _, l := range links {
		byIndex[l.Attrs().Index] = l
	}
	var out []Device
	add := func(index int) {
		l := byIndex[index]
		if l == nil || slices.ContainsFunc(out, func(d Device) bool { return d.Index == index }) || ours(l.Attrs().Name) || l.Attrs().Name == "lo" {
			return
		}
		d := device(l.Attrs())
		d.Addr4, d.Addr6 = n.addressOf(addrs, index, true), n.addressOf(addrs, index, false)
		out = append(out, d)
	}
	if len(n.opt.Uplinks) > 0 {
		for _, name := range n.opt.Uplinks {
			l, err := n.nl.LinkByName(name)
			if err != nil {
				return nil, fmt.Errorf("find uplink %s: %w", name, err)
			}
			add(l.Attrs().Index)
		}
	} else {
		for _, a := range addrs {
			if ip, _ := netip.AddrFromSlice(a.IP); slices.Contains(n.opt.NodeIPs, ip.Unmap()) {
				add(a.LinkIndex)
			}
		}
		if err := n.defaultRoutes(add); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no uplink found: no device has the node's address or a default route; name it with the option devices")
	}
	return out, nil
}

func (n *Node) defaultRoutes(add func(index int)) error {
	routes, err := again(func() ([]netlink.Route, error) { return n.nl.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		if r.LinkIndex > 0 {
			add(r.LinkIndex)
		}
		for _, hop := range r.MultiPath {
			add(hop.LinkIndex)
		}
	}
	return nil
}

// addressOf prefers the node's InternalIP to other global addresses of the device.
func (n *Node) addressOf(addrs []netlink.Addr, index int, four bool) netip.Addr {
	var first netip.Addr
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		if ip = ip.Unmap(); a.LinkIndex != index || ip.Is4() != four || !ip.IsGlobalUnicast() {
			continue
		}
		if slices.Contains(n.opt.NodeIPs, ip) {
			return ip
		}
		if !first.IsValid() {
			first = ip
		}
	}
	return first
}

// podMTU leaves room for the overlay in the uplink that has least.
func (n *Node) podMTU(up []Device) int {
	if n.opt.MTU > 0 {
		return n.opt.MTU
	}
	mtu := up[0].MTU
	for _, d := range up {
		mtu = min(mtu, d.MTU)
	}
	if !n.opt.Tunnel {
		return mtu
	}
	// The InternalIPs decide the outer family (node.Underlay), not what else the uplink has.
	outer4 := family(n.opt.NodeIPs, true).IsValid()
	if len(n.opt.NodeIPs) == 0 {
		outer4 = up[0].Addr4.IsValid()
	}
	if outer4 {
		return mtu - overhead4
	}
	return mtu - overhead6
}

func ours(name string) bool {
	return strings.HasPrefix(name, PodPrefix) || name == HostName || name == NetName || name == OverlayName
}
