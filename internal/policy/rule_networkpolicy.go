// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/stentor-net/stentor/internal/label"
)

// npParser turns one NetworkPolicy into rules.
type npParser struct {
	out       *parsed
	object    string
	namespace string
	cluster   string
	subject   *selector
}

// parseNetworkPolicy gives a NetworkPolicy the meaning that Kubernetes gives it:
// an empty list of peers or ports is everything, and an ipBlock may hold pods.
func parseNetworkPolicy(o *Object, opts *Options, np *networkingv1.NetworkPolicy) parsed {
	out := parsed{audit: o.Audit}
	namespace := namespaceOf(o.Namespace)
	p := &npParser{out: &out, object: o.Key(), namespace: namespace, cluster: opts.Cluster}
	subject, err := p.pods("spec.podSelector", &np.Spec.PodSelector)
	if err != nil {
		return parsed{err: err}
	}
	p.subject = labelSelector(append(subject, k8sIs(label.KeyNamespace, namespace)))
	ingress, egress := policyTypes(np)
	if ingress {
		if err := p.direction(Ingress, "spec.ingress", ingressRules(np.Spec.Ingress)); err != nil {
			return parsed{err: err}
		}
	}
	if egress {
		if err := p.direction(Egress, "spec.egress", egressRules(np.Spec.Egress)); err != nil {
			return parsed{err: err}
		}
	}
	return out
}

// policyTypes applies the API's default where the types are not given.
func policyTypes(np *networkingv1.NetworkPolicy) (ingress, egress bool) {
	if len(np.Spec.PolicyTypes) == 0 {
		return true, len(np.Spec.Egress) > 0
	}
	for _, t := range np.Spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			ingress = true
		case networkingv1.PolicyTypeEgress:
			egress = true
		}
	}
	return ingress, egress
}

// npRule is a rule of either direction.
type npRule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

func ingressRules(list []networkingv1.NetworkPolicyIngressRule) []npRule {
	out := make([]npRule, len(list))
	for i, r := range list {
		out[i] = npRule{r.From, r.Ports}
	}
	return out
}

func egressRules(list []networkingv1.NetworkPolicyEgressRule) []npRule {
	out := make([]npRule, len(list))
	for i, r := range list {
		out[i] = npRule{r.To, r.Ports}
	}
	return out
}

func (p *npParser) direction(d Direction, path string, list []npRule) error {
	base := rule{tier: tierNormal, direction: d, subject: p.subject, verdict: Allow, defaultDeny: true}
	if len(list) == 0 {
		r := base
		r.origin = Origin{p.object, path}
		p.out.add(&r)
	}
	for i, in := range list {
		r := base
		r.origin = Origin{p.object, fmt.Sprintf("%s[%d]", path, i)}
		var err error
		if r.peers, err = p.peers(r.origin.Path, in.peers); err != nil {
			return err
		}
		if r.ports, err = networkPorts(r.origin.Path, in.ports); err != nil {
			return err
		}
		p.out.add(&r)
	}
	return nil
}

func (p *npParser) peers(path string, list []networkingv1.NetworkPolicyPeer) ([]*selector, error) {
	if len(list) == 0 {
		return []*selector{anyPeer}, nil
	}
	var out []*selector
	for i := range list {
		at := fmt.Sprintf("%s.peers[%d]", path, i)
		peer := &list[i]
		if peer.IPBlock != nil {
			if peer.PodSelector != nil || peer.NamespaceSelector != nil {
				return nil, fmt.Errorf("%s: ipBlock excludes the other selectors", at)
			}
			block, err := ipBlock(at, peer.IPBlock)
			if err != nil {
				return nil, err
			}
			out = append(out, rangeSelector([]cidrRange{block}, true))
			continue
		}
		t, err := p.podPeer(at, peer)
		if err != nil {
			return nil, err
		}
		out = append(out, labelSelector(t))
	}
	return out, nil
}

// podPeer selects pods. The API refuses a peer without any selector; where one
// comes by another way it is all pods of the namespace.
func (p *npParser) podPeer(at string, peer *networkingv1.NetworkPolicyPeer) (term, error) {
	var t term
	if peer.PodSelector != nil {
		pods, err := p.pods(at+".podSelector", peer.PodSelector)
		if err != nil {
			return nil, err
		}
		t = pods
	}
	if peer.NamespaceSelector == nil {
		t = append(t, k8sIs(label.KeyNamespace, p.namespace))
	} else {
		namespaces, err := k8sTerm(at+".namespaceSelector", peer.NamespaceSelector, label.PrefixNamespaceKey)
		if err != nil {
			return nil, err
		}
		t = append(t, namespaces...)
		t = append(t, requirement{source: label.SourceK8s, key: label.KeyNamespace, op: opExists})
	}
	return append(t, k8sIs(label.KeyCluster, p.cluster)), nil
}

func (p *npParser) pods(at string, s *metav1.LabelSelector) (term, error) { return k8sTerm(at, s, "") }

func k8sIs(key, value string) requirement {
	return requirement{source: label.SourceK8s, key: key, op: opIn, values: []string{value}}
}

// k8sTerm turns a Kubernetes label selector into requirements on labels of source k8s.
func k8sTerm(at string, s *metav1.LabelSelector, keyPrefix string) (term, error) {
	var t term
	for k, v := range s.MatchLabels {
		t = append(t, k8sIs(keyPrefix+k, v))
	}
	for i, e := range s.MatchExpressions {
		r := requirement{source: label.SourceK8s, key: keyPrefix + e.Key}
		if err := r.setOperator(string(e.Operator), e.Values); err != nil {
			return nil, fmt.Errorf("%s.matchExpressions[%d]: %w", at, i, err)
		}
		t = append(t, r)
	}
	return t, nil
}

func (r *requirement) setOperator(op string, values []string) error {
	switch op {
	case string(metav1.LabelSelectorOpIn):
		r.op = opIn
	case string(metav1.LabelSelectorOpNotIn):
		r.op = opNotIn
	case string(metav1.LabelSelectorOpExists):
		r.op = opExists
	case string(metav1.LabelSelectorOpDoesNotExist):
		r.op = opNotExists
	default:
		return fmt.Errorf("operator %q is unknown", op)
	}
	if needs := r.op == opIn || r.op == opNotIn; needs != (len(values) > 0) {
		return fmt.Errorf("operator %s with %d values", op, len(values))
	}
	r.values = values
	return nil
}

func ipBlock(at string, b *networkingv1.IPBlock) (cidrRange, error) {
	p, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return cidrRange{}, fmt.Errorf("%s.ipBlock.cidr: %w", at, err)
	}
	out := cidrRange{prefix: p.Masked()}
	for i, text := range b.Except {
		e, err := netip.ParsePrefix(text)
		if err != nil {
			return cidrRange{}, fmt.Errorf("%s.ipBlock.except[%d]: %w", at, i, err)
		}
		if !holds(out.prefix, e) {
			return cidrRange{}, fmt.Errorf("%s.ipBlock.except[%d]: %s is not inside %s", at, i, e, p)
		}
		out.except = append(out.except, e.Masked())
	}
	return out, nil
}

// holds tells whether all of inner is in outer.
func holds(outer, inner netip.Prefix) bool {
	return inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}

func networkPorts(at string, list []networkingv1.NetworkPolicyPort) ([]portRange, error) {
	var out []portRange
	for i, in := range list {
		where := fmt.Sprintf("%s.ports[%d]", at, i)
		protocol := corev1.ProtocolTCP
		if in.Protocol != nil {
			protocol = *in.Protocol
		}
		number, ok := map[corev1.Protocol]uint8{corev1.ProtocolTCP: protoTCP, corev1.ProtocolUDP: protoUDP, corev1.ProtocolSCTP: protoSCTP}[protocol]
		if !ok {
			return nil, fmt.Errorf("%s.protocol: %q is unknown", where, protocol)
		}
		r := portRange{protocol: number}
		switch {
		case in.Port == nil:
			if in.EndPort != nil {
				return nil, fmt.Errorf("%s: endPort without port", where)
			}
			r.all = true
		case in.Port.Type == intstr.String:
			if in.EndPort != nil {
				return nil, fmt.Errorf("%s: endPort with a named port", where)
			}
			r.name = strings.ToLower(in.Port.StrVal)
			if r.name == "" {
				return nil, fmt.Errorf("%s.port: empty name", where)
			}
		default:
			if err := r.setNumbers(int64(in.Port.IntVal), in.EndPort); err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// setNumbers checks and stores a port with the end of its range.
func (p *portRange) setNumbers(first int64, end *int32) error {
	last := first
	if end != nil {
		last = int64(*end)
	}
	switch {
	case first < 1 || first > 65535:
		return fmt.Errorf("port %d is out of range", first)
	case last > 65535:
		return fmt.Errorf("endPort %d is out of range", last)
	case last < first:
		return fmt.Errorf("endPort %d is before port %d", last, first)
	}
	p.first, p.last = uint16(first), uint16(last)
	return nil
}
