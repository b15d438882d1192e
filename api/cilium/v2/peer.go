// SPDX-License-Identifier: Apache-2.0

package v2

// CIDRRule is a prefix, or a group of prefixes, minus exceptions.
//
// +stentor:oneOf={cidr,cidrGroupRef,cidrGroupSelector}
type CIDRRule struct {
	// Cidr is the prefix.
	//
	// +optional
	Cidr CIDR `json:"cidr,omitempty"`

	// CIDRGroupRef names a CiliumCIDRGroup.
	//
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	// +optional
	CIDRGroupRef string `json:"cidrGroupRef,omitempty"`

	// CIDRGroupSelector selects CiliumCIDRGroups by label.
	//
	// +optional
	CIDRGroupSelector *Selector `json:"cidrGroupSelector,omitempty"`

	// Except holds prefixes inside Cidr that are not meant.
	//
	// +optional
	Except []CIDR `json:"except,omitzero"`
}

// Service selects Kubernetes services by name or by label.
type Service struct {
	// +optional
	K8sService *K8sService `json:"k8sService,omitempty"`
	// +optional
	K8sServiceSelector *K8sServiceSelector `json:"k8sServiceSelector,omitempty"`
}

// K8sService names one Kubernetes service.
type K8sService struct {
	// +optional
	ServiceName string `json:"serviceName,omitempty"`
	// Namespace defaults to that of the policy.
	//
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// K8sServiceSelector selects Kubernetes services by label.
type K8sServiceSelector struct {
	Selector Selector `json:"selector"`
	// Namespace confines the selector; empty is every namespace.
	//
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// Groups names peers by provider-specific groups.
type Groups struct {
	// +optional
	AWS *AWSGroup `json:"aws,omitempty"`
}

// AWSGroup names AWS security groups. Members are ORed.
type AWSGroup struct {
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
	// +optional
	SecurityGroupsIds []string `json:"securityGroupsIds,omitzero"`
	// +optional
	SecurityGroupsNames []string `json:"securityGroupsNames,omitzero"`
	// +optional
	Region string `json:"region,omitempty"`
}

// FQDNSelector selects DNS names, exactly or by pattern.
//
// +stentor:oneOf={matchName,matchPattern}
type FQDNSelector struct {
	// MatchName is a name without wildcards; a final dot may be left out.
	//
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^([-a-zA-Z0-9_]+[.]?)+$`
	// +optional
	MatchName string `json:"matchName,omitempty"`

	// MatchPattern is a name in which `*` stands for any characters but a
	// dot, and a leading `**.` for any labels.
	//
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^([-a-zA-Z0-9_*]+[.]?)+$`
	// +optional
	MatchPattern string `json:"matchPattern,omitempty"`
}
