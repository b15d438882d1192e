// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/stentor-net/stentor/deploy/crds"
)

func definition(t testing.TB, kind string) *Definition {
	t.Helper()
	for name, text := range crds.All() {
		d, err := Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d.Kind == kind {
			return d
		}
	}
	t.Fatalf("no definition of %s", kind)
	return nil
}

func TestEveryDefinitionOfOursIsKnownToItsLastWord(t *testing.T) {
	for name, text := range crds.All() {
		if _, err := Parse(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse([]byte(`{"spec":{"versions":[{"name":"v2","schema":{"openAPIV3Schema":{"type":"object","not":{}}}}]}}`)); err == nil {
		t.Error("a schema with a word that is not known is accepted")
	}
	if _, err := Parse([]byte(`{"spec":{"versions":[{"name":"v2","schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-validations":[{"rule":"self.a > 1"}]}}}]}}`)); err == nil {
		t.Error("a schema with a rule that is not known is accepted")
	}
}

func TestFaultsAreFoundWithTheirPlace(t *testing.T) {
	d := definition(t, "CiliumNetworkPolicy")
	for _, c := range []struct{ name, text, want string }{
		{"good", `spec: {endpointSelector: {}, ingress: [{fromEntities: [world], toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]}`, ""},
		{"no spec", `{}`, "spec or specs is required"},
		{"empty specs", `specs: []`, "spec or specs is required"},
		{"specs", `specs: [{endpointSelector: {}, ingress: []}]`, ""},
		{"no rules at all", `specs: [{endpointSelector: {}}]`, "specs[0]: "},
		{"unknown field", `spec: {endpointSelector: {}, ingres: []}`, "spec.ingres: unknown field"},
		{"wrong type", `spec: {endpointSelector: {}, ingress: {}}`, "spec.ingress: must be of type array, not object"},
		{"null", `spec: {endpointSelector: null, ingress: [{}]}`, "spec: must match exactly one"},
		{"null where absent is fine", `spec: {endpointSelector: {}, ingress: null, egress: [{}]}`, ""},
		{"null in a list", `spec: {endpointSelector: {}, ingress: [null]}`, "spec.ingress[0]: must be of type object, not null"},
		{"unknown entity", `spec: {endpointSelector: {}, ingress: [{fromEntities: [moon]}]}`, `spec.ingress[0].fromEntities[0]: "moon" is not one of`},
		{"no prefix", `spec: {endpointSelector: {}, egress: [{toCIDR: [10.0.0.0/33]}]}`, `spec.egress[0].toCIDR[0]: "10.0.0.0/33"`},
		{"port as a number", `spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: 80}]}]}]}`, "spec.ingress[0].toPorts[0].ports[0].port: must be of type string, not integer"},
		{"port of strange letters", `spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: "-_"}]}]}]}`, `"-_" does not match`},
		{"unknown protocol", `spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: "80", protocol: HTTP}]}]}]}`, `"HTTP" is not one of`},
		{"ICMP type as both", `spec: {endpointSelector: {}, ingress: [{icmps: [{fields: [{type: 8}, {type: EchoRequest}]}]}]}`, ""},
		{"end of a range", `spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: "80", endPort: 70000}]}]}]}`, "70000 is more than 65535"},
		{"operator", `spec: {endpointSelector: {matchExpressions: [{key: a, operator: Is}]}}`, `"Is" is not one of`},
		{"operator is missing", `spec: {endpointSelector: {matchExpressions: [{key: a}]}}`, "spec.endpointSelector.matchExpressions[0].operator: is required"},
		{"no selector", `spec: {ingress: []}`, "matches"},
	} {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(c.text), &object); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range d.Validate("v2", object) {
			got = append(got, f.String())
		}
		if all := strings.Join(got, "; "); (c.want == "") != (all == "") || !strings.Contains(all, c.want) {
			t.Errorf("%s: %s, want %q", c.name, all, c.want)
		}
	}
	if f := d.Validate("v9", map[string]any{}); len(f) != 1 || !strings.Contains(f[0].Text, "v9") {
		t.Errorf("a version that is not served: %v", f)
	}
}

func FuzzValidate(f *testing.F) {
	d := definition(f, "CiliumNetworkPolicy")
	f.Add(`spec: {endpointSelector: {}, ingress: [{icmps: [{fields: [{type: 8}]}]}]}`)
	f.Add(`specs: [null, 1, {}]`)
	f.Add(`status: {conditions: [{type: a, status: b}, {type: a, status: c}]}`)
	f.Fuzz(func(_ *testing.T, text string) {
		var object map[string]any
		if yaml.Unmarshal([]byte(text), &object) == nil {
			d.Validate("v2", object) // must come to an end
		}
	})
}
