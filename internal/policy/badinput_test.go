// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	npa "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/label"
)

func FuzzClusterNetworkPolicy(f *testing.F) {
	for _, seed := range []string{
		`{"tier":"Admin","priority":1,"subject":{"namespaces":{}},"ingress":[{"action":"Pass","from":[{"pods":{"namespaceSelector":{},"podSelector":{}}}],"protocols":[{"destinationNamedPort":"web"}]}]}`,
		`{"tier":"Baseline","subject":{"pods":{"namespaceSelector":{},"podSelector":{}}},"egress":[{"action":"Deny","to":[{"networks":["0.0.0.0/0","::/0"]},{"nodes":{}},{"domainNames":["a"]}],"protocols":[{"tcp":{"destinationPort":{"range":{"start":9,"end":1}}}}]}]}`,
		`{"tier":"Admin","subject":{"namespaces":{}},"egress":[{"action":"Accept","to":[{}],"protocols":[{}]}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p := &npa.ClusterNetworkPolicy{}
		if json.Unmarshal(raw, &p.Spec) == nil {
			checkObject(t, Object{Kind: KindClusterNetworkPolicy, Name: "p", Spec: p})
		}
	})
}

func FuzzSelector(f *testing.F) {
	f.Add([]byte(`{"matchLabels":{"reserved:host":"","k8s:a":"b"}}`), `k8s:a=b`)
	f.Add([]byte(`{"matchExpressions":[{"key":"any:a","operator":"NotIn","values":["b"]},{"key":"cidrgroup:z","operator":"Exists"}]}`), `cidrgroup:z=1`)
	f.Fuzz(func(t *testing.T, raw []byte, own string) {
		s := &ciliumv2.Selector{}
		if json.Unmarshal(raw, s) != nil {
			return
		}
		got, err := selectorTerm("at", s)
		if err != nil {
			return
		}
		set := label.ParseSet(strings.Fields(own))
		if want := meets(set, conditions(s, "any")); got.matches(set) != want {
			t.Errorf("%s of %v: %t, by the documents %t", raw, set, !want, want)
		}
		again, _ := selectorTerm("at", s)
		if again.canonical() != got.canonical() {
			t.Errorf("%s has two forms: %s and %s", raw, got.canonical(), again.canonical())
		}
	})
}

func FuzzPorts(f *testing.F) {
	f.Add("80", int32(90), "TCP", uint8(6), 85)
	f.Add("web", int32(0), "", uint8(17), 53)
	f.Add("0", int32(0), "ANY", uint8(132), -1)
	f.Fuzz(func(t *testing.T, port string, end int32, protocol string, asked uint8, number int) {
		if number < -1 || number > 65535 {
			return
		}
		list, err := ciliumPorts("at", []ciliumv2.PortProtocol{{Port: port, EndPort: end, Protocol: ciliumv2.Protocol(protocol)}})
		if err != nil {
			return
		}
		hit := false
		for _, r := range list {
			if r.name == "" && !r.all && r.first > r.last {
				t.Fatalf("range %v ends before it begins", r)
			}
			hit = hit || r.name == "" && r.hits(asked, number)
		}
		items := []*item{{rule: (&rule{tier: tierNormal, verdict: Allow, peers: []*selector{anyPeer}, ports: list}).seal()}}
		for _, r := range list {
			if r.name == "" {
				items[0].ports = append(items[0].ports, r)
			}
		}
		if items[0].ports == nil {
			return
		}
		state := NewState()
		state.Sets[7] = fold(items, fallback{normal: true}, &l7Table{})
		state.Classes[2], state.Peers[2], state.Endpoints[1] = &[SlotsMax]uint16{1: 7}, 2, EndpointRow{Egress: 1}
		want := Deny
		if hit {
			want = Allow
		}
		if got := state.DecidePeer(1, Egress, 2, asked, number).Verdict; got != want {
			t.Errorf("port %q-%d %q: %d/%d gets %d, want %d", port, end, protocol, asked, number, got, want)
		}
	})
}

func FuzzCIDRGroup(f *testing.F) {
	f.Add("192.0.2.0/24", "192.0.2.128/25", "192.0.2.129")
	f.Add("10.0.0.0/8", "0.0.0.0/0", "10.1.1.1")
	f.Add("2001:db8::1", "nonsense", "2001:db8::1")
	f.Fuzz(func(t *testing.T, cidr, except, addr string) {
		a, err := netip.ParseAddr(addr)
		x, xErr := parseCIDR(except)
		if err != nil || xErr != nil || a.Zone() != "" {
			return
		}
		ranges, bad := (&Group{Name: "g", CIDRs: []string{cidr}}).ranges([]netip.Prefix{x})
		p, pErr := parseCIDR(cidr)
		if (bad != nil) != (pErr != nil) {
			t.Fatalf("%q: %v, %v", cidr, bad, pErr)
		}
		got := false
		for _, r := range ranges {
			in := r.prefix.Contains(a)
			for _, e := range r.except {
				in = in && !e.Contains(a)
			}
			got = got || in
		}
		if want := pErr == nil && p.Contains(a) && !x.Contains(a); got != want {
			t.Errorf("%s in %s but %s: %t, want %t", a, cidr, except, got, want)
		}
	})
}

// bad puts objects among six pods and returns what became of them.
func bad(t *testing.T, objects ...Object) (Outcome, *State, Input) {
	t.Helper()
	c := sixPods()
	in := c.input()
	in.Objects = objects
	e, err := New(Options{}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	out := e.Update(in)
	kernel := NewState()
	for _, op := range out.Ops {
		kernel.Apply(op)
	}
	if again := e.Update(in); len(again.Ops) > 0 {
		t.Errorf("the same input again gives %d steps", len(again.Ops))
	}
	return out, &kernel, in
}

func cnp(t *testing.T, name, spec string) Object {
	t.Helper()
	p := &ciliumv2.CiliumNetworkPolicy{}
	if err := json.Unmarshal([]byte(`{"spec":`+spec+`}`), p); err != nil {
		t.Fatal(err)
	}
	return Object{Kind: KindCiliumNetworkPolicy, Namespace: "red", Name: name, Spec: p}
}

func TestOfContradictingRulesTheDenyHolds(t *testing.T) {
	_, kernel, in := bad(t, cnp(t, "p", `{"endpointSelector":{"matchLabels":{"app":"web"}},
		"ingress":[{"fromEndpoints":[{"matchLabels":{"app":"db"}}]}],"ingressDeny":[{"fromEndpoints":[{"matchLabels":{"app":"db"}}]}]}`))
	if got := kernel.Decide(1, Ingress, in.Subjects[2].IPv4.Prefix.Addr(), protoTCP, 80).Verdict; got != Deny {
		t.Errorf("got %d", got)
	}
}

func TestEmptySelectorsAndListsMeanWhatTheyMean(t *testing.T) {
	for spec, want := range map[string]Verdict{ // about a pod of the same namespace
		`{"endpointSelector":{},"ingress":[{"fromEndpoints":[{}]}]}`:                                  Allow,
		`{"endpointSelector":{},"ingress":[{"fromEndpoints":[]}]}`:                                    Deny,
		`{"endpointSelector":{},"ingress":[{}]}`:                                                      Deny,
		`{"endpointSelector":{},"ingress":[]}`:                                                        Allow,
		`{"endpointSelector":{},"ingressDeny":[{}]}`:                                                  Deny,
		`{"endpointSelector":{},"ingressDeny":[{}],"enableDefaultDeny":{"ingress":false}}`:            Allow,
		`{"endpointSelector":{},"ingress":[{"toPorts":[]}]}`:                                          Allow,
		`{"endpointSelector":{},"ingress":[{"toPorts":[{}]}]}`:                                        Allow,
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[]}]}]}`:                              Allow,
		`{"endpointSelector":{},"ingress":[{"fromCIDR":[]}]}`:                                         Deny,
		`{"endpointSelector":{},"ingress":[{"fromEntities":[],"toPorts":[{"ports":[]}]}]}`:            Deny,
		`{"endpointSelector":{},"ingress":[{"fromEndpoints":[{}],"icmps":[]}]}`:                       Deny,
		`{"endpointSelector":{"matchLabels":{"app":"nobody"}},"ingress":[{}]}`:                        Allow,
		`{"endpointSelector":{},"ingress":[{"fromEndpoints":[{"matchLabels":{"app":"nobody"}}]}]}`:    Deny,
		`{"endpointSelector":{},"ingress":[{"fromEndpoints":[{"matchExpressions":[]}]}]}`:             Allow,
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"0","protocol":"TCP"}]}]}]}`: Allow,
	} {
		out, kernel, in := bad(t, cnp(t, "p", spec))
		if got := kernel.Decide(1, Ingress, in.Subjects[2].IPv4.Prefix.Addr(), protoTCP, 80).Verdict; got != want || !out.Objects[0].Valid {
			t.Errorf("%s: got %d, want %d; %+v", spec, got, want, out.Objects)
		}
	}
}

func TestOverlappingExceptionsCutOnce(t *testing.T) {
	_, kernel, _ := bad(t, cnp(t, "p", `{"endpointSelector":{},"egress":[{"toCIDRSet":[
		{"cidr":"192.0.2.0/24","except":["192.0.2.0/25","192.0.2.64/26","192.0.2.0/25","192.0.2.200/32"]},{"cidr":"192.0.2.96/27"}]}]}`))
	for addr, want := range map[string]Verdict{"192.0.2.1": Deny, "192.0.2.70": Deny, "192.0.2.100": Allow, "192.0.2.130": Allow, "192.0.2.200": Deny} {
		if got := kernel.Decide(1, Egress, netip.MustParseAddr(addr), protoTCP, 80).Verdict; got != want {
			t.Errorf("%s: got %d, want %d", addr, got, want)
		}
	}
}

func TestTenThousandRulesInOneObjectAreOneAnswer(t *testing.T) {
	var rules []string
	for i := range 10000 {
		rules = append(rules, fmt.Sprintf(`{"fromEndpoints":[{"matchLabels":{"app":"%s"}}],"toPorts":[{"ports":[{"port":"%d","protocol":"TCP"}]}]}`, []string{"web", "db"}[i%2], 1+i))
	}
	out, kernel, in := bad(t, cnp(t, "p", `{"endpointSelector":{"matchLabels":{"app":"web"}},"ingress":[`+strings.Join(rules, ",")+`]}`))
	if out.Err != nil || !out.Objects[0].Valid {
		t.Fatalf("%v %+v", out.Err, out.Objects)
	}
	db := in.Subjects[2].IPv4.Prefix.Addr()
	for port, want := range map[int]Verdict{1: Deny, 2: Allow, 9999: Deny, 10000: Allow, 10001: Deny} {
		if got := kernel.Decide(1, Ingress, db, protoTCP, port).Verdict; got != want {
			t.Errorf("port %d: got %d, want %d", port, got, want)
		}
	}
	if out.Stats.Sets > 4 || out.Stats.Slots > 2 || len(out.Ops) > 200 {
		t.Errorf("%d steps, %+v", len(out.Ops), out.Stats)
	}
}

func TestFiveThousandPoliciesAtOnceForPodsThatNeverComeCostNoSlot(t *testing.T) {
	var objects []Object
	for i := range 5000 {
		spec := `{"endpointSelector":{"matchLabels":{"app":"ghost-%d"}},"ingress":[{"fromEndpoints":[{"matchLabels":{"app":"ghost-%d"}}]}]}`
		objects = append(objects, cnp(t, fmt.Sprint("ghost", i), fmt.Sprintf(spec, i, i+1)))
	}
	objects = append(objects, cnp(t, "real", `{"endpointSelector":{"matchLabels":{"app":"web"}},"ingress":[{"fromEndpoints":[{"matchLabels":{"app":"db"}}]}]}`))
	out, kernel, in := bad(t, objects...)
	if len(out.Objects) != 5001 || out.Stats.Slots != 2 || out.Stats.Selectors > 2 || len(out.Ops) > 200 {
		t.Errorf("%d objects, %d steps, %+v", len(out.Objects), len(out.Ops), out.Stats)
	}
	if kernel.Decide(1, Ingress, in.Subjects[2].IPv4.Prefix.Addr(), protoTCP, 80).Verdict != Allow || kernel.Decide(1, Ingress, in.Subjects[1].IPv4.Prefix.Addr(), protoTCP, 80).Verdict != Deny {
		t.Error("the one policy with pods is not in force")
	}
}

func TestAPolicyThatIsDeletedWhileItIsCarriedOutLeavesNothing(t *testing.T) {
	c := sixPods()
	kernel := NewState()
	e, _ := New(Options{}, NewState())
	in := c.input()
	for _, op := range e.Update(in).Ops {
		kernel.Apply(op)
	}
	before := kernel.Clone()
	c.put("p", fromLabel("web", "app", "db", "80"))
	applied := e.Update(c.input()).Ops
	for _, op := range applied[:len(applied)/2] { // the rest never arrives: a step failed
		kernel.Apply(op)
	}
	fresh, err := New(Options{}, kernel) // as the agent does then
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range fresh.Update(in).Ops {
		kernel.Apply(op)
	}
	for _, p := range probes([]uint16{1, 2, 3, 4}) {
		if got, want := p.decide(&kernel), p.decide(&before); got != want {
			t.Fatalf("%+v: got %d, before the policy it was %d", p, got, want)
		}
	}
}
