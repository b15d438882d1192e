// SPDX-License-Identifier: Apache-2.0

package rest

// TableInfo is a table of the agent: answer of GET /v1/db.
type TableInfo struct {
	Name     string `json:"name"`
	Rows     int    `json:"rows"`
	Revision uint64 `json:"revision"`
	Synced   bool   `json:"synced"`
}

// Table is printable content: answer of GET /v1/db/{table} and /v1/bpf/{name}.
type Table struct {
	Name     string     `json:"name"`
	Headings []string   `json:"headings"`
	Rows     [][]string `json:"rows"`
}

// Kinds of events.
const (
	EventDrop    = "drop"
	EventVerdict = "policy-verdict"
	EventTrace   = "trace"
	EventL7      = "l7"   // a request that the proxy saw
	EventLost    = "lost" // Count says how many
)

// Event is one line of GET /v1/monitor. Directions are seen from the pod.
type Event struct {
	Time       string        `json:"time"` // RFC 3339 with nanoseconds
	Type       string        `json:"type"` // Event*
	Node       string        `json:"node,omitempty"`
	Endpoint   uint16        `json:"endpoint,omitempty"`  // local endpoint that the packet is judged for
	Direction  string        `json:"direction,omitempty"` // ingress or egress
	Verdict    string        `json:"verdict,omitempty"`   // allow, deny, redirect, audit
	Reason     int           `json:"reason,omitempty"`    // number of the drop reason
	ReasonText string        `json:"reasonText,omitempty"`
	Point      string        `json:"point,omitempty"` // where it was seen: from_pod, to_pod, from_overlay, ...
	Source     EventParty    `json:"source"`
	Dest       EventParty    `json:"destination"`
	Protocol   string        `json:"protocol,omitempty"` // TCP, UDP, ICMPv4, ICMPv6, SCTP or a number
	TCPFlags   string        `json:"tcpFlags,omitempty"` // "SYN,ACK"
	ICMPType   int           `json:"icmpType,omitempty"`
	ICMPCode   int           `json:"icmpCode,omitempty"`
	Reply      bool          `json:"reply,omitempty"`
	Bytes      uint64        `json:"bytes,omitempty"`
	Policies   []string      `json:"policies,omitempty"` // objects that select the endpoint in this direction
	Count      uint64        `json:"count,omitempty"`    // merged or lost events
	Cell       *EventCell    `json:"cell,omitempty"`     // where policy found the verdict
	L7         *EventRequest `json:"l7,omitempty"`       // of EventL7
}

// EventRequest is what an event says of a request. ReasonText of the event says why it was denied.
type EventRequest struct {
	Protocol string  `json:"protocol"`            // HTTP/1.1, HTTP/2, DNS, Kafka
	Request  string  `json:"request"`             // in one line: method and URL; name and type; API key and topic
	Answer   string  `json:"answer,omitempty"`    // status, result code; empty: none
	Latency  float64 `json:"latencyMs,omitempty"` // milliseconds from request to answer
	Rules    uint32  `json:"rules,omitempty"`     // number of the set of rules that judged
}

// EventParty is one end of an event's packet.
type EventParty struct {
	IP       string `json:"ip,omitempty"`
	Port     uint16 `json:"port,omitempty"`
	Identity int64  `json:"identity,omitempty"`
	Labels   Labels `json:"labels,omitempty"`
	Pod      string `json:"pod,omitempty"` // namespace/name where known
	Node     string `json:"node,omitempty"`
}

// MonitorFilter limits GET /v1/monitor; each field is a query key that may be
// repeated. Values of one key are alternatives, keys are combined by AND.
const (
	FilterType     = "type"     // Event*
	FilterEndpoint = "endpoint" // number, or namespace/name of a pod: of the event's endpoint
	FilterFrom     = "from"     // endpoint number, pod, address, prefix or identity:N of the source
	FilterTo       = "to"       // the same for the destination
	FilterRelated  = "related"  // either end
	FilterPort     = "port"     // either end's port
	FilterProtocol = "protocol" // TCP, UDP, ...
	FilterVerdict  = "verdict"  // allow, deny, redirect, audit
)
