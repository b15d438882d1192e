// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"time"
)

// Warning is an event on an object, for its owner. The same words about the same
// object are one event, whichever agents tell them.
type Warning struct {
	Kind, Namespace, Name, UID string
	Reason                     string // CamelCase
	Message                    string
}

// warner tells the owners of Services, pods with host ports and redirects what is
// wrong with them, as events. What is right again soon is not told; what stays is
// told again now and then, because events expire.
type warner struct {
	log     *slog.Logger
	tables  *tables
	cluster Cluster
	now     func() time.Time // default time.Now

	since  map[warned]time.Time // when it was seen first
	told   map[warned]time.Time
	budget float64
	filled time.Time
}

// warned is one problem of one object.
type warned struct{ owner, uid, text string }

// Pace of the warner.
const (
	warnEvery = time.Second
	warnGrace = 2 * time.Second // pods that move let problems appear and go
	warnAgain = 30 * time.Minute
	warnBurst = 30.0
	warnRate  = 0.5 // per second after that
)

// warnReasons of events by kind.
var warnReasons = map[string]string{
	"Service": "ServiceProblem", "Pod": "HostPortProblem", "CiliumLocalRedirectPolicy": "LocalRedirectPolicyProblem",
}

func (w *warner) Run(ctx context.Context) error {
	for {
		changed := w.tables.problems.Changed()
		left := w.step(ctx)
		if err := pause(ctx, warnEvery); err != nil {
			return err
		}
		if left {
			continue
		}
		wait, cancel := context.WithTimeout(ctx, warnAgain)
		_ = waitAny(wait, changed)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// step tells what is due, and whether something will be due soon.
func (w *warner) step(ctx context.Context) (left bool) {
	if w.now == nil {
		w.now = time.Now
	}
	now := w.now()
	if w.told == nil {
		w.told, w.since, w.budget, w.filled = map[warned]time.Time{}, map[warned]time.Time{}, warnBurst, now
	}
	w.budget = min(warnBurst, w.budget+warnRate*now.Sub(w.filled).Seconds())
	w.filled = now
	seen := map[warned]bool{}
	for _, p := range w.tables.problems.Snapshot().All() {
		for _, text := range p.Texts {
			k := warned{p.Owner, p.UID, text}
			seen[k] = true
			if w.since[k].IsZero() {
				w.since[k] = now
			}
			switch {
			case !w.told[k].IsZero() && now.Sub(w.told[k]) < warnAgain:
			case now.Sub(w.since[k]) < warnGrace || w.budget < 1:
				left = true
			default:
				w.budget--
				if err := w.cluster.Warn(ctx, Warning{p.Kind, p.Namespace, p.Name, p.UID, warnReasons[p.Kind], text}); err != nil {
					w.log.Debug("event about a service is not written", "object", p.Namespace+"/"+p.Name, "error", err)
					left = true
					continue
				}
				w.told[k] = now
			}
		}
	}
	for k := range w.since {
		if !seen[k] {
			delete(w.since, k)
			delete(w.told, k)
		}
	}
	return left
}
