// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stentor-net/stentor/internal/ipam"
	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/table"
)

// ranges gives pod ranges to nodes.
type ranges struct {
	client *k8s.Client
	pool   *ipam.ClusterPool
	log    *slog.Logger
	// given holds what nodes have, by UID, that the table may not show yet: a
	// range must not be given away twice because the watch is late.
	given map[string]*gift
}

// gift is what a node was given.
type gift struct {
	ranges []netip.Prefix
	seen   bool // the table has shown the node: if it is not there any more, it is gone
}

// run works until ctx ends.
func (r *ranges) run(ctx context.Context, nodes *table.Table[nodeRow]) error {
	if err := r.learn(ctx); err != nil {
		return err
	}
	select {
	case <-nodes.Synced():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for wait := time.Duration(0); ; {
		changed := nodes.Changed()
		if r.reconcile(ctx, nodes.Snapshot()) {
			wait = 0
		} else {
			wait = min(max(2*wait, time.Second), time.Minute)
		}
		var again <-chan time.Time // nil, for ever, if all is done
		if wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// learn asks the API server itself, not a cache, what an earlier leader gave.
func (r *ranges) learn(ctx context.Context) error {
	for {
		list, err := k8s.CiliumNodes.List(ctx, r.client, "", metav1.ListOptions{})
		if err == nil {
			for _, o := range list {
				if list := k8s.NodeRow(o).PodCIDRs; len(list) > 0 {
					r.given[string(o.UID)] = &gift{ranges: list}
				}
			}
			return nil
		}
		r.log.Warn("nodes not listed", "error", err)
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// reconcile gives what is missing. It reports whether all is done.
func (r *ranges) reconcile(ctx context.Context, nodes table.Snapshot[nodeRow]) bool {
	var claims []ipam.Claim
	live := map[string]bool{}
	for _, n := range nodes.All() {
		live[n.UID] = true
		have := n.Ranges
		if given := r.given[n.UID]; given != nil {
			given.seen = true
			if len(given.ranges) > len(have) {
				have = given.ranges
			}
		}
		claims = append(claims, ipam.Claim{Node: n.Name, Created: n.Created, Ranges: have})
	}
	for uid, given := range r.given {
		switch {
		case live[uid]:
		case given.seen:
			delete(r.given, uid)
		default: // the table lags behind: the ranges are taken
			claims = append(claims, ipam.Claim{Node: "uid " + uid, Ranges: given.ranges})
		}
	}
	done := true
	for _, a := range r.pool.Assign(claims) {
		n, ok := nodes.Get(a.Node)
		if !ok {
			continue
		}
		if err := r.write(ctx, n, a); err != nil {
			done = false
			if ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				r.log.Warn("pod range not written", "node", n.Name, "error", err)
			}
		}
	}
	return done
}

func (r *ranges) write(ctx context.Context, n nodeRow, a ipam.Assignment) error {
	given := r.given[n.UID]
	if !slices.Equal(a.Ranges, n.Ranges) && (given == nil || !slices.Equal(a.Ranges, given.ranges)) {
		_, err := k8s.CiliumNodes.Patch(ctx, r.client, "", n.Name, "", types.MergePatchType, map[string]any{
			"metadata": map[string]any{"resourceVersion": n.Version, "uid": n.UID},
			"spec":     map[string]any{"ipam": map[string]any{"podCIDRs": a.Ranges}},
		})
		if err != nil {
			return err
		}
		r.given[n.UID] = &gift{ranges: a.Ranges, seen: true}
		r.log.Info("pod range given", "node", n.Name, "ranges", a.Ranges)
	}
	if a.Error == n.Error {
		return nil
	}
	if a.Error != "" {
		r.log.Warn("pod ranges of a node are wrong", "node", n.Name, "reason", a.Error)
	}
	status := map[string]any{"operator-status": map[string]any{"error": a.Error}}
	if a.Error == "" {
		status["operator-status"] = nil
	}
	_, err := k8s.CiliumNodes.Patch(ctx, r.client, "", n.Name, "status", types.MergePatchType,
		map[string]any{"metadata": map[string]any{"uid": n.UID}, "status": map[string]any{"ipam": status}})
	return err
}
