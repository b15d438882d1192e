// SPDX-License-Identifier: Apache-2.0

package v2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CiliumLoadBalancerIPPool is addresses for Services of type LoadBalancer.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium},singular="ciliumloadbalancerippool",path="ciliumloadbalancerippools",scope="Cluster",shortName={ippools,ippool,lbippool,lbippools}
// +kubebuilder:printcolumn:JSONPath=".spec.disabled",name="Disabled",type=boolean
// +kubebuilder:printcolumn:JSONPath=".status.conditions[?(@.type==\"cilium.io/PoolConflict\")].status",name="Conflicting",type=string
// +kubebuilder:printcolumn:JSONPath=".status.conditions[?(@.type==\"cilium.io/IPsAvailable\")].message",name="IPs Available",type=string
// +kubebuilder:printcolumn:JSONPath=".metadata.creationTimestamp",name="Age",type=date
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
type CiliumLoadBalancerIPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec LoadBalancerIPPoolSpec `json:"spec"`

	// +optional
	Status LoadBalancerIPPoolStatus `json:"status,omitzero"`
}

// CiliumLoadBalancerIPPoolList is a list of CiliumLoadBalancerIPPool objects.
//
// +kubebuilder:object:root=true
type CiliumLoadBalancerIPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []CiliumLoadBalancerIPPool `json:"items"`
}

// LoadBalancerIPPoolSpec is the content of a CiliumLoadBalancerIPPool.
type LoadBalancerIPPoolSpec struct {
	// ServiceSelector selects the Services that may have addresses of the pool;
	// absent is all. The keys io.kubernetes.service.namespace and
	// io.kubernetes.service.name stand for a Service's own.
	//
	// +optional
	ServiceSelector *Selector `json:"serviceSelector,omitempty"`

	// AllowFirstLastIPs gives out the first and the last address of each CIDR,
	// too; absent is Yes.
	//
	// +kubebuilder:validation:Enum=Yes;No
	// +optional
	AllowFirstLastIPs string `json:"allowFirstLastIPs,omitempty"`

	// Blocks are the addresses.
	//
	// +optional
	Blocks []LoadBalancerIPBlock `json:"blocks,omitzero"`

	// Disabled gives out no more addresses; those given stay.
	//
	// +kubebuilder:default=false
	// +optional
	Disabled bool `json:"disabled,omitempty"`
}

// LoadBalancerIPBlock is a prefix, or a range of addresses.
type LoadBalancerIPBlock struct {
	// +kubebuilder:validation:Format=cidr
	// +optional
	CIDR string `json:"cidr,omitempty"`

	// Start is the first address of a range.
	//
	// +optional
	Start string `json:"start,omitempty"`

	// Stop is its last address; absent is Start.
	//
	// +optional
	Stop string `json:"stop,omitempty"`
}

// LoadBalancerIPPoolStatus tells of the pool: whether it is in conflict with
// another one, and how many addresses it has.
type LoadBalancerIPPoolStatus struct {
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitzero"`
}
