// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
)

// TaintAgentNotReady keeps pods off a node whose agent is not ready.
const TaintAgentNotReady = "node.cilium.io/agent-not-ready"

// step is one operation of a JSON patch.
type step struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// GetPod reads one pod.
func (c *Client) GetPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return Pods.Get(ctx, c, namespace, name)
}

// GetNode reads one Kubernetes node.
func (c *Client) GetNode(ctx context.Context, name string) (*corev1.Node, error) {
	return Nodes.Get(ctx, c, "", name)
}

// PublishEndpoint makes the stored CiliumEndpoint have the status and the
// labels of the given one. An object of an earlier pod of the same name, told
// by the UID of its owner, is replaced.
func (c *Client) PublishEndpoint(ctx context.Context, want *ciliumv2.CiliumEndpoint) error {
	old, err := CiliumEndpoints.Get(ctx, c, want.Namespace, want.Name)
	switch {
	case apierrors.IsNotFound(err):
		_, err = CiliumEndpoints.Create(ctx, c, want)
		return err
	case err != nil:
		return err
	}
	if ownerUID(old) != ownerUID(want) {
		if err := CiliumEndpoints.Delete(ctx, c, old.Namespace, old.Name, old.UID); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		_, err = CiliumEndpoints.Create(ctx, c, want)
		return err
	}
	patch := []step{{"test", "/metadata/uid", old.UID}, {"add", "/status", want.Status}}
	if want.Labels != nil {
		patch = append(patch, step{"add", "/metadata/labels", want.Labels})
	}
	_, err = CiliumEndpoints.Patch(ctx, c, want.Namespace, want.Name, "", types.JSONPatchType, patch)
	return err
}

// DeleteEndpoint removes a CiliumEndpoint that belongs to the pod with the UID;
// an absent object, or one of another pod, is no error.
func (c *Client) DeleteEndpoint(ctx context.Context, namespace, name, podUID string) error {
	old, err := CiliumEndpoints.Get(ctx, c, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if podUID != "" && string(ownerUID(old)) != podUID {
		return nil
	}
	err = CiliumEndpoints.Delete(ctx, c, namespace, name, old.UID)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// PodOwner is the owner reference that ties an object to a pod: Kubernetes
// removes the object after the pod.
func PodOwner(name, uid string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: types.UID(uid)}
}

func ownerUID(o metav1.Object) types.UID {
	for _, owner := range o.GetOwnerReferences() {
		if owner.Kind == "Pod" {
			return owner.UID
		}
	}
	return ""
}

// PublishNode makes the stored CiliumNode what edit turns it into, creating it
// if it is absent. Edit gets a fresh object each time somebody else was
// quicker, and must not keep it; it leaves alone what others own.
func (c *Client) PublishNode(ctx context.Context, name string, edit func(*ciliumv2.CiliumNode)) (*ciliumv2.CiliumNode, error) {
	for {
		old, err := CiliumNodes.Get(ctx, c, "", name)
		if apierrors.IsNotFound(err) {
			fresh := &ciliumv2.CiliumNode{ObjectMeta: metav1.ObjectMeta{Name: name}}
			edit(fresh)
			fresh, err = CiliumNodes.Create(ctx, c, fresh)
			if apierrors.IsAlreadyExists(err) {
				continue
			}
			return fresh, err
		}
		if err != nil {
			return nil, err
		}
		edit(old)
		stored, err := CiliumNodes.Update(ctx, c, old)
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			continue
		}
		return stored, err
	}
}

// CreateIdentity stores a CiliumIdentity under the number. It fails with an
// AlreadyExists error if another label set has the number.
func (c *Client) CreateIdentity(ctx context.Context, number uint32, labels map[string]string) (*ciliumv2.CiliumIdentity, error) {
	return CiliumIdentities.Create(ctx, c, identityObject(number, labels))
}

// RemoveTaint removes the taint with the key from a node; an absent taint is no
// error. It reports whether it was there.
func (c *Client) RemoveTaint(ctx context.Context, node, taint string) (bool, error) {
	for {
		n, err := Nodes.Get(ctx, c, "", node)
		if err != nil {
			return false, err
		}
		rest := slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(t corev1.Taint) bool { return t.Key == taint })
		if len(rest) == len(n.Spec.Taints) {
			return false, nil
		}
		// The version makes the server refuse if somebody changed the taints.
		_, err = Nodes.Patch(ctx, c, "", node, "", types.MergePatchType, map[string]any{
			"metadata": map[string]any{"resourceVersion": n.ResourceVersion},
			"spec":     map[string]any{"taints": rest},
		})
		if !apierrors.IsConflict(err) {
			return err == nil, err
		}
	}
}

// SetNetworkAvailable tells the cluster that the node's network works.
func (c *Client) SetNetworkAvailable(ctx context.Context, node, reason, message string) error {
	now := metav1.Now()
	_, err := Nodes.Patch(ctx, c, "", node, "status", types.StrategicMergePatchType, map[string]any{
		"status": map[string]any{"conditions": []corev1.NodeCondition{{
			Type:               corev1.NodeNetworkUnavailable,
			Status:             corev1.ConditionFalse,
			Reason:             reason,
			Message:            message,
			LastHeartbeatTime:  now,
			LastTransitionTime: now,
		}}},
	})
	return err
}
