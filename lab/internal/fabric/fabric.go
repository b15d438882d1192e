// SPDX-License-Identifier: Apache-2.0

// Package fabric builds the wires between the machines of a lab.
//
// The fabric namespace is switch and router: a bridge with one port per node
// and a second segment with the outside host. A third segment leads there too,
// over a smaller MTU. The fabric has routes to those segments alone: like most
// real networks it knows nothing of pods, unless Route tells it.
package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/lab/internal/plan"
)

const bridge = "br0"

// Up makes all namespaces, links, addresses and default routes of the plan.
func Up(p *plan.Plan) error {
	if err := upFabric(p); err != nil {
		return err
	}
	if err := upHost(p, p.OutsideNS, "outside", p.Outside, p.OutsideGW, ""); err != nil {
		return err
	}
	if err := upNarrow(p); err != nil {
		return err
	}
	for _, n := range p.Nodes {
		if err := upHost(p, n.NetNS, n.Name, n.Addrs, p.Fabric, bridge); err != nil {
			return err
		}
		if err := In(n.NetNS, forwarding); err != nil {
			return err
		}
	}
	return nil
}

// Down removes every namespace a lab of this name can have, with all links in it.
func Down(p *plan.Plan) error {
	var errs []error
	for _, ns := range p.AllNetNS() {
		errs = append(errs, DeleteNS(ns))
	}
	releaseDir()
	return errors.Join(errs...)
}

func upFabric(p *plan.Plan) error {
	if err := createNS(p.FabricNS); err != nil {
		return err
	}
	if err := In(p.FabricNS, forwarding); err != nil {
		return err
	}
	return withHandle(p.FabricNS, func(h *netlink.Handle, _ netns.NsHandle) error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}
		if err := h.LinkAdd(br); err != nil {
			return fmt.Errorf("add %s: %w", bridge, err)
		}
		return up(h, bridge, p.Fabric)
	})
}

// upHost makes a namespace with one interface eth0, wired to the fabric.
func upHost(p *plan.Plan, ns, port string, addrs, gateways []netip.Prefix, master string) error {
	if err := createNS(ns); err != nil {
		return err
	}
	return withHandle(ns, func(host *netlink.Handle, hostNS netns.NsHandle) error {
		return withHandle(p.FabricNS, func(fab *netlink.Handle, _ netns.NsHandle) error {
			if err := wire(fab, port, "eth0", hostNS); err != nil {
				return err
			}
			if err := plug(fab, port, gateways, master); err != nil {
				return err
			}
			if err := up(host, "eth0", addrs); err != nil {
				return err
			}
			return defaultRoutes(host, gateways)
		})
	})
}

// upNarrow wires the outside host to the fabric a second time. Its answers
// leave by the default route, the wide way, so that it announces a segment size
// that the narrow way does not carry: senders must listen to the fabric's ICMP.
func upNarrow(p *plan.Plan) error {
	return withHandle(p.OutsideNS, func(host *netlink.Handle, hostNS netns.NsHandle) error {
		return withHandle(p.FabricNS, func(fab *netlink.Handle, _ netns.NsHandle) error {
			if err := wire(fab, "narrow", "eth1", hostNS); err != nil {
				return err
			}
			for _, end := range []struct {
				h     *netlink.Handle
				name  string
				addrs []netip.Prefix
			}{{fab, "narrow", p.NarrowGW}, {host, "eth1", p.Narrow}} {
				l, err := end.h.LinkByName(end.name)
				if err != nil {
					return err
				}
				if err := end.h.LinkSetMTU(l, plan.NarrowMTU); err != nil {
					return fmt.Errorf("set MTU of %s: %w", end.name, err)
				}
				if err := up(end.h, end.name, end.addrs); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func wire(fab *netlink.Handle, port, peer string, hostNS netns.NsHandle) error {
	v := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: port},
		PeerName:      peer,
		PeerNamespace: netlink.NsFd(hostNS),
	}
	if err := fab.LinkAdd(v); err != nil {
		return fmt.Errorf("add link %s: %w", port, err)
	}
	return nil
}

// plug makes a port of the fabric either a member of a bridge or, with no
// bridge, a routed port with the gateways' addresses.
func plug(fab *netlink.Handle, port string, gateways []netip.Prefix, master string) error {
	if master == "" {
		return up(fab, port, gateways)
	}
	l, err := fab.LinkByName(port)
	if err != nil {
		return err
	}
	m, err := fab.LinkByName(master)
	if err != nil {
		return err
	}
	if err := fab.LinkSetMaster(l, m); err != nil {
		return fmt.Errorf("plug %s into %s: %w", port, master, err)
	}
	return fab.LinkSetUp(l)
}

// up gives a link its addresses and sets it and the loopback up.
func up(h *netlink.Handle, name string, addrs []netip.Prefix) error {
	for _, n := range []string{"lo", name} {
		l, err := h.LinkByName(n)
		if err != nil {
			return fmt.Errorf("link %s: %w", n, err)
		}
		if n == name {
			for _, a := range addrs {
				addr := &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}
				if err := h.AddrAdd(l, addr); err != nil {
					return fmt.Errorf("add %s to %s: %w", a, n, err)
				}
			}
		}
		if err := h.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", n, err)
		}
	}
	return nil
}

func defaultRoutes(h *netlink.Handle, gateways []netip.Prefix) error {
	l, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, g := range gateways {
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: g.Addr().AsSlice()}
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("default route by %s: %w", g.Addr(), err)
		}
	}
	return nil
}

// Route sends traffic for dst, in the named namespace, to the gateway via.
func Route(ns string, dst netip.Prefix, via netip.Addr) error {
	return withHandle(ns, func(h *netlink.Handle, _ netns.NsHandle) error {
		if err := h.RouteReplace(&netlink.Route{Dst: ipNet(dst), Gw: via.AsSlice()}); err != nil {
			return fmt.Errorf("route %s by %s: %w", dst, via, err)
		}
		return nil
	})
}

func withHandle(ns string, f func(*netlink.Handle, netns.NsHandle) error) error {
	fd, err := netns.GetFromPath(NSPath(ns))
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", ns, err)
	}
	defer fd.Close()
	h, err := netlink.NewHandleAt(fd)
	if err != nil {
		return fmt.Errorf("netlink in %s: %w", ns, err)
	}
	defer h.Close()
	return f(h, fd)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// forwarding makes the calling thread's network namespace a router.
func forwarding() error {
	for _, f := range []string{
		"/proc/sys/net/ipv4/ip_forward",
		"/proc/sys/net/ipv6/conf/all/forwarding",
		"/proc/sys/net/ipv6/conf/default/forwarding",
	} {
		if err := os.WriteFile(f, []byte("1"), 0o644); err != nil {
			return err
		}
	}
	return nil
}
