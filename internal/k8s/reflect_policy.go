// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/table"
)

// ReflectPolicies keeps the policies of all three kinds in the table. The table
// is synced once all of them were listed.
func ReflectPolicies(ctx context.Context, c *Client, w *table.Writer[policy.Object]) error {
	var unlisted atomic.Int32
	unlisted.Store(3)
	listed := func() {
		if unlisted.Add(-1) == 0 {
			w.MarkSynced()
		}
	}
	plain := policies(policy.KindNetworkPolicy, NetworkPolicies, networkPolicyRow, listed)
	cilium := policies(policy.KindCiliumNetworkPolicy, ciliumPolicies, ciliumPolicyRow, listed)
	wide := policies(policy.KindCiliumClusterwideNetworkPolicy, ciliumClusterwidePolicies, ciliumClusterwidePolicyRow, listed)

	var runs sync.WaitGroup
	var errs [3]error
	runs.Go(func() { errs[0] = plain.run(ctx, c, w) })
	runs.Go(func() { errs[1] = cilium.run(ctx, c, w) })
	runs.Go(func() { errs[2] = wide.run(ctx, c, w) })
	runs.Wait()
	return cmp.Or(errs[0], errs[1], errs[2])
}

// policies reflects one kind; listed is called once, after its first list.
func policies[T Object](kind policy.Kind, k Kind[T], row func(T) policy.Object, listed func()) reflection[T, policy.Object] {
	return reflection[T, policy.Object]{
		kind:   k,
		row:    func(o T) (policy.Object, bool) { return row(o), true },
		key:    policy.Object.Key,
		mine:   func(o policy.Object) bool { return o.Kind == kind },
		same:   samePolicy,
		synced: sync.OnceFunc(listed),
	}
}

// samePolicy ignores what does not change the meaning: the generation stands
// still while only the status or the metadata changes.
func samePolicy(a, b policy.Object) bool {
	return a.UID == b.UID && a.Generation == b.Generation && a.Err == b.Err && a.Audit == b.Audit
}

func networkPolicyRow(o *networkingv1.NetworkPolicy) policy.Object {
	row := policyRow(policy.KindNetworkPolicy, o)
	o.ManagedFields = nil
	row.Spec = o
	return row
}

func ciliumPolicyRow(raw *rawPolicy) policy.Object {
	row := policyRow(policy.KindCiliumNetworkPolicy, raw)
	object := &ciliumv2.CiliumNetworkPolicy{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw.text, object); err != nil {
		row.Err = err.Error()
		return row
	}
	object.Status, object.ManagedFields = nil, nil // nobody reads them
	row.Spec = object
	return row
}

func ciliumClusterwidePolicyRow(raw *rawPolicy) policy.Object {
	row := policyRow(policy.KindCiliumClusterwideNetworkPolicy, raw)
	object := &ciliumv2.CiliumClusterwideNetworkPolicy{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw.text, object); err != nil {
		row.Err = err.Error()
		return row
	}
	object.Status, object.ManagedFields = nil, nil
	row.Spec = object
	return row
}

func policyRow(kind policy.Kind, o metav1.Object) policy.Object {
	return policy.Object{
		Kind:            kind,
		Namespace:       o.GetNamespace(),
		Name:            o.GetName(),
		UID:             string(o.GetUID()),
		ResourceVersion: o.GetResourceVersion(),
		Generation:      o.GetGeneration(),
		Audit:           o.GetAnnotations()[policy.AnnotationAudit] == "true",
	}
}
