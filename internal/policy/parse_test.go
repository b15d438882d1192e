// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/label"
)

// parseCNP parses the spec of a CiliumNetworkPolicy in namespace red.
func parseCNP(t testing.TB, spec string) parsed {
	t.Helper()
	cnp := &ciliumv2.CiliumNetworkPolicy{}
	if err := json.Unmarshal([]byte(`{"spec":`+spec+`}`), cnp); err != nil {
		t.Fatal(err)
	}
	opts := Options{}
	opts.setDefaults()
	return parse(Object{Kind: KindCiliumNetworkPolicy, Namespace: "red", Name: "p", Spec: cnp}, &opts, noReferences)
}

func ports(n int, port string) string {
	return strings.TrimSuffix(strings.Repeat(`{"port":"`+port+`"},`, n), ",")
}

func TestWhatCannotBeUnderstoodIsQuarantinedWithAReason(t *testing.T) {
	for spec, want := range map[string]string{
		`{"ingress":[{}]}`: "spec: one of endpointSelector and nodeSelector is required",
		`{"endpointSelector":{},"nodeSelector":{},"ingress":[{}]}`:                                                                                    "exclude each other",
		`{"nodeSelector":{},"ingress":[{}]}`:                                                                                                          "only clusterwide policies select nodes",
		`{"endpointSelector":{"matchExpressions":[{"key":"a","operator":"Near"}]},"ingress":[{}]}`:                                                    `operator "Near" is unknown`,
		`{"endpointSelector":{"matchExpressions":[{"key":"a","operator":"In"}]},"ingress":[{}]}`:                                                      "operator In with 0 values",
		`{"endpointSelector":{"matchExpressions":[{"key":"a","operator":"Exists","values":["b"]}]},"ingress":[{}]}`:                                   "operator Exists with 1 values",
		`{"endpointSelector":{},"ingress":[{"fromEntities":["moon"]}]}`:                                                                               `spec.ingress[0].fromEntities[0]: entity "moon" is unknown`,
		`{"endpointSelector":{},"egress":[{"toCIDR":["10.0.0.0/33"]}]}`:                                                                               `spec.egress[0].toCIDR[0]: "10.0.0.0/33" is no prefix`,
		`{"endpointSelector":{},"egress":[{"toCIDRSet":[{"cidr":"10.0.0.0/8","except":["11.0.0.0/16"]}]}]}`:                                           "11.0.0.0/16 is not inside 10.0.0.0/8",
		`{"endpointSelector":{},"egress":[{"toCIDRSet":[{"cidr":"10.0.0.0/8","except":["fd00::/16"]}]}]}`:                                             "is not inside",
		`{"endpointSelector":{},"egress":[{"toCIDRSet":[{}]}]}`:                                                                                       "exactly one of cidr",
		`{"endpointSelector":{},"egress":[{"toCIDRSet":[{"cidr":"10.0.0.0/8","cidrGroupRef":"g"}]}]}`:                                                 "exactly one of cidr",
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[` + ports(41, "80") + `]}]}]}`:                                                       "41 are more than 40",
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"65536"}]}]}]}`:                                                              "neither a number nor a name",
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"-"}]}]}]}`:                                                                  "neither a number nor a name",
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"80","endPort":79}]}]}]}`:                                                    "endPort 79 is before port 80",
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"0","endPort":79}]}]}]}`:                                                     "endPort without port",
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"web","endPort":79}]}]}]}`:                                                   "endPort with a named port",
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"80","protocol":"QUIC"}]}]}]}`:                                               `protocol "QUIC" is unknown`,
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"80","protocol":"GRE"}]}]}]}`:                                                "protocol GRE has no ports",
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"80"}],"rules":{"http":[{}],"dns":[{"matchName":"a"}]}}]}]}`:                 "exclude each other",
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"53"}],"rules":{"dns":[{"matchName":"a","matchPattern":"b"}]}}]}]}`:          "exclude each other",
		`{"endpointSelector":{},"ingress":[{"icmps":[{"fields":[{"type":256}]}]}]}`:                                                                   "type 256 is out of range",
		`{"endpointSelector":{},"ingress":[{"icmps":[{"fields":[{"type":"Sneeze"}]}]}]}`:                                                              `type "Sneeze" is unknown`,
		`{"endpointSelector":{},"ingress":[{"icmps":[{"fields":[{"type":8,"family":"IPX"}]}]}]}`:                                                      `family "IPX" is unknown`,
		`{"endpointSelector":{},"ingress":[{"icmps":[{"fields":[{"family":"IPv6"}]}]}]}`:                                                              "type is required",
		`{"endpointSelector":{},"ingress":[{"icmps":[{"fields":[{"type":8}]}],"toPorts":[{"ports":[{"port":"80"}]}]}]}`:                               "toPorts and icmps exclude each other",
		`{"endpointSelector":{},"egress":[{"toFQDNs":[{"matchName":"a"}],"toEntities":["world"]}]}`:                                                   "toFQDNs excludes all other peers",
		`{"endpointSelector":{},"ingress":[{"fromRequires":[{"matchLabels":{"a":"b"}}]}]}`:                                                            "no longer part of the language",
		`{"endpointSelector":{"matchLabels":{"bad key!":"b"}},"ingress":[{}]}`:                                                                        `key "bad key!" is not that of a label`,
		`{"endpointSelector":{},"ingress":[{"fromEndpoints":[{"matchExpressions":[{"key":"k8s:a/b/c","operator":"Exists"}]}]}]}`:                      `key "a/b/c" is not that of a label`,
		`{"endpointSelector":{},"ingress":[{"fromEndpoints":[{"matchLabels":{"k8s:":"b"}}]}]}`:                                                        "empty key",
		`{"endpointSelector":{},"egress":[{"toEndpoints":[{}]}],"egressDeny":[{"toEndpoints":[{"matchExpressions":[{"key":"a","operator":"In"}]}]}]}`: "spec.egressDeny[0].toEndpoints[0]",
	} {
		p := parseCNP(t, spec)
		if p.err == nil || !strings.Contains(p.err.Error(), want) {
			t.Errorf("%s:\ngot %v\nwant %s", spec, p.err, want)
		}
		if len(p.rules) > 0 {
			t.Errorf("%s: %d rules of a quarantined object", spec, len(p.rules))
		}
	}
}

func TestWhatIsNotCarriedOutDeniesWhatItWouldAllowAndIsNamed(t *testing.T) {
	for spec, want := range map[string]string{
		`{"endpointSelector":{},"egress":[{"toFQDNs":[{"matchName":"a.example"}]}]}`:                                          "spec.egress[0].toFQDNs",
		`{"endpointSelector":{},"egress":[{"toGroups":[{"aws":{}}]}]}`:                                                        "spec.egress[0].toGroups",
		`{"endpointSelector":{},"egress":[{"toNodes":[{}]}]}`:                                                                 "spec.egress[0].toNodes",
		`{"endpointSelector":{},"ingress":[{"fromNodes":[{}]}]}`:                                                              "spec.ingress[0].fromNodes",
		`{"endpointSelector":{},"ingress":[{"fromEndpoints":[{}],"toPorts":[{"ports":[{"protocol":"VRRP"}]}]}]}`:              "spec.ingress[0].toPorts[0].ports[0].protocol VRRP",
		`{"endpointSelector":{},"ingress":[{"fromEndpoints":[{}],"authentication":{"mode":"required"}}]}`:                     "spec.ingress[0].authentication",
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"80"}],"rules":{"http":[{"path":"/"}]}}]}]}`:         "spec.ingress[0].toPorts[0].rules.http",
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"9092"}],"rules":{"kafka":[{"topic":"a"}]}}]}]}`:     "spec.ingress[0].toPorts[0].rules.kafka",
		`{"endpointSelector":{},"egress":[{"toPorts":[{"ports":[{"port":"443"}],"serverNames":["a.example"]}]}]}`:             "spec.egress[0].toPorts[0].serverNames",
		`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"1"}],"rules":{"l7proto":"x","l7":[{"a":"b"}]}}]}]}`: "spec.ingress[0].toPorts[0].rules.l7proto",
	} {
		p := parseCNP(t, spec)
		if p.err != nil || len(p.missing) != 1 || p.missing[0] != want {
			t.Errorf("%s: error %v, not carried out: %q; want %q", spec, p.err, p.missing, want)
			continue
		}
		if len(p.rules) != 1 || len(p.rules[0].peers) != 0 || !p.rules[0].defaultDeny {
			t.Errorf("%s: %+v; want one rule that allows nobody, under default deny", spec, p.rules)
		}
	}
}

func TestADenyOfPeersThatAreNotKnownDeniesEverybody(t *testing.T) {
	p := parseCNP(t, `{"endpointSelector":{},"egressDeny":[{"toGroups":[{"aws":{}}]}]}`)
	if p.err != nil || len(p.rules) != 1 || len(p.rules[0].peers) != 1 || !p.rules[0].peers[0].any {
		t.Errorf("%+v", p)
	}
}

func TestRulesThatOnlyWantToSeeTrafficAllowItWithoutTheProxy(t *testing.T) {
	for _, rules := range []string{`{"http":[{}]}`, `{"http":[]}`, `{"dns":[{"matchPattern":"*"}]}`, `{"http":[{"path":"/"},{}]}`} {
		p := parseCNP(t, fmt.Sprintf(`{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"80"}],"rules":%s}]}]}`, rules))
		if p.err != nil || len(p.rules) != 1 || p.rules[0].verdict != Allow || len(p.rules[0].peers) != 1 || len(p.missing) != 1 {
			t.Errorf("%s: %+v", rules, p)
		}
	}
}

func TestPeersKeepToTheNamespaceAndClusterOfThePolicy(t *testing.T) {
	const k8s, cluster = `k8s:io.kubernetes.pod.namespace 0 ["red"]`, `k8s:io.cilium.k8s.policy.cluster 0 ["default"]`
	for peer, want := range map[string][]string{
		`{}`: {cluster, k8s},
		`{"matchLabels":{"k8s:io.kubernetes.pod.namespace":"blue"}}`:                       {cluster, `k8s:io.kubernetes.pod.namespace 0 ["blue"]`},
		`{"matchLabels":{"io.kubernetes.pod.namespace":"blue"}}`:                           {`any:io.kubernetes.pod.namespace 0 ["blue"]`, cluster},
		`{"matchExpressions":[{"key":"io.kubernetes.pod.namespace","operator":"Exists"}]}`: {`any:io.kubernetes.pod.namespace 2 []`, cluster},
		`{"matchLabels":{"io.cilium.k8s.namespace.labels.team":"a"}}`:                      {`any:io.cilium.k8s.namespace.labels.team 0 ["a"]`, cluster},
		`{"matchLabels":{"io.cilium.k8s.policy.cluster":"other","app":"a"}}`:               {`any:app 0 ["a"]`, `any:io.cilium.k8s.policy.cluster 0 ["other"]`, k8s},
		`{"matchLabels":{"reserved:host":""}}`:                                             {`reserved:host 2 []`},
	} {
		p := parseCNP(t, `{"endpointSelector":{},"ingress":[{"fromEndpoints":[`+peer+`]}]}`)
		if p.err != nil {
			t.Errorf("%s: %v", peer, p.err)
			continue
		}
		if got := "labels " + strings.Join(want, "&"); got != p.rules[0].peers[0].key {
			t.Errorf("%s:\ngot  %s\nwant %s", peer, p.rules[0].peers[0].key, got)
		}
	}
}

func TestASubjectNeverLeavesItsNamespace(t *testing.T) {
	p := parseCNP(t, `{"endpointSelector":{"matchLabels":{"k8s:io.kubernetes.pod.namespace":"blue","app":"a"}},"ingress":[{}]}`)
	if p.err != nil || !p.rules[0].subject.matches(podLabels("red", map[string]string{"app": "a"}, nil)) || p.rules[0].subject.matches(podLabels("blue", map[string]string{"app": "a"}, nil)) {
		t.Errorf("%+v", p)
	}
}

func FuzzCiliumPolicy(f *testing.F) {
	for _, seed := range []string{
		`{"endpointSelector":{},"ingress":[{}]}`, `{"endpointSelector":{},"ingress":[{"fromEndpoints":[]}]}`,
		`{"endpointSelector":{"matchLabels":{"a":"b"}},"egressDeny":[{"toCIDRSet":[{"cidr":"::/0","except":["fd00::/8"]}],"toPorts":[{"ports":[{"port":"1","endPort":65535,"protocol":"ANY"}]}]}]}`,
		`{"endpointSelector":{},"egress":[{"icmps":[{"fields":[{"type":"EchoRequest","family":"IPv6"}]}]}],"enableDefaultDeny":{"egress":false}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		rule := &ciliumv2.Rule{}
		if json.Unmarshal(raw, rule) != nil {
			return
		}
		checkObject(t, Object{Kind: KindCiliumNetworkPolicy, Namespace: "red", Name: "p", Spec: &ciliumv2.CiliumNetworkPolicy{Spec: rule}})
		checkObject(t, Object{Kind: KindCiliumClusterwideNetworkPolicy, Name: "p", Spec: &ciliumv2.CiliumClusterwideNetworkPolicy{Spec: rule}})
	})
}

func FuzzNetworkPolicy(f *testing.F) {
	for _, seed := range []string{
		`{"kind":"NetworkPolicy","spec":{"podSelector":{},"ingress":[{}]}}`,
		`{"kind":"NetworkPolicy","spec":{"podSelector":{},"egress":[{"to":[{"ipBlock":{"cidr":"0.0.0.0/0","except":["10.0.0.0/8"]}}],"ports":[{"port":1,"endPort":9},{"port":"web"}]}]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var head struct{ Kind Kind }
		if json.Unmarshal(raw, &head) != nil || head.Kind != KindNetworkPolicy {
			return
		}
		o := decodeObject(t, raw)
		o.Namespace, o.Name = "red", "p"
		checkObject(t, o)
	})
}

// checkObject puts an object in force among others; whatever it is, the others
// stay in force and every step is a legal one.
func checkObject(t *testing.T, o Object) {
	c := sixPods()
	c.put("fixed", fromLabel("db", "app", "web", "80"))
	in := c.input()
	in.Objects = append(in.Objects, o)
	e, err := New(Options{}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	out := e.Update(in)
	kernel := NewState()
	for _, op := range out.Ops {
		kernel.Apply(op)
	}
	valid := false
	for _, s := range out.Objects {
		valid = valid || s.Key == o.Key() && s.Valid
	}
	if !valid && kernel.Decide(3, Ingress, c.pods[5].addr, protoTCP, 80).Verdict != Deny {
		t.Errorf("a quarantined policy opens what another closes")
	}
	if again := e.Update(in); len(again.Ops) > 0 {
		t.Errorf("the same input again gives %d steps", len(again.Ops))
	}
}

func TestAPolicyOfANamespaceSelectsNoPodsOfOthers(t *testing.T) {
	other := label.NewSet(label.Label{Source: label.SourceK8s, Key: label.KeyNamespace, Value: "blue"}, label.Label{Source: label.SourceK8s, Key: "app", Value: "db"})
	unlabelled := label.NewSet(label.Label{Source: label.SourceReserved, Key: "init"})
	for selector, wantInit := range map[string]bool{
		`{}`:                           false,
		`{"matchLabels":{"app":"db"}}`: false,
		`{"matchLabels":{"k8s:io.kubernetes.pod.namespace":"blue"}}`:                      false,
		`{"matchLabels":{"reserved:init":""}}`:                                            true,
		`{"matchExpressions":[{"key":"reserved:init","operator":"Exists"}]}`:              true,
		`{"matchExpressions":[{"key":"reserved:init","operator":"DoesNotExist"}]}`:        false,
		`{"matchExpressions":[{"key":"reserved:init","operator":"NotIn","values":[""]}]}`: false,
	} {
		p := parseCNP(t, `{"endpointSelector":`+selector+`,"ingress":[{"fromEntities":["all"]}]}`)
		if p.err != nil || len(p.rules) != 1 {
			t.Fatalf("%s: %+v", selector, p)
		}
		if p.rules[0].subject.matches(other) {
			t.Errorf("%s: a policy of red selects a pod of blue", selector)
		}
		if got := p.rules[0].subject.matches(unlabelled); got != wantInit {
			t.Errorf("%s: selects pods without labels: %t, want %t", selector, got, wantInit)
		}
	}
}
