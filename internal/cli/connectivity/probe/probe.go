// SPDX-License-Identifier: Apache-2.0

// Package probe is what runs in the pods of a connectivity test: servers, and a
// prober that is told over its standard input what to try.
package probe

import (
	"time"
)

// Kinds of requests.
const (
	HTTP    = "http"    // GET /; the answer names the server and the source that it saw
	Connect = "connect" // opens a TCP connection, no more
	TCP     = "tcp"     // echo of Size bytes
	UDP     = "udp"     // echo of one datagram of Size bytes
	Ping    = "ping"    // ICMP echo of Size bytes
	Resolve = "resolve" // addresses of the name Host
	FullMTU = "mtu"     // echo of one datagram that fills the MTU of the route, never cut

	RoundTrips  = "rr"     // one-byte questions and answers over one TCP connection, for Duration
	Connections = "crr"    // the same with a connection for each
	Stream      = "stream" // bytes of one TCP connection in Duration
)

// Request asks for one try.
type Request struct {
	ID       uint64        `json:"id"`
	Kind     string        `json:"kind"`
	Host     string        `json:"host"` // address or name
	Port     uint16        `json:"port,omitempty"`
	Family   int           `json:"family,omitempty"` // 4 or 6, of a name's addresses; 0: any
	Size     int           `json:"size,omitempty"`   // bytes
	Timeout  time.Duration `json:"timeout,omitempty"`
	Duration time.Duration `json:"duration,omitempty"` // of a measurement
}

// Outcomes of a try.
const (
	OK          = "ok"
	Timeout     = "timeout"     // nothing came back in time
	Refused     = "refused"     // the other end, or something on the way, said no
	Unreachable = "unreachable" // the network said no
	Unresolved  = "unresolved"  // the name has no address
	Broken      = "broken"      // anything else, such as a wrong answer
)

// Answer tells how a try went.
type Answer struct {
	ID        uint64        `json:"id"`
	Outcome   string        `json:"outcome"`
	Error     string        `json:"error,omitempty"`
	Latency   time.Duration `json:"latency,omitempty"`
	Server    string        `json:"server,omitempty"`    // HTTP: who answered
	Source    string        `json:"source,omitempty"`    // HTTP: address that the server saw
	Addresses []string      `json:"addresses,omitempty"` // Resolve
	Size      int           `json:"size,omitempty"`      // FullMTU: bytes of the packet with its headers
	Measure   *Measure      `json:"measure,omitempty"`
}

// Measure is the result of a measurement.
type Measure struct {
	Count     int           `json:"count"` // round trips or connections
	Bytes     int64         `json:"bytes"`
	Elapsed   time.Duration `json:"elapsed"`
	P50       time.Duration `json:"p50,omitempty"`
	P99       time.Duration `json:"p99,omitempty"`
	PerSecond float64       `json:"perSecond"` // of Count, or of Bytes
}

// Hello is the first line of a prober: it is there, and this is what it can do.
type Hello struct {
	Version string `json:"version"`
	Name    string `json:"name"`
}
