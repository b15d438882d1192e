// SPDX-License-Identifier: Apache-2.0

package l7

import "github.com/stentor-net/stentor/internal/dnsname"

// Protocol is what a set of rules speaks of.
type Protocol uint8

// Protocols.
const (
	None Protocol = iota // everything passes, whatever it is
	ProtocolHTTP
	ProtocolDNS
	ProtocolKafka
	ProtocolTLS   // server names alone
	ProtocolOther // a parser by name
)

// Set is compiled rules. It never changes. One without rules of its protocol,
// and without All, allows nothing.
type Set struct {
	Number   uint32
	Protocol Protocol
	// Everything of the protocol passes: some rule says so. It is recorded all the same.
	All bool

	http    []httpRule
	rewrite bool // some rule changes fields of requests it allows
	dns     dnsname.Matcher
}
