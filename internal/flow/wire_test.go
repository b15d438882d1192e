// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "github.com/stentor-net/stentor/api/flow"
	_ "github.com/stentor-net/stentor/api/observer"
	_ "github.com/stentor-net/stentor/api/peer"
	_ "github.com/stentor-net/stentor/api/relay"
	"github.com/stentor-net/stentor/internal/abi"
)

func TestADropIsToldInTheWordsOfTheFlowAPI(t *testing.T) {
	r := sample()
	r.Cause = &Cause{EgressDeniedBy: []*pb.Policy{{Name: "deny", Namespace: "default", Kind: "CiliumNetworkPolicy"}}}
	w := &Wire{Node: "prod/node1"}
	f := w.Flow(r)
	for what, ok := range map[string]bool{
		"verdict":   f.GetVerdict() == pb.Verdict_DROPPED,
		"reason":    f.GetDropReasonDesc() == pb.DropReason_POLICY_DENIED,
		"event":     f.GetEventType().GetType() == 1 && f.GetEventType().GetSubType() == 133,
		"source":    f.GetSource().GetPodName() == "xwing-1" && f.GetIP().GetSource() == "10.0.1.5",
		"ports":     f.GetL4().GetTCP().GetSourcePort() == 40000 && f.GetL4().GetTCP().GetDestinationPort() == 80,
		"flags":     f.GetL4().GetTCP().GetFlags().GetSYN() && !f.GetL4().GetTCP().GetFlags().GetACK(),
		"reply":     f.GetIsReply() != nil && !f.GetIsReply().GetValue(),
		"names":     strings.Join(f.GetDestinationNames(), " ") == "deathstar.example.com",
		"service":   f.GetDestinationService().GetName() == "deathstar",
		"cause":     f.GetEgressDeniedBy()[0].GetName() == "deny",
		"node":      f.GetNodeName() == "prod/node1",
		"direction": f.GetTrafficDirection() == pb.TrafficDirection_EGRESS,
		"summary":   f.GetSummary() == "TCP Flags: SYN",
		"uuid":      f.GetUuid() == w.Flow(r).GetUuid() && len(f.GetUuid()) == 36,
	} {
		if !ok {
			t.Errorf("%s is wrong: %s", what, protojson.Format(f))
		}
	}
	other := sample()
	other.Sequence++
	if w.Flow(other).GetUuid() == f.GetUuid() {
		t.Error("two records have the same uuid")
	}
}

func TestATraceToAPodIsPoint101(t *testing.T) {
	r := &Record{Type: TypeTrace, Point: abi.PointToPod, Verdict: pb.Verdict_FORWARDED, Protocol: protoICMPv6,
		Source: netip.MustParseAddrPort("[fd00::1]:128"), Destination: netip.MustParseAddrPort("[fd00::2]:0")}
	f := (&Wire{}).Flow(r)
	if f.GetTraceObservationPoint() != pb.TraceObservationPoint_TO_ENDPOINT || f.GetEventType().GetSubType() != 0 {
		t.Errorf("observation point %v, subtype %d", f.GetTraceObservationPoint(), f.GetEventType().GetSubType())
	}
	if f.GetIP().GetIpVersion() != pb.IPVersion_IPv6 || f.GetL4().GetICMPv6().GetType() != 128 || f.GetIsReply() != nil {
		t.Errorf("not an echo request: %s", protojson.Format(f))
	}
}

func TestEveryReasonOfTheDatapathHasItsNumberInTheFlowAPI(t *testing.T) {
	const own = 208 // this and up are ours: clients show the number
	reasons := 0
	for n, text := range abi.Reasons {
		if n >= own {
			continue
		}
		reasons++
		if _, ok := pb.DropReason_name[int32(n)]; !ok {
			t.Errorf("reason %d (%s) is not in the flow API", n, text)
		}
	}
	if reasons < 20 {
		t.Errorf("only %d reasons were looked at", reasons)
	}
}

// TestFieldNumbersAreThoseOfTheWireFormat compares with the table of facts.
func TestFieldNumbersAreThoseOfTheWireFormat(t *testing.T) {
	raw, err := os.ReadFile("../../../shared/reference/hubble-wire.md")
	if err != nil {
		t.Skip("no table of field numbers beside the checkout: ", err)
	}
	field := regexp.MustCompile(`^\s+(\d+) (\w+): (repeated )?[\w.]+`)
	var pkg, message string
	fields := 0
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimRight(line, "\n")
		if rest, ok := strings.CutPrefix(line, "## package "); ok {
			pkg, message = rest, ""
			continue
		}
		if rest, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "message "); ok {
			if strings.HasPrefix(line, " ") { // inside of another
				message += "." + rest
			} else {
				message = rest
			}
			continue
		}
		m := field.FindStringSubmatch(line)
		if m == nil || message == "" || pkg == "standalonednsproxy" {
			continue
		}
		if strings.Contains(message, ".") && !strings.HasPrefix(line, "    ") {
			message, _, _ = strings.Cut(message, ".")
		}
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(pkg + "." + message))
		if err != nil {
			t.Fatalf("%s.%s: %v", pkg, message, err)
		}
		fd := d.(protoreflect.MessageDescriptor).Fields().ByName(protoreflect.Name(m[2]))
		if n, _ := strconv.Atoi(m[1]); fd == nil || int(fd.Number()) != n || (m[3] != "") != fd.IsList() {
			t.Errorf("%s.%s.%s should have number %s", pkg, message, m[2], m[1])
		}
		fields++
	}
	if fields < 250 {
		t.Errorf("only %d fields were compared", fields)
	}
}
