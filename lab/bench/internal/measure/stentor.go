// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/stentor-net/stentor/internal/datapath"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/policy"
)

// stentorNode is a node whose pods are attached by the product's own loader.
// What policy needs to know is written as the agent writes it.
type stentorNode struct {
	*host
	index int // 1 or 2 of its cluster
	cfg   datapath.Config
	dp    *datapath.Datapath
	pods  int
}

// stentorPod is a pod of such a node.
type stentorPod struct {
	*space
	node     *stentorNode
	id       uint16
	identity identity.ID
	addr     [2]netip.Addr
}

// stentorCluster is two of them.
type stentorCluster struct {
	w      *world
	tunnel bool
	net    int // second number of the pods' addresses
	nodes  [2]*stentorNode
	pods   []*stentorPod
}

// Peers of the policy, and the class that all of them have.
const (
	peerHost, peerRemote, peerWorld = 1, 2, 3
	peerPods                        = 16 // + number of the pod
	classAll                        = policy.ClassFirst
	slotPods, setPods               = 1, 2
	identityPods                    = 1000
)

// adapt changes a node's configuration before it starts.
func (w *world) stentor(ctx context.Context, net int, tunnel bool, adapt func(*datapath.Config)) (*stentorCluster, error) {
	c := &stentorCluster{w: w, tunnel: tunnel, net: net}
	for i := range c.nodes {
		h, err := w.host(fmt.Sprintf("stentor%d-%d", net, i+1))
		if err != nil {
			return nil, err
		}
		n := &stentorNode{host: h, index: i + 1}
		n.cfg = datapath.Config{BPFDir: w.bpfDir(h.name), IPv4: true, IPv6: true, Tunnel: tunnel, DirectRoutes: !tunnel,
			NodeIPs: h.addr[:], Router: c.address(n.index, 1), PodCIDRs: c.ranges(n.index), MTU: podMTU, Masquerade4: true, Masquerade6: true}
		if adapt != nil {
			adapt(&n.cfg)
		}
		c.nodes[i] = n
		if err := w.startNode(ctx, n); err != nil {
			return nil, err
		}
	}
	for _, n := range c.nodes {
		if err := n.dp.ApplyPolicy(c.base(n)); err != nil {
			return nil, err
		}
		if err := n.do(func() error { return n.dp.SetNodes(c.rows(n)) }); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// startNode starts the datapath and what keeps house for it, until the world ends.
func (w *world) startNode(ctx context.Context, n *stentorNode) error {
	log := slog.New(slog.DiscardHandler)
	err := n.do(func() (err error) {
		n.dp, err = datapath.Start(ctx, log, n.cfg)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = n.do(func() error { return n.dp.Run(ctx) }) })
	running.Go(func() { _ = n.dp.Events(ctx, func(datapath.Event) {}) })
	w.undo = append(w.undo, func() {
		cancel()
		running.Wait()
		_ = n.do(func() error { return errors.Join(n.dp.Close(), datapath.Cleanup(context.Background(), n.cfg)) })
	})
	return nil
}

func (c *stentorCluster) address(node, i int) []netip.Addr {
	return []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.%d.%d.%d", c.net, node, i)), netip.MustParseAddr(fmt.Sprintf("fd%d:%d::%x", c.net, node, i))}
}

func (c *stentorCluster) ranges(node int) []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", c.net, node)), netip.MustParsePrefix(fmt.Sprintf("fd%d:%d::/64", c.net, node))}
}

func (c *stentorCluster) rows(of *stentorNode) []datapath.NodeRow {
	var out []datapath.NodeRow
	for _, n := range c.nodes {
		r := datapath.NodeRow{Index: datapath.LocalNode, Underlay: n.addr[0], PodCIDRs: c.ranges(n.index), Local: n == of,
			Addresses: append(n.addr[:len(n.addr):len(n.addr)], c.address(n.index, 1)...)}
		if !r.Local {
			r.Index = datapath.LocalNode + 1
		}
		out = append(out, r)
	}
	return out
}

// routed is how addresses behind the other node are reached.
func (c *stentorCluster) routed() uint16 {
	if c.tunnel {
		return policy.AddressTunnel
	}
	return policy.AddressClusterRoute
}

// base is the policy of a node without pods: everybody is known. Pods have a
// slot of their own, which asks a set of rules, so that every first packet is
// judged by a rule on both sides.
func (c *stentorCluster) base(n *stentorNode) []policy.Op {
	filled := func(set uint16) (r policy.WriteClass) {
		for i := range r.Row {
			r.Row[i] = set
		}
		r.Row[policy.SlotOpen] = policy.SetAllow
		return r
	}
	unknown, unresolved, all := filled(policy.SetDeny), filled(policy.SetDeny), filled(policy.SetAllow)
	unresolved.Class, all.Class = 1, classAll
	ops := []policy.Op{unknown, unresolved, all,
		policy.WriteSet{Set: setPods, Rows: []policy.SetRow{{Protocol: 6, Verdict: policy.Allow}, {Protocol: 17, Verdict: policy.Allow}}},
		policy.SetCell{Class: classAll, Slot: slotPods, Set: setPods}}
	for id, peer := range map[identity.ID]uint32{1: peerHost, 6: peerRemote, 9: peerWorld, 10: peerWorld} {
		ops = append(ops, policy.SetPeer{Peer: peer, Class: classAll}, policy.SetIdentityPeer{Identity: id, Peer: peer})
	}
	put := func(p netip.Prefix, e policy.Entry) { ops = append(ops, policy.PutAddress{Prefix: p, Entry: e}) }
	put(netip.MustParsePrefix("0.0.0.0/0"), policy.Entry{Identity: 9, Peer: peerWorld})
	put(netip.MustParsePrefix("::/0"), policy.Entry{Identity: 10, Peer: peerWorld})
	for _, o := range c.nodes {
		if o == nil {
			continue
		}
		local := o == n
		for i, r := range c.ranges(o.index) {
			own, router := full(o.addr[i]), full(c.address(o.index, 1)[i])
			if local {
				put(own, policy.Entry{Identity: 1, Peer: peerHost, Node: 1, Flags: policy.AddressHost})
				put(router, policy.Entry{Identity: 1, Peer: peerHost, Node: 1, Flags: policy.AddressHost})
				put(r, policy.Entry{Node: 1, Flags: policy.AddressLocalPods})
				continue
			}
			put(own, policy.Entry{Identity: 6, Peer: peerRemote, Node: 2, Flags: policy.AddressNode})
			put(router, policy.Entry{Identity: 6, Peer: peerRemote, Node: 2, Flags: policy.AddressNode | c.routed()})
			put(r, policy.Entry{Node: 2, Flags: policy.AddressRemotePods | c.routed()})
		}
	}
	return ops
}

func full(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// pod attaches a pod to a node as CNI ADD does, and tells the other node.
func (c *stentorCluster) pod(ctx context.Context, n *stentorNode) (*stentorPod, error) {
	n.pods++
	number := len(c.pods)
	p := &stentorPod{node: n, id: uint16(n.pods), identity: identity.ID(identityPods + number)}
	copy(p.addr[:], c.address(n.index, 9+n.pods))
	var err error
	if p.space, err = c.w.space(fmt.Sprintf("%s-pod%d", n.name, n.pods)); err != nil {
		return nil, err
	}
	c.pods = append(c.pods, p)
	l := datapath.PodLink{NetNS: p.path(), IPv4: p.addr[0], IPv6: p.addr[1]}
	err = n.do(func() error {
		if err := n.dp.AddPodLink(ctx, &l); err != nil {
			return err
		}
		return n.dp.PutEndpoint(datapath.EndpointBase{ID: p.id, Incarnation: uint32(number + 1), IfIndex: l.IfIndex, MAC: l.MAC, NodeMAC: l.NodeMAC, IPv4: l.IPv4, IPv6: l.IPv6})
	})
	if err != nil {
		return nil, err
	}
	for _, o := range c.nodes {
		if err := o.dp.ApplyPolicy(c.podOps(o, p, peerPods+uint32(number))); err != nil {
			return nil, err
		}
	}
	return p, n.dp.EnableEndpoint(p.id)
}

// podOps makes a pod known on a node, in the order of a new identity.
func (c *stentorCluster) podOps(n *stentorNode, p *stentorPod, peer uint32) []policy.Op {
	ops := []policy.Op{policy.SetPeer{Peer: peer, Class: classAll}, policy.SetIdentityPeer{Identity: p.identity, Peer: peer}}
	e := policy.Entry{Identity: p.identity, Peer: peer, Node: 1, Flags: policy.AddressPod}
	if p.node != n {
		e.Node, e.Flags = 2, e.Flags|c.routed()
	} else {
		ops = append(ops, policy.SetEndpoint{Endpoint: p.id, Row: policy.EndpointRow{Identity: p.identity, Peer4: peer, Peer6: peer, Ingress: slotPods, Egress: slotPods}})
	}
	for _, a := range p.addr {
		ops = append(ops, policy.PutAddress{Prefix: full(a), Entry: e}, policy.BumpPeer{Addr: a})
	}
	return ops
}

// program is one of the node's, by its name in C.
func (n *stentorNode) program(name string) (*ebpf.Program, error) {
	return ebpf.LoadPinnedProgram(filepath.Join(n.cfg.BPFDir, "programs", name), nil)
}
