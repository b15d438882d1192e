// SPDX-License-Identifier: Apache-2.0

package schematest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// yamlDecoder is what options of yaml.Unmarshal configure.
type yamlDecoder = json.Decoder

// integers turns json.Number into int64 or float64, everywhere.
func integers(value any) any {
	switch node := value.(type) {
	case map[string]any:
		for key, member := range node {
			node[key] = integers(member)
		}
	case []any:
		for i, member := range node {
			node[i] = integers(member)
		}
	case json.Number:
		if n, err := node.Int64(); err == nil {
			return n
		}
		f, _ := node.Float64()
		return f
	}
	return value
}

func policy(kind, spec string) string {
	return fmt.Sprintf(`{"apiVersion":"cilium.io/v2","kind":%q,"metadata":{"name":"p"},%s}`, kind, spec)
}

// rule is a policy whose only ingress or egress section is the given rule.
func rule(section, body string) string {
	return policy("CiliumNetworkPolicy", fmt.Sprintf(`"spec":{"endpointSelector":{},%q:[%s]}`, section, body))
}

func TestTheAPIServerAcceptsTheDefinitions(t *testing.T) {
	s := newServer(t)
	for _, kind := range []string{"CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "CiliumEndpoint", "CiliumIdentity", "CiliumNode"} {
		if s.kinds[kind] == nil {
			t.Errorf("kind %s is missing", kind)
		}
	}
}

func TestObjectsOfUsersAreAccepted(t *testing.T) {
	s := newServer(t)
	for _, text := range []string{
		rule("ingress", `{}`),
		rule("ingress", `{"fromEndpoints":[]}`),
		rule("ingress", `{"fromEndpoints":[{}]}`),
		rule("ingress", `{"fromEndpoints":[{"matchLabels":{"k8s:io.kubernetes.pod.namespace":"a","reserved:host":"","any:app":"x"}}]}`),
		rule("ingress", `{"fromEndpoints":[{"matchExpressions":[{"key":"k8s:app","operator":"In","values":["a"]}]}]}`),
		rule("ingress", `{"fromEntities":["cluster-mesh","kube-apiserver","none"],"authentication":{"mode":"required"}}`),
		rule("ingress", `{"fromCIDRSet":[{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]},{"cidrGroupRef":"a.b"},{"cidrGroupSelector":{}}]}`),
		rule("ingress", `{"fromRequires":[{"matchLabels":{"env":"prod"}}]}`),
		rule("ingress", `{"fromNodes":[{"matchLabels":{"x":"y"}}]}`),
		rule("ingress", `{"icmps":[{"fields":[{"type":8},{"family":"IPv6","type":"EchoRequest"}]}]}`),
		rule("egress", `{"toCIDR":["::/0","0.0.0.0/0"]}`),
		rule("egress", `{"toFQDNs":[{"matchName":"a.example.com."},{"matchPattern":"*.example.com"},{"matchPattern":"**.example.com"}]}`),
		rule("egress", `{"toServices":[{"k8sService":{"serviceName":"a","namespace":"b"}},{"k8sServiceSelector":{"selector":{"matchLabels":{"a":"b"}}}}]}`),
		rule("egress", `{"toGroups":[{"aws":{"securityGroupsIds":["sg-1"]}}]}`),
		rule("egress", `{"toPorts":[{"ports":[{"port":"53","protocol":"ANY"},{"port":"http"},{"port":"1000","endPort":2000,"protocol":"SCTP"},{"protocol":"TCP"}]}]}`),
		rule("egress", `{"toPorts":[{"ports":[{"port":"53"}],"rules":{"dns":[{"matchPattern":"*"}]}}]}`),
		rule("egress", `{"toPorts":[{"ports":[{"port":"80"}],"rules":{"http":[{}]}}]}`),
		rule("ingress", `{"toPorts":[{"rules":{"kafka":[{"role":"produce","topic":"t"}]}}]}`),
		rule("ingress", `{"toPorts":[{"rules":{"l7proto":"memcache","l7":[{"command":"get"}]}}]}`),
		rule("ingress", `{"toPorts":[{"ports":[{"port":"443"}],"serverNames":["*.example.com"],"terminatingTLS":{"secret":{"name":"a"}},"listener":{"name":"l","envoyConfig":{"name":"e"},"priority":1}}]}`),
		rule("ingress", `{"toPorts":[{"rules":{"http":[{"headerMatches":[{"name":"X","mismatch":"REPLACE","value":"v"}]}]}}]}`),
		rule("ingressDeny", `{"fromEntities":["world"],"toPorts":[{"ports":[{"port":"80"}]}]}`),
		rule("egressDeny", `{"toServices":[{"k8sService":{"serviceName":"a"}}]}`),
		policy("CiliumNetworkPolicy", `"specs":[{"endpointSelector":{},"ingress":[]},{"endpointSelector":{},"egress":[{}]}]`),
		policy("CiliumNetworkPolicy", `"spec":{"endpointSelector":{},"enableDefaultDeny":{"ingress":false},"ingress":[{}],"labels":[{"key":"a"}],"log":{"value":"x"}}`),
		policy("CiliumClusterwideNetworkPolicy", `"spec":{"nodeSelector":{},"ingress":[{}]}`),
		`{"apiVersion":"cilium.io/v2","kind":"CiliumIdentity","metadata":{"name":"300"},"security-labels":{"k8s:app":"a"}}`,
		`{"apiVersion":"cilium.io/v2","kind":"CiliumEndpoint","metadata":{"name":"a"},"status":{"id":3,"state":"ready","networking":{"addressing":[{"ipv4":"10.0.0.1"}]},"policy":{"ingress":{"enforcing":false,"state":"<status disabled>"}},"visibility-policy-status":"<status disabled>"}}`,
		`{"apiVersion":"cilium.io/v2","kind":"CiliumNode","metadata":{"name":"a"},"spec":{"addresses":[{"type":"InternalIP","ip":"1.2.3.4"}],"ipam":{"podCIDRs":["10.0.0.0/24","fd00::/112"]}},"status":{"ipam":{"operator-status":{"error":"x"},"pod-cidrs":{"10.0.0.0/24":{"status":"in-use"}}}}}`,
	} {
		if _, problems := s.admit(t, parse(t, text)); len(problems) > 0 {
			t.Errorf("%s\n\trejected: %v", text, problems)
		}
	}
}

func TestWrongObjectsAreRejectedForTheRightReason(t *testing.T) {
	s := newServer(t)
	ports := func(n int) string { return strings.TrimSuffix(strings.Repeat(`{"port":"1"},`, n), ",") }
	for _, c := range []struct{ text, reason string }{
		{policy("CiliumNetworkPolicy", `"x":1`), "spec or specs is required"},
		{policy("CiliumNetworkPolicy", `"specs":[]`), "spec or specs is required"},
		{policy("CiliumClusterwideNetworkPolicy", `"x":1`), "spec or specs is required"},
		{policy("CiliumNetworkPolicy", `"spec":{"ingress":[{}]}`), "endpointSelector"},
		{policy("CiliumNetworkPolicy", `"spec":{"endpointSelector":{},"nodeSelector":{},"ingress":[{}]}`), "must validate one and only one schema (oneOf)"},
		{policy("CiliumNetworkPolicy", `"spec":{"endpointSelector":{}}`), "must validate at least one schema (anyOf)"},
		{rule("ingress", `{"fromEntities":["moon"]}`), "fromEntities[0]: Unsupported value"},
		{rule("ingress", `{"authentication":{"mode":"maybe"}}`), "Unsupported value"},
		{rule("ingress", `{"authentication":{}}`), "mode: Required"},
		{rule("ingress", `{"fromCIDR":["10.0.0.0/33"]}`), "fromCIDR[0]"},
		{rule("ingress", `{"fromCIDR":["10.0.0.1"]}`), "fromCIDR[0]"},
		{rule("ingress", `{"fromCIDRSet":[{"except":["10.0.0.0/8"]}]}`), "fromCIDRSet[0]"},
		{rule("ingress", `{"fromCIDRSet":[{"cidr":"10.0.0.0/8","cidrGroupRef":"a"}]}`), "one and only one"},
		{rule("ingress", `{"fromCIDRSet":[{"cidrGroupRef":"A_B"}]}`), "cidrGroupRef"},
		{rule("ingress", `{"fromEndpoints":[{"matchExpressions":[{"key":"a","operator":"Near"}]}]}`), "operator: Unsupported value"},
		{rule("ingress", `{"fromEndpoints":[{"matchExpressions":[{"operator":"Exists"}]}]}`), "key: Required"},
		{rule("ingress", `{"fromEndpoints":{"matchLabels":{}}}`), "must be of type array"},
		{rule("ingress", `{"icmps":[{"fields":[{"family":"IPv5","type":8}]}]}`), "family: Unsupported value"},
		{rule("ingress", `{"icmps":[{"fields":[{"type":"Ping"}]}]}`), "type"},
		{rule("ingress", `{"icmps":[{"fields":[{"family":"IPv4"}]}]}`), "type: Required"},
		{rule("egress", `{"toFQDNs":[{}]}`), "toFQDNs[0]"},
		{rule("egress", `{"toFQDNs":[{"matchName":"a","matchPattern":"b"}]}`), "one and only one"},
		{rule("egress", `{"toFQDNs":[{"matchName":"*.a"}]}`), "matchName"},
		{rule("egress", `{"toFQDNs":[{"matchName":"`+strings.Repeat("a", 256)+`"}]}`), "matchName: Too long"},
		{rule("egress", `{"toPorts":[{"ports":[{"port":80}]}]}`), "must be of type string"},
		{rule("egress", `{"toPorts":[{"ports":[{"port":"80","protocol":"tcp"}]}]}`), "protocol: Unsupported value"},
		{rule("egress", `{"toPorts":[{"ports":[{"port":"1","endPort":70000}]}]}`), "endPort"},
		{rule("egress", `{"toPorts":[{"ports":[`+ports(41)+`]}]}`), "must have at most 40 items"},
		{rule("egress", `{"toPorts":[{"rules":{"http":[{}],"dns":[{"matchName":"a"}]}}]}`), "one and only one"},
		{rule("egress", `{"toPorts":[{"rules":{}}]}`), "one and only one"},
		{rule("egress", `{"toPorts":[{"rules":{"kafka":[{"role":"admin"}]}}]}`), "role: Unsupported value"},
		{rule("egress", `{"toPorts":[{"serverNames":[]}]}`), "serverNames"},
		{rule("egress", `{"toPorts":[{"terminatingTLS":{}}]}`), "secret: Required"},
		{rule("egress", `{"toPorts":[{"listener":{"name":"l","envoyConfig":{"name":"e"},"priority":101}}]}`), "priority"},
		{rule("egress", `{"toPorts":[{"rules":{"http":[{"headerMatches":[{"name":""}]}]}}]}`), "name"},
		{policy("CiliumNetworkPolicy", `"spec":{"endpointSelector":{},"ingress":[{}],"log":{"value":"`+strings.Repeat("a", 33)+`"}}`), "log.value: Too long"},
		{policy("CiliumNetworkPolicy", `"spec":{"endpointSelector":{},"ingress":[{}],"labels":[{"value":"a"}]}`), "key: Required"},
		{`{"apiVersion":"cilium.io/v2","kind":"CiliumIdentity","metadata":{"name":"300"}}`, "security-labels: Required"},
		{`{"apiVersion":"cilium.io/v2","kind":"CiliumEndpoint","metadata":{"name":"a"},"status":{"state":"dancing"}}`, "state: Unsupported value"},
		{`{"apiVersion":"cilium.io/v2","kind":"CiliumEndpoint","metadata":{"name":"a"},"status":{"networking":{}}}`, "addressing: Required"},
		{`{"apiVersion":"cilium.io/v2","kind":"CiliumNode","metadata":{"name":"a"}}`, "spec: Required"},
		{`{"apiVersion":"cilium.io/v2","kind":"CiliumNode","metadata":{"name":"a"},"spec":{"ipam":{"podCIDRs":["10"]}}}`, "podCIDRs[0]"},
		{`{"apiVersion":"cilium.io/v2","kind":"CiliumNode","metadata":{"name":"a"},"spec":{"ipam":{"pre-allocate":-1}}}`, "pre-allocate"},
		{`{"apiVersion":"cilium.io/v2","kind":"CiliumNode","metadata":{"name":"a"},"spec":{},"status":{"ipam":{"pod-cidrs":{"10.0.0.0/8":{"status":"lost"}}}}}`, "Unsupported value"},
	} {
		_, problems := s.admit(t, parse(t, c.text))
		if !strings.Contains(fmt.Sprint(problems), c.reason) {
			t.Errorf("%s\n\twant %q, got %v", c.text, c.reason, problems)
		}
	}
}

func TestAnICMPFamilyDefaultsToIPv4(t *testing.T) {
	s := newServer(t)
	stored, problems := s.admit(t, parse(t, rule("ingress", `{"icmps":[{"fields":[{"type":8}]}]}`)))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if text := fmt.Sprint(stored); !strings.Contains(text, "family:IPv4") {
		t.Error(text)
	}
}

// misuses are manifests of the corpora that the API server refuses, with the
// reason.
var misuses = map[string]string{
	"cilium+cilium.io__src__posts__08-07-2017-tutorial-applying-http-security-rules-with-kubernetes__index.md.yaml.0.json": "toPorts[0].rules", // rules of no protocol
	"cilium+cilium.io__src__posts__26-06-2018-cilium-11__index.md.yaml.1.json":                                             "toPorts[0].rules", // HTTP for http
	"cilium+cilium.io__src__posts__2018-10-23-envoy-golang__index.md.yaml.1.json":                                          "l7[0].command",    // null
	"cilium+hubble__policies__l7_80_53.yaml.0.json":                                                                        "rules.dns[0]",     // no name
}

func TestThePoliciesOfTheCorporaAreAccepted(t *testing.T) {
	s := newServer(t)
	root := corpusDir(t)
	count := 0
	for _, set := range []string{"random", "real"} {
		files, err := filepath.Glob(filepath.Join(root, set, "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			file := parse(t, string(raw))
			policies, _ := file["Policies"].([]any)
			if p := file["Policy"]; p != nil {
				policies = append(policies, p)
			}
			for _, p := range policies {
				object := p.(map[string]any)
				if kind, _ := object["kind"].(string); s.kinds[kind] == nil {
					continue
				}
				count++
				_, problems := s.admit(t, object)
				reason, misuse := misuses[filepath.Base(name)]
				switch {
				case misuse && !strings.Contains(fmt.Sprint(problems), reason):
					t.Errorf("%s: want %q, got %v", filepath.Base(name), reason, problems)
				case !misuse && len(problems) > 0:
					t.Errorf("%s: %v", filepath.Base(name), problems)
				}
			}
		}
	}
	if count < 600 {
		t.Errorf("only %d policies were checked", count)
	}
}

// corpusDir finds the policy corpora in a folder `shared` beside the project
// or above it.
func corpusDir(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		candidate := filepath.Join(dir, "shared", "data", "policy")
		if _, err := os.Stat(candidate); err == nil {
			return candidate
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Skip("no shared/data/policy beside the project: corpus skipped")
		}
		dir = parent
	}
}
