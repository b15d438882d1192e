// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

func TestTheLastGoodVersionOutlivesTheEngine(t *testing.T) {
	labels := label.NewSet(label.Label{Source: label.SourceK8s, Key: label.KeyNamespace, Value: "red"})
	object := Object{Kind: KindNetworkPolicy, Namespace: "red", Name: "deny", UID: "u",
		Spec: &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "red", Name: "deny"},
			Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}}}
	in := Input{
		Identities: map[identity.ID]label.Set{300: labels},
		Subjects: []Subject{{Endpoint: 1, Incarnation: 1, Identity: 300, Labels: labels,
			IPv4: Address{Prefix: netip.MustParsePrefix("10.0.0.1/32"), Identity: 300, Node: 1, Flags: AddressPod}}},
		Objects: []Object{object},
	}
	first, err := New(Options{}, State{})
	if err != nil {
		t.Fatal(err)
	}
	before := first.Update(in)
	if !before.Endpoints[1].EnforcingIngress {
		t.Fatal("the policy is not in force")
	}
	in.Objects[0].Spec, in.Objects[0].Err = nil, "does not decode"
	second, err := New(Options{}, *first.State())
	if err != nil {
		t.Fatal(err)
	}
	second.Inherit(first)
	after := second.Update(in)
	if !after.Endpoints[1].EnforcingIngress || after.Objects[0].Valid {
		t.Errorf("got %+v, %+v: want quarantine with the last good version in force", after.Endpoints[1], after.Objects)
	}
	if after.Revision <= before.Revision {
		t.Errorf("revision %d after %d", after.Revision, before.Revision)
	}
	in.Objects = nil
	if gone := second.Update(in); gone.Endpoints[1].EnforcingIngress {
		t.Error("a policy that is gone stays in force")
	}
}
