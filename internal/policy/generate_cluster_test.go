// SPDX-License-Identifier: Apache-2.0

package policy

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	npa "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

func (d draw) clusterPolicy() *npa.ClusterNetworkPolicy {
	p := &npa.ClusterNetworkPolicy{Spec: npa.ClusterNetworkPolicySpec{
		Tier: npa.Tier(d.of("tier", "Admin", "Baseline")), Priority: int32(d.n("priority", 2)),
		Subject: npa.ClusterNetworkPolicySubject{Namespaces: d.namespaceSelector()},
	}}
	if d.chance("pods", 2) {
		p.Spec.Subject = npa.ClusterNetworkPolicySubject{Pods: d.namespacedPod()}
	}
	action := func() npa.ClusterNetworkPolicyRuleAction {
		return npa.ClusterNetworkPolicyRuleAction(d.of("action", "Accept", "Deny", "Pass"))
	}
	for range d.n("ingress", 3) {
		r := npa.ClusterNetworkPolicyIngressRule{Action: action(), Protocols: d.protocols(true)}
		for range 1 + d.n("peers", 1) {
			if d.chance("pods", 2) {
				r.From = append(r.From, npa.ClusterNetworkPolicyIngressPeer{Pods: d.namespacedPod()})
			} else {
				r.From = append(r.From, npa.ClusterNetworkPolicyIngressPeer{Namespaces: d.namespaceSelector()})
			}
		}
		p.Spec.Ingress = append(p.Spec.Ingress, r)
	}
	for range d.n("egress", 3) {
		r := npa.ClusterNetworkPolicyEgressRule{Action: action()}
		named := true
		for range 1 + d.n("peers", 1) {
			switch d.n("peer", 3) {
			case 0:
				r.To = append(r.To, npa.ClusterNetworkPolicyEgressPeer{Pods: d.namespacedPod()})
			case 1:
				r.To = append(r.To, npa.ClusterNetworkPolicyEgressPeer{Namespaces: d.namespaceSelector()})
			case 2:
				r.To, named = append(r.To, npa.ClusterNetworkPolicyEgressPeer{Nodes: &metav1.LabelSelector{MatchLabels: map[string]string{"zone": d.of("zone", "a", "b")}}}), false
			case 3:
				r.To, named = append(r.To, npa.ClusterNetworkPolicyEgressPeer{Networks: []npa.CIDR{npa.CIDR(d.of("cidr", prefixes...))}}), false
			}
		}
		r.Protocols = d.protocols(named)
		p.Spec.Egress = append(p.Spec.Egress, r)
	}
	return p
}

func (d draw) namespaceSelector() *metav1.LabelSelector {
	if d.chance("any", 2) {
		return &metav1.LabelSelector{}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{"color": d.of("color", namespaces...)}}
}

func (d draw) namespacedPod() *npa.NamespacedPod {
	return &npa.NamespacedPod{NamespaceSelector: *d.namespaceSelector(), PodSelector: *d.k8sSelector("pods")}
}

func (d draw) protocols(named bool) []npa.ClusterNetworkPolicyProtocol {
	switch d.n("protocols", 6) {
	case 0:
		return []npa.ClusterNetworkPolicyProtocol{{TCP: &npa.ClusterNetworkPolicyProtocolTCP{}}}
	case 1:
		return []npa.ClusterNetworkPolicyProtocol{{TCP: &npa.ClusterNetworkPolicyProtocolTCP{DestinationPort: &npa.Port{Range: &npa.PortRange{Start: 64, End: 127}}}}}
	case 2:
		return []npa.ClusterNetworkPolicyProtocol{{UDP: &npa.ClusterNetworkPolicyProtocolUDP{DestinationPort: &npa.Port{Number: 53}}}, {SCTP: &npa.ClusterNetworkPolicyProtocolSCTP{}}}
	case 3:
		if named {
			return []npa.ClusterNetworkPolicyProtocol{{DestinationNamedPort: "web"}}
		}
	}
	return nil
}
