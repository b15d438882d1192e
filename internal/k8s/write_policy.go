// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/policy/report"
	"github.com/stentor-net/stentor/internal/table"
)

// ReportNamespace holds a Lease for each node, on which its agent reports. It is
// a namespace of its own so that agents need rights on no other Lease.
const ReportNamespace = "stentor-nodes"

// AnnotationReport is where a node's Lease has the report about policy.
const AnnotationReport = "stentor.io/policy-report"

// NodeReport is what the agent of a node reported: a row of the operator's table.
type NodeReport struct {
	Node   string
	Report report.Report
	Err    string // why it cannot be read
}

// ReflectReports keeps the reports of all nodes in the table.
func ReflectReports(ctx context.Context, c *Client, w *table.Writer[NodeReport]) error {
	return reflection[*coordinationv1.Lease, NodeReport]{
		kind: Leases, namespace: ReportNamespace, synced: w.MarkSynced,
		key: func(r NodeReport) string { return r.Node },
		row: func(l *coordinationv1.Lease) (NodeReport, bool) {
			text, ok := l.Annotations[AnnotationReport]
			row := NodeReport{Node: l.Name}
			var err error
			if row.Report, err = report.Decode(text); err != nil {
				row.Err = err.Error()
			}
			return row, ok
		},
	}.run(ctx, c, w)
}

// PublishReport stores a node's report. The Lease goes with the CiliumNode.
func (c *Client) PublishReport(ctx context.Context, node string, r report.Report) error {
	now := metav1.NewMicroTime(time.Now())
	notes := map[string]string{AnnotationReport: r.Encode()}
	_, err := Leases.Patch(ctx, c, ReportNamespace, node, "", types.MergePatchType, map[string]any{
		"metadata": map[string]any{"annotations": notes}, "spec": map[string]any{"renewTime": now},
	})
	if !apierrors.IsNotFound(err) {
		return err
	}
	owner, err := CiliumNodes.Get(ctx, c, "", node)
	if err != nil {
		return err
	}
	_, err = Leases.Create(ctx, c, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ReportNamespace, Name: node, Annotations: notes,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: ciliumGroup.String(), Kind: "CiliumNode", Name: node, UID: owner.UID}},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &node, RenewTime: &now},
	})
	return err
}

// PublishPolicyConditions stores conditions of a policy of any kind but
// NetworkPolicy, which has no status; others that it has stay. A status that says
// all of it already and a policy that is gone or another one by now are no errors.
func (c *Client) PublishPolicyConditions(ctx context.Context, o policy.Object, want ...ciliumv2.PolicyCondition) error {
	k := ciliumPolicies
	switch o.Kind {
	case policy.KindCiliumNetworkPolicy:
	case policy.KindCiliumClusterwideNetworkPolicy:
		k = ciliumClusterwidePolicies
	case policy.KindClusterNetworkPolicy:
		k = clusterPolicies
		for i := range want { // its conditions need a message
			want[i].Message = cmp.Or(want[i].Message, "the policy is in force")
		}
	default:
		return nil
	}
	old, err := k.Get(ctx, c, o.Namespace, o.Name)
	if apierrors.IsNotFound(err) || err == nil && o.UID != "" && string(old.UID) != o.UID {
		return nil
	}
	if err != nil {
		return err
	}
	var stored struct {
		Status ciliumv2.PolicyStatus `json:"status"` // the tag counts: keys are case-sensitive here
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(old.text, &stored); err != nil {
		return fmt.Errorf("read status of %s %s: %w", o.Kind, key(o.Namespace, o.Name), err)
	}
	conditions, changed := stored.Status.Conditions, false
	for _, w := range want {
		changed = setCondition(&conditions, w) || changed
	}
	if !changed {
		return nil
	}
	_, err = k.Patch(ctx, c, o.Namespace, o.Name, "status", types.MergePatchType, map[string]any{
		"metadata": map[string]any{"uid": old.UID}, "status": map[string]any{"conditions": conditions},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// setCondition stores a condition and tells whether it says anything new. The
// time of the transition is that of the last change of the status.
func setCondition(list *[]ciliumv2.PolicyCondition, want ciliumv2.PolicyCondition) bool {
	want.LastTransitionTime = metav1.Now()
	i := slices.IndexFunc(*list, func(p ciliumv2.PolicyCondition) bool { return p.Type == want.Type })
	if i < 0 {
		*list = append(*list, want)
		return true
	}
	have := &(*list)[i]
	if have.Status == want.Status && have.Message == want.Message && have.Reason == want.Reason {
		return false
	}
	if have.Status == want.Status {
		want.LastTransitionTime = have.LastTransitionTime
	}
	*have = want
	return true
}

// WarnAboutPolicy records an Event about a policy. The same words about the same
// object are one Event.
func (c *Client) WarnAboutPolicy(ctx context.Context, o policy.Object, source, reason, message string) error {
	group := ciliumGroup.String()
	switch o.Kind {
	case policy.KindNetworkPolicy:
		group = "networking.k8s.io/v1"
	case policy.KindClusterNetworkPolicy:
		group = policyGroup.String()
	}
	about := corev1.ObjectReference{APIVersion: group, Kind: string(o.Kind), Namespace: o.Namespace, Name: o.Name, UID: types.UID(o.UID), ResourceVersion: o.ResourceVersion}
	return c.warn(ctx, about, source, reason, message, fmt.Sprint(o.Generation))
}
