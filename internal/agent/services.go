// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// balancer derives frontends from Services and EndpointSlices, and gives them to
// the datapath.
type balancer struct {
	log       *slog.Logger
	opts      Options
	tables    *tables
	frontends *table.Writer[service.Frontend]
	checks    *checks
	dp        Datapath
}

// Pace of the balancer.
const (
	balanceEvery = 10 * time.Millisecond
	balanceRetry = time.Second
)

func (b *balancer) Run(ctx context.Context) error {
	t := b.tables
	if err := waitSynced(ctx, t.services, t.slices); err != nil {
		return err
	}
	for {
		seen := watch(t.services, t.slices)
		if err := b.step(); err != nil {
			b.checks.warn("services", err.Error(), "changes of services", "they are given to the datapath again every second")
			b.log.Warn("services are not carried out", "error", err)
			if err := pause(ctx, balanceRetry); err != nil {
				return err
			}
			continue
		}
		if err := pause(ctx, balanceEvery); err != nil {
			return err
		}
		if err := waitAny(ctx, seen...); err != nil {
			return err
		}
	}
}

func (b *balancer) step() error {
	list := service.Frontends(b.tables.services.Snapshot(), b.tables.slices.Snapshot(), b.opts.NodeName)
	kept := list[:0]
	for _, f := range list {
		if f.Addr.Is4() && b.opts.IPv4 || f.Addr.Is6() && b.opts.IPv6 {
			kept = append(kept, f)
		}
	}
	b.frontends.Replace(kept, service.SameFrontend)
	if err := b.dp.SetFrontends(kept); err != nil {
		return fmt.Errorf("set frontends: %w", err)
	}
	b.checks.ok("services", fmt.Sprintf("%d frontends", len(kept)))
	return nil
}
