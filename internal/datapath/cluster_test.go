// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/policy"
)

// cluster is two nodes and an outside host on one network, each in its own namespace.
type cluster struct {
	t *testing.T
	layout
	nodes   [2]*node
	outside *nstest.Namespace
	pods    []*pod
}

// layout is what clusters of these tests differ in.
type layout struct {
	tunnel bool
	only4  bool // one family
	only6  bool
}

// keep filters what belongs to a family that the cluster lacks.
func keep[T interface{ netip.Addr | netip.Prefix }](l layout, list []T) (out []T) {
	for _, x := range list {
		four := strings.Contains(fmt.Sprint(x), ".")
		if four && !l.only6 || !four && !l.only4 {
			out = append(out, x)
		}
	}
	return out
}

type node struct {
	*nstest.Namespace
	c    *cluster
	n    int // 1 or 2; the other is 3-n
	cfg  Config
	dp   *Datapath
	pods int
}

type pod struct {
	*nstest.Namespace
	node     *node
	id       uint16
	identity identity.ID
	link     PodLink
}

// Peers, one for each thing that policy of these tests can tell apart.
const (
	peerHost, peerRemote, peerWorld, peerRanges = 1, 2, 3, 4
	peerPods                                    = 16 // + number of the pod in the cluster
	classAll                                    = policy.ClassFirst
	identityPods                                = 1000
)

var (
	outside4 = netip.MustParseAddr("172.30.0.100")
	outside6 = netip.MustParseAddr("fd30::100")
)

func nodeAddr(n int) []netip.Addr {
	return []netip.Addr{netip.MustParseAddr(fmt.Sprintf("172.30.0.%d", n)), netip.MustParseAddr(fmt.Sprintf("fd30::%d", n))}
}

func podRanges(n int) []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.50.%d.0/24", n)), netip.MustParsePrefix(fmt.Sprintf("fd50:%d::/64", n))}
}

func podAddr(n, i int) []netip.Addr {
	return []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.50.%d.%d", n, i)), netip.MustParseAddr(fmt.Sprintf("fd50:%d::%x", n, i))}
}

func newCluster(t *testing.T, tunnel bool) *cluster { return newClusterOf(t, layout{tunnel: tunnel}) }

func newClusterOf(t *testing.T, l layout) *cluster {
	nstest.RequireRoot(t)
	c := &cluster{t: t, layout: l}
	fabric := nstest.New(t, "fab")
	fabric.Run(t, "ip link add br0 type bridge\nip link set br0 up")
	join := func(ns *nstest.Namespace, a4, a6 string) {
		fabric.Run(t, fmt.Sprintf("ip link add p%s type veth peer name eth0 netns %s\nip link set p%s master br0 up", a4[len(a4)-1:], ns.Name, a4[len(a4)-1:]))
		ns.Run(t, "ip link set eth0 up\nip addr add "+a4+"/24 dev eth0\nip addr add "+a6+"/64 dev eth0 nodad")
	}
	c.outside = nstest.New(t, "out")
	join(c.outside, outside4.String(), outside6.String())
	bpf := nstest.BPFDir(t)
	for i := range c.nodes {
		n := &node{Namespace: nstest.New(t, fmt.Sprintf("n%d", i+1)), c: c, n: i + 1}
		a := nodeAddr(n.n)
		join(n.Namespace, a[0].String(), a[1].String())
		n.Run(t, "ip route add default via "+outside4.String()+"\nip -6 route add default via "+outside6.String())
		n.cfg = Config{BPFDir: filepath.Join(bpf, n.Name), IPv4: !l.only6, IPv6: !l.only4, Tunnel: l.tunnel, DirectRoutes: !l.tunnel,
			NodeIPs: keep(l, a), Router: keep(l, podAddr(n.n, 1)), PodCIDRs: keep(l, podRanges(n.n)), Masquerade4: true, Masquerade6: true, Proxy: true}
		c.nodes[i] = n
		n.start()
		t.Cleanup(n.cleanup)
	}
	for _, n := range c.nodes {
		n.apply(n.base())
		n.setNodes()
	}
	// A new bridge port forwards only once the kernel has noticed its carrier.
	for _, to := range append(append(nodeAddr(1), nodeAddr(2)...), outside4, outside6) {
		for _, from := range []*nstest.Namespace{c.nodes[0].Namespace, c.nodes[1].Namespace} {
			for try := 0; from.Ping(to, 100*time.Millisecond) != nil; try++ {
				if try == 50 {
					t.Fatalf("%s never reaches %s", from.Name, to)
				}
			}
		}
	}
	return c
}

func (n *node) start() {
	n.c.t.Helper()
	var err error
	n.Do(func() { n.dp, err = Start(context.Background(), slog.New(slog.DiscardHandler), n.cfg) })
	if err != nil {
		n.c.t.Fatalf("node %d: %v", n.n, err)
	}
}

func (n *node) cleanup() {
	n.Do(func() {
		if err := n.dp.Close(); err != nil {
			n.c.t.Error(err)
		}
		if err := Cleanup(context.Background(), n.cfg); err != nil {
			n.c.t.Error(err)
		}
	})
}

func (n *node) apply(ops []policy.Op) {
	n.c.t.Helper()
	if err := n.dp.ApplyPolicy(ops); err != nil {
		n.c.t.Fatalf("node %d: %v", n.n, err)
	}
}

// row is a row of classes: slot 0 allows, as all do unless a test says otherwise.
func row(set uint16) (r [512]uint16) {
	for i := range r {
		r[i] = set
	}
	r[policy.SlotOpen] = policy.SetAllow
	return r
}

// base is the policy state of a node without pods: everybody is known and allowed.
func (n *node) base() []policy.Op {
	ops := []policy.Op{policy.WriteClass{Class: 0, Row: row(policy.SetDeny)}, policy.WriteClass{Class: 1, Row: row(policy.SetDeny)},
		policy.WriteClass{Class: classAll, Row: row(policy.SetAllow)}}
	peer := func(peer uint32, id identity.ID) {
		ops = append(ops, policy.SetPeer{Peer: peer, Class: classAll}, policy.SetIdentityPeer{Identity: id, Peer: peer})
	}
	peer(peerHost, 1)
	peer(peerWorld, 9)
	peer(peerWorld, 10)
	peer(peerRemote, 6)
	put := func(p netip.Prefix, e policy.Entry) { ops = append(ops, policy.PutAddress{Prefix: p, Entry: e}) }
	full := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	put(netip.MustParsePrefix("0.0.0.0/0"), policy.Entry{Identity: 9, Peer: peerWorld})
	put(netip.MustParsePrefix("::/0"), policy.Entry{Identity: 10, Peer: peerWorld})
	other := 3 - n.n
	for i := range 2 {
		put(full(nodeAddr(n.n)[i]), policy.Entry{Identity: 1, Peer: peerHost, Node: 1, Flags: policy.AddressHost})
		put(full(podAddr(n.n, 1)[i]), policy.Entry{Identity: 1, Peer: peerHost, Node: 1, Flags: policy.AddressHost})
		put(full(nodeAddr(other)[i]), policy.Entry{Identity: 6, Peer: peerRemote, Node: 2, Flags: policy.AddressNode})
		put(full(podAddr(other, 1)[i]), policy.Entry{Identity: 6, Peer: peerRemote, Node: 2, Flags: policy.AddressNode | n.c.routed()})
		put(podRanges(n.n)[i], policy.Entry{Node: 1, Flags: policy.AddressLocalPods})
		put(podRanges(other)[i], policy.Entry{Node: 2, Flags: policy.AddressRemotePods | n.c.routed()})
	}
	return ops
}

// routed is how addresses behind the other node are reached.
func (c *cluster) routed() uint16 {
	if c.tunnel {
		return policy.AddressTunnel
	}
	return policy.AddressClusterRoute
}

func (n *node) setNodes() {
	var rows []NodeRow
	for _, o := range n.c.nodes {
		own := keep(n.c.layout, nodeAddr(o.n))
		r := NodeRow{Index: 1, Underlay: own[0], Addresses: append(own, podAddr(o.n, 1)...), PodCIDRs: keep(n.c.layout, podRanges(o.n)), Local: o == n}
		if o != n {
			r.Index = 2
		}
		rows = append(rows, r)
	}
	var err error
	n.Do(func() { err = n.dp.SetNodes(rows) })
	if err != nil {
		n.c.t.Fatalf("node %d: %v", n.n, err)
	}
}

// pod adds a pod to a node as CNI ADD does, and tells the other node.
func (n *node) pod() *pod {
	t := n.c.t
	t.Helper()
	n.pods++
	number := len(n.c.pods)
	p := &pod{Namespace: nstest.New(t, fmt.Sprintf("p%d", number)), node: n, id: uint16(n.pods), identity: identity.ID(identityPods + number)}
	n.c.pods = append(n.c.pods, p)
	a := podAddr(n.n, 9+n.pods)
	p.link = PodLink{NetNS: p.Path}
	if !n.c.only6 {
		p.link.IPv4 = a[0]
	}
	if !n.c.only4 {
		p.link.IPv6 = a[1]
	}
	n.addLink(p)
	peer := uint32(peerPods + number)
	var err error
	n.Do(func() {
		err = n.dp.PutEndpoint(EndpointBase{ID: p.id, Incarnation: uint32(number + 1), IfIndex: p.link.IfIndex, MAC: p.link.MAC, NodeMAC: p.link.NodeMAC, IPv4: p.link.IPv4, IPv6: p.link.IPv6})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range n.c.nodes {
		o.apply(o.podOps(p, peer))
	}
	if err := n.dp.EnableEndpoint(p.id); err != nil {
		t.Fatal(err)
	}
	return p
}

func (n *node) addLink(p *pod) {
	n.c.t.Helper()
	var err error
	n.Do(func() { err = n.dp.AddPodLink(context.Background(), &p.link) })
	if err != nil {
		n.c.t.Fatal(err)
	}
}

// podOps makes a pod known on a node, in the order of a new identity.
func (n *node) podOps(p *pod, peer uint32) []policy.Op {
	ops := []policy.Op{policy.SetPeer{Peer: peer, Class: classAll}, policy.SetIdentityPeer{Identity: p.identity, Peer: peer}}
	e := policy.Entry{Identity: p.identity, Peer: peer, Node: 1, Flags: policy.AddressPod}
	if p.node != n {
		e.Node, e.Flags = 2, e.Flags|n.c.routed()
	} else {
		ops = append(ops, policy.SetEndpoint{Endpoint: p.id, Row: policy.EndpointRow{Identity: p.identity, Peer4: peer, Peer6: peer}})
	}
	for _, a := range p.addrs() {
		ops = append(ops, policy.PutAddress{Prefix: netip.PrefixFrom(a, a.BitLen()), Entry: e}, policy.BumpPeer{Addr: a})
	}
	return ops
}

// state is what the kernel knows, for the message of a test that fails.
func (c *cluster) state() string {
	var b strings.Builder
	for _, n := range c.nodes {
		for _, cmd := range []string{"ip route", "ip -6 route", "ip -s neigh"} {
			out, _ := n.Output(cmd)
			fmt.Fprintf(&b, "node %d %s\n%s", n.n, cmd, out)
		}
		for _, table := range []string{"endpoint", "ct", "nat", "metrics"} {
			h, rows, err := n.dp.Dump(table)
			fmt.Fprintf(&b, "node %d %s %v\n", n.n, table, err)
			for _, r := range append([][]string{h}, rows...) {
				fmt.Fprintln(&b, "  "+strings.Join(r, "  "))
			}
		}
	}
	return b.String()
}
