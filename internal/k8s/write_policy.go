// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/policy"
)

// PublishPolicyStatus stores whether a policy is valid, in its condition
// "Valid". A status that says so already, a policy that is gone, or one of a
// kind without status are no errors.
func (c *Client) PublishPolicyStatus(ctx context.Context, kind policy.Kind, namespace, name string, valid bool, reason string) error {
	k := ciliumPolicies
	switch kind {
	case policy.KindCiliumNetworkPolicy:
	case policy.KindCiliumClusterwideNetworkPolicy:
		k = ciliumClusterwidePolicies
	case policy.KindClusterNetworkPolicy:
		k = clusterPolicies
		reason = cmp.Or(reason, "the policy is in force") // its conditions need a message
	default:
		return nil
	}
	old, err := k.Get(ctx, c, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var stored struct{ Status ciliumv2.PolicyStatus }
	if err := kjson.UnmarshalCaseSensitivePreserveInts(old.text, &stored); err != nil {
		return fmt.Errorf("read status of %s %s: %w", kind, key(namespace, name), err)
	}
	want := ciliumv2.PolicyCondition{
		Type: ciliumv2.PolicyConditionValid, Status: "True", Reason: "PolicyValid", Message: reason, LastTransitionTime: metav1.Now(),
	}
	if !valid {
		want.Status, want.Reason = "False", "PolicyInvalid"
	}
	conditions := stored.Status.Conditions
	i := slices.IndexFunc(conditions, func(p ciliumv2.PolicyCondition) bool { return p.Type == want.Type })
	switch {
	case i < 0:
		conditions = append(conditions, want)
	case conditions[i].Status == want.Status && conditions[i].Message == want.Message:
		return nil
	default:
		if conditions[i].Status == want.Status {
			want.LastTransitionTime = conditions[i].LastTransitionTime
		}
		conditions[i] = want
	}
	_, err = k.Patch(ctx, c, namespace, name, "status", types.MergePatchType, map[string]any{
		"metadata": map[string]any{"uid": old.UID}, "status": map[string]any{"conditions": conditions},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
