// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
)

// Group versions of the kinds below.
var (
	ciliumGroup     = schema.GroupVersion{Group: ciliumv2.Group, Version: ciliumv2.Version}
	policyGroup     = schema.GroupVersion{Group: "policy.networking.k8s.io", Version: "v1alpha2"}
	definitionGroup = schema.GroupVersion{Group: "apiextensions.k8s.io", Version: "v1"}
)

// newScheme knows the kinds that Stentor reads or writes, and no others.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for group, objects := range map[schema.GroupVersion][]runtime.Object{
		corev1.SchemeGroupVersion: {
			&corev1.Pod{}, &corev1.PodList{}, &corev1.Node{}, &corev1.NodeList{},
			&corev1.Namespace{}, &corev1.NamespaceList{}, &corev1.Service{}, &corev1.ServiceList{},
			&corev1.Event{}, &corev1.EventList{},
		},
		discoveryv1.SchemeGroupVersion:  {&discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{}},
		networkingv1.SchemeGroupVersion: {&networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{}},
		coordinationv1.SchemeGroupVersion: {
			&coordinationv1.Lease{}, &coordinationv1.LeaseList{},
		},
		ciliumGroup: {
			&ciliumv2.CiliumEndpoint{}, &ciliumv2.CiliumEndpointList{},
			&ciliumv2.CiliumIdentity{}, &ciliumv2.CiliumIdentityList{},
			&ciliumv2.CiliumNode{}, &ciliumv2.CiliumNodeList{},
			&ciliumv2.CiliumCIDRGroup{}, &ciliumv2.CiliumCIDRGroupList{},
			&ciliumv2.CiliumLocalRedirectPolicy{}, &ciliumv2.CiliumLocalRedirectPolicyList{},
			&ciliumv2.CiliumLoadBalancerIPPool{}, &ciliumv2.CiliumLoadBalancerIPPoolList{},
		},
	} {
		s.AddKnownTypes(group, objects...)
		metav1.AddToGroupVersion(s, group)
	}
	// Policies are kept as text until they are converted: see rawPolicy.
	for _, k := range []Kind[*rawPolicy]{ciliumPolicies, ciliumClusterwidePolicies, clusterPolicies} {
		s.AddKnownTypeWithName(k.group.WithKind(k.name), &rawPolicy{})
		s.AddKnownTypeWithName(k.group.WithKind(k.name+"List"), &rawPolicyList{})
	}
	metav1.AddToGroupVersion(s, policyGroup)
	s.AddKnownTypeWithName(definitionGroup.WithKind("CustomResourceDefinition"), &Definition{})
	s.AddKnownTypeWithName(definitionGroup.WithKind("CustomResourceDefinitionList"), &DefinitionList{})
	metav1.AddToGroupVersion(s, definitionGroup)
	return s
}
