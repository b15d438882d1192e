// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	flowpb "github.com/stentor-net/stentor/api/flow"
	pb "github.com/stentor-net/stentor/api/observer"
	"github.com/stentor-net/stentor/internal/flow"
)

// batch is how many records are copied out of the ring at a time.
const batch = 256

// GetFlows streams the records that a request selects, oldest first.
func (s *Server) GetFlows(req *pb.GetFlowsRequest, out pb.Observer_GetFlowsServer) error {
	q, err := s.query(req)
	if err != nil {
		return err
	}
	start, end := q.window()
	if q.last > 0 {
		start = q.backward(start, end)
	}
	return q.forward(out.Context(), start, end, out.Send)
}

// query is one request, compiled.
type query struct {
	s            *Server
	filter       *flow.Filter
	mask         *mask
	since, until int64  // ns since 1970; 0: no limit
	first, last  uint64 // how many records at most; 0: no limit
	follow       bool
	buf          []flow.Record
	lost         uint64 // events of the ring's writer that this client was told about
}

func (s *Server) query(req *pb.GetFlowsRequest) (*query, error) {
	f, err := s.filter(req)
	if err != nil {
		return nil, err
	}
	m, err := newMask(req.GetFieldMask())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "field_mask: "+err.Error())
	}
	q := &query{s: s, filter: f, mask: m, follow: req.GetFollow(), buf: make([]flow.Record, batch)}
	if t := req.GetSince(); t != nil {
		q.since = t.AsTime().UnixNano()
	}
	if t := req.GetUntil(); t != nil {
		q.until = t.AsTime().UnixNano()
	}
	switch {
	case q.until != 0 && q.until < q.since:
		return nil, status.Error(codes.InvalidArgument, "until is before since")
	case req.GetFirst() && q.follow:
		return nil, status.Error(codes.InvalidArgument, "first and follow exclude each other")
	case req.GetFirst():
		q.first = req.GetNumber()
	default:
		q.last = req.GetNumber()
	}
	return q, nil
}

// window is the range of record numbers that the request is about, as of now.
func (q *query) window() (start, end uint64) {
	b := q.s.Ring.Bounds()
	q.lost = b.Lost
	start, end = b.Oldest, b.Next
	if q.follow && q.since == 0 && q.last == 0 {
		return end, end // only what is still to come
	}
	if q.since != 0 {
		start = q.s.firstSince(start, end, q.since)
	}
	return start, end
}

// backward is the number of the record from which on as many match as are wanted.
func (q *query) backward(start, end uint64) uint64 {
	left := q.last
	for end > start {
		from := max(start, end-min(end, batch))
		first, n := q.s.Ring.Read(from, q.buf[:end-from])
		for i, r := range slices.Backward(q.buf[:n]) {
			if !q.wants(&r) {
				continue
			}
			if left--; left == 0 {
				return first + uint64(i)
			}
		}
		if first > from { // the writer overtook
			return first
		}
		end = from
	}
	return start
}

func (q *query) wants(r *flow.Record) bool {
	return (q.since == 0 || r.Time >= q.since) && (q.until == 0 || r.Time <= q.until) && q.filter.Match(r)
}

// forward sends what matches from a record on; without follow up to `end`.
func (q *query) forward(ctx context.Context, next, end uint64, send func(*pb.GetFlowsResponse) error) error {
	sent := uint64(0)
	for {
		var changed <-chan struct{}
		if q.follow {
			changed = q.s.Ring.Changed() // before reading, so that no write is slept through
		}
		buf := q.buf
		if !q.follow {
			buf = buf[:min(uint64(len(buf)), end-min(end, next))]
		}
		first, n := q.s.Ring.Read(next, buf)
		if first > next {
			if err := send(lostEvent(flowpb.LostEventSource_HUBBLE_RING_BUFFER, first-next, q.s.Wire.Node)); err != nil {
				return err
			}
		}
		for i := range buf[:n] {
			r := &buf[i]
			if q.follow && q.until != 0 && r.Time > q.until {
				return nil
			}
			if !q.wants(r) {
				continue
			}
			if err := send(q.response(r)); err != nil {
				return err
			}
			if sent++; sent == q.first {
				return nil
			}
		}
		next = first + uint64(n)
		if err := q.tellLost(send); err != nil {
			return err
		}
		switch {
		case n > 0:
			if err := ctx.Err(); err != nil {
				return status.FromContextError(err).Err()
			}
		case !q.follow:
			return nil
		default:
			select {
			case <-changed:
			case <-ctx.Done():
				return status.FromContextError(ctx.Err()).Err()
			}
		}
	}
}

// tellLost tells a following client what never became a record.
func (q *query) tellLost(send func(*pb.GetFlowsResponse) error) error {
	if !q.follow {
		return nil
	}
	b := q.s.Ring.Bounds()
	if b.Lost == q.lost {
		return nil
	}
	n := b.Lost - q.lost
	q.lost = b.Lost
	return send(lostEvent(flowpb.LostEventSource_PERF_EVENT_RING_BUFFER, n, q.s.Wire.Node))
}

func (q *query) response(r *flow.Record) *pb.GetFlowsResponse {
	f := q.s.Wire.Flow(r)
	return &pb.GetFlowsResponse{
		NodeName: f.GetNodeName(), Time: f.GetTime(),
		ResponseTypes: &pb.GetFlowsResponse_Flow{Flow: q.mask.apply(f)},
	}
}
