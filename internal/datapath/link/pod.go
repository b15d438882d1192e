// SPDX-License-Identifier: Apache-2.0

package link

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Pod is the interface of a pod with both of its ends.
type Pod struct {
	NetNS           string // path of the pod's namespace
	ContainerIfName string // inside it; "": eth0
	HostIfName      string // in the node's; "": HostInterface of NetNS and ContainerIfName
	IPv4, IPv6      netip.Addr
	MAC, NodeMAC    [6]byte // out: inside the pod; the host's side
	IfIndex         int     // out: of the host's side
}

// HostInterface is the name of the host's side of a veth for a container's
// interface: always the same for the same pair, at most 15 bytes.
func HostInterface(container, ifName string) string {
	sum := sha256.Sum256([]byte(container + "\x00" + ifName))
	return PodPrefix + hex.EncodeToString(sum[:6])
}

func (p *Pod) complete() {
	if p.ContainerIfName == "" {
		p.ContainerIfName = "eth0"
	}
	if p.HostIfName == "" {
		p.HostIfName = HostInterface(p.NetNS, p.ContainerIfName)
	}
}

// addresses of a pod MAC and its gateway, by role, so that a repeated ADD finds what it made.
func hardware(name string, role byte) (mac [6]byte) {
	sum := sha256.Sum256([]byte{role, ':'})
	sum = sha256.Sum256(append(sum[:], name...))
	copy(mac[:], sum[:])
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	return mac
}

// AddPod makes the pod's veth straight in its namespace, with addresses, routes
// and neighbours, and the node's routes to it. What exists from an earlier call
// for the same pod is completed; an interface of someone else inside is an error.
// Before the interface goes up, guard is called with the number of the host's side.
func (n *Node) AddPod(p *Pod, guard func(index int) error) error {
	p.complete()
	ns, err := openNS(p.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	host, err := n.veth(p, ns)
	if err != nil {
		return err
	}
	p.IfIndex = host.Attrs().Index
	if err := guard(p.IfIndex); err != nil {
		return err
	}
	if err := n.hostUp(p, host); err != nil {
		return err
	}
	if err := inside(ns, func() error { return n.insidePod(p) }); err != nil {
		return fmt.Errorf("set up %s in %s: %w", p.ContainerIfName, p.NetNS, err)
	}
	return n.hostRoutes(p)
}

// veth returns the host's side, made anew unless it stands already with its peer in the pod.
func (n *Node) veth(p *Pod, ns netns.NsHandle) (netlink.Link, error) {
	p.MAC, p.NodeMAC = hardware(p.HostIfName, 'p'), hardware(p.HostIfName, 'n')
	la := netlink.NewLinkAttrs()
	la.Name, la.MTU, la.HardwareAddr = p.HostIfName, n.devices.MTU, p.NodeMAC[:]
	v := &netlink.Veth{LinkAttrs: la, PeerName: p.ContainerIfName, PeerHardwareAddr: p.MAC[:],
		PeerNamespace: netlink.NsFd(int(ns)), PeerMTU: uint32(n.devices.MTU)}
	err := n.nl.LinkAdd(v)
	if errors.Is(err, unix.EEXIST) {
		old, ferr := n.find(p.HostIfName)
		if ferr != nil {
			return nil, ferr
		}
		if old == nil {
			return nil, fmt.Errorf("create %s: %s already has an interface %s that is not ours", p.HostIfName, p.NetNS, p.ContainerIfName)
		}
		if n.peerIn(old, p, ns) {
			return old, nil
		}
		if err := n.nl.LinkDel(old); err != nil {
			return nil, fmt.Errorf("remove stale %s: %w", p.HostIfName, err)
		}
		err = n.nl.LinkAdd(v)
	}
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", p.HostIfName, err)
	}
	l, err := n.nl.LinkByName(p.HostIfName)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", p.HostIfName, err)
	}
	return l, nil
}

// peerIn tells whether the other end of host is the pod's interface.
func (n *Node) peerIn(host netlink.Link, p *Pod, ns netns.NsHandle) bool {
	found := false
	_ = inside(ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName(p.ContainerIfName)
		found = err == nil && l.Attrs().ParentIndex == host.Attrs().Index && l.Attrs().Index == host.Attrs().ParentIndex
		return nil
	})
	return found
}

// insidePod runs on a thread of the pod's namespace.
func (n *Node) insidePod(p *Pod) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(p.ContainerIfName)
	if err != nil {
		return err
	}
	if p.IPv6.IsValid() {
		// Before it goes up: no address from the outside, none that is tentative.
		err := n.setDevice("ipv6", p.ContainerIfName, [][2]string{{"disable_ipv6", "0"}, {"accept_ra", "0"}, {"accept_dad", "0"}})
		if err != nil {
			return err
		}
	}
	for _, ip := range p.addresses() {
		if err := h.AddrReplace(l, &netlink.Addr{IPNet: full(ip), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("add address %s: %w", ip, err)
		}
	}
	if l.Attrs().MTU != n.devices.MTU {
		if err := h.LinkSetMTU(l, n.devices.MTU); err != nil {
			return fmt.Errorf("set MTU: %w", err)
		}
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	for _, ip := range p.addresses() {
		if err := podRoutes(h, l.Attrs().Index, family(n.opt.Router, ip.Is4()), p.NodeMAC); err != nil {
			return err
		}
	}
	if p.IPv6.IsValid() {
		return waitLocal(h, p.IPv6)
	}
	return nil
}

// waitLocal waits until the kernel receives for an IPv6 address: without
// duplicate detection it is valid at once, but a worker makes its local route.
func waitLocal(h *netlink.Handle, ip netip.Addr) error {
	for pause := 50 * time.Microsecond; ; pause *= 2 {
		routes, err := h.RouteGet(ip.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if pause > time.Second {
			if err == nil {
				err = errors.New("the kernel has no local route for it")
			}
			return fmt.Errorf("address %s is not in use after a second: %w", ip, err)
		}
		time.Sleep(pause)
	}
}

// podRoutes sends everything to the router, whose link address never has to be asked for.
func podRoutes(h *netlink.Handle, index int, router netip.Addr, mac [6]byte) error {
	gw := net.IP(router.AsSlice())
	neigh := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: gw, HardwareAddr: mac[:]}
	if err := h.NeighSet(neigh); err != nil {
		return fmt.Errorf("add neighbour %s: %w", router, err)
	}
	direct := &netlink.Route{LinkIndex: index, Dst: full(router), Scope: netlink.SCOPE_LINK}
	standard := &netlink.Route{LinkIndex: index, Gw: gw, Dst: ipnet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))}
	if router.Is6() {
		direct.Scope = 0
		standard.Dst = ipnet(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	for _, r := range []*netlink.Route{direct, standard} {
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("add route %s: %w", r.Dst, err)
		}
	}
	return nil
}

// hostUp sets the host's side up before the pod's: the side that comes second
// can send at once, the first only when the kernel has noticed its carrier.
func (n *Node) hostUp(p *Pod, host netlink.Link) error {
	if err := n.quietDevice(p.HostIfName); err != nil {
		return err
	}
	if host.Attrs().MTU != n.devices.MTU {
		if err := n.nl.LinkSetMTU(host, n.devices.MTU); err != nil {
			return fmt.Errorf("set MTU of %s: %w", p.HostIfName, err)
		}
	}
	if host.Attrs().Flags&net.FlagUp == 0 {
		if err := n.nl.LinkSetUp(host); err != nil {
			return fmt.Errorf("set %s up: %w", p.HostIfName, err)
		}
	}
	return nil
}

// hostRoutes gives the node a route and a neighbour for each address of the pod.
// The node speaks to its own pods with its InternalIP: a server of the node that
// listens on every address answers then from the one that pods know.
func (n *Node) hostRoutes(p *Pod) error {
	index := p.IfIndex
	for _, ip := range p.addresses() {
		neigh := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: p.MAC[:]}
		if err := n.nl.NeighSet(neigh); err != nil {
			return fmt.Errorf("add neighbour %s: %w", ip, err)
		}
		r := &netlink.Route{LinkIndex: index, Dst: full(ip), Protocol: RouteProtocol, Scope: netlink.SCOPE_LINK,
			Src: n.source(ip.Is4()).AsSlice()}
		if ip.Is6() {
			r.Scope = 0
		}
		if err := n.nl.RouteReplace(r); err != nil {
			return fmt.Errorf("add route to %s: %w", ip, err)
		}
	}
	// Asking for the device makes the kernel (6.3 and later) act on its carrier now.
	if _, err := n.nl.LinkByIndex(index); err != nil {
		return fmt.Errorf("find %s: %w", p.HostIfName, err)
	}
	return nil
}

// source is the node's own address of a family: an InternalIP that is on one of
// its uplinks, else the router address.
func (n *Node) source(four bool) netip.Addr {
	for _, d := range n.devices.Uplinks {
		a := d.Addr6
		if four {
			a = d.Addr4
		}
		if slices.Contains(n.opt.NodeIPs, a) {
			return a
		}
	}
	return family(n.opt.Router, four)
}

func (p *Pod) addresses() (out []netip.Addr) {
	for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// Pods are the numbers of the devices that are pods' veths of ours: numbers come
// back, and a row may name one that belongs to someone else by now.
func (n *Node) Pods() (map[int]bool, error) {
	list, err := again(n.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	out := map[int]bool{}
	for _, l := range list {
		if a := l.Attrs(); strings.HasPrefix(a.Name, PodPrefix) {
			out[a.Index] = true
		}
	}
	return out, nil
}

// CheckPod tells what of a pod's interface is missing; nil if all is there.
func (n *Node) CheckPod(p Pod) error {
	p.complete()
	host, err := n.find(p.HostIfName)
	if err != nil {
		return err
	}
	if host == nil {
		return fmt.Errorf("%s: no such interface on the node", p.HostIfName)
	}
	if host.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s is down", p.HostIfName)
	}
	ns, err := openNS(p.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	if !n.peerIn(host, &p, ns) {
		return fmt.Errorf("%s: no interface in %s that is the other end of %s", p.ContainerIfName, p.NetNS, p.HostIfName)
	}
	return inside(ns, func() error { return checkInside(p) })
}

func checkInside(p Pod) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(p.ContainerIfName)
	if err != nil {
		return err
	}
	addrs, err := again(func() ([]netlink.Addr, error) { return h.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	have := map[netip.Addr]bool{}
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		have[ip.Unmap()] = true
	}
	for _, ip := range p.addresses() {
		if !have[ip] {
			return fmt.Errorf("%s lacks address %s", p.ContainerIfName, ip)
		}
		if _, err := h.RouteGet(net.IP(ip.AsSlice())); err != nil {
			return fmt.Errorf("route to %s: %w", ip, err)
		}
	}
	return nil
}

// DelPod removes the veth; routes, neighbours and filters go with it. Absent is fine.
func (n *Node) DelPod(p Pod) error {
	p.complete()
	return n.remove(p.HostIfName)
}

// openNS opens a namespace by its path; runtimes mount it under /run/netns or
// /var/run/netns, which need not be the same directory inside a container.
func openNS(path string) (netns.NsHandle, error) {
	ns, err := netns.GetFromPath(path)
	if !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return ns, fmt.Errorf("open namespace %s: %w", path, err)
		}
		return ns, nil
	}
	var other string
	if rest, ok := strings.CutPrefix(path, "/var/run/"); ok {
		other = "/run/" + rest
	} else if rest, ok := strings.CutPrefix(path, "/run/"); ok {
		other = "/var/run/" + rest
	} else {
		return ns, fmt.Errorf("open namespace %s: %w", path, err)
	}
	if ns, oerr := netns.GetFromPath(other); oerr == nil {
		return ns, nil
	}
	return ns, fmt.Errorf("open namespace %s: %w", path, err)
}

// inside runs f on a thread of the namespace. A thread that cannot go back is
// never given to other goroutines: it ends with its own.
func inside(ns netns.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		if err := netns.Set(ns); err != nil {
			done <- fmt.Errorf("enter namespace: %w", err)
			return
		}
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
