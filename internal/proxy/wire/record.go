// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"net/netip"
	"time"

	proxypb "github.com/stentor-net/stentor/api/proxy"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/l7"
)

func messageOf(r *l7.Record) *proxypb.Record {
	m := &proxypb.Record{
		Time:   r.Time.UnixNano(),
		Client: r.Connection.Client.Addr().AsSlice(), ClientPort: uint32(r.Connection.Client.Port()),
		Server: r.Connection.Server.Addr().AsSlice(), ServerPort: uint32(r.Connection.Server.Port()),
		Protocol:       uint32(r.Connection.Protocol),
		ClientIdentity: uint32(r.Ruling.Client), ServerIdentity: uint32(r.Ruling.Server),
		Ingress: r.Limit.Side == l7.Ingress, Endpoint: uint32(r.Limit.Endpoint), Set: r.Limit.Set,
		Verdict: proxypb.Verdict(r.Verdict), Reason: r.Reason, Latency: int64(r.Latency),
	}
	if h := r.HTTP; h != nil {
		m.Http = &proxypb.HTTP{Protocol: h.Protocol, Method: h.Method, Scheme: h.Scheme, Host: h.Host, Path: h.Path, Code: uint32(h.Code)}
		for _, f := range h.Headers {
			m.Http.Headers = append(m.Http.Headers, &proxypb.Header{Name: f.Name, Value: f.Value})
		}
	}
	if d := r.DNS; d != nil {
		m.Dns = &proxypb.DNS{Name: d.Name, Type: uint32(d.Type), Answer: d.Answer, Code: uint32(d.Code), Ttl: d.TTL, Ips: d.IPs, Cnames: d.CNAMEs}
	}
	if k := r.Kafka; k != nil {
		m.Kafka = &proxypb.Kafka{ApiKey: int32(k.APIKey), ApiVersion: int32(k.APIVersion), CorrelationId: k.CorrelationID, ClientId: k.ClientID, Topic: k.Topic, Code: int32(k.Code)}
	}
	return m
}

func recordOf(m *proxypb.Record) (*l7.Record, error) {
	client, ok1 := netip.AddrFromSlice(m.GetClient())
	server, ok2 := netip.AddrFromSlice(m.GetServer())
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("record with an address of %d and %d bytes", len(m.GetClient()), len(m.GetServer()))
	}
	r := &l7.Record{
		Time: time.Unix(0, m.GetTime()),
		Connection: l7.Connection{
			Client:   netip.AddrPortFrom(client, uint16(m.GetClientPort())),
			Server:   netip.AddrPortFrom(server, uint16(m.GetServerPort())),
			Protocol: uint8(m.GetProtocol()),
		},
		Ruling:  l7.Ruling{Client: identity.ID(m.GetClientIdentity()), Server: identity.ID(m.GetServerIdentity())},
		Limit:   l7.Limit{Endpoint: uint16(m.GetEndpoint()), Set: m.GetSet()},
		Verdict: l7.Verdict(m.GetVerdict()), Reason: m.GetReason(), Latency: time.Duration(m.GetLatency()),
	}
	if m.GetIngress() {
		r.Limit.Side = l7.Ingress
	}
	if h := m.GetHttp(); h != nil {
		r.HTTP = &l7.HTTP{Protocol: h.GetProtocol(), Method: h.GetMethod(), Scheme: h.GetScheme(), Host: h.GetHost(), Path: h.GetPath(), Code: int(h.GetCode())}
		for _, f := range h.GetHeaders() {
			r.HTTP.Headers = append(r.HTTP.Headers, l7.Header{Name: f.GetName(), Value: f.GetValue()})
		}
	}
	if d := m.GetDns(); d != nil {
		r.DNS = &l7.DNS{Name: d.GetName(), Type: uint16(d.GetType()), Answer: d.GetAnswer(), Code: int(d.GetCode()), TTL: d.GetTtl(), IPs: d.GetIps(), CNAMEs: d.GetCnames()}
	}
	if k := m.GetKafka(); k != nil {
		r.Kafka = &l7.Kafka{APIKey: int16(k.GetApiKey()), APIVersion: int16(k.GetApiVersion()), CorrelationID: k.GetCorrelationId(), ClientID: k.GetClientId(), Topic: k.GetTopic(), Code: int16(k.GetCode())}
	}
	return r, nil
}
