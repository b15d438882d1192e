// SPDX-License-Identifier: Apache-2.0

package v2

import (
	"encoding/json"
	"testing"
)

func TestAnAbsentListAndAnEmptyListStayDifferent(t *testing.T) {
	for _, text := range []string{
		`{}`,
		`{"ingress":[]}`,
		`{"ingress":[{}]}`,
		`{"ingress":[{"fromEndpoints":[]}]}`,
		`{"ingress":[{"fromEndpoints":[{}]}]}`,
		`{"ingress":[{"fromEndpoints":[{"matchLabels":{}}]}]}`,
		`{"ingress":[{"toPorts":[]}]}`,
		`{"ingress":[{"toPorts":[{"ports":[]}]}]}`,
		`{"ingress":[{"toPorts":[{"rules":{"http":[]}}]}]}`,
		`{"ingress":[{"toPorts":[{"rules":{"http":[{}]}}]}]}`,
		`{"ingress":[{"fromCIDR":[],"fromCIDRSet":[],"fromEntities":[],"fromNodes":[],"fromGroups":[]}]}`,
		`{"egress":[{"toFQDNs":[],"toServices":[],"toNodes":[],"icmps":[{"fields":[]}]}]}`,
		`{"egressDeny":[{"toEndpoints":[]}],"ingressDeny":[]}`,
		`{"endpointSelector":{}}`,
		`{"endpointSelector":{"matchExpressions":[]}}`,
		`{"enableDefaultDeny":{"egress":false}}`,
	} {
		var rule Rule
		if err := json.Unmarshal([]byte(text), &rule); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		encoded, err := json.Marshal(rule.DeepCopy())
		if err != nil {
			t.Fatal(err)
		}
		if want, got := string(canonical(t, []byte(text))), string(canonical(t, encoded)); got != want {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}

func TestAnICMPTypeIsANumberOrAName(t *testing.T) {
	for text, want := range map[string]string{`{"type":8}`: "8", `{"type":"EchoRequest","family":"IPv6"}`: "EchoRequest"} {
		var field ICMPField
		if err := json.Unmarshal([]byte(text), &field); err != nil {
			t.Fatal(err)
		}
		if field.Type.String() != want {
			t.Errorf("%s decoded as %s", text, field.Type)
		}
	}
}
