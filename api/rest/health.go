// SPDX-License-Identifier: Apache-2.0

package rest

// Paths of the health API, on a socket of its own.
const (
	PathHealthStatus = "/v1beta/status"       // GET HealthStatusResponse: of the last probes
	PathHealthProbe  = "/v1beta/status/probe" // PUT HealthStatusResponse: of probes made for it
	PathHealthSelf   = "/v1beta/healthz"      // GET HealthResponse
)

// HealthResponse is how this agent is.
type HealthResponse struct {
	Cilium *StatusResponse `json:"cilium,omitempty"`
	Uptime string          `json:"uptime,omitempty"`
}

// HealthStatusResponse tells how this node reaches the others.
type HealthStatusResponse struct {
	Timestamp     string             `json:"timestamp,omitempty"`     // RFC 3339
	ProbeInterval string             `json:"probeInterval,omitempty"` // such as 10s
	Local         *HealthSelf        `json:"local,omitempty"`
	Nodes         []HealthNodeStatus `json:"nodes"`
}

// HealthSelf is the node that asks.
type HealthSelf struct {
	Name string `json:"name,omitempty"`
}

// HealthNodeStatus is one node.
type HealthNodeStatus struct {
	Name           string       `json:"name,omitempty"`
	Host           *HealthPaths `json:"host,omitempty"`
	HealthEndpoint *HealthPaths `json:"health-endpoint,omitempty"`
}

// HealthPaths are the ways to one node.
type HealthPaths struct {
	Primary   *HealthPath  `json:"primary-address,omitempty"`
	Secondary []HealthPath `json:"secondary-addresses,omitempty"`
}

// HealthPath is one address.
type HealthPath struct {
	IP   string              `json:"ip,omitempty"`
	ICMP *HealthConnectivity `json:"icmp,omitempty"`
	HTTP *HealthConnectivity `json:"http,omitempty"`
}

// HealthConnectivity is the outcome of one probe; Status is empty if it is well.
type HealthConnectivity struct {
	Latency    int64  `json:"latency,omitempty"` // nanoseconds
	Status     string `json:"status,omitempty"`
	LastProbed string `json:"lastProbed,omitempty"` // RFC 3339
}
