// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	flowpb "github.com/stentor-net/stentor/api/flow"
	observerpb "github.com/stentor-net/stentor/api/observer"
	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/flow"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/policy"
)

func TestADropIsAFlowWithBothEndsNamed(t *testing.T) {
	l := newLab(t).start()
	p := pod("curl", "app", "curl")
	p.Workload = endpoint.Workload{Kind: "Deployment", Name: "curl"}
	l.bind(p)
	added := l.mustAdd(p)
	conn, err := grpc.NewClient("unix://"+filepath.Join(l.dir, "hubble.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := observerpb.NewObserverClient(conn)
	before := time.Now()
	row, _ := l.agent.tables.endpoints.Get(strconv.Itoa(added.EndpointID))
	l.kernel.events <- Event{
		Type: abi.EventDrop, Reason: 133, Protocol: 6, TCPFlags: 2, Endpoint: uint16(added.EndpointID), Time: sinceBoot(), Sequence: 7, Lost: 3,
		Source: netip.AddrPortFrom(row.IPv4, 40000), Destination: netip.MustParseAddrPort("192.0.2.2:80"),
		SourceIdentity: uint32(added.Identity), DestinationIdentity: 2,
	}
	l.await("the flow is there", func() bool {
		s, err := client.ServerStatus(t.Context(), &observerpb.ServerStatusRequest{})
		return err == nil && s.GetNumFlows() == 1
	})
	stream, err := client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{{SourcePod: []string{"default/curl"}}}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	f := r.GetFlow()
	if s := f.GetSource(); s.GetPodName() != "curl" || s.GetNamespace() != "default" || s.GetID() != uint32(added.EndpointID) || s.GetWorkloads()[0].GetName() != "curl" || len(s.GetLabels()) == 0 {
		t.Errorf("source %v", s)
	}
	if d := f.GetDestination(); d.GetIdentity() != 2 || d.GetLabels()[0] != "reserved:world" {
		t.Errorf("destination %v", d)
	}
	if f.GetVerdict() != flowpb.Verdict_DROPPED || f.GetDropReasonDesc() != flowpb.DropReason_POLICY_DENIED || f.GetNodeName() != "default/n1" {
		t.Errorf("flow %v", f)
	}
	if at := f.GetTime().AsTime(); at.Before(before.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("seen at %v, which is not now", at)
	}
	if b := l.agent.observer.server.Ring.Bounds(); b.Lost != 3 {
		t.Errorf("%d events are counted as lost", b.Lost)
	}
}

// recorded gives a recorder over tables with one pod of another node.
func recorded(t testing.TB) (*recorder, *tables, derivedWriters, netip.Addr) {
	t.Helper()
	tables, raw, own := newTables()
	ip := netip.MustParseAddr("10.0.2.5")
	own.addresses.Upsert(Address{Address: policy.Address{Prefix: host(ip), Identity: 300}, Source: SourceCiliumEndpoint, Namespace: "empire", Name: "deathstar"})
	raw.Identities.Upsert(identity.Identity{ID: 300})
	return newRecorder(flow.NewRing(16), newNamer(tables, "default")), tables, own, ip
}

func TestAPodThatIsGoneKeepsItsNameForAWhile(t *testing.T) {
	r, _, own, ip := recorded(t)
	name := func() string { return r.names.party(ip, 300).Endpoint.GetPodName() }
	if got := name(); got != "deathstar" {
		t.Fatalf("the pod is named %q", got)
	}
	own.addresses.Delete(host(ip).String())
	if got := name(); got != "deathstar" {
		t.Errorf("right after it went the pod is named %q", got)
	}
	for _, k := range r.names.known {
		k.until = time.Now().Add(-time.Second)
	}
	own.addresses.Upsert() // any other change
	own.addresses.Upsert(Address{Address: policy.Address{Prefix: host(ip), Identity: 301}, Source: SourceCiliumEndpoint, Namespace: "empire", Name: "heir"})
	if got := r.names.party(ip, 301).Endpoint.GetPodName(); got != "heir" {
		t.Errorf("who has the address now is named %q", got)
	}
	if got := name(); got != "" {
		t.Errorf("long after it went, the identity still has the name %q", got)
	}
}

func TestAnEventAllocatesNothing(t *testing.T) {
	r, _, _, ip := recorded(t)
	e := Event{Type: abi.EventVerdict, Verdict: abi.VerdictAllow, Source: netip.MustParseAddrPort("10.0.1.1:9"), Destination: netip.AddrPortFrom(ip, 80), SourceIdentity: 299, DestinationIdentity: 300, Protocol: 6}
	if n := testing.AllocsPerRun(1000, func() { r.record(e) }); n > 0 {
		t.Errorf("%v allocations for an event", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	r, _, _, ip := recorded(b)
	e := Event{Type: abi.EventVerdict, Verdict: abi.VerdictAllow, Source: netip.MustParseAddrPort("10.0.1.1:9"), Destination: netip.AddrPortFrom(ip, 80), SourceIdentity: 299, DestinationIdentity: 300, Protocol: 6}
	b.ReportAllocs()
	for b.Loop() {
		r.record(e)
	}
}
