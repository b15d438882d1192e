// SPDX-License-Identifier: Apache-2.0

package test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// message is a packet to be built; the zero value of a field leaves it out.
type message struct {
	srcMAC, dstMAC [6]byte
	src, dst       string
	sport, dport   uint16
	flags          string // TCP: letters of S A F R P
	udp, icmp      bool
	icmpType       uint8
	icmpID         uint16
	inner          []byte // ICMP error: packet from its IP header on
	payload        int
	ttl            uint8
	// IPv4
	options  bool
	fragment uint16 // offset in units of 8 bytes
	more     bool
	dontFrag bool
	id       uint16
	// IPv6
	extensions int // hop-by-hop headers
}

var serialize = gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}

func (m message) six() bool { return strings.Contains(m.src, ":") }

// bytes builds the frame.
func (m message) bytes(t testing.TB) []byte {
	t.Helper()
	if m.ttl == 0 {
		m.ttl = 64
	}
	stack := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: m.srcMAC[:], DstMAC: m.dstMAC[:], EthernetType: m.etherType()}}
	network, checksum := m.network()
	stack = append(stack, network...)
	if m.fragment == 0 {
		stack = append(stack, m.transport(checksum)...)
	}
	data := make([]byte, m.payload)
	for i := range data {
		data[i] = byte(i)
	}
	stack = append(stack, gopacket.Payload(append(append([]byte(nil), m.inner...), data...)))
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, serialize, stack...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (m message) etherType() layers.EthernetType {
	if m.six() {
		return layers.EthernetTypeIPv6
	}
	return layers.EthernetTypeIPv4
}

func (m message) protocol() layers.IPProtocol {
	switch {
	case m.udp:
		return layers.IPProtocolUDP
	case m.icmp && m.six():
		return layers.IPProtocolICMPv6
	case m.icmp:
		return layers.IPProtocolICMPv4
	}
	return layers.IPProtocolTCP
}

func (m message) network() ([]gopacket.SerializableLayer, gopacket.NetworkLayer) {
	if !m.six() {
		ip := &layers.IPv4{Version: 4, TTL: m.ttl, Protocol: m.protocol(), SrcIP: ip(m.src), DstIP: ip(m.dst), FragOffset: m.fragment, Id: m.id}
		if m.more {
			ip.Flags |= layers.IPv4MoreFragments
		}
		if m.dontFrag {
			ip.Flags |= layers.IPv4DontFragment
		}
		if m.options {
			ip.Options = []layers.IPv4Option{{OptionType: 7, OptionLength: 7, OptionData: []byte{4, 0, 0, 0, 0}}, {OptionType: 0, OptionLength: 1}}
		}
		return []gopacket.SerializableLayer{ip}, ip
	}
	ip6 := &layers.IPv6{Version: 6, HopLimit: m.ttl, NextHeader: m.protocol(), SrcIP: ip(m.src), DstIP: ip(m.dst)}
	list := []gopacket.SerializableLayer{ip6}
	var raw []byte
	for i := 0; i < m.extensions; i++ {
		next := byte(layers.IPProtocolIPv6Destination)
		if i == m.extensions-1 {
			next = byte(m.protocol())
		}
		raw = append(raw, next, 0, 1, 4, 0, 0, 0, 0)
	}
	if m.extensions > 0 {
		ip6.NextHeader = layers.IPProtocolIPv6Destination
	}
	if m.fragment != 0 || m.more {
		word := m.fragment << 3
		if m.more {
			word |= 1
		}
		raw = append(raw, byte(m.protocol()), 0, byte(word>>8), byte(word), 0, 0, byte(m.id>>8), byte(m.id))
		ip6.NextHeader = layers.IPProtocolIPv6Fragment
	}
	if raw != nil {
		list = append(list, gopacket.Payload(raw))
	}
	return list, ip6
}

func (m message) transport(network gopacket.NetworkLayer) []gopacket.SerializableLayer {
	switch {
	case m.udp:
		l := &layers.UDP{SrcPort: layers.UDPPort(m.sport), DstPort: layers.UDPPort(m.dport)}
		l.SetNetworkLayerForChecksum(network)
		return []gopacket.SerializableLayer{l}
	case m.icmp && m.six():
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(m.icmpType, 0)}
		l.SetNetworkLayerForChecksum(network)
		return []gopacket.SerializableLayer{l, gopacket.Payload{byte(m.icmpID >> 8), byte(m.icmpID), 0, 1}}
	case m.icmp:
		return []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(m.icmpType, 0), Id: m.icmpID, Seq: 1}}
	}
	l := &layers.TCP{SrcPort: layers.TCPPort(m.sport), DstPort: layers.TCPPort(m.dport), Window: 1000,
		SYN: strings.Contains(m.flags, "S"), ACK: strings.Contains(m.flags, "A"), FIN: strings.Contains(m.flags, "F"),
		RST: strings.Contains(m.flags, "R"), PSH: strings.Contains(m.flags, "P")}
	l.SetNetworkLayerForChecksum(network)
	return []gopacket.SerializableLayer{l}
}

// reply is the packet that answers m: sides exchanged, TCP flags as given.
func (m message) reply(flags string) message {
	r := m
	r.src, r.dst, r.sport, r.dport, r.flags = m.dst, m.src, m.dport, m.sport, flags
	if m.icmp {
		r.icmpType = 0
		if m.six() {
			r.icmpType = 129
		}
	}
	return r
}

func ip(s string) net.IP { return netip.MustParseAddr(s).AsSlice() }

// decoded is a frame taken apart again.
type decoded struct {
	srcMAC, dstMAC string
	src, dst       string
	sport, dport   uint16
	ttl            uint8
	raw            []byte
}

func decode(t testing.TB, b []byte) decoded {
	t.Helper()
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	d := decoded{raw: b}
	if l, ok := p.LinkLayer().(*layers.Ethernet); ok {
		d.srcMAC, d.dstMAC = l.SrcMAC.String(), l.DstMAC.String()
	}
	switch l := p.NetworkLayer().(type) {
	case *layers.IPv4:
		d.src, d.dst, d.ttl = l.SrcIP.String(), l.DstIP.String(), l.TTL
	case *layers.IPv6:
		d.src, d.dst, d.ttl = l.SrcIP.String(), l.DstIP.String(), l.HopLimit
	default:
		t.Fatalf("no IP in %x", b)
	}
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		d.sport, d.dport = uint16(l.SrcPort), uint16(l.DstPort)
	case *layers.UDP:
		d.sport, d.dport = uint16(l.SrcPort), uint16(l.DstPort)
	}
	return d
}

// checkSums fails if a checksum in the frame is wrong.
func checkSums(t testing.TB, b []byte) {
	t.Helper()
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	stack := []gopacket.SerializableLayer{p.LinkLayer().(*layers.Ethernet)}
	stack = append(stack, p.NetworkLayer().(gopacket.SerializableLayer))
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		l.SetNetworkLayerForChecksum(p.NetworkLayer())
		stack = append(stack, l)
	case *layers.UDP:
		l.SetNetworkLayerForChecksum(p.NetworkLayer())
		stack = append(stack, l)
	default:
		if l, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); ok {
			l.SetNetworkLayerForChecksum(p.NetworkLayer())
			stack = append(stack, l, gopacket.Payload(l.Payload))
		}
		if l, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
			stack = append(stack, l, gopacket.Payload(l.Payload))
		}
	}
	if l := p.TransportLayer(); l != nil {
		stack = append(stack, gopacket.Payload(l.LayerPayload()))
	}
	out := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(out, serialize, stack...); err != nil {
		t.Fatal(err)
	}
	if got := out.Bytes(); string(got) != string(b[:len(got)]) {
		t.Errorf("checksums of\n%x are wrong, with right ones it is\n%x", b, got)
	}
}
