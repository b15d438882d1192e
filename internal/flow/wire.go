// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pb "github.com/stentor-net/stentor/api/flow"
	"github.com/stentor-net/stentor/internal/abi"
)

// Wire turns records of one node into the words of the flow API.
type Wire struct {
	Node    string   // cluster/name
	Labels  []string // of the node
	Emitter *pb.Emitter
	// Interface names a device of the node; nil or "" if nobody knows.
	Interface func(index uint32) string
}

// Flow is the wire form of a record. Parts of it are shared with other flows
// and must not be changed.
func (w *Wire) Flow(r *Record) *pb.Flow {
	f := &pb.Flow{
		Time: timestamppb.New(timeOf(r.Time)), Uuid: w.UUID(r), Emitter: w.Emitter,
		Verdict: r.Verdict, NodeName: w.Node, NodeLabels: w.Labels, Type: r.kind(),
		IP: r.ip(), L4: r.layer4(), L7: r.L7,
		Source: r.SourceParty.endpoint(r.SourceIdentity), Destination: r.DestinationParty.endpoint(r.DestinationIdentity),
		SourceNames: r.SourceParty.names(), DestinationNames: r.DestinationParty.names(),
		SourceService: r.SourceService, DestinationService: r.DestinationService,
		EventType: r.eventType(), TrafficDirection: r.direction(), TraceReason: r.Trace, ProxyPort: uint32(r.ProxyPort),
	}
	if r.Type == TypeDrop || r.Verdict == pb.Verdict_DROPPED && r.Reason != 0 {
		f.DropReasonDesc = pb.DropReason(r.Reason)
		f.DropReason = uint32(r.Reason) // clients of before read it
	}
	if r.Type == TypeTrace {
		f.TraceObservationPoint = observationPoint(r.Point)
	}
	if r.Type == TypeVerdict {
		f.PolicyMatchType = uint32(r.MatchType)
	}
	if reply, known := r.reply(); known {
		f.IsReply = wrapperspb.Bool(reply)
		f.Reply = reply
	}
	if c := r.Cause; c != nil {
		f.EgressAllowedBy, f.IngressAllowedBy = c.EgressAllowedBy, c.IngressAllowedBy
		f.EgressDeniedBy, f.IngressDeniedBy = c.EgressDeniedBy, c.IngressDeniedBy
		f.PolicyLog = c.Log
	}
	if r.IfIndex != 0 {
		f.Interface = &pb.NetworkInterface{Index: r.IfIndex}
		if w.Interface != nil {
			f.Interface.Name = w.Interface(r.IfIndex)
		}
	}
	if r.Merged > 0 {
		n := r.Merged + 1
		f.Aggregate = &pb.Aggregate{}
		switch r.direction() {
		case pb.TrafficDirection_INGRESS:
			f.Aggregate.IngressFlowCount = n
		case pb.TrafficDirection_EGRESS:
			f.Aggregate.EgressFlowCount = n
		default:
			f.Aggregate.UnknownDirectionFlowCount = n
		}
	}
	f.Summary = summary(f)
	return f
}

// UUID is the same each time the same observation is asked for (RFC 9562, version 8).
func (w *Wire) UUID(r *Record) string {
	var b [16]byte
	h := fnv.New64a()
	h.Write([]byte(w.Node))
	binary.BigEndian.PutUint64(b[:], uint64(r.Time))
	binary.BigEndian.PutUint64(b[8:], h.Sum64()^r.Sequence<<12^uint64(r.CPU))
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

func (r *Record) kind() pb.FlowType {
	switch r.Type {
	case TypeL7:
		return pb.FlowType_L7
	case TypeSock:
		return pb.FlowType_SOCK
	}
	return pb.FlowType_L3_L4
}

func (r *Record) eventType() *pb.CiliumEventType {
	t := &pb.CiliumEventType{Type: int32(r.Type)}
	switch r.Type {
	case TypeDrop:
		t.SubType = int32(r.Reason)
	case TypeTrace:
		t.SubType = int32(r.Point)
	}
	return t
}

// observationPoint: the number 0 of the monitor is 101 on the wire, where 0 means unknown.
func observationPoint(point uint8) pb.TraceObservationPoint {
	if point == abi.PointToPod {
		return pb.TraceObservationPoint_TO_ENDPOINT
	}
	return pb.TraceObservationPoint(point)
}

func (r *Record) ip() *pb.IP {
	if !r.Source.Addr().IsValid() && !r.Destination.Addr().IsValid() {
		return nil
	}
	ip := &pb.IP{
		Source: text(r.Source.Addr()), Destination: text(r.Destination.Addr()), SourceXlated: text(r.Translated),
		IpVersion: pb.IPVersion_IPv6, Encrypted: r.Flags&FlagEncrypted != 0,
	}
	if r.Source.Addr().Is4() || r.Destination.Addr().Is4() {
		ip.IpVersion = pb.IPVersion_IPv4
	}
	return ip
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (r *Record) layer4() *pb.Layer4 {
	source, destination := uint32(r.Source.Port()), uint32(r.Destination.Port())
	switch r.Protocol {
	case protoTCP:
		t := &pb.TCP{SourcePort: source, DestinationPort: destination}
		if r.Type != TypeL7 {
			t.Flags = tcpFlags(r.TCPFlags)
		}
		return &pb.Layer4{Protocol: &pb.Layer4_TCP{TCP: t}}
	case protoUDP:
		return &pb.Layer4{Protocol: &pb.Layer4_UDP{UDP: &pb.UDP{SourcePort: source, DestinationPort: destination}}}
	case protoSCTP:
		return &pb.Layer4{Protocol: &pb.Layer4_SCTP{SCTP: &pb.SCTP{SourcePort: source, DestinationPort: destination}}}
	case protoICMP:
		return &pb.Layer4{Protocol: &pb.Layer4_ICMPv4{ICMPv4: &pb.ICMPv4{Type: source, Code: destination}}}
	case protoICMPv6:
		return &pb.Layer4{Protocol: &pb.Layer4_ICMPv6{ICMPv6: &pb.ICMPv6{Type: source, Code: destination}}}
	case protoVRRP:
		return &pb.Layer4{Protocol: &pb.Layer4_VRRP{VRRP: &pb.VRRP{}}}
	case protoIGMP:
		return &pb.Layer4{Protocol: &pb.Layer4_IGMP{IGMP: &pb.IGMP{}}}
	}
	return nil
}

func tcpFlags(b uint8) *pb.TCPFlags {
	return &pb.TCPFlags{
		FIN: b&1 != 0, SYN: b&2 != 0, RST: b&4 != 0, PSH: b&8 != 0, ACK: b&16 != 0, URG: b&32 != 0, ECE: b&64 != 0, CWR: b&128 != 0,
	}
}

// tcpFlagNames in the order that people read them.
var tcpFlagNames = []struct {
	name string
	get  func(*pb.TCPFlags) bool
}{
	{"SYN", (*pb.TCPFlags).GetSYN}, {"ACK", (*pb.TCPFlags).GetACK}, {"RST", (*pb.TCPFlags).GetRST}, {"FIN", (*pb.TCPFlags).GetFIN},
	{"PSH", (*pb.TCPFlags).GetPSH}, {"URG", (*pb.TCPFlags).GetURG}, {"ECE", (*pb.TCPFlags).GetECE}, {"CWR", (*pb.TCPFlags).GetCWR},
	{"NS", (*pb.TCPFlags).GetNS},
}

// TCPFlagsText names the flags that are set, such as "SYN, ACK".
func TCPFlagsText(t *pb.TCPFlags) string {
	var set []string
	for _, f := range tcpFlagNames {
		if f.get(t) {
			set = append(set, f.name)
		}
	}
	return strings.Join(set, ", ")
}

// summary is one phrase about the transport.
func summary(f *pb.Flow) string {
	switch l4 := f.GetL4(); {
	case l4.GetTCP().GetFlags() != nil:
		return "TCP Flags: " + TCPFlagsText(l4.GetTCP().GetFlags())
	case l4.GetTCP() != nil:
		return "TCP"
	case l4.GetUDP() != nil:
		return "UDP"
	case l4.GetSCTP() != nil:
		return "SCTP"
	case l4.GetICMPv4() != nil:
		return "ICMPv4 " + ICMPText(l4.GetICMPv4().GetType(), l4.GetICMPv4().GetCode(), false)
	case l4.GetICMPv6() != nil:
		return "ICMPv6 " + ICMPText(l4.GetICMPv6().GetType(), l4.GetICMPv6().GetCode(), true)
	}
	return ""
}
