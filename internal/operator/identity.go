// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/table"
)

// verdicts about identities. An unused identity is marked first; it goes when
// the mark is old enough and nobody has touched it since.
type verdicts struct {
	mark, unmark, remove []identityRow
	// next is when to look again; zero is after the interval.
	next time.Duration
}

// judgeIdentities is pure. Timeout and duplicate are how long an identity is
// unused before it goes, the latter if its labels have a lower number, too.
func judgeIdentities(now time.Time, identities table.Snapshot[identityRow], endpoints table.Snapshot[endpointRow], timeout, duplicate time.Duration) verdicts {
	used := map[uint64]bool{}
	for _, e := range endpoints.All() {
		used[e.Identity] = true
	}
	lowest := map[string]uint64{}
	for _, i := range identities.All() {
		if n, ok := lowest[i.Labels]; !ok || i.Number < n {
			lowest[i.Labels] = i.Number
		}
	}
	var v verdicts
	for _, i := range identities.All() {
		limit := timeout
		if lowest[i.Labels] != i.Number {
			limit = duplicate
		}
		switch left := limit - now.Sub(i.Unused); {
		case used[i.Number] && !i.Unused.IsZero():
			v.unmark = append(v.unmark, i)
		case used[i.Number]:
		case i.Unused.IsZero():
			v.mark = append(v.mark, i)
			v.soon(limit)
		case left <= 0:
			v.remove = append(v.remove, i)
		default:
			v.soon(left)
		}
	}
	return v
}

func (v *verdicts) soon(d time.Duration) {
	if v.next == 0 || d < v.next {
		v.next = d
	}
}

// collectIdentities removes identities that nobody uses, until ctx ends.
func (op *operator) collectIdentities(ctx context.Context, view *view) error {
	for _, synced := range []<-chan struct{}{view.identities.Synced(), view.endpoints.Synced()} {
		select {
		case <-synced:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for {
		v := judgeIdentities(time.Now(), view.identities.Snapshot(), view.endpoints.Snapshot(), op.IdentityTimeout, op.DuplicateTimeout)
		op.carryOut(ctx, v)
		op.metrics.runs.Inc("success")
		wait := op.IdentityGCInterval
		if v.next > 0 {
			wait = min(wait, v.next+time.Second) // marks have whole seconds
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

func (op *operator) carryOut(ctx context.Context, v verdicts) {
	for _, i := range v.mark {
		op.check(ctx, "identity not marked", i, op.annotate(ctx, i, time.Now().UTC().Format(time.RFC3339)))
	}
	for _, i := range v.unmark {
		op.check(ctx, "identity not unmarked", i, op.annotate(ctx, i, nil))
	}
	for _, i := range v.remove {
		// The version is the one that was judged: an agent that took the
		// identity meanwhile has raised it.
		err := k8s.CiliumIdentities.DeleteVersion(ctx, op.client, i.object)
		op.check(ctx, "identity not removed", i, err)
		if err == nil {
			op.metrics.removed.Inc("identity")
			op.Log.Info("identity removed", "identity", i.Number, "labels", i.Labels)
		}
	}
}

// annotate sets or removes the mark, if the identity is still as it was judged.
func (op *operator) annotate(ctx context.Context, i identityRow, mark any) error {
	_, err := k8s.CiliumIdentities.Patch(ctx, op.client, "", i.object.Name, "", types.MergePatchType, map[string]any{
		"metadata": map[string]any{
			"resourceVersion": i.Version,
			"annotations":     map[string]any{k8s.AnnotationUnused: mark},
		},
	})
	return err
}

// check logs an error that the next look will not cure by itself.
func (op *operator) check(ctx context.Context, message string, i identityRow, err error) {
	if err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		op.Log.Warn(message, "identity", i.Number, "error", err)
	}
}
