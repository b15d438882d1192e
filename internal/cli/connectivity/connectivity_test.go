// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/connectivity/probe"
)

func TestPatternsSelectChecks(t *testing.T) {
	var checks []check
	for _, n := range []string{"pod-a", "pod-b", "policy-a"} {
		checks = append(checks, check{name: n})
	}
	for _, c := range []struct{ patterns, want, err string }{
		{"", "pod-a pod-b policy-a", ""},
		{"pod", "pod-a pod-b", ""},
		{"-a$,pod-b", "pod-a pod-b policy-a", ""},
		{"!pod", "policy-a", ""},
		{"-a,!^pol", "pod-a", ""},
		{"nothing", "", "leaves no check"},
		{"(", "", "not a regular expression"},
		{"!", "", "not a regular expression"},
	} {
		got, err := selectChecks(checks, strings.FieldsFunc(c.patterns, func(r rune) bool { return r == ',' }))
		var names []string
		for _, x := range got {
			names = append(names, x.name)
		}
		if strings.Join(names, " ") != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got %v, %v; want %s %s", c.patterns, names, err, c.want, c.err)
		}
	}
}

func TestExternalTargets(t *testing.T) {
	for text, want := range map[string]external{
		"192.0.2.1": {"192.0.2.1", 0}, "192.0.2.1:80": {"192.0.2.1", 80}, "2001:db8::1": {"2001:db8::1", 0},
		"[2001:db8::1]": {"2001:db8::1", 0}, "[2001:db8::1]:53": {"2001:db8::1", 53}, "example.org": {"example.org", 0}, "example.org:443": {"example.org", 443},
		"": {}, "a:b": {}, "a:0": {}, "a:70000": {}, ":80": {},
	} {
		got, err := parseExternal(text)
		if got != want || (err == nil) != (want.host != "") {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

func TestChecksAreWellMade(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range all() {
		if seen[c.name] || c.about == "" || c.run == nil {
			t.Errorf("check %+v", c)
		}
		seen[c.name] = true
	}
	if len(seen) < 20 {
		t.Errorf("%d checks", len(seen))
	}
	policies, err := manifests.ReadDir("manifests/policies")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range policies {
		name := strings.TrimSuffix(p.Name(), ".yaml")
		o, err := render("policies/"+name, values{"Namespace": "ns", "Other": "other", "Port": 80, "Prefixes": `"192.0.2.1/32"`})
		if err != nil || o.name != name || !strings.Contains(o.list, "/namespaces/ns/") {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
		if !seen["policy-"+name] {
			t.Errorf("no check uses the policy %s", name)
		}
	}
	if _, err := render("policies/ingress-port", values{"Namespace": "ns"}); err == nil || !strings.Contains(err.Error(), "[Port]") {
		t.Errorf("a value is missing: %v", err)
	}
}

// scripted is a prober whose answers a test gives.
func scripted(t *testing.T, answer func(probe.Request) probe.Answer) *probe.Session {
	t.Helper()
	here, there := net.Pipe()
	go func() {
		_, _ = there.Write([]byte("{}\n"))
		for r := bufio.NewScanner(there); r.Scan(); {
			var q probe.Request
			if json.Unmarshal(r.Bytes(), &q) != nil {
				return
			}
			a := answer(q)
			a.ID = q.ID
			if json.NewEncoder(there).Encode(a) != nil {
				return
			}
		}
	}()
	s, err := probe.NewSession(here)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newTrial(agents int) *trial {
	return &trial{bed: &bed{}, flows: &flows{changed: make(chan struct{}), agents: agents}, started: time.Now()}
}

func TestWhatIsDeniedMustBeHeldBackAndTold(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	drop := rest.Event{Type: rest.EventDrop, ReasonText: "Policy denied", Source: rest.EventParty{IP: a.String()}, Dest: rest.EventParty{IP: b.String()}}
	other := drop
	other.ReasonText = "Stale or unroutable IP"
	for _, c := range []struct {
		name    string
		outcome string
		agents  int
		told    rest.Event
		want    string
	}{
		{"told", probe.Timeout, 1, drop, ""},
		{"nobody listens", probe.Timeout, 0, rest.Event{}, ""},
		{"another reason", probe.Timeout, 1, other, "no agent tells"},
		{"gets through", probe.OK, 1, drop, "although policy denies it"},
		{"refused by the server", probe.Refused, 1, drop, "not by policy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := newTrial(c.agents)
			from := &pod{Name: "from", addrs: []netip.Addr{a}, Session: scripted(t, func(probe.Request) probe.Answer {
				tr.flows.add(c.told)
				return probe.Answer{Outcome: c.outcome}
			})}
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			got := tr.one(ctx, try{from: from, to: "to", req: probe.Request{Kind: probe.TCP}, denied: true, addrs: []netip.Addr{b}})
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// The allowed way is tried only once the policy is seen to be in force.
func TestConvergingTriesWhatIsDeniedFirst(t *testing.T) {
	var order []string
	left := 2
	tr := newTrial(0)
	from := &pod{Name: "from", Session: scripted(t, func(r probe.Request) probe.Answer {
		order = append(order, r.Host)
		if r.Host == "denied" && left > 0 {
			left--
			return probe.Answer{Outcome: probe.OK}
		}
		if r.Host == "denied" {
			return probe.Answer{Outcome: probe.Timeout}
		}
		return probe.Answer{Outcome: probe.OK}
	})}
	tr.converge(t.Context(), time.Minute, try{from: from, req: probe.Request{Host: "allowed"}}, try{from: from, req: probe.Request{Host: "denied"}, denied: true})
	if want := []string{"denied", "denied", "denied", "allowed"}; !slices.Equal(order, want) || len(tr.failures) > 0 {
		t.Errorf("got %v %v, want %v", order, tr.failures, want)
	}
	tr.converge(t.Context(), 0, try{from: from, to: "there", req: probe.Request{Host: "denied", Kind: probe.UDP}})
	if want := []string{"from -> there udp: timeout"}; !slices.Equal(tr.failures, want) {
		t.Errorf("got %q, want %q", tr.failures, want)
	}
}

func TestFlowsOfAFailureAreThoseOfItsTries(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::3")
	event := func(from, to netip.Addr, port uint16) rest.Event {
		return rest.Event{Type: rest.EventDrop, Source: rest.EventParty{IP: from.String(), Port: port}, Dest: rest.EventParty{IP: to.String()}}
	}
	f := &flows{changed: make(chan struct{})}
	f.add(event(a, b, 1))
	start := time.Now()
	f.add(event(a, b, 2))
	f.add(event(a, b, 3))
	f.add(event(b, a, 4))
	f.add(event(a, c, 5))
	from := &pod{addrs: []netip.Addr{a}}
	got := f.of(start, time.Now(), []try{{from: from, addrs: []netip.Addr{b}}})
	if len(got) != 2 || got[0].Count != 2 || got[1].Source.Port != 4 {
		t.Errorf("got %+v", got)
	}
	if got := f.of(start, time.Now(), []try{{from: from}}); len(got) != 3 {
		t.Errorf("without another end: got %+v", got)
	}
}

func TestJUnit(t *testing.T) {
	r := &Report{}
	r.add(Result{Name: "a", Verdict: Passed})
	r.add(Result{Name: "b", Verdict: Skipped, Reason: "one node"})
	if !r.OK {
		t.Error("nothing failed")
	}
	r.add(Result{Name: "c", About: "all <well>", Verdict: Failed, Failures: []string{"x -> y: timeout"},
		Flows: []rest.Event{{Node: "n1", Count: 2, Direction: "ingress", ReasonText: "Policy denied", Reason: 133, Protocol: "TCP",
			Source: rest.EventParty{IP: "10.0.0.1", Identity: 5}, Dest: rest.EventParty{Pod: "ns/y", Port: 80, Identity: 6}, Policies: []string{"p"}}}})
	var b strings.Builder
	if err := r.writeJUnit(&b); err != nil || r.OK {
		t.Fatal(err, r.OK)
	}
	const want = `<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="connectivity" tests="3" failures="1" skipped="1" time="0">
  <testcase name="a" classname="connectivity" time="0"></testcase>
  <testcase name="b" classname="connectivity" time="0">
    <skipped message="one node"></skipped>
  </testcase>
  <testcase name="c" classname="connectivity" time="0">
    <failure message="all &lt;well&gt;">x -&gt; y: timeout&#xA;flow: n1 dropped 2 at ingress: Policy denied (133), TCP 10.0.0.1 [identity 5] -&gt; ns/y [identity 6] port 80, by p</failure>
  </testcase>
</testsuite>
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
