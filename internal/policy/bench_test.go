// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// benchCluster is a seeded cluster: namespaces of twenty apps, labels that
// matter to nobody, and a mix of policies: by app, by namespace, by
// expression, by prefix.
func benchCluster(identities, policies, endpoints int) Input {
	r := rand.New(rand.NewPCG(1, 2))
	in := Input{Identities: identity.Reserved()}
	namespaces := max(5, identities/100)
	name := func(n int) string { return fmt.Sprintf("ns-%d", n) }
	labels := func(i int) label.Set {
		ns := i % namespaces
		return podLabels(name(ns), map[string]string{
			"app": fmt.Sprintf("app-%d", i/namespaces%20), "tier": fmt.Sprintf("tier-%d", i%5), "noise": fmt.Sprint(i),
		}, map[string]string{"team": fmt.Sprintf("team-%d", ns%10)})
	}
	for i := range identities {
		id := identity.MinAllocated + identity.ID(i)
		set := labels(i)
		in.Identities[id] = set
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		row := Address{Prefix: netip.PrefixFrom(a, 32), Identity: id, Flags: AddressPod}
		in.Addresses = append(in.Addresses, row)
		if i < endpoints {
			in.Subjects = append(in.Subjects, Subject{Endpoint: uint16(i + 1), Identity: id, Labels: set, IPv4: row})
		}
	}
	for i := range policies {
		in.Objects = append(in.Objects, benchPolicy(r, i, endpoints, namespaces, name))
	}
	return in
}

func benchPolicy(r *rand.Rand, i, endpoints, namespaces int, name func(int) string) Object {
	e := r.IntN(endpoints)
	ns, app := name(e%namespaces), fmt.Sprintf("app-%d", e/namespaces%20)
	o := Object{Namespace: ns, Name: fmt.Sprintf("p-%d", i)}
	port := intstr.FromInt32(int32(80 + r.IntN(10)))
	switch x := r.IntN(100); {
	case x < 40:
		np := &networkingv1.NetworkPolicy{}
		np.Spec.PodSelector.MatchLabels = map[string]string{"app": app}
		np.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
			From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("app-%d", r.IntN(20))}}}},
			Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
		}}
		o.Kind, o.Spec = KindNetworkPolicy, np
	case x < 70:
		np := &networkingv1.NetworkPolicy{}
		np.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{}},
			{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprintf("team-%d", r.IntN(10))}}},
		}}}
		o.Kind, o.Spec = KindNetworkPolicy, np
	case x < 90:
		o.Kind, o.Spec = KindCiliumNetworkPolicy, &ciliumv2.CiliumNetworkPolicy{Spec: &ciliumv2.Rule{
			EndpointSelector: &ciliumv2.Selector{MatchLabels: map[string]string{"app": app}},
			Ingress: []ciliumv2.IngressRule{{IngressPeers: ciliumv2.IngressPeers{FromEndpoints: []ciliumv2.Selector{{
				MatchExpressions: []ciliumv2.Requirement{{Key: "tier", Operator: "NotIn", Values: []string{fmt.Sprintf("tier-%d", r.IntN(5))}}},
			}}}}},
		}}
	default:
		rule := &ciliumv2.Rule{EndpointSelector: &ciliumv2.Selector{MatchLabels: map[string]string{"app": app}}}
		egress := ciliumv2.EgressRule{ToPorts: []ciliumv2.PortRule{{Ports: []ciliumv2.PortProtocol{{Port: "443", Protocol: "TCP"}}}}}
		for range 10 + r.IntN(90) {
			egress.ToCIDR = append(egress.ToCIDR, ciliumv2.CIDR(fmt.Sprintf("%d.%d.%d.0/24", 32+r.IntN(160), r.IntN(256), r.IntN(256))))
		}
		rule.Egress = []ciliumv2.EgressRule{egress}
		o.Kind, o.Spec = KindCiliumNetworkPolicy, &ciliumv2.CiliumNetworkPolicy{Spec: rule}
	}
	return o
}

func benchEngine(b *testing.B, in Input) *Engine {
	b.Helper()
	e, err := New(Options{}, NewState())
	if err != nil {
		b.Fatal(err)
	}
	out := e.Update(in)
	if out.Err != nil {
		b.Fatal(out.Err)
	}
	b.ReportMetric(float64(out.Stats.Classes), "classes")
	b.ReportMetric(float64(out.Stats.Groups), "groups")
	b.ReportMetric(float64(out.Stats.Slots), "slots")
	b.ReportMetric(float64(out.Stats.SetRows), "setrows")
	return e
}

// The largest is for -benchtime 1x.
var benchSizes = []struct{ identities, policies, endpoints int }{{1000, 100, 30}, {10000, 200, 100}, {10000, 1000, 250}, {100000, 1000, 250}}

func BenchmarkFromNothing(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(fmt.Sprintf("%dx%dx%d", s.identities, s.policies, s.endpoints), func(b *testing.B) {
			in := benchCluster(s.identities, s.policies, s.endpoints)
			for b.Loop() {
				benchEngine(b, in)
			}
		})
	}
}

func BenchmarkUnchangedInput(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(fmt.Sprintf("%dx%dx%d", s.identities, s.policies, s.endpoints), func(b *testing.B) {
			in := benchCluster(s.identities, s.policies, s.endpoints)
			e := benchEngine(b, in)
			for b.Loop() {
				if ops := e.Update(in).Ops; len(ops) > 0 {
					b.Fatalf("%d steps", len(ops))
				}
			}
		})
	}
}

func BenchmarkOneMorePolicy(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(fmt.Sprintf("%dx%dx%d", s.identities, s.policies, s.endpoints), func(b *testing.B) {
			in := benchCluster(s.identities, s.policies, s.endpoints)
			e := benchEngine(b, in)
			less := in
			less.Objects = in.Objects[:len(in.Objects)-1]
			ops := 0
			for i := 0; b.Loop(); i++ {
				if i%2 == 0 {
					ops += len(e.Update(less).Ops)
				} else {
					ops += len(e.Update(in).Ops)
				}
			}
			b.ReportMetric(float64(ops)/float64(b.N), "steps/op")
		})
	}
}

func BenchmarkOneMoreIdentity(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(fmt.Sprintf("%dx%dx%d", s.identities, s.policies, s.endpoints), func(b *testing.B) {
			in := benchCluster(s.identities, s.policies, s.endpoints)
			e := benchEngine(b, in)
			ops := 0
			for i := 0; b.Loop(); i++ {
				id := identity.ID(200000 + i%2)
				delete(in.Identities, 200000+200001-id)
				in.Identities[id] = podLabels("ns-1", map[string]string{"app": "app-1", "noise": fmt.Sprint(i)}, map[string]string{"team": "team-1"})
				ops += len(e.Update(in).Ops)
			}
			b.ReportMetric(float64(ops)/float64(b.N), "steps/op")
		})
	}
}
