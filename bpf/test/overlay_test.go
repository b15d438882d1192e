// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

// tunnelled checks that r left for a node through the tunnel, and returns where it arrives.
func tunnelled(t *testing.T, what string, r result, to, source string, vni uint32) from {
	t.Helper()
	expect(t, what, r, actRedirect, 0)
	if r.spy.Kind != kindRedirect || r.spy.Ifindex != deviceIndex[devOverlay] {
		t.Fatalf("%s: redirect kind %d to %d; want the overlay %d", what, r.spy.Kind, r.spy.Ifindex, deviceIndex[devOverlay])
	}
	if want := binary.BigEndian.Uint32(netip.MustParseAddr(to).AsSlice()); r.spy.Remote[0] != want || r.spy.VNI != vni {
		t.Fatalf("%s: tunnel to %x with VNI %d; want %x, %d", what, r.spy.Remote[0], r.spy.VNI, want, vni)
	}
	return from{device: devOverlay, outer: source, vni: r.spy.VNI}
}

func TestPodsOfTwoNodesTalkThroughTheTunnel(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := newCluster(t, nil)
			forth := func(flags string) {
				r := c.a.run("from_pod", between(client, remote, f.six, 4000, 80, flags).bytes(t), from{device: devPod1})
				in := tunnelled(t, flags, r, hostBIP4, hostIP4, client.identity)
				passed := c.a.run("to_overlay", r.out, from{device: devOverlay, mark: r.mark})
				expect(t, "to_overlay", passed, actOK, 0)
				if passed.mark != 0 {
					t.Errorf("mark %x leaves the node", passed.mark)
				}
				expectDelivered(t, flags, c.b.run("from_overlay", r.out, in), remote)
			}
			back := func(flags string) {
				r := c.b.run("from_pod", between(remote, client, f.six, 80, 4000, flags).bytes(t), from{device: devPod1})
				in := tunnelled(t, flags, r, hostIP4, hostBIP4, remote.identity)
				expectDelivered(t, flags, c.a.run("from_overlay", r.out, in), client)
			}
			forth("S")
			back("SA")
			forth("A")
			back("A")
			if len(c.a.flowRows()) != 1 || len(c.b.flowRows()) != 1 {
				t.Errorf("%d and %d rows", len(c.a.flowRows()), len(c.b.flowRows()))
			}
		})
	}
}

func TestEachNodeJudgesItsOwnSide(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := newCluster(t, nil)
			syn := between(client, remote, f.six, 4000, 80, "S")
			r := c.a.run("from_pod", syn.bytes(t), from{device: devPod1})
			in := tunnelled(t, "SYN", r, hostBIP4, hostIP4, client.identity)
			c.b.setCell(peerClient, slotRemoteIngress, abi.SetDeny, remote.id)
			expect(t, "ingress there", c.b.run("from_overlay", r.out, in), actShot, abi.ReasonPolicyDenied)
			c.a.setCell(peerRemote, slotClientEgress, abi.SetDeny, client.id)
			expect(t, "egress here", c.a.run("from_pod", syn.bytes(t), from{device: devPod1}), actShot, abi.ReasonPolicyDenied)
		})
	}
}

func TestTunnelForgeriesAreDropped(t *testing.T) {
	for _, f := range families {
		good := from{device: devOverlay, outer: hostBIP4, vni: remote.identity}
		for _, c := range []struct {
			what   string
			src    string
			outer  string
			vni    uint32
			reason uint8
		}{
			{"outer source of nobody", remote.ip(f.six), "192.0.2.1", remote.identity, abi.ReasonUnknownSender},
			{"outer source of this node", remote.ip(f.six), hostIP4, remote.identity, abi.ReasonUnknownSender},
			{"outer source of another node", remote.ip(f.six), "192.168.0.3", remote.identity, abi.ReasonUnknownSender},
			{"unknown address in another node's range", pick(f.six, "10.0.2.9", "fd00:2::9"), "192.168.0.3", remote.identity, abi.ReasonUnknownSender},
			{"identity of another pod", remote.ip(f.six), hostBIP4, server.identity, abi.ReasonIdentityMismatch},
			{"identity of the host", remote.ip(f.six), hostBIP4, 1, abi.ReasonIdentityMismatch},
			{"identity 0", remote.ip(f.six), hostBIP4, 0, abi.ReasonInvalidIdentity},
			{"identity 0 of an unknown address", pick(f.six, "10.0.2.9", "fd00:2::9"), hostBIP4, 0, abi.ReasonInvalidIdentity},
			{"identity of one node only", remote.ip(f.six), hostBIP4, 1 << 24, abi.ReasonInvalidIdentity},
			{"identity of a pod with the address of its node", pick(f.six, hostBIP4, hostBIP6), hostBIP4, remote.identity, abi.ReasonIdentityMismatch},
			{"identity of the world with the address of its node", pick(f.six, hostBIP4, hostBIP6), hostBIP4, abi.IdentityWorld, abi.ReasonIdentityMismatch},
			{"reserved identity of an unknown address", pick(f.six, "10.0.2.9", "fd00:2::9"), hostBIP4, 4, abi.ReasonUnknownSender},
			{"unknown identity of an unknown address", pick(f.six, "10.0.2.9", "fd00:2::9"), hostBIP4, 4711, abi.ReasonIdentityUnknown},
			{"inner source of this node's pod", server.ip(f.six), hostBIP4, server.identity, abi.ReasonUnknownSender},
			{"inner source of the world", pick(f.six, outsideIP4, outsideIP6), hostBIP4, 2, abi.ReasonUnknownSender},
			{"inner source of this host", pick(f.six, hostIP4, hostIP6), hostBIP4, 1, abi.ReasonUnknownSender},
		} {
			t.Run(f.name+" "+c.what, func(t *testing.T) {
				a := newNodeA(t, nil)
				a.addNode(3, "192.168.0.3")
				m := between(remote, client, f.six, 4000, 80, "S")
				expectDelivered(t, "honest", a.run("from_overlay", m.bytes(t), good), client)
				m.src, m.sport = c.src, 4001
				in := from{device: devOverlay, outer: c.outer, vni: c.vni}
				expect(t, c.what, a.run("from_overlay", m.bytes(t), in), actShot, c.reason)
				open := client
				open.egress, open.ingr = abi.SlotOpen, abi.SlotOpen
				a.addPod(open)
				expect(t, c.what+": to a pod without policies", a.run("from_overlay", m.bytes(t), in), actShot, c.reason)
			})
		}
	}
}

// Also a packet of an open flow must come from the node of its pod.
func TestOuterSourceIsCheckedWithinFlows(t *testing.T) {
	a := newNodeA(t, nil)
	m := between(remote, client, false, 4000, 80, "S")
	expectDelivered(t, "SYN", a.run("from_overlay", m.bytes(t), from{device: devOverlay, outer: hostBIP4, vni: remote.identity}), client)
	m.flags = "A"
	r := a.run("from_overlay", m.bytes(t), from{device: devOverlay, outer: "192.0.2.1", vni: remote.identity})
	expect(t, "ACK from a stranger", r, actShot, abi.ReasonUnknownSender)
}

func TestAnAddressNotKnownYetIsJudgedByItsIdentity(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			m := between(remote, client, f.six, 4000, 80, "S")
			m.src = pick(f.six, "10.0.2.9", "fd00:2::9")
			in := from{device: devOverlay, outer: hostBIP4, vni: remote.identity}
			expectDelivered(t, "allowed identity", a.run("from_overlay", m.bytes(t), in), client)
			a.setCell(peerRemote, slotClientIngress, abi.SetDeny, client.id)
			m.sport++
			expect(t, "denied identity", a.run("from_overlay", m.bytes(t), in), actShot, abi.ReasonPolicyDenied)
		})
	}
}

func TestPodsMayNotSpeakVXLANToNodes(t *testing.T) {
	for _, f := range families {
		for what, dst := range map[string]string{"own node": pick(f.six, hostIP4, hostIP6), "other node": pick(f.six, hostBIP4, hostBIP6)} {
			t.Run(f.name+" "+what, func(t *testing.T) {
				a := newNodeA(t, nil)
				m := message{srcMAC: client.mac, dstMAC: client.nodeMAC, src: client.ip(f.six), dst: dst, udp: true, sport: 9, dport: 8472}
				expect(t, "port of the tunnel", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonEncapProhibited)
				m.dport = 8473
				if r := a.run("from_pod", m.bytes(t), from{device: devPod1}); r.verdict == actShot {
					t.Errorf("another port drops: %s", name(r.reason))
				}
			})
		}
	}
}

// A node may have addresses that the cluster does not know. With this node's
// address as the source, a pod's VXLAN to one would be this node's.
func TestVXLANOfPodsLeavesWithNoNodesAddress(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, masquerading())
			m := toOutside(f.six)
			m.udp, m.dport = true, 8472
			expect(t, "from_pod", a.run("from_pod", m.bytes(t), from{device: devPod1}), actOK, 0)
			expect(t, "to_net", a.run("to_net", m.bytes(t), from{device: devUplink}), actShot, abi.ReasonEncapProhibited)
			first, later := m, m
			first.more, first.id, first.payload = true, 99, 64
			later.fragment, later.id, later.payload = 9, 99, 64
			expect(t, "first fragment", a.run("to_net", first.bytes(t), from{device: devUplink}), actShot, abi.ReasonEncapProhibited)
			expect(t, "later fragment", a.run("to_net", later.bytes(t), from{device: devUplink}), actShot, abi.ReasonEncapProhibited)
			m.dport++
			expect(t, "another port", a.run("to_net", m.bytes(t), from{device: devUplink}), actOK, 0)
		})
	}
}

// A service may have a node's tunnel as its backend: what clients outside send to
// it does not come there as this node's own.
func TestVXLANOfClientsOutsideIsNotForwardedAsANodes(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, servingA(config{abi.ConfigTunnelPort: uint16(8080)})) // the port of backends here
			m := toNodePort(f.six, "")
			m.udp = true
			for what, backend := range map[string]string{"another node": pick(f.six, hostBIP4, hostBIP6), "the world": pick(f.six, "203.0.113.10", "2001:db8::10")} {
				m.sport++
				a.serve(frontend{m.dst, nodePort, 17, abi.ScopeExternal, abi.Service{}, []string{backend}})
				expect(t, what, a.run("from_net", m.bytes(t), from{device: devUplink, route: devUplink}), actShot, abi.ReasonEncapProhibited)
			}
			m.sport++
			a.serve(frontend{m.dst, nodePort, 17, abi.ScopeExternal, abi.Service{}, []string{remote.ip(f.six)}})
			expect(t, "a pod of another node, whose matter it is", a.run("from_net", m.bytes(t), from{device: devUplink}), actRedirect, 0)
		})
	}
}

func TestPodReachesTheOtherHostWithItsIdentity(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := newCluster(t, nil)
			m := between(client, remote, f.six, 4000, 10250, "S")
			m.dst = pick(f.six, hostBIP4, hostBIP6)
			r := c.a.run("from_pod", m.bytes(t), from{device: devPod1})
			in := tunnelled(t, "SYN", r, hostBIP4, hostIP4, client.identity)
			expect(t, "there", c.b.run("from_overlay", r.out, in), actOK, 0)

			back := m.reply("SA")
			r = c.b.run("to_overlay", back.bytes(t), from{device: devOverlay})
			expect(t, "reply", r, actOK, 0)
			if r.spy.VNI != abi.IdentityHost {
				t.Errorf("VNI %d of the host's reply", r.spy.VNI)
			}
			in = from{device: devOverlay, outer: hostBIP4, vni: r.spy.VNI}
			expectDelivered(t, "reply", c.a.run("from_overlay", r.out, in), client)
		})
	}
}

func TestOtherHostReachesAPodAsRemoteNode(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := newCluster(t, nil)
			m := message{src: pick(f.six, hostIP4, hostIP6), dst: remote.ip(f.six), sport: 5000, dport: 80, flags: "S"}
			r := c.a.run("to_overlay", m.bytes(t), from{device: devOverlay})
			expect(t, "SYN", r, actOK, 0)
			in := from{device: devOverlay, outer: hostIP4, vni: r.spy.VNI}
			expectDelivered(t, "SYN", c.b.run("from_overlay", r.out, in), remote)
			c.b.setCell(peerNode, slotRemoteIngress, abi.SetDeny, remote.id)
			expect(t, "denied", c.b.run("from_overlay", r.out, in), actShot, abi.ReasonPolicyDenied)
		})
	}
}

func TestPolicyChangeEndsFlowsBetweenNodes(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := newCluster(t, nil)
			syn := between(client, remote, f.six, 4000, 80, "S")
			r := c.a.run("from_pod", syn.bytes(t), from{device: devPod1})
			in := tunnelled(t, "SYN", r, hostBIP4, hostIP4, client.identity)
			expectDelivered(t, "SYN", c.b.run("from_overlay", r.out, in), remote)
			c.b.setCell(peerClient, slotRemoteIngress, abi.SetDeny, remote.id)
			expect(t, "reply", c.b.run("from_pod", between(remote, client, f.six, 80, 4000, "SA").bytes(t), from{device: devPod1}), actShot, abi.ReasonPolicyDenied)
			expect(t, "forward", c.b.run("from_overlay", r.out, in), actShot, abi.ReasonPolicyDenied)
		})
	}
}

func TestUnderlayMayBeIPv6(t *testing.T) {
	a := newNodeA(t, nil)
	a.addNode(2, hostBIP6)
	r := a.run("from_pod", between(client, remote, false, 4000, 80, "S").bytes(t), from{device: devPod1})
	expect(t, "SYN", r, actRedirect, 0)
	want := netip.MustParseAddr(hostBIP6).As16()
	for i, w := range r.spy.Remote {
		if w != binary.NativeEndian.Uint32(want[4*i:]) {
			t.Fatalf("tunnel to %x", r.spy.Remote)
		}
	}
	if r.spy.IsSix != 1 {
		t.Error("tunnel without the flag for IPv6")
	}
	back := between(remote, client, false, 80, 4000, "SA")
	expectDelivered(t, "reply", a.run("from_overlay", back.bytes(t), from{device: devOverlay, outer: hostBIP6, vni: remote.identity}), client)
}
