// SPDX-License-Identifier: Apache-2.0

package corpus

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/policy"
)

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
			Rows                      []string
			Combined, Ingress, Egress []string
		}
	}
}

// Cyclonus reads a story, for a family of addresses (4 or 6).
func Cyclonus(file string, ipFamily int) (Case, error) {
	var k cyclonusCase
	if err := readJSON(file, &k); err != nil {
		return Case{}, err
	}
	r := &cyclonusReader{family: family(ipFamily), numbers: map[string]identity.ID{}, endpoints: map[string]uint16{}, have: map[string]policy.Object{}}
	out := Case{Name: fmt.Sprintf("case %d (%s)", k.ID, k.Description)}
	for i := range k.Steps {
		s, err := r.step(&k, i)
		if err != nil {
			return out, fmt.Errorf("%s: step %d: %w", file, i, err)
		}
		out.Situations = append(out.Situations, s)
	}
	return out, nil
}

// cyclonusReader keeps what goes on from step to step: numbers and policies.
type cyclonusReader struct {
	family    family
	numbers   map[string]identity.ID // by labels
	endpoints map[string]uint16      // by pod
	have      map[string]policy.Object
}

func (r *cyclonusReader) step(k *cyclonusCase, i int) (Situation, error) {
	step := &k.Steps[i]
	s := Situation{Input: policy.Input{Identities: map[identity.ID]label.Set{}, Namespaces: step.State.Namespaces}}
	place := map[string]int{}
	for _, p := range step.State.Pods {
		name := p.Namespace + "/" + p.Name
		if r.endpoints[name] == 0 {
			r.endpoints[name] = uint16(len(r.endpoints) + 1)
		}
		labels := podLabels(p.Namespace, p.Labels, step.State.Namespaces[p.Namespace])
		id, ok := r.numbers[labels.Key()]
		if !ok {
			id = identity.MinAllocated + identity.ID(len(r.numbers))
			r.numbers[labels.Key()] = id
		}
		ip, err := netip.ParseAddr(p.IP)
		if err != nil {
			return s, err
		}
		ip = r.family.addr(ip)
		row := policy.Address{Prefix: netip.PrefixFrom(ip, ip.BitLen()), Identity: id}
		subject := policy.Subject{Endpoint: r.endpoints[name], Identity: id, Labels: labels}
		for _, c := range p.Containers {
			subject.Ports = append(subject.Ports, endpoint.Port{Name: c.PortName, Number: c.Port, Protocol: protocols[c.Protocol]})
		}
		own(&subject, row)
		s.Input.Identities[id] = labels
		s.Input.Addresses = append(s.Input.Addresses, row)
		s.Input.Subjects = append(s.Input.Subjects, subject)
		place[name] = len(s.Ends)
		s.Ends = append(s.Ends, End{Name: name, Addr: ip, Endpoint: subject.Endpoint, Identity: id})
	}
	if err := r.policies(k, i, &s); err != nil {
		return s, err
	}
	for _, x := range step.Expected {
		for row, from := range x.Rows {
			for column, to := range x.Rows {
				c := Connection{From: place[from], To: place[to], Protocol: protocols[x.Protocol], Port: x.Port,
					Egress: verdict(x.Egress[row][column]), Ingress: verdict(x.Ingress[row][column]), Combined: verdict(x.Combined[row][column])}
				if row != column && (c.Egress != 0 || c.Ingress != 0 || c.Combined != 0) {
					s.Connections = append(s.Connections, c)
				}
			}
		}
	}
	return s, nil
}

// verdict keeps only verdicts: other letters say that there is no such port.
func verdict(letter byte) byte {
	if letter == Allowed || letter == Denied {
		return letter
	}
	return 0
}

// policies carries out the actions of a step.
func (r *cyclonusReader) policies(k *cyclonusCase, i int, s *Situation) error {
	step := &k.Steps[i]
	for _, a := range step.Actions {
		for _, put := range []*struct{ Policy json.RawMessage }{a.CreatePolicy, a.UpdatePolicy} {
			if put != nil {
				o, err := object(r.family.rewrite(put.Policy))
				if err != nil {
					return err
				}
				r.have[o.Key()] = o
			}
		}
		if a.DeletePolicy != nil {
			delete(r.have, policy.Object{Kind: policy.KindNetworkPolicy, Namespace: a.DeletePolicy.Namespace, Name: a.DeletePolicy.Name}.Key())
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.have)) {
		s.Input.Objects = append(s.Input.Objects, r.have[key])
	}
	if len(s.Input.Objects) != len(step.State.Policies) {
		return fmt.Errorf("%d policies, the corpus has %d", len(s.Input.Objects), len(step.State.Policies))
	}
	return nil
}
