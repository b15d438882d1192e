// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Devices of a node that are ours.
const (
	HostName    = "stentor_host"  // carries the router addresses
	NetName     = "stentor_net"   // its other end
	OverlayName = "stentor_vxlan" // one device for all tunnels; the key comes with each packet
	PodPrefix   = "stp"           // host's side of a pod's veth
)

// Bytes that VXLAN adds to a packet: outer IP, UDP and VXLAN headers, inner Ethernet.
const (
	overhead4 = 20 + 8 + 8 + 14
	overhead6 = 40 + 8 + 8 + 14
)

// Options of the node's devices.
type Options struct {
	IPv4, IPv6 bool
	Tunnel     bool   // VXLAN between nodes; otherwise native routing
	TunnelPort uint16 // 0: 8472
	Proxy      bool   // what is marked for the node's proxy is local
	Direct     bool   // native routing: routes to the pods of other nodes through their addresses
	Router     []netip.Addr
	NodeIPs    []netip.Addr // this node's InternalIPs, find the uplinks and the outer family
	PodCIDRs   []netip.Prefix
	Uplinks    []string  // empty: devices of NodeIPs and of the default routes
	MTU        int       // of pods; 0: the smallest uplink's minus the overlay's overhead
	Reserved   [2]uint16 // first and last port that no socket gets without asking for it; zero: none
	ProcSys    string    // "": /proc/sys; another path where that one is mounted read-only
}

func (o *Options) validate() error {
	if !o.IPv4 && !o.IPv6 {
		return errors.New("neither IPv4 nor IPv6 is enabled")
	}
	if o.IPv4 && !family(o.Router, true).IsValid() {
		return errors.New("no IPv4 router address: the node has no IPv4 pod range yet")
	}
	if o.IPv6 && !family(o.Router, false).IsValid() {
		return errors.New("no IPv6 router address: the node has no IPv6 pod range yet")
	}
	if o.TunnelPort == 0 {
		o.TunnelPort = 8472
	}
	if o.ProcSys == "" {
		o.ProcSys = "/proc/sys"
	}
	return nil
}

// Devices says what a node's datapath is attached to.
type Devices struct {
	Host, Net, Overlay Device // Overlay is zero without tunnels
	Uplinks            []Device
	MTU                int // of pods
}

// Device of the node.
type Device struct {
	Name         string
	Index        int
	MAC          [6]byte
	MTU          int
	Addr4, Addr6 netip.Addr // uplinks: the node's address on it, invalid if none
}

// Node makes and watches the devices of a node. Its methods may be called concurrently.
type Node struct {
	nl      *netlink.Handle
	opt     Options
	devices Devices
}

// New opens the namespace of the calling thread; nothing is changed yet.
func New(opt Options) (*Node, error) {
	if err := opt.validate(); err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	// Missing fields in a dump are errors that we see; a strict kernel filters dumps for us.
	_ = h.SetStrictCheck(true)
	return &Node{nl: h, opt: opt}, nil
}

// Close frees the netlink socket; devices stay.
func (n *Node) Close() { n.nl.Close() }

// Devices returns what the last Ensure found or made.
func (n *Node) Devices() Devices { return n.devices }

// Ensure makes devices, addresses, routes and sysctls of the node right.
func (n *Node) Ensure() (Devices, error) {
	up, err := n.uplinks()
	if err != nil {
		return Devices{}, err
	}
	d := Devices{Uplinks: up, MTU: n.podMTU(up)}
	if err := n.sysctls(up); err != nil {
		return Devices{}, err
	}
	if d.Host, d.Net, err = n.hostPair(d.MTU); err != nil {
		return Devices{}, err
	}
	if n.opt.Tunnel {
		if d.Overlay, err = n.overlay(d.MTU); err != nil {
			return Devices{}, err
		}
	} else if err := n.remove(OverlayName); err != nil {
		return Devices{}, err
	}
	n.devices = d
	return d, errors.Join(n.localRanges(), n.proxyRules())
}

// hostPair makes the veth that carries the router addresses.
func (n *Node) hostPair(mtu int) (host, net Device, err error) {
	l, err := n.find(HostName)
	if err != nil {
		return host, net, err
	}
	if l == nil {
		la := netlink.NewLinkAttrs()
		la.Name, la.MTU = HostName, mtu
		if err := n.nl.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: NetName, PeerMTU: uint32(mtu)}); err != nil {
			return host, net, fmt.Errorf("create %s: %w", HostName, err)
		}
	}
	for _, name := range []string{HostName, NetName} {
		if err := n.quietDevice(name); err != nil {
			return host, net, err
		}
	}
	// What the host answers to the proxy comes in here, with an address of the host.
	if err := n.setDevice("ipv4", HostName, [][2]string{{"accept_local", "1"}}); err != nil {
		return host, net, err
	}
	if host, err = n.bringUp(HostName, mtu); err != nil {
		return host, net, err
	}
	if net, err = n.bringUp(NetName, mtu); err != nil {
		return host, net, err
	}
	if _, err := n.find(HostName); err != nil { // see hostRoutes: its carrier came with the other end's
		return host, net, err
	}
	return host, net, n.routerAddresses(host)
}

func (n *Node) routerAddresses(host Device) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: HostName, Index: host.Index}}
	have, err := again(func() ([]netlink.Addr, error) { return n.nl.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", HostName, err)
	}
	want := map[netip.Addr]bool{}
	for _, a := range n.opt.Router {
		if a.Is4() && n.opt.IPv4 || a.Is6() && n.opt.IPv6 {
			want[a] = true
		}
	}
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP)
		if ip = ip.Unmap(); want[ip] {
			delete(want, ip)
			continue
		}
		if ip.IsLinkLocalUnicast() {
			continue
		}
		if err := n.nl.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove address %s from %s: %w", ip, HostName, err)
		}
	}
	for ip := range want {
		a := &netlink.Addr{IPNet: full(ip), Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE}
		if err := n.nl.AddrReplace(link, a); err != nil {
			return fmt.Errorf("add address %s to %s: %w", ip, HostName, err)
		}
	}
	return nil
}

// overlay makes the VXLAN device whose remote and key come with each packet.
func (n *Node) overlay(mtu int) (Device, error) {
	l, err := n.find(OverlayName)
	if err != nil {
		return Device{}, err
	}
	if v, ok := l.(*netlink.Vxlan); l != nil && (!ok || !v.FlowBased || v.Port != int(n.opt.TunnelPort)) {
		if err := n.nl.LinkDel(l); err != nil {
			return Device{}, fmt.Errorf("remove %s with other settings: %w", OverlayName, err)
		}
		l = nil
	}
	if l == nil {
		la := netlink.NewLinkAttrs()
		la.Name, la.MTU = OverlayName, mtu
		v := &netlink.Vxlan{LinkAttrs: la, FlowBased: true, Port: int(n.opt.TunnelPort),
			UDP6ZeroCSumTx: true, UDP6ZeroCSumRx: true}
		if err := n.nl.LinkAdd(v); errors.Is(err, unix.EADDRINUSE) {
			return Device{}, fmt.Errorf("create %s: UDP port %d is taken by another tunnel of this node: %w", OverlayName, n.opt.TunnelPort, err)
		} else if errors.Is(err, unix.EOPNOTSUPP) {
			return Device{}, fmt.Errorf("create %s: the kernel has no VXLAN (CONFIG_VXLAN); use routing-mode: native: %w", OverlayName, err)
		} else if err != nil {
			return Device{}, fmt.Errorf("create %s: %w", OverlayName, err)
		}
	}
	if err := n.quietDevice(OverlayName); err != nil {
		return Device{}, err
	}
	if l, err = n.find(OverlayName); err != nil {
		return Device{}, err
	}
	// Neighbours behind the overlay are known by the ipcache, never by ARP.
	if l.Attrs().RawFlags&unix.IFF_NOARP == 0 {
		if err := n.nl.LinkSetARPOff(l); err != nil {
			return Device{}, fmt.Errorf("set %s noarp: %w", OverlayName, err)
		}
	}
	return n.bringUp(OverlayName, mtu)
}

func (n *Node) bringUp(name string, mtu int) (Device, error) {
	l, err := n.nl.LinkByName(name)
	if err != nil {
		return Device{}, fmt.Errorf("find %s: %w", name, err)
	}
	if l.Attrs().MTU != mtu {
		if err := n.nl.LinkSetMTU(l, mtu); err != nil {
			return Device{}, fmt.Errorf("set MTU %d of %s: %w", mtu, name, err)
		}
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		if err := n.nl.LinkSetUp(l); err != nil {
			return Device{}, fmt.Errorf("set %s up: %w", name, err)
		}
	}
	return device(l.Attrs()), nil
}

// find returns nil if there is no such device.
func (n *Node) find(name string) (netlink.Link, error) {
	l, err := n.nl.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	return l, nil
}

func (n *Node) remove(name string) error {
	l, err := n.find(name)
	if err != nil || l == nil {
		return err
	}
	if err := n.nl.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

func device(a *netlink.LinkAttrs) Device {
	d := Device{Name: a.Name, Index: a.Index, MTU: a.MTU}
	copy(d.MAC[:], a.HardwareAddr)
	return d
}

// again repeats a dump that the kernel says was interrupted by a change.
func again[T any](dump func() (T, error)) (T, error) {
	for i := 0; ; i++ {
		v, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || i == 8 {
			return v, err
		}
	}
}

func family(list []netip.Addr, four bool) netip.Addr {
	for _, a := range list {
		if a.Is4() == four && a.IsValid() {
			return a
		}
	}
	return netip.Addr{}
}

func full(a netip.Addr) *net.IPNet {
	return ipnet(netip.PrefixFrom(a, a.BitLen()))
}

func ipnet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefix(n *net.IPNet, six bool) netip.Prefix {
	if n == nil {
		if six {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	if !six {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones)
}
