// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"fmt"
	"time"
)

// Names of ICMP types (IANA, "ICMP Parameters" and "ICMPv6 Parameters").
var (
	icmp4Names = map[uint32]string{
		0: "EchoReply", 3: "DestinationUnreachable", 4: "SourceQuench", 5: "Redirect", 8: "EchoRequest", 9: "RouterAdvertisement",
		10: "RouterSolicitation", 11: "TimeExceeded", 12: "ParameterProblem", 13: "TimestampRequest", 14: "TimestampReply",
		15: "InfoRequest", 16: "InfoReply", 17: "AddressMaskRequest", 18: "AddressMaskReply",
	}
	icmp6Names = map[uint32]string{
		1: "DestinationUnreachable", 2: "PacketTooBig", 3: "TimeExceeded", 4: "ParameterProblem", 128: "EchoRequest", 129: "EchoReply",
		130: "MLDv1MulticastListenerQueryMessage", 131: "MLDv1MulticastListenerReportMessage", 132: "MLDv1MulticastListenerDoneMessage",
		133: "RouterSolicitation", 134: "RouterAdvertisement", 135: "NeighborSolicitation", 136: "NeighborAdvertisement", 137: "Redirect",
		143: "MLDv2MulticastListenerReportMessageV2",
	}
	unreachable4 = map[uint32]string{0: "Net", 1: "Host", 2: "Protocol", 3: "Port", 4: "FragmentationNeeded", 13: "CommAdminProhibited"}
	unreachable6 = map[uint32]string{0: "NoRouteToDst", 1: "AdminProhibited", 3: "Address", 4: "Port"}
)

// ICMPText names a type, and the code where it says something.
func ICMPText(kind, code uint32, v6 bool) string {
	names, codes, unreachable := icmp4Names, unreachable4, uint32(3)
	if v6 {
		names, codes, unreachable = icmp6Names, unreachable6, 1
	}
	name, ok := names[kind]
	if !ok {
		return fmt.Sprintf("Type %d(%d)", kind, code)
	}
	if detail, ok := codes[code]; ok && kind == unreachable {
		return name + "(" + detail + ")"
	}
	if code != 0 {
		return fmt.Sprintf("%s(%d)", name, code)
	}
	return name
}

func timeOf(ns int64) time.Time { return time.Unix(0, ns) }
