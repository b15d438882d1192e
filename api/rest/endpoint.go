// SPDX-License-Identifier: Apache-2.0

package rest

// Endpoint is the interface of a pod of this node.
type Endpoint struct {
	ID     int64                      `json:"id,omitempty"`
	Spec   *EndpointConfigurationSpec `json:"spec,omitempty"`
	Status *EndpointStatus            `json:"status,omitempty"`
}

// EndpointConfigurationSpec is what a user may change of an endpoint.
type EndpointConfigurationSpec struct {
	Options            ConfigurationMap        `json:"options,omitempty"`
	LabelConfiguration *LabelConfigurationSpec `json:"label-configuration,omitempty"`
}

// EndpointConfigurationStatus is the configuration in force.
type EndpointConfigurationStatus struct {
	Realized  *EndpointConfigurationSpec `json:"realized,omitempty"`
	Immutable ConfigurationMap           `json:"immutable,omitempty"`
	Error     Error                      `json:"error,omitempty"`
}

// LabelConfiguration holds an endpoint's labels.
type LabelConfiguration struct {
	Spec   *LabelConfigurationSpec   `json:"spec,omitempty"`
	Status *LabelConfigurationStatus `json:"status,omitempty"`
}

// LabelConfigurationSpec holds labels that a user added.
type LabelConfigurationSpec struct {
	User Labels `json:"user,omitempty"`
}

// LabelConfigurationStatus tells which labels count for the identity.
type LabelConfigurationStatus struct {
	Realized         *LabelConfigurationSpec `json:"realized,omitempty"`
	SecurityRelevant Labels                  `json:"security-relevant,omitempty"`
	Derived          Labels                  `json:"derived,omitempty"`
	Disabled         Labels                  `json:"disabled,omitempty"`
}

// EndpointStatus is an endpoint as it is.
type EndpointStatus struct {
	ExternalIdentifiers *EndpointIdentifiers       `json:"external-identifiers,omitempty"`
	Identity            *Identity                  `json:"identity,omitempty"`
	Labels              *LabelConfigurationStatus  `json:"labels,omitempty"`
	Realized            *EndpointConfigurationSpec `json:"realized,omitempty"`
	Networking          *EndpointNetworking        `json:"networking,omitempty"`
	Policy              *EndpointPolicyStatus      `json:"policy,omitempty"`
	Log                 []EndpointStatusChange     `json:"log,omitempty"`
	Controllers         []ControllerStatus         `json:"controllers,omitempty"`
	State               string                     `json:"state"`
	Health              *EndpointHealth            `json:"health,omitempty"`
	NamedPorts          []Port                     `json:"namedPorts,omitempty"`
}

// EndpointIdentifiers name an endpoint to other systems.
type EndpointIdentifiers struct {
	CNIAttachmentID  string `json:"cni-attachment-id,omitempty"`
	ContainerID      string `json:"container-id,omitempty"`
	ContainerName    string `json:"container-name,omitempty"`
	DockerEndpointID string `json:"docker-endpoint-id,omitempty"`
	DockerNetworkID  string `json:"docker-network-id,omitempty"`
	PodName          string `json:"pod-name,omitempty"` // namespace/name
	K8sPodName       string `json:"k8s-pod-name,omitempty"`
	K8sNamespace     string `json:"k8s-namespace,omitempty"`
}

// EndpointNetworking holds addresses and interfaces.
type EndpointNetworking struct {
	Addressing             []AddressPair   `json:"addressing,omitempty"`
	HostAddressing         *NodeAddressing `json:"host-addressing,omitempty"`
	HostMAC                string          `json:"host-mac,omitempty"`
	MAC                    string          `json:"mac,omitempty"`
	InterfaceName          string          `json:"interface-name,omitempty"`
	InterfaceIndex         int64           `json:"interface-index,omitempty"`
	ContainerInterfaceName string          `json:"container-interface-name,omitempty"`
}

// EndpointStatusChange is a line of an endpoint's log.
type EndpointStatusChange struct {
	Timestamp string `json:"timestamp,omitempty"` // RFC 3339
	Code      string `json:"code,omitempty"`      // ok or failed
	Message   string `json:"message,omitempty"`
	State     string `json:"state,omitempty"`
}

// EndpointHealth sums up an endpoint: OK, Bootstrap, Pending, Warning, Failure, Disabled.
type EndpointHealth struct {
	OverallHealth string `json:"overallHealth,omitempty"`
	BPF           string `json:"bpf,omitempty"`
	Policy        string `json:"policy,omitempty"`
	Connected     bool   `json:"connected,omitempty"`
}

// EndpointPolicyStatus is the policy wanted and in force.
type EndpointPolicyStatus struct {
	Spec                *EndpointPolicy   `json:"spec,omitempty"`
	Realized            *EndpointPolicy   `json:"realized,omitempty"`
	ProxyPolicyRevision int64             `json:"proxy-policy-revision,omitempty"`
	ProxyStatistics     []ProxyStatistics `json:"proxy-statistics,omitempty"`
}

// Values of EndpointPolicy.PolicyEnabled.
const (
	PolicyEnabledNone    = "none"
	PolicyEnabledIngress = "ingress"
	PolicyEnabledEgress  = "egress"
	PolicyEnabledBoth    = "both"
)

// EndpointPolicy is the policy of an endpoint.
type EndpointPolicy struct {
	PolicyRevision           int64       `json:"policy-revision,omitempty"`
	ID                       int64       `json:"id,omitempty"`
	PolicyEnabled            string      `json:"policy-enabled,omitempty"`
	Build                    int64       `json:"build,omitempty"`
	AllowedIngressIdentities []int64     `json:"allowed-ingress-identities,omitempty"`
	DeniedIngressIdentities  []int64     `json:"denied-ingress-identities,omitempty"`
	AllowedEgressIdentities  []int64     `json:"allowed-egress-identities,omitempty"`
	DeniedEgressIdentities   []int64     `json:"denied-egress-identities,omitempty"`
	L4                       *L4Policy   `json:"l4,omitempty"`
	CIDRPolicy               *CIDRPolicy `json:"cidr-policy,omitempty"`
}

// PolicyRule is a rule with the objects it comes from.
type PolicyRule struct {
	Rule             string                `json:"rule,omitempty"`
	DerivedFromRules [][]string            `json:"derived-from-rules,omitempty"`
	RulesBySelector  map[string][][]string `json:"rules-by-selector,omitempty"`
}

// L4Policy holds rules of ports.
type L4Policy struct {
	Ingress []PolicyRule `json:"ingress,omitempty"`
	Egress  []PolicyRule `json:"egress,omitempty"`
}

// CIDRPolicy holds rules of prefixes.
type CIDRPolicy struct {
	Ingress []PolicyRule `json:"ingress,omitempty"`
	Egress  []PolicyRule `json:"egress,omitempty"`
}

// ProxyStatistics counts requests of one redirected port.
type ProxyStatistics struct {
	Protocol           string `json:"protocol,omitempty"`
	Port               int64  `json:"port,omitempty"`
	AllocatedProxyPort int64  `json:"allocated-proxy-port,omitempty"`
	Location           string `json:"location,omitempty"`
}

// Port is a port with its protocol: TCP, UDP, SCTP, ICMP, ICMPV6 or ANY.
type Port struct {
	Protocol string `json:"protocol,omitempty"`
	Port     uint16 `json:"port,omitempty"`
	Name     string `json:"name,omitempty"`
}

// EndpointChangeRequest asks for an endpoint, or for a change of it.
type EndpointChangeRequest struct {
	ID                     int64        `json:"id,omitempty"`
	ContainerID            string       `json:"container-id,omitempty"`
	ContainerName          string       `json:"container-name,omitempty"`
	DockerEndpointID       string       `json:"docker-endpoint-id,omitempty"`
	DockerNetworkID        string       `json:"docker-network-id,omitempty"`
	Labels                 Labels       `json:"labels,omitempty"`
	InterfaceName          string       `json:"interface-name,omitempty"`
	InterfaceIndex         int64        `json:"interface-index,omitempty"`
	ContainerInterfaceName string       `json:"container-interface-name,omitempty"`
	State                  string       `json:"state"`
	MAC                    string       `json:"mac,omitempty"`
	HostMAC                string       `json:"host-mac,omitempty"`
	Addressing             *AddressPair `json:"addressing,omitempty"`
	K8sPodName             string       `json:"k8s-pod-name,omitempty"`
	K8sNamespace           string       `json:"k8s-namespace,omitempty"`
	K8sUID                 string       `json:"k8s-uid,omitempty"`
	PolicyEnabled          bool         `json:"policy-enabled,omitempty"`
	SyncBuildEndpoint      bool         `json:"sync-build-endpoint,omitempty"`
}
