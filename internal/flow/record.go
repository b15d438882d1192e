// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"

	pb "github.com/stentor-net/stentor/api/flow"
)

// Record is one observation. It is written once and then only read.
type Record struct {
	Time        int64  // ns since 1970
	Sequence    uint64 // of the CPU that saw it; counts also what was lost
	Source      netip.AddrPort
	Destination netip.AddrPort // ICMP: the ports are type and code
	// Translated is the source after masquerading, or the zero value.
	Translated netip.Addr

	SourceParty, DestinationParty     *Party // nil: nobody known
	SourceService, DestinationService *pb.Service
	Cause                             *Cause     // of verdicts and drops; nil: no policy
	L7                                *pb.Layer7 // of requests and responses; nil: none

	SourceIdentity, DestinationIdentity uint32
	IfIndex                             uint32
	Length                              uint32 // bytes with the L2 header
	Merged                              uint32 // observations that this one stands for besides itself
	Endpoint                            uint16 // of this node, whose policy decided or who sent
	ProxyPort                           uint16
	CPU                                 uint16

	Type      Type
	Verdict   pb.Verdict
	Reason    uint8 // drops: why
	Point     uint8 // traces: abi.Point*
	Trace     pb.TraceReason
	MatchType uint8 // verdicts: Match*
	Protocol  uint8 // IANA number
	TCPFlags  uint8 // as in the header
	Flags     Flags
}

// Type is the kind of monitor event that a record was made of.
type Type uint8

// Types of events; the numbers are those of the monitor.
const (
	TypeDrop    Type = 1
	TypeTrace   Type = 4
	TypeVerdict Type = 5
	TypeSock    Type = 7
	TypeL7      Type = 129
)

// Flags of a record.
type Flags uint8

// What is known of a record beyond its numbers.
const (
	FlagIngress      Flags = 1 << iota // seen as ingress to the endpoint
	FlagEgress                         // seen as egress from it
	FlagReply                          // from the side that did not open the connection
	FlagReplyKnown                     // whether FlagReply means anything
	FlagEncrypted                      // on the wire between nodes
	FlagSourceIsOurs                   // the source is the endpoint
)

// Match types of verdicts: which part of the rule decided.
const (
	MatchNone       = 0
	MatchL3         = 1
	MatchL3L4       = 2
	MatchL4         = 3
	MatchAll        = 4
	MatchL3Protocol = 5
	MatchProtocol   = 6
)

// IANA numbers of protocols.
const (
	protoICMP   = 1
	protoIGMP   = 2
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	protoVRRP   = 112
	protoSCTP   = 132
)

// Cause is what policy said: the objects that allowed or denied, for each
// direction that was judged.
type Cause struct {
	EgressAllowedBy, IngressAllowedBy []*pb.Policy
	EgressDeniedBy, IngressDeniedBy   []*pb.Policy
	Log                               []string // log texts of the rules
}

// isICMP tells whether the ports are type and code.
func (r *Record) isICMP() bool { return r.Protocol == protoICMP || r.Protocol == protoICMPv6 }

// reply tells whether the record is of the answering side; known is false where
// nobody can say.
func (r *Record) reply() (reply, known bool) {
	return r.Flags&FlagReply != 0, r.Flags&FlagReplyKnown != 0
}

// direction is seen from the endpoint whose policy judges.
func (r *Record) direction() pb.TrafficDirection {
	switch {
	case r.Flags&FlagIngress != 0:
		return pb.TrafficDirection_INGRESS
	case r.Flags&FlagEgress != 0:
		return pb.TrafficDirection_EGRESS
	}
	return pb.TrafficDirection_TRAFFIC_DIRECTION_UNKNOWN
}
