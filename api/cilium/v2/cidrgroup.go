// SPDX-License-Identifier: Apache-2.0

package v2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CiliumCIDRGroup is a named list of prefixes. Rules refer to it by name or by
// its labels.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium},singular="ciliumcidrgroup",path="ciliumcidrgroups",scope="Cluster",shortName={ccg}
// +kubebuilder:storageversion
type CiliumCIDRGroup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec CIDRGroupSpec `json:"spec"`
}

// CiliumCIDRGroupList is a list of CiliumCIDRGroup objects.
//
// +kubebuilder:object:root=true
type CiliumCIDRGroupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []CiliumCIDRGroup `json:"items"`
}

// CIDRGroupSpec is the content of a CiliumCIDRGroup.
type CIDRGroupSpec struct {
	// ExternalCIDRs are the prefixes of the group.
	//
	// +kubebuilder:validation:MinItems=0
	ExternalCIDRs []CIDR `json:"externalCIDRs"`
}
