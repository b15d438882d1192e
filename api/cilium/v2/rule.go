// SPDX-License-Identifier: Apache-2.0

package v2

// Rule selects subjects and says what they may exchange with which peers.
// The subject is selected by exactly one of the two selectors; at least one
// section is present.
//
// +stentor:oneOf={endpointSelector,nodeSelector}
// +stentor:anyOf={ingress,ingressDeny,egress,egressDeny}
type Rule struct {
	// EndpointSelector selects the endpoints the rule is for.
	//
	// +optional
	EndpointSelector *EndpointSelector `json:"endpointSelector,omitempty"`

	// NodeSelector selects the nodes the rule is for. Only in clusterwide policies.
	//
	// +optional
	NodeSelector *Selector `json:"nodeSelector,omitempty"`

	// Ingress holds what peers may send to the subjects. A section with at
	// least one rule puts the subjects under default deny for ingress.
	//
	// +optional
	Ingress []IngressRule `json:"ingress,omitzero"`

	// IngressDeny holds what peers may never send to the subjects. It wins
	// over every allow.
	//
	// +optional
	IngressDeny []IngressDenyRule `json:"ingressDeny,omitzero"`

	// Egress holds what the subjects may send to peers. A section with at
	// least one rule puts the subjects under default deny for egress.
	//
	// +optional
	Egress []EgressRule `json:"egress,omitzero"`

	// EgressDeny holds what the subjects may never send to peers. It wins
	// over every allow.
	//
	// +optional
	EgressDeny []EgressDenyRule `json:"egressDeny,omitzero"`

	// Labels identify the rule.
	//
	// +optional
	Labels []RuleLabel `json:"labels,omitzero"`

	// EnableDefaultDeny overrides, per direction, whether the rule puts its
	// subjects under default deny.
	//
	// +optional
	EnableDefaultDeny *DefaultDeny `json:"enableDefaultDeny,omitempty"`

	// Description is free text.
	//
	// +optional
	Description string `json:"description,omitempty"`

	// Log is copied to the flows that the rule decides.
	//
	// +optional
	Log *Log `json:"log,omitempty"`
}

// DefaultDeny overrides the default deny of a rule. Nil means: true if the
// rule has a section of that direction.
type DefaultDeny struct {
	// +optional
	Ingress *bool `json:"ingress,omitempty"`
	// +optional
	Egress *bool `json:"egress,omitempty"`
}

// Log is what a rule adds to the flows that it decides.
type Log struct {
	// Value is a printable string.
	//
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^\PC*$`
	// +optional
	Value string `json:"value,omitempty"`
}

// RuleLabel is a label with its source.
type RuleLabel struct {
	Key string `json:"key"`
	// +optional
	Value string `json:"value,omitempty"`
	// Source is k8s, container, reserved, any, ...
	//
	// +optional
	Source string `json:"source,omitempty"`
}

// Entity is a name for a set of peers that have no labels of their own.
//
// +kubebuilder:validation:Enum=all;world;cluster;cluster-mesh;host;init;ingress;unmanaged;remote-node;health;none;kube-apiserver
type Entity string

// The entities a rule can name.
const (
	EntityAll           Entity = "all"
	EntityWorld         Entity = "world"
	EntityCluster       Entity = "cluster"
	EntityClusterMesh   Entity = "cluster-mesh"
	EntityHost          Entity = "host"
	EntityInit          Entity = "init"
	EntityIngress       Entity = "ingress"
	EntityUnmanaged     Entity = "unmanaged"
	EntityRemoteNode    Entity = "remote-node"
	EntityHealth        Entity = "health"
	EntityNone          Entity = "none"
	EntityKubeAPIServer Entity = "kube-apiserver"
)

// CIDR is an IPv4 or IPv6 prefix such as 10.0.0.0/8.
//
// +kubebuilder:validation:Format=cidr
type CIDR string

// IngressPeers names the peers of an ingress section. Members are ORed; nil
// everywhere means any peer if the rule has ports, and no peer otherwise. A
// list that is present but empty selects no peer.
type IngressPeers struct {
	// FromEndpoints selects peers by label; `{}` is every endpoint in scope.
	//
	// +optional
	FromEndpoints []EndpointSelector `json:"fromEndpoints,omitzero"`

	// FromRequires adds requirements that peers must meet in addition to
	// those of all other rules. Kept for older manifests.
	//
	// +optional
	FromRequires []EndpointSelector `json:"fromRequires,omitzero"`

	// FromCIDR selects peers outside the cluster by prefix.
	//
	// +optional
	FromCIDR []CIDR `json:"fromCIDR,omitzero"`

	// FromCIDRSet selects peers outside the cluster by prefix with exceptions.
	//
	// +optional
	FromCIDRSet []CIDRRule `json:"fromCIDRSet,omitzero"`

	// FromEntities selects peers by reserved name.
	//
	// +optional
	FromEntities []Entity `json:"fromEntities,omitzero"`

	// FromGroups selects peers by provider-specific groups.
	//
	// +optional
	FromGroups []Groups `json:"fromGroups,omitzero"`

	// FromNodes selects nodes by label.
	//
	// +optional
	FromNodes []Selector `json:"fromNodes,omitzero"`
}

// IngressRule allows traffic to the subjects.
type IngressRule struct {
	IngressPeers `json:",inline"`

	// ToPorts restricts the rule to ports of the subject; nil is every port.
	//
	// +optional
	ToPorts []PortRule `json:"toPorts,omitzero"`

	// ICMPs restricts the rule to ICMP types.
	//
	// +optional
	ICMPs []ICMPRule `json:"icmps,omitzero"`

	// Authentication asks for mutual authentication.
	//
	// +optional
	Authentication *Authentication `json:"authentication,omitempty"`
}

// IngressDenyRule denies traffic to the subjects.
type IngressDenyRule struct {
	IngressPeers `json:",inline"`

	// ToPorts restricts the rule to ports of the subject; nil is every port.
	//
	// +optional
	ToPorts []PortDenyRule `json:"toPorts,omitzero"`

	// ICMPs restricts the rule to ICMP types.
	//
	// +optional
	ICMPs []ICMPRule `json:"icmps,omitzero"`
}

// EgressPeers names the peers of an egress section; semantics as in
// IngressPeers.
type EgressPeers struct {
	// ToEndpoints selects peers by label; `{}` is every endpoint in scope.
	//
	// +optional
	ToEndpoints []EndpointSelector `json:"toEndpoints,omitzero"`

	// ToRequires adds requirements that peers must meet in addition to those
	// of all other rules. Kept for older manifests.
	//
	// +optional
	ToRequires []EndpointSelector `json:"toRequires,omitzero"`

	// ToCIDR selects peers outside the cluster by prefix.
	//
	// +optional
	ToCIDR []CIDR `json:"toCIDR,omitzero"`

	// ToCIDRSet selects peers outside the cluster by prefix with exceptions.
	//
	// +optional
	ToCIDRSet []CIDRRule `json:"toCIDRSet,omitzero"`

	// ToEntities selects peers by reserved name.
	//
	// +optional
	ToEntities []Entity `json:"toEntities,omitzero"`

	// ToServices selects the backends of services.
	//
	// +optional
	ToServices []Service `json:"toServices,omitzero"`

	// ToGroups selects peers by provider-specific groups.
	//
	// +optional
	ToGroups []Groups `json:"toGroups,omitzero"`

	// ToNodes selects nodes by label.
	//
	// +optional
	ToNodes []Selector `json:"toNodes,omitzero"`
}

// EgressRule allows traffic from the subjects.
type EgressRule struct {
	EgressPeers `json:",inline"`

	// ToPorts restricts the rule to ports of the peer; nil is every port.
	//
	// +optional
	ToPorts []PortRule `json:"toPorts,omitzero"`

	// ToFQDNs selects the addresses that DNS answers gave for names.
	//
	// +optional
	ToFQDNs []FQDNSelector `json:"toFQDNs,omitzero"`

	// ICMPs restricts the rule to ICMP types.
	//
	// +optional
	ICMPs []ICMPRule `json:"icmps,omitzero"`

	// Authentication asks for mutual authentication.
	//
	// +optional
	Authentication *Authentication `json:"authentication,omitempty"`
}

// EgressDenyRule denies traffic from the subjects.
type EgressDenyRule struct {
	EgressPeers `json:",inline"`

	// ToPorts restricts the rule to ports of the peer; nil is every port.
	//
	// +optional
	ToPorts []PortDenyRule `json:"toPorts,omitzero"`

	// ICMPs restricts the rule to ICMP types.
	//
	// +optional
	ICMPs []ICMPRule `json:"icmps,omitzero"`
}

// AuthenticationMode tells whether peers must authenticate.
//
// +kubebuilder:validation:Enum=disabled;required;test-always-fail
type AuthenticationMode string

// The authentication modes.
const (
	AuthenticationDisabled   AuthenticationMode = "disabled"
	AuthenticationRequired   AuthenticationMode = "required"
	AuthenticationAlwaysFail AuthenticationMode = "test-always-fail"
)

// Authentication is the authentication that a rule asks for.
type Authentication struct {
	Mode AuthenticationMode `json:"mode"`
}
