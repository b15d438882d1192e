// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	npa "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/label"
)

// decodeObject turns the JSON of an object into a policy object.
func decodeObject(t testing.TB, raw json.RawMessage) Object {
	t.Helper()
	var head struct {
		Kind     Kind
		Metadata struct {
			Name, Namespace string
			Annotations     map[string]string
		}
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		t.Fatal(err)
	}
	if head.Kind == "" {
		head.Kind = KindNetworkPolicy // some of cyclonus leave it out
	}
	o := Object{Kind: head.Kind, Namespace: head.Metadata.Namespace, Name: head.Metadata.Name,
		Audit: head.Metadata.Annotations[AnnotationAudit] == "true"}
	var err error
	switch head.Kind {
	case KindNetworkPolicy:
		spec := &networkingv1.NetworkPolicy{}
		err, o.Spec = json.Unmarshal(raw, spec), spec
	case KindCiliumNetworkPolicy:
		spec := &ciliumv2.CiliumNetworkPolicy{}
		err, o.Spec = json.Unmarshal(raw, spec), spec
	case KindCiliumClusterwideNetworkPolicy:
		spec := &ciliumv2.CiliumClusterwideNetworkPolicy{}
		err, o.Spec = json.Unmarshal(raw, spec), spec
	case KindClusterNetworkPolicy:
		spec := &npa.ClusterNetworkPolicy{}
		err, o.Spec = json.Unmarshal(raw, spec), spec
	default:
		err = fmt.Errorf("kind %q", head.Kind)
	}
	if err != nil {
		o.Spec, o.Err = nil, err.Error()
	}
	return o
}

var protocolNumbers = map[string]uint8{"TCP": protoTCP, "UDP": protoUDP, "SCTP": protoSCTP, "ICMP": protoICMP}

// podLabels are the labels of a pod's identity.
func podLabels(namespace string, labels, namespaceLabels map[string]string) label.Set {
	list := []label.Label{
		{Source: label.SourceK8s, Key: label.KeyNamespace, Value: namespace},
		{Source: label.SourceK8s, Key: label.KeyCluster, Value: "default"},
	}
	for k, v := range labels {
		list = append(list, label.Label{Source: label.SourceK8s, Key: k, Value: v})
	}
	for k, v := range namespaceLabels {
		list = append(list, label.Label{Source: label.SourceK8s, Key: label.PrefixNamespaceKey + k, Value: v})
	}
	return label.NewSet(list...)
}
