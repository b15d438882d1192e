// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// cyclonusCase is a story of steps; after each the verdicts are given.
type cyclonusCase struct {
	ID          int
	Description string
	Steps       []struct {
		Actions []struct {
			CreatePolicy, UpdatePolicy *struct{ Policy json.RawMessage }
			DeletePolicy               *struct{ Namespace, Name string }
		}
		State struct {
			Namespaces map[string]map[string]string
			Pods       []struct {
				Namespace, Name, IP string
				Labels              map[string]string
				Containers          []struct {
					PortName, Protocol string
					Port               uint16
				}
			}
			Policies []json.RawMessage
		}
		Expected []struct {
			Protocol                  string
			Port                      int
			PortName                  string
			Rows                      []string
			Combined, Ingress, Egress []string
		}
	}
}

// cluster is a set of pods on one node, with an identity for each label set.
type cluster struct {
	numbers   map[string]identity.ID
	endpoints map[string]uint16
}

func (c *cluster) number(in *Input, labels label.Set) identity.ID {
	id, ok := c.numbers[labels.Key()]
	if !ok {
		id = identity.MinAllocated + identity.ID(len(c.numbers))
		c.numbers[labels.Key()] = id
	}
	in.Identities[id] = labels
	return id
}

// podLabels are the labels of a pod's identity.
func podLabels(namespace string, labels, namespaceLabels map[string]string) label.Set {
	list := []label.Label{
		{Source: label.SourceK8s, Key: label.KeyNamespace, Value: namespace},
		{Source: label.SourceK8s, Key: label.KeyCluster, Value: "default"},
	}
	for k, v := range labels {
		list = append(list, label.Label{Source: label.SourceK8s, Key: k, Value: v})
	}
	for k, v := range namespaceLabels {
		list = append(list, label.Label{Source: label.SourceK8s, Key: label.PrefixNamespaceKey + k, Value: v})
	}
	return label.NewSet(list...)
}

// input is the state of a step; pods are known as namespace/name.
func (k *cyclonusCase) input(c *cluster, step int) (Input, map[string]netip.Addr) {
	state := &k.Steps[step].State
	in := Input{Identities: map[identity.ID]label.Set{}, Namespaces: state.Namespaces}
	addrs := map[string]netip.Addr{}
	for _, p := range state.Pods {
		name := p.Namespace + "/" + p.Name
		ep, ok := c.endpoints[name]
		if !ok {
			ep = uint16(len(c.endpoints) + 1)
			c.endpoints[name] = ep
		}
		labels := podLabels(p.Namespace, p.Labels, state.Namespaces[p.Namespace])
		id := c.number(&in, labels)
		addrs[name] = netip.MustParseAddr(p.IP)
		row := Address{Prefix: netip.PrefixFrom(addrs[name], 32), Identity: id, Flags: AddressPod}
		var ports []endpoint.Port
		for _, port := range p.Containers {
			ports = append(ports, endpoint.Port{Name: port.PortName, Number: port.Port, Protocol: protocolNumbers[port.Protocol]})
		}
		in.Addresses = append(in.Addresses, row)
		in.Subjects = append(in.Subjects, Subject{Endpoint: ep, Identity: id, Labels: labels, IPv4: row, Ports: ports})
	}
	return in, addrs
}

// policies carries out the actions of a step on the policies in force.
func (k *cyclonusCase) policies(t *testing.T, step int, have map[string]Object) []Object {
	for _, a := range k.Steps[step].Actions {
		for _, put := range []*struct{ Policy json.RawMessage }{a.CreatePolicy, a.UpdatePolicy} {
			if put != nil {
				o := decodeObject(t, put.Policy)
				have[o.Key()] = o
			}
		}
		if a.DeletePolicy != nil {
			delete(have, Object{Kind: KindNetworkPolicy, Namespace: a.DeletePolicy.Namespace, Name: a.DeletePolicy.Name}.Key())
		}
	}
	var out []Object
	for _, o := range have {
		out = append(out, o)
	}
	if len(out) != len(k.Steps[step].State.Policies) {
		t.Fatalf("case %d step %d: %d policies, the corpus has %d", k.ID, step, len(out), len(k.Steps[step].State.Policies))
	}
	return out
}

func TestNetworkPoliciesGetTheVerdictsOfTheCorpusStepByStep(t *testing.T) {
	s := &tally{}
	for _, file := range corpus(t, filepath.Join("cyclonus", "cases")) {
		var k cyclonusCase
		readJSON(t, file, &k)
		s.cases++
		wrong := s.wrong
		e, err := New(Options{}, NewState())
		if err != nil {
			t.Fatal(err)
		}
		kernel := NewState()
		c := &cluster{numbers: map[string]identity.ID{}, endpoints: map[string]uint16{}}
		have := map[string]Object{}
		for i := range k.Steps {
			in, addrs := k.input(c, i)
			in.Objects = k.policies(t, i, have)
			out := e.Update(in)
			if out.Err != nil {
				t.Fatalf("case %d: %v", k.ID, out.Err)
			}
			for _, op := range out.Ops {
				kernel.Apply(op)
			}
			k.compare(t, &kernel, i, c, addrs, s)
		}
		if s.wrong > wrong {
			s.files++
		}
	}
	t.Logf("cyclonus: %v", s)
}

// compare checks every pair of pods; row = source, column = destination.
func (k *cyclonusCase) compare(t *testing.T, kernel *State, step int, c *cluster, addrs map[string]netip.Addr, s *tally) {
	for _, x := range k.Steps[step].Expected {
		protocol := protocolNumbers[x.Protocol]
		for i, from := range x.Rows {
			for j, to := range x.Rows {
				if i == j {
					continue
				}
				out := kernel.Decide(c.endpoints[from], Egress, addrs[to], protocol, x.Port)
				in := kernel.Decide(c.endpoints[to], Ingress, addrs[from], protocol, x.Port)
				both := min(out.Verdict, in.Verdict)
				for name, v := range map[string]struct {
					want byte
					got  Verdict
				}{"egress": {x.Egress[i][j], out.Verdict}, "ingress": {x.Ingress[i][j], in.Verdict}, "both": {x.Combined[i][j], both}} {
					if v.want != '.' && v.want != 'X' {
						continue // no such port
					}
					s.verdicts++
					if got := "X."[v.got]; got != v.want {
						if s.wrong++; s.wrong <= 20 {
							t.Errorf("case %d (%s) step %d: %s %s/%d from %s to %s: want %c, got %c (%v %v)", k.ID, k.Description, step, name, x.Protocol, x.Port, from, to, v.want, got, out, in)
						}
					}
				}
			}
		}
	}
}
