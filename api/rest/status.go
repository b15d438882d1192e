// SPDX-License-Identifier: Apache-2.0

package rest

// States of Status.
const (
	StateOk       = "Ok"
	StateWarning  = "Warning"
	StateFailure  = "Failure"
	StateDisabled = "Disabled"
)

// Status is a state with what there is to say about it.
type Status struct {
	State string `json:"state,omitempty"` // State*
	Msg   string `json:"msg,omitempty"`
}

// StatusResponse is the state of the agent.
type StatusResponse struct {
	Cilium               *Status               `json:"cilium,omitempty"` // the agent as a whole
	KVStore              *Status               `json:"kvstore,omitempty"`
	CNIFile              *Status               `json:"cni-file,omitempty"`
	ContainerRuntime     *Status               `json:"container-runtime,omitempty"`
	HostFirewall         *HostFirewall         `json:"host-firewall,omitempty"`
	Hubble               *HubbleStatus         `json:"hubble,omitempty"`
	Kubernetes           *K8sStatus            `json:"kubernetes,omitempty"`
	KubeProxyReplacement *KubeProxyReplacement `json:"kube-proxy-replacement,omitempty"`
	IPAM                 *IPAMStatus           `json:"ipam,omitempty"`
	NodeMonitor          *MonitorStatus        `json:"nodeMonitor,omitempty"`
	Cluster              *ClusterStatus        `json:"cluster,omitempty"`
	Controllers          []ControllerStatus    `json:"controllers,omitempty"`
	Proxy                *ProxyStatus          `json:"proxy,omitempty"`
	IdentityRange        *IdentityRange        `json:"identity-range,omitempty"`
	BandwidthManager     *BandwidthManager     `json:"bandwidth-manager,omitempty"`
	Masquerading         *Masquerading         `json:"masquerading,omitempty"`
	HostRouting          *HostRouting          `json:"host-routing,omitempty"`
	ClockSource          *ClockSource          `json:"clock-source,omitempty"`
	Stale                map[string]string     `json:"stale,omitempty"`
	ClientID             int64                 `json:"client-id,omitempty"`
	BPFMaps              *BPFMapStatus         `json:"bpf-maps,omitempty"`
	Encryption           *EncryptionStatus     `json:"encryption,omitempty"`
	CNIChaining          *CNIChainingStatus    `json:"cni-chaining,omitempty"`
	Stentor              *StentorStatus        `json:"stentor,omitempty"`
}

// StentorStatus says, part by part, what works, what is missing and why.
type StentorStatus struct {
	Version string  `json:"version"`
	Node    string  `json:"node"`
	Uptime  string  `json:"uptime"` // Go duration
	Ready   bool    `json:"ready"`  // pods can be attached
	Checks  []Check `json:"checks"`
	Pods    Pods    `json:"pods"`
	// Endpoints counts local endpoints by state.
	Endpoints      map[string]int `json:"endpoints"`
	Identities     int            `json:"identities"`
	Policies       int            `json:"policies"`
	PolicyRevision uint64         `json:"policyRevision"`
	Services       int            `json:"services"`
	Nodes          []NodeHealth   `json:"nodes"`
	Maps           []BPFMap       `json:"maps,omitempty"`
	MTU            int            `json:"mtu,omitempty"` // of pod interfaces, bytes
}

// Check is the state of one part of the agent.
type Check struct {
	Name    string `json:"name"`              // kubernetes, datapath, ipam, policy, cni, endpoints, nodes, services, identities, operator
	State   string `json:"state"`             // State*
	Msg     string `json:"msg,omitempty"`     // what is, in one line
	Missing string `json:"missing,omitempty"` // what is missing, when not Ok
	Why     string `json:"why,omitempty"`     // the reason, and what helps where known
	Since   string `json:"since,omitempty"`   // RFC 3339: when State last changed
}

// Pods counts the pods of this node; those with hostNetwork are not in Total.
type Pods struct {
	Managed     int      `json:"managed"`
	Total       int      `json:"total"`
	HostNetwork int      `json:"hostNetwork"`
	Unmanaged   []string `json:"unmanaged,omitempty"` // namespace/name
}

// NodeHealth is how this node reaches another one.
type NodeHealth struct {
	Name     string `json:"name"`
	Local    bool   `json:"local,omitempty"`
	Node     Probe  `json:"node"`     // by the node's own address
	Endpoint Probe  `json:"endpoint"` // by its address inside the pod network
	// The same by its addresses of the other family.
	NodeOthers     []Probe `json:"nodeOthers,omitempty"`
	EndpointOthers []Probe `json:"endpointOthers,omitempty"`

	PodCIDRs  Labels `json:"podCIDRs,omitempty"`
	LastProbe string `json:"lastProbe,omitempty"` // RFC 3339
}

// Probe is the result of one attempt to reach an address over TCP.
type Probe struct {
	IP      string `json:"ip,omitempty"`
	OK      bool   `json:"ok"`
	Latency int64  `json:"latency,omitempty"` // nanoseconds
	Error   string `json:"error,omitempty"`
	Ping    *Ping  `json:"ping,omitempty"` // nil: none was sent
}

// Ping is the result of an ICMP echo beside a Probe. Firewalls often hold it
// back, so that it says nothing about the network where it fails alone.
type Ping struct {
	OK      bool   `json:"ok"`
	Latency int64  `json:"latency,omitempty"` // nanoseconds
	Error   string `json:"error,omitempty"`
}

// Probes are all of them, the first ones first.
func (h NodeHealth) Probes() (node, endpoint []Probe) {
	return append([]Probe{h.Node}, h.NodeOthers...), append([]Probe{h.Endpoint}, h.EndpointOthers...)
}

// OK tells that the node answers by every address.
func (h NodeHealth) OK() bool {
	node, endpoint := h.Probes()
	return allOK(node) && allOK(endpoint)
}

func allOK(list []Probe) bool {
	for _, p := range list {
		if !p.OK {
			return false
		}
	}
	return true
}

// HostFirewall is Disabled or Enabled.
type HostFirewall struct {
	Mode    string   `json:"mode,omitempty"`
	Devices []string `json:"devices,omitempty"`
}

// HubbleStatus is the state of the observer.
type HubbleStatus struct {
	State string `json:"state,omitempty"`
	Msg   string `json:"msg,omitempty"`
}

// K8sStatus is the state of the connection to the API server.
type K8sStatus struct {
	State          string   `json:"state,omitempty"`
	K8sAPIVersions []string `json:"k8s-api-versions,omitempty"`
	Msg            string   `json:"msg,omitempty"`
}

// KubeProxyReplacement says how far services are carried out here.
type KubeProxyReplacement struct {
	Mode     string                `json:"mode,omitempty"` // True, False, Partial, ...
	Devices  []string              `json:"devices,omitempty"`
	Features *KubeProxyReplFeature `json:"features,omitempty"`
}

// KubeProxyReplFeature lists the parts of a replacement.
type KubeProxyReplFeature struct {
	SocketLB *Enabled `json:"socketLB,omitempty"`
	NodePort *Enabled `json:"nodePort,omitempty"`
	HostPort *Enabled `json:"hostPort,omitempty"`
}

// Enabled is a switch.
type Enabled struct {
	Enabled bool `json:"enabled,omitempty"`
}

// IPAMStatus is what is given out. Lists hold addresses.
type IPAMStatus struct {
	Allocations map[string]string `json:"allocations,omitempty"` // address -> owner
	IPv4        []string          `json:"ipv4,omitempty"`
	IPv6        []string          `json:"ipv6,omitempty"`
	Status      string            `json:"status,omitempty"`
}

// MonitorStatus is the state of the event ring.
type MonitorStatus struct {
	CPUs     int64  `json:"cpus,omitempty"`
	NPages   int64  `json:"npages,omitempty"`
	PageSize int64  `json:"pagesize,omitempty"`
	Lost     uint64 `json:"lost,omitempty"`
	Unknown  uint64 `json:"unknown,omitempty"`
}

// ClusterStatus lists the nodes known here.
type ClusterStatus struct {
	CiliumHealth *Status       `json:"ciliumHealth,omitempty"`
	Self         string        `json:"self,omitempty"`
	Nodes        []NodeElement `json:"nodes,omitempty"`
}

// ControllerStatus is the state of a background job.
type ControllerStatus struct {
	Name   string               `json:"name,omitempty"`
	UUID   string               `json:"uuid,omitempty"`
	Status *ControllerRunStatus `json:"status,omitempty"`
}

// ControllerRunStatus counts the runs of a background job.
type ControllerRunStatus struct {
	SuccessCount            int64  `json:"success-count,omitempty"`
	LastSuccessTimestamp    string `json:"last-success-timestamp,omitempty"`
	FailureCount            int64  `json:"failure-count,omitempty"`
	LastFailureTimestamp    string `json:"last-failure-timestamp,omitempty"`
	ConsecutiveFailureCount int64  `json:"consecutive-failure-count,omitempty"`
	LastFailureMsg          string `json:"last-failure-msg,omitempty"`
}

// ProxyStatus is the state of the L7 proxy.
type ProxyStatus struct {
	PortRange      string `json:"port-range,omitempty"`
	IP             string `json:"ip,omitempty"`
	TotalRedirects int64  `json:"total-redirects,omitempty"`
	TotalPorts     int64  `json:"total-ports,omitempty"`
}

// IdentityRange is the range of numbers of this cluster.
type IdentityRange struct {
	MinIdentity int64 `json:"min-identity,omitempty"`
	MaxIdentity int64 `json:"max-identity,omitempty"`
}

// BandwidthManager is a switch.
type BandwidthManager struct {
	Enabled bool `json:"enabled"`
}

// Masquerading says whose source address is translated on its way out.
type Masquerading struct {
	Enabled             bool      `json:"enabled,omitempty"`
	EnabledProtocols    *Families `json:"enabledProtocols,omitempty"`
	Mode                string    `json:"mode,omitempty"` // BPF or iptables
	SNATExclusionCIDRv4 string    `json:"snat-exclusion-cidr-v4,omitempty"`
	SNATExclusionCIDRv6 string    `json:"snat-exclusion-cidr-v6,omitempty"`
}

// HostRouting is BPF or Legacy.
type HostRouting struct {
	Mode string `json:"mode,omitempty"`
}

// ClockSource is ktime or jiffies.
type ClockSource struct {
	Mode  string `json:"mode,omitempty"`
	Hertz int64  `json:"hertz,omitempty"`
}

// BPFMapStatus lists map sizes.
type BPFMapStatus struct {
	DynamicSizeRatio float64            `json:"dynamic-size-ratio,omitempty"`
	Maps             []BPFMapProperties `json:"maps,omitempty"`
}

// BPFMapProperties is the size of a map in entries.
type BPFMapProperties struct {
	Name string `json:"name,omitempty"`
	Size int64  `json:"size,omitempty"`
}

// EncryptionStatus is Disabled, IPsec or Wireguard.
type EncryptionStatus struct {
	Mode string `json:"mode,omitempty"`
	Msg  string `json:"msg,omitempty"`
}

// CNIChainingStatus is the chaining mode: none, portmap, ...
type CNIChainingStatus struct {
	Mode string `json:"mode,omitempty"`
}
