// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	observerpb "github.com/stentor-net/stentor/api/observer"
)

// server is one observer: an agent's or a relay's.
type server struct {
	name string
	conn *grpc.ClientConn
}

// merge asks several observers the same and gives their answers in order of
// time. A follower gets them as they come, since it cannot know what is still
// on the way.
type merge struct {
	servers []server
	request *observerpb.GetFlowsRequest
	failed  func(name string, err error)
}

// run calls print for each answer. It fails if no observer answered.
func (m *merge) run(ctx context.Context, print func(*observerpb.GetFlowsResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if m.request.GetFollow() {
		return m.follow(ctx, print)
	}
	streams := make([][]*observerpb.GetFlowsResponse, len(m.servers))
	errs := m.each(func(i int, s server) error {
		return receive(ctx, s, m.request, func(r *observerpb.GetFlowsResponse) error {
			streams[i] = append(streams[i], r)
			return nil
		})
	})
	all := slices.Concat(streams...)
	slices.SortStableFunc(all, func(a, b *observerpb.GetFlowsResponse) int {
		return a.GetTime().AsTime().Compare(b.GetTime().AsTime())
	})
	if n := int(m.request.GetNumber()); n > 0 && len(all) > n {
		if m.request.GetFirst() {
			all = all[:n]
		} else {
			all = all[len(all)-n:]
		}
	}
	for _, r := range all {
		if err := print(r); err != nil {
			return err
		}
	}
	return m.verdict(errs)
}

func (m *merge) follow(ctx context.Context, print func(*observerpb.GetFlowsResponse) error) error {
	var mu sync.Mutex // one line at a time
	errs := m.each(func(_ int, s server) error {
		return receive(ctx, s, m.request, func(r *observerpb.GetFlowsResponse) error {
			mu.Lock()
			defer mu.Unlock()
			return print(r)
		})
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return m.verdict(errs)
}

func (m *merge) each(ask func(i int, s server) error) []error {
	errs := make([]error, len(m.servers))
	var wg sync.WaitGroup
	for i, s := range m.servers {
		wg.Go(func() { errs[i] = ask(i, s) })
	}
	wg.Wait()
	return errs
}

// verdict tells of the observers that failed; it is an error if all did.
func (m *merge) verdict(errs []error) error {
	bad := 0
	for i, err := range errs {
		if err == nil {
			continue
		}
		if bad++; len(errs) > 1 {
			m.failed(m.servers[i].name, err)
		}
	}
	switch {
	case bad == 0 || bad < len(errs):
		return nil
	case len(errs) == 1:
		return errs[0]
	}
	return fmt.Errorf("none of %d observers answered", len(errs))
}

// receive asks one observer.
func receive(ctx context.Context, s server, req *observerpb.GetFlowsRequest, take func(*observerpb.GetFlowsResponse) error) error {
	stream, err := observerpb.NewObserverClient(s.conn).GetFlows(ctx, proto.CloneOf(req))
	for err == nil {
		var r *observerpb.GetFlowsResponse
		if r, err = stream.Recv(); err == nil {
			err = take(r)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	if s, ok := status.FromError(err); ok { // the words alone
		return errors.New(s.Message())
	}
	return err
}
