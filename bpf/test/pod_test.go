// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

func TestPodsOfOneNodeTalk(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			syn := between(client, server, f.six, 4000, 80, "S")
			expectDelivered(t, "SYN", a.run("from_pod", syn.bytes(t), from{device: devPod1, mark: 0x1234}), server)
			back := between(server, client, f.six, 80, 4000, "SA")
			expectDelivered(t, "SYN ACK", a.run("from_pod", back.bytes(t), from{device: devPod2}), client)
			ack := between(client, server, f.six, 4000, 80, "A")
			expectDelivered(t, "ACK", a.run("from_pod", ack.bytes(t), from{device: devPod1}), server)
			rows := a.flowRows()
			if len(rows) != 1 {
				t.Fatalf("%d rows for one connection", len(rows))
			}
			for _, row := range rows {
				if row.Packets != [2]uint32{2, 1} || row.Endpoint != [2]uint16{1, 2} || row.Flags&abi.FlowReplied == 0 {
					t.Errorf("row %+v", row)
				}
			}
		})
	}
}

func TestPolicyOfEitherSideDenies(t *testing.T) {
	for _, f := range families {
		for _, side := range []struct {
			name     string
			peer     uint32
			slot     uint16
			ingress  int
			endpoint uint16
		}{{"egress", peerServer, slotClientEgress, 0, 1}, {"ingress", peerClient, slotServerIngress, 1, 2}} {
			t.Run(f.name+" "+side.name, func(t *testing.T) {
				a := newNodeA(t, nil)
				a.setCell(side.peer, side.slot, abi.SetDeny, 0)
				r := a.run("from_pod", between(client, server, f.six, 4000, 80, "S").bytes(t), from{device: devPod1})
				expect(t, "SYN", r, actShot, abi.ReasonPolicyDenied)
				if len(a.flowRows()) != 0 {
					t.Error("a denied packet left a row")
				}
				if got := a.dropped(abi.ReasonPolicyDenied, side.ingress); got != 1 {
					t.Errorf("%d drops counted", got)
				}
				last := r.events[len(r.events)-1]
				if last.Endpoint != side.endpoint || last.Slot != side.slot || last.Peer != side.peer || int(last.Ingress) != side.ingress {
					t.Errorf("event names endpoint %d slot %d peer %d ingress %d", last.Endpoint, last.Slot, last.Peer, last.Ingress)
				}
			})
		}
	}
}

func TestPolicyChangeEndsFlows(t *testing.T) {
	for _, f := range families {
		for _, packet := range []string{"forward", "reply"} {
			t.Run(f.name+" "+packet, func(t *testing.T) {
				a := newNodeA(t, nil)
				expectDelivered(t, "SYN", a.run("from_pod", between(client, server, f.six, 4000, 80, "S").bytes(t), from{device: devPod1}), server)
				a.setCell(peerClient, slotServerIngress, abi.SetDeny, server.id)
				m, in := between(client, server, f.six, 4000, 80, "A"), from{device: devPod1}
				if packet == "reply" {
					m, in = between(server, client, f.six, 80, 4000, "A"), from{device: devPod2}
				}
				expect(t, packet, a.run("from_pod", m.bytes(t), in), actShot, abi.ReasonPolicyDenied)
				// The row remembers who opened: a later packet is no opening
				// of the other side, which the policy would allow.
				expect(t, "later "+packet, a.run("from_pod", m.bytes(t), in), actShot, abi.ReasonPolicyDenied)
				answer := between(server, client, f.six, 80, 4000, "A")
				expect(t, "answer", a.run("from_pod", answer.bytes(t), from{device: devPod2}), actShot, abi.ReasonPolicyDenied)
				a.setCell(peerClient, slotServerIngress, abi.SetAllow, server.id)
				expectDelivered(t, "allowed again", a.run("from_pod", between(client, server, f.six, 4000, 80, "A").bytes(t), from{device: devPod1}), server)
			})
		}
	}
}

// A reply after a change judges the forward tuple: what the server may open
// towards the client has no say in it.
func TestReplyAfterChangeJudgesForward(t *testing.T) {
	a := newNodeA(t, nil)
	a.setCell(peerClient, slotServerEgress, abi.SetDeny, server.id)
	a.setCell(peerServer, slotClientIngress, abi.SetDeny, client.id)
	expectDelivered(t, "SYN", a.run("from_pod", between(client, server, false, 4000, 80, "S").bytes(t), from{device: devPod1}), server)
	a.bumpEndpoint(server.id)
	a.bumpEndpoint(client.id)
	expectDelivered(t, "reply", a.run("from_pod", between(server, client, false, 80, 4000, "SA").bytes(t), from{device: devPod2}), client)
}

func TestSourcesAreChecked(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			m := between(client, server, f.six, 4000, 80, "S")
			m.src = server.ip(f.six)
			m.dst = client.ip(f.six)
			expect(t, "address of another pod", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonInvalidSourceIP)
			m.src = pick(f.six, outsideIP4, outsideIP6)
			expect(t, "address of nobody", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonInvalidSourceIP)
			m = between(client, server, f.six, 4000, 80, "S")
			m.srcMAC[5]++
			expect(t, "MAC", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonInvalidSourceMAC)
			m.srcMAC[5]--
			for i := range m.srcMAC {
				m.srcMAC[i] ^= 4
				expect(t, fmt.Sprint("MAC, byte ", i), a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonInvalidSourceMAC)
				m.srcMAC[i] ^= 4
			}
			expectDelivered(t, "right", a.run("from_pod", m.bytes(t), from{device: devPod1}), server)
			m.srcMAC[5]++
			expect(t, "MAC within a flow", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonInvalidSourceMAC)
			m.srcMAC[5]--
			expect(t, "flow of another device", a.run("from_pod", m.bytes(t), from{device: devPod2}), actShot, abi.ReasonInvalidSourceIP)
		})
	}
}

func TestReusedAddressInheritsNothing(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			expectDelivered(t, "SYN", a.run("from_pod", between(client, server, f.six, 4000, 80, "S").bytes(t), from{device: devPod1}), server)
			next := server
			next.incarnation++
			next.identity, next.peer = 1009, 19
			a.addPod(next)
			a.setCells(19, abi.SetDeny)
			r := a.run("from_pod", between(client, server, f.six, 4000, 80, "A").bytes(t), from{device: devPod1})
			expect(t, "ACK to the next pod", r, actShot, abi.ReasonPolicyDenied)
		})
	}
}

func TestUnreadyEndpointPassesNothing(t *testing.T) {
	a := newNodeA(t, nil)
	expectDelivered(t, "SYN", a.run("from_pod", between(client, server, false, 4000, 80, "S").bytes(t), from{device: devPod1}), server)
	p := client
	p.notReady = true
	a.addPod(p)
	expect(t, "from it", a.run("from_pod", between(client, server, false, 4000, 80, "A").bytes(t), from{device: devPod1}), actShot, abi.ReasonEndpointNotReady)
	expect(t, "to it", a.run("from_pod", between(server, client, false, 80, 4000, "A").bytes(t), from{device: devPod2}), actShot, abi.ReasonEndpointNotReady)
}

func TestAddressesWithoutPodGoNowhere(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			m := between(client, server, f.six, 4000, 80, "S")
			m.dst = pick(f.six, "10.0.1.77", "fd00:1::77")
			expect(t, "own range", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonStaleUnroutable)
			m.dst = pick(f.six, "10.0.2.77", "fd00:2::77")
			r := a.run("from_pod", m.bytes(t), from{device: devPod1})
			expect(t, "other node's range", r, actShot, abi.ReasonIdentityUnknown)
			if r.events[0].Type != abi.EventMiss || r.events[0].Destination != mapped(m.dst) {
				t.Errorf("no miss for %s: %+v", m.dst, r.events)
			}
		})
	}
}

func TestPodsReachTheHostAndTheWorldThroughTheStack(t *testing.T) {
	for _, f := range families {
		for what, ip := range map[string]string{
			"host": pick(f.six, hostIP4, hostIP6), "router": pick(f.six, routerIP4, routerIP6), "world": pick(f.six, outsideIP4, outsideIP6)} {
			t.Run(f.name+" "+what, func(t *testing.T) {
				a := newNodeA(t, nil)
				m := between(client, server, f.six, 4000, 80, "S")
				m.dst = ip
				expect(t, "SYN", a.run("from_pod", m.bytes(t), from{device: devPod1}), actOK, 0)
				expect(t, "reply", a.run("to_pod", m.reply("SA").bytes(t), from{device: devPod1}), actOK, 0)
				expect(t, "ACK", a.run("from_pod", m.bytes(t), from{device: devPod1}), actOK, 0)
				if rows := a.flowRows(); len(rows) != 1 {
					t.Errorf("%d rows", len(rows))
				}
			})
		}
	}
}

func TestHostReachesPods(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			m := message{srcMAC: client.nodeMAC, dstMAC: client.mac, src: pick(f.six, hostIP4, hostIP6), dst: client.ip(f.six), sport: 5000, dport: 8080, flags: "S"}
			expect(t, "SYN", a.run("to_pod", m.bytes(t), from{device: devPod1}), actOK, 0)
			back := m.reply("SA")
			back.srcMAC, back.dstMAC = client.mac, client.nodeMAC
			expect(t, "reply", a.run("from_pod", back.bytes(t), from{device: devPod1}), actOK, 0)
			a.setCell(peerHost, slotClientIngress, abi.SetDeny, client.id)
			expect(t, "after a deny", a.run("to_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonPolicyDenied)
			expect(t, "for another pod", a.run("to_pod", m.bytes(t), from{device: devPod2}), actShot, abi.ReasonUnknownL3Target)
		})
	}
}

// What kube-proxy translated comes from the stack; its replies go back there.
func TestFlowsThroughTheStackStayThere(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			m := between(client, server, f.six, 4000, 80, "S")
			expect(t, "SYN", a.run("to_pod", m.bytes(t), from{device: devPod2}), actOK, 0)
			back := between(server, client, f.six, 80, 4000, "SA")
			expect(t, "reply", a.run("from_pod", back.bytes(t), from{device: devPod2}), actOK, 0)
			a.setCell(peerServer, slotClientEgress, abi.SetDeny, client.id)
			expect(t, "after the client's egress is denied", a.run("to_pod", m.bytes(t), from{device: devPod2}), actShot, abi.ReasonPolicyDenied)
		})
	}
}

func TestPingOpensOneDirection(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			a.setCell(peerServer, slotClientIngress, abi.SetDeny, client.id)
			typ := uint8(8)
			if f.six {
				typ = 128
			}
			m := message{srcMAC: client.mac, dstMAC: client.nodeMAC, src: client.ip(f.six), dst: server.ip(f.six), icmp: true, icmpType: typ, icmpID: 77}
			expectDelivered(t, "request", a.run("from_pod", m.bytes(t), from{device: devPod1}), server)
			reply := m.reply("")
			reply.srcMAC, reply.dstMAC = server.mac, server.nodeMAC
			expectDelivered(t, "reply", a.run("from_pod", reply.bytes(t), from{device: devPod2}), client)
			reply.icmpType = typ
			expect(t, "request of the other side with the same identifier", a.run("from_pod", reply.bytes(t), from{device: devPod2}), actShot, abi.ReasonPolicyDenied)
		})
	}
}

func TestPodAsksForItsNeighbour(t *testing.T) {
	a := newNodeA(t, nil)
	arp := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, client.mac[:]...)
	arp = append(arp, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	arp = append(arp, client.mac[:]...)
	arp = append(arp, ip(client.ip4)...)
	arp = append(arp, 0, 0, 0, 0, 0, 0)
	arp = append(arp, ip(routerIP4)...)
	r := a.run("from_pod", arp, from{device: devPod1})
	expect(t, "ARP", r, actRedirect, 0)
	if [6]byte(r.out[22:28]) != client.nodeMAC || netip.AddrFrom4([4]byte(r.out[28:32])).String() != routerIP4 || r.out[21] != 2 || [6]byte(r.out[:6]) != client.mac {
		t.Errorf("answer %x", r.out)
	}
	expect(t, "ARP of another device", a.run("from_pod", arp, from{device: devPod2}), actShot, abi.ReasonInvalidSourceIP)

	target := netip.MustParseAddr(routerIP6).As16()
	ns := message{srcMAC: client.mac, dstMAC: [6]byte{0x33, 0x33, 0xff, 0, 0, 0xfe}, src: client.ip6, dst: "ff02::1:ff00:fe", icmp: true, icmpType: 135, ttl: 255}
	ns.inner = append(append([]byte{}, target[:]...), append([]byte{1, 1}, client.mac[:]...)...)
	r = a.run("from_pod", ns.bytes(t), from{device: devPod1})
	expect(t, "neighbour solicitation", r, actRedirect, 0)
	checkSums(t, r.out)
	if d := decode(t, r.out); d.src != routerIP6 || d.dst != client.ip6 || r.out[54] != 136 || [6]byte(r.out[80:86]) != client.nodeMAC {
		t.Errorf("answer %+v", d)
	}
	expect(t, "to the pod", a.run("to_pod", r.out, from{device: devPod1}), actOK, 0)
}

func TestTalkOfTheLinkEndsThere(t *testing.T) {
	a := newNodeA(t, nil)
	for what, typ := range map[string]uint8{"listener report": 143, "router solicitation": 133, "router advertisement": 134, "redirect": 137} {
		m := message{srcMAC: client.mac, dstMAC: client.nodeMAC, src: client.ip6, dst: server.ip6, icmp: true, icmpType: typ, inner: make([]byte, 16)}
		expect(t, what, a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonForbiddenICMP6)
		expect(t, what+" to a pod", a.run("to_pod", m.bytes(t), from{device: devPod2}), actShot, abi.ReasonForbiddenICMP6)
		m.dst, m.ttl = "ff02::1", 255
		expect(t, what+" to the host", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonForbiddenICMP6)
	}
	a.setCells(peerWorld, abi.SetDeny)
	m := message{srcMAC: client.mac, dstMAC: client.nodeMAC, src: client.ip6, dst: "fe80::aa", icmp: true, icmpType: 136, ttl: 255, inner: make([]byte, 16)}
	for _, host := range []string{"fe80::aa", "ff02::1", hostIP6, routerIP6} {
		m.dst = host
		expect(t, "the pod's answer to its host", a.run("from_pod", m.bytes(t), from{device: devPod1}), actOK, 0)
	}
	for _, other := range []string{server.ip6, remote.ip6, outsideIP6, "fd00:1::99", "ff05::1"} {
		m.dst = other
		expect(t, "an answer that is to leave the link, past policy", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonForbiddenICMP6)
	}
	m.dst = "fe80::aa"
	m.ttl = 254
	expect(t, "an answer that a router forwarded", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonForbiddenICMP6)
	for _, typ := range []uint8{135, 136} {
		forwarded := message{srcMAC: server.nodeMAC, dstMAC: server.mac, src: client.ip6, dst: server.ip6, icmp: true, icmpType: typ, ttl: 254, inner: make([]byte, 16)}
		expect(t, "forwarded to a pod", a.run("to_pod", forwarded.bytes(t), from{device: devPod2}), actShot, abi.ReasonForbiddenICMP6)
	}
	m.ttl = 255
	m.src = server.ip6
	expect(t, "an answer for another pod", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonInvalidSourceIP)
}

// A pod's labels change: its address' shard is bumped, its flows are judged again
// and carry the new identity; those that may go on do.
func TestAPodsNewIdentityReachesItsFlows(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			near, far := between(client, server, f.six, 4000, 80, "S"), between(client, remote, f.six, 4001, 80, "S")
			expectDelivered(t, "near", a.run("from_pod", near.bytes(t), from{device: devPod1}), server)
			tunnelled(t, "far", a.run("from_pod", far.bytes(t), from{device: devPod1}), hostBIP4, hostIP4, client.identity)
			changed := client
			changed.identity, changed.peer = 1010, 20
			a.setCells(20, abi.SetAllow)
			a.setCell(20, slotServerIngress, abi.SetDeny, 0)
			a.addPod(changed)
			near.flags, far.flags = "A", "A"
			expectDelivered(t, "before the bump", a.run("from_pod", near.bytes(t), from{device: devPod1}), server)
			a.bumpPeer(client.ip(f.six))
			expect(t, "denied to the new identity", a.run("from_pod", near.bytes(t), from{device: devPod1}), actShot, abi.ReasonPolicyDenied)
			tunnelled(t, "allowed to the new identity", a.run("from_pod", far.bytes(t), from{device: devPod1}), hostBIP4, hostIP4, 1010)
		})
	}
}

// A pod's address moves to another node: the flow follows the ipcache.
func TestAFlowFollowsAnAddressToAnotherNode(t *testing.T) {
	a := newNodeA(t, nil)
	a.addNode(3, "192.168.0.3")
	m := between(client, remote, false, 4000, 80, "S")
	tunnelled(t, "SYN", a.run("from_pod", m.bytes(t), from{device: devPod1}), hostBIP4, hostIP4, client.identity)
	a.addPrefix(remote.ip4, abi.IpcacheEntry{Identity: remote.identity, Peer: remote.peer, Node: 3, Flags: abi.IpcachePod})
	a.bumpPeer(remote.ip4)
	m.flags = "A"
	tunnelled(t, "ACK", a.run("from_pod", m.bytes(t), from{device: devPod1}), "192.168.0.3", hostIP4, client.identity)
}

func TestPortsOfSets(t *testing.T) {
	a := newNodeA(t, nil)
	put := func(bits uint32, protocol uint8, port uint16, verdict uint8) {
		a.put(abi.MapSets, abi.SetKey{Prefixlen: bits, Set: 7, Protocol: protocol, Port: ports(port)}, abi.SetEntry{Verdict: verdict, Row: port})
	}
	put(64, 6, 80, abi.VerdictAllow)
	put(48+9, 6, 1<<15, abi.VerdictAllow) // 32768-33 ... : 128 ports
	put(64, 6, 32770, abi.VerdictDeny)
	put(48, 17, 0, abi.VerdictAllow)
	put(64, 1, 8, abi.VerdictAllow)
	a.setCell(peerClient, slotServerIngress, 7, server.id)
	for _, c := range []struct {
		what string
		m    message
		pass bool
	}{
		{"TCP 80", message{dport: 80, flags: "S"}, true},
		{"TCP 81", message{dport: 81, flags: "S"}, false},
		{"TCP 32769", message{dport: 32769, flags: "S"}, true},
		{"TCP 32770", message{dport: 32770, flags: "S"}, false},
		{"TCP 32895", message{dport: 32895, flags: "S"}, true},
		{"TCP 32896", message{dport: 32896, flags: "S"}, false},
		{"UDP 9", message{dport: 9, udp: true}, true},
		{"ICMP echo", message{icmp: true, icmpType: 8, icmpID: 5}, true},
		{"ICMP timestamp", message{icmp: true, icmpType: 13, icmpID: 5}, false},
	} {
		m := c.m
		m.srcMAC, m.dstMAC, m.src, m.dst, m.sport = client.mac, client.nodeMAC, client.ip4, server.ip4, 4000
		r := a.run("from_pod", m.bytes(t), from{device: devPod1})
		if (r.verdict == actRedirect) != c.pass {
			t.Errorf("%s: verdict %d, reason %s", c.what, r.verdict, name(r.reason))
		}
	}
}

func TestAPodReachesItself(t *testing.T) {
	a := newNodeA(t, nil)
	a.setCells(peerClient, abi.SetDeny)
	expectDelivered(t, "SYN", a.run("from_pod", between(client, client, false, 4000, 80, "S").bytes(t), from{device: devPod1}), client)
}

func TestEveryNewConnectionIsTold(t *testing.T) {
	open := client
	open.egress, open.ingr = abi.SlotOpen, abi.SlotOpen
	other := server
	other.egress, other.ingr = abi.SlotOpen, abi.SlotOpen
	for _, c := range []struct {
		name  string
		pods  []pod
		level uint8
		types []uint8
	}{
		{"verdicts of both sides", []pod{client, server}, 1, []uint8{abi.EventVerdict, abi.EventVerdict}},
		{"verdict of the limited side", []pod{open, server}, 1, []uint8{abi.EventVerdict}},
		{"trace where nothing is limited", []pod{open, other}, 1, []uint8{abi.EventTrace}},
		{"nothing at level 0", []pod{client, server}, 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newNodeA(t, config{abi.ConfigEventLevel: c.level})
			for _, p := range c.pods {
				a.addPod(p)
			}
			r := a.run("from_pod", between(client, server, false, 4000, 80, "S").bytes(t), from{device: devPod1})
			expectDelivered(t, "SYN", r, server)
			var types []uint8
			for _, e := range r.events {
				types = append(types, e.Type)
				if e.SourceIdentity != client.identity || e.DestinationIdentity != server.identity {
					t.Errorf("event of %d to %d", e.SourceIdentity, e.DestinationIdentity)
				}
			}
			if string(types) != string(c.types) {
				t.Errorf("events %v, want %v", types, c.types)
			}
			if r = a.run("from_pod", between(client, server, false, 4000, 80, "A").bytes(t), from{device: devPod1}); len(r.events) != 0 {
				t.Errorf("%d events for a packet of an open connection", len(r.events))
			}
		})
	}
}

func TestAnAuditPassesAndIsAlwaysTold(t *testing.T) {
	for _, f := range families {
		for _, level := range []uint8{0, 1} {
			t.Run(fmt.Sprint(f.name, " level ", level), func(t *testing.T) {
				a := newNodeA(t, config{abi.ConfigEventLevel: level})
				a.put(abi.MapSets, abi.SetKey{Prefixlen: abi.PrefixAny, Set: 7}, abi.SetEntry{Verdict: abi.VerdictAudit, Row: 0})
				a.put(abi.MapSets, abi.SetKey{Prefixlen: abi.PrefixPort, Set: 7, Protocol: 6, Port: ports(443)}, abi.SetEntry{Verdict: abi.VerdictDeny, Row: 1})
				a.setCell(peerClient, slotServerIngress, 7, server.id)
				r := a.run("from_pod", between(client, server, f.six, 4000, 80, "S").bytes(t), from{device: devPod1})
				expectDelivered(t, "SYN", r, server)
				audits := 0
				for _, e := range r.events {
					if e.Type == abi.EventVerdict && e.Verdict == abi.VerdictAudit && int(e.Endpoint) == server.id && e.Ingress == 1 && e.Set == 7 {
						audits++
					}
				}
				if audits != 1 {
					t.Errorf("%d audits in %+v", audits, r.events)
				}
				if r = a.run("from_pod", between(client, server, f.six, 4000, 80, "A").bytes(t), from{device: devPod1}); len(r.events) != 0 {
					t.Errorf("%d events for a packet of an open connection", len(r.events))
				}
				r = a.run("from_pod", between(client, server, f.six, 4001, 443, "S").bytes(t), from{device: devPod1})
				expect(t, "a deny of the same set", r, actShot, abi.ReasonPolicyDenied)
			})
		}
	}
}

func TestAtLevelTwoEveryPacketIsTold(t *testing.T) {
	a := newNodeA(t, config{abi.ConfigEventLevel: uint8(2)})
	a.run("from_pod", between(client, server, false, 4000, 80, "S").bytes(t), from{device: devPod1})
	r := a.run("from_pod", between(server, client, false, 80, 4000, "SA").bytes(t), from{device: devPod2})
	if len(r.events) != 1 || r.events[0].Type != abi.EventTrace || r.events[0].Point != abi.PointToPod ||
		r.events[0].SourceIdentity != server.identity || r.events[0].Flags&abi.EventFReply == 0 {
		t.Errorf("events %+v", r.events)
	}
}

func TestTCPWithoutARowIsPickedUpInEitherDirection(t *testing.T) {
	for _, f := range families {
		for _, deny := range []string{"nothing", "client to server", "server to client", "both"} {
			t.Run(f.name+" denied: "+deny, func(t *testing.T) {
				a := newNodeA(t, nil)
				if deny == "client to server" || deny == "both" {
					a.setCell(peerClient, slotServerIngress, abi.SetDeny, server.id)
				}
				if deny == "server to client" || deny == "both" {
					a.setCell(peerServer, slotClientIngress, abi.SetDeny, client.id)
				}
				r := a.run("from_pod", between(client, server, f.six, 4000, 80, "A").bytes(t), from{device: devPod1})
				if deny == "both" {
					expect(t, "ACK", r, actShot, abi.ReasonPolicyDenied)
					return
				}
				expectDelivered(t, "ACK", r, server)
				expectDelivered(t, "other side", a.run("from_pod", between(server, client, f.six, 80, 4000, "A").bytes(t), from{device: devPod2}), client)
				for _, row := range a.flowRows() {
					opener := uint16(client.id)
					if deny == "client to server" {
						opener = uint16(server.id)
					}
					if row.Flags&abi.FlowPickedUp == 0 || row.Endpoint[0] != opener {
						t.Errorf("row %+v", row)
					}
				}
				m := between(client, server, f.six, 4001, 80, "S")
				if r := a.run("from_pod", m.bytes(t), from{device: devPod1}); (r.verdict == actShot) != (deny == "client to server") {
					t.Errorf("SYN: verdict %d", r.verdict)
				}
			})
		}
	}
}

func TestEventsCountWithoutGaps(t *testing.T) {
	a := newNodeA(t, nil)
	a.setCells(peerServer, abi.SetDeny)
	seen := map[uint16]uint64{}
	for i := uint16(0); i < 20; i++ {
		for _, e := range a.run("from_pod", between(client, server, false, 4000+i, 80, "S").bytes(t), from{device: devPod1}).events {
			if last, ok := seen[e.CPU]; ok && e.Sequence != last+1 {
				t.Errorf("sequence %d after %d on CPU %d", e.Sequence, last, e.CPU)
			}
			seen[e.CPU] = e.Sequence
			if e.SourcePort != ports(4000+i) || e.Length == 0 || binary.NativeEndian.Uint32(e.Source.B[12:]) == 0 {
				t.Errorf("event %+v", e)
			}
		}
	}
}
