// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	flowpb "github.com/stentor-net/stentor/api/flow"
	pb "github.com/stentor-net/stentor/api/observer"
	"github.com/stentor-net/stentor/api/peer"
	"github.com/stentor-net/stentor/internal/flow"
)

// start serves a ring on a unix socket and gives a client.
func start(t *testing.T, capacity int) (*Server, pb.ObserverClient, *grpc.ClientConn) {
	t.Helper()
	s := &Server{Ring: flow.NewRing(capacity), Wire: &flow.Wire{Node: "default/node1"}, Cluster: "default", Version: "test", Started: time.Now()}
	path := filepath.Join(t.TempDir(), "observer.sock")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	peers := &PeerServer{Peers: func() ([]Peer, <-chan struct{}) { return []Peer{{Name: "node1", Address: "10.0.0.1:4244"}}, nil }}
	go func() { done <- Serve(ctx, Listen{Socket: path}, s, peers) }()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s, pb.NewObserverClient(conn), conn
}

var (
	xwing = flow.NewParty(&flowpb.Endpoint{Namespace: "rebels", PodName: "xwing", Labels: []string{"k8s:org=alliance"}}, nil, "")
	tie   = flow.NewParty(&flowpb.Endpoint{Namespace: "empire", PodName: "tie"}, nil, "")
)

// add puts a flow of a pod into the ring, at a second.
func add(s *Server, second int, from *flow.Party) {
	r := &flow.Record{Time: int64(second) * 1e9, Sequence: uint64(second), Source: netip.MustParseAddrPort("10.0.0.1:1000"),
		Destination: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(second)), Protocol: 6, SourceParty: from, Type: flow.TypeVerdict, Verdict: flowpb.Verdict_FORWARDED}
	s.Seen(r)
	s.Ring.Add(r)
}

// ports of the flows that a request gives until the server ends the stream.
func ports(t *testing.T, c pb.ObserverClient, req *pb.GetFlowsRequest) []int {
	t.Helper()
	stream, err := c.GetFlows(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, int(r.GetFlow().GetL4().GetTCP().GetDestinationPort()))
	}
}

func at(second int64) *timestamppb.Timestamp { return &timestamppb.Timestamp{Seconds: second} }

func TestARequestSelectsByNumberTimeAndFilter(t *testing.T) {
	s, c, _ := start(t, 1000)
	for i := range 600 { // more than a batch
		add(s, i+1, []*flow.Party{xwing, tie}[i%2])
	}
	fromXwing := []*flowpb.FlowFilter{{SourcePod: []string{"rebels/xwing"}}}
	for name, q := range map[string]struct {
		req  *pb.GetFlowsRequest
		want []int
	}{
		"last":                {&pb.GetFlowsRequest{Number: 3}, []int{598, 599, 600}},
		"first":               {&pb.GetFlowsRequest{Number: 2, First: true}, []int{1, 2}},
		"last that match":     {&pb.GetFlowsRequest{Number: 2, Whitelist: fromXwing}, []int{597, 599}},
		"first not denied":    {&pb.GetFlowsRequest{Number: 2, First: true, Blacklist: fromXwing}, []int{2, 4}},
		"since":               {&pb.GetFlowsRequest{Since: at(598)}, []int{598, 599, 600}},
		"since until":         {&pb.GetFlowsRequest{Since: at(5), Until: at(7)}, []int{5, 6, 7}},
		"last of since until": {&pb.GetFlowsRequest{Since: at(5), Until: at(9), Number: 2}, []int{8, 9}},
		"until":               {&pb.GetFlowsRequest{Until: at(2)}, []int{1, 2}},
		"more than there are": {&pb.GetFlowsRequest{Number: 5000, Since: at(599)}, []int{599, 600}},
	} {
		if got := ports(t, c, q.req); !slices.Equal(got, q.want) {
			t.Errorf("%s: %v, want %v", name, got, q.want)
		}
	}
	if got := ports(t, c, &pb.GetFlowsRequest{}); len(got) != 600 {
		t.Errorf("everything: %d flows", len(got))
	}
	st, err := c.ServerStatus(t.Context(), &pb.ServerStatusRequest{})
	if err != nil || st.GetNumFlows() != 600 || st.GetMaxFlows() != 1000 || st.GetSeenFlows() != 600 || st.GetVersion() != "test" {
		t.Errorf("status %v, %v", st, err)
	}
}

func TestAFollowerSeesWhatIsStillToComeAndWhatWasLost(t *testing.T) {
	s, c, _ := start(t, 100)
	add(s, 1, xwing)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := c.GetFlows(ctx, &pb.GetFlowsRequest{Number: 1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *pb.GetFlowsResponse {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if p := next().GetFlow().GetL4().GetTCP().GetDestinationPort(); p != 1 {
		t.Errorf("first flow has port %d", p)
	}
	add(s, 2, tie)
	if p := next().GetFlow().GetL4().GetTCP().GetDestinationPort(); p != 2 {
		t.Errorf("second flow has port %d", p)
	}
	s.Ring.Lose(5)
	if l := next().GetLostEvents(); l.GetNumEventsLost() != 5 || l.GetSource() != flowpb.LostEventSource_PERF_EVENT_RING_BUFFER {
		t.Errorf("lost events: %v", l)
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after the client left: %v", err)
	}
}

func TestAClientThatIsTooSlowIsToldHowMuchItMissed(t *testing.T) {
	s := &Server{Ring: flow.NewRing(10), Wire: &flow.Wire{}}
	q, err := s.query(&pb.GetFlowsRequest{Since: at(0)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		add(s, i+1, xwing)
	}
	start, _ := q.window()
	seen, lost := 0, uint64(0)
	err = q.forward(t.Context(), start, 40, func(r *pb.GetFlowsResponse) error {
		lost += r.GetLostEvents().GetNumEventsLost()
		if r.GetFlow() != nil {
			if seen++; seen == 5 { // meanwhile the ring goes round three times
				for i := range 35 {
					add(s, i+6, xwing)
				}
			}
		}
		return nil
	})
	if err != nil || uint64(seen)+lost != 40 || lost != 25 {
		t.Errorf("%d seen and %d lost of 40: %v", seen, lost, err)
	}
}

func TestAMaskKeepsSomeFields(t *testing.T) {
	s, c, _ := start(t, 10)
	add(s, 1, xwing)
	stream, err := c.GetFlows(t.Context(), &pb.GetFlowsRequest{FieldMask: &fieldmaskpb.FieldMask{Paths: []string{"source.pod_name", "verdict"}}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if want := (&flowpb.Flow{Verdict: flowpb.Verdict_FORWARDED, Source: &flowpb.Endpoint{PodName: "xwing"}}); err != nil || !proto.Equal(r.GetFlow(), want) {
		t.Errorf("got %v, %v; want %v", r.GetFlow(), err, want)
	}
}

func TestARequestThatMakesNoSenseIsRefused(t *testing.T) {
	_, c, _ := start(t, 10)
	for want, req := range map[string]*pb.GetFlowsRequest{
		`whitelist[0]: source_port: "x"`: {Whitelist: []*flowpb.FlowFilter{{SourcePort: []string{"x"}}}},
		`a flow has no field "nothing"`:  {FieldMask: &fieldmaskpb.FieldMask{Paths: []string{"nothing"}}},
		`verdict has no fields`:          {FieldMask: &fieldmaskpb.FieldMask{Paths: []string{"verdict.x"}}},
		`until is before since`:          {Since: at(9), Until: at(3)},
		`first and follow exclude`:       {First: true, Follow: true},
	} {
		stream, err := c.GetFlows(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = stream.Recv(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want InvalidArgument with %q", err, want)
		}
	}
}

func TestNamespacesNodesHealthAndPeersAreTold(t *testing.T) {
	s, c, conn := start(t, 10)
	now := int(time.Now().Unix())
	add(s, now, xwing)
	add(s, now, tie)
	add(s, 1, flow.NewParty(&flowpb.Endpoint{Namespace: "gone"}, nil, ""))
	ns, err := c.GetNamespaces(t.Context(), &pb.GetNamespacesRequest{})
	if got := len(ns.GetNamespaces()); err != nil || got != 2 || ns.GetNamespaces()[0].GetNamespace() != "empire" {
		t.Errorf("namespaces %v, %v", ns, err)
	}
	nodes, err := c.GetNodes(t.Context(), &pb.GetNodesRequest{})
	if err != nil || nodes.GetNodes()[0].GetName() != "default/node1" {
		t.Errorf("nodes %v, %v", nodes, err)
	}
	h, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "observer.Observer"})
	if err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health %v, %v", h, err)
	}
	stream, err := peer.NewPeerClient(conn).Notify(t.Context(), &peer.NotifyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := stream.Recv(); err != nil || n.GetName() != "node1" || n.GetType() != peer.ChangeNotificationType_PEER_ADDED {
		t.Errorf("peer %v, %v", n, err)
	}
}

func TestChangesOfPeersAreToldOnce(t *testing.T) {
	a, b := Peer{Name: "a", Address: "1:1"}, Peer{Name: "b", Address: "2:1", ServerName: "b.x"}
	moved := a
	moved.Address = "3:1"
	var got []string
	for _, n := range changes(map[string]Peer{"a": a, "c": {Name: "c"}}, map[string]Peer{"a": moved, "b": b}) {
		got = append(got, n.GetType().String()+" "+n.GetName()+" "+n.GetTls().GetServerName())
	}
	want := []string{"PEER_UPDATED a ", "PEER_ADDED b b.x", "PEER_DELETED c "}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestASecondServerOnTheSameAddressSaysSo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := Serve(t.Context(), Listen{Addr: l.Addr().String()}, nil, nil); err == nil || !strings.Contains(err.Error(), "listen for observers") {
		t.Errorf("got %v", err)
	}
}
