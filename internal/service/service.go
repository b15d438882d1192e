// SPDX-License-Identifier: Apache-2.0

// Package service derives load-balancing frontends and backends from Services and EndpointSlices.
package service

import (
	"net/netip"
	"strings"

	"github.com/stentor-net/stentor/internal/table"
)

// Port of a Service.
type Port struct {
	Name     string
	Protocol uint8  // IANA number
	Port     uint16 // host byte order
	NodePort uint16
}

// Service is a Kubernetes Service: a row of the raw table `services`.
type Service struct {
	Namespace, Name string
	Type            string // ClusterIP, NodePort, LoadBalancer, ExternalName
	ClusterIPs      []netip.Addr
	Headless        bool
	Ports           []Port
	Labels          map[string]string
	Annotations     map[string]string
	Selector        map[string]string
	AffinitySeconds uint32 // 0: none
	InternalLocal   bool   // internalTrafficPolicy: Local
	PublishNotReady bool
}

// Key is namespace/name.
func (s Service) Key() string { return s.Namespace + "/" + s.Name }

// SliceEndpoint is one endpoint of an EndpointSlice.
type SliceEndpoint struct {
	Addresses                   []netip.Addr
	Ready, Serving, Terminating bool
	NodeName, Zone              string
	PodNamespace, PodName       string
}

// SlicePort is one port of an EndpointSlice.
type SlicePort struct {
	Name     string
	Protocol uint8
	Port     uint16
}

// Slice is an EndpointSlice: a row of the raw table `endpointslices`.
type Slice struct {
	Namespace, Name string
	Service         string // name of the owning Service, same namespace
	Ports           []SlicePort
	Endpoints       []SliceEndpoint
}

// NewServiceTable makes the raw table `services`.
func NewServiceTable() (*table.Table[Service], *table.Writer[Service]) {
	return table.New(table.Options[Service]{
		Name: "services",
		Key:  Service.Key,
		Columns: []table.Column[Service]{
			{Name: "SERVICE", Value: Service.Key},
			{Name: "TYPE", Value: func(s Service) string { return s.Type }},
			{Name: "CLUSTER-IPS", Value: func(s Service) string { return addrs(s.ClusterIPs) }},
		},
	})
}

// NewSliceTable makes the raw table `endpointslices`. Index "service": namespace/name of the Service.
func NewSliceTable() (*table.Table[Slice], *table.Writer[Slice]) {
	return table.New(table.Options[Slice]{
		Name: "endpointslices",
		Key:  func(s Slice) string { return s.Namespace + "/" + s.Name },
		Indexes: map[string]func(Slice) []string{
			"service": func(s Slice) []string { return []string{s.Namespace + "/" + s.Service} },
		},
		Columns: []table.Column[Slice]{
			{Name: "SLICE", Value: func(s Slice) string { return s.Namespace + "/" + s.Name }},
			{Name: "SERVICE", Value: func(s Slice) string { return s.Service }},
		},
	})
}

// Backend is where a frontend sends a connection.
type Backend struct {
	Addr netip.Addr
	Port uint16
}

// Frontend is a virtual address with the backends that take its new
// connections: a row of the table `frontends`.
type Frontend struct {
	Service         string // namespace/name
	PortName        string
	Addr            netip.Addr
	Port            uint16
	Protocol        uint8
	Type            string // ClusterIP, ...
	AffinitySeconds uint32
	Backends        []Backend // sorted by address and port
}

// Key is address, port and protocol.
func (f Frontend) Key() string {
	return netip.AddrPortFrom(f.Addr, f.Port).String() + "/" + protocol(f.Protocol)
}

// NewFrontendTable makes the table `frontends`.
func NewFrontendTable() (*table.Table[Frontend], *table.Writer[Frontend]) {
	return table.New(table.Options[Frontend]{
		Name: "frontends",
		Key:  Frontend.Key,
		Columns: []table.Column[Frontend]{
			{Name: "FRONTEND", Value: Frontend.Key},
			{Name: "TYPE", Value: func(f Frontend) string { return f.Type }},
			{Name: "SERVICE", Value: func(f Frontend) string { return f.Service }},
			{Name: "BACKENDS", Value: func(f Frontend) string {
				var out []string
				for _, b := range f.Backends {
					out = append(out, netip.AddrPortFrom(b.Addr, b.Port).String())
				}
				return strings.Join(out, ",")
			}},
		},
	})
}

func addrs(list []netip.Addr) string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return strings.Join(out, ",")
}

func protocol(p uint8) string {
	switch p {
	case 6:
		return "TCP"
	case 17:
		return "UDP"
	case 132:
		return "SCTP"
	}
	return "?"
}
