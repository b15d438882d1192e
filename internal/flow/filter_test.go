// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"strings"
	"testing"

	pb "github.com/stentor-net/stentor/api/flow"
)

var scope = Scope{Node: "prod/node1", Cluster: "prod", Labels: []string{"zone=a"}, UUID: func(r *Record) string { return "u1" },
	Interface: func(i uint32) string { return map[uint32]string{7: "eth0"}[i] }}

// sample is a request of xwing to deathstar that policy denied.
func sample() *Record {
	return &Record{
		Time: 1, Source: netip.MustParseAddrPort("10.0.1.5:40000"), Destination: netip.MustParseAddrPort("10.0.2.7:80"),
		SourceParty:        NewParty(&pb.Endpoint{Namespace: "default", PodName: "xwing-1", ClusterName: "prod", Labels: []string{"k8s:org=alliance", "k8s:class=xwing"}, Workloads: []*pb.Workload{{Name: "xwing", Kind: "Deployment"}}}, nil, "node1"),
		DestinationParty:   NewParty(&pb.Endpoint{Namespace: "empire", PodName: "deathstar-9", Labels: []string{"k8s:org=empire", "reserved:x"}}, []string{"deathstar.example.com"}, ""),
		DestinationService: &pb.Service{Namespace: "empire", Name: "deathstar"},
		SourceIdentity:     300, DestinationIdentity: 400, IfIndex: 7, Protocol: protoTCP, TCPFlags: 2,
		Type: TypeDrop, Verdict: pb.Verdict_DROPPED, Reason: 133, Flags: FlagEgress | FlagReplyKnown,
	}
}

func TestEveryFieldOfAFilterSelects(t *testing.T) {
	l7 := sample()
	l7.Type, l7.Verdict = TypeL7, pb.Verdict_FORWARDED
	l7.L7 = &pb.Layer7{Record: &pb.Layer7_Http{Http: &pb.HTTP{Code: 403, Method: "PUT", Url: "http://deathstar/v1/exhaust-port?x=1", Headers: []*pb.HTTPHeader{{Key: "X-Has", Value: "1"}}}}}
	dns := sample()
	dns.L7 = &pb.Layer7{Record: &pb.Layer7_Dns{Dns: &pb.DNS{Query: "a.example.com."}}}
	for name, c := range map[string]struct {
		r       *Record
		yes, no *pb.FlowFilter
	}{
		"source ip":      {sample(), &pb.FlowFilter{SourceIp: []string{"10.0.9.9", "10.0.1.5"}}, &pb.FlowFilter{SourceIp: []string{"10.0.2.7"}}},
		"prefix":         {sample(), &pb.FlowFilter{DestinationIp: []string{"10.0.2.0/24"}}, &pb.FlowFilter{DestinationIp: []string{"10.0.1.0/24"}}},
		"pod":            {sample(), &pb.FlowFilter{SourcePod: []string{"xwing"}}, &pb.FlowFilter{SourcePod: []string{"other/xwing"}}},
		"namespace":      {sample(), &pb.FlowFilter{DestinationPod: []string{"empire/"}}, &pb.FlowFilter{DestinationPod: []string{"default/"}}},
		"any namespace":  {sample(), &pb.FlowFilter{DestinationPod: []string{"/deathstar"}}, &pb.FlowFilter{DestinationPod: []string{"/star"}}},
		"fqdn":           {sample(), &pb.FlowFilter{DestinationFqdn: []string{"*.example.com"}}, &pb.FlowFilter{DestinationFqdn: []string{"example.com"}}},
		"label":          {sample(), &pb.FlowFilter{SourceLabel: []string{"k8s:org=alliance,class"}}, &pb.FlowFilter{SourceLabel: []string{"reserved:org"}}},
		"label set":      {sample(), &pb.FlowFilter{SourceLabel: []string{"org in (alliance, rebels)"}}, &pb.FlowFilter{SourceLabel: []string{"org notin (alliance)"}}},
		"service":        {sample(), &pb.FlowFilter{DestinationService: []string{"empire/death"}}, &pb.FlowFilter{SourceService: []string{"empire/death"}}},
		"workload":       {sample(), &pb.FlowFilter{SourceWorkload: []*pb.Workload{{Kind: "Deployment"}}}, &pb.FlowFilter{SourceWorkload: []*pb.Workload{{Name: "ywing"}}}},
		"cluster":        {sample(), &pb.FlowFilter{SourceClusterName: []string{"prod"}}, &pb.FlowFilter{SourceClusterName: []string{"test"}}},
		"direction":      {sample(), &pb.FlowFilter{TrafficDirection: []pb.TrafficDirection{pb.TrafficDirection_EGRESS}}, &pb.FlowFilter{TrafficDirection: []pb.TrafficDirection{pb.TrafficDirection_INGRESS}}},
		"verdict":        {sample(), &pb.FlowFilter{Verdict: []pb.Verdict{pb.Verdict_DROPPED}}, &pb.FlowFilter{Verdict: []pb.Verdict{pb.Verdict_FORWARDED}}},
		"reason":         {sample(), &pb.FlowFilter{DropReasonDesc: []pb.DropReason{pb.DropReason_POLICY_DENIED}}, &pb.FlowFilter{DropReasonDesc: []pb.DropReason{pb.DropReason_POLICY_DENY}}},
		"interface":      {sample(), &pb.FlowFilter{Interface: []*pb.NetworkInterface{{Name: "eth0"}}}, &pb.FlowFilter{Interface: []*pb.NetworkInterface{{Name: "eth1"}}}},
		"event type":     {sample(), &pb.FlowFilter{EventType: []*pb.EventTypeFilter{{Type: 1, MatchSubType: true, SubType: 133}}}, &pb.FlowFilter{EventType: []*pb.EventTypeFilter{{Type: 1, MatchSubType: true, SubType: 134}}}},
		"protocol":       {sample(), &pb.FlowFilter{Protocol: []string{"TCP"}}, &pb.FlowFilter{Protocol: []string{"udp", "icmp"}}},
		"port":           {sample(), &pb.FlowFilter{DestinationPort: []string{"80"}}, &pb.FlowFilter{SourcePort: []string{"80"}}},
		"port range":     {sample(), &pb.FlowFilter{SourcePort: []string{"39999-40001"}}, &pb.FlowFilter{SourcePort: []string{"1-1023"}}},
		"reply":          {sample(), &pb.FlowFilter{Reply: []bool{false}}, &pb.FlowFilter{Reply: []bool{true}}},
		"identity":       {sample(), &pb.FlowFilter{SourceIdentity: []uint32{300}}, &pb.FlowFilter{DestinationIdentity: []uint32{300}}},
		"tcp flags":      {sample(), &pb.FlowFilter{TcpFlags: []*pb.TCPFlags{{SYN: true}}}, &pb.FlowFilter{TcpFlags: []*pb.TCPFlags{{SYN: true, ACK: true}}}},
		"node":           {sample(), &pb.FlowFilter{NodeName: []string{"prod/node*"}}, &pb.FlowFilter{NodeName: []string{"node2"}}},
		"node labels":    {sample(), &pb.FlowFilter{NodeLabels: []string{"zone=a"}}, &pb.FlowFilter{NodeLabels: []string{"zone=b"}}},
		"ip version":     {sample(), &pb.FlowFilter{IpVersion: []pb.IPVersion{pb.IPVersion_IPv4}}, &pb.FlowFilter{IpVersion: []pb.IPVersion{pb.IPVersion_IPv6}}},
		"uuid":           {sample(), &pb.FlowFilter{Uuid: []string{"u1"}}, &pb.FlowFilter{Uuid: []string{"u2"}}},
		"encrypted":      {sample(), &pb.FlowFilter{Encrypted: []bool{false}}, &pb.FlowFilter{Encrypted: []bool{true}}},
		"http status":    {l7, &pb.FlowFilter{HttpStatusCode: []string{"4+"}}, &pb.FlowFilter{HttpStatusCode: []string{"404"}}},
		"http method":    {l7, &pb.FlowFilter{HttpMethod: []string{"put"}}, &pb.FlowFilter{HttpMethod: []string{"GET"}}},
		"http path":      {l7, &pb.FlowFilter{HttpPath: []string{"^/v1/exhaust-port$"}}, &pb.FlowFilter{HttpPath: []string{"^/v2"}}},
		"http url":       {l7, &pb.FlowFilter{HttpUrl: []string{`\?x=1$`}}, &pb.FlowFilter{HttpUrl: []string{"^https:"}}},
		"http header":    {l7, &pb.FlowFilter{HttpHeader: []*pb.HTTPHeader{{Key: "x-has", Value: "1"}}}, &pb.FlowFilter{HttpHeader: []*pb.HTTPHeader{{Key: "x-has", Value: "2"}}}},
		"l7 protocol":    {l7, &pb.FlowFilter{Protocol: []string{"http"}}, &pb.FlowFilter{Protocol: []string{"dns"}}},
		"dns query":      {dns, &pb.FlowFilter{DnsQuery: []string{"example"}}, &pb.FlowFilter{DnsQuery: []string{"^example"}}},
		"all fields":     {sample(), &pb.FlowFilter{SourcePod: []string{"xwing"}, DestinationPort: []string{"80"}}, &pb.FlowFilter{SourcePod: []string{"xwing"}, DestinationPort: []string{"81"}}},
		"trace id":       {sample(), &pb.FlowFilter{}, &pb.FlowFilter{TraceId: []string{"1"}}},
		"translated":     {sample(), &pb.FlowFilter{}, &pb.FlowFilter{SourceIpXlated: []string{"10.0.0.1"}}},
		"without a port": {&Record{Protocol: protoICMP, Source: netip.MustParseAddrPort("10.0.0.1:8")}, &pb.FlowFilter{Protocol: []string{"icmp"}}, &pb.FlowFilter{SourcePort: []string{"8"}}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, list := range []bool{true, false} { // as allow list and as deny list
				for want, filter := range map[bool]*pb.FlowFilter{true: c.yes, false: c.no} {
					allow, deny := []*pb.FlowFilter{filter}, []*pb.FlowFilter(nil)
					if !list {
						allow, deny = deny, allow
					}
					f, err := NewFilter(allow, deny, scope)
					if err != nil {
						t.Fatal(err)
					}
					if got := f.Match(c.r); got != (want == list) {
						t.Errorf("filter %v, as allow list %v: passes = %v", filter, list, got)
					}
				}
			}
		})
	}
}

func TestAFilterThatCannotBeUnderstoodIsNamed(t *testing.T) {
	for want, f := range map[string]*pb.FlowFilter{
		`whitelist[1]: source_ip: "10.0.0": is no address`:           {SourceIp: []string{"10.0.0"}},
		`whitelist[1]: destination_ip: "10.0.0.0/33": is no prefix`:  {DestinationIp: []string{"10.0.0.0/33"}},
		`whitelist[1]: source_port: "http": is no port`:              {SourcePort: []string{"http"}},
		`whitelist[1]: destination_port: "9-3": is no port`:          {DestinationPort: []string{"9-3"}},
		`whitelist[1]: protocol: "tpc": is unknown`:                  {Protocol: []string{"tpc"}},
		`whitelist[1]: source_fqdn: "a b": is no name`:               {SourceFqdn: []string{"a b"}},
		`whitelist[1]: destination_label: "=": `:                     {DestinationLabel: []string{"="}},
		`whitelist[1]: http_path: "(": `:                             {HttpPath: []string{"("}},
		`whitelist[1]: http_status_code: "abc": is no status`:        {HttpStatusCode: []string{"abc"}},
		`whitelist[1]: node_name: "[": is no pattern`:                {NodeName: []string{"["}},
		`whitelist[1]: experimental.cel_expression: expressions are`: {Experimental: &pb.FlowFilter_Experimental{CelExpression: []string{"true"}}},
	} {
		_, err := NewFilter([]*pb.FlowFilter{{}, f}, nil, scope)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: %v, want %s…", f, err, want)
		}
	}
}

func FuzzNewFilter(f *testing.F) {
	f.Add("10.0.0.0/8", "default/x", "a in (b)", "80-90", "^/x$", "4+", "prod/*")
	f.Fuzz(func(t *testing.T, ip, pod, label, port, path, code, node string) {
		filter, err := NewFilter([]*pb.FlowFilter{{
			SourceIp: []string{ip}, SourcePod: []string{pod}, DestinationLabel: []string{label}, DestinationPort: []string{port}, HttpPath: []string{path},
			HttpStatusCode: []string{code}, NodeName: []string{node}, DestinationFqdn: []string{pod}, DestinationService: []string{pod}, DnsQuery: []string{path},
		}}, nil, scope)
		if err == nil {
			filter.Match(sample())
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	f, err := NewFilter([]*pb.FlowFilter{{SourcePod: []string{"default/ywing"}}, {DestinationLabel: []string{"org=rebels"}}}, nil, scope)
	if err != nil {
		b.Fatal(err)
	}
	r := sample()
	b.ReportAllocs()
	for b.Loop() {
		f.Match(r)
	}
}
