// SPDX-License-Identifier: Apache-2.0

package v2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CiliumEndpoint publishes the state of one endpoint. It has the name and the
// namespace of its pod, and is written by the agent of the pod's node.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium},singular="ciliumendpoint",path="ciliumendpoints",scope="Namespaced",shortName={cep,ciliumep}
// +kubebuilder:printcolumn:JSONPath=".status.id",description="Number of the endpoint on its node",name="Endpoint ID",type=integer
// +kubebuilder:printcolumn:JSONPath=".status.identity.id",description="Number of the endpoint's identity",name="Identity ID",type=integer
// +kubebuilder:printcolumn:JSONPath=".status.policy.ingress.state",description="Ingress enforcement",name="Ingress Enforcement",type=string
// +kubebuilder:printcolumn:JSONPath=".status.policy.egress.state",description="Egress enforcement",name="Egress Enforcement",type=string
// +kubebuilder:printcolumn:JSONPath=".status.visibility-policy-status",description="State of the L7 visibility asked for by annotation",name="Visibility Policy",type=string
// +kubebuilder:printcolumn:JSONPath=".status.state",description="State of the endpoint",name="Endpoint State",type=string
// +kubebuilder:printcolumn:JSONPath=".status.networking.addressing[0].ipv4",description="IPv4 address",name="IPv4",type=string
// +kubebuilder:printcolumn:JSONPath=".status.networking.addressing[0].ipv6",description="IPv6 address",name="IPv6",type=string
// +kubebuilder:storageversion
type CiliumEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// +optional
	Status EndpointStatus `json:"status,omitzero"`
}

// CiliumEndpointList is a list of CiliumEndpoint objects.
//
// +kubebuilder:object:root=true
type CiliumEndpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []CiliumEndpoint `json:"items"`
}

// EndpointStatus is the state of an endpoint.
type EndpointStatus struct {
	// ID is the number of the endpoint, unique on its node.
	//
	// +optional
	ID int64 `json:"id,omitempty"`

	// Controllers are the background jobs that failed last.
	//
	// +optional
	Controllers []ControllerStatus `json:"controllers,omitempty"`

	// ExternalIdentifiers name the endpoint to other systems.
	//
	// +optional
	ExternalIdentifiers *EndpointIdentifiers `json:"external-identifiers,omitempty"`

	// Health sums up the state.
	//
	// +optional
	Health *EndpointHealth `json:"health,omitempty"`

	// Identity is the security identity.
	//
	// +optional
	Identity *EndpointIdentity `json:"identity,omitempty"`

	// Log holds the latest state changes.
	//
	// +optional
	Log []EndpointStatusChange `json:"log,omitempty"`

	// Networking holds the addresses and the node.
	//
	// +optional
	Networking *EndpointNetworking `json:"networking,omitempty"`

	// Encryption says how the traffic to the endpoint is encrypted. It is
	// shown even if it is empty.
	//
	// +optional
	Encryption EncryptionSpec `json:"encryption"`

	// Policy is the policy in force.
	//
	// +optional
	Policy *EndpointPolicy `json:"policy,omitempty"`

	// VisibilityPolicyStatus is the state of the L7 visibility asked for by
	// annotation.
	//
	// +optional
	VisibilityPolicyStatus *string `json:"visibility-policy-status,omitempty"`

	// State is one of the EndpointState constants.
	//
	// +kubebuilder:validation:Enum=creating;waiting-for-identity;not-ready;waiting-to-regenerate;regenerating;restoring;ready;disconnecting;disconnected;invalid
	// +optional
	State string `json:"state,omitempty"`

	// NamedPorts are the ports that the pod names.
	//
	// +optional
	NamedPorts []NamedPort `json:"named-ports,omitempty"`

	// ServiceAccount is the name of the pod's service account.
	//
	// +optional
	ServiceAccount string `json:"service-account,omitempty"`
}

// The states of an endpoint.
const (
	EndpointStateCreating            = "creating"
	EndpointStateWaitingForIdentity  = "waiting-for-identity"
	EndpointStateNotReady            = "not-ready"
	EndpointStateWaitingToRegenerate = "waiting-to-regenerate"
	EndpointStateRegenerating        = "regenerating"
	EndpointStateRestoring           = "restoring"
	EndpointStateReady               = "ready"
	EndpointStateDisconnecting       = "disconnecting"
	EndpointStateDisconnected        = "disconnected"
	EndpointStateInvalid             = "invalid"
)

// EndpointIdentifiers name an endpoint to other systems.
type EndpointIdentifiers struct {
	// CNIAttachmentID is the container ID and the interface name.
	//
	// +optional
	CNIAttachmentID string `json:"cni-attachment-id,omitempty"`
	// +optional
	ContainerID string `json:"container-id,omitempty"`
	// +optional
	ContainerName string `json:"container-name,omitempty"`
	// +optional
	DockerEndpointID string `json:"docker-endpoint-id,omitempty"`
	// +optional
	DockerNetworkID string `json:"docker-network-id,omitempty"`
	// +optional
	K8sNamespace string `json:"k8s-namespace,omitempty"`
	// +optional
	K8sPodName string `json:"k8s-pod-name,omitempty"`
	// PodName is "namespace/name".
	//
	// +optional
	PodName string `json:"pod-name,omitempty"`
}

// EndpointHealth sums up the state of an endpoint. The strings are OK,
// Bootstrap, Pending, Warning, Failure or Disabled.
type EndpointHealth struct {
	// +optional
	OverallHealth string `json:"overallHealth,omitempty"`
	// +optional
	BPF string `json:"bpf,omitempty"`
	// +optional
	Policy string `json:"policy,omitempty"`
	// +optional
	Connected bool `json:"connected,omitempty"`
}

// EndpointIdentity is the security identity of an endpoint.
type EndpointIdentity struct {
	// ID is the number of the identity.
	//
	// +optional
	ID int64 `json:"id,omitempty"`
	// Labels are written `source:key=value`, sorted.
	//
	// +optional
	Labels []string `json:"labels,omitempty"`
}

// EndpointStatusChange is one state change.
type EndpointStatusChange struct {
	// Code is ok or failed.
	//
	// +optional
	Code string `json:"code,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// +optional
	State string `json:"state,omitempty"`
	// Timestamp is in RFC 3339.
	//
	// +optional
	Timestamp string `json:"timestamp,omitempty"`
}

// EndpointNetworking holds where an endpoint is reached.
type EndpointNetworking struct {
	// Addressing holds one pair per interface.
	Addressing []AddressPair `json:"addressing"`
	// NodeIP is the address of the node.
	//
	// +optional
	NodeIP string `json:"node,omitempty"`
}

// AddressPair is the IPv4 and the IPv6 address of one interface.
type AddressPair struct {
	// +optional
	IPV4 string `json:"ipv4,omitempty"`
	// +optional
	IPV6 string `json:"ipv6,omitempty"`
}

// EncryptionSpec says how traffic is encrypted.
type EncryptionSpec struct {
	// Key is the index of the key; 0 is no encryption.
	//
	// +optional
	Key int `json:"key,omitempty"`
}

// NamedPort is a port with the name that a pod gives it.
type NamedPort struct {
	// +optional
	Name string `json:"name,omitempty"`
	// +optional
	Port uint16 `json:"port,omitempty"`
	// Protocol is TCP, UDP or SCTP.
	//
	// +optional
	Protocol string `json:"protocol,omitempty"`
}

// EndpointPolicy is the policy in force on an endpoint.
type EndpointPolicy struct {
	// +optional
	Ingress *EndpointPolicyDirection `json:"ingress,omitempty"`
	// +optional
	Egress *EndpointPolicyDirection `json:"egress,omitempty"`
}

// EndpointPolicyDirection is the policy in force in one direction.
type EndpointPolicyDirection struct {
	// Enforcing is true if a policy selects the endpoint.
	Enforcing bool `json:"enforcing"`
	// State is one of the PolicyState constants.
	//
	// +optional
	State string `json:"state,omitempty"`
	// +optional
	Allowed []IdentityTuple `json:"allowed,omitempty"`
	// +optional
	Denied []IdentityTuple `json:"denied,omitempty"`
	// Adding holds rows about to be in force.
	//
	// +optional
	Adding []IdentityTuple `json:"adding,omitempty"`
	// Removing holds rows about to leave.
	//
	// +optional
	Removing []IdentityTuple `json:"removing,omitempty"`
}

// The states of an EndpointPolicyDirection, and of the visibility policy.
const (
	PolicyStateEnforcing = "enforcing"
	PolicyStateDisabled  = "<status disabled>"
)

// IdentityTuple is one row of policy: an identity, a protocol and a port.
type IdentityTuple struct {
	// +optional
	DestPort uint16 `json:"dest-port,omitempty"`
	// +optional
	Identity uint64 `json:"identity,omitempty"`
	// +optional
	IdentityLabels map[string]string `json:"identity-labels,omitempty"`
	// Protocol is the number of the IP protocol.
	//
	// +optional
	Protocol uint8 `json:"protocol,omitempty"`
}

// ControllerStatus is the state of one background job.
type ControllerStatus struct {
	// +optional
	Name string `json:"name,omitempty"`
	// +optional
	UUID string `json:"uuid,omitempty"`
	// +optional
	Configuration *ControllerConfiguration `json:"configuration,omitempty"`
	// +optional
	Status ControllerRuns `json:"status,omitzero"`
}

// ControllerConfiguration says when a background job runs. Durations are in
// nanoseconds.
type ControllerConfiguration struct {
	// +optional
	ErrorRetry bool `json:"error-retry,omitempty"`
	// +optional
	ErrorRetryBase int64 `json:"error-retry-base,omitempty"`
	// +optional
	Interval int64 `json:"interval,omitempty"`
}

// ControllerRuns counts the runs of a background job.
type ControllerRuns struct {
	// +optional
	ConsecutiveFailureCount int64 `json:"consecutive-failure-count,omitempty"`
	// +optional
	FailureCount int64 `json:"failure-count,omitempty"`
	// +optional
	LastFailureMsg string `json:"last-failure-msg,omitempty"`
	// +optional
	LastFailureTimestamp string `json:"last-failure-timestamp,omitempty"`
	// +optional
	LastSuccessTimestamp string `json:"last-success-timestamp,omitempty"`
	// +optional
	SuccessCount int64 `json:"success-count,omitempty"`
}
