// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	flowpb "github.com/stentor-net/stentor/api/flow"
	pb "github.com/stentor-net/stentor/api/observer"
	"github.com/stentor-net/stentor/api/relay"
	"github.com/stentor-net/stentor/internal/flow"
)

// Server answers for one node. Ring and Wire are required.
type Server struct {
	pb.UnimplementedObserverServer

	Ring    *flow.Ring
	Wire    *flow.Wire
	Cluster string
	Version string
	Started time.Time
	// TLS tells clients how the node is reached.
	TLS *pb.TLS

	namespaces namespaces
}

// ServerStatus tells how much there is to see.
func (s *Server) ServerStatus(context.Context, *pb.ServerStatusRequest) (*pb.ServerStatusResponse, error) {
	b := s.Ring.Bounds()
	up := time.Since(s.Started)
	return &pb.ServerStatusResponse{
		NumFlows: b.Next - b.Oldest, MaxFlows: uint64(b.Capacity), SeenFlows: b.Next, UptimeNs: uint64(up),
		Version: s.Version, FlowsRate: s.rate(b, up),
	}, nil
}

// rate is in flows per second, of what the ring holds of the last minute.
func (s *Server) rate(b flow.Bounds, up time.Duration) float64 {
	window := min(time.Minute, up)
	if window <= 0 || b.Next == b.Oldest {
		return 0
	}
	since := time.Now().Add(-window).UnixNano()
	first := s.firstSince(b.Oldest, b.Next, since)
	var oldest [1]flow.Record
	if first == b.Oldest { // the ring goes round in less than a minute
		if _, n := s.Ring.Read(first, oldest[:]); n == 1 {
			window = max(time.Duration(time.Now().UnixNano()-oldest[0].Time), time.Millisecond)
		}
	}
	return float64(b.Next-first) / window.Seconds()
}

// firstSince is the number of the first record of low..high-1 that is not
// older than a time; clocks that jump make it inexact.
func (s *Server) firstSince(low, high uint64, since int64) uint64 {
	var one [1]flow.Record
	for low < high {
		middle := low + (high-low)/2
		first, n := s.Ring.Read(middle, one[:])
		switch {
		case n == 0:
			return high
		case first > middle: // overwritten meanwhile
			low = first
		case one[0].Time < since:
			low = middle + 1
		default:
			high = middle
		}
	}
	return low
}

// GetNodes tells of the one node.
func (s *Server) GetNodes(context.Context, *pb.GetNodesRequest) (*pb.GetNodesResponse, error) {
	b := s.Ring.Bounds()
	return &pb.GetNodesResponse{Nodes: []*pb.Node{{
		Name: s.Wire.Node, Version: s.Version, State: relay.NodeState_NODE_CONNECTED, Tls: s.TLS,
		UptimeNs: uint64(time.Since(s.Started)), NumFlows: b.Next - b.Oldest, MaxFlows: uint64(b.Capacity), SeenFlows: b.Next,
	}}}, nil
}

// GetNamespaces tells the namespaces that were seen in the last hour.
func (s *Server) GetNamespaces(context.Context, *pb.GetNamespacesRequest) (*pb.GetNamespacesResponse, error) {
	return &pb.GetNamespacesResponse{Namespaces: s.namespaces.list(time.Now())}, nil
}

// Seen is to be called for each record, before it is added to the ring.
func (s *Server) Seen(r *flow.Record) {
	s.namespaces.see(r.SourceParty, r.Time)
	s.namespaces.see(r.DestinationParty, r.Time)
}

// GetAgentEvents is not there yet.
func (s *Server) GetAgentEvents(*pb.GetAgentEventsRequest, pb.Observer_GetAgentEventsServer) error {
	return status.Error(codes.Unimplemented, "agent events are not recorded yet")
}

// GetDebugEvents gives nothing: the datapath has no debug messages.
func (s *Server) GetDebugEvents(*pb.GetDebugEventsRequest, pb.Observer_GetDebugEventsServer) error {
	return status.Error(codes.Unimplemented, "the datapath has no debug events: drops and verdicts say why")
}

// keepNamespace is how long a namespace counts as seen.
const keepNamespace = time.Hour

// namespaces remembers those seen, with the time of the last flow.
type namespaces struct {
	mu   sync.Mutex
	last map[[2]string]int64 // {cluster, namespace} -> ns since 1970
	hot  [2]*flow.Party      // seen last, which needs no lock to skip; written by one goroutine only
	at   int64
}

func (n *namespaces) see(p *flow.Party, at int64) {
	if p == nil || p.Endpoint.GetNamespace() == "" {
		return
	}
	if (p == n.hot[0] || p == n.hot[1]) && at-n.at < int64(time.Second) {
		return
	}
	n.hot[1], n.hot[0], n.at = n.hot[0], p, at
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last == nil {
		n.last = map[[2]string]int64{}
	}
	n.last[[2]string{p.Endpoint.GetClusterName(), p.Endpoint.GetNamespace()}] = at
}

func (n *namespaces) list(now time.Time) []*pb.Namespace {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*pb.Namespace
	for k, at := range n.last {
		if now.UnixNano()-at > int64(keepNamespace) {
			delete(n.last, k)
			continue
		}
		out = append(out, &pb.Namespace{Cluster: k[0], Namespace: k[1]})
	}
	slices.SortFunc(out, func(a, b *pb.Namespace) int {
		return strings.Compare(a.GetCluster()+"/"+a.GetNamespace(), b.GetCluster()+"/"+b.GetNamespace())
	})
	return out
}

// filter compiles the filters of a request.
func (s *Server) filter(req *pb.GetFlowsRequest) (*flow.Filter, error) {
	f, err := flow.NewFilter(req.GetWhitelist(), req.GetBlacklist(), flow.Scope{
		Node: s.Wire.Node, Cluster: s.Cluster, Labels: s.Wire.Labels, UUID: s.Wire.UUID, Interface: s.Wire.Interface,
	})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return f, nil
}

func lostEvent(source flowpb.LostEventSource, n uint64, node string) *pb.GetFlowsResponse {
	return &pb.GetFlowsResponse{
		NodeName: node, Time: timestamppb.Now(),
		ResponseTypes: &pb.GetFlowsResponse_LostEvents{LostEvents: &flowpb.LostEvent{Source: source, NumEventsLost: n}},
	}
}
