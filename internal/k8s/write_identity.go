// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/label"
)

// identityObject is a CiliumIdentity as other clients expect it: the object's
// own labels repeat the pod's namespace, so that it can be listed by it.
func identityObject(number uint32, labels map[string]string) *ciliumv2.CiliumIdentity {
	o := &ciliumv2.CiliumIdentity{
		ObjectMeta:     metav1.ObjectMeta{Name: strconv.FormatUint(uint64(number), 10)},
		SecurityLabels: labels,
	}
	for k, v := range labels {
		if strings.TrimPrefix(k, label.SourceK8s+":") == label.KeyNamespace {
			o.Labels = map[string]string{label.KeyNamespace: v}
		}
	}
	return o
}

// AnnotationUnused is on a CiliumIdentity that the operator found unused, with
// the time in RFC 3339. It goes away with the identity, or when the identity
// is used again.
const AnnotationUnused = "io.cilium.heartbeat"

// KeepIdentity tells the operator that the number is in use. An agent calls it
// before it uses a number that somebody else created: if the answer is a
// NotFound error, the number is gone.
func (c *Client) KeepIdentity(ctx context.Context, number uint32) error {
	name := strconv.FormatUint(uint64(number), 10)
	o, err := CiliumIdentities.Get(ctx, c, "", name)
	if err != nil || o.Annotations[AnnotationUnused] == "" {
		return err
	}
	// This raises the resource version, so that a deletion under way fails.
	_, err = CiliumIdentities.Patch(ctx, c, "", name, "", types.MergePatchType, map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{AnnotationUnused: nil}},
	})
	return err
}
