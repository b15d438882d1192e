// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/table"
)

// ReflectPods keeps the pods of a node in the table; node "" is all nodes.
func ReflectPods(ctx context.Context, c *Client, node string, w *table.Writer[endpoint.Pod]) error {
	fields := ""
	if node != "" {
		fields = "spec.nodeName=" + node
	}
	return reflection[*corev1.Pod, endpoint.Pod]{
		kind:   Pods,
		fields: fields,
		row:    func(p *corev1.Pod) (endpoint.Pod, bool) { return PodRow(p), true },
		key:    endpoint.Pod.Key,
		synced: w.MarkSynced,
	}.run(ctx, c, w)
}

// PodRow converts a pod.
func PodRow(p *corev1.Pod) endpoint.Pod {
	row := endpoint.Pod{
		Namespace:      p.Namespace,
		Name:           p.Name,
		UID:            string(p.UID),
		NodeName:       p.Spec.NodeName,
		ServiceAccount: p.Spec.ServiceAccountName,
		Workload:       workload(p),
		Labels:         p.Labels,
		Annotations:    annotations(p.Annotations),
		HostNetwork:    p.Spec.HostNetwork,
		Phase:          string(p.Status.Phase),
		Deleting:       p.DeletionTimestamp != nil,
	}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			row.IPs = append(row.IPs, a)
		}
	}
	for _, c := range podContainers(p) {
		for _, port := range c.Ports {
			if port.HostPort != 0 {
				h := endpoint.HostPort{Port: endpoint.Port{Name: port.Name, Number: uint16(port.ContainerPort), Protocol: protocol(port.Protocol)}, HostPort: uint16(port.HostPort)}
				h.HostIP, _ = netip.ParseAddr(port.HostIP) // empty or bad: on all
				row.HostPorts = append(row.HostPorts, h)
			}
			declared := endpoint.Port{Name: port.Name, Number: uint16(port.ContainerPort), Protocol: protocol(port.Protocol)}
			row.Declared = append(row.Declared, declared)
			if port.Name != "" {
				row.Ports = append(row.Ports, declared)
			}
		}
	}
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodReady {
			row.Ready = condition.Status == corev1.ConditionTrue
		}
	}
	return row
}

// workload is the controller of a pod. A ReplicaSet that carries a hash of the
// pod template is part of a Deployment, which gave it its name.
func workload(p *corev1.Pod) endpoint.Workload {
	for _, o := range p.OwnerReferences {
		if o.Controller == nil || !*o.Controller {
			continue
		}
		if hash := p.Labels["pod-template-hash"]; o.Kind == "ReplicaSet" && hash != "" {
			if name, ok := strings.CutSuffix(o.Name, "-"+hash); ok {
				return endpoint.Workload{Kind: "Deployment", Name: name}
			}
		}
		return endpoint.Workload{Kind: o.Kind, Name: o.Name}
	}
	return endpoint.Workload{}
}

// podContainers returns the containers, then those of the init containers that
// stay beside them.
func podContainers(p *corev1.Pod) []corev1.Container {
	out := append([]corev1.Container(nil), p.Spec.Containers...)
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, c)
		}
	}
	return out
}

// annotationDomains are those of annotations that Stentor reads.
var annotationDomains = []string{"cilium.io/", "io.cilium", "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth", "kubernetes.io/config.hash", "service.kubernetes.io/topology", "stentor.io/"}

func annotations(all map[string]string) map[string]string {
	var out map[string]string
	for k, v := range all {
		for _, domain := range annotationDomains {
			if strings.Contains(k, domain) {
				if out == nil {
					out = map[string]string{}
				}
				out[k] = v
				break
			}
		}
	}
	return out
}

// protocol returns the IANA number; Kubernetes defaults to TCP.
func protocol(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolUDP:
		return 17
	case corev1.ProtocolSCTP:
		return 132
	default:
		return 6
	}
}
