// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net"
	"strconv"
	"time"

	flowpb "github.com/stentor-net/stentor/api/flow"
	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/flow"
	"github.com/stentor-net/stentor/internal/l7"
)

// request tells a request that the proxy saw to all who listen.
func (a *Agent) request(r *l7.Record) {
	a.monitor.tellRequest(r)
	if a.observer != nil {
		a.observer.recorder.request(r)
	}
}

// tellRequest gives a request to those who listen.
func (m *monitor) tellRequest(r *l7.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.listeners) == 0 {
		return
	}
	e := rest.Event{
		Time: r.Time.UTC().Format(time.RFC3339Nano), Type: rest.EventL7, Node: m.node, Endpoint: r.Limit.Endpoint,
		Direction: "egress", Verdict: l7Verdicts[r.Verdict], ReasonText: r.Reason, Protocol: protocolName(r.Connection.Protocol),
		L7: requestLine(r),
	}
	if r.Limit.Side == l7.Ingress {
		e.Direction = "ingress"
	}
	if m.policiesOf != nil {
		e.Policies = m.policiesOf(r.Limit.Endpoint)
	}
	e.Source = m.party(r.Connection.Client.Addr(), uint32(r.Ruling.Client))
	e.Dest = m.party(r.Connection.Server.Addr(), uint32(r.Ruling.Server))
	e.Source.Port, e.Dest.Port = r.Connection.Client.Port(), r.Connection.Server.Port()
	m.offer(e)
}

// l7Verdicts are what people call the verdicts about requests.
var l7Verdicts = [...]string{l7.Forwarded: "allow", l7.Denied: "deny", l7.Rejected: "reject", l7.Audited: "audit"}

// requestLine says a request and its answer in one line each.
func requestLine(r *l7.Record) *rest.EventRequest {
	out := &rest.EventRequest{Rules: r.Limit.Set, Latency: float64(r.Latency.Microseconds()) / 1000}
	switch {
	case r.HTTP != nil:
		out.Protocol, out.Request = r.HTTP.Protocol, r.HTTP.Method+" "+urlOf(r)
		if r.HTTP.Code != 0 {
			out.Answer = strconv.Itoa(r.HTTP.Code)
		}
	case r.DNS != nil:
		out.Protocol, out.Request = "DNS", r.DNS.Name+" type "+strconv.Itoa(int(r.DNS.Type))
		if r.DNS.Answer {
			out.Answer = "code " + strconv.Itoa(r.DNS.Code)
		}
	case r.Kafka != nil:
		out.Protocol, out.Request = "Kafka", "key "+strconv.Itoa(int(r.Kafka.APIKey))+" topic "+r.Kafka.Topic
		out.Answer = "code " + strconv.Itoa(int(r.Kafka.Code))
	}
	return out
}

// urlOf is the whole address of a request, as the Hubble API has it.
func urlOf(r *l7.Record) string {
	host := r.HTTP.Host
	if host == "" {
		host = net.JoinHostPort(r.Connection.Server.Addr().String(), strconv.Itoa(int(r.Connection.Server.Port())))
	}
	return r.HTTP.Scheme + "://" + host + r.HTTP.Path
}

// request keeps a request as a flow, and its answer as another one of the
// opposite direction.
func (r *recorder) request(in *l7.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := flow.Record{
		Time: in.Time.UnixNano(), Type: flow.TypeL7, Verdict: l7FlowVerdicts[in.Verdict], Protocol: in.Connection.Protocol,
		Source: in.Connection.Client, Destination: in.Connection.Server,
		SourceIdentity: uint32(in.Ruling.Client), DestinationIdentity: uint32(in.Ruling.Server),
		Endpoint: in.Limit.Endpoint, Flags: flow.FlagEgress | flow.FlagReplyKnown,
		L7: layer7(in, flowpb.L7FlowType_REQUEST),
	}
	if in.Limit.Side == l7.Ingress {
		rec.Flags = flow.FlagIngress | flow.FlagReplyKnown
	}
	rec.SourceParty = r.names.party(rec.Source.Addr(), in.Ruling.Client)
	rec.DestinationParty = r.names.party(rec.Destination.Addr(), in.Ruling.Server)
	r.add(&rec)
	if in.Latency == 0 || in.Verdict != l7.Forwarded {
		return
	}
	rec.Time += int64(in.Latency)
	rec.Source, rec.Destination = rec.Destination, rec.Source
	rec.SourceIdentity, rec.DestinationIdentity = rec.DestinationIdentity, rec.SourceIdentity
	rec.SourceParty, rec.DestinationParty = rec.DestinationParty, rec.SourceParty
	rec.Flags |= flow.FlagReply
	rec.L7 = layer7(in, flowpb.L7FlowType_RESPONSE)
	r.add(&rec)
}

var l7FlowVerdicts = [...]flowpb.Verdict{
	l7.Forwarded: flowpb.Verdict_FORWARDED, l7.Denied: flowpb.Verdict_DROPPED,
	l7.Rejected: flowpb.Verdict_ERROR, l7.Audited: flowpb.Verdict_AUDIT,
}

// layer7 is the wire form of a request or of its answer. Requests have no code.
func layer7(in *l7.Record, kind flowpb.L7FlowType) *flowpb.Layer7 {
	out := &flowpb.Layer7{Type: kind}
	answer := kind == flowpb.L7FlowType_RESPONSE
	if answer {
		out.LatencyNs = uint64(in.Latency)
	}
	switch {
	case in.HTTP != nil:
		h := &flowpb.HTTP{Method: in.HTTP.Method, Url: urlOf(in), Protocol: in.HTTP.Protocol}
		if answer || in.Verdict != l7.Forwarded {
			h.Code = uint32(in.HTTP.Code)
		}
		for _, f := range in.HTTP.Headers {
			h.Headers = append(h.Headers, &flowpb.HTTPHeader{Key: f.Name, Value: f.Value})
		}
		out.Record = &flowpb.Layer7_Http{Http: h}
	case in.DNS != nil:
		d := &flowpb.DNS{Query: in.DNS.Name, ObservationSource: "proxy", Qtypes: []string{dnsTypeName(in.DNS.Type)}}
		if answer {
			d.Ips, d.Cnames, d.Ttl, d.Rcode = in.DNS.IPs, in.DNS.CNAMEs, in.DNS.TTL, uint32(in.DNS.Code)
		}
		out.Record = &flowpb.Layer7_Dns{Dns: d}
	case in.Kafka != nil:
		k := &flowpb.Kafka{ApiVersion: int32(in.Kafka.APIVersion), ApiKey: strconv.Itoa(int(in.Kafka.APIKey)), CorrelationId: in.Kafka.CorrelationID, Topic: in.Kafka.Topic}
		if answer {
			k.ErrorCode = int32(in.Kafka.Code)
		}
		out.Record = &flowpb.Layer7_Kafka{Kafka: k}
	}
	return out
}

// dnsTypeName is the name of a type that people ask for, or TYPE with its number (RFC 3597, section 5).
func dnsTypeName(t uint16) string {
	names := map[uint16]string{1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 64: "SVCB", 65: "HTTPS", 255: "ANY"}
	if name := names[t]; name != "" {
		return name
	}
	return "TYPE" + strconv.Itoa(int(t))
}
