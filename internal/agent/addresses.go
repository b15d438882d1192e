// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/stentor-net/stentor/internal/datapath"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/table"
)

// Address says who is behind a prefix and how that is known: a row of the table
// `addresses`.
type Address struct {
	policy.Address
	Source          string // who says so: Source*
	Namespace, Name string // of the pod or node, where there is one
	HostIP          netip.Addr
}

// Sources of an Address, strongest first: where two name the same prefix, the
// earlier one holds.
const (
	SourceEndpoint       = "endpoint"       // a pod of this node
	SourceHost           = "host"           // an address of this node
	SourceNode           = "node"           // an address of another node
	SourceCiliumEndpoint = "ciliumendpoint" // a pod of another node
	SourceAPIServer      = "kube-apiserver" // neither pod nor node
	SourceRange          = "podcidr"        // a node's pod range
	SourceNative         = "native-routing" // natively routed
	SourceWorld          = "world"
)

func newAddressTable() (*table.Table[Address], *table.Writer[Address]) {
	return table.New(table.Options[Address]{
		Name: "addresses",
		Key:  func(a Address) string { return a.Prefix.String() },
		Columns: []table.Column[Address]{
			{Name: "PREFIX", Value: func(a Address) string { return a.Prefix.String() }},
			{Name: "IDENTITY", Value: func(a Address) string { return a.Identity.String() }},
			{Name: "NODE", Value: func(a Address) string { return strconv.Itoa(int(a.Node)) }},
			{Name: "SOURCE", Value: func(a Address) string { return a.Source }},
			{Name: "NAME", Value: func(a Address) string {
				if a.Namespace == "" {
					return a.Name
				}
				return a.Namespace + "/" + a.Name
			}},
		},
	})
}

// localNode is the number of this node in the datapath.
const localNode = datapath.LocalNode

// addressInput is everything that addresses follow from.
type addressInput struct {
	Endpoints  []endpoint.Endpoint // of this node
	Remotes    []endpoint.Remote   // of all nodes; those of this one are left out
	Nodes      []node.Node
	Index      map[string]uint16 // number of each node
	HostIPs    []netip.Addr      // every address that this node has
	APIServers []netip.Addr
	IPv4, IPv6 bool
	Tunnel     bool
	Native     []netip.Prefix
	NodeLabels bool // other nodes have identities by their labels
}

// deriveAddresses gives one row per prefix, in order of prefixes. It depends on
// its input's content only, not on its order.
func deriveAddresses(in addressInput) []Address { return newAddressBook(in).rows() }

// addressBook keeps what addresses follow from, so that one pod more costs one
// row more. What nodes, API servers and options say is derived as a whole; pods
// can be changed one by one.
type addressBook struct {
	in     addressInput
	byIP   map[netip.Addr]node.Node
	layers [layerCount]map[netip.Prefix]Address
}

// Layers of an addressBook, weakest first.
const (
	layerRange = iota
	layerRemote
	layerNode
	layerEndpoint
	layerCount
)

func layerOf(source string) int {
	switch source {
	case SourceEndpoint:
		return layerEndpoint
	case SourceHost, SourceNode:
		return layerNode
	case SourceCiliumEndpoint:
		return layerRemote
	}
	return layerRange
}

func newAddressBook(in addressInput) *addressBook {
	d := &addressBook{in: in, byIP: nodesByIP(in.Nodes)}
	for i := range d.layers {
		d.layers[i] = map[netip.Prefix]Address{}
	}
	d.world()
	d.ranges()
	d.apiServers()
	for ip, r := range claims(in.Remotes, d.byIP) {
		d.putRemote(ip, r)
	}
	d.nodes()
	d.host()
	for _, e := range in.Endpoints {
		d.putEndpoint(e)
	}
	d.in.Remotes, d.in.Endpoints = nil, nil
	return d
}

// rows are those in force, in order of prefixes.
func (d *addressBook) rows() []Address {
	var out []Address
	for i, layer := range d.layers {
		for p, a := range layer {
			if !slices.ContainsFunc(d.layers[i+1:], func(l map[netip.Prefix]Address) bool { _, ok := l[p]; return ok }) {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, func(a, b Address) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	return out
}

// row is the one in force for a prefix.
func (d *addressBook) row(p netip.Prefix) (Address, bool) {
	for i := layerCount - 1; i >= 0; i-- {
		if a, ok := d.layers[i][p]; ok {
			return a, true
		}
	}
	return Address{}, false
}

// isAPIServer tells whether an address is that of an API server outside the cluster.
func (d *addressBook) isAPIServer(ip netip.Addr) bool {
	return d.layers[layerRange][host(ip)].Source == SourceAPIServer
}

// put stores a row of an enabled family. Of one layer the last holds.
func (d *addressBook) put(a Address) {
	if a.Prefix.Addr().Is4() && d.in.IPv4 || a.Prefix.Addr().Is6() && d.in.IPv6 {
		d.layers[layerOf(a.Source)][a.Prefix] = a
	}
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// routed are the flags of what is behind another node's pod network.
func (d *addressBook) routed() uint16 {
	if d.in.Tunnel {
		return policy.AddressTunnel
	}
	return policy.AddressClusterRoute
}

func (d *addressBook) worldIdentity(a netip.Addr) identity.ID {
	switch {
	case !d.in.IPv4 || !d.in.IPv6:
		return identity.World
	case a.Is4():
		return identity.WorldIPv4
	default:
		return identity.WorldIPv6
	}
}

func (d *addressBook) world() {
	for _, p := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		d.put(Address{Address: policy.Address{Prefix: p, Identity: d.worldIdentity(p.Addr())}, Source: SourceWorld})
	}
	for _, p := range d.in.Native {
		d.put(Address{Address: policy.Address{Prefix: p, Identity: d.worldIdentity(p.Addr()), Flags: policy.AddressClusterRoute}, Source: SourceNative})
	}
}

func (d *addressBook) ranges() {
	for _, n := range d.in.Nodes {
		a := Address{Source: SourceRange, Name: n.Name, HostIP: n.Underlay()}
		a.Node, a.Flags = d.in.Index[n.Name], policy.AddressRemotePods|d.routed()
		if n.Local {
			a.Node, a.Flags = localNode, policy.AddressLocalPods
		}
		if a.Node == 0 {
			continue
		}
		for _, p := range n.PodCIDRs {
			a.Prefix = p
			d.put(a)
		}
	}
}

func (d *addressBook) apiServers() {
	for _, ip := range d.in.APIServers {
		d.put(Address{Address: policy.Address{Prefix: host(ip), Identity: identity.KubeAPIServer}, Source: SourceAPIServer})
	}
}

// putRemote stores the row of an endpoint of another node.
func (d *addressBook) putRemote(ip netip.Addr, r endpoint.Remote) {
	a := Address{Source: SourceCiliumEndpoint, Namespace: r.Namespace, Name: r.Name, HostIP: r.NodeIP}
	a.Prefix, a.Identity, a.Flags = host(ip), r.Identity, policy.AddressPod
	if index := d.in.Index[d.byIP[r.NodeIP].Name]; index != 0 {
		a.Node = index
		a.Flags |= d.routed()
	}
	d.put(a)
}

// dropRemote removes it.
func (d *addressBook) dropRemote(ip netip.Addr) { delete(d.layers[layerRemote], host(ip)) }

func nodesByIP(nodes []node.Node) map[netip.Addr]node.Node {
	out := map[netip.Addr]node.Node{}
	for _, n := range nodes {
		for _, a := range n.InternalIP {
			out[a] = n
		}
	}
	return out
}

// claims says which endpoint of another node has an address.
func claims(remotes []endpoint.Remote, byIP map[netip.Addr]node.Node) map[netip.Addr]endpoint.Remote {
	out := map[netip.Addr]endpoint.Remote{}
	for _, r := range remotes {
		for _, ip := range r.IPs {
			old, taken := out[ip]
			if isElsewhere(r, byIP) && (!taken || outranks(r, old)) {
				out[ip] = r
			}
		}
	}
	return out
}

// isElsewhere tells whether a row is about a known pod of another node.
func isElsewhere(r endpoint.Remote, byIP map[netip.Addr]node.Node) bool {
	return r.Identity != identity.Unknown && !byIP[r.NodeIP].Local
}

// outranks says which of two that claim an address has it: the ready one, else
// the last by name.
func outranks(a, b endpoint.Remote) bool {
	x, y := a.State == endpoint.StateReady, b.State == endpoint.StateReady
	return x && !y || x == y && a.Key() > b.Key()
}

func (d *addressBook) nodes() {
	var numbered nodeIdentities
	if d.in.NodeLabels {
		numbered = numberNodes(d.in.Nodes)
	}
	for _, n := range d.in.Nodes {
		if n.Local || d.in.Index[n.Name] == 0 {
			continue
		}
		a := Address{Source: SourceNode, Name: n.Name, HostIP: n.Underlay()}
		a.Node = d.in.Index[n.Name]
		for _, ip := range n.Addresses() {
			a.Prefix, a.Identity, a.Flags = host(ip), identity.RemoteNode, policy.AddressNode
			apiServer := slices.Contains(d.in.APIServers, ip)
			if apiServer {
				a.Identity = identity.KubeAPIServer
			}
			if d.in.NodeLabels {
				a.Identity = numbered.of(n, apiServer)
			}
			if slices.Contains(n.Router, ip) {
				a.Flags |= d.routed()
			}
			d.put(a)
		}
	}
}

func (d *addressBook) host() {
	ips := d.in.HostIPs
	a := Address{Source: SourceHost}
	for _, n := range d.in.Nodes {
		if n.Local {
			a.Name, a.HostIP = n.Name, n.Underlay()
			ips = append(slices.Clone(ips), n.Addresses()...)
		}
	}
	a.Node, a.Identity, a.Flags = localNode, identity.Host, policy.AddressHost
	for _, ip := range ips {
		a.Prefix = host(ip)
		d.put(a)
	}
}

// putEndpoint stores the rows of a pod of this node.
func (d *addressBook) putEndpoint(e endpoint.Endpoint) {
	a := Address{Source: SourceEndpoint, Namespace: e.Namespace, Name: e.Pod}
	a.Node, a.Identity, a.Flags = localNode, e.Identity, policy.AddressPod
	for _, ip := range addrsOf(e) {
		a.Prefix = host(ip)
		d.put(a)
	}
}

// dropEndpoint removes them.
func (d *addressBook) dropEndpoint(e endpoint.Endpoint) {
	for _, ip := range addrsOf(e) {
		delete(d.layers[layerEndpoint], host(ip))
	}
}

func addrsOf(e endpoint.Endpoint) (out []netip.Addr) {
	for _, ip := range []netip.Addr{e.IPv4, e.IPv6} {
		if ip.IsValid() {
			out = append(out, ip)
		}
	}
	return out
}

// reservedLabels are the reserved identities with their labels. An API server
// may be this node, another node, or a part of the world.
func reservedLabels(addresses []Address, apiServers []netip.Addr) map[identity.ID]label.Set {
	out := identity.Reserved()
	labels := label.Set{{Source: label.SourceReserved, Key: identity.LabelKubeAPIServer}}
	for _, a := range addresses {
		switch {
		case a.Source == SourceHost && slices.Contains(apiServers, a.Prefix.Addr()):
			out[identity.Host] = identity.HostLabels(true)
		case a.Identity != identity.KubeAPIServer:
		case a.Source == SourceNode:
			labels = append(labels, label.Label{Source: label.SourceReserved, Key: identity.LabelRemoteNode})
		default:
			labels = append(labels, label.Label{Source: label.SourceReserved, Key: identity.LabelWorld})
		}
	}
	out[identity.KubeAPIServer] = label.NewSet(labels...)
	return out
}
