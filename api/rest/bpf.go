// SPDX-License-Identifier: Apache-2.0

package rest

// BPFMapList lists the datapath's maps.
type BPFMapList struct {
	Maps []BPFMap `json:"maps"`
}

// BPFMap is one map. Fields from Type on are additions of this project.
type BPFMap struct {
	Path       string        `json:"path,omitempty"`
	Cache      []BPFMapEntry `json:"cache,omitempty"`
	Name       string        `json:"name,omitempty"`
	Type       string        `json:"type,omitempty"`
	Entries    int64         `json:"entries"`
	MaxEntries int64         `json:"max-entries,omitempty"`
	Memory     int64         `json:"memory,omitempty"` // bytes
}

// BPFMapEntry is one entry as text.
type BPFMapEntry struct {
	Key           string `json:"key,omitempty"`
	Value         string `json:"value,omitempty"`
	DesiredAction string `json:"desired-action,omitempty"` // ok, insert, delete
	LastError     string `json:"last-error,omitempty"`
}

// Metric is one sample.
type Metric struct {
	Name   string            `json:"name,omitempty"`
	Value  float64           `json:"value"`
	Labels map[string]string `json:"labels,omitempty"`
}

// Service is a frontend with its backends.
type Service struct {
	Spec   *ServiceSpec   `json:"spec,omitempty"`
	Status *ServiceStatus `json:"status,omitempty"`
}

// ServiceStatus is the service in force.
type ServiceStatus struct {
	Realized *ServiceSpec `json:"realized,omitempty"`
	Why      string       `json:"why,omitempty"`      // no backend takes new connections
	Problems []string     `json:"problems,omitempty"` // in the objects that it follows from
}

// LRPSpec is a local redirect policy with what it redirects on this node.
type LRPSpec struct {
	UID              string            `json:"uid,omitempty"`
	Name             string            `json:"name,omitempty"`
	Namespace        string            `json:"namespace,omitempty"`
	FrontendType     string            `json:"frontend-type,omitempty"`
	LRPType          string            `json:"lrp-type,omitempty"` // LRPOf*
	ServiceID        string            `json:"service-id,omitempty"`
	FrontendMappings []FrontendMapping `json:"frontend-mappings"`
	Problems         []string          `json:"problems,omitempty"`
}

// Types of local redirect policies.
const (
	LRPOfAddress = "addr"
	LRPOfService = "svc"
)

// FrontendMapping is a redirected address with the pods that take its place.
type FrontendMapping struct {
	FrontendAddress *FrontendAddress `json:"frontend-address,omitempty"`
	Backends        []LRPBackend     `json:"backends,omitempty"`
}

// LRPBackend is a pod that takes the place of a redirected address.
type LRPBackend struct {
	PodID          string          `json:"pod-id,omitempty"` // namespace/name
	BackendAddress *BackendAddress `json:"backend-address,omitempty"`
}

// ServiceSpec is a frontend with its backends.
type ServiceSpec struct {
	ID               int64            `json:"id,omitempty"`
	FrontendAddress  *FrontendAddress `json:"frontend-address"`
	BackendAddresses []BackendAddress `json:"backend-addresses,omitempty"`
	Flags            *ServiceFlags    `json:"flags,omitempty"`
}

// ServiceFlags name a service and what it is.
type ServiceFlags struct {
	Type      string `json:"type,omitempty"`
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Cluster   string `json:"cluster,omitempty"`
}

// FrontendAddress is a virtual address.
type FrontendAddress struct {
	IP       string `json:"ip,omitempty"`
	Protocol string `json:"protocol,omitempty"` // tcp, udp, any
	Scope    string `json:"scope,omitempty"`    // external, internal
	Port     uint16 `json:"port,omitempty"`
}

// BackendAddress is where a service sends connections.
type BackendAddress struct {
	IP        string `json:"ip"`
	Port      uint16 `json:"port,omitempty"`
	NodeName  string `json:"nodeName,omitempty"`
	State     string `json:"state,omitempty"`
	Preferred bool   `json:"preferred,omitempty"`
	Weight    uint16 `json:"weight,omitempty"`
}
