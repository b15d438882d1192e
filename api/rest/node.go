// SPDX-License-Identifier: Apache-2.0

package rest

// AddressPair holds the addresses of an endpoint.
type AddressPair struct {
	IPv4               string `json:"ipv4,omitempty"`
	IPv4ExpirationUUID string `json:"ipv4-expiration-uuid,omitempty"`
	IPv4PoolName       string `json:"ipv4-pool-name,omitempty"`
	IPv6               string `json:"ipv6,omitempty"`
	IPv6ExpirationUUID string `json:"ipv6-expiration-uuid,omitempty"`
	IPv6PoolName       string `json:"ipv6-pool-name,omitempty"`
}

// NodeAddressing holds a node's addresses by family.
type NodeAddressing struct {
	IPv6 *NodeAddressingElement `json:"ipv6,omitempty"`
	IPv4 *NodeAddressingElement `json:"ipv4,omitempty"`
}

// NodeAddressingElement is one address of a node.
type NodeAddressingElement struct {
	Enabled     bool   `json:"enabled,omitempty"`
	IP          string `json:"ip,omitempty"`
	AllocRange  string `json:"alloc-range,omitempty"` // the node's pod range of the family
	AddressType string `json:"address-type,omitempty"`
}

// NodeElement is a node of the cluster.
type NodeElement struct {
	Name                  string                  `json:"name,omitempty"`
	PrimaryAddress        *NodeAddressing         `json:"primary-address,omitempty"`
	SecondaryAddresses    []NodeAddressingElement `json:"secondary-addresses,omitempty"`
	HealthEndpointAddress *NodeAddressing         `json:"health-endpoint-address,omitempty"`
	IngressAddress        *NodeAddressing         `json:"ingress-address,omitempty"`
	Source                string                  `json:"source,omitempty"`
}

// ClusterNodeStatus lists nodes. Without a client id all are in NodesAdded.
type ClusterNodeStatus struct {
	Self         string        `json:"self,omitempty"`
	NodesAdded   []NodeElement `json:"nodes-added"`
	NodesRemoved []NodeElement `json:"nodes-removed"`
	ClientID     int64         `json:"client-id,omitempty"`
}

// NodeID is the number of a node in this node's datapath.
type NodeID struct {
	ID  int64    `json:"id"`
	IPs []string `json:"ips"`
}

// IPAMResponse answers a request for addresses.
type IPAMResponse struct {
	Address        *AddressPair         `json:"address"`
	IPv4           *IPAMAddressResponse `json:"ipv4,omitempty"`
	IPv6           *IPAMAddressResponse `json:"ipv6,omitempty"`
	HostAddressing *NodeAddressing      `json:"host-addressing"`
}

// IPAMAddressResponse is one address given out.
type IPAMAddressResponse struct {
	IP      string   `json:"ip,omitempty"`
	Gateway string   `json:"gateway,omitempty"`
	CIDRs   []string `json:"cidrs,omitempty"`
}

// DaemonConfiguration is the agent's configuration.
type DaemonConfiguration struct {
	Spec   *DaemonConfigurationSpec   `json:"spec,omitempty"`
	Status *DaemonConfigurationStatus `json:"status,omitempty"`
}

// DaemonConfigurationSpec is what may be changed while the agent runs.
type DaemonConfigurationSpec struct {
	Options           ConfigurationMap `json:"options,omitempty"`
	PolicyEnforcement string           `json:"policy-enforcement,omitempty"` // default, always, never
}

// DaemonConfigurationStatus is the configuration in force.
type DaemonConfigurationStatus struct {
	Realized               *DaemonConfigurationSpec `json:"realized,omitempty"`
	Immutable              ConfigurationMap         `json:"immutable,omitempty"`
	Addressing             *NodeAddressing          `json:"addressing,omitempty"`
	K8sEndpoint            string                   `json:"k8s-endpoint,omitempty"`
	K8sConfiguration       string                   `json:"k8s-configuration,omitempty"`
	NodeMonitor            *MonitorStatus           `json:"nodeMonitor,omitempty"`
	DeviceMTU              int64                    `json:"deviceMTU,omitempty"` // bytes
	RouteMTU               int64                    `json:"routeMTU,omitempty"`
	DatapathMode           string                   `json:"datapathMode,omitempty"`
	IPAMMode               string                   `json:"ipam-mode,omitempty"`
	Masquerade             bool                     `json:"masquerade,omitempty"`
	MasqueradeProtocols    *Families                `json:"masqueradeProtocols,omitempty"`
	DaemonConfigurationMap map[string]any           `json:"daemonConfigurationMap,omitempty"` // every key of the schema with its value
}

// Families says what holds for which address family.
type Families struct {
	IPv4 bool `json:"ipv4,omitempty"`
	IPv6 bool `json:"ipv6,omitempty"`
}
