// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/policy"
)

// feeder is an enforcer over tables that a test writes, with the real engine.
type feeder struct {
	*enforcer
	raw RawWriters
	own derivedWriters
	r   *rand.Rand
}

func newFeeder(t testing.TB, seed uint64) *feeder {
	tables, raw, own := newTables()
	o := Options{IPv4: true, Routing: RoutingTunnel, RunDir: t.TempDir()}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	kernel := newFakeKernel(t)
	m := newEndpoints(log, o, newMetrics(), own.endpoints)
	m.dp = kernel
	return &feeder{raw: raw, own: own, r: rand.New(rand.NewPCG(seed, seed)), enforcer: &enforcer{
		log: log, opts: o, tables: tables, addresses: own.addresses, verdicts: own.verdicts, endpoints: m, past: &past{}, metrics: newMetrics(),
		ids: newAllocator(nil, tables.identities), checks: newChecks(own.checks), dp: kernel, newEngine: newPolicyEngine,
	}}
}

func (f *feeder) labels(i int) label.Set {
	return label.ParseSet([]string{fmt.Sprint("k8s:app=a", i), "k8s:io.kubernetes.pod.namespace=default", "k8s:io.cilium.k8s.policy.cluster=default"})
}

func (f *feeder) node(i int) node.Node {
	return node.Node{
		Name: fmt.Sprint("n", i), Local: i == 0, InternalIP: []netip.Addr{netip.AddrFrom4([4]byte{172, 30, 0, byte(i)})},
		PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24)},
	}
}

func (f *feeder) ports() []endpoint.Port {
	if f.r.IntN(2) == 0 {
		return nil
	}
	return []endpoint.Port{{Name: "web", Number: uint16(80 + f.r.IntN(2)), Protocol: 6}}
}

// change writes one thing into some table.
func (f *feeder) change() string {
	n := f.r.IntN(6)
	switch f.r.IntN(9) {
	case 0, 1:
		ip := netip.AddrFrom4([4]byte{10, 0, byte(f.r.IntN(3)), byte(2 + f.r.IntN(4))})
		f.raw.Remotes.Upsert(endpoint.Remote{
			Namespace: "default", Name: fmt.Sprint("p", n), NodeIP: netip.AddrFrom4([4]byte{172, 30, 0, byte(f.r.IntN(3))}),
			State: []endpoint.State{endpoint.StateReady, endpoint.StateRegenerating}[f.r.IntN(2)], Ports: f.ports(),
			Identity: identity.MinAllocated + identity.ID(f.r.IntN(4)), IPs: []netip.Addr{ip},
		})
		return fmt.Sprint("remote written: ", n)
	case 2:
		f.raw.Remotes.Delete(fmt.Sprint("default/p", n))
		return fmt.Sprint("remote gone: ", n)
	case 3:
		id := identity.MinAllocated + identity.ID(f.r.IntN(4))
		f.raw.Identities.Upsert(identity.Identity{ID: id, Labels: f.labels(int(id) % 3)})
		return fmt.Sprint("identity written: ", id)
	case 4:
		f.raw.Identities.Delete(fmt.Sprint(identity.MinAllocated + identity.ID(f.r.IntN(4))))
		return "identity gone"
	case 5:
		id := identity.MinAllocated + identity.ID(f.r.IntN(4))
		f.own.endpoints.Upsert(endpoint.Endpoint{
			ID: uint16(1 + n), Incarnation: f.r.Uint32N(2), Identity: id, Labels: f.labels(int(id) % 3), Ports: f.ports(), Audit: f.r.IntN(4) == 0,
			IPv4: netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + n)}), State: endpoint.StateReady, Namespace: "default", Pod: fmt.Sprint("e", n),
		})
		return fmt.Sprint("endpoint written: ", 1+n)
	case 6:
		f.own.endpoints.Delete(fmt.Sprint(1 + n))
		return fmt.Sprint("endpoint gone: ", 1+n)
	case 7:
		port := intstr.FromString("web")
		np := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint("a", f.r.IntN(3))}},
			Egress: []networkingv1.NetworkPolicyEgressRule{{
				To:    []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint("a", f.r.IntN(3))}}}, {IPBlock: &networkingv1.IPBlock{CIDR: []string{"10.0.0.0/28", "192.0.2.0/24"}[f.r.IntN(2)]}}},
				Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
			}},
		}}
		f.raw.Policies.Upsert(policy.Object{Kind: policy.KindNetworkPolicy, Namespace: "default", Name: fmt.Sprint("p", n%3), ResourceVersion: fmt.Sprint(f.r.Uint64()), Spec: np})
		return "policy written"
	}
	if f.r.IntN(2) == 0 {
		f.raw.Policies.Delete(fmt.Sprint("NetworkPolicy/default/p", n%3))
		return "policy gone"
	}
	if n = 1 + n%3; f.r.IntN(2) == 0 {
		f.raw.Nodes.Upsert(f.node(n))
	} else {
		f.raw.Nodes.Delete(fmt.Sprint("n", n))
	}
	return fmt.Sprint("node ", n)
}

func TestWhatChangedIsAllThatTheEngineNeeds(t *testing.T) {
	for seed := range uint64(40) {
		f := newFeeder(t, seed)
		f.raw.Nodes.Upsert(f.node(0), f.node(1))
		var events []string
		for range 60 {
			for range 1 + f.r.IntN(3) {
				events = append(events, f.change())
			}
			if err := f.step(); err != nil {
				t.Fatal(err)
			}
			subjects := subjectsOf(f.tables.endpoints.Snapshot())
			shown := rowsOf(f.tables.addresses)
			again := *f.enforcer
			again.feed = feed{}
			rows := again.deriveAddresses(subjects)
			slices.SortFunc(shown, func(a, b Address) int { return a.Prefix.Compare(b.Prefix) })
			slices.SortFunc(rows, func(a, b Address) int { return a.Prefix.Compare(b.Prefix) })
			if d := cmp.Diff(rows, shown, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
				t.Fatalf("seed %d, after %v: the table of addresses differs:\n%s", seed, events, d)
			}
			if out := f.engine.Update(again.input(subjects, rows)); len(out.Ops) > 0 {
				t.Fatalf("seed %d, after %v: all of the input once more gives %d steps, the first %#v", seed, events, len(out.Ops), out.Ops[0])
			}
		}
	}
}
