// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks the routes that are ours.
const RouteProtocol = 83

// unreachableMetric keeps the catch-all of the local pod range behind any route
// that somebody else makes for it.
const unreachableMetric = 1 << 20

// Remote is a pod range of another node.
type Remote struct {
	Range   netip.Prefix
	NextHop netip.Addr // the node's address of the range's family; used by direct routes
}

// localRanges catches what is sent to an address of this node's pod ranges that
// no pod has, so that it never leaves by the default route. Pods have longer
// routes of their own.
func (n *Node) localRanges() error {
	routes, err := n.owned()
	if err != nil {
		return err
	}
	want := map[netip.Prefix]bool{}
	for _, p := range n.opt.PodCIDRs {
		if n.enabled(p.Addr()) {
			want[p.Masked()] = true
		}
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNREACHABLE {
			continue
		}
		p := prefix(r.Dst, r.Family == netlink.FAMILY_V6)
		if want[p] {
			delete(want, p)
			continue
		}
		if err := n.delete(r); err != nil {
			return err
		}
	}
	for p := range want {
		r := &netlink.Route{Dst: ipnet(p), Type: unix.RTN_UNREACHABLE, Protocol: RouteProtocol, Priority: unreachableMetric}
		if err := n.nl.RouteReplace(r); err != nil {
			return fmt.Errorf("add unreachable route %s: %w", p, err)
		}
	}
	return nil
}

// SetRemotes makes the routes to the pods of other nodes exactly those of the
// list: through the overlay, or directly through each node's address on the
// uplink if Options.Direct says so, or none (the network routes).
func (n *Node) SetRemotes(list []Remote) error {
	want := map[netip.Prefix]*netlink.Route{}
	for _, r := range list {
		if !n.enabled(r.Range.Addr()) {
			continue
		}
		if route := n.remoteRoute(r); route != nil {
			want[r.Range.Masked()] = route
		}
	}
	routes, err := n.owned()
	if err != nil {
		return err
	}
	var stale []netlink.Route
	for _, r := range routes {
		if r.Type == unix.RTN_UNREACHABLE || n.isPodRoute(r) {
			continue
		}
		p := prefix(r.Dst, r.Family == netlink.FAMILY_V6)
		if w := want[p]; w != nil && r.LinkIndex == w.LinkIndex && r.Gw.Equal(w.Gw) && r.Src.Equal(w.Src) {
			delete(want, p)
		} else if w == nil {
			stale = append(stale, r)
		}
	}
	var errs []error
	for p, r := range want {
		if err := n.nl.RouteReplace(r); errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
			errs = append(errs, fmt.Errorf("add route %s via %s: the node is not on a network of %s (auto-direct-node-routes needs that): %w",
				p, r.Gw, n.devices.Uplinks[0].Name, err))
		} else if err != nil {
			errs = append(errs, fmt.Errorf("add route %s: %w", p, err))
		}
	}
	for _, r := range stale {
		errs = append(errs, n.delete(r))
	}
	return errors.Join(errs...)
}

func (n *Node) remoteRoute(r Remote) *netlink.Route {
	route := &netlink.Route{Dst: ipnet(r.Range), Protocol: RouteProtocol}
	switch {
	case n.opt.Tunnel:
		route.LinkIndex = n.devices.Overlay.Index
		route.Src = family(n.opt.Router, r.Range.Addr().Is4()).AsSlice()
		route.Scope = netlink.SCOPE_LINK
	case n.opt.Direct && r.NextHop.IsValid() && r.NextHop.Is4() == r.Range.Addr().Is4():
		route.LinkIndex = n.devices.Uplinks[0].Index
		route.Gw = r.NextHop.AsSlice()
	default:
		return nil
	}
	if r.Range.Addr().Is6() {
		route.Scope = 0
	}
	return route
}

// isPodRoute tells the route of one pod, which belongs to its veth.
func (n *Node) isPodRoute(r netlink.Route) bool {
	return r.LinkIndex != n.devices.Overlay.Index && r.LinkIndex != n.devices.Uplinks[0].Index
}

// owned lists the routes that are ours.
func (n *Node) owned() ([]netlink.Route, error) {
	var out []netlink.Route
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := again(func() ([]netlink.Route, error) {
			return n.nl.RouteListFiltered(f, &netlink.Route{Protocol: RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			r.Family = f
			out = append(out, r)
		}
	}
	return out, nil
}

func (n *Node) delete(r netlink.Route) error {
	if err := n.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route %s: %w", r.Dst, err)
	}
	return nil
}

func (n *Node) enabled(a netip.Addr) bool {
	return a.Is4() && n.opt.IPv4 || a.Is6() && n.opt.IPv6
}

// Cleanup removes every device and route of ours from the namespace of the
// calling thread. Sysctls stay: others may have come to rely on forwarding.
func Cleanup() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	n := &Node{nl: h}
	links, err := again(h.LinkList)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	var errs []error
	for _, l := range links {
		if name := l.Attrs().Name; ours(name) && name != NetName {
			errs = append(errs, n.remove(name))
		}
	}
	routes, err := n.owned()
	errs = append(errs, err)
	for _, r := range routes {
		errs = append(errs, n.delete(r))
	}
	return errors.Join(append(errs, n.proxyRules())...)
}
