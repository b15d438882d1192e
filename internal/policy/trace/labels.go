// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/label"
)

// PodLabels are the labels of the identity of a pod that is only thought of:
// its own, and those that its namespace and the cluster give. Without a label
// of the namespace it is in "default". Reserved labels stand for themselves:
// they are not a pod's.
func PodLabels(list rest.Labels, cluster string, namespace func(name string) map[string]string) (labels label.Set, pod bool) {
	var all []label.Label
	for _, text := range list {
		l := label.Parse(text)
		if l.Source == label.SourceAny {
			l.Source = label.SourceK8s
		}
		if l.Source == label.SourceK8s && l.Key == "namespace" {
			l.Key = label.KeyNamespace
		}
		all = append(all, l)
		if l.Source == label.SourceReserved {
			return label.NewSet(all...), false
		}
	}
	own := label.NewSet(all...)
	name, ok := own.Get(label.SourceK8s, label.KeyNamespace)
	if !ok {
		name = "default"
	}
	base := []label.Label{{Source: label.SourceK8s, Key: label.KeyNamespace, Value: name}, {Source: label.SourceK8s, Key: label.KeyCluster, Value: cluster}}
	for k, v := range namespace(name) {
		base = append(base, label.Label{Source: label.SourceK8s, Key: label.PrefixNamespaceKey + k, Value: v})
	}
	return label.NewSet(append(base, all...)...), true // the last wins
}
