// SPDX-License-Identifier: Apache-2.0

package v2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CiliumLocalRedirectPolicy sends what clients of a node send to an address or a
// Service to pods of the same node.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium,ciliumpolicy},singular="ciliumlocalredirectpolicy",path="ciliumlocalredirectpolicies",scope="Namespaced",shortName={clrp}
// +kubebuilder:printcolumn:JSONPath=".metadata.creationTimestamp",name="Age",type=date
// +kubebuilder:storageversion
type CiliumLocalRedirectPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec LocalRedirectPolicySpec `json:"spec,omitzero"`

	// +optional
	Status LocalRedirectPolicyStatus `json:"status,omitzero"`
}

// CiliumLocalRedirectPolicyList is a list of CiliumLocalRedirectPolicy objects.
//
// +kubebuilder:object:root=true
type CiliumLocalRedirectPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []CiliumLocalRedirectPolicy `json:"items"`
}

// LocalRedirectPolicySpec is the content of a CiliumLocalRedirectPolicy.
type LocalRedirectPolicySpec struct {
	// RedirectFrontend is what is redirected.
	//
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="redirectFrontend is immutable"
	RedirectFrontend RedirectFrontend `json:"redirectFrontend"`

	// RedirectBackend is where to.
	//
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="redirectBackend is immutable"
	RedirectBackend RedirectBackend `json:"redirectBackend"`

	// SkipRedirectFromBackend leaves the pods that are redirected to alone: what
	// they send to the frontend goes where it went without the policy.
	//
	// +kubebuilder:default=false
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="skipRedirectFromBackend is immutable"
	// +optional
	SkipRedirectFromBackend bool `json:"skipRedirectFromBackend,omitempty"`

	// Description is for people.
	//
	// +optional
	Description string `json:"description,omitempty"`
}

// LocalRedirectPolicyStatus is reserved.
type LocalRedirectPolicyStatus struct {
	// +optional
	OK bool `json:"ok,omitempty"`
}

// RedirectFrontend is what is redirected: an address or a Service.
//
// +kubebuilder:validation:ExactlyOneOf=addressMatcher;serviceMatcher
type RedirectFrontend struct {
	// +optional
	AddressMatcher *RedirectAddress `json:"addressMatcher,omitempty"`

	// +optional
	ServiceMatcher *RedirectService `json:"serviceMatcher,omitempty"`
}

// RedirectAddress is an address with ports.
type RedirectAddress struct {
	// IP is an IPv4 or IPv6 address.
	IP string `json:"ip"`

	// ToPorts are the ports that are redirected; several need names.
	ToPorts []RedirectPort `json:"toPorts"`
}

// RedirectService is a Service of the policy's namespace.
type RedirectService struct {
	ServiceName string `json:"serviceName"`

	// Namespace is that of the policy.
	Namespace string `json:"namespace"`

	// ToPorts are the ports that are redirected; empty is all of them.
	//
	// +optional
	ToPorts []RedirectPort `json:"toPorts,omitzero"`
}

// RedirectBackend is pods of the client's node.
type RedirectBackend struct {
	// LocalEndpointSelector selects them, in the namespace of the policy.
	LocalEndpointSelector Selector `json:"localEndpointSelector"`

	// ToPorts are their ports; several need the names of the frontend's ports.
	ToPorts []RedirectPort `json:"toPorts"`
}

// RedirectPort is a port with its protocol.
type RedirectPort struct {
	// +kubebuilder:validation:Pattern=`^()([1-9]|[1-5]?[0-9]{2,4}|6[1-4][0-9]{3}|65[1-4][0-9]{2}|655[1-2][0-9]|6553[1-5])$`
	Port string `json:"port"`

	// +kubebuilder:validation:Enum=TCP;UDP
	Protocol string `json:"protocol"`

	// Name ties a port of the frontend to one of the backend.
	//
	// +kubebuilder:validation:Pattern=`^([0-9]{1,4})|([a-zA-Z0-9]-?)*[a-zA-Z](-?[a-zA-Z0-9])*$`
	// +optional
	Name string `json:"name,omitempty"`
}
