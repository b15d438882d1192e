// SPDX-License-Identifier: Apache-2.0

package l7

import (
	"net/netip"

	"github.com/stentor-net/stentor/internal/identity"
)

// Connection is what the proxy's two sockets see: addresses after the
// translation of services, the client's as the pod or the network has it.
type Connection struct {
	Client, Server netip.AddrPort
	Protocol       uint8 // IANA number: 6 TCP, 17 UDP
}

// Side says whose policy speaks, seen from the endpoint.
type Side uint8

// Sides of a connection.
const (
	Egress  Side = iota // the client's
	Ingress             // the server's
)

// Limit puts a connection under a set of rules.
type Limit struct {
	Side     Side
	Endpoint uint16 // of this node, whose policy it is
	Set      uint32 // number of the rules: a hash of their content; no rules have 0
}

// Ruling is what policy says about a connection at one moment.
type Ruling struct {
	Denied         bool        // by the cells: nothing passes
	Limits         []Limit     // at most one a side; each must allow a request. None: everything passes
	Client, Server identity.ID // as the row of the connection has them
	Generations    [2]uint64   // what it was judged under, by Side; for Judge alone
}

// Judge knows the policy of this node. It is safe for use by many.
type Judge interface {
	// Judge rules about a connection. An error means that nobody knows the
	// connection: it did not come through the programs.
	Judge(Connection) (Ruling, error)
	// Holds tells whether nothing changed since r; it is cheap enough for every request.
	Holds(c Connection, r *Ruling) bool
}

// Rules gives the compiled rules of a number, or nil if it is not known here:
// then nothing is allowed. It is safe for use by many, and cheap.
type Rules interface {
	Set(number uint32) *Set
}

// Recorder takes records. It never blocks: what it has no room for it counts.
// The record, its HTTP, DNS or Kafka, and their slices are the caller's again
// when Record returns; strings stay as they are.
type Recorder interface {
	Record(*Record)
}
