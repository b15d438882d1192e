// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"fmt"
	"time"

	"github.com/stentor-net/stentor/internal/bench"
)

// programmed is how many services come at once.
const programmed = 10000

// measureProgramming compares how long services take to work that come all at once.
func measureProgramming(ctx context.Context, e *Env) error {
	c, err := newContest(ctx, e)
	if err != nil {
		return err
	}
	defer c.w.close()
	if err := c.grow(ctx, 10); err != nil {
		return err
	}
	for _, p := range c.nodes {
		p.stop()
	}
	count := programmed
	if e.Fast {
		count = 1000
	}
	// One after the other: they would take each other's processor.
	for _, p := range c.nodes {
		for _, o := range c.nodes {
			o.disown(ownMark)
		}
		c.remove(10)
		if err := p.start(ctx); err != nil {
			return err
		}
		p.own(ownMark, true)
		w, err := p.watch(p.vip(ownMark))
		if err != nil {
			return err
		}
		defer w.end()
		if _, err := w.until(true, time.Minute); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		p.disown(ownMark)
		if _, err := w.until(false, time.Minute); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		before, err := usedBy(p.pid())
		if err != nil {
			return err
		}
		start := time.Now()
		others(c.agent.api, 10, count)
		p.own(ownMark, true)
		written := time.Since(start)
		at, err := w.until(true, curveLimit)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		after, err := usedBy(p.pid())
		if err != nil {
			return err
		}
		c.there = count
		row := bench.Single(fmt.Sprintf("%d services more, until the last works, %s", count, p.name), "ms", ms(at.Sub(start))).By("with %d endpoints each; the API in memory took %s of it to write them", endpointsOf, written.Round(time.Millisecond))
		if p.name == byStentor {
			row = row.Below(2000)
		}
		c.Add(row, bench.Single(fmt.Sprintf("processor time for %d services, %s", count, p.name), "ms", ms(after-before)).By("with children"))
		w.end()
		p.stop()
	}
	return nil
}

// remove takes services away, down to so many.
func (c *contest) remove(down int) {
	for i := down; i < c.there; i++ {
		c.agent.api.Remove(fmt.Sprintf("api/v1/namespaces/%s/services/s%d", benchNamespace, i))
		c.agent.api.Remove(fmt.Sprintf("apis/discovery.k8s.io/v1/namespaces/%s/endpointslices/s%d", benchNamespace, i))
	}
	c.there = min(c.there, down)
}
