// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/nstest"
)

// sendFrame puts bytes onto the pod's interface, past the pod's own stack.
func (p *pod) sendFrame(t *testing.T, frame []byte) {
	t.Helper()
	p.Do(func() {
		dev, err := net.InterfaceByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index, Protocol: htons(unix.ETH_P_ALL)}); err != nil {
			t.Fatal(err)
		}
	})
}

// dropped is how many packets the node has counted for a reason.
func (n *node) dropped(t *testing.T, reason uint8) (packets uint64) {
	t.Helper()
	rows, err := n.dp.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Reason == reason {
			packets += r.Packets
		}
	}
	return packets
}

// TestFramesThatNoStackSendsEndAtThePodsInterface sends what a test run of a
// program cannot make: frames with tags and frames that end within a header.
func TestFramesThatNoStackSendsEndAtThePodsInterface(t *testing.T) {
	c := newCluster(t, true)
	n := c.nodes[0]
	liar, victim := n.pod(), n.pod()
	echo(t, victim.Namespace)
	seen := victim.CountUDP(t, 4242)
	frame := func(etherType ...byte) []byte {
		return append(append(append([]byte(nil), liar.link.NodeMAC[:]...), liar.link.MAC[:]...), etherType...)
	}
	datagram := func(src, dst netip.Addr) []byte { // IPv4, to port 4242
		b := []byte{0x45, 0, 0, 29, 0, 1, 0, 0, 64, 17, 0, 0}
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
		sum := uint32(0)
		for i := 0; i < 20; i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		sum = sum&0xffff + sum>>16
		b[10], b[11] = byte(^sum>>8), byte(^sum)
		return append(b, 0x10, 0x92, 0x10, 0x92, 0, 9, 0, 0, 'x')
	}
	honest := datagram(liar.link.IPv4, victim.link.IPv4)
	liar.sendFrame(t, append(frame(8, 0), honest...))
	eventually(t, "the victim sees the honest datagram", func() bool { return seen() == 1 })
	otherMAC := append(frame(8, 0), honest...)
	otherMAC[6] ^= 2
	for _, x := range []struct {
		what   string
		reason uint8
		frame  []byte
	}{
		{"VLAN tag", abi.ReasonUnsupportedL2, append(frame(0x81, 0, 0, 5, 8, 0), honest...)},
		{"tag with VLAN 0", abi.ReasonUnsupportedL2, append(frame(0x81, 0, 0x20, 0, 8, 0), honest...)},
		{"two VLAN tags", abi.ReasonUnsupportedL3, append(frame(0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0), honest...)},
		{"IPv4 header cut off", abi.ReasonInvalidPacket, append(frame(8, 0), honest[:11]...)},
		{"IPv6 header cut off", abi.ReasonInvalidPacket, append(frame(0x86, 0xdd), 0x60, 0, 0, 0, 0, 0, 17, 64, 1, 2, 3)},
		{"nothing behind the Ethernet header", abi.ReasonInvalidPacket, append(frame(8, 0), 0x45)},
		{"datagram cut off", abi.ReasonCtTruncated, append(frame(8, 0), honest[:22]...)},
		{"source address of the victim", abi.ReasonInvalidSourceIP, append(frame(8, 0), datagram(victim.link.IPv4, victim.link.IPv4)...)},
		{"source MAC of somebody else", abi.ReasonInvalidSourceMAC, otherMAC},
	} {
		before := n.dropped(t, x.reason)
		liar.sendFrame(t, x.frame)
		eventually(t, x.what+" is a drop: "+abi.ReasonText(x.reason), func() bool { return n.dropped(t, x.reason) == before+1 })
	}
	if err := liar.Call("udp", netip.AddrPortFrom(victim.link.IPv4, echoPort), 100, nstest.Wait); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if got := seen(); got != 1 {
		t.Errorf("the victim sees %d datagrams, want the honest one", got)
	}
}
