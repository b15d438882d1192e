// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	flowpb "github.com/stentor-net/stentor/api/flow"
)

// filterList is every flag that selects flows.
var filterList = slices.Concat(
	ends("pod", "", "namespace/pod, or the beginning of its name", add(func(f *flowpb.FlowFilter) *[]string { return &f.SourcePod }), add(func(f *flowpb.FlowFilter) *[]string { return &f.DestinationPod })),
	ends("namespace", "n", "namespace of a pod", inNamespace(func(f *flowpb.FlowFilter) *[]string { return &f.SourcePod }), inNamespace(func(f *flowpb.FlowFilter) *[]string { return &f.DestinationPod })),
	ends("ip", "", "address or prefix", add(func(f *flowpb.FlowFilter) *[]string { return &f.SourceIp }), add(func(f *flowpb.FlowFilter) *[]string { return &f.DestinationIp })),
	ends("label", "l", "selector of labels, such as app=web,tier!=db", add(func(f *flowpb.FlowFilter) *[]string { return &f.SourceLabel }), add(func(f *flowpb.FlowFilter) *[]string { return &f.DestinationLabel })),
	ends("fqdn", "", "DNS name, with * as wildcard", add(func(f *flowpb.FlowFilter) *[]string { return &f.SourceFqdn }), add(func(f *flowpb.FlowFilter) *[]string { return &f.DestinationFqdn })),
	ends("service", "", "namespace/service, or the beginning of its name", add(func(f *flowpb.FlowFilter) *[]string { return &f.SourceService }), add(func(f *flowpb.FlowFilter) *[]string { return &f.DestinationService })),
	ends("port", "", "port, or a range such as 8000-8999", add(func(f *flowpb.FlowFilter) *[]string { return &f.SourcePort }), add(func(f *flowpb.FlowFilter) *[]string { return &f.DestinationPort })),
	ends("cluster", "", "cluster", add(func(f *flowpb.FlowFilter) *[]string { return &f.SourceClusterName }), add(func(f *flowpb.FlowFilter) *[]string { return &f.DestinationClusterName })),
	ends("workload", "", "name or Kind/name of the pod's workload",
		workload(func(f *flowpb.FlowFilter, w *flowpb.Workload) { f.SourceWorkload = append(f.SourceWorkload, w) }),
		workload(func(f *flowpb.FlowFilter, w *flowpb.Workload) {
			f.DestinationWorkload = append(f.DestinationWorkload, w)
		})),
	ends("identity", "", "number or name of an identity",
		byIdentity(func(f *flowpb.FlowFilter, n uint32) { f.SourceIdentity = append(f.SourceIdentity, n) }),
		byIdentity(func(f *flowpb.FlowFilter, n uint32) { f.DestinationIdentity = append(f.DestinationIdentity, n) })),
	[]filterFlag{
		words("protocol", "tcp, udp, sctp, icmp, icmpv4, icmpv6, vrrp, igmp, http, dns or kafka", func(f *flowpb.FlowFilter) *[]string { return &f.Protocol }, "tcp", "udp", "sctp", "icmp", "icmpv4", "icmpv6", "http", "dns", "kafka"),
		one("verdict", "what became of it: "+strings.Join(names(flowpb.Verdict_value), ", "),
			enumerated(flowpb.Verdict_value, func(f *flowpb.FlowFilter, v flowpb.Verdict) { f.Verdict = append(f.Verdict, v) }), names(flowpb.Verdict_value)...),
		one("drop-reason-desc", "why it was dropped, such as POLICY_DENIED",
			enumerated(flowpb.DropReason_value, func(f *flowpb.FlowFilter, v flowpb.DropReason) { f.DropReasonDesc = append(f.DropReasonDesc, v) }), names(flowpb.DropReason_value)...),
		one("traffic-direction", "INGRESS or EGRESS, seen from the pod that is judged",
			enumerated(flowpb.TrafficDirection_value, func(f *flowpb.FlowFilter, v flowpb.TrafficDirection) {
				f.TrafficDirection = append(f.TrafficDirection, v)
			}), names(flowpb.TrafficDirection_value)...),
		{name: "type", short: "t", usage: "event: drop, trace, policy-verdict, trace-sock, l7, or with a point such as trace:to-endpoint", ways: []func(*flowpb.FlowFilter, string) error{eventType}, choices: []string{"drop", "trace", "policy-verdict", "trace-sock", "l7"}},
		one("reply", "true: only answers; false: only what is none", func(f *flowpb.FlowFilter, v string) error {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("%q is neither true nor false", v)
			}
			f.Reply = append(f.Reply, b)
			return nil
		}, "true", "false"),
		one("tcp-flags", "flags that are set, such as SYN,ACK", tcpFlags),
		words("http-status", "status: three digits, or a beginning such as 4+", func(f *flowpb.FlowFilter) *[]string { return &f.HttpStatusCode }),
		words("http-method", "method of the request", func(f *flowpb.FlowFilter) *[]string { return &f.HttpMethod }),
		words("http-path", "regular expression on the path", func(f *flowpb.FlowFilter) *[]string { return &f.HttpPath }),
		words("http-url", "regular expression on the URL", func(f *flowpb.FlowFilter) *[]string { return &f.HttpUrl }),
		one("http-header", "header as key:value", func(f *flowpb.FlowFilter, v string) error {
			key, value, ok := strings.Cut(v, ":")
			if !ok {
				return fmt.Errorf("%q is not key:value", v)
			}
			f.HttpHeader = append(f.HttpHeader, &flowpb.HTTPHeader{Key: key, Value: strings.TrimSpace(value)})
			return nil
		}),
		words("dns-query", "regular expression on the name that is asked for", func(f *flowpb.FlowFilter) *[]string { return &f.DnsQuery }),
		words("node-name", "node, as name or cluster/name, with * as wildcard", func(f *flowpb.FlowFilter) *[]string { return &f.NodeName }),
		words("node-label", "selector of labels of the node", func(f *flowpb.FlowFilter) *[]string { return &f.NodeLabels }),
		words("uuid", "number of the flow", func(f *flowpb.FlowFilter) *[]string { return &f.Uuid }),
		words("snat-ip", "source address after translation", func(f *flowpb.FlowFilter) *[]string { return &f.SourceIpXlated }),
		one("interface", "name of the device", func(f *flowpb.FlowFilter, v string) error {
			f.Interface = append(f.Interface, &flowpb.NetworkInterface{Name: v})
			return nil
		}),
		words("cel-expression", "expression; not supported by this version's agents", func(f *flowpb.FlowFilter) *[]string {
			if f.Experimental == nil {
				f.Experimental = &flowpb.FlowFilter_Experimental{}
			}
			return &f.Experimental.CelExpression
		}),
	},
)

// ipVersionFlag is what --ipv4 and --ipv6 stand for.
var ipVersionFlag = one("ip-version", "", func(f *flowpb.FlowFilter, v string) error {
	version := flowpb.IPVersion_IPv4
	if v == "6" {
		version = flowpb.IPVersion_IPv6
	}
	f.IpVersion = append(f.IpVersion, version)
	return nil
})

func inNamespace(field func(*flowpb.FlowFilter) *[]string) func(*flowpb.FlowFilter, string) error {
	return func(f *flowpb.FlowFilter, v string) error {
		if v == "" || strings.Contains(v, "/") {
			return fmt.Errorf("%q is no namespace", v)
		}
		for _, have := range *field(f) { // a pod of this namespace says more
			if strings.HasPrefix(have, v+"/") {
				return nil
			}
		}
		return add(field)(f, v+"/")
	}
}

func workload(put func(*flowpb.FlowFilter, *flowpb.Workload)) func(*flowpb.FlowFilter, string) error {
	return func(f *flowpb.FlowFilter, v string) error {
		kind, name, ok := strings.Cut(v, "/")
		if !ok {
			kind, name = "", v
		}
		put(f, &flowpb.Workload{Kind: kind, Name: name})
		return nil
	}
}

// Numbers of monitor events.
var eventTypes = map[string]int32{"drop": 1, "debug": 2, "capture": 3, "trace": 4, "policy-verdict": 5, "trace-sock": 7, "l7": 129, "agent": 130}

// points of traces, by their number in the monitor.
var points = []string{
	"to-endpoint", "to-proxy", "to-host", "to-stack", "to-overlay", "from-endpoint", "from-proxy", "from-host", "from-stack",
	"from-overlay", "from-network", "to-network", "from-crypto", "to-crypto",
}

func eventType(f *flowpb.FlowFilter, v string) error {
	name, sub, hasSub := strings.Cut(v, ":")
	t := &flowpb.EventTypeFilter{MatchSubType: hasSub}
	n, ok := eventTypes[name]
	if !ok {
		if i := slices.Index(points, v); i >= 0 { // a point alone means a trace there
			n, ok, hasSub, sub = 4, true, true, v
			t.MatchSubType = true
		} else if number, err := strconv.ParseInt(name, 10, 32); err == nil {
			n, ok = int32(number), true
		}
	}
	if !ok {
		return fmt.Errorf("%q is none of drop, trace, policy-verdict, trace-sock, l7, nor a point such as to-endpoint", v)
	}
	t.Type = n
	if hasSub {
		if i := slices.Index(points, sub); i >= 0 && n == 4 {
			t.SubType = int32(i)
		} else if number, err := strconv.ParseInt(sub, 10, 32); err == nil {
			t.SubType = int32(number)
		} else {
			return fmt.Errorf("%q: %s has no %q", v, name, sub)
		}
	}
	f.EventType = append(f.EventType, t)
	return nil
}

func tcpFlags(f *flowpb.FlowFilter, v string) error {
	t := &flowpb.TCPFlags{}
	for name := range strings.SplitSeq(strings.ToUpper(v), ",") {
		switch strings.TrimSpace(name) {
		case "SYN":
			t.SYN = true
		case "ACK":
			t.ACK = true
		case "FIN":
			t.FIN = true
		case "RST":
			t.RST = true
		case "PSH":
			t.PSH = true
		case "URG":
			t.URG = true
		case "ECE":
			t.ECE = true
		case "CWR":
			t.CWR = true
		default:
			return fmt.Errorf("%q is none of SYN, ACK, FIN, RST, PSH, URG, ECE, CWR", name)
		}
	}
	f.TcpFlags = append(f.TcpFlags, t)
	return nil
}
