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
	npa "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/table"
)

// ReflectPolicies keeps the policies of all kinds in the table; cluster adds
// ClusterNetworkPolicies, whose kind may not be defined. The table is synced
// once all of them were listed.
func ReflectPolicies(ctx context.Context, c *Client, cluster bool, w *table.Writer[policy.Object]) error {
	var unlisted atomic.Int32
	listed := func() {
		if unlisted.Add(-1) == 0 {
			w.MarkSynced()
		}
	}
	runs := []func() error{
		func() error {
			return policies(policy.KindNetworkPolicy, NetworkPolicies, networkPolicyRow, listed).run(ctx, c, w)
		},
		func() error {
			return policies(policy.KindCiliumNetworkPolicy, ciliumPolicies, ciliumPolicyRow, listed).run(ctx, c, w)
		},
		func() error {
			return policies(policy.KindCiliumClusterwideNetworkPolicy, ciliumClusterwidePolicies, ciliumClusterwidePolicyRow, listed).run(ctx, c, w)
		},
	}
	if cluster {
		r := policies(policy.KindClusterNetworkPolicy, clusterPolicies, clusterPolicyRow, listed)
		r.optional = true
		runs = append(runs, func() error { return r.run(ctx, c, w) })
	}
	unlisted.Store(int32(len(runs)))
	var all sync.WaitGroup
	errs := make([]error, len(runs))
	for i, run := range runs {
		all.Go(func() { errs[i] = run() })
	}
	all.Wait()
	return cmp.Or(errs...)
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
	object := &ciliumv2.CiliumNetworkPolicy{}
	row := decoded(policy.KindCiliumNetworkPolicy, raw, object)
	object.Status, object.ManagedFields = nil, nil // nobody reads them
	return row
}

func ciliumClusterwidePolicyRow(raw *rawPolicy) policy.Object {
	object := &ciliumv2.CiliumClusterwideNetworkPolicy{}
	row := decoded(policy.KindCiliumClusterwideNetworkPolicy, raw, object)
	object.Status, object.ManagedFields = nil, nil
	return row
}

func clusterPolicyRow(raw *rawPolicy) policy.Object {
	object := &npa.ClusterNetworkPolicy{}
	row := decoded(policy.KindClusterNetworkPolicy, raw, object)
	object.Status, object.ManagedFields = npa.ClusterNetworkPolicyStatus{}, nil
	return row
}

// decoded is the row of an object that came as text.
func decoded(kind policy.Kind, raw *rawPolicy, into any) policy.Object {
	row := policyRow(kind, raw)
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw.text, into); err != nil {
		row.Err = err.Error()
		return row
	}
	row.Spec = into
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
