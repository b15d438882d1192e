// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
