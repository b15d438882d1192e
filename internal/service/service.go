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
	UID             string
	Type            string // ClusterIP, NodePort, LoadBalancer, ExternalName
	ClusterIPs      []netip.Addr
	ExternalIPs     []netip.Addr
	Ingress         []Ingress // addresses that a load balancer gave
	Class           string    // loadBalancerClass; empty: the cluster's default
	Headless        bool
	Ports           []Port
	Labels          map[string]string
	Annotations     map[string]string
	Selector        map[string]string
	AffinitySeconds uint32 // 0: none
	InternalLocal   bool   // internalTrafficPolicy: Local
	ExternalLocal   bool   // externalTrafficPolicy: Local
	HealthCheckPort uint16 // healthCheckNodePort; 0: none
	SourceRanges    []string
	Distribution    string // trafficDistribution
	PublishNotReady bool
}

// Ingress is an address of a load balancer in a Service's status.
type Ingress struct {
	Addr  netip.Addr
	Proxy bool // ipMode Proxy: connections to the address go to the load balancer, also those from inside
}

// Key is namespace/name.
func (s Service) Key() string { return s.Namespace + "/" + s.Name }

// SliceEndpoint is one endpoint of an EndpointSlice.
type SliceEndpoint struct {
	Addresses                   []netip.Addr
	Ready, Serving, Terminating bool
	NodeName, Zone              string
	HintZones, HintNodes        []string // for whose clients it is meant
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
	Service         string   // name of the owning Service, same namespace
	Weight          string   // annotation service.cilium.io/weight; empty: DefaultWeight
	Problems        []string // addresses that were left out, for people
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

func addrs(list []netip.Addr) string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return strings.Join(out, ",")
}
