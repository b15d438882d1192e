// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"fmt"
	"strconv"
	"strings"

	flowpb "github.com/stentor-net/stentor/api/flow"
)

// ports of one side of a flow; "" where the protocol has none.
func ports(f *flowpb.Flow, source bool) string {
	type hasPorts interface {
		GetSourcePort() uint32
		GetDestinationPort() uint32
	}
	var l4 hasPorts
	switch p := f.GetL4().GetProtocol().(type) {
	case *flowpb.Layer4_TCP:
		l4 = p.TCP
	case *flowpb.Layer4_UDP:
		l4 = p.UDP
	case *flowpb.Layer4_SCTP:
		l4 = p.SCTP
	default:
		return ""
	}
	if source {
		return strconv.Itoa(int(l4.GetSourcePort()))
	}
	return strconv.Itoa(int(l4.GetDestinationPort()))
}

// side names one end: pod, service, DNS name or address, port and identity.
func (p *printer) side(ip string, e *flowpb.Endpoint, service *flowpb.Service, names []string, port string) string {
	name := ip
	if p.o.translate {
		switch {
		case e.GetPodName() != "":
			name = e.GetNamespace() + "/" + e.GetPodName()
		case service.GetName() != "":
			name = service.GetNamespace() + "/" + service.GetName()
		case len(names) > 0:
			name = strings.Join(names, ",")
		}
	}
	if port != "" {
		if strings.Contains(name, ":") { // an IPv6 address
			name = "[" + name + "]"
		}
		name += ":" + port
	}
	if !p.o.identities {
		return name
	}
	return name + " " + who(e)
}

// who is the identity of one end: the name of a reserved one, otherwise its number.
func who(e *flowpb.Endpoint) string {
	for _, l := range e.GetLabels() {
		if name, ok := strings.CutPrefix(l, "reserved:"); ok && e.GetIdentity() < 256 {
			return "(" + name + ")"
		}
	}
	if e.GetIdentity() == 0 {
		return "(unknown)"
	}
	return fmt.Sprintf("(ID:%d)", e.GetIdentity())
}

// kind says what was seen, and where.
func kind(f *flowpb.Flow) string {
	switch f.GetEventType().GetType() {
	case 1:
		if f.GetDropReasonDesc() == 0 {
			return "drop"
		}
		return reason(f)
	case 4:
		if i := int(f.GetEventType().GetSubType()); i < len(points) {
			return points[i]
		}
	case 5:
		match := []string{"none", "L3-Only", "L3-L4", "L4-Only", "all", "L3-Proto", "Proto-Only"}
		text := "policy-verdict"
		if i := int(f.GetPolicyMatchType()); i < len(match) {
			text += ":" + match[i]
		}
		return text + " " + f.GetTrafficDirection().String()
	case 7:
		return "trace-sock"
	case 129:
		protocol := "l7"
		switch {
		case f.GetL7().GetHttp() != nil:
			protocol = "http"
		case f.GetL7().GetDns() != nil:
			protocol = "dns"
		case f.GetL7().GetKafka() != nil:
			protocol = "kafka"
		}
		return protocol + "-" + strings.ToLower(f.GetL7().GetType().String())
	}
	return fmt.Sprintf("event-%d", f.GetEventType().GetType())
}

// reason of a drop, in words.
func reason(f *flowpb.Flow) string {
	name, ok := flowpb.DropReason_name[int32(f.GetDropReasonDesc())]
	if !ok {
		return fmt.Sprintf("drop reason %d", f.GetDropReasonDesc())
	}
	words := strings.ToLower(strings.ReplaceAll(name, "_", " "))
	return strings.ToUpper(words[:1]) + words[1:]
}

// about is the detail of a flow.
func about(f *flowpb.Flow) string {
	l7 := f.GetL7()
	switch {
	case l7.GetHttp() != nil:
		h := l7.GetHttp()
		if l7.GetType() == flowpb.L7FlowType_RESPONSE {
			return fmt.Sprintf("%s %d %.1fms (%s %s)", h.GetProtocol(), h.GetCode(), float64(l7.GetLatencyNs())/1e6, h.GetMethod(), h.GetUrl())
		}
		return fmt.Sprintf("%s %s %s", h.GetProtocol(), h.GetMethod(), h.GetUrl())
	case l7.GetDns() != nil:
		d := l7.GetDns()
		types := strings.Join(d.GetQtypes(), ",")
		if l7.GetType() == flowpb.L7FlowType_RESPONSE {
			return fmt.Sprintf("DNS Answer %s %s rcode %d TTL %d (%s)", d.GetQuery(), types, d.GetRcode(), d.GetTtl(), strings.Join(append(d.GetCnames(), d.GetIps()...), ","))
		}
		return fmt.Sprintf("DNS Query %s %s", d.GetQuery(), types)
	case l7.GetKafka() != nil:
		k := l7.GetKafka()
		return fmt.Sprintf("Kafka %s v%d topic %s error %d", k.GetApiKey(), k.GetApiVersion(), k.GetTopic(), k.GetErrorCode())
	case f.GetSummary() != "":
		return f.GetSummary()
	}
	return "unknown protocol"
}

// policies names those that allowed or denied.
func policies(f *flowpb.Flow) string {
	var parts []string
	for _, x := range []struct {
		word string
		list []*flowpb.Policy
	}{
		{"egress allowed by", f.GetEgressAllowedBy()}, {"ingress allowed by", f.GetIngressAllowedBy()},
		{"egress denied by", f.GetEgressDeniedBy()}, {"ingress denied by", f.GetIngressDeniedBy()},
	} {
		if len(x.list) == 0 {
			continue
		}
		var names []string
		for _, p := range x.list {
			name := p.GetName()
			if p.GetNamespace() != "" {
				name = p.GetNamespace() + "/" + name
			}
			if p.GetKind() != "" {
				name = p.GetKind() + " " + name
			}
			names = append(names, name)
		}
		parts = append(parts, x.word+" "+strings.Join(names, ", "))
	}
	if len(parts) == 0 {
		return ""
	}
	return "; " + strings.Join(parts, "; ")
}
