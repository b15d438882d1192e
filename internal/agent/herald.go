// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/stentor-net/stentor/api/rest"
)

// Notice is an event on this node's object, for who looks at the cluster and not
// at agents.
type Notice struct {
	Warning bool
	Reason  string // CamelCase
	Message string
	First   time.Time
	Count   int
}

// herald tells the cluster what stays wrong on this node: checks that are not
// well for a while. What was told is told again only while it lasts, now and
// then, because events expire. Refused policies are the operator's to tell.
type herald struct {
	log     *slog.Logger
	opts    Options
	tables  *tables
	cluster Cluster
	now     func() time.Time // default time.Now

	told   map[string]*told
	budget float64 // notices that may be sent now
	filled time.Time
	wait   time.Duration // between two looks; default heraldEvery
}

// told is what was said of one matter.
type told struct {
	Notice
	sent time.Time
}

// Pace of the herald.
const (
	heraldEvery = 5 * time.Second
	heraldGrace = 30 * time.Second // what is well again sooner is not told
	heraldAgain = 30 * time.Minute
	heraldBurst = 10.0 // notices at once
	heraldRate  = 1.0  // notices per minute after that
)

// reasons of notices by the names of checks.
var reasons = map[string]string{
	"kubernetes": "APIServerAway", "node": "NodeNotSetUp", "datapath": "DatapathFailing", "endpoints": "EndpointsFailing",
	"identities": "IdentitiesFailing", "policy": "PolicyNotEnforced", "services": "ServicesFailing",
	"ciliumendpoints": "EndpointsNotPublished", "cni": "CNINotConfigured", "health": "NodesUnreachable", "maps": "MapPressure",
}

func (h *herald) Run(ctx context.Context) error {
	if h.wait == 0 {
		h.wait = heraldEvery
	}
	for {
		h.step(ctx)
		if err := pause(ctx, h.wait); err != nil {
			return err
		}
	}
}

// step tells what is new.
func (h *herald) step(ctx context.Context) {
	if h.now == nil {
		h.now = time.Now
	}
	if h.told == nil {
		h.told, h.budget, h.filled = map[string]*told{}, heraldBurst, h.now()
	}
	now := h.now()
	h.budget = min(heraldBurst, h.budget+heraldRate*now.Sub(h.filled).Minutes())
	h.filled = now
	for name, c := range h.tables.checks.Snapshot().All() {
		h.check(ctx, name, c, now)
	}
}

func (h *herald) check(ctx context.Context, name string, c rest.Check, now time.Time) {
	reason := reasons[name]
	if reason == "" {
		return
	}
	if c.State != rest.StateFailure && c.State != rest.StateWarning {
		if before := h.told[name]; before != nil {
			text := fmt.Sprintf("well again after %v: %s", now.Sub(before.First).Round(time.Second), c.Msg)
			if h.send(ctx, Notice{Reason: reason + "Resolved", Message: text, First: now, Count: 1}) {
				delete(h.told, name)
			}
		}
		return
	}
	since, err := time.Parse(time.RFC3339, c.Since)
	if err != nil || now.Sub(since) < heraldGrace {
		return
	}
	text := c.Msg
	if c.Missing != "" {
		text += "; missing: " + c.Missing
	}
	h.tell(ctx, name, reason, text, since, now)
}

// tell sends a warning if it is new, says something else than before, or has
// lasted so long that the event may have expired.
func (h *herald) tell(ctx context.Context, name, reason, text string, since, now time.Time) {
	t := h.told[name]
	if t == nil {
		t = &told{Notice: Notice{Warning: true, Reason: reason, First: since}}
	}
	if t.Message == text && now.Sub(t.sent) < heraldAgain {
		return
	}
	next := t.Notice
	next.Message, next.Count = text, t.Count+1
	if h.send(ctx, next) {
		h.told[name] = &told{next, now}
	}
}

// send reports whether the notice is with the API server. One too many waits:
// it is sent by a later step if it still holds.
func (h *herald) send(ctx context.Context, n Notice) bool {
	if h.budget < 1 {
		return false
	}
	h.budget--
	if err := h.cluster.Tell(ctx, n); err != nil {
		h.log.Debug("notice is not written", "reason", n.Reason, "error", err)
		return false
	}
	return true
}
