// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"

	"github.com/stentor-net/stentor/internal/abi"
)

func masquerading() config {
	return config{abi.ConfigMasqueradeAddr4: mapped(hostIP4), abi.ConfigMasqueradeAddr6: mapped(hostIP6)}
}

// toOutside is a packet of the client to a host outside the cluster.
func toOutside(six bool) message {
	return message{srcMAC: client.mac, dstMAC: client.nodeMAC, src: client.ip(six), dst: pick(six, outsideIP4, outsideIP6), sport: 4000, dport: 443, flags: "S"}
}

func TestPodsSpeakToTheWorldWithTheNodesAddress(t *testing.T) {
	for _, f := range families {
		for _, protocol := range []string{"TCP", "UDP", "ICMP"} {
			t.Run(f.name+" "+protocol, func(t *testing.T) {
				a := newNodeA(t, masquerading())
				m := toOutside(f.six)
				m.udp, m.icmp = protocol == "UDP", protocol == "ICMP"
				if m.icmp {
					m.icmpType, m.icmpID = map[bool]uint8{false: 8, true: 128}[f.six], 4000
				}
				r := a.run("from_pod", m.bytes(t), from{device: devPod1})
				expect(t, "from_pod", r, actOK, 0)
				r = a.run("to_net", r.out, from{device: devUplink})
				expect(t, "to_net", r, actOK, 0)
				checkSums(t, r.out)
				out := decode(t, r.out)
				if out.src != pick(f.six, hostIP4, hostIP6) || out.dst != m.dst {
					t.Fatalf("leaves as %s to %s", out.src, out.dst)
				}
				id := icmpID(r.out)
				if port := out.sport; !m.icmp && port < 61000 || m.icmp && id < 61000 {
					t.Errorf("port %d, identifier %d of the host's own range", port, id)
				}
				again := decode(t, a.run("to_net", m.bytes(t), from{device: devUplink}).out)
				if again.sport != out.sport || icmpID(again.raw) != id {
					t.Errorf("port changes from %d to %d", out.sport, again.sport)
				}

				back := m.reply("SA")
				back.dst, back.dport, back.icmpID = out.src, out.sport, id
				r = a.run("from_net", back.bytes(t), from{device: devUplink})
				expect(t, "from_net", r, actOK, 0)
				checkSums(t, r.out)
				in := decode(t, r.out)
				if in.dst != client.ip(f.six) || !m.icmp && in.dport != 4000 || m.icmp && icmpID(r.out) != 4000 {
					t.Fatalf("comes back to %s port %d identifier %d", in.dst, in.dport, icmpID(r.out))
				}
				expect(t, "to_pod", a.run("to_pod", r.out, from{device: devPod1}), actOK, 0)
			})
		}
	}
}

// A host of the world that has a route to pods finds its own connection in what
// they answer, and in their errors.
func TestAnswersKeepThePodsAddress(t *testing.T) {
	for _, f := range families {
		for _, protocol := range []string{"TCP", "UDP", "ICMP"} {
			t.Run(f.name+" "+protocol, func(t *testing.T) {
				a := newNodeA(t, masquerading())
				m := message{srcMAC: client.nodeMAC, dstMAC: client.mac, src: pick(f.six, outsideIP4, outsideIP6), dst: client.ip(f.six), sport: 5000, dport: 80, flags: "S"}
				m.udp, m.icmp = protocol == "UDP", protocol == "ICMP"
				back := m.reply("SA")
				if m.icmp {
					m.icmpType, back.icmpType = map[bool]uint8{false: 8, true: 128}[f.six], map[bool]uint8{false: 0, true: 129}[f.six]
					m.icmpID, back.icmpID = 5000, 5000
				}
				back.srcMAC, back.dstMAC = client.mac, client.nodeMAC
				expect(t, "from_net", a.run("from_net", m.bytes(t), from{device: devUplink}), actOK, 0)
				expect(t, "to_pod", a.run("to_pod", m.bytes(t), from{device: devPod1}), actOK, 0)
				expect(t, "from_pod", a.run("from_pod", back.bytes(t), from{device: devPod1}), actOK, 0)
				sent := []message{back}
				if m.udp {
					e := icmpError(t, client.ip(f.six), m.bytes(t))
					e.srcMAC, e.dstMAC = client.mac, client.nodeMAC
					expect(t, "from_pod, error", a.run("from_pod", e.bytes(t), from{device: devPod1}), actOK, 0)
					sent = append(sent, e)
				}
				for _, s := range sent {
					r := a.run("to_net", s.bytes(t), from{device: devUplink})
					expect(t, "to_net", r, actOK, 0)
					if string(r.out) != string(s.bytes(t)) {
						t.Errorf("leaves as %+v, want it as it was", decode(t, r.out))
					}
				}
				next := client
				next.incarnation++
				a.addPod(next)
				r := a.run("to_net", back.bytes(t), from{device: devUplink})
				if d := decode(t, r.out); d.src == client.ip(f.six) {
					t.Errorf("the next pod with the address answers too: verdict %d", r.verdict)
				}
			})
		}
	}
}

func icmpID(frame []byte) uint16 {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if l, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
		return l.Id
	}
	if l, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); ok {
		return uint16(l.Payload[0])<<8 | uint16(l.Payload[1])
	}
	return 0
}

// icmpError is an error of a router about a frame.
func icmpError(t testing.TB, router string, about []byte) message {
	t.Helper()
	inner := about[14:]
	if len(inner) > 68 {
		inner = inner[:68]
	}
	d := decode(t, about)
	m := message{src: router, dst: d.src, icmp: true, icmpType: 3, inner: append([]byte(nil), inner...)}
	if m.six() {
		m.icmpType = 1
	}
	return m
}

// innerOf is the frame quoted in an ICMP error, with an Ethernet header before it.
func innerOf(t testing.TB, frame []byte) decoded {
	t.Helper()
	skip := 14 + 20 + 8
	if frame[12] == 0x86 {
		skip = 14 + 40 + 8
	}
	return decode(t, append(append([]byte(nil), frame[:14]...), frame[skip:]...))
}

func TestErrorsAboutMasqueradedPacketsComeBack(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, masquerading())
			m := toOutside(f.six)
			r := a.run("from_pod", m.bytes(t), from{device: devPod1})
			left := a.run("to_net", r.out, from{device: devUplink}).out
			e := icmpError(t, pick(f.six, "203.0.113.1", "2001:db8::1"), left)
			r = a.run("from_net", e.bytes(t), from{device: devUplink})
			expect(t, "from_net", r, actOK, 0)
			checkSums(t, r.out)
			if d := decode(t, r.out); d.dst != client.ip(f.six) {
				t.Fatalf("error for %s", d.dst)
			}
			if d := innerOf(t, r.out); d.src != client.ip(f.six) || d.sport != 4000 || d.dst != m.dst {
				t.Errorf("about %s:%d to %s", d.src, d.sport, d.dst)
			}
			expect(t, "to_pod", a.run("to_pod", r.out, from{device: devPod1}), actOK, 0)
		})
	}
}

func TestErrorsOfPodsToTheWorldAreMasqueraded(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, masquerading())
			m := toOutside(f.six)
			m.udp = true
			r := a.run("from_pod", m.bytes(t), from{device: devPod1})
			port := decode(t, a.run("to_net", r.out, from{device: devUplink}).out).sport
			back := m.reply("")
			e := icmpError(t, client.ip(f.six), back.bytes(t))
			e.srcMAC, e.dstMAC = client.mac, client.nodeMAC
			r = a.run("from_pod", e.bytes(t), from{device: devPod1})
			expect(t, "from_pod", r, actOK, 0)
			r = a.run("to_net", r.out, from{device: devUplink})
			expect(t, "to_net", r, actOK, 0)
			checkSums(t, r.out)
			if d := innerOf(t, r.out); decode(t, r.out).src != pick(f.six, hostIP4, hostIP6) || d.dst != pick(f.six, hostIP4, hostIP6) || d.dport != port {
				t.Errorf("error of %s about %s:%d, want port %d", decode(t, r.out).src, d.dst, d.dport, port)
			}
		})
	}
}

// The stack tells the world that a packet is too big for the pod: the world must
// find its own connection in it.
func TestErrorsOfTheHostAboutPacketsForPodsAreMasqueraded(t *testing.T) {
	for _, f := range families {
		for _, fragment := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s fragment %v", f.name, fragment), func(t *testing.T) {
				a := newNodeA(t, masquerading())
				m := toOutside(f.six)
				m.udp = true
				port := decode(t, a.run("to_net", m.bytes(t), from{device: devUplink}).out).sport
				back := m.reply("")
				back.more = fragment
				e := icmpError(t, pick(f.six, hostIP4, hostIP6), back.bytes(t))
				e.icmpType = map[bool]uint8{false: 3, true: 2}[f.six]
				r := a.run("to_net", e.bytes(t), from{device: devUplink})
				expect(t, "to_net", r, actOK, 0)
				checkSums(t, r.out)
				inner := r.out[14+20+8:]
				l4 := 20
				if f.six {
					inner, l4 = r.out[14+40+8:], 40
					if fragment {
						l4 += 8
					}
				}
				d := innerOf(t, r.out)
				if got := uint16(inner[l4+2])<<8 | uint16(inner[l4+3]); d.dst != pick(f.six, hostIP4, hostIP6) || got != port {
					t.Errorf("error about %s:%d, want port %d", d.dst, got, port)
				}
				own := message{src: e.src, dst: e.dst, icmp: true, icmpType: e.icmpType,
					inner: message{src: e.dst, dst: e.src, udp: true, sport: 7, dport: 8}.bytes(t)[14:]}.bytes(t)
				if r := a.run("to_net", own, from{device: devUplink}); r.verdict != actOK || string(r.out) != string(own) {
					t.Error("an error about the host's own traffic changed")
				}
			})
		}
	}
}

func TestPortsOfOtherPodsAndOfTheHostAreNotTaken(t *testing.T) {
	cfg := masquerading()
	cfg[abi.ConfigNATPortMin], cfg[abi.ConfigNATPortMax] = uint16(61000), uint16(61003)
	a := newNodeA(t, cfg)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	own := &netlink.Addr{IPNet: &net.IPNet{IP: ip(hostIP4), Mask: net.CIDRMask(32, 32)}}
	if err := netlink.AddrAdd(lo, own); err != nil {
		t.Fatal(err)
	}
	defer netlink.AddrDel(lo, own)
	host, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip(hostIP4), Port: 61002})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	m := toOutside(false)
	m.udp = true
	seen := map[uint16]bool{}
	for i := uint16(0); i < 3; i++ {
		m.sport = 4000 + i
		r := a.run("to_net", m.bytes(t), from{device: devUplink})
		expect(t, "to_net", r, actOK, 0)
		port := decode(t, r.out).sport
		if port == 61002 || seen[port] {
			t.Errorf("port %d is taken already", port)
		}
		seen[port] = true
	}
	m.sport = 4003
	expect(t, "one too many", a.run("to_net", m.bytes(t), from{device: devUplink}), actShot, abi.ReasonNATNoMapping)
	if n := a.dropped(abi.ReasonNATNoMapping, 0); n != 1 {
		t.Errorf("%d drops counted", n)
	}
	m.dst = "203.0.113.10"
	expect(t, "the same port to another host", a.run("to_net", m.bytes(t), from{device: devUplink}), actOK, 0)
}

func TestAMappingDiesWithItsPod(t *testing.T) {
	a := newNodeA(t, masquerading())
	m := toOutside(false)
	left := a.run("to_net", m.bytes(t), from{device: devUplink})
	next := client
	next.incarnation++
	a.addPod(next)
	back := m.reply("SA")
	back.dst, back.dport = hostIP4, decode(t, left.out).sport
	r := a.run("from_net", back.bytes(t), from{device: devUplink})
	expect(t, "reply", r, actOK, 0)
	if d := decode(t, r.out); d.dst != hostIP4 {
		t.Errorf("the next pod with the address gets it: %s", d.dst)
	}
}

func TestHostPacketsPassTheUplinkUntouched(t *testing.T) {
	a := newNodeA(t, masquerading())
	for what, m := range map[string]message{
		"of the host":     {src: hostIP4, dst: outsideIP4, sport: 5000, dport: 443, flags: "S"},
		"of another host": {src: hostBIP4, dst: outsideIP4, sport: 5000, dport: 443, flags: "S"},
		"of the tunnel":   {src: hostIP4, dst: hostBIP4, udp: true, sport: 5000, dport: 8472},
	} {
		b := m.bytes(t)
		r := a.run("to_net", b, from{device: devUplink})
		expect(t, what, r, actOK, 0)
		if string(r.out) != string(b) {
			t.Errorf("%s: changed", what)
		}
		m.src, m.dst = m.dst, m.src
		b = m.bytes(t)
		if r = a.run("from_net", b, from{device: devUplink}); r.verdict != actOK || string(r.out) != string(b) {
			t.Errorf("%s: way back: verdict %d", what, r.verdict)
		}
	}
	r := a.run("to_net", toOutside(false).bytes(t), from{device: devUplink, mark: 0x57e10001})
	if d := decode(t, r.out); d.src != client.ip4 || r.mark != 0 {
		t.Errorf("what a program sent itself leaves as %s with mark %x", d.src, r.mark)
	}
}

func TestClusterRoutesAreNotMasqueraded(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, masquerading())
			a.addPrefix(pick(f.six, outsideIP4+"/32", outsideIP6+"/128"), abi.IpcacheEntry{Identity: abi.IdentityWorld, Peer: peerWorld, Flags: abi.IpcacheClusterRoute})
			r := a.run("to_net", toOutside(f.six).bytes(t), from{device: devUplink})
			if d := decode(t, r.out); r.verdict != actOK || d.src != client.ip(f.six) {
				t.Errorf("verdict %d, source %s", r.verdict, d.src)
			}
			m := toOutside(f.six)
			m.dst = pick(f.six, "10.0.1.77", "fd00:1::77")
			expect(t, "address without a pod", a.run("to_net", m.bytes(t), from{device: devUplink}), actShot, abi.ReasonStaleUnroutable)
		})
	}
}

func TestWithoutAnAddressNothingIsMasqueraded(t *testing.T) {
	for _, f := range families {
		a := newNodeA(t, nil)
		b := toOutside(f.six).bytes(t)
		if r := a.run("to_net", b, from{device: devUplink}); r.verdict != actOK || string(r.out) != string(b) {
			t.Errorf("%s: verdict %d, packet %x", f.name, r.verdict, r.out)
		}
	}
}

func native() config {
	c := masquerading()
	c[abi.ConfigTunnel] = uint8(0)
	return c
}

func TestPodsOfTwoNodesTalkWithoutATunnel(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := newCluster(t, native())
			m := between(client, remote, f.six, 4000, 80, "S")
			r := c.a.run("from_pod", m.bytes(t), from{device: devPod1, route: devUplink})
			expect(t, "from_pod", r, actRedirect, 0)
			if r.spy.Kind != kindNeighbor || r.spy.Ifindex != deviceIndex[devUplink] {
				t.Fatalf("redirect kind %d to %d", r.spy.Kind, r.spy.Ifindex)
			}
			checkSums(t, r.out)
			if d := decode(t, r.out); d.ttl != 63 {
				t.Errorf("TTL %d", d.ttl)
			}
			left := c.a.run("to_net", r.out, from{device: devUplink, mark: r.mark})
			if d := decode(t, left.out); d.src != client.ip(f.six) || left.mark != 0 {
				t.Errorf("leaves as %s, mark %x", d.src, left.mark)
			}
			r = c.b.run("from_net", left.out, from{device: devUplink})
			expectDelivered(t, "from_net", r, remote)
			back := between(remote, client, f.six, 80, 4000, "SA")
			r = c.b.run("from_pod", back.bytes(t), from{device: devPod1, route: devUplink})
			expect(t, "reply", r, actRedirect, 0)
			expectDelivered(t, "reply", c.a.run("from_net", r.out, from{device: devUplink}), client)
			c.b.setCell(peerClient, slotRemoteIngress, abi.SetDeny, remote.id)
			expect(t, "after a deny", c.b.run("from_net", left.out, from{device: devUplink}), actShot, abi.ReasonPolicyDenied)
			m.ttl = 1
			expect(t, "TTL 1", c.a.run("from_pod", m.bytes(t), from{device: devPod1, route: devUplink}), actShot, abi.ReasonTtlExceeded)
			m.ttl = 0
			expect(t, "no route", c.a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonFibLookupFailed)
		})
	}
}

func TestForgedSourcesFromTheUplinkAreDropped(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, masquerading())
			m := between(remote, client, f.six, 4000, 80, "S")
			expectDelivered(t, "through the tunnel", a.run("from_overlay", m.bytes(t), from{device: devOverlay, outer: hostBIP4, vni: remote.identity}), client)
			expect(t, "a remote pod past the tunnel", a.run("from_net", m.bytes(t), from{device: devUplink}), actShot, abi.ReasonUnknownSender)
			m.src = server.ip(f.six)
			expect(t, "a pod of this node", a.run("from_net", m.bytes(t), from{device: devUplink}), actShot, abi.ReasonUnknownSender)
			m.src = pick(f.six, "10.0.1.77", "fd00:1::77")
			expect(t, "this node's range", a.run("from_net", m.bytes(t), from{device: devUplink}), actShot, abi.ReasonUnknownSender)
			m.src = pick(f.six, "10.0.2.77", "fd00:2::77")
			expect(t, "another node's range", a.run("from_net", m.bytes(t), from{device: devUplink}), actShot, abi.ReasonUnknownSender)
			m.src = pick(f.six, hostIP4, hostIP6)
			expect(t, "this host", a.run("from_net", m.bytes(t), from{device: devUplink}), actShot, abi.ReasonUnknownSender)
			m.src = pick(f.six, outsideIP4, outsideIP6)
			expect(t, "the world", a.run("from_net", m.bytes(t), from{device: devUplink}), actOK, 0)
		})
	}
}
