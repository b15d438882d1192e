// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	proxypb "github.com/stentor-net/stentor/api/proxy"
	"github.com/stentor-net/stentor/internal/l7"
)

// Client is the proxy's end.
type Client struct {
	Socket string // path of the agent's socket
	Log    *slog.Logger
	// Apply puts rules in force and says which it does not carry out.
	Apply func(sets []l7.Source) []l7.Problem

	queue chan *proxypb.Record
	lost  atomic.Uint64
}

// Limits of records on their way.
const (
	queueMax  = 16384
	batchMax  = 512
	againMax  = time.Second // between tries to reach the agent
	againBase = 50 * time.Millisecond
)

// NewClient makes a client of the agent that listens on a socket.
func NewClient(log *slog.Logger, socket string, apply func([]l7.Source) []l7.Problem) *Client {
	return &Client{Socket: socket, Log: log, Apply: apply, queue: make(chan *proxypb.Record, queueMax)}
}

// Record sends a record when the agent takes it. What there is no room for is
// counted, and the agent is told.
func (c *Client) Record(r *l7.Record) {
	if len(c.queue) == cap(c.queue) {
		c.lost.Add(1)
		return
	}
	select {
	case c.queue <- messageOf(r):
	default:
		c.lost.Add(1)
	}
}

// Run speaks to the agent until ctx ends, also to one that comes later.
func (c *Client) Run(ctx context.Context) error {
	conn, err := grpc.NewClient("unix:"+c.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageMax), grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: againBase, Multiplier: 1.6, Jitter: 0.2, MaxDelay: againMax}}))
	if err != nil {
		return fmt.Errorf("speak to the agent at %s: %w", c.Socket, err)
	}
	defer func() { _ = conn.Close() }()
	api := proxypb.NewProxyClient(conn)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.insist(ctx, "follow rules", func() error { return c.follow(ctx, api) }) })
	var pending []*proxypb.Record // what a stream that broke had taken
	g.Go(func() error {
		return c.insist(ctx, "send records", func() error { return c.send(ctx, api, &pending) })
	})
	return g.Wait()
}

func (c *Client) insist(ctx context.Context, what string, f func() error) error {
	for {
		err := f()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.Log.Debug("agent is away", "what", what, "error", err)
		select {
		case <-time.After(againBase):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *Client) follow(ctx context.Context, api proxypb.ProxyClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := api.Rules(ctx)
	if err != nil {
		return err
	}
	for {
		t, err := stream.Recv()
		if err != nil {
			return err
		}
		sets := make([]l7.Source, 0, len(t.GetSets()))
		for _, s := range t.GetSets() {
			sets = append(sets, l7.Source{Number: s.GetNumber(), Lines: s.GetLines()})
		}
		held := &proxypb.Held{Version: t.GetVersion()}
		for _, p := range c.Apply(sets) {
			held.Problems = append(held.Problems, &proxypb.Problem{Number: p.Number, Reason: p.Reason})
		}
		if err := stream.Send(held); err != nil {
			return err
		}
	}
}

// send sends what is in the queue. A batch whose sending failed is sent again.
func (c *Client) send(ctx context.Context, api proxypb.ProxyClient, pending *[]*proxypb.Record) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := api.Record(ctx)
	if err != nil {
		return err
	}
	for {
		if len(*pending) == 0 {
			select {
			case r := <-c.queue:
				*pending = append(*pending, r)
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
		for len(*pending) < batchMax && len(c.queue) > 0 {
			*pending = append(*pending, <-c.queue)
		}
		if err := stream.Send(&proxypb.Records{Lost: c.lost.Load(), Records: *pending}); err != nil {
			return err
		}
		*pending = (*pending)[:0]
	}
}
