// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// ReflectSlices keeps the EndpointSlices that belong to a service in the table.
func ReflectSlices(ctx context.Context, c *Client, w *table.Writer[service.Slice]) error {
	return reflection[*discoveryv1.EndpointSlice, service.Slice]{
		kind:   EndpointSlices,
		row:    SliceRow,
		key:    func(s service.Slice) string { return s.Namespace + "/" + s.Name },
		synced: w.MarkSynced,
	}.run(ctx, c, w)
}

// SliceRow converts an EndpointSlice; false if it belongs to no service.
func SliceRow(o *discoveryv1.EndpointSlice) (service.Slice, bool) {
	owner := o.Labels[discoveryv1.LabelServiceName]
	if owner == "" || o.AddressType == discoveryv1.AddressTypeFQDN {
		return service.Slice{}, false
	}
	row := service.Slice{Namespace: o.Namespace, Name: o.Name, Service: owner, Weight: o.Annotations[service.AnnotationWeight]}
	for _, p := range o.Ports {
		port := service.SlicePort{Protocol: protocol(value(p.Protocol, corev1.ProtocolTCP)), Name: value(p.Name, "")}
		port.Port = uint16(value(p.Port, 0))
		row.Ports = append(row.Ports, port)
	}
	for _, e := range o.Endpoints {
		endpoint := service.SliceEndpoint{
			// Absent conditions mean ready, not terminating.
			Ready:       value(e.Conditions.Ready, true),
			Serving:     value(e.Conditions.Serving, value(e.Conditions.Ready, true)),
			Terminating: value(e.Conditions.Terminating, false),
			NodeName:    value(e.NodeName, ""),
			Zone:        value(e.Zone, ""),
		}
		if h := e.Hints; h != nil {
			for _, z := range h.ForZones {
				endpoint.HintZones = append(endpoint.HintZones, z.Name)
			}
			for _, n := range h.ForNodes {
				endpoint.HintNodes = append(endpoint.HintNodes, n.Name)
			}
		}
		if t := e.TargetRef; t != nil && t.Kind == "Pod" {
			endpoint.PodNamespace, endpoint.PodName = t.Namespace, t.Name
		}
		for _, text := range e.Addresses {
			a, err := sliceAddress(text, o.AddressType)
			if err != nil {
				row.Problems = append(row.Problems, err.Error())
				continue
			}
			endpoint.Addresses = append(endpoint.Addresses, a)
		}
		row.Endpoints = append(row.Endpoints, endpoint)
	}
	return row, true
}

// sliceAddress reads an address of a slice. One of the other family, and one by
// which a Service would reach into its clients' own namespace or beyond the
// cluster's addresses, is none.
func sliceAddress(text string, family discoveryv1.AddressType) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return a, fmt.Errorf("%q is no address", text)
	case a.Is4() != (family == discoveryv1.AddressTypeIPv4) || a.Is4In6():
		return a, fmt.Errorf("%s is no %s address, which its addressType asks for", text, family)
	case !a.IsGlobalUnicast() || a.Zone() != "":
		return a, fmt.Errorf("%s is no address that a backend can have", text)
	}
	return a, nil
}

func value[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
