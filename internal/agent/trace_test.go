// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/policy/trace"
)

// judge is an agent that only answers: a is an endpoint here, b a pod elsewhere.
type judge struct {
	*Agent
	t      *testing.T
	engine *policy.Engine
	in     policy.Input
	now    time.Time
}

func labelsOf(app string) label.Set {
	return label.ParseSet([]string{"k8s:app=" + app, "k8s:io.kubernetes.pod.namespace=default", "k8s:io.cilium.k8s.policy.cluster=default"})
}

func newJudge(t *testing.T) *judge {
	l := newLab(t)
	o := l.options()
	o.ClusterName = "default"
	a := newAgent(slog.New(slog.DiscardHandler), o, world{cluster: newFakeCluster()})
	e, err := policy.New(policy.Options{Cluster: "default"}, policy.NewState())
	if err != nil {
		t.Fatal(err)
	}
	j := &judge{Agent: a, t: t, engine: e, now: time.Unix(1_700_000_000, 0).UTC()}
	at := func(ip string, id identity.ID) policy.Address {
		return policy.Address{Prefix: netip.MustParsePrefix(ip + "/32"), Identity: id, Flags: policy.AddressPod}
	}
	j.in = policy.Input{
		Identities: map[identity.ID]label.Set{300: labelsOf("a"), 301: labelsOf("b"), 302: labelsOf("c")},
		Subjects:   []policy.Subject{{Endpoint: 7, Identity: 300, Labels: labelsOf("a"), IPv4: at("10.0.1.7", 300)}},
		Addresses:  []policy.Address{at("10.0.1.7", 300), at("10.0.2.8", 301)},
	}
	a.own.endpoints.Upsert(endpoint.Endpoint{ID: 7, Namespace: "default", Pod: "a", IPv4: netip.MustParseAddr("10.0.1.7"), Identity: 300, Labels: labelsOf("a"), State: endpoint.StateReady})
	a.raw.Remotes.Upsert(endpoint.Remote{Namespace: "default", Name: "b", NodeIP: netip.MustParseAddr("172.30.0.12"), Identity: 301, IPs: addrs("10.0.2.8")})
	a.raw.Nodes.Upsert(node.Node{Name: "far", InternalIP: addrs("172.30.0.12")})
	return j
}

// allow puts a policy in force that lets one app reach a; "" takes it away.
func (j *judge) allow(app string) {
	j.t.Helper()
	j.in.Objects = nil
	if app != "" {
		m, err := trace.ReadManifest([]byte(onlyFrom(app)))
		if err != nil {
			j.t.Fatal(err)
		}
		j.in.Objects = m.Policies
	}
	j.past.add(j.engine.Update(j.in).Explainer, j.now)
	j.now = j.now.Add(10 * time.Second)
}

func onlyFrom(app string) string {
	return `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"namespace":"default","name":"only-` + app + `"},
		"spec":{"endpointSelector":{"matchLabels":{"app":"a"}},"ingress":[{"fromEndpoints":[{"matchLabels":{"app":"` + app + `"}}]}]}}`
}

func (j *judge) trace(q rest.TraceRequest) (rest.TraceResult, error) {
	out, err := j.policyTrace(httptest.NewRequest("POST", "/", bytes.NewReader(encoded(j.t, q))))
	if err != nil {
		return rest.TraceResult{}, err
	}
	return out.(rest.TraceResult), nil
}

func (j *judge) why(e rest.Event) (*rest.TraceResult, error) {
	out, err := j.policyWhy(httptest.NewRequest("POST", "/", bytes.NewReader(encoded(j.t, e))))
	if err != nil {
		return nil, err
	}
	return out.(*rest.TraceResult), nil
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestATraceJudgesBothEndsAndSaysWhoElseWould(t *testing.T) {
	j := newJudge(t)
	q := rest.TraceRequest{Source: rest.TraceParty{Pod: "default/b"}, Destination: rest.TraceParty{Pod: "a"}, Port: 80}
	if _, err := j.trace(q); !errors.Is(err, errNoPolicyYet) {
		t.Errorf("before the first policy: %v", err)
	}
	j.allow("c")
	r, err := j.trace(q)
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict != rest.TraceDenied || r.Ingress.Elsewhere || !r.Egress.Elsewhere || r.Source.Node != "far" || r.Egress.Enforcing {
		t.Errorf("%+v, egress %+v", r, r.Egress)
	}
	near := r.Ingress.Nearest
	if len(near) != 1 || near[0].Name != "only-c" || near[0].Path != "spec.ingress[0]" || *near[0].Index != 0 || fmt.Sprint(near[0].Missing) != `[label app is "b", not "c"]` {
		t.Errorf("nearest %+v", near)
	}
	q.Manifests = []string{onlyFrom("b")} // added to what is stored
	if r, err = j.trace(q); err != nil || r.Verdict != rest.TraceAllowed || len(r.Objects) != 1 || r.Ingress.Deciding[0].Name != "only-b" {
		t.Errorf("with a manifest: %+v, %v", r, err)
	}
	q.Manifests = []string{strings.Replace(onlyFrom("b"), "only-b", "only-c", 1)} // in place of what is stored
	if r, err = j.trace(q); err != nil || r.Verdict != rest.TraceAllowed || len(r.Ingress.Matching) != 1 {
		t.Errorf("with a manifest in its place: %+v, %v", r, err)
	}
	for what, bad := range map[string]rest.TraceRequest{
		"no such pod":      {Source: rest.TraceParty{Pod: "default/z"}, Destination: q.Destination},
		"two ways to name": {Source: rest.TraceParty{Pod: "a", IP: "10.0.0.1"}, Destination: q.Destination},
		"nobody":           {Destination: q.Destination},
		"no address":       {Source: rest.TraceParty{IP: "ten"}, Destination: q.Destination},
		"no identity":      {Source: rest.TraceParty{Identity: 999}, Destination: q.Destination},
		"port":             {Source: q.Source, Destination: q.Destination, Port: 70000},
		"protocol":         {Source: q.Source, Destination: q.Destination, Protocol: "IPX"},
		"family":           {Source: q.Source, Destination: q.Destination, Family: 6},
		"manifest":         {Source: q.Source, Destination: q.Destination, Manifests: []string{"kind: ["}},
		"empty manifest":   {Source: q.Source, Destination: q.Destination, Manifests: []string{"{}"}},
	} {
		var bad400 httpError
		if _, err := j.trace(bad); !errors.As(err, &bad400) || bad400.status != 400 {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestAnAddressAnIdentityAndLabelsCanBeTraced(t *testing.T) {
	j := newJudge(t)
	j.allow("c")
	to := rest.TraceParty{Pod: "default/a"}
	for _, c := range []struct {
		from rest.TraceParty
		want string
	}{
		{rest.TraceParty{IP: "10.0.2.8"}, rest.TraceDenied},
		{rest.TraceParty{IP: "192.0.2.1"}, rest.TraceDenied},
		{rest.TraceParty{Identity: 301}, rest.TraceDenied},
		{rest.TraceParty{Identity: 302}, rest.TraceAllowed},
		{rest.TraceParty{Identity: 1}, rest.TraceAllowed}, // the host
		{rest.TraceParty{Labels: rest.Labels{"app=c"}}, rest.TraceAllowed},
		{rest.TraceParty{Labels: rest.Labels{"app=c", "namespace=other"}}, rest.TraceDenied},
		{rest.TraceParty{Labels: rest.Labels{"reserved:world"}}, rest.TraceDenied},
	} {
		r, err := j.trace(rest.TraceRequest{Source: c.from, Destination: to, Port: 80})
		if err != nil || r.Verdict != c.want {
			t.Errorf("from %+v: %s, want %s (%v)", c.from, r.Verdict, c.want, err)
		}
	}
}

// dropped is the event of b's packet to a, read at a moment.
func (j *judge) dropped(at time.Time) rest.Event {
	return rest.Event{
		Time: at.Format(time.RFC3339Nano), Type: rest.EventDrop, Node: j.opts.NodeName, Endpoint: 7, Direction: "ingress", Verdict: "deny",
		Reason: int(abi.ReasonPolicyDenied), ReasonText: "Policy denied", Protocol: "TCP",
		Source: rest.EventParty{IP: "10.0.2.8", Port: 4711, Identity: 301}, Dest: rest.EventParty{IP: "10.0.1.7", Port: 80, Identity: 300},
		Cell: &rest.EventCell{Peer: 9, Slot: 1},
	}
}

func TestAnEventIsExplainedByThePolicyOfItsMoment(t *testing.T) {
	j := newJudge(t)
	j.allow("c")
	first := j.now.Add(-time.Second)
	j.allow("d")
	second := j.now.Add(-time.Second)
	j.allow("")
	for at, want := range map[time.Time]string{first: "only-c", second: "only-d"} {
		r, err := j.why(j.dropped(at))
		if err != nil || r.Verdict != rest.TraceDenied || len(r.Ingress.Default) != 1 || r.Ingress.Default[0].Name != want || len(r.Notes) != 0 {
			t.Errorf("at %v: %+v (%v), want %s", at, r, err, want)
		}
	}
	// Read right after the change that would have let it through.
	r, err := j.why(j.dropped(j.now.Add(-10*time.Second + 10*time.Millisecond)))
	if err != nil || len(r.Ingress.Default) != 1 || r.Ingress.Default[0].Name != "only-d" || len(r.Notes) != 0 {
		t.Errorf("just after the change: %+v (%v)", r, err)
	}
	if r, err = j.why(j.dropped(j.now.Add(-time.Hour))); err != nil || len(r.Notes) == 0 || !strings.Contains(r.Notes[0], "no longer kept") {
		t.Errorf("an old event: %+v (%v)", r, err)
	}
	if r, err = j.why(j.dropped(j.now)); err != nil || r.Verdict != rest.TraceAllowed || !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "not kept") }) {
		t.Errorf("an event that no policy gives: %+v (%v)", r, err)
	}
}

func TestAnEventCountsAsTheKernelSawIt(t *testing.T) {
	j := newJudge(t)
	j.allow("b")
	at := j.now.Add(-time.Second)
	e := j.dropped(at)
	e.Cell.Peer = policy.PeerUnresolved
	e.Reason = int(abi.ReasonIdentityUnknown)
	r, err := j.why(e)
	if err != nil || r.Verdict != rest.TraceDenied || fmt.Sprint(r.Ingress.Nearest[0].Missing) != "[the labels of identity 301 are not known here yet]" {
		t.Errorf("a peer that was not known then: %+v (%v)", r, err)
	}
	reply := j.dropped(at)
	reply.Reply, reply.Source, reply.Dest = true, reply.Dest, reply.Source
	reply.Cell, reply.Verdict, reply.Type = nil, "allow", rest.EventVerdict
	if r, err = j.why(reply); err != nil || r.Source.IP != "10.0.2.8" || r.Port != 80 || r.Verdict != rest.TraceAllowed {
		t.Errorf("a reply: %+v (%v)", r, err)
	}
	gone := j.dropped(at)
	j.own.endpoints.Delete("7")
	gone.Source.Identity = 302
	if r, err = j.why(gone); err != nil || r.Verdict != rest.TraceDenied {
		t.Errorf("an endpoint that is gone: %+v (%v)", r, err)
	}
	for what, change := range map[string]func(*rest.Event){
		"another node":   func(e *rest.Event) { e.Node = "elsewhere" },
		"another reason": func(e *rest.Event) { e.Reason, e.ReasonText = int(abi.ReasonInvalidSourceIP), "Invalid source ip" },
		"a trace":        func(e *rest.Event) { e.Type = rest.EventTrace },
		"no time":        func(e *rest.Event) { e.Time = "noon" },
	} {
		bad := j.dropped(at)
		change(&bad)
		if _, err := j.why(bad); err == nil {
			t.Errorf("%s is explained", what)
		}
	}
}

func TestThePastIsBounded(t *testing.T) {
	j := newJudge(t)
	for i := range 3 * pastMax {
		j.allow([]string{"c", "d"}[i%2])
		j.now = j.now.Add(-10*time.Second + time.Millisecond)
	}
	if n := len(j.past.old); n > pastMax+1 {
		t.Errorf("%d moments are kept", n)
	}
	j.now = j.now.Add(2 * pastFor)
	j.allow("b")
	j.now = j.now.Add(2 * pastFor)
	j.allow("c")
	if n := len(j.past.old); n != 1 {
		t.Errorf("%d moments are kept after %v of quiet, want the last", n, pastFor)
	}
}
