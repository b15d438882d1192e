// SPDX-License-Identifier: Apache-2.0

package proxyd

import (
	"context"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stentor-net/stentor/internal/l7"
)

// dialWithin bounds the wait for a server.
const dialWithin = 10 * time.Second

// lookEvery is how often policy is asked about connections that are passed unseen.
const lookEvery = 500 * time.Millisecond

// relay passes bytes both ways for a connection that nothing limits (any more),
// until something does. The kernel copies them where it can.
func (p *proxy) relay(ctx context.Context, client net.Conn, c l7.Connection, r l7.Ruling) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	dial, cancel := context.WithTimeout(ctx, dialWithin)
	server, err := p.kernel.Dial(dial, c)
	cancel()
	if err != nil {
		reset(client)
		return
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() { reset(client); reset(server) })()
	p.serving.Go(func() { p.watch(ctx, end, c, r) })
	var g errgroup.Group
	g.Go(func() error { return pass(server, client) })
	g.Go(func() error { return pass(client, server) })
	if g.Wait() != nil {
		reset(client)
		reset(server)
	}
}

// watch ends a relay once policy would no longer let it pass unseen.
func (p *proxy) watch(ctx context.Context, end func(), c l7.Connection, r l7.Ruling) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
		if p.kernel.Holds(c, &r) {
			continue
		}
		var err error
		if r, err = p.kernel.Judge(c); err != nil || r.Denied || p.protocol(&r) != l7.None {
			end()
			return
		}
	}
}

// pass copies until one side ends, and then ends the other's half.
func pass(to, from net.Conn) error {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return err
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return to.Close()
}

// reset ends a connection so that the peer notices: no half of it was an end.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
