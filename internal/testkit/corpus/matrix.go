// SPDX-License-Identifier: Apache-2.0

package corpus

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/policy"
)

type matrixCase struct {
	Namespace  string
	Policy     json.RawMessage
	Policies   []json.RawMessage
	NamedPorts map[string]uint16
	Entities   []struct {
		Name   string
		ID     identity.ID
		Labels []string
		CIDR   string
		Subj   bool
	}
	Matrices []struct {
		Proto  string
		Port   int
		Eg, In []string
	}
}

// Deviates tells whether a file of real/ has a NetworkPolicy whose ipBlock
// holds the addresses of pods. The corpus was judged with prefixes that never
// match pods; in a NetworkPolicy they do.
func Deviates(file string) bool {
	switch filepath.Base(file) {
	case "JJGadgets+Biohazard__.taskfiles__k8s__template__iperf2__client.yaml.0.json",
		"JJGadgets+Biohazard__.taskfiles__k8s__template__iperf2__server.yaml.0.json":
		return true
	}
	return false
}

// Matrix reads a file of random/ or real/, for a family of addresses (4 or 6).
// Prefixes of the other family are left out.
func Matrix(file string, ipFamily int) (Case, error) {
	var m matrixCase
	if err := readJSON(file, &m); err != nil {
		return Case{}, err
	}
	out := Case{Name: filepath.Base(file), Options: policy.Options{
		AllowLocalhost: policy.LocalhostPolicy,
		Carry:          policy.Carry{HTTP: policy.Redirected, DNS: policy.Redirected, TLS: policy.Redirected, Listener: policy.Redirected, Kafka: policy.Ignored, L7Proto: policy.Ignored, Authentication: policy.Ignored},
	}}
	r := &matrixReader{matrixCase: &m, family: family(ipFamily)}
	s := Situation{Input: policy.Input{Identities: map[identity.ID]label.Set{}, Ports: map[netip.Addr][]endpoint.Port{}}}
	r.ends(&s)
	for _, raw := range append(m.Policies, m.Policy) {
		if raw == nil {
			continue
		}
		o, err := object(r.family.rewrite(raw))
		if err != nil {
			return out, fmt.Errorf("%s: %w", file, err)
		}
		if o.Namespace == "" {
			o.Namespace = m.Namespace
		}
		o.Name = fmt.Sprint(o.Name, "-", len(s.Input.Objects))
		s.Input.Objects = append(s.Input.Objects, o)
	}
	r.connections(&s)
	out.Situations = []Situation{s}
	return out, nil
}

type matrixReader struct {
	*matrixCase
	family   family
	subjects []int // of Ends
	taken    []netip.Prefix
}

// swapped exchanges the worlds of the two families.
func (r *matrixReader) swapped(id identity.ID, labels []string) (identity.ID, []string) {
	if r.family == 4 {
		return id, labels
	}
	switch id {
	case identity.WorldIPv4:
		id = identity.WorldIPv6
	case identity.WorldIPv6:
		id = identity.WorldIPv4
	}
	out := make([]string, len(labels))
	for i, l := range labels {
		out[i] = strings.NewReplacer("reserved:world-ipv4", "reserved:world-ipv6", "reserved:world-ipv6", "reserved:world-ipv4").Replace(l)
	}
	return id, out
}

// ends places the entities: pods, nodes and prefixes get addresses.
func (r *matrixReader) ends(s *Situation) {
	var ports []endpoint.Port
	for name, number := range r.NamedPorts {
		port, protocol, _ := strings.Cut(name, "/")
		ports = append(ports, endpoint.Port{Name: port, Number: number, Protocol: protocols[protocol]})
	}
	for _, e := range r.Entities {
		if e.CIDR != "" {
			r.taken = append(r.taken, r.family.prefix(netip.MustParsePrefix(e.CIDR)))
		}
	}
	for i, e := range r.Entities {
		id, labels := r.swapped(e.ID, e.Labels)
		end := End{Name: e.Name, Identity: id, Addr: r.family.addr(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i + 1)}))}
		switch {
		case e.CIDR != "":
			end.Addr = inside(r.family.prefix(netip.MustParsePrefix(e.CIDR)), r.taken)
		case id == identity.World:
			end.Addr = netip.Addr{} // the world of no family, in which no prefix is
		case id == identity.WorldIPv4 && r.family == 6, id == identity.WorldIPv6 && r.family == 4:
			end.Addr = r.other(i)
		}
		s.Ends = append(s.Ends, end)
		if e.CIDR != "" {
			continue
		}
		set := label.ParseSet(labels)
		s.Input.Identities[id] = set
		if !end.Addr.IsValid() {
			continue
		}
		row := policy.Address{Prefix: netip.PrefixFrom(end.Addr, end.Addr.BitLen()), Identity: id}
		s.Input.Addresses = append(s.Input.Addresses, row)
		if e.Subj {
			at := len(s.Ends) - 1
			r.subjects = append(r.subjects, at)
			s.Ends[at].Endpoint = uint16(len(r.subjects))
			subject := policy.Subject{Endpoint: s.Ends[at].Endpoint, Identity: id, Labels: set, Ports: ports}
			own(&subject, row)
			s.Input.Subjects = append(s.Input.Subjects, subject)
		}
	}
}

// other is an address of the family that the case is not about.
func (r *matrixReader) other(i int) netip.Addr {
	if r.family == 4 {
		return family(6).addr(netip.AddrFrom4([4]byte{198, 19, byte(i >> 8), byte(i + 1)}))
	}
	return netip.AddrFrom4([4]byte{198, 19, byte(i >> 8), byte(i + 1)})
}

// inside finds an address of a prefix that is in none of the narrower ones.
func inside(p netip.Prefix, taken []netip.Prefix) netip.Addr {
	for a := p.Addr(); p.Contains(a); a = a.Next() {
		free := true
		for _, q := range taken {
			if q.Bits() > p.Bits() && q.Contains(a) {
				free = false
			}
		}
		if free {
			return a
		}
	}
	return netip.Addr{}
}

func (r *matrixReader) connections(s *Situation) {
	for _, m := range r.Matrices {
		for row, own := range r.subjects {
			for other := range s.Ends {
				out := Connection{From: own, To: other, Protocol: protocols[m.Proto], Port: m.Port, Egress: m.Eg[row][other]}
				in := Connection{From: other, To: own, Protocol: protocols[m.Proto], Port: m.Port, Ingress: m.In[row][other]}
				s.Connections = append(s.Connections, out, in)
			}
		}
	}
}
