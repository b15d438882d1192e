// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stentor-net/stentor/deploy/crds"
	"github.com/stentor-net/stentor/internal/ipam"
	"github.com/stentor-net/stentor/internal/k8s/k8stest"
)

const (
	definitions = "apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	nodes       = "apis/cilium.io/v2/ciliumnodes"
	identities  = "apis/cilium.io/v2/ciliumidentities"
	endpoints   = "apis/cilium.io/v2/namespaces/default/ciliumendpoints"
	pods        = "api/v1/namespaces/default/pods"
)

// start runs an operator until the returned function is called, at the latest
// at the end of the test.
func start(t *testing.T, s *k8stest.Server, o Options) (stop func()) {
	t.Helper()
	o.Namespace, o.HealthAddress = "kube-system", "-"
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if o.Identity == "" {
		o.Identity = "one"
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, o, s.Client(), newMetrics(o.Version)) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("operator ended with %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func small() ipam.ClusterOptions {
	return ipam.ClusterOptions{IPv4: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/23")}, IPv6: []netip.Prefix{netip.MustParsePrefix("fd00::/119")}}
}

// field walks decoded JSON.
func field(o k8stest.Object, path ...string) string {
	var value any = o
	for _, name := range path {
		node, _ := value.(k8stest.Object)
		value = node[name]
	}
	if value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

func ranges4(s *k8stest.Server, node string) string {
	return field(s.Object(nodes+"/"+node), "spec", "ipam", "podCIDRs")
}

func TestAFreshClusterGetsDefinitionsAndRanges(t *testing.T) {
	s := k8stest.New(t)
	s.Put(nodes+"/a", `{"spec":{"addresses":[{"type":"InternalIP","ip":"1.1.1.1"}]}}`)
	start(t, s, Options{PodRanges: small()})
	s.Wait("a has ranges", func() bool { return ranges4(s, "a") == "[10.0.0.0/24 fd00::/120]" })
	if got := len(s.Names(definitions)); got != len(crds.All()) {
		t.Errorf("%d definitions", got)
	}
	if got := field(s.Object(nodes+"/a"), "spec", "addresses"); got != "[map[ip:1.1.1.1 type:InternalIP]]" {
		t.Errorf("what the agent wrote is now %s", got)
	}
	s.Put(nodes+"/b", `{"spec":{}}`)
	s.Wait("b has ranges", func() bool { return ranges4(s, "b") == "[10.0.1.0/24 fd00::100/120]" })
	s.Put(nodes+"/c", `{"spec":{}}`)
	reason := func() string { return field(s.Object(nodes+"/c"), "status", "ipam", "operator-status", "error") }
	s.Wait("c is told that nothing is free", func() bool { return reason() == "no free IPv4 range; no free IPv6 range" })
	s.Remove(nodes + "/a")
	s.Wait("c has the ranges that became free", func() bool { return ranges4(s, "c") == "[10.0.0.0/24 fd00::/120]" })
	s.Wait("the error is gone", func() bool { return reason() == "" })
}

func TestARestartChangesNoRange(t *testing.T) {
	s := k8stest.New(t)
	s.Put(nodes+"/old", `{"spec":{"ipam":{"podCIDRs":["10.0.1.0/24","fd00::100/120"]}}}`)
	stop := start(t, s, Options{PodRanges: small()})
	s.Put(nodes+"/new", `{"spec":{}}`)
	s.Wait("new has ranges", func() bool { return ranges4(s, "new") == "[10.0.0.0/24 fd00::/120]" })
	stop()
	start(t, s, Options{PodRanges: small(), Identity: "two"})
	s.Put(nodes+"/twin", `{"spec":{"ipam":{"podCIDRs":["10.0.1.0/24","fd00::200/120"]}}}`)
	s.Wait("the overlap is told", func() bool {
		return strings.Contains(field(s.Object(nodes+"/twin"), "status", "ipam", "operator-status", "error"), "overlaps 10.0.1.0/24 of node old")
	})
	if ranges4(s, "old") != "[10.0.1.0/24 fd00::100/120]" || ranges4(s, "new") != "[10.0.0.0/24 fd00::/120]" {
		t.Errorf("old %s, new %s", ranges4(s, "old"), ranges4(s, "new"))
	}
}

func TestARangeThatTheWatchHasNotShownIsNotGivenAway(t *testing.T) {
	s := k8stest.New(t)
	pool, err := ipam.NewClusterPool(small())
	if err != nil {
		t.Fatal(err)
	}
	s.Put(nodes+"/hidden", `{"spec":{"ipam":{"podCIDRs":["10.0.0.0/24","fd00::/120"]}}}`)
	s.Put(nodes+"/a", `{"spec":{}}`)
	r := &ranges{client: s.Client(), pool: pool, log: discard, given: map[string]*gift{}}
	if err := r.learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	v := newView() // a late watch: it shows a, but not what was there before
	a := s.Object(nodes + "/a")
	v.nodeWriter.Upsert(nodeRow{Name: "a", UID: field(a, "metadata", "uid"), Version: field(a, "metadata", "resourceVersion")})
	if !r.reconcile(t.Context(), v.nodes.Snapshot()) {
		t.Error("not done")
	}
	if got := ranges4(s, "a"); got != "[10.0.1.0/24 fd00::100/120]" {
		t.Errorf("a has %s", got)
	}
}

func TestKubernetesModeLeavesRangesToKubernetes(t *testing.T) {
	s := k8stest.New(t)
	s.Put(nodes+"/a", `{"spec":{}}`)
	s.Put(identities+"/300", `{"security-labels":{"k8s:app":"a"}}`)
	start(t, s, Options{IPAM: IPAMKubernetes, IdentityGCInterval: time.Millisecond})
	s.Wait("the operator works", func() bool { return field(s.Object(identities+"/300"), "metadata", "annotations") != "" })
	if got := ranges4(s, "a"); got != "" {
		t.Errorf("a has %s", got)
	}
}

func TestAnOlderDefinitionIsUpgradedAndANewerOneIsKept(t *testing.T) {
	s := k8stest.New(t)
	put := func(plural, version string) {
		s.Put(definitions+"/"+plural+".cilium.io", fmt.Sprintf(`{"metadata":{"labels":{%q:%q,"team":"x"}},"spec":{"group":"cilium.io","mine":true}}`, crds.SchemaVersionLabel, version))
	}
	put("ciliumnodes", "1.31.10")
	put("ciliumendpoints", "999.0.0")
	start(t, s, Options{PodRanges: small()})
	version := func(plural string) string {
		return field(s.Object(definitions+"/"+plural+".cilium.io"), "metadata", "labels", crds.SchemaVersionLabel)
	}
	s.Wait("the older one is upgraded", func() bool { return version("ciliumnodes") == crds.SchemaVersion })
	if field(s.Object(definitions+"/ciliumnodes.cilium.io"), "metadata", "labels", "team") != "x" {
		t.Error("a label of others is gone")
	}
	if field(s.Object(definitions+"/ciliumnodes.cilium.io"), "spec", "versions") == "" {
		t.Error("the upgrade brought no schema")
	}
	if got := version("ciliumendpoints"); got != "999.0.0" {
		t.Errorf("ciliumendpoints has version %s", got)
	}
}

func TestVersionsAreComparedByNumber(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"1.9.0", "1.10.0", true}, {"1.10.0", "1.9.0", false}, {"2.0.0", "2.0.0", false},
		{"", "1.0.0", true}, {"1.0.0", "", false}, {"1.0", "1.0.1", true}, {"x.y", "1.0.0", true},
	} {
		if got := older(c.a, c.b); got != c.want {
			t.Errorf("older(%q, %q) = %v", c.a, c.b, got)
		}
	}
}

func TestOrphansGoAndTheOthersStay(t *testing.T) {
	s := k8stest.New(t)
	s.Put(pods+"/live", `{"metadata":{"uid":"u1"},"status":{"phase":"Running"}}`)
	s.Put(pods+"/again", `{"metadata":{"uid":"u3"}}`)
	s.Put(pods+"/ended", `{"metadata":{"uid":"u4"},"status":{"phase":"Succeeded"}}`)
	owned := func(uid string) string {
		return fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"x","uid":%q}]}}`, uid)
	}
	s.Put(endpoints+"/live", owned("u1"))
	s.Put(endpoints+"/gone", owned("u2"))
	s.Put(endpoints+"/again", owned("u2"))
	s.Put(endpoints+"/ended", owned("u4"))
	s.Put("api/v1/nodes/n1", `{}`)
	s.Put(nodes+"/n1", `{"spec":{}}`)
	s.Put(nodes+"/n2", `{"spec":{}}`)
	s.Put(nodes+"/n3", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n3","uid":"x"}]},"spec":{}}`)
	start(t, s, Options{PodRanges: ipam.ClusterOptions{}, EndpointGCInterval: time.Millisecond})
	s.Wait("orphans are gone", func() bool {
		return fmt.Sprint(s.Names(endpoints)) == "[default/live]" && fmt.Sprint(s.Names(nodes)) == "[n1 n3]"
	})
}

func TestTheTaintGoesWhenTheNodeHasItsRanges(t *testing.T) {
	s := k8stest.New(t)
	s.Put("api/v1/nodes/n1", `{"spec":{"taints":[{"key":"node.cilium.io/agent-not-ready","effect":"NoExecute"}]}}`)
	start(t, s, Options{PodRanges: small(), RemoveTaint: true})
	s.Put(nodes+"/n1", `{"spec":{}}`)
	s.Wait("the taint is gone", func() bool {
		return field(s.Object("api/v1/nodes/n1"), "spec", "taints") != "[map[effect:NoExecute key:node.cilium.io/agent-not-ready]]"
	})
	if ranges4(s, "n1") == "" {
		t.Error("the taint went before the ranges came")
	}
}

func TestReadinessOfTheLeaderWaitsForTheDefinitions(t *testing.T) {
	op := &operator{}
	status := func(path string) int {
		w := httptest.NewRecorder()
		op.health().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code
	}
	if status("/readyz") != http.StatusOK {
		t.Error("a replica that waits is not ready")
	}
	op.leader.Store(true)
	if status("/readyz") != http.StatusServiceUnavailable || status("/healthz") != http.StatusOK {
		t.Error("a leader without definitions is ready, or ill")
	}
	op.ready.Store(true)
	if status("/readyz") != http.StatusOK {
		t.Error("a leader with definitions is not ready")
	}
}

func TestOptionsWithoutANameAreRefused(t *testing.T) {
	for want, o := range map[string]Options{
		"namespace and identity": {},
		`ipam "magic"`:           {Namespace: "a", Identity: "b", IPAM: "magic"},
	} {
		if err := run(t.Context(), o, nil, newMetrics("")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
