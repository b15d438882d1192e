// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/policy"
)

// files is a world of manifests: pods have numbers of its own, and an address
// only if their status says so.
type files struct {
	cluster    string
	namespaces map[string]map[string]string
	pods       map[string]Party
	x          *policy.Explainer
}

// FromManifest makes the world of a cluster that is only written down.
func FromManifest(cluster string, m Manifest) (World, []rest.ObjectFit, error) {
	w := &files{cluster: cluster, namespaces: map[string]map[string]string{}, pods: map[string]Party{}}
	for _, n := range m.Namespaces {
		w.namespaces[n.Name] = maps.Clone(n.Labels)
	}
	in := policy.Input{Identities: identity.Reserved(), Namespaces: w.namespaces, Ports: map[netip.Addr][]endpoint.Port{}, Objects: m.Policies}
	filter, err := endpoint.NewFilter("")
	if err != nil {
		return World{}, nil, err
	}
	numbers := map[string]identity.ID{}
	for i := range m.Pods {
		p := w.pod(&m.Pods[i], filter)
		key := p.Labels.Key()
		if numbers[key] == 0 {
			numbers[key] = identity.MinAllocated + identity.ID(len(numbers))
		}
		p.Identity = numbers[key]
		in.Identities[p.Identity] = p.Labels
		for _, a := range p.Addrs {
			in.Addresses = append(in.Addresses, policy.Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: p.Identity, Flags: policy.AddressPod})
			in.Ports[a] = p.Ports
		}
		w.pods[p.Pod] = p
	}
	x, _, err := policy.NewExplainer(policy.Options{Cluster: cluster}, &in)
	if err != nil {
		return World{}, nil, err
	}
	w.x = x
	return World{Explainer: x, Find: w.find}, Fit(x, m.Policies), nil
}

// namespaceLabels are those of a namespace; every one has its name as a label.
func (w *files) namespaceLabels(name string) map[string]string {
	out := maps.Clone(w.namespaces[name])
	if out == nil {
		out = map[string]string{}
	}
	out[corev1.LabelMetadataName] = name
	return out
}

func (w *files) pod(p *corev1.Pod, f endpoint.Filter) Party {
	namespace := p.Namespace
	if namespace == "" {
		namespace = "default"
	}
	row := endpoint.Pod{Namespace: namespace, Name: p.Name, ServiceAccount: p.Spec.ServiceAccountName, Labels: p.Labels}
	if row.ServiceAccount == "" {
		row.ServiceAccount = "default" // as the API server would
	}
	out := Party{Name: row.Key(), Pod: row.Key(), Subject: true, Labels: endpoint.IdentityLabels(row, w.namespaceLabels(namespace), w.cluster, f)}
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			protocol, _ := ProtocolNumber(string(port.Protocol))
			if port.Name != "" {
				out.Ports = append(out.Ports, endpoint.Port{Name: port.Name, Number: uint16(port.ContainerPort), Protocol: protocol})
			}
		}
	}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out.Addrs = append(out.Addrs, a)
		}
	}
	return out
}

func (w *files) find(p rest.TraceParty) (Party, error) {
	switch {
	case p.Pod != "":
		name := p.Pod
		if !strings.Contains(name, "/") {
			name = "default/" + name
		}
		if out, ok := w.pods[name]; ok {
			return out, nil
		}
		return Party{}, fmt.Errorf("the files hold no pod %s: they hold %s", name, listed(slices.Sorted(maps.Keys(w.pods))))
	case p.IP != "":
		a, err := netip.ParseAddr(p.IP)
		if err != nil {
			return Party{}, fmt.Errorf("%q is no address", p.IP)
		}
		a = a.Unmap()
		for _, pod := range w.pods {
			if slices.Contains(pod.Addrs, a) {
				pod.Addrs = []netip.Addr{a}
				return pod, nil
			}
		}
		out := Party{Name: a.String(), Addrs: []netip.Addr{a}}
		out.Identity, out.Labels = w.x.Who(a)
		return out, nil
	case p.Identity != 0:
		id := identity.ID(p.Identity)
		labels, ok := identity.Reserved()[id]
		if !ok {
			return Party{}, fmt.Errorf("identity %d is not a reserved one, and files number no others", p.Identity)
		}
		return Party{Name: id.Name(), Identity: id, Labels: labels}, nil
	}
	labels, pod := PodLabels(p.Labels, w.cluster, w.namespaceLabels)
	return Party{Name: strings.Join(p.Labels, ","), Labels: labels, Subject: pod}, nil
}

// listed names the first of a list that may be long.
func listed(names []string) string {
	const shown = 10
	switch n := len(names); {
	case n == 0:
		return "none"
	case n > shown:
		return strings.Join(names[:shown], ", ") + fmt.Sprintf(" and %d more", n-shown)
	}
	return strings.Join(names, ", ")
}
