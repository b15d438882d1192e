// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// defaultAffinitySeconds is what ClientIP affinity means without a number.
const defaultAffinitySeconds = 10800

// ReflectServices keeps all services in the table.
func ReflectServices(ctx context.Context, c *Client, w *table.Writer[service.Service]) error {
	return reflection[*corev1.Service, service.Service]{
		kind:   Services,
		row:    func(o *corev1.Service) (service.Service, bool) { return ServiceRow(o), true },
		key:    service.Service.Key,
		synced: w.MarkSynced,
	}.run(ctx, c, w)
}

// ServiceRow converts a service.
func ServiceRow(o *corev1.Service) service.Service {
	row := service.Service{
		Namespace:       o.Namespace,
		Name:            o.Name,
		UID:             string(o.UID),
		Type:            string(o.Spec.Type),
		Labels:          o.Labels,
		Annotations:     annotations(o.Annotations),
		Selector:        o.Spec.Selector,
		InternalLocal:   o.Spec.InternalTrafficPolicy != nil && *o.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		ExternalLocal:   o.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		HealthCheckPort: uint16(o.Spec.HealthCheckNodePort),
		SourceRanges:    o.Spec.LoadBalancerSourceRanges,
		Class:           value(o.Spec.LoadBalancerClass, ""),
		Distribution:    value(o.Spec.TrafficDistribution, ""),
		PublishNotReady: o.Spec.PublishNotReadyAddresses,
	}
	for _, text := range o.Spec.ExternalIPs {
		if a, err := netip.ParseAddr(text); err == nil {
			row.ExternalIPs = append(row.ExternalIPs, a)
		}
	}
	for _, in := range o.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			row.Ingress = append(row.Ingress, service.Ingress{Addr: a, Proxy: value(in.IPMode, corev1.LoadBalancerIPModeVIP) == corev1.LoadBalancerIPModeProxy})
		}
	}
	for _, ip := range o.Spec.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			row.Headless = true
		} else if a, err := netip.ParseAddr(ip); err == nil {
			row.ClusterIPs = append(row.ClusterIPs, a)
		}
	}
	for _, p := range o.Spec.Ports {
		row.Ports = append(row.Ports, service.Port{Name: p.Name, Protocol: protocol(p.Protocol), Port: uint16(p.Port), NodePort: uint16(p.NodePort)})
	}
	if o.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		row.AffinitySeconds = defaultAffinitySeconds
		if a := o.Spec.SessionAffinityConfig; a != nil && a.ClientIP != nil && a.ClientIP.TimeoutSeconds != nil {
			row.AffinitySeconds = uint32(*a.ClientIP.TimeoutSeconds)
		}
	}
	return row
}
