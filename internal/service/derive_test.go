// SPDX-License-Identifier: Apache-2.0

package service

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stentor-net/stentor/internal/endpoint"
)

func ip(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// lines prints frontends as the table does, which is what a user sees.
func lines(services []Service, all []Slice, node string) []string {
	st, sw := NewServiceTable()
	sw.Upsert(services...)
	et, ew := NewSliceTable()
	ew.Upsert(all...)
	ft, fw := NewFrontendTable()
	b := NewBalance()
	for key, s := range st.Snapshot().All() {
		b.Set(key, Of(s, et.Snapshot(), Place{Node: node, IPv4: true, IPv6: true}))
	}
	for _, f := range b.Take().Put {
		if !f.Rest() {
			fw.Upsert(f)
		}
	}
	_, rows := ft.Describe()
	var out []string
	for _, r := range rows {
		out = append(out, strings.Join([]string{r[0], r[1], r[2], r[5]}, " "))
	}
	return out
}

var deathstar = Service{
	Namespace: "default", Name: "deathstar", Type: "ClusterIP", ClusterIPs: ip("10.96.0.9", "fd00:96::9"),
	Ports: []Port{{Name: "web", Protocol: 6, Port: 80}, {Name: "dns", Protocol: 17, Port: 53}},
}

func slice(name string, ports []SlicePort, eps ...SliceEndpoint) Slice {
	return Slice{Namespace: "default", Name: name, Service: "deathstar", Ports: ports, Endpoints: eps}
}

var web = []SlicePort{{Name: "web", Protocol: 6, Port: 8080}, {Name: "dns", Protocol: 17, Port: 5353}}

func at(node, state string, addrs ...string) SliceEndpoint {
	return SliceEndpoint{
		Addresses: ip(addrs...), NodeName: node,
		Ready: state == "ready", Serving: state != "down", Terminating: state == "ending",
	}
}

func TestEveryPortAndFamilyOfAServiceIsAFrontend(t *testing.T) {
	got := lines([]Service{deathstar}, []Slice{
		slice("four", web, at("a", "ready", "10.0.1.7"), at("b", "ready", "10.0.2.7")),
		slice("six", web, at("a", "ready", "fd00:1::7")),
	}, "a")
	want := []string{
		"10.96.0.9:53/UDP ClusterIP default/deathstar 10.0.1.7:5353,10.0.2.7:5353",
		"10.96.0.9:80/TCP ClusterIP default/deathstar 10.0.1.7:8080,10.0.2.7:8080",
		"[fd00:96::9]:53/UDP ClusterIP default/deathstar [fd00:1::7]:5353",
		"[fd00:96::9]:80/TCP ClusterIP default/deathstar [fd00:1::7]:8080",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestEndpointsThatEndServeOnlyWhenNoneIsReady(t *testing.T) {
	one := deathstar
	one.Ports, one.ClusterIPs = one.Ports[:1], one.ClusterIPs[:1]
	for _, c := range []struct {
		name string
		eps  []SliceEndpoint
		want string
	}{
		{"ready wins", []SliceEndpoint{at("a", "ready", "10.0.1.1"), at("a", "ending", "10.0.1.2"), at("a", "down", "10.0.1.3")}, "10.0.1.1:8080"},
		{"all end", []SliceEndpoint{at("a", "ending", "10.0.1.2"), at("a", "down", "10.0.1.3")}, "10.0.1.2:8080"},
		{"none left", []SliceEndpoint{at("a", "down", "10.0.1.3")}, ""},
	} {
		got := lines([]Service{one}, []Slice{slice("s", web, c.eps...)}, "a")
		if want := []string{"10.96.0.9:80/TCP ClusterIP default/deathstar " + c.want}; cmp.Diff(want, got) != "" {
			t.Errorf("%s: got %q", c.name, got)
		}
	}
}

func TestAnEndpointInTwoSlicesIsOneBackend(t *testing.T) {
	one := deathstar
	one.Ports, one.ClusterIPs = one.Ports[:1], one.ClusterIPs[:1]
	e := at("a", "ready", "10.0.1.1")
	got := lines([]Service{one}, []Slice{slice("new", web, e), slice("old", web, e)}, "a")
	if d := cmp.Diff([]string{"10.96.0.9:80/TCP ClusterIP default/deathstar 10.0.1.1:8080"}, got); d != "" {
		t.Error(d)
	}
}

func TestInternalTrafficStaysOnItsNodeWhenAsked(t *testing.T) {
	one := deathstar
	one.Ports, one.ClusterIPs, one.InternalLocal = one.Ports[:1], one.ClusterIPs[:1], true
	all := []Slice{slice("s", web, at("a", "ready", "10.0.1.1"), at("b", "ready", "10.0.2.1"))}
	if d := cmp.Diff([]string{"10.96.0.9:80/TCP ClusterIP default/deathstar 10.0.2.1:8080"}, lines([]Service{one}, all, "b")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"10.96.0.9:80/TCP ClusterIP default/deathstar "}, lines([]Service{one}, all, "c")); d != "" {
		t.Error(d)
	}
}

func TestHeadlessAndExternalServicesHaveNoFrontend(t *testing.T) {
	headless, external := deathstar, deathstar
	headless.Headless, headless.ClusterIPs = true, nil
	external.Name, external.Type = "external", "ExternalName"
	if got := lines([]Service{headless, external}, nil, "a"); got != nil {
		t.Errorf("got %q", got)
	}
}

func TestTheAPIServersAreTheEndpointsOfItsService(t *testing.T) {
	et, ew := NewSliceTable()
	ew.Upsert(Slice{Namespace: "default", Name: "kubernetes", Service: "kubernetes", Endpoints: []SliceEndpoint{at("", "ready", "172.30.0.1", "172.30.0.1")}},
		slice("other", web, at("a", "ready", "10.0.1.1")))
	if d := cmp.Diff(ip("172.30.0.1"), APIServers(et.Snapshot()), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

func TestAHostPortIsOnTheNodesAddressesAndOnItsLoopback(t *testing.T) {
	place := Place{Node: "a", IPv4: true, IPv6: true, AllKinds: true, Addresses: ip("192.168.0.1", "fd00::1"), NodePort: ip("192.168.0.1", "fd00::1")}
	pod := func(ports ...endpoint.HostPort) endpoint.Pod {
		return endpoint.Pod{Namespace: "default", Name: "web", Phase: "Running", IPs: ip("10.0.1.7", "fd00:1::7"), HostPorts: ports}
	}
	port := func(host string) endpoint.HostPort {
		p := endpoint.HostPort{Port: endpoint.Port{Number: 80, Protocol: 6}, HostPort: 8088}
		if host != "" {
			p.HostIP = netip.MustParseAddr(host)
		}
		return p
	}
	for _, c := range []struct {
		host string
		want []string
	}{
		{"", []string{"192.168.0.1:8088/TCP", "192.168.0.1:8088/TCP/external", "[fd00::1]:8088/TCP", "[fd00::1]:8088/TCP/external",
			"127.0.0.1:8088/TCP", "[::1]:8088/TCP"}},
		{"127.0.0.1", []string{"127.0.0.1:8088/TCP"}},
		{"127.1.2.3", []string{"127.1.2.3:8088/TCP"}},
		{"::1", []string{"[::1]:8088/TCP"}},
		{"fd00::1", []string{"[fd00::1]:8088/TCP", "[fd00::1]:8088/TCP/external"}},
		{"192.168.0.2", nil},
	} {
		d := OfPod(pod(port(c.host)), place)
		var got []string
		for _, f := range d.Frontends {
			got = append(got, f.Key())
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("host address %q: %s", c.host, diff)
		}
		if (len(d.Problems) == 0) != (len(c.want) > 0) {
			t.Errorf("host address %q: problems %q", c.host, d.Problems)
		}
	}
}
