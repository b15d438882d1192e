// SPDX-License-Identifier: Apache-2.0

package l7

import (
	"strings"
	"testing"
)

func dnsLine(rules string) string {
	return `{"ports":[{"port":"53","protocol":"ANY"}],"rules":{"dns":[` + rules + `]}}`
}

func TestDNSRulesAllowNamesAndPatterns(t *testing.T) {
	s, err := Compile(3, []string{dnsLine(`{"matchName":"Example.com"},{"matchPattern":"*.Example.org."}`), dnsLine(`{"matchPattern":"**.svc"}`)}, nil)
	if err != nil || s.Protocol != ProtocolDNS || s.All {
		t.Fatalf("%+v, %v", s, err)
	}
	for name, want := range map[string]bool{
		"example.com.": true, "www.example.com.": false, "www.example.org.": true,
		"a.b.svc.": true, "svc.": false, ".": false, "example.org.": false,
	} {
		if s.DNS(name) != want {
			t.Errorf("%s: %v, want %v", name, !want, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { s.DNS("a.b.c.example.net.") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestDNSRulesThatAllowEverythingSaySo(t *testing.T) {
	for _, rules := range []string{"", `{"matchPattern":"*"}`, `{"matchName":"a.b"},{"matchPattern":"*"}`} {
		if s, err := Compile(3, []string{dnsLine(rules)}, nil); err != nil || !s.All || s.Protocol != ProtocolDNS || !s.DNS("x.y.") {
			t.Errorf("dns: [%s]: %+v, %v", rules, s, err)
		}
	}
}

func TestDNSRulesThatAreNotUnderstoodAllowNothing(t *testing.T) {
	for _, rules := range []string{`{}`, `{"matchName":"a.b","matchPattern":"*"}`, `{"matchName":"*.b"}`, `{"matchPattern":"a..b"}`, `{"matchName":"` + strings.Repeat("a", 64) + `"}`} {
		s, err := Compile(3, []string{dnsLine(rules + `,{"matchName":"good.x"}`)}, nil)
		if err == nil || s.All || s.DNS("a.b.") || !s.DNS("good.x.") {
			t.Errorf("dns: [%s]: %+v, %v", rules, s, err)
		}
	}
	s, err := Compile(3, []string{dnsLine(`{"matchPattern":"*"}`), `{"rules":{"http":[{}]}}`}, nil)
	if err == nil || s.DNS("a.b.") {
		t.Errorf("of two protocols one is chosen: %v", err)
	}
}
