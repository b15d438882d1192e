// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/identity"
)

// sixPods are two pods in each of three roles; the first four are on this node.
func sixPods() *drawn {
	c := &drawn{policies: map[string]Object{}, numbers: map[string]identity.ID{}, late: map[identity.ID]bool{}, ranges: true}
	for i, role := range []string{"web", "web", "db", "db", "cache", "cache"} {
		p := pod{namespace: "red", app: role, tier: []string{"front", "back"}[i%2], addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}
		if i < 4 {
			p.local = uint16(i + 1)
		}
		c.pods = append(c.pods, p)
	}
	return c
}

func (c *drawn) put(name string, rule ciliumv2.Rule) {
	o := Object{Kind: KindCiliumNetworkPolicy, Namespace: "red", Name: name, Spec: &ciliumv2.CiliumNetworkPolicy{Spec: &rule}}
	c.policies[o.Key()] = o
}

func (c *drawn) putNetworkPolicy(name string, spec networkingv1.NetworkPolicySpec) {
	o := Object{Kind: KindNetworkPolicy, Namespace: "red", Name: name, Spec: &networkingv1.NetworkPolicy{Spec: spec}}
	c.policies[o.Key()] = o
}

func byLabel(key, value string) *ciliumv2.Selector {
	return &ciliumv2.Selector{MatchLabels: map[string]string{key: value}}
}

// fromLabel lets peers with a label reach the subjects on a port.
func fromLabel(subject, key, value, port string) ciliumv2.Rule {
	in := ciliumv2.IngressRule{IngressPeers: ciliumv2.IngressPeers{FromEndpoints: []ciliumv2.Selector{*byLabel(key, value)}}}
	if port != "" {
		in.ToPorts = []ciliumv2.PortRule{{Ports: []ciliumv2.PortProtocol{{Port: port, Protocol: "TCP"}}}}
	}
	return ciliumv2.Rule{EndpointSelector: byLabel("app", subject), Ingress: []ciliumv2.IngressRule{in}}
}

func toCIDRs(subject string, cidrs ...ciliumv2.CIDR) ciliumv2.Rule {
	return ciliumv2.Rule{EndpointSelector: byLabel("app", subject), Egress: []ciliumv2.EgressRule{{EgressPeers: ciliumv2.EgressPeers{ToCIDR: cidrs}}}}
}

type race struct {
	name   string
	before func(c *drawn)
	change func(c *drawn)
}

// races are changes of which every step must judge as before or as after.
// Reversed, each must be caught: that shows that the order matters and that
// the check sees it.
var races = []race{
	{"a policy is replaced by one with other peers and ports",
		func(c *drawn) { c.put("p", fromLabel("web", "app", "db", "80")) },
		func(c *drawn) { c.put("p", fromLabel("web", "tier", "front", "8080")) }},
	{"a first policy selects some endpoints", nil,
		func(c *drawn) { c.put("p", fromLabel("web", "app", "db", "80")) }},
	{"the last policy goes",
		func(c *drawn) { c.put("p", fromLabel("web", "app", "db", "80")) },
		func(c *drawn) { clear(c.policies) }},
	{"a second policy selects one of two endpoints of a slot",
		func(c *drawn) { c.put("p", fromLabel("web", "app", "db", "80")) },
		func(c *drawn) {
			r := fromLabel("web", "app", "cache", "")
			r.EndpointSelector.MatchLabels["tier"] = "front"
			c.put("q", r)
		}},
	{"a new selector splits a class in use",
		func(c *drawn) { c.put("p", fromLabel("web", "app", "db", "80")) },
		func(c *drawn) { c.put("q", fromLabel("web", "tier", "back", "70")) }},
	{"labels of a peer change",
		func(c *drawn) {
			c.put("p", fromLabel("web", "app", "db", "80"))
			c.pods[4].app = "db"
		},
		func(c *drawn) { c.pods[4].tier = "new" }},
	{"labels of a subject change",
		func(c *drawn) {
			c.put("p", fromLabel("web", "app", "db", "80"))
			c.put("q", fromLabel("cache", "app", "web", "80"))
		},
		func(c *drawn) { c.pods[0].app = "cache" }},
	{"an address is given to another pod",
		func(c *drawn) { c.put("p", fromLabel("web", "app", "db", "80")) },
		func(c *drawn) { c.pods[2].tier, c.pods[2].incarnation = "new", 1 }},
	{"an address in use is given to another pod while a policy changes",
		func(c *drawn) { c.put("p", fromLabel("web", "app", "db", "80")) },
		func(c *drawn) {
			c.pods[4].app = "db"
			c.put("p", fromLabel("web", "app", "cache", "80"))
		}},
	{"prefixes come with a policy", nil,
		func(c *drawn) { c.put("p", toCIDRs("web", "192.0.2.0/24", "198.51.100.0/24")) }},
	{"prefixes nested in others come",
		func(c *drawn) { c.put("p", toCIDRs("web", "192.0.2.0/24")) },
		func(c *drawn) {
			r := toCIDRs("web", "0.0.0.0/0")
			r.EgressDeny = []ciliumv2.EgressDenyRule{{EgressPeers: ciliumv2.EgressPeers{ToCIDRSet: []ciliumv2.CIDRRule{{Cidr: "192.0.2.0/28", Except: []ciliumv2.CIDR{"192.0.2.5/32"}}}}}}
			c.put("p", r)
		}},
	{"prefixes go with their policy",
		func(c *drawn) { c.put("p", toCIDRs("web", "192.0.2.0/24", "198.51.100.0/24")) },
		func(c *drawn) { c.put("p", toCIDRs("web", "192.0.2.5/32")) }},
	{"blocks that split pods of one identity change",
		func(c *drawn) {
			c.pods[3].tier, c.pods[5].tier = "front", "front" // same labels as their neighbours
			c.putNetworkPolicy("p", blocks("10.0.0.0/30", "192.0.2.0/24"))
		},
		func(c *drawn) { c.putNetworkPolicy("p", blocks("10.0.0.4/30", "192.0.2.0/28")) }},
	{"a pod of another node comes",
		func(c *drawn) { c.put("p", fromLabel("web", "app", "db", "80")) },
		func(c *drawn) {
			c.pods = append(c.pods, pod{namespace: "red", app: "db", tier: "new", addr: netip.AddrFrom4([4]byte{10, 0, 0, 7})})
		}},
	{"a pod of another node goes",
		func(c *drawn) { c.put("p", fromLabel("web", "app", "cache", "80")) },
		func(c *drawn) { c.pods = c.pods[:5] }},
	{"a pod of this node goes",
		func(c *drawn) { c.put("p", fromLabel("web", "app", "db", "80")) },
		func(c *drawn) { c.pods = slices.Delete(c.pods, 3, 4) }},
	{"labels that were not known come",
		func(c *drawn) {
			c.put("p", fromLabel("web", "app", "cache", "80"))
			c.input()
			for _, id := range c.numbers {
				c.late[id] = true
			}
		},
		func(c *drawn) { clear(c.late) }},
	{"two slots exchange endpoints",
		func(c *drawn) {
			c.put("p", fromLabel("web", "app", "cache", "80"))
			c.put("q", fromLabel("db", "tier", "front", "70"))
		},
		func(c *drawn) {
			c.put("p", fromLabel("db", "app", "cache", "80"))
			c.put("q", fromLabel("web", "tier", "front", "70"))
		}},
}

func blocks(cidrs ...string) networkingv1.NetworkPolicySpec {
	spec := networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}
	rule := networkingv1.NetworkPolicyIngressRule{}
	port := intstr.FromInt32(80)
	rule.Ports = []networkingv1.NetworkPolicyPort{{Port: &port}}
	for _, c := range cidrs {
		rule.From = append(rule.From, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: c}})
	}
	spec.Ingress = []networkingv1.NetworkPolicyIngressRule{rule}
	return spec
}

// prepared is a kernel before a change, and the steps of the change; restart:
// by a new engine that finds the kernel so.
func prepared(t *testing.T, before, change func(*drawn), restart bool) (kernel State, ops []Op, endpoints []uint16, in Input) {
	t.Helper()
	c := sixPods()
	if before != nil {
		before(c)
	}
	kernel = NewState()
	e, err := New(Options{}, kernel)
	if err != nil {
		t.Fatal(err)
	}
	old := c.input()
	for _, op := range e.Update(old).Ops {
		kernel.Apply(op)
	}
	change(c)
	in = c.input()
	if restart {
		if e, err = New(Options{}, kernel); err != nil {
			t.Fatal(err)
		}
	}
	out := e.Update(in)
	if out.Err != nil || len(out.Ops) == 0 {
		t.Fatalf("%d steps, error %v", len(out.Ops), out.Err)
	}
	return kernel, out.Ops, survivors(old, in), in
}

func TestNoStepOfAChangeGivesAThirdVerdict(t *testing.T) {
	eachRace(t, func(t *testing.T, r race, restart bool) {
		kernel, ops, endpoints, in := prepared(t, r.before, r.change, restart)
		before := kernel.Clone()
		steps(t, r.name, &kernel, &before, ops, endpoints, in)
	})
}

func TestReversedStepsAreCaught(t *testing.T) {
	eachRace(t, func(t *testing.T, r race, restart bool) {
		kernel, ops, endpoints, _ := prepared(t, r.before, r.change, restart)
		before, after := kernel.Clone(), kernel.Clone()
		for _, op := range ops {
			after.Apply(op)
		}
		slices.Reverse(ops)
		if violations(&kernel, &before, &after, ops, endpoints, nil) == "" {
			t.Errorf("%d steps in the opposite order give no third verdict:\n%s", len(ops), describe(ops))
		}
	})
}

// eachRace runs f for each race, by the engine that is there and by one that
// starts in the middle of it.
func eachRace(t *testing.T, f func(t *testing.T, r race, restart bool)) {
	for _, r := range races {
		t.Run(r.name, func(t *testing.T) { f(t, r, false) })
		t.Run(r.name+", while the agent was away", func(t *testing.T) { f(t, r, true) })
	}
}
