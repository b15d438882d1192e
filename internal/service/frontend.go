// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/stentor-net/stentor/internal/table"
)

// Kind tells why an address belongs to a service.
type Kind string

// Kinds of frontends.
const (
	ClusterIP     Kind = "ClusterIP"
	NodePort      Kind = "NodePort"
	ExternalIP    Kind = "ExternalIP"
	LoadBalancer  Kind = "LoadBalancer"
	HostPort      Kind = "HostPort"
	LocalRedirect Kind = "LocalRedirect"
)

// Scope tells whose connections a frontend takes.
type Scope uint8

// Scopes.
const (
	Internal Scope = 0 // of pods and hosts of the cluster
	External Scope = 1 // that come in from the network
)

func (s Scope) String() string {
	if s == External {
		return "external"
	}
	return "internal"
}

// Algorithm chooses a backend for a new connection.
type Algorithm string

// Algorithms.
const (
	Random Algorithm = "random"
	Maglev Algorithm = "maglev"
)

// Forwarding tells how a connection from outside reaches a backend of another node.
type Forwarding string

// Forwarding modes.
const (
	SNAT Forwarding = "snat" // with this node's address; answers come back through it
	DSR  Forwarding = "dsr"  // with the client's address; the backend's node answers the client
)

// State of a backend.
type State string

// States of backends.
const (
	Active      State = "active"      // gets connections
	Terminating State = "terminating" // serves while it ends: gets new connections only when no other is left
	Maintenance State = "maintenance" // weight 0: keeps its connections
	Elsewhere   State = "elsewhere"   // meant for clients in other places: keeps its connections
	NotReady    State = "not-ready"   // keeps its TCP connections
)

// Backend is an endpoint of one port of a service: a row of the table `backends`,
// and a member of the frontends that send to it.
type Backend struct {
	Service  string // namespace/name
	PortName string
	Addr     netip.Addr
	Port     uint16
	Protocol uint8 // IANA number
	State    State
	Weight   uint16 // share under Maglev; 100 if nobody says otherwise
	Node     string // name; empty: unknown
	Zone     string
	Pod      string // namespace/name; empty: none
}

// Key is unique in the table.
func (b Backend) Key() string {
	return b.Service + " " + b.PortName + " " + b.Socket()
}

// Socket is address, port and protocol.
func (b Backend) Socket() string { return socket(b.Addr, b.Port, b.Protocol) }

// DefaultWeight of a backend.
const DefaultWeight = 100

// Frontend is a virtual address with the backends that take its new connections:
// a row of the table `frontends`. NodePort and HostPort have a row for each
// address of the node, and one for the unspecified address: any address of any
// node, for clients inside. A row with port and protocol 0 stands for all of an
// address that has no row of its own; it drops.
type Frontend struct {
	Addr     netip.Addr
	Port     uint16
	Protocol uint8
	Scope    Scope

	Kind        Kind
	Service     string // namespace/name; of a HostPort: the pod
	PortName    string
	Local       bool // traffic policy: only backends of this node
	Affinity    uint32
	Algorithm   Algorithm
	Forwarding  Forwarding
	Sources     []netip.Prefix   // clients, sorted; empty: all
	SourcesDeny bool             // Sources are those that are refused
	HealthCheck uint16           // healthCheckNodePort; 0: none
	SkipNetNS   []uint64         // cookies of network namespaces that are not translated: a redirect's own backends
	Redirect    string           // namespace/name of the policy that put these backends here; empty: none
	Backends    []Backend        // sorted by address and port
	Direct      []netip.AddrPort // those of this node that other nodes may send clients to with their own address
	Why         string           // there is no backend; empty if there is one
}

// Takers are the backends that new connections get: the active ones, else those
// that end but still serve.
func (f Frontend) Takers() []Backend {
	var active, ending []Backend
	for _, b := range f.Backends {
		switch b.State {
		case Active:
			active = append(active, b)
		case Terminating:
			ending = append(ending, b)
		}
	}
	if len(active) == 0 {
		return ending
	}
	return active
}

// FrontendKey is what names a frontend.
type FrontendKey struct {
	Addr     netip.Addr
	Port     uint16
	Protocol uint8
	Scope    Scope
}

// ID is the comparable key of the frontend.
func (f Frontend) ID() FrontendKey { return FrontendKey{f.Addr, f.Port, f.Protocol, f.Scope} }

// Rest tells whether the row stands for the ports that have none of their own.
func (f Frontend) Rest() bool { return f.Port == 0 && f.Protocol == 0 }

// Socket is address, port and protocol.
func (f Frontend) Socket() string { return socket(f.Addr, f.Port, f.Protocol) }

// Key is address, port, protocol and, but for clients inside, the scope.
func (f Frontend) Key() string {
	if f.Scope == External {
		return f.Socket() + "/external"
	}
	return f.Socket()
}

// NewFrontendTable makes the table `frontends`.
func NewFrontendTable() (*table.Table[Frontend], *table.Writer[Frontend]) {
	return table.New(table.Options[Frontend]{
		Name: "frontends",
		Key:  Frontend.Key,
		Indexes: map[string]func(Frontend) []string{
			"service": func(f Frontend) []string { return []string{f.Service} },
			"health-check": func(f Frontend) []string {
				if f.HealthCheck == 0 {
					return nil
				}
				return []string{strconv.Itoa(int(f.HealthCheck))}
			},
		},
		Columns: []table.Column[Frontend]{
			{Name: "FRONTEND", Value: Frontend.Key},
			{Name: "TYPE", Value: func(f Frontend) string { return string(f.Kind) }},
			{Name: "SERVICE", Value: func(f Frontend) string { return f.Service }},
			{Name: "PORT", Value: func(f Frontend) string { return f.PortName }},
			{Name: "OPTIONS", Value: Frontend.options},
			{Name: "BACKENDS", Value: func(f Frontend) string {
				var out []string
				for _, b := range f.Takers() {
					out = append(out, netip.AddrPortFrom(b.Addr, b.Port).String())
				}
				return strings.Join(out, ",")
			}},
			{Name: "WHY-NONE", Value: func(f Frontend) string { return f.Why }},
		},
	})
}

// options are those that differ from what a service usually has.
func (f Frontend) options() string {
	var out []string
	add := func(cond bool, text string) {
		if cond {
			out = append(out, text)
		}
	}
	add(f.Local, "local")
	add(f.Affinity > 0, "affinity="+strconv.Itoa(int(f.Affinity))+"s")
	add(f.Algorithm == Maglev, "maglev")
	add(f.Forwarding == DSR, "dsr")
	if len(f.Sources) > 0 {
		verb := "allow"
		if f.SourcesDeny {
			verb = "deny"
		}
		var list []string
		for _, p := range f.Sources {
			list = append(list, p.String())
		}
		out = append(out, verb+"="+strings.Join(list, "+"))
	}
	add(f.HealthCheck > 0, "health-check="+strconv.Itoa(int(f.HealthCheck)))
	add(f.Redirect != "", "redirect="+f.Redirect)
	return strings.Join(out, ",")
}

// SameFrontend tells whether two frontends are equal.
func SameFrontend(a, b Frontend) bool {
	return a.ID() == b.ID() && a.Kind == b.Kind && a.Service == b.Service && a.PortName == b.PortName && a.Local == b.Local &&
		a.Affinity == b.Affinity && a.Algorithm == b.Algorithm && a.Forwarding == b.Forwarding &&
		a.SourcesDeny == b.SourcesDeny && a.HealthCheck == b.HealthCheck && a.Why == b.Why && a.Redirect == b.Redirect &&
		slices.Equal(a.Sources, b.Sources) && slices.Equal(a.SkipNetNS, b.SkipNetNS) && slices.Equal(a.Backends, b.Backends) &&
		slices.Equal(a.Direct, b.Direct)
}

// NewBackendTable makes the table `backends`. Index "service": namespace/name.
func NewBackendTable() (*table.Table[Backend], *table.Writer[Backend]) {
	return table.New(table.Options[Backend]{
		Name:    "backends",
		Key:     Backend.Key,
		Indexes: map[string]func(Backend) []string{"service": func(b Backend) []string { return []string{b.Service} }},
		Columns: []table.Column[Backend]{
			{Name: "SERVICE", Value: func(b Backend) string { return b.Service }},
			{Name: "PORT", Value: func(b Backend) string { return b.PortName }},
			{Name: "BACKEND", Value: Backend.Socket},
			{Name: "STATE", Value: func(b Backend) string { return string(b.State) }},
			{Name: "WEIGHT", Value: func(b Backend) string { return strconv.Itoa(int(b.Weight)) }},
			{Name: "NODE", Value: func(b Backend) string { return b.Node }},
			{Name: "ZONE", Value: func(b Backend) string { return b.Zone }},
			{Name: "POD", Value: func(b Backend) string { return b.Pod }},
		},
	})
}

func compareBackends(a, b Backend) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

func socket(a netip.Addr, port uint16, proto uint8) string {
	return netip.AddrPortFrom(a, port).String() + "/" + protocol(proto)
}

func protocol(p uint8) string {
	switch p {
	case 0:
		return "any"
	case 6:
		return "TCP"
	case 17:
		return "UDP"
	case 132:
		return "SCTP"
	}
	return strconv.Itoa(int(p))
}
