// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	flowpb "github.com/stentor-net/stentor/api/flow"
	observerpb "github.com/stentor-net/stentor/api/observer"
	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/l7"
)

// landing is a request of a ship to the deathstar, seen at the deathstar's node.
func landing(verdict l7.Verdict, code int) *l7.Record {
	r := &l7.Record{
		Time: time.Now(), Verdict: verdict, Latency: 3 * time.Millisecond,
		Connection: l7.Connection{Client: netip.MustParseAddrPort("10.0.9.9:40000"), Server: netip.MustParseAddrPort("10.0.2.5:80"), Protocol: 6},
		Ruling:     l7.Ruling{Client: 2, Server: 300},
		Limit:      l7.Limit{Side: l7.Ingress, Endpoint: 7, Set: 77},
		HTTP:       &l7.HTTP{Protocol: "HTTP/1.1", Method: "PUT", Scheme: "http", Host: "deathstar", Path: "/v1/exhaust-port", Code: code},
	}
	if verdict == l7.Denied {
		r.Reason, r.Latency = "no rule allows it", 0
	}
	return r
}

// TestRequestsAreFlows holds what clients of the Hubble API are used to: one
// flow for a request that was denied, one for each direction of another.
func TestRequestsAreFlows(t *testing.T) {
	l := newLab(t).start()
	conn, err := grpc.NewClient("unix://"+filepath.Join(l.dir, "hubble.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l.agent.request(landing(l7.Denied, 403))
	l.agent.request(landing(l7.Forwarded, 503))
	stream, err := observerpb.NewObserverClient(conn).GetFlows(t.Context(), &observerpb.GetFlowsRequest{Number: 10, First: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []*flowpb.Flow
	for {
		r, err := stream.Recv()
		if err != nil {
			break
		}
		if f := r.GetFlow(); f != nil {
			got = append(got, f)
		}
	}
	if len(got) != 3 {
		t.Fatalf("%d flows: %v", len(got), got)
	}
	for i, want := range []struct {
		verdict flowpb.Verdict
		kind    flowpb.L7FlowType
		code    uint32
		from    string
		reply   bool
		latency uint64
	}{
		{flowpb.Verdict_DROPPED, flowpb.L7FlowType_REQUEST, 403, "10.0.9.9", false, 0},
		{flowpb.Verdict_FORWARDED, flowpb.L7FlowType_REQUEST, 0, "10.0.9.9", false, 0},
		{flowpb.Verdict_FORWARDED, flowpb.L7FlowType_RESPONSE, 503, "10.0.2.5", true, 3e6},
	} {
		f := got[i]
		h := f.GetL7().GetHttp()
		if f.GetType() != flowpb.FlowType_L7 || f.GetVerdict() != want.verdict || f.GetL7().GetType() != want.kind || h.GetCode() != want.code ||
			f.GetIP().GetSource() != want.from || f.GetIsReply().GetValue() != want.reply || f.GetL7().GetLatencyNs() != want.latency {
			t.Errorf("flow %d is %v", i, f)
		}
		if h.GetUrl() != "http://deathstar/v1/exhaust-port" || h.GetMethod() != "PUT" || f.GetTrafficDirection() != flowpb.TrafficDirection_INGRESS || f.GetEventType().GetType() != 129 {
			t.Errorf("flow %d is %v", i, f)
		}
	}
}

func TestTheMonitorTellsARequestWithBothEndsNamed(t *testing.T) {
	tables, raw, own := newTables()
	own.addresses.Upsert(Address{Source: SourceEndpoint, Namespace: "empire", Name: "deathstar"})
	own.endpoints.Upsert(endpoint.Endpoint{ID: 7})
	raw.Identities.Upsert(identity.Identity{ID: 300})
	m := newMonitor(tables, "n1")
	m.policiesOf = func(id uint16) []string { return []string{"rule1"} }
	heard := make(chan rest.Event, 1)
	m.listeners[heard] = filter{rest.FilterType: {rest.EventL7}, rest.FilterVerdict: {"deny"}}
	m.tellRequest(landing(l7.Forwarded, 200)) // another verdict
	m.tellRequest(landing(l7.Denied, 403))
	e := <-heard
	if e.Verdict != "deny" || e.ReasonText != "no rule allows it" || e.Direction != "ingress" || e.Source.Labels[0] != "reserved:world" || e.Dest.Port != 80 ||
		e.L7.Request != "PUT http://deathstar/v1/exhaust-port" || e.L7.Answer != "403" || e.Policies[0] != "rule1" || e.L7.Rules != 77 {
		t.Errorf("told %+v %+v", e, e.L7)
	}
}

func TestARequestWithoutAHostIsNamedByItsServer(t *testing.T) {
	r := landing(l7.Forwarded, 200)
	r.HTTP.Host = ""
	if got := urlOf(r); got != "http://10.0.2.5:80/v1/exhaust-port" {
		t.Errorf("got %s", got)
	}
}
