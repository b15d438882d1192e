// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/stentor-net/stentor/internal/datapath"
)

// socketCloser closes the sockets whose backend is gone: after each change of
// services, and once more for those that were connecting meanwhile.
type socketCloser struct {
	log     *slog.Logger
	opts    Options
	tables  *tables
	metrics *metrics
	dp      Datapath
	wake    chan struct{} // of room for one
}

const (
	closeAgain = time.Second
	closeRetry = 5 * time.Second
)

// changed says that there may be something to close.
func (c *socketCloser) changed() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *socketCloser) Run(ctx context.Context) error {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for left := true; left; {
			wait := closeAgain
			closed, more, err := c.dp.CloseStaleSockets(c.namespaces(), c.opts.Service.CloseTCP)
			c.metrics.countSockets(closed)
			if errors.Is(err, datapath.ErrNoSocketClose) {
				c.log.Warn("sockets of backends that are gone stay open", "reason", err)
				c.metrics.unclosed.Inc()
				<-ctx.Done()
				return context.Cause(ctx)
			}
			if err != nil {
				c.log.Warn("some sockets of backends that are gone stay open", "error", err)
				c.metrics.unclosed.Inc()
				wait = closeRetry
			}
			if closed != (ClosedSockets{}) {
				c.log.Info("sockets of backends that are gone are closed", "udp", closed.UDP, "tcp", closed.TCP)
			}
			if left = more; left {
				if err := pause(ctx, wait); err != nil {
					return err
				}
			}
		}
	}
}

// namespaces are those of the node's pods; none if only sockets of the host are
// translated or closed.
func (c *socketCloser) namespaces() (out []string) {
	if !c.opts.Service.CloseSockets || c.opts.Service.HostSocketsOnly || !c.opts.SocketLB {
		return nil
	}
	for _, e := range c.tables.endpoints.Snapshot().All() {
		if e.NetNS != "" {
			out = append(out, e.NetNS)
		}
	}
	return out
}
