// SPDX-License-Identifier: Apache-2.0

package test

import (
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

func TestErrorsPassOnlyWithinTheirFlow(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			m := between(client, server, f.six, 4000, 53, "")
			m.udp = true
			arrived := a.run("from_pod", m.bytes(t), from{device: devPod1})
			expectDelivered(t, "datagram", arrived, server)
			e := icmpError(t, server.ip(f.six), arrived.out)
			e.srcMAC, e.dstMAC = server.mac, server.nodeMAC
			before := a.flowRows()
			expectDelivered(t, "port unreachable", a.run("from_pod", e.bytes(t), from{device: devPod2}), client)
			for key, row := range a.flowRows() {
				if row != before[key] {
					t.Errorf("an error changed the row: %+v, was %+v", row, before[key])
				}
			}
			other := m
			other.sport = 4001
			e = icmpError(t, server.ip(f.six), other.bytes(t))
			e.srcMAC, e.dstMAC = server.mac, server.nodeMAC
			expect(t, "about no flow", a.run("from_pod", e.bytes(t), from{device: devPod2}), actShot, abi.ReasonPolicyDenied)
			e = icmpError(t, server.ip(f.six), arrived.out)
			e.srcMAC, e.dstMAC, e.dst = server.mac, server.nodeMAC, pick(f.six, outsideIP4, outsideIP6)
			expect(t, "to somebody else", a.run("from_pod", e.bytes(t), from{device: devPod2}), actShot, abi.ReasonPolicyDenied)
			if len(a.flowRows()) != 1 {
				t.Error("an error made a row")
			}
			a.setCell(peerClient, slotServerIngress, abi.SetDeny, server.id)
			e = icmpError(t, server.ip(f.six), arrived.out)
			e.srcMAC, e.dstMAC = server.mac, server.nodeMAC
			expect(t, "after the flow is denied", a.run("from_pod", e.bytes(t), from{device: devPod2}), actShot, abi.ReasonPolicyDenied)
		})
	}
}

func TestErrorsCrossTheTunnel(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := newCluster(t, nil)
			m := between(client, remote, f.six, 4000, 53, "")
			m.udp = true
			r := c.a.run("from_pod", m.bytes(t), from{device: devPod1})
			in := tunnelled(t, "datagram", r, hostBIP4, hostIP4, client.identity)
			arrived := c.b.run("from_overlay", r.out, in)
			expectDelivered(t, "datagram", arrived, remote)
			e := icmpError(t, remote.ip(f.six), arrived.out)
			e.srcMAC, e.dstMAC = remote.mac, remote.nodeMAC
			r = c.b.run("from_pod", e.bytes(t), from{device: devPod1})
			in = tunnelled(t, "error", r, hostIP4, hostBIP4, remote.identity)
			expectDelivered(t, "error", c.a.run("from_overlay", r.out, in), client)
		})
	}
}

func TestPacketsTooBigForTheTunnelAreAnswered(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			m := between(client, remote, f.six, 4000, 80, "S")
			m.dontFrag = true
			expect(t, "SYN", a.run("from_pod", m.bytes(t), from{device: devPod1}), actRedirect, 0)
			m.flags, m.payload = "A", 1450
			r := a.run("from_pod", m.bytes(t), from{device: devPod1})
			expect(t, "big one", r, actRedirect, abi.ReasonFragNeeded)
			if r.spy.Kind != kindRedirect || r.spy.Ifindex != deviceIndex[devPod1] {
				t.Fatalf("redirect kind %d to %d; want back to the pod", r.spy.Kind, r.spy.Ifindex)
			}
			checkSums(t, r.out)
			d, inner := decode(t, r.out), innerOf(t, r.out)
			if d.dst != client.ip(f.six) || inner.src != client.ip(f.six) || inner.sport != 4000 {
				t.Errorf("answer to %s about %s:%d", d.dst, inner.src, inner.sport)
			}
			mtu := uint16(r.out[14+20+6])<<8 | uint16(r.out[14+20+7])
			if f.six {
				mtu = uint16(r.out[14+40+6])<<8 | uint16(r.out[14+40+7])
			}
			if mtu != 1450 {
				t.Errorf("MTU %d", mtu)
			}
			expect(t, "to_pod", a.run("to_pod", r.out, from{device: devPod1}), actOK, 0)
			expect(t, "to be segmented", a.run("from_pod", m.bytes(t), from{device: devPod1, gsoSize: 1300}), actRedirect, 0)
		})
	}
}
