// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stentor-net/stentor/internal/ipam/lbipam"
	"github.com/stentor-net/stentor/internal/k8s"
)

// Conditions of pools.
const (
	conditionConflict  = "cilium.io/PoolConflict"
	conditionTotal     = "cilium.io/IPsTotal"
	conditionAvailable = "cilium.io/IPsAvailable"
	conditionUsed      = "cilium.io/IPsUsed"
)

// loadBalancers gives addresses of pools to Services.
type loadBalancers struct {
	client  *k8s.Client
	view    *view
	log     *slog.Logger
	options lbipam.Options
	// written holds Services as they are stored while the table may show an
	// older version: an address must not be given away twice because the watch is
	// late.
	written map[string]*written // by UID
}

// written is a Service as it is stored.
type written struct {
	lbipam.Service
	seen bool // the table has shown it: if it is not there any more, it is gone
}

func (l *loadBalancers) run(ctx context.Context) error {
	if err := l.learn(ctx); err != nil {
		return err
	}
	for _, synced := range []<-chan struct{}{l.view.pools.Synced(), l.view.balanced.Synced()} {
		select {
		case <-synced:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for wait := time.Duration(0); ; {
		pools, services := l.view.pools.Changed(), l.view.balanced.Changed()
		if l.reconcile(ctx) {
			wait = 0
		} else {
			wait = min(max(2*wait, 100*time.Millisecond), time.Minute)
		}
		var again <-chan time.Time
		if wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-pools:
		case <-services:
		case <-again:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// learn asks the API server itself, not a cache, what an earlier leader gave.
func (l *loadBalancers) learn(ctx context.Context) error {
	for {
		list, err := k8s.Services.List(ctx, l.client, "", metav1.ListOptions{})
		if err == nil {
			for _, o := range list {
				if s, ok := lbipam.ReadService(o); ok {
					l.written[s.UID] = &written{Service: s}
				}
			}
			return nil
		}
		l.log.Warn("services not listed", "error", err)
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// services are those of the table, or as they were written since.
func (l *loadBalancers) services() []lbipam.Service {
	var out []lbipam.Service
	live := map[string]bool{}
	for _, s := range l.view.balanced.Snapshot().All() {
		live[s.UID] = true
		if w := l.written[s.UID]; w != nil && olderVersion(s.Version, w.Version) {
			s, w.seen = w.Service, true
		} else {
			delete(l.written, s.UID)
		}
		out = append(out, s)
	}
	for uid, w := range l.written {
		switch {
		case live[uid]:
		case w.seen:
			delete(l.written, uid)
		default: // the table lags behind: its addresses are taken
			out = append(out, w.Service)
		}
	}
	return out
}

// reconcile writes what differs from what Services and pools should say. It
// reports whether all is done.
func (l *loadBalancers) reconcile(ctx context.Context) bool {
	var pools []lbipam.Pool
	for _, p := range l.view.pools.Snapshot().All() {
		pools = append(pools, p)
	}
	services := l.services()
	out := lbipam.Assign(pools, services, l.options)
	l.view.pooled.Store(&out)
	done := true
	failed := func(what, name string, err error) {
		done = false
		if ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			l.log.Warn(what, "name", name, "error", err)
		}
	}
	for _, s := range services {
		if v, ours := out.Services[s.ObjectKey()]; ours {
			if err := l.write(ctx, s, v); err != nil {
				failed("addresses of a load balancer not written", s.ObjectKey(), err)
			}
		}
	}
	for _, p := range pools {
		if err := l.tell(ctx, p, out.Pools[p.Name]); err != nil {
			failed("status of a pool not written", p.Name, err)
		}
	}
	return done
}

// write makes the status of a Service say what the verdict does; what others
// wrote into it stays.
func (l *loadBalancers) write(ctx context.Context, s lbipam.Service, v lbipam.Verdict) error {
	ingress, conditions := []corev1.LoadBalancerIngress{}, slices.Clone(s.Conditions)
	for _, a := range v.Addresses {
		one := corev1.LoadBalancerIngress{IP: a.String()}
		for _, had := range s.Ingress {
			if ip, err := netip.ParseAddr(had.IP); err == nil && ip.Unmap() == a {
				one = had
			}
		}
		ingress = append(ingress, one)
	}
	changed := len(ingress) != len(s.Ingress)
	for i := range ingress {
		changed = changed || !slices.ContainsFunc(s.Ingress, func(in corev1.LoadBalancerIngress) bool { return in.IP == ingress[i].IP })
	}
	if v.Release {
		conditions = slices.DeleteFunc(conditions, func(c metav1.Condition) bool { return c.Type == lbipam.Satisfied })
		changed = true
	} else if setConditions(&conditions, 0, v.Condition) {
		changed = true
	}
	if !changed {
		return nil
	}
	stored, err := k8s.Services.Patch(ctx, l.client, s.Namespace, s.Name, "status", types.MergePatchType, map[string]any{
		"metadata": map[string]any{"resourceVersion": s.Version, "uid": s.UID},
		"status":   map[string]any{"loadBalancer": map[string]any{"ingress": ingress}, "conditions": conditions},
	})
	if err != nil {
		return err
	}
	if row, ok := lbipam.ReadService(stored); ok {
		l.written[s.UID] = &written{row, true}
	}
	l.log.Info("load balancer", "service", s.ObjectKey(), "addresses", v.Addresses, "reason", v.Condition.Reason, "message", v.Condition.Message)
	return nil
}

// tell writes the conditions of a pool. The counts are messages of conditions
// whose status says nothing.
func (l *loadBalancers) tell(ctx context.Context, p lbipam.Pool, s *lbipam.PoolState) error {
	conflict := metav1.Condition{Type: conditionConflict, Status: metav1.ConditionFalse, Reason: "resolved"}
	if s.Conflict != "" {
		conflict.Status, conflict.Reason, conflict.Message = metav1.ConditionTrue, "cidr_overlap", s.Conflict
	}
	if p.Err != "" {
		conflict.Reason = "invalid_pool"
	}
	count := func(kind string, n fmt.Stringer) metav1.Condition {
		return metav1.Condition{Type: kind, Status: metav1.ConditionUnknown, Reason: "noop", Message: n.String()}
	}
	conditions := slices.Clone(p.Conditions)
	if !setConditions(&conditions, p.Generation, conflict, count(conditionTotal, s.Total), count(conditionAvailable, s.Available), count(conditionUsed, s.Used)) {
		return nil
	}
	if conflict.Status == metav1.ConditionTrue {
		l.log.Warn("pool of addresses gives out none", "pool", p.Name, "reason", s.Conflict)
	}
	_, err := k8s.LoadBalancerIPPools.Patch(ctx, l.client, "", p.Name, "status", types.MergePatchType, map[string]any{
		"metadata": map[string]any{"uid": p.UID}, "status": map[string]any{"conditions": conditions},
	})
	return err
}

// setConditions puts conditions into a list, and tells whether that says anything
// new. The time is that of the last change of the status.
func setConditions(list *[]metav1.Condition, generation int64, want ...metav1.Condition) (changed bool) {
	for _, c := range want {
		c.LastTransitionTime, c.ObservedGeneration = metav1.Now(), generation
		i := slices.IndexFunc(*list, func(o metav1.Condition) bool { return o.Type == c.Type })
		if i < 0 {
			*list, changed = append(*list, c), true
			continue
		}
		have := &(*list)[i]
		if have.Status == c.Status && have.Reason == c.Reason && have.Message == c.Message {
			continue
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
		*have, changed = c, true
	}
	return changed
}

// olderVersion compares resource versions; those that are no numbers are never older.
func olderVersion(a, b string) bool {
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	return errX == nil && errY == nil && x < y
}
