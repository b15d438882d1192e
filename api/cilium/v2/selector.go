// SPDX-License-Identifier: Apache-2.0

package v2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Selector matches label sets. Keys may carry a source prefix
// (`k8s:app`, `any:app`, `reserved:host`); a key without one matches any
// source. The empty selector `{}` matches everything in its scope.
type Selector struct {
	// MatchLabels holds labels that must all be present with the given value.
	//
	// +optional
	MatchLabels map[string]string `json:"matchLabels,omitzero"`

	// MatchExpressions holds requirements that must all be met.
	//
	// +listType=atomic
	// +optional
	MatchExpressions []Requirement `json:"matchExpressions,omitzero"`
}

// EndpointSelector is a Selector over the labels of endpoints. In a namespaced
// policy it is confined to the namespace of the policy unless it names one by
// the label `k8s:io.kubernetes.pod.namespace`.
type EndpointSelector = Selector

// Requirement is one expression of a Selector.
type Requirement struct {
	// Key is the label key the requirement is about.
	Key string `json:"key"`

	// Operator relates the key to the values.
	//
	// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
	Operator metav1.LabelSelectorOperator `json:"operator"`

	// Values must not be empty for In or NotIn, must be empty otherwise.
	//
	// +listType=atomic
	// +optional
	Values []string `json:"values,omitzero"`
}
