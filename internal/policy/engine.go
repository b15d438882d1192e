// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// Enforcement modes of the option enable-policy.
const (
	EnforceDefault = "default" // endpoints that a policy selects, per direction
	EnforceAlways  = "always"
	EnforceNever   = "never"
)

// Options of the engine. The zero value is a usable default.
type Options struct {
	Enforcement    string // Enforce*; default EnforceDefault
	AllowLocalhost string // "auto" or "always" (default): the host may always reach its pods; "policy": it is a peer like others
	Cluster        string // name of this cluster; default "default"
	CIDRMatchNodes bool   // CIDR rules of CNP and CCNP match nodes (policy-cidr-match-mode)
	CIDRMatchPods  bool   // the same for pods
	IPv4, IPv6     bool   // families in use; both false means both. One family: the world is identity.World
}

// Subject is an endpoint of this node as policy sees it.
type Subject struct {
	Endpoint uint16
	Identity identity.ID
	Labels   label.Set
	IPv4     Address // zero prefix: none
	IPv6     Address
	Ports    []endpoint.Port
}

// Input is everything that policy depends on.
type Input struct {
	Subjects   []Subject
	Identities map[identity.ID]label.Set // all that are known, reserved ones included
	Namespaces map[string]map[string]string
	Addresses  []Address // every prefix with its identity; pods of this node included
	Objects    []Object
}

// ObjectStatus says what became of a policy object.
type ObjectStatus struct {
	Key    string // Object.Key
	Valid  bool
	Reason string // why it is quarantined, or which of its fields are not carried out yet
}

// Outcome is the answer to a change of input.
type Outcome struct {
	Ops       []Op
	Revision  uint64 // counts changes of the policy set
	Objects   []ObjectStatus
	Endpoints map[uint16]SubjectOutcome
	Err       error // what could not be carried out, such as more slots than there are; the rest holds
}

// SubjectOutcome is what policy decided about an endpoint.
type SubjectOutcome struct {
	Row              EndpointRow
	EnforcingIngress bool
	EnforcingEgress  bool
	Policies         []string // keys of the objects that select it
}
