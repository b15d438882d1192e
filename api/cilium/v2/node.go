// SPDX-License-Identifier: Apache-2.0

package v2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CiliumNode describes one node to all others. It has the name of the node,
// is created by the node's agent, and gets its pod prefixes from the operator.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium},singular="ciliumnode",path="ciliumnodes",scope="Cluster",shortName={cn,ciliumn}
// +kubebuilder:printcolumn:JSONPath=".spec.addresses[?(@.type==\"CiliumInternalIP\")].ip",description="Address of the node inside the pod network",name="CiliumInternalIP",type=string,priority=1
// +kubebuilder:printcolumn:JSONPath=".spec.addresses[?(@.type==\"InternalIP\")].ip",description="Address of the node",name="InternalIP",type=string,priority=1
// +kubebuilder:printcolumn:JSONPath=".metadata.creationTimestamp",name="Age",type=date
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
type CiliumNode struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec NodeSpec `json:"spec"`
	// +optional
	Status NodeStatus `json:"status,omitzero"`
}

// CiliumNodeList is a list of CiliumNode objects.
//
// +kubebuilder:object:root=true
type CiliumNodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []CiliumNode `json:"items"`
}

// NodeSpec is what a node says about itself, and what it is given.
type NodeSpec struct {
	// InstanceID is the name of the machine at its provider.
	//
	// +optional
	InstanceID string `json:"instance-id,omitempty"`

	// BootID changes whenever the node boots.
	//
	// +optional
	BootID string `json:"bootid,omitempty"`

	// Addresses are all addresses of the node.
	//
	// +optional
	Addresses []NodeAddress `json:"addresses,omitempty"`

	// HealthAddressing is where the health endpoint of the node is reached.
	//
	// +optional
	HealthAddressing AddressPair `json:"health,omitzero"`

	// IngressAddressing is the source of traffic from the node's ingress proxy.
	//
	// +optional
	IngressAddressing AddressPair `json:"ingress,omitzero"`

	// Encryption says how traffic to the node is encrypted.
	//
	// +optional
	Encryption EncryptionSpec `json:"encryption,omitzero"`

	// +optional
	ENI *ENISpec `json:"eni,omitempty"`
	// +optional
	Azure *AzureSpec `json:"azure,omitempty"`
	// +optional
	AlibabaCloud *AlibabaCloudSpec `json:"alibaba-cloud,omitempty"`

	// IPAM holds the addresses that the node may give to pods.
	//
	// +optional
	IPAM NodeIPAMSpec `json:"ipam,omitzero"`
}

// The types of a NodeAddress.
const (
	AddressInternalIP       = "InternalIP"
	AddressExternalIP       = "ExternalIP"
	AddressCiliumInternalIP = "CiliumInternalIP"
)

// NodeAddress is one address of a node.
type NodeAddress struct {
	// Type is one of the Address constants.
	//
	// +optional
	Type string `json:"type,omitempty"`
	// +optional
	IP string `json:"ip,omitempty"`
}

// NodeIPAMSpec holds the addresses that a node may give to pods.
type NodeIPAMSpec struct {
	// PodCIDRs are the prefixes of the node, at most one per family in
	// cluster-pool mode.
	//
	// +optional
	PodCIDRs []CIDR `json:"podCIDRs,omitempty"`

	// Pool is keyed by IPv4 address.
	//
	// +optional
	Pool map[string]IPAllocation `json:"pool,omitempty"`

	// IPv6Pool is keyed by IPv6 address.
	//
	// +optional
	IPv6Pool map[string]IPAllocation `json:"ipv6-pool,omitempty"`

	// Pools holds the state of multi-pool mode.
	//
	// +optional
	Pools *NodePools `json:"pools,omitempty"`

	// MinAllocate is the number of addresses that the node starts with.
	//
	// +kubebuilder:validation:Minimum=0
	// +optional
	MinAllocate int `json:"min-allocate,omitempty"`

	// MaxAllocate is the number of addresses that the node may hold.
	//
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxAllocate int `json:"max-allocate,omitempty"`

	// PreAllocate is the number of free addresses that the node keeps.
	//
	// +kubebuilder:validation:Minimum=0
	// +optional
	PreAllocate int `json:"pre-allocate,omitempty"`

	// MaxAboveWatermark is the number of addresses above PreAllocate that the
	// node may keep.
	//
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxAboveWatermark int `json:"max-above-watermark,omitempty"`

	// +optional
	StaticIPTags map[string]string `json:"static-ip-tags,omitempty"`
}

// IPAllocation says who has an address.
type IPAllocation struct {
	// Owner is "namespace/name" of a pod, or a role of the node.
	//
	// +optional
	Owner string `json:"owner,omitempty"`
	// Resource is where the address comes from.
	//
	// +optional
	Resource string `json:"resource,omitempty"`
}

// NodePools is the state of multi-pool mode.
type NodePools struct {
	// +optional
	Requested []PoolRequest `json:"requested,omitempty"`
	// +optional
	Allocated []PoolAllocation `json:"allocated,omitempty"`
}

// PoolRequest is what a node needs from a pool.
type PoolRequest struct {
	// +kubebuilder:validation:MinLength=1
	Pool string `json:"pool"`
	// +optional
	Needed PoolDemand `json:"needed,omitzero"`
}

// PoolDemand counts addresses per family.
type PoolDemand struct {
	// +optional
	IPv4Addrs int `json:"ipv4-addrs,omitempty"`
	// +optional
	IPv6Addrs int `json:"ipv6-addrs,omitempty"`
}

// PoolAllocation is what a node has from a pool.
type PoolAllocation struct {
	// +kubebuilder:validation:MinLength=1
	Pool string `json:"pool"`
	// +optional
	CIDRs []CIDR `json:"cidrs,omitempty"`
	// +optional
	AllowFirstIP *bool `json:"allowFirstIP,omitempty"`
	// +optional
	AllowLastIP *bool `json:"allowLastIP,omitempty"`
}

// NodeStatus is what is observed about a node.
type NodeStatus struct {
	// +optional
	ENI *ENIStatus `json:"eni,omitempty"`
	// +optional
	Azure *AzureStatus `json:"azure,omitempty"`
	// +optional
	AlibabaCloud *AlibabaCloudStatus `json:"alibaba-cloud,omitempty"`
	// +optional
	IPAM NodeIPAMStatus `json:"ipam,omitzero"`
}

// NodeIPAMStatus is what is observed about the addresses of a node.
type NodeIPAMStatus struct {
	// Used is keyed by IPv4 address.
	//
	// +optional
	Used map[string]IPAllocation `json:"used,omitempty"`

	// IPv6Used is keyed by IPv6 address.
	//
	// +optional
	IPv6Used map[string]IPAllocation `json:"ipv6-used,omitempty"`

	// PodCIDRs is keyed by prefix.
	//
	// +optional
	PodCIDRs map[string]PodCIDRStatus `json:"pod-cidrs,omitempty"`

	// OperatorStatus is the word of the operator.
	//
	// +optional
	OperatorStatus OperatorStatus `json:"operator-status,omitzero"`

	// ReleaseIPs is keyed by IPv4 address; the value is the step of its release.
	//
	// +optional
	ReleaseIPs map[string]string `json:"release-ips,omitempty"`

	// ReleaseIPv6s is keyed by IPv6 address; the value is the step of its release.
	//
	// +optional
	ReleaseIPv6s map[string]string `json:"release-ipv6s,omitempty"`

	// +optional
	AssignedStaticIP string `json:"assigned-static-ip,omitempty"`
}

// PodCIDRStatus is the state of one pod prefix.
type PodCIDRStatus struct {
	// +kubebuilder:validation:Enum=released;depleted;in-use
	// +optional
	Status string `json:"status,omitempty"`
}

// OperatorStatus is the word of the operator about a node.
type OperatorStatus struct {
	// Error says why the node lacks addresses; empty if it does not.
	//
	// +optional
	Error string `json:"error,omitempty"`
}
