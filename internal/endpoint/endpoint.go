// SPDX-License-Identifier: Apache-2.0

// Package endpoint knows the pods of the node, as Kubernetes describes them and as the datapath carries them.
package endpoint

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/table"
)

// Port is a container port.
type Port struct {
	Name     string
	Number   uint16 // host byte order
	Protocol uint8  // IANA number
}

// HostPort is a container port that is served on the node's addresses, too.
type HostPort struct {
	Port
	HostPort uint16     // host byte order
	HostIP   netip.Addr // on which; invalid or unspecified: on all
}

// Bound tells whether the port is served on one address only.
func (p HostPort) Bound() bool { return p.HostIP.IsValid() && !p.HostIP.IsUnspecified() }

// Pod is a Kubernetes pod: a row of the raw table `pods`.
type Pod struct {
	Namespace, Name, UID string
	NodeName             string
	ServiceAccount       string
	Workload             Workload // that made the pod
	Labels               map[string]string
	Annotations          map[string]string // only those that Stentor reads
	IPs                  []netip.Addr
	Ports                []Port // those with a name
	Declared             []Port // all of its containers, also those without a name
	HostPorts            []HostPort
	HostNetwork          bool
	Phase                string // as in status.phase
	Ready                bool
	Deleting             bool
}

// Workload is the object that a person made and that made the pod; zero if
// the pod was made by hand.
type Workload struct{ Kind, Name string }

// Key is namespace/name.
func (p Pod) Key() string { return p.Namespace + "/" + p.Name }

// NewPodTable makes the raw table `pods` (those of this node). Index "ip": address.
func NewPodTable() (*table.Table[Pod], *table.Writer[Pod]) {
	return table.New(table.Options[Pod]{
		Name: "pods",
		Key:  Pod.Key,
		Indexes: map[string]func(Pod) []string{"ip": func(p Pod) []string {
			var out []string
			for _, a := range p.IPs {
				out = append(out, a.String())
			}
			return out
		}},
		Columns: []table.Column[Pod]{
			{Name: "POD", Value: Pod.Key},
			{Name: "NODE", Value: func(p Pod) string { return p.NodeName }},
			{Name: "PHASE", Value: func(p Pod) string { return p.Phase }},
		},
	})
}

// State of an endpoint, as users see it.
type State string

// States that an endpoint passes through.
const (
	StateRestoring           State = "restoring"
	StateWaitingForIdentity  State = "waiting-for-identity"
	StateWaitingToRegenerate State = "waiting-to-regenerate"
	StateRegenerating        State = "regenerating"
	StateReady               State = "ready"
	StateNotReady            State = "not-ready"
	StateDisconnecting       State = "disconnecting"
	StateDisconnected        State = "disconnected"
)

// Endpoint is the interface of a pod of this node: a row of the table
// `endpoints`. Fields up to Created are what a restart must find again.
type Endpoint struct {
	ID              uint16 // 1..4095
	Incarnation     uint32 // differs each time the id is given out
	ContainerID     string
	ContainerIfName string // name of the interface inside the pod
	NetNS           string // path of the pod's network namespace
	Namespace, Pod  string
	PodUID          string
	Interface       string // the host's side of the veth
	IfIndex         int
	MAC, NodeMAC    [6]byte // inside the pod; the host's side
	IPv4, IPv6      netip.Addr
	Ports           []Port
	Audit           bool // what policy denies it passes, and is told
	Created         time.Time
	Labels          label.Set // identity-relevant
	Identity        identity.ID
	State           State
	Egress, Ingress Enforcement
	PolicyRevision  uint64
	Error           string // why it is not ready
}

// Enforcement tells whether policy limits one direction of an endpoint.
type Enforcement struct {
	Enforcing bool
	Slot      uint16
}

// PodKey is namespace/name of the pod.
func (e Endpoint) PodKey() string { return e.Namespace + "/" + e.Pod }

// NewTable makes the table `endpoints`. Indexes: "pod" (namespace/name), "container", "ip", "identity".
func NewTable() (*table.Table[Endpoint], *table.Writer[Endpoint]) {
	return table.New(table.Options[Endpoint]{
		Name: "endpoints",
		Key:  func(e Endpoint) string { return strconv.Itoa(int(e.ID)) },
		Indexes: map[string]func(Endpoint) []string{
			"pod":       func(e Endpoint) []string { return []string{e.PodKey()} },
			"container": func(e Endpoint) []string { return []string{e.ContainerID} },
			"identity":  func(e Endpoint) []string { return []string{e.Identity.String()} },
			"ip": func(e Endpoint) []string {
				var out []string
				for _, a := range []netip.Addr{e.IPv4, e.IPv6} {
					if a.IsValid() {
						out = append(out, a.String())
					}
				}
				return out
			},
		},
		Columns: []table.Column[Endpoint]{
			{Name: "ID", Value: func(e Endpoint) string { return strconv.Itoa(int(e.ID)) }},
			{Name: "POD", Value: Endpoint.PodKey},
			{Name: "IDENTITY", Value: func(e Endpoint) string { return e.Identity.String() }},
			{Name: "STATE", Value: func(e Endpoint) string { return string(e.State) }},
			{Name: "IPV4", Value: func(e Endpoint) string { return addr(e.IPv4) }},
			{Name: "IPV6", Value: func(e Endpoint) string { return addr(e.IPv6) }},
			{Name: "INTERFACE", Value: func(e Endpoint) string { return e.Interface }},
		},
	})
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}
