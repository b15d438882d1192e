// SPDX-License-Identifier: Apache-2.0

package k8s_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	npa "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/k8s/k8stest"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// run starts a reflector that ends with the test.
func run(t *testing.T, reflector func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = reflector(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// until waits for a condition on a table.
func until[R any](t *testing.T, tab *table.Table[R], cond func(table.Snapshot[R]) bool) {
	t.Helper()
	if err := tab.Wait(t.Context(), cond); err != nil {
		headings, rows := tab.Describe()
		t.Fatalf("%v\n%v\n%v", err, headings, rows)
	}
}

const pods = "api/v1/namespaces/default/pods/"

func pod(node, extra string) string {
	return fmt.Sprintf(`{"metadata":{"labels":{"app":"a"}},"spec":{"nodeName":%q,"serviceAccountName":"sa",
		"containers":[{"name":"c","ports":[{"name":"http","containerPort":80},{"name":"dns","containerPort":53,"protocol":"UDP"},{"containerPort":9}]}]}%s}`, node, extra)
}

func TestThePodsOfANodeAreRowsThatFollowTheAPI(t *testing.T) {
	s := k8stest.New(t)
	s.Put(pods+"here", pod("n1", `,"status":{"phase":"Running","podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}],"conditions":[{"type":"Ready","status":"True"}]}`))
	s.Put(pods+"there", pod("n2", ""))
	tab, w := endpoint.NewPodTable()
	run(t, func(ctx context.Context) error { return k8s.ReflectPods(ctx, s.Client(), "n1", w) })
	<-tab.Synced()
	got, _ := tab.Get("default/here")
	got.UID = ""
	want := endpoint.Pod{
		Namespace: "default", Name: "here", NodeName: "n1", ServiceAccount: "sa",
		Labels: map[string]string{"app": "a"}, Phase: "Running", Ready: true,
		IPs:      []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
		Ports:    []endpoint.Port{{Name: "http", Number: 80, Protocol: 6}, {Name: "dns", Number: 53, Protocol: 17}},
		Declared: []endpoint.Port{{Name: "http", Number: 80, Protocol: 6}, {Name: "dns", Number: 53, Protocol: 17}, {Number: 9, Protocol: 6}},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
	if tab.Snapshot().Len() != 1 {
		t.Error("a pod of another node is in the table")
	}
	s.Put(pods+"new", pod("n1", ""))
	until(t, tab, func(x table.Snapshot[endpoint.Pod]) bool { return x.Len() == 2 })
	s.Remove(pods + "here")
	until(t, tab, func(x table.Snapshot[endpoint.Pod]) bool { _, ok := x.Get("default/here"); return !ok })
}

func TestAPolicyThatDoesNotDecodeStopsNoOther(t *testing.T) {
	s := k8stest.New(t)
	const cnp = "apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies/"
	s.Put(cnp+"bad", `{"metadata":{"generation":1},"spec":{"endpointSelector":"everything"}}`)
	s.Put(cnp+"good", `{"metadata":{"generation":1},"spec":{"endpointSelector":{},"ingress":[{"fromEndpoints":[]}]}}`)
	s.Put("apis/cilium.io/v2/ciliumclusterwidenetworkpolicies/wide", `{"metadata":{"generation":1},"specs":[{"nodeSelector":{},"egress":[{}]}]}`)
	s.Put("apis/networking.k8s.io/v1/namespaces/default/networkpolicies/plain", `{"metadata":{"generation":1},"spec":{"podSelector":{}}}`)
	tab, w := policy.NewTable()
	run(t, func(ctx context.Context) error { return k8s.ReflectPolicies(ctx, s.Client(), false, w) })
	<-tab.Synced()
	var keys []string
	for k := range tab.Snapshot().All() {
		keys = append(keys, k)
	}
	if d := cmp.Diff([]string{
		"CiliumClusterwideNetworkPolicy//wide", "CiliumNetworkPolicy/default/bad",
		"CiliumNetworkPolicy/default/good", "NetworkPolicy/default/plain",
	}, keys); d != "" {
		t.Fatal(d)
	}
	bad, _ := tab.Get("CiliumNetworkPolicy/default/bad")
	if bad.Spec != nil || !strings.Contains(bad.Err, "endpointSelector") {
		t.Errorf("bad policy: spec %v, error %q", bad.Spec, bad.Err)
	}
	good, _ := tab.Get("CiliumNetworkPolicy/default/good")
	if o, ok := good.Spec.(*ciliumv2.CiliumNetworkPolicy); !ok || o.Spec.Ingress[0].FromEndpoints == nil {
		t.Errorf("good policy lost its empty list: %+v", good.Spec)
	}

	before := tab.Snapshot().Revision()
	s.Put(cnp+"good", `{"metadata":{"generation":1},"spec":{"endpointSelector":{},"ingress":[{"fromEndpoints":[]}]},"status":{"conditions":[]}}`)
	s.Put(cnp+"last", `{"metadata":{"generation":1},"spec":{"endpointSelector":{},"ingress":[{}]}}`)
	until(t, tab, func(x table.Snapshot[policy.Object]) bool { return x.Len() == 5 })
	if got := tab.Snapshot().Revision(); got != before+1 {
		t.Errorf("a change of status alone raised the revision: %d commits", got-before)
	}
	s.Remove(cnp + "bad")
	until(t, tab, func(x table.Snapshot[policy.Object]) bool { return x.Len() == 4 })
}

func TestPoliciesAreNotSyncedBeforeAllKindsAre(t *testing.T) {
	s := k8stest.New(t)
	s.Fail(func(_, path string) bool { return strings.Contains(path, "ciliumclusterwide") })
	s.Put("apis/networking.k8s.io/v1/namespaces/default/networkpolicies/plain", `{"spec":{"podSelector":{}}}`)
	tab, w := policy.NewTable()
	run(t, func(ctx context.Context) error { return k8s.ReflectPolicies(ctx, s.Client(), false, w) })
	until(t, tab, func(x table.Snapshot[policy.Object]) bool { return x.Len() == 1 })
	select {
	case <-tab.Synced():
		t.Error("synced without the clusterwide policies")
	default:
	}
	s.Fail(nil)
	<-tab.Synced()
}

func TestAKindThatIsDefinedLaterIsPickedUpThen(t *testing.T) {
	s := k8stest.New(t)
	const path = "apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies/"
	s.Undefine("clusternetworkpolicies")
	s.Put("apis/networking.k8s.io/v1/namespaces/default/networkpolicies/plain", `{"spec":{"podSelector":{}}}`)
	tab, w := policy.NewTable()
	run(t, func(ctx context.Context) error { return k8s.ReflectPolicies(ctx, s.Client(), true, w) })
	<-tab.Synced()
	if n := tab.Snapshot().Len(); n != 1 {
		t.Errorf("%d policies before the kind is defined", n)
	}
	s.Put(path+"good", `{"metadata":{"generation":1,"annotations":{"policy.stentor.io/audit-mode":"true"}},
		"spec":{"tier":"Admin","priority":7,"subject":{"namespaces":{}},"ingress":[{"action":"Deny","from":[{"namespaces":{}}]}]}}`)
	s.Put(path+"bad", `{"spec":{"tier":"Admin","priority":"high"}}`)
	s.Define("clusternetworkpolicies")
	until(t, tab, func(x table.Snapshot[policy.Object]) bool { return x.Len() == 3 })
	good, _ := tab.Get("ClusterNetworkPolicy//good")
	if o, ok := good.Spec.(*npa.ClusterNetworkPolicy); !ok || o.Spec.Priority != 7 || len(o.Spec.Ingress) != 1 || !good.Audit {
		t.Errorf("%+v", good)
	}
	if bad, _ := tab.Get("ClusterNetworkPolicy//bad"); !strings.Contains(bad.Err, "priority") {
		t.Errorf("bad policy: %q", bad.Err)
	}
	s.Put(path+"good", `{"metadata":{"generation":1},"spec":{"tier":"Admin","priority":7,"subject":{"namespaces":{}}}}`)
	until(t, tab, func(x table.Snapshot[policy.Object]) bool {
		o, _ := x.Get("ClusterNetworkPolicy//good")
		return !o.Audit
	})
}

func TestCIDRGroupsBecomeRowsAndNoneWhileTheirKindIsNotDefined(t *testing.T) {
	s := k8stest.New(t)
	s.Undefine("ciliumcidrgroups")
	tab, w := policy.NewGroupTable()
	run(t, func(ctx context.Context) error { return k8s.ReflectGroups(ctx, s.Client(), w) })
	<-tab.Synced()
	s.Put("apis/cilium.io/v2/ciliumcidrgroups/g", `{"metadata":{"labels":{"zone":"lab"}},"spec":{"externalCIDRs":["192.0.2.0/24","oops"]}}`)
	s.Define("ciliumcidrgroups")
	until(t, tab, func(x table.Snapshot[policy.Group]) bool { return x.Len() == 1 })
	_, rows := tab.Describe()
	if d := cmp.Diff([][]string{{"g", "cidrgroup:g cidrgroup:zone=lab", "192.0.2.0/24,oops"}}, rows); d != "" {
		t.Error(d)
	}
}

func TestIdentitiesOfOtherScopesAreLeftAlone(t *testing.T) {
	s := k8stest.New(t)
	const ids = "apis/cilium.io/v2/ciliumidentities/"
	s.Put(ids+"300", `{"security-labels":{"k8s:app":"a","k8s:io.kubernetes.pod.namespace":"default"}}`)
	s.Put(ids+"7", `{"security-labels":{"k8s:app":"wrong"}}`)
	s.Put(ids+"name", `{"security-labels":{"k8s:app":"wrong"}}`)
	tab, w := identity.NewTable()
	w.Upsert(identity.Identity{ID: identity.Host}, identity.Identity{ID: 999})
	run(t, func(ctx context.Context) error { return k8s.ReflectIdentities(ctx, s.Client(), w) })
	<-tab.Synced()
	_, rows := tab.Describe()
	if d := cmp.Diff([][]string{{"1", ";"}, {"300", "k8s:app=a;k8s:io.kubernetes.pod.namespace=default;"}}, rows); d != "" {
		t.Error(d)
	}
}

func TestPublishedEndpointsSayWhoHasAnAddress(t *testing.T) {
	s := k8stest.New(t)
	const path = "apis/cilium.io/v2/namespaces/default/ciliumendpoints/"
	s.Put(path+"a", `{"status":{"id":1,"state":"ready","identity":{"id":300},"named-ports":[{"name":"dns","port":53,"protocol":"UDP"}],
		"networking":{"node":"172.30.0.12","addressing":[{"ipv4":"10.0.1.7","ipv6":"fd00::7"}]}}}`)
	s.Put(path+"early", `{"status":{}}`)
	tab, w := endpoint.NewRemoteTable()
	run(t, func(ctx context.Context) error { return k8s.ReflectEndpoints(ctx, s.Client(), w) })
	<-tab.Synced()
	_, rows := tab.Describe()
	if d := cmp.Diff([][]string{
		{"default/a", "300", "172.30.0.12", "ready", "10.0.1.7,fd00::7"},
		{"default/early", "0", "-", "", ""},
	}, rows); d != "" {
		t.Error(d)
	}
	if a, _ := tab.Get("default/a"); len(a.Ports) != 1 || a.Ports[0] != (endpoint.Port{Name: "dns", Number: 53, Protocol: 17}) {
		t.Errorf("%+v", a.Ports)
	}
}

func TestANodeRowHoldsWhatOthersNeedToReachIt(t *testing.T) {
	s := k8stest.New(t)
	s.Put("apis/cilium.io/v2/ciliumnodes/n1", `{"spec":{"bootid":"b","addresses":[{"type":"InternalIP","ip":"172.30.0.11"},{"type":"InternalIP","ip":"fd30::11"},
		{"type":"CiliumInternalIP","ip":"10.0.0.1"},{"type":"ExternalIP","ip":"1.2.3.4"},{"type":"InternalIP","ip":"nonsense"}],
		"health":{"ipv4":"10.0.0.2"},"ipam":{"podCIDRs":["10.0.0.0/24","fd00::/112"]}}}`)
	tab, w := node.NewTable()
	run(t, func(ctx context.Context) error { return k8s.ReflectNodes(ctx, s.Client(), "n1", w) })
	<-tab.Synced()
	_, rows := tab.Describe()
	if d := cmp.Diff([][]string{{"n1", "172.30.0.11,fd30::11", "10.0.0.1", "10.0.0.0/24,fd00::/112", "true"}}, rows); d != "" {
		t.Error(d)
	}
}

func TestOnlyWhatCountsOfANodeObjectChangesItsRow(t *testing.T) {
	s := k8stest.New(t)
	node1 := func(labels, conditions string) {
		s.Put("api/v1/nodes/n1", fmt.Sprintf(`{"metadata":{"labels":{%s}},"status":{"addresses":[{"type":"InternalIP","address":"172.30.0.11"}],"conditions":[%s]}}`, labels, conditions))
	}
	node1(`"zone":"a"`, "")
	tab, w := node.NewMachineTable()
	run(t, func(ctx context.Context) error { return k8s.ReflectMachine(ctx, s.Client(), "n1", w) })
	<-tab.Synced()
	first, _ := tab.Get("n1")
	before := tab.Snapshot().Revision()
	node1(`"zone":"a"`, `{"type":"Ready","status":"True"}`)
	node1(`"zone":"b"`, `{"type":"Ready","status":"True"}`)
	until(t, tab, func(x table.Snapshot[node.Machine]) bool { m, _ := x.Get("n1"); return m.Says != first.Says })
	if got := tab.Snapshot().Revision(); got != before+1 {
		t.Errorf("%d commits for one change that counts", got-before)
	}
}

func TestServicesAndSlicesBecomeRows(t *testing.T) {
	s := k8stest.New(t)
	s.Put("api/v1/namespaces/default/services/web", `{"spec":{"type":"ClusterIP","clusterIPs":["10.96.0.1","fd96::1"],"sessionAffinity":"ClientIP",
		"ports":[{"name":"http","port":80,"protocol":"TCP","targetPort":"http"}],"internalTrafficPolicy":"Local"}}`)
	s.Put("api/v1/namespaces/default/services/head", `{"spec":{"clusterIPs":["None"]}}`)
	s.Put("apis/discovery.k8s.io/v1/namespaces/default/endpointslices/web-1", `{"metadata":{"labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4",
		"ports":[{"name":"http","port":8080,"protocol":"TCP"}],"endpoints":[{"addresses":["10.0.0.1"],"targetRef":{"kind":"Pod","namespace":"default","name":"a"}},
		{"addresses":["10.0.0.2"],"conditions":{"ready":false,"serving":true,"terminating":true}}]}`)
	s.Put("apis/discovery.k8s.io/v1/namespaces/default/endpointslices/stray", `{"addressType":"IPv4","endpoints":[]}`)
	services, sw := service.NewServiceTable()
	slices, lw := service.NewSliceTable()
	run(t, func(ctx context.Context) error { return k8s.ReflectServices(ctx, s.Client(), sw) })
	run(t, func(ctx context.Context) error { return k8s.ReflectSlices(ctx, s.Client(), lw) })
	<-services.Synced()
	<-slices.Synced()
	web, _ := services.Get("default/web")
	if web.AffinitySeconds != 10800 || !web.InternalLocal || len(web.ClusterIPs) != 2 || web.Ports[0] != (service.Port{Name: "http", Protocol: 6, Port: 80}) {
		t.Errorf("%+v", web)
	}
	if head, _ := services.Get("default/head"); !head.Headless || len(head.ClusterIPs) != 0 {
		t.Errorf("%+v", head)
	}
	slice, _ := slices.Get("default/web-1")
	if len(slice.Endpoints) != 2 || !slice.Endpoints[0].Ready || slice.Endpoints[0].PodName != "a" || slice.Endpoints[1].Ready || !slice.Endpoints[1].Terminating || slice.Ports[0].Port != 8080 {
		t.Errorf("%+v", slice)
	}
	if slices.Snapshot().Len() != 1 {
		t.Error("a slice without a service is in the table")
	}
}
