// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stentor-net/stentor/api/rest"
)

func TestAPrintedEventIsAQuestion(t *testing.T) {
	pod := func(name string) rest.TraceParty { return rest.TraceParty{Pod: name} }
	ip := func(a string) rest.TraceParty { return rest.TraceParty{IP: a} }
	for _, c := range []struct {
		line string
		want rest.TraceRequest
	}{
		{"12:00:00.123  DROP Policy denied (133)  ingress  default/xwing:43210 [1234] -> default/deathstar:80 [5678]  TCP SYN  at to-endpoint  policies CiliumNetworkPolicy/default/rule1",
			rest.TraceRequest{Source: pod("default/xwing"), Destination: pod("default/deathstar"), Port: 80, Protocol: "TCP"}},
		{"12:00:00.123  node2  DENY  egress  default/a:53000 [1234] -> 203.0.113.9:53 (world-ipv4) [9]  UDP",
			rest.TraceRequest{Source: pod("default/a"), Destination: ip("203.0.113.9"), Port: 53, Protocol: "UDP"}},
		{"12:00:00.123  DROP Policy denied (133)  ingress  [fd00::1]:43210 (host) [1] -> default/b:8080 [300]  TCP SYN  at to-endpoint",
			rest.TraceRequest{Source: ip("fd00::1"), Destination: pod("default/b"), Port: 8080, Protocol: "TCP"}},
		{"12:00:00.123  DROP Policy denied (133)  ingress  default/b:80 [300] -> default/a:4711 [301]  TCP ACK reply  at to-endpoint",
			rest.TraceRequest{Source: pod("default/a"), Destination: pod("default/b"), Port: 80, Protocol: "TCP"}},
		{"12:00:00.123  DROP Policy denied (133)  egress  default/a [300] -> fd00::9 (world-ipv6) [10]  ICMPv6 128/0  at from-endpoint",
			rest.TraceRequest{Source: pod("default/a"), Destination: ip("fd00::9"), Port: 128, Protocol: "ICMPv6"}},
	} {
		got, err := lineOf(c.line)
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
		} else if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s:\n%s", c.line, diff)
		}
	}
	if _, err := lineOf("nothing of that kind"); err == nil {
		t.Error("any line is taken for an event")
	}
}

func TestAPairIsAQuestion(t *testing.T) {
	for _, c := range []struct {
		source, destination string
		want                rest.TraceRequest
	}{
		{"default/a", "default/b:80", rest.TraceRequest{Source: rest.TraceParty{Pod: "default/a"}, Destination: rest.TraceParty{Pod: "default/b"}, Port: 80}},
		{"default/a", "10.96.0.10:53/UDP", rest.TraceRequest{Source: rest.TraceParty{Pod: "default/a"}, Destination: rest.TraceParty{IP: "10.96.0.10"}, Port: 53, Protocol: "UDP"}},
		{"fd00::1", "[fd00::2]:443", rest.TraceRequest{Source: rest.TraceParty{IP: "fd00::1"}, Destination: rest.TraceParty{IP: "fd00::2"}, Port: 443}},
		{"a", "b:80/SCTP", rest.TraceRequest{Source: rest.TraceParty{Pod: "a"}, Destination: rest.TraceParty{Pod: "b"}, Port: 80, Protocol: "SCTP"}},
	} {
		got, err := pairOf(c.source, c.destination)
		if err != nil {
			t.Errorf("%s %s: %v", c.source, c.destination, err)
		} else if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s %s:\n%s", c.source, c.destination, diff)
		}
	}
	for _, bad := range []string{"default/b", "b:0x50", ":80", "b:70000"} {
		if _, err := pairOf("default/a", bad); err == nil {
			t.Errorf("%q is taken for a destination", bad)
		}
	}
}
