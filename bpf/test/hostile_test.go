// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/binary"
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

// hostile are packets that no honest stack sends, and what becomes of each where
// a pod sends it. A reason of 0 says that it passes to the server, which policy
// allows: what is wrong with it is the receiver's matter, and harms only him.
func hostile(t *testing.T) []hostilePacket {
	var out []hostilePacket
	add := func(what string, reason uint8, packet []byte) {
		out = append(out, hostilePacket{what, reason, packet})
	}
	four := func(flags string) []byte { return between(client, server, false, 4000, 80, flags).bytes(t) }
	six := func(flags string) []byte { return between(client, server, true, 4000, 80, flags).bytes(t) }
	with := func(b []byte, at int, bytes ...byte) []byte { copy(b[at:], bytes); return b }

	add("IPv4 version 5", abi.ReasonInvalidPacket, with(four("S"), 14, 0x55))
	add("IPv4 header of 16 bytes", abi.ReasonInvalidPacket, with(four("S"), 14, 0x44))
	add("IPv4 header of 0 bytes", abi.ReasonInvalidPacket, with(four("S"), 14, 0x40))
	add("IPv4 header longer than the packet", abi.ReasonCtTruncated, with(four("S")[:60], 14, 0x4f))
	add("IPv4 total length of 0", 0, with(four("S"), 16, 0, 0))
	add("IPv4 total length beyond the packet", 0, with(four("S"), 16, 0xff, 0xff))
	add("IPv4 of jumbo size", 0, append(four("S"), make([]byte, 3000)...))
	add("IPv6 version 4", abi.ReasonInvalidPacket, with(six("S"), 14, 0x40))
	add("IPv6 payload length of 0", 0, with(six("S"), 18, 0, 0))
	add("GRE", abi.ReasonCtUnknownL4, with(four("S"), 23, 47))
	add("IP in IP", abi.ReasonCtUnknownL4, with(four("S"), 23, 4))
	add("ESP in IPv6", abi.ReasonCtUnknownL4, with(six("S"), 20, 50))
	add("no next header in IPv6", abi.ReasonCtUnknownL4, with(six("S"), 20, 59))
	add("TCP cut behind the ports", abi.ReasonCtTruncated, four("S")[:14+20+4])
	add("TCP without its flags", abi.ReasonCtTruncated, six("S")[:14+40+13])
	add("TCP header shorter than a header", 0, with(four("S"), 14+20+12, 0x10))
	add("TCP with every flag", 0, with(four("S"), 14+20+13, 0xff))
	add("TCP without a flag", 0, with(four(""), 14+20+13, 0))
	for what, etherType := range map[string]uint16{"VLAN": 0x8100, "QinQ": 0x88a8, "MPLS": 0x8847, "LLDP": 0x88cc, "STP": 0x0026, "PPPoE": 0x8864, "EtherType 0": 0} {
		b := four("S")
		binary.BigEndian.PutUint16(b[12:], etherType)
		add(what, abi.ReasonUnsupportedL3, b)
	}
	chain := func(headers ...byte) []byte { return withHeaders(six("S"), headers...) }
	add("IPv6 with a hop-by-hop header twice", 0, chain(0, 0))
	add("IPv6 with a routing header", 0, chain(43))
	add("IPv6 with seven headers", abi.ReasonInvalidExthdr, chain(60, 60, 60, 60, 60, 60, 60))
	add("IPv6 header of 2048 bytes", abi.ReasonInvalidExthdr, with(chain(60), 55, 255))
	add("IPv6 header beyond the packet", abi.ReasonCtTruncated, with(chain(60), 55, 20))
	add("IPv6 chain that ends with the packet", abi.ReasonInvalidExthdr, chain(60)[:54+4])

	fragment := func(six bool, offset uint16, more bool, payload int) []byte {
		m := between(client, server, six, 4000, 80, "S")
		m.fragment, m.more, m.id, m.payload = offset, more, 321, payload
		return m.bytes(t)
	}
	for _, f := range families {
		add(f.name+" later fragment without its first", abi.ReasonFragFirstMissing, fragment(f.six, 9, false, 64))
		udp := between(client, server, f.six, 4000, 53, "")
		udp.udp = true
		add(f.name+" UDP cut behind the ports", abi.ReasonCtTruncated, udp.bytes(t)[:map[bool]int{false: 14 + 20 + 4, true: 14 + 40 + 4}[f.six]])
		ping := between(client, server, f.six, 0, 0, "")
		ping.icmp, ping.icmpType = true, map[bool]uint8{false: 8, true: 128}[f.six]
		add(f.name+" ping cut behind the checksum", abi.ReasonCtTruncated, ping.bytes(t)[:map[bool]int{false: 14 + 20 + 4, true: 14 + 40 + 4}[f.six]])
		tiny := fragment(f.six, 0, true, 0)
		add(f.name+" tiny first fragment, the flags in the next", abi.ReasonCtTruncated, tiny[:len(tiny)-12])
		add(f.name+" fragment that would overwrite the flags", abi.ReasonFragFirstMissing, fragment(f.six, 1, true, 8))
		add(f.name+" fragment beyond 65535 bytes", abi.ReasonFragFirstMissing, fragment(f.six, 0x1fff, false, 64))

		about := between(server, client, f.six, 80, 40000, "A").bytes(t)
		e := icmpError(t, client.ip(f.six), about)
		e.srcMAC, e.dstMAC = client.mac, client.nodeMAC
		add(f.name+" error about a packet of the flow", 0, e.bytes(t))
		e.inner = e.inner[:12]
		add(f.name+" error with half a header inside", abi.ReasonCtTruncated, e.bytes(t))
		e.inner = nil
		add(f.name+" error about nothing", abi.ReasonCtTruncated, e.bytes(t))
		header := map[bool]int{false: 20, true: 40}[f.six]
		e = icmpError(t, client.ip(f.six), about)
		e.srcMAC, e.dstMAC = client.mac, client.nodeMAC
		e.inner = e.inner[:header]
		add(f.name+" error about a packet without its ports", abi.ReasonCtTruncated, e.bytes(t))
		part := between(server, client, f.six, 80, 40000, "A")
		part.more, part.id, part.payload = true, 321, 8
		e = icmpError(t, client.ip(f.six), part.bytes(t))
		e.srcMAC, e.dstMAC = client.mac, client.nodeMAC
		add(f.name+" error about a first fragment of the flow", 0, e.bytes(t))
		e.inner[map[bool]int{false: 7, true: header + 3}[f.six]] = 9 // not the first: what follows are no ports
		add(f.name+" error about a later fragment", abi.ReasonInvalidPacket, e.bytes(t))
		e = icmpError(t, client.ip(f.six), about)
		e.srcMAC, e.dstMAC = client.mac, client.nodeMAC
		e.inner[0] = 0
		add(f.name+" error about no IP packet", map[bool]uint8{false: abi.ReasonInvalidPacket, true: 0}[f.six], e.bytes(t))

		land := between(client, client, f.six, 80, 80, "S")
		land.src, land.dst = server.ip(f.six), server.ip(f.six)
		add(f.name+" from the server to the server", abi.ReasonInvalidSourceIP, land.bytes(t))
	}
	spoof := arpFrom(client, 2, server.ip4)
	add("ARP reply that nobody asked for", abi.ReasonUnsupportedL2, spoof)
	add("ARP for an address of somebody else", abi.ReasonInvalidSourceIP, with(arpFrom(client, 1, routerIP4), 28, ip(server.ip4)...))
	add("ARP that announces the own address", abi.ReasonUnsupportedL2, arpFrom(client, 1, client.ip4))
	add("ARP cut off", abi.ReasonInvalidPacket, arpFrom(client, 1, routerIP4)[:30])
	ask := between(client, server, true, 0, 0, "")
	ask.icmp, ask.icmpType, ask.ttl, ask.inner = true, 135, 255, make([]byte, 8)
	add("neighbour solicitation cut off", abi.ReasonInvalidPacket, ask.bytes(t))
	ask.inner = ip(client.ip6)
	add("neighbour solicitation for the own address", abi.ReasonForbiddenICMP6, ask.bytes(t))
	ask.src, ask.inner = server.ip6, ip(routerIP6)
	add("neighbour solicitation of somebody else", abi.ReasonInvalidSourceIP, ask.bytes(t))
	return out
}

// withHeaders puts extension headers of eight bytes between IPv6 and TCP.
func withHeaders(packet []byte, headers ...byte) []byte {
	b := append([]byte(nil), packet[:54]...)
	b[20] = headers[0]
	for i := range headers {
		next := packet[20]
		if i+1 < len(headers) {
			next = headers[i+1]
		}
		b = append(b, next, 0, 0, 0, 0, 0, 0, 0)
	}
	return append(b, packet[54:]...)
}

type hostilePacket struct {
	what   string
	reason uint8 // of the drop in from_pod
	packet []byte
}

func TestHostilePacketsOfAPodAreCountedDrops(t *testing.T) {
	for _, p := range hostile(t) {
		t.Run(p.what, func(t *testing.T) {
			x := newTrial(t, nil)
			r, ok := x.send("from_pod", p.packet, from{device: devPod1})
			switch {
			case !ok:
				t.Fatal("the kernel makes no packet of it")
			case p.reason != 0:
				expect(t, p.what, r, actShot, p.reason)
			case r.verdict != actRedirect || r.spy.Kind != kindPeer || r.spy.Ifindex != deviceIndex[devPod2]:
				t.Errorf("verdict %d, reason %s, %+v: want it to reach the server", r.verdict, name(r.reason), r.spy)
			}
			x.finish()
		})
	}
}

// TestHostilePacketsFromElsewhereReachNoPod sends the same to the other hooks:
// what is not dropped there goes to the host's stack, and to a pod only as
// policy says.
func TestHostilePacketsFromElsewhereReachNoPod(t *testing.T) {
	for _, hook := range hooks[1:] {
		t.Run(hook.prog, func(t *testing.T) {
			x := newTrial(t, masquerading())
			for _, p := range hostile(t) {
				x.TB = t
				r, ok := x.send(hook.prog, p.packet, hook.in)
				if ok && hook.prog == "from_overlay" && r.verdict != actShot {
					t.Errorf("%s: verdict %d: all of them have a pod of this node as the sender", p.what, r.verdict)
				}
			}
			x.finish()
		})
	}
}

func TestAPodsOwnAddressFromOutsideIsForged(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			x := newTrial(t, nil)
			m := between(client, client, f.six, 80, 80, "S")
			for _, hook := range []string{"from_net", "from_overlay"} {
				r, _ := x.send(hook, m.bytes(t), from{device: devUplink, outer: hostBIP4, vni: client.identity})
				expect(t, hook, r, actShot, abi.ReasonUnknownSender)
			}
			x.finish()
		})
	}
}
