// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"testing"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/identity"
)

// crowd is identities of which each two differ for some endpoint: endpoint b
// lets in those whose number has bit b.
func crowd(count, bits int) Input {
	in := Input{Identities: identity.Reserved()}
	for b := range bits {
		labels := podLabels("red", map[string]string{"app": fmt.Sprint("subject-", b)}, nil)
		id := identity.MinAllocated + identity.ID(b)
		in.Identities[id] = labels
		row := Address{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 255, 0, byte(b)}), 32), Identity: id}
		in.Addresses = append(in.Addresses, row)
		in.Subjects = append(in.Subjects, Subject{Endpoint: uint16(b + 1), Identity: id, Labels: labels, IPv4: row})
		rule := fromLabel(fmt.Sprint("subject-", b), fmt.Sprint("bit-", b), "set", "")
		in.Objects = append(in.Objects, Object{Kind: KindCiliumNetworkPolicy, Namespace: "red", Name: fmt.Sprint(b), Spec: &ciliumv2.CiliumNetworkPolicy{Spec: &rule}})
	}
	for i := range count {
		own := map[string]string{"app": "peer"}
		for b := range bits {
			if i>>b&1 == 1 {
				own[fmt.Sprint("bit-", b)] = "set"
			}
		}
		id := identity.MinAllocated + identity.ID(1000+i)
		in.Identities[id] = podLabels("red", own, nil)
		in.Addresses = append(in.Addresses, Address{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), Identity: id})
	}
	return in
}

func TestMoreClassesThanThereAreAreRefusedUntilThereIsRoom(t *testing.T) {
	const bits, count, classes = 9, 300, 100
	e, err := New(Options{}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	e.classes = newNumbers(ClassFirst, classes)
	in := crowd(count, bits)
	kernel := NewState()
	check := func(peers int, full bool) {
		t.Helper()
		refused := 0
		for i := range peers {
			for b := range bits {
				want := i>>b&1 == 1
				a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
				got := kernel.Decide(uint16(b+1), Ingress, a, protoTCP, 80).Verdict == Allow
				if got && !want {
					t.Fatalf("peer %d passes to endpoint %d although it must not", i, b+1)
				}
				if want && !got {
					refused++
				}
			}
		}
		if full != (refused > 0) {
			t.Errorf("%d allows are missing; too many classes: %t", refused, full)
		}
		if n := len(e.byClass); n > ClassMax || e.classes.count > classes {
			t.Errorf("%d classes", e.classes.count)
		}
	}
	apply := func(d Delta) Outcome {
		out := e.Apply(d)
		for _, op := range out.Ops {
			kernel.Apply(op)
		}
		return out
	}
	if out := apply(e.difference(&in)); out.Err == nil {
		t.Error("no error although classes ran out")
	}
	check(count, true)
	var gone Delta
	for i := 80; i < count; i++ { // those that stay fit
		gone.IdentitiesGone = append(gone.IdentitiesGone, identity.MinAllocated+identity.ID(1000+i))
	}
	apply(gone)
	if out := apply(Delta{}); out.Err != nil {
		t.Errorf("there is room, but: %v", out.Err)
	}
	check(80, false)
}
