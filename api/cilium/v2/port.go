// SPDX-License-Identifier: Apache-2.0

package v2

import (
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Protocol is an L4 protocol. ANY stands for TCP, UDP and SCTP.
//
// +kubebuilder:validation:Enum=TCP;UDP;SCTP;VRRP;IGMP;GRE;IPIP;IPV6;ESP;AH;ANY
type Protocol string

// PortRule is a set of ports with what is inspected on them.
type PortRule struct {
	// Ports are ORed; nil or empty is every port.
	//
	// +kubebuilder:validation:MaxItems=40
	// +optional
	Ports []PortProtocol `json:"ports,omitzero"`

	// TerminatingTLS is the TLS context towards the client.
	//
	// +optional
	TerminatingTLS *TLSContext `json:"terminatingTLS,omitempty"`

	// OriginatingTLS is the TLS context towards the server.
	//
	// +optional
	OriginatingTLS *TLSContext `json:"originatingTLS,omitempty"`

	// ServerNames are the TLS server names (SNI) that are allowed.
	//
	// +kubebuilder:validation:MinItems=1
	// +optional
	ServerNames []ServerName `json:"serverNames,omitzero"`

	// Listener sends the traffic to a listener of an Envoy configuration.
	//
	// +optional
	Listener *Listener `json:"listener,omitempty"`

	// Rules are the L7 rules; nil allows everything on the ports.
	//
	// +optional
	Rules *L7Rules `json:"rules,omitempty"`
}

// PortDenyRule is a set of ports.
type PortDenyRule struct {
	// Ports are ORed; nil or empty is every port.
	//
	// +kubebuilder:validation:MaxItems=40
	// +optional
	Ports []PortProtocol `json:"ports,omitzero"`
}

// PortProtocol is a port, a range of ports or a named port.
type PortProtocol struct {
	// Port is a number or a name; "0" or empty is every port.
	//
	// +kubebuilder:validation:Pattern=`^(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})|([a-zA-Z0-9]-?)*[a-zA-Z](-?[a-zA-Z0-9])*$`
	// +optional
	Port string `json:"port,omitempty"`

	// EndPort is the last port of a range that starts at Port.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +optional
	EndPort int32 `json:"endPort,omitempty"`

	// Protocol is the L4 protocol; empty is ANY.
	//
	// +optional
	Protocol Protocol `json:"protocol,omitempty"`
}

// ServerName is a TLS server name, with wildcards as in a name pattern.
//
// +kubebuilder:validation:MaxLength=255
// +kubebuilder:validation:Pattern=`^([-a-zA-Z0-9_*]+[.]?)+$`
type ServerName string

// Secret names a Kubernetes secret.
type Secret struct {
	// Namespace defaults to that of the policy.
	//
	// +optional
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// TLSContext names the certificates of one side of an intercepted connection.
type TLSContext struct {
	// Secret holds the certificates and keys.
	Secret *Secret `json:"secret"`

	// TrustedCA is the key in the secret with the trusted authorities;
	// `ca.crt` if empty.
	//
	// +optional
	TrustedCA string `json:"trustedCA,omitempty"`

	// Certificate is the key in the secret with the certificate; `tls.crt` if
	// empty.
	//
	// +optional
	Certificate string `json:"certificate,omitempty"`

	// PrivateKey is the key in the secret with the private key; `tls.key` if
	// empty.
	//
	// +optional
	PrivateKey string `json:"privateKey,omitempty"`
}

// Listener names a listener of an Envoy configuration object.
type Listener struct {
	EnvoyConfig *EnvoyConfigRef `json:"envoyConfig"`

	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`

	// Priority decides between listeners for the same traffic: the lowest
	// non-zero one wins.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	// +optional
	Priority uint16 `json:"priority,omitempty"`
}

// EnvoyConfigRef names an Envoy configuration object.
type EnvoyConfigRef struct {
	// +kubebuilder:validation:Enum=CiliumEnvoyConfig;CiliumClusterwideEnvoyConfig
	// +optional
	Kind string `json:"kind,omitempty"`

	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
}

// ICMPRule is a set of ICMP types.
type ICMPRule struct {
	// +kubebuilder:validation:MaxItems=40
	// +optional
	Fields []ICMPField `json:"fields,omitzero"`
}

// ICMPField is one ICMP type of one family.
type ICMPField struct {
	// +kubebuilder:default=IPv4
	// +kubebuilder:validation:Enum=IPv4;IPv6
	// +optional
	Family string `json:"family,omitempty"`

	// Type is a number from 0 to 255 or the CamelCase name of a type.
	//
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern="^([0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5]|EchoReply|DestinationUnreachable|Redirect|Echo|RouterAdvertisement|RouterSelection|TimeExceeded|ParameterProblem|Timestamp|TimestampReply|Photuris|ExtendedEchoRequest|ExtendedEchoReply|ExtendedEcho Reply|PacketTooBig|EchoRequest|MulticastListenerQuery|MulticastListenerReport|MulticastListenerDone|RouterSolicitation|NeighborSolicitation|NeighborAdvertisement|RedirectMessage|RouterRenumbering|ICMPNodeInformationQuery|ICMPNodeInformationResponse|InverseNeighborDiscoverySolicitation|InverseNeighborDiscoveryAdvertisement|HomeAgentAddressDiscoveryRequest|HomeAgentAddressDiscoveryReply|MobilePrefixSolicitation|MobilePrefixAdvertisement|DuplicateAddressRequestCodeSuffix|DuplicateAddressConfirmationCodeSuffix)$"
	Type *intstr.IntOrString `json:"type"`
}
