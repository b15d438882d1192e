// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"testing"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
)

// bigPolicy has many rules: each for another port, every second one for other peers.
func bigPolicy(rules int) Object {
	r := ciliumv2.Rule{EndpointSelector: byLabel("app", "web")}
	for i := range rules {
		in := ciliumv2.IngressRule{ToPorts: []ciliumv2.PortRule{{Ports: []ciliumv2.PortProtocol{{Port: fmt.Sprint(1 + 3*i), EndPort: int32(2 + 3*i), Protocol: "TCP"}}}}}
		if i%2 == 0 {
			in.FromEndpoints = []ciliumv2.Selector{*byLabel("app", fmt.Sprint("peer-", i%100))}
		}
		r.Ingress = append(r.Ingress, in)
	}
	return Object{Kind: KindCiliumNetworkPolicy, Namespace: "red", Name: "big", Spec: &ciliumv2.CiliumNetworkPolicy{Spec: &r}}
}

func TestTenThousandRulesInOneObject(t *testing.T) {
	c := sixPods()
	in := c.input()
	in.Objects = []Object{bigPolicy(10000)}
	e, err := New(Options{}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	out := e.Update(in)
	if out.Err != nil {
		t.Fatal(out.Err)
	}
	kernel := NewState()
	for _, op := range out.Ops {
		kernel.Apply(op)
	}
	for port, want := range map[int]Verdict{1: Deny, 4: Allow, 5: Allow, 6: Deny, 29998: Allow, 29999: Allow, 30000: Deny, -1: Deny} {
		if got := kernel.Decide(1, Ingress, c.pods[5].addr, protoTCP, port).Verdict; got != want {
			t.Errorf("port %d: got %d, want %d", port, got, want)
		}
	}
}

func TestFiveThousandPoliciesAtOnce(t *testing.T) {
	in := benchCluster(500, 5000, 50)
	e, err := New(Options{}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	out := e.Update(in)
	if out.Err != nil || len(out.Objects) != 5000 {
		t.Fatalf("%d objects, error %v", len(out.Objects), out.Err)
	}
	if again := e.Update(in); len(again.Ops) > 0 {
		t.Errorf("the same input again gives %d steps", len(again.Ops))
	}
	in.Objects = nil
	kernel := e.State().Clone()
	for _, op := range e.Update(in).Ops {
		kernel.Apply(op)
	}
	if len(kernel.Sets) > 0 {
		t.Errorf("%d sets are left without a policy", len(kernel.Sets))
	}
}
