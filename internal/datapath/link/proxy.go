// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
)

const (
	proxyTable    = 2004 // of routes for what is marked for the proxy
	proxyPriority = 9    // of the rule: before every rule that somebody has reason to make
)

// proxyRules makes packets that the programs marked for the proxy local, whatever
// their destination: a rule for the mark, and a table with one route. Without a
// proxy, or for a family that is switched off, both go.
func (n *Node) proxyRules() error {
	var errs []error
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		want := n.opt.Proxy && (f == netlink.FAMILY_V4 && n.opt.IPv4 || f == netlink.FAMILY_V6 && n.opt.IPv6)
		if err := n.proxyRoute(f, want); err != nil {
			errs = append(errs, err)
		} else {
			errs = append(errs, n.proxyRule(f, want))
		}
	}
	return errors.Join(errs...)
}

func (n *Node) proxyRoute(family int, want bool) error {
	routes, err := again(func() ([]netlink.Route, error) {
		return n.nl.RouteListFiltered(family, &netlink.Route{Table: proxyTable}, netlink.RT_FILTER_TABLE)
	})
	if err != nil && !errors.Is(err, unix.ENOENT) { // there is no such table
		return fmt.Errorf("list routes to the proxy: %w", err)
	}
	for _, r := range routes {
		if want && r.Type == unix.RTN_LOCAL && r.Protocol == RouteProtocol && prefix(r.Dst, family == netlink.FAMILY_V6).Bits() == 0 {
			return nil
		}
		if !want && r.Protocol == RouteProtocol {
			r.Family = family
			if err := n.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove route to the proxy: %w", err)
			}
		}
	}
	if !want {
		return nil
	}
	lo, err := n.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if family == netlink.FAMILY_V6 {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	r := &netlink.Route{Family: family, LinkIndex: lo.Attrs().Index, Dst: ipnet(all), Type: unix.RTN_LOCAL, Table: proxyTable,
		Protocol: RouteProtocol, Scope: netlink.SCOPE_HOST}
	if err := n.nl.RouteReplace(r); err != nil {
		return fmt.Errorf("add route to the proxy: %w", err)
	}
	return nil
}

func (n *Node) proxyRule(family int, want bool) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE) // the other one is strict, which the library's dump of rules is not
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	rules, err := again(func() ([]netlink.Rule, error) { return h.RuleList(family) })
	if err != nil {
		return fmt.Errorf("list rules of routing: %w", err)
	}
	for _, r := range rules {
		if r.Table != proxyTable || r.Mark != abi.MarkToProxy {
			continue
		}
		if want && r.Priority == proxyPriority {
			return nil
		}
		r.Family = family
		if err := h.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove rule for the proxy: %w", err)
		}
	}
	if !want {
		return nil
	}
	mask := uint32(0xffffffff)
	r := netlink.NewRule()
	r.Family, r.Table, r.Mark, r.Mask, r.Priority, r.Protocol = family, proxyTable, abi.MarkToProxy, &mask, proxyPriority, RouteProtocol
	if err := h.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add rule for the proxy: %w", err)
	}
	return nil
}
