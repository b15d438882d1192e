// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// redirectOwner comes before the name of a redirect.
const redirectOwner = "lrp/"

// affected adds the redirects to which a changed Service, or a pod of their
// namespace, may matter.
func (b *balancer) affected(dirty map[string]bool) {
	for key, r := range b.tables.redirects.Snapshot().All() {
		if dirty[r.ServiceKey()] {
			dirty[redirectOwner+key] = true
			continue
		}
		for owner := range dirty {
			if pod, ok := strings.CutPrefix(owner, podOwner); ok && strings.HasPrefix(pod, r.Namespace+"/") {
				dirty[redirectOwner+key] = true
				break
			}
		}
	}
}

// redirect derives one of them from the pods of its namespace.
func (b *balancer) redirect(r service.Redirect) service.Derived {
	var named *service.Service
	if s, ok := b.tables.services.Get(r.ServiceKey()); ok {
		named = &s
	}
	var pods []service.LocalPod
	for _, p := range b.tables.pods.Snapshot().All() {
		if p.Namespace != r.Namespace {
			continue
		}
		one := service.LocalPod{Pod: b.withAddresses(p)}
		if r.Skip {
			one.NetNS = b.netNS(p.Key())
		}
		pods = append(pods, one)
	}
	return service.OfRedirect(r, named, pods, b.at)
}

// netNS is the cookie of a pod's network namespace; 0 while the pod has none.
func (b *balancer) netNS(pod string) uint64 {
	for _, e := range b.tables.endpoints.Snapshot().Index("pod", pod) {
		cookie, err := b.dp.NetNSCookie(e.NetNS)
		if err == nil {
			return cookie
		}
		b.log.Debug("network namespace of a pod is not read", "pod", pod, "error", err)
	}
	return 0
}

// redirectList is GET /lrp.
func (a *Agent) redirectList() []rest.LRPSpec {
	out := []rest.LRPSpec{}
	frontends := map[string][]service.Frontend{}
	for _, f := range a.tables.frontends.Snapshot().All() {
		if f.Redirect != "" {
			frontends[f.Redirect] = append(frontends[f.Redirect], f)
		}
	}
	for key, r := range a.tables.redirects.Snapshot().All() {
		spec := rest.LRPSpec{UID: r.UID, Namespace: r.Namespace, Name: r.Name, LRPType: rest.LRPOfService, FrontendType: redirectType(r), FrontendMappings: []rest.FrontendMapping{}}
		if r.Addr.IsValid() {
			spec.LRPType = rest.LRPOfAddress
		} else if r.Err == "" {
			spec.ServiceID = r.ServiceKey()
		}
		if p, ok := a.tables.problems.Get(redirectOwner + key); ok {
			spec.Problems = p.Texts
		}
		slices.SortFunc(frontends[key], func(x, y service.Frontend) int {
			return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Port, y.Port), cmp.Compare(x.Protocol, y.Protocol))
		})
		for _, f := range frontends[key] {
			m := rest.FrontendMapping{FrontendAddress: &rest.FrontendAddress{IP: f.Addr.String(), Port: f.Port, Protocol: strings.ToLower(protocolName(f.Protocol))}}
			for _, x := range f.Backends {
				m.Backends = append(m.Backends, rest.LRPBackend{PodID: x.Pod,
					BackendAddress: &rest.BackendAddress{IP: x.Addr.String(), Port: x.Port, State: string(x.State), NodeName: x.Node}})
			}
			spec.FrontendMappings = append(spec.FrontendMappings, m)
		}
		out = append(out, spec)
	}
	return out
}

// redirectType is what a redirect takes, in the words of the API.
func redirectType(r service.Redirect) string {
	what := "clusterIP"
	if r.Addr.IsValid() {
		what = "IP"
	}
	switch {
	case r.Err != "":
		return ""
	case len(r.Ports) == 0:
		return what + " + all svc ports"
	case len(r.Ports) == 1:
		return what + " + port"
	}
	return what + " + named ports"
}

// problem is what is wrong with an object that services follow from: a row of the
// table `serviceproblems`.
type problem struct {
	Owner                      string // as the balancer names it
	Kind, Namespace, Name, UID string // the object
	Texts                      []string
}

func newProblemTable() (*table.Table[problem], *table.Writer[problem]) {
	return table.New(table.Options[problem]{
		Name: "serviceproblems",
		Key:  func(p problem) string { return p.Owner },
		Columns: []table.Column[problem]{
			{Name: "KIND", Value: func(p problem) string { return p.Kind }},
			{Name: "OBJECT", Value: func(p problem) string { return p.Namespace + "/" + p.Name }},
			{Name: "PROBLEMS", Value: func(p problem) string { return strings.Join(p.Texts, "; ") }},
		},
	})
}

// problemOf is the row of an owner.
func (t *tables) problemOf(owner string, texts []string) problem {
	p := problem{Owner: owner, Kind: "Service", Texts: texts}
	name := owner
	if pod, ok := strings.CutPrefix(owner, podOwner); ok {
		row, _ := t.pods.Get(pod)
		p.Kind, p.UID, name = "Pod", row.UID, pod
	} else if policy, ok := strings.CutPrefix(owner, redirectOwner); ok {
		row, _ := t.redirects.Get(policy)
		p.Kind, p.UID, name = "CiliumLocalRedirectPolicy", row.UID, policy
	} else {
		row, _ := t.services.Get(owner)
		p.UID = row.UID
	}
	p.Namespace, p.Name, _ = strings.Cut(name, "/")
	return p
}
