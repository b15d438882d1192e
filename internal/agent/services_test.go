// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/datapath"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/service"
)

func (c *fakeCluster) Warn(_ context.Context, w Warning) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warnings = append(c.warnings, w)
	return c.down
}

func (k *fakeKernel) CloseStaleSockets(netns []string, tcp bool) (ClosedSockets, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.call("CloseStaleSockets", fmt.Sprint(netns, tcp))
	return ClosedSockets{}, false, err
}

func (k *fakeKernel) NetNSCookie(path string) (uint64, error) { return uint64(len(path)), nil }

// kubeDNS is a Service of DNS, and a redirect of it to pods labelled app=cache.
func kubeDNS() (service.Service, service.Redirect) {
	dns := []service.RedirectPort{{Port: 53, Protocol: 17}}
	return service.Service{Namespace: "default", Name: "dns", UID: "uid-dns", Type: "ClusterIP", ClusterIPs: addrs("10.96.0.10"), Ports: []service.Port{{Protocol: 17, Port: 53}}},
		service.Redirect{Namespace: "default", Name: "cache", UID: "uid-cache", Service: "dns", Backends: dns, Selector: labels.SelectorFromSet(labels.Set{"app": "cache"}), Skip: true}
}

func (k *fakeKernel) frontend(addr string) (service.Frontend, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.frontends, func(f service.Frontend) bool { return f.Addr.String() == addr && !f.Rest() })
	if i < 0 {
		return service.Frontend{}, false
	}
	return k.frontends[i], true
}

func TestARedirectReachesTheDatapathAndWhoeverAsks(t *testing.T) {
	l := newLab(t).start()
	s, r := kubeDNS()
	l.cluster.raw.Services.Upsert(s)
	l.cluster.raw.Redirects.Upsert(r, service.Redirect{Namespace: "default", Name: "bad", UID: "uid-bad", Err: "it is bad"})
	cache := pod("cache", "app", "cache")
	cache.Phase, cache.Ready = "Running", true
	cache.Declared = []endpoint.Port{{Number: 53, Protocol: 17}}
	l.bind(cache)
	l.await("the Service is there, not redirected", func() bool { f, ok := l.kernel.frontend("10.96.0.10"); return ok && f.Redirect == "" })
	l.mustAdd(cache) // the pod's address comes with its endpoint
	l.await("it is redirected, but not for the cache itself", func() bool {
		f, _ := l.kernel.frontend("10.96.0.10")
		return f.Redirect == "default/cache" && len(f.Takers()) == 1 && len(f.SkipNetNS) == 1
	})
	var list []rest.LRPSpec
	if err := l.client.Call(t.Context(), "GET", rest.PathLRP, nil, &list); err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(list)
	for _, want := range []string{`"name":"cache"`, `"frontend-type":"clusterIP + all svc ports"`, `"service-id":"default/dns"`, `"ip":"10.96.0.10"`, `"pod-id":"default/cache"`, `"problems":["set aside: it is bad"]`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	cache.Ready = false
	l.bind(cache)
	l.await("without a ready pod the Service answers", func() bool { f, _ := l.kernel.frontend("10.96.0.10"); return f.Redirect == "" })
	l.await("the owner of the bad one is told", func() bool {
		l.cluster.mu.Lock()
		defer l.cluster.mu.Unlock()
		return slices.Contains(l.cluster.warnings, Warning{"CiliumLocalRedirectPolicy", "default", "bad", "uid-bad", "LocalRedirectPolicyProblem", "set aside: it is bad"})
	})
}

func TestProblemsOfAServiceAreOnItsRowAndAnEvent(t *testing.T) {
	l := newLab(t).start()
	s, _ := kubeDNS()
	s.Annotations = map[string]string{service.AnnotationNodeSelector: "=="}
	l.cluster.raw.Services.Upsert(s)
	other := s
	other.Name, other.Annotations, other.ClusterIPs = "other", nil, addrs("10.96.0.11")
	l.cluster.raw.Services.Upsert(other)
	shown := func() string {
		var list []rest.Service
		if err := l.client.Call(t.Context(), "GET", rest.PathService, nil, &list); err != nil {
			t.Fatal(err)
		}
		text, _ := json.Marshal(list)
		return string(text)
	}
	l.await("the row explains", func() bool {
		text := shown()
		return strings.Contains(text, service.AnnotationNodeSelector) && strings.Contains(text, `"ip":"10.96.0.11"`)
	})
	l.await("the owner is told", func() bool {
		l.cluster.mu.Lock()
		defer l.cluster.mu.Unlock()
		return len(l.cluster.warnings) == 1 && l.cluster.warnings[0].Name == "dns" && l.cluster.warnings[0].Reason == "ServiceProblem"
	})
	s.Annotations = nil
	l.cluster.raw.Services.Upsert(s)
	l.await("it is well again", func() bool { return !strings.Contains(shown(), "problems") })
}

func TestWarningsAreFewAndStayOnlyWhileTheyHold(t *testing.T) {
	tables, _, own := newTables()
	c := newFakeCluster()
	now := time.Unix(1000, 0)
	w := &warner{log: slog.New(slog.DiscardHandler), tables: tables, cluster: c, now: func() time.Time { return now }}
	for i := range 100 {
		own.problems.Upsert(problem{Owner: fmt.Sprint(i), Kind: "Service", Namespace: "d", Name: fmt.Sprint(i), Texts: []string{"wrong"}})
	}
	if !w.step(t.Context()) || len(c.warnings) != 0 {
		t.Errorf("%d were told at once", len(c.warnings))
	}
	now = now.Add(warnGrace)
	if w.step(t.Context()); len(c.warnings) != warnBurst {
		t.Errorf("%d were told in a burst", len(c.warnings))
	}
	for range 1000 {
		now = now.Add(time.Second)
		w.step(t.Context())
	}
	if len(c.warnings) != 100 {
		t.Errorf("%d were told in the end, want each once", len(c.warnings))
	}
	c.down = errors.New("away")
	own.problems.Upsert(problem{Owner: "new", Kind: "Service", Texts: []string{"wrong"}})
	now = now.Add(time.Minute)
	w.step(t.Context())
	now = now.Add(warnGrace)
	if !w.step(t.Context()) {
		t.Error("what could not be told is not tried again")
	}
}

func TestSocketsAreClosedAfterAChangeOfServices(t *testing.T) {
	l := newLab(t).start()
	p := pod("client")
	l.bind(p)
	l.mustAdd(p)
	s, _ := kubeDNS()
	l.cluster.raw.Services.Upsert(s)
	want := fmt.Sprintf("CloseStaleSockets [%s] false", l.netns(p))
	l.await("namespaces of pods are looked through", func() bool {
		l.kernel.mu.Lock()
		defer l.kernel.mu.Unlock()
		return slices.Contains(l.kernel.calls, want)
	})
	l.kernel.fail("CloseStaleSockets", datapath.ErrNoSocketClose)
	s.ClusterIPs = addrs("10.96.0.11")
	l.cluster.raw.Services.Upsert(s)
	l.await("it is counted that the kernel cannot", func() bool {
		list, err := l.agent.metrics.List()
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list, func(m rest.Metric) bool { return m.Name == "stentor_sockets_close_failures_total" && m.Value == 1 })
	})
}

func TestProxyHealthSaysWhetherServicesAreCarriedOutAndTheNodeStays(t *testing.T) {
	l := newLab(t).start()
	l.await("services are well", func() bool { c, _ := l.agent.tables.checks.Get("services"); return c.State == rest.StateOk })
	h := l.agent.proxyHealth()
	ask := func(path string) (int, proxyHealth) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		var out proxyHealth
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatal(err)
		}
		return w.Code, out
	}
	if code, out := ask("/healthz"); code != 200 || out.NodeEligible == nil || !*out.NodeEligible || out.LastUpdated == "" {
		t.Errorf("/healthz: %d %+v", code, out)
	}
	l.cluster.raw.Machine.Upsert(node.Machine{Name: "n1", Leaving: true})
	if code, out := ask("/healthz"); code != 503 || *out.NodeEligible {
		t.Errorf("/healthz of a node that leaves: %d %+v", code, out)
	}
	if code, out := ask("/livez"); code != 200 || out.NodeEligible != nil {
		t.Errorf("/livez of a node that leaves: %d %+v", code, out)
	}
	l.agent.checks.warn("services", "they are not carried out", "", "")
	if code, _ := ask("/livez"); code != 503 {
		t.Errorf("/livez while services are not carried out: %d", code)
	}
}

func TestNodesThatComeMatterOnlyToWrittenAddresses(t *testing.T) {
	l := newLab(t).start()
	s, _ := kubeDNS()
	s.ExternalIPs = addrs("10.0.9.9")
	l.cluster.raw.Services.Upsert(s)
	l.agent.opts.Service.AllKinds = true
	l.await("there is a Service", func() bool { _, ok := l.kernel.frontend("10.96.0.10"); return ok })
	l.cluster.raw.Nodes.Upsert(node.Node{Name: "n9", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.9.0/24")}})
	b := &balancer{tables: l.agent.tables, opts: l.agent.opts, balance: service.NewBalance()}
	b.at = b.place()
	plain := s
	plain.Name, plain.ExternalIPs = "plain", nil
	l.cluster.raw.Services.Upsert(plain)
	b.at.Around = service.Around{}
	dirty := map[string]bool{}
	b.move(b.place(), dirty)
	if !dirty["default/dns"] || dirty["default/plain"] {
		t.Errorf("dirty: %v", dirty)
	}
}
