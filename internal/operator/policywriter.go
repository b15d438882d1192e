// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"log/slog"
	"time"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/policy"
)

// policyWriter writes the status of policies from what nodes report, and warns
// about those that were set aside.
type policyWriter struct {
	log      *slog.Logger
	view     *view
	enforced *enforcement
	pace     pace
	told     map[string]*told

	store func(ctx context.Context, o policy.Object, c ...ciliumv2.PolicyCondition) error
	warn  func(ctx context.Context, o policy.Object, reason, message string) error
}

// Pace of the statuses.
const (
	policyStatusEvery   = 500 * time.Millisecond // changes that come closer are taken together
	policyStatusSettle  = 3 * time.Second
	policyStatusRefresh = 20 * time.Second
	policyStatusRetry   = 5 * time.Second
)

func newPolicyWriter(op *operator, v *view) *policyWriter {
	return &policyWriter{
		log: op.Log, view: v, enforced: newEnforcement(), told: map[string]*told{},
		pace:  pace{settle: policyStatusSettle, refresh: policyStatusRefresh},
		store: op.client.PublishPolicyConditions,
		warn: func(ctx context.Context, o policy.Object, reason, message string) error {
			return op.client.WarnAboutPolicy(ctx, o, "stentor-operator", reason, message)
		},
	}
}

func (w *policyWriter) run(ctx context.Context) error {
	for _, synced := range []<-chan struct{}{w.view.policies.Synced(), w.view.reports.Synced(), w.view.nodes.Synced()} {
		select {
		case <-synced:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for {
		changed := []<-chan struct{}{w.view.policies.Changed(), w.view.reports.Changed(), w.view.nodes.Changed()}
		wait := w.step(ctx, time.Now())
		if err := pause(ctx, policyStatusEvery); err != nil {
			return err
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed[0]:
		case <-changed[1]:
		case <-changed[2]:
		case <-timer:
		}
	}
}

// step writes what is due, and says after which time there is more; zero is
// after a change.
func (w *policyWriter) step(ctx context.Context, now time.Time) (next time.Duration) {
	objects, reports := w.view.policies.Snapshot(), w.view.reports.Snapshot()
	w.enforced.look(objects, reports)
	var nodes []string
	for name := range w.view.nodes.Snapshot().All() {
		nodes = append(nodes, name)
	}
	soon := func(d time.Duration) {
		if d > 0 && (next == 0 || d < next) {
			next = d
		}
	}
	for key := range w.told {
		if _, ok := objects.Get(key); !ok {
			delete(w.told, key)
		}
	}
	for key, o := range objects.All() {
		t := w.told[key]
		if v := (version{o.UID, o.Generation}); t == nil || t.version != v {
			t = &told{version: v, since: now}
			w.told[key] = t
		}
		s := w.enforced.about(&o, nodes, reports)
		soon(w.tell(ctx, o, t, &s, now))
	}
	return next
}

// tell writes status and Event of one object.
func (w *policyWriter) tell(ctx context.Context, o policy.Object, t *told, s *state, now time.Time) time.Duration {
	if message := s.text(s.invalid); message != "" && t.warned != message {
		if err := w.warn(ctx, o, "PolicyQuarantined", message); err != nil {
			w.log.Debug("event about a policy is not stored", "policy", o.Key(), "error", err)
			return policyStatusRetry
		}
		t.warned = message
		w.log.Warn("policy is quarantined", "policy", o.Key(), "reason", message)
	}
	if o.Kind == policy.KindNetworkPolicy {
		return 0 // it has no status
	}
	want := s.conditions()
	write, wait := w.pace.due(t, want, now)
	if !write {
		return wait
	}
	if err := w.store(ctx, o, want...); err != nil {
		if ctx.Err() == nil {
			w.log.Debug("status of a policy is not stored", "policy", o.Key(), "error", err)
		}
		return policyStatusRetry
	}
	t.text, t.status, t.written = textOf(want), [2]string{want[0].Status, want[1].Status}, now
	return 0
}

func reportKey(r k8s.NodeReport) string { return r.Node }
