// SPDX-License-Identifier: Apache-2.0

package v2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CiliumNetworkPolicy is a policy for the endpoints of one namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium,ciliumpolicy},singular="ciliumnetworkpolicy",path="ciliumnetworkpolicies",scope="Namespaced",shortName={cnp,ciliumnp}
// +kubebuilder:printcolumn:JSONPath=".metadata.creationTimestamp",name="Age",type=date
// +kubebuilder:printcolumn:JSONPath=".status.conditions[?(@.type=='Valid')].status",name="Valid",type=string
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:validation:XValidation:rule="has(self.spec) || (has(self.specs) && size(self.specs) > 0)",message="spec or specs is required"
type CiliumNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// Spec is one rule. Either it or Specs is set; both together are one policy.
	//
	// +optional
	Spec *Rule `json:"spec,omitempty"`

	// Specs is a list of rules.
	//
	// +optional
	Specs []Rule `json:"specs,omitzero"`

	// Status is written by Stentor only.
	//
	// +optional
	Status *PolicyStatus `json:"status,omitempty"`
}

// CiliumNetworkPolicyList is a list of CiliumNetworkPolicy objects.
//
// +kubebuilder:object:root=true
type CiliumNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []CiliumNetworkPolicy `json:"items"`
}

// CiliumClusterwideNetworkPolicy is a policy for the endpoints of all
// namespaces, or for nodes.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium,ciliumpolicy},singular="ciliumclusterwidenetworkpolicy",path="ciliumclusterwidenetworkpolicies",scope="Cluster",shortName={ccnp}
// +kubebuilder:printcolumn:JSONPath=".status.conditions[?(@.type=='Valid')].status",name="Valid",type=string
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:validation:XValidation:rule="has(self.spec) || (has(self.specs) && size(self.specs) > 0)",message="spec or specs is required"
type CiliumClusterwideNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// Spec is one rule. Either it or Specs is set; both together are one policy.
	//
	// +optional
	Spec *Rule `json:"spec,omitempty"`

	// Specs is a list of rules.
	//
	// +optional
	Specs []Rule `json:"specs,omitzero"`

	// Status is written by Stentor only.
	//
	// +optional
	Status *PolicyStatus `json:"status,omitempty"`
}

// CiliumClusterwideNetworkPolicyList is a list of
// CiliumClusterwideNetworkPolicy objects.
//
// +kubebuilder:object:root=true
type CiliumClusterwideNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []CiliumClusterwideNetworkPolicy `json:"items"`
}

// PolicyStatus says whether a policy is understood and where it is in force.
type PolicyStatus struct {
	// Conditions holds one row per condition type; `Valid` tells whether the
	// policy was parsed and accepted.
	//
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []PolicyCondition `json:"conditions,omitempty"`

	// DerivativePolicies is keyed by the name of each policy derived from this one.
	//
	// +optional
	DerivativePolicies map[string]PolicyNodeStatus `json:"derivativePolicies,omitempty"`

	// Nodes is keyed by node name. Kept for objects written by older releases.
	//
	// +optional
	Nodes map[string]PolicyNodeStatus `json:"nodes,omitempty"`
}

// PolicyConditionValid is the type of the condition that tells whether a
// policy was accepted.
const PolicyConditionValid = "Valid"

// PolicyConditionEnforced is the type of the condition that tells whether all
// nodes have the policy in force.
const PolicyConditionEnforced = "Enforced"

// PolicyCondition is one observation about a policy.
type PolicyCondition struct {
	// Type names the observation.
	Type string `json:"type"`
	// Status is True, False or Unknown.
	Status string `json:"status"`
	// LastTransitionTime is when Status changed last.
	//
	// +optional
	LastTransitionTime metav1.Time `json:"lastTransitionTime,omitzero"`
	// Reason is one CamelCase word.
	//
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message explains the observation to a person.
	//
	// +optional
	Message string `json:"message,omitempty"`
}

// PolicyNodeStatus is the state of a policy on one node.
type PolicyNodeStatus struct {
	// OK is true if the policy was imported without error.
	//
	// +optional
	OK bool `json:"ok,omitempty"`
	// Error is set if the policy could not be imported.
	//
	// +optional
	Error string `json:"error,omitempty"`
	// LastUpdated is when this row was written.
	//
	// +optional
	LastUpdated metav1.Time `json:"lastUpdated,omitzero"`
	// Revision is the node's policy revision in which the rules are in force.
	//
	// +optional
	Revision uint64 `json:"localPolicyRevision,omitempty"`
	// Enforcing is true once all selected endpoints carry the policy.
	//
	// +optional
	Enforcing bool `json:"enforcing,omitempty"`
	// Annotations are those of the policy when it was imported.
	//
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}
