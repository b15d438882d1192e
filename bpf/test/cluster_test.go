// SPDX-License-Identifier: Apache-2.0

package test

import (
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

// Slots of the pods of the test cluster.
const (
	slotClientEgress  = 1
	slotClientIngress = 2
	slotServerEgress  = 3
	slotServerIngress = 4
	slotRemoteEgress  = 5
	slotRemoteIngress = 6
)

const (
	peerHost   = 2
	peerWorld  = 3
	peerNode   = 4
	peerClient = 11
	peerServer = 12
	peerRemote = 13

	hostIP4, hostIP6       = "192.168.0.1", "fd00::1"
	hostBIP4, hostBIP6     = "192.168.0.2", "fd00::2"
	routerIP4, routerIP6   = "10.0.1.254", "fd00:1::fe"
	outsideIP4, outsideIP6 = "203.0.113.9", "2001:db8::9"
)

var (
	client = pod{id: 1, device: devPod1, identity: 1001, peer: peerClient, ip4: "10.0.1.1", ip6: "fd00:1::1",
		egress: slotClientEgress, ingr: slotClientIngress, incarnation: 101, mac: [6]byte{2, 0, 0, 0, 1, 1}, nodeMAC: [6]byte{2, 0, 0, 0, 1, 0xa}}
	server = pod{id: 2, device: devPod2, identity: 1002, peer: peerServer, ip4: "10.0.1.2", ip6: "fd00:1::2",
		egress: slotServerEgress, ingr: slotServerIngress, incarnation: 102, mac: [6]byte{2, 0, 0, 0, 1, 2}, nodeMAC: [6]byte{2, 0, 0, 0, 1, 0xb}}
	remote = pod{id: 1, device: devPod1, identity: 1003, peer: peerRemote, ip4: "10.0.2.1", ip6: "fd00:2::1",
		egress: slotRemoteEgress, ingr: slotRemoteIngress, incarnation: 103, mac: [6]byte{2, 0, 0, 0, 2, 1}, nodeMAC: [6]byte{2, 0, 0, 0, 2, 0xa}}
)

// cluster is two nodes: a with client and server, b with remote. Every pair may
// talk on every port until a test says otherwise.
type cluster struct {
	a, b *node
}

func newCluster(t testing.TB, cfg config) *cluster {
	t.Helper()
	c := &cluster{a: newNode(t, cfg), b: newNode(t, cfg)}
	c.fill()
	return c
}

func newNodeA(t testing.TB, cfg config) *node {
	t.Helper()
	c := &cluster{a: newNode(t, cfg)}
	c.fill()
	return c.a
}

func (c *cluster) fill() {
	c.a.place(hostIP4, hostIP6, routerIP4, routerIP6, "10.0.1.0/24", "fd00:1::/64")
	c.a.neighbor(hostBIP4, hostBIP6, "10.0.2.0/24", "fd00:2::/64")
	c.a.addPod(client)
	c.a.addPod(server)
	c.a.addFar(remote)
	if c.b == nil {
		return
	}
	c.b.place(hostBIP4, hostBIP6, "10.0.2.254", "fd00:2::fe", "10.0.2.0/24", "fd00:2::/64")
	c.b.neighbor(hostIP4, hostIP6, "10.0.1.0/24", "fd00:1::/64")
	c.b.addPod(remote)
	c.b.addFar(client)
	c.b.addFar(server)
}

// place tells a node who and where it is itself.
func (n *node) place(host4, host6, router4, router6, cidr4, cidr6 string) {
	n.Helper()
	n.addNode(1, host4)
	n.put(abi.MapNodeAddrs, mapped(host6), uint32(1))
	for _, ip := range []string{host4, host6, router4, router6} {
		n.addPrefix(ip, abi.IpcacheEntry{Identity: abi.IdentityHost, Peer: peerHost, Node: 1, Flags: abi.IpcacheHost})
	}
	for _, cidr := range []string{cidr4, cidr6} {
		n.addPrefix(cidr, abi.IpcacheEntry{Node: 1, Flags: abi.IpcacheLocalPods})
	}
	for _, cidr := range []string{"0.0.0.0/0", "::/0"} {
		n.addPrefix(cidr, abi.IpcacheEntry{Identity: abi.IdentityWorld, Peer: peerWorld})
	}
	for _, peer := range []uint32{peerHost, peerWorld, peerNode, peerClient, peerServer, peerRemote} {
		n.setCells(peer, abi.SetAllow)
	}
}

// neighbor tells a node about the other one.
func (n *node) neighbor(host4, host6, cidr4, cidr6 string) {
	n.Helper()
	n.addNode(2, host4)
	n.put(abi.MapNodeAddrs, mapped(host6), uint32(2))
	for _, ip := range []string{host4, host6} {
		n.addPrefix(ip, abi.IpcacheEntry{Identity: abi.IdentityRemoteNode, Peer: peerNode, Node: 2, Flags: abi.IpcacheNode})
	}
	for _, cidr := range []string{cidr4, cidr6} {
		n.addPrefix(cidr, abi.IpcacheEntry{Node: 2, Flags: abi.IpcacheRemotePods | abi.IpcacheTunnel})
	}
}

// addFar tells a node about a pod of the other one.
func (n *node) addFar(p pod) {
	n.Helper()
	for _, ip := range []string{p.ip4, p.ip6} {
		n.addPrefix(ip, abi.IpcacheEntry{Identity: p.identity, Peer: p.peer, Node: 2, Flags: abi.IpcachePod | abi.IpcacheTunnel})
	}
	n.put(abi.MapIdentityPeer, p.identity, p.peer)
}

// setCells gives a peer its own class, in which every slot has this set.
func (n *node) setCells(peer uint32, set uint16) {
	n.Helper()
	cells := map[uint16]uint16{}
	for slot := uint16(0); slot < 16; slot++ {
		cells[slot] = set
	}
	n.class(peer, peer, cells)
}

// setCell changes one cell, as the agent does: the generation of the endpoint comes after.
func (n *node) setCell(peer uint32, slot, set uint16, endpoint int) {
	n.Helper()
	var row abi.ClassRow
	if err := n.bank.Lookup(peer, &row); err != nil {
		n.Fatal(err)
	}
	row.Set[slot] = set
	if err := n.bank.Put(peer, row); err != nil {
		n.Fatal(err)
	}
	n.bumpEndpoint(endpoint)
}

// families are the two address families of every story.
var families = []struct {
	name string
	six  bool
}{{"IPv4", false}, {"IPv6", true}}

func (p pod) ip(six bool) string {
	if six {
		return p.ip6
	}
	return p.ip4
}

func pick(six bool, v4, v6 string) string {
	if six {
		return v6
	}
	return v4
}

// between is a TCP packet from a pod to another one, as it leaves the first.
func between(a, b pod, six bool, sport, dport uint16, flags string) message {
	return message{srcMAC: a.mac, dstMAC: a.nodeMAC, src: a.ip(six), dst: b.ip(six), sport: sport, dport: dport, flags: flags}
}

func expect(t *testing.T, what string, r result, verdict uint32, reason uint8) {
	t.Helper()
	if r.verdict != verdict || r.reason != reason {
		t.Fatalf("%s: got verdict %d, reason %q; want %d, %q", what, r.verdict, name(r.reason), verdict, name(reason))
	}
}

func name(reason uint8) string {
	if reason == 0 {
		return "none"
	}
	return abi.ReasonText(reason)
}

func expectDelivered(t *testing.T, what string, r result, to pod) {
	t.Helper()
	expect(t, what, r, actRedirect, 0)
	if r.spy.Kind != kindPeer || r.spy.Ifindex != deviceIndex[to.device] {
		t.Fatalf("%s: redirect kind %d to %d; want the pod's device %d", what, r.spy.Kind, r.spy.Ifindex, deviceIndex[to.device])
	}
	if got := [6]byte(r.out[:6]); got != to.mac {
		t.Errorf("%s: destination MAC %x, want the pod's %x", what, got, to.mac)
	}
	if got := [6]byte(r.out[6:12]); got != to.nodeMAC {
		t.Errorf("%s: source MAC %x, want the host side's %x", what, got, to.nodeMAC)
	}
	if r.mark != 0 {
		t.Errorf("%s: mark %x leaks into the pod", what, r.mark)
	}
}
