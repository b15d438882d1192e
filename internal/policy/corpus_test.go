// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	npa "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// corpus finds a folder of verdicts: in the folder that STENTOR_POLICY_CORPUS
// names, or in ../shared/data/policy beside the checkout.
func corpus(t testing.TB, name string) []string {
	t.Helper()
	dir := os.Getenv("STENTOR_POLICY_CORPUS")
	if dir == "" {
		at, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		for {
			dir = filepath.Join(at, "shared", "data", "policy")
			if _, err := os.Stat(dir); err == nil {
				break
			}
			up := filepath.Dir(at)
			if up == at {
				t.Skip("no verdict corpora: neither STENTOR_POLICY_CORPUS nor shared/data/policy beside the checkout")
			}
			at = up
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, name, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skipf("no verdict corpus %s in %s", name, dir)
	}
	return files
}

func readJSON(t testing.TB, file string, into any) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// decodeObject turns the JSON of an object into a policy object.
func decodeObject(t testing.TB, raw json.RawMessage) Object {
	t.Helper()
	var head struct {
		Kind     Kind
		Metadata struct {
			Name, Namespace string
			Annotations     map[string]string
		}
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		t.Fatal(err)
	}
	if head.Kind == "" {
		head.Kind = KindNetworkPolicy // some of cyclonus leave it out
	}
	o := Object{Kind: head.Kind, Namespace: head.Metadata.Namespace, Name: head.Metadata.Name,
		Audit: head.Metadata.Annotations[AnnotationAudit] == "true"}
	var err error
	switch head.Kind {
	case KindNetworkPolicy:
		spec := &networkingv1.NetworkPolicy{}
		err, o.Spec = json.Unmarshal(raw, spec), spec
	case KindCiliumNetworkPolicy:
		spec := &ciliumv2.CiliumNetworkPolicy{}
		err, o.Spec = json.Unmarshal(raw, spec), spec
	case KindCiliumClusterwideNetworkPolicy:
		spec := &ciliumv2.CiliumClusterwideNetworkPolicy{}
		err, o.Spec = json.Unmarshal(raw, spec), spec
	case KindClusterNetworkPolicy:
		spec := &npa.ClusterNetworkPolicy{}
		err, o.Spec = json.Unmarshal(raw, spec), spec
	default:
		err = fmt.Errorf("kind %q", head.Kind)
	}
	if err != nil {
		o.Spec, o.Err = nil, err.Error()
	}
	return o
}

// tally counts what a corpus test saw.
type tally struct{ cases, verdicts, wrong, files, deviations int }

func (s *tally) String() string {
	return fmt.Sprintf("cases %d, verdicts %d, differences %d in %d cases, named deviations %d", s.cases, s.verdicts, s.wrong, s.files, s.deviations)
}

var protocolNumbers = map[string]uint8{"TCP": protoTCP, "UDP": protoUDP, "SCTP": protoSCTP, "ICMP": protoICMP}

// ipBlocksOverPods are NetworkPolicies with an ipBlock that holds the addresses
// of pods. The corpus was judged with prefixes that never match pods; in a
// NetworkPolicy they do.
var ipBlocksOverPods = map[string]bool{
	"JJGadgets+Biohazard__.taskfiles__k8s__template__iperf2__client.yaml.0.json": true,
	"JJGadgets+Biohazard__.taskfiles__k8s__template__iperf2__server.yaml.0.json": true,
}

// matrixCase is a file of random/ or real/.
type matrixCase struct {
	File       string
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

// world places the entities of a case: pods, nodes and prefixes get addresses.
type world struct {
	in    Input
	addrs []netip.Addr // by entity
	eps   []uint16     // by subject row
}

func (m *matrixCase) world(t testing.TB) *world {
	w := &world{in: Input{Identities: map[identity.ID]label.Set{}, Ports: map[netip.Addr][]endpoint.Port{}}}
	var ports []endpoint.Port
	for name, number := range m.NamedPorts {
		port, protocol, _ := strings.Cut(name, "/")
		ports = append(ports, endpoint.Port{Name: port, Number: number, Protocol: protocolNumbers[protocol]})
	}
	var taken []netip.Prefix
	for _, e := range m.Entities {
		if e.CIDR != "" {
			taken = append(taken, netip.MustParsePrefix(e.CIDR))
		}
	}
	for i, e := range m.Entities {
		a := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i + 1)})
		switch {
		case e.CIDR != "":
			a = inside(netip.MustParsePrefix(e.CIDR), taken)
		case e.ID == identity.World:
			a = netip.Addr{} // the world of no family, in which no prefix is
		}
		w.addrs = append(w.addrs, a)
		if e.CIDR != "" {
			continue
		}
		labels := label.ParseSet(e.Labels)
		w.in.Identities[e.ID] = labels
		if e.ID == identity.World {
			continue
		}
		row := Address{Prefix: netip.PrefixFrom(a, 32), Identity: e.ID}
		w.in.Addresses = append(w.in.Addresses, row)
		if e.Subj {
			id := uint16(len(w.eps) + 1)
			w.eps = append(w.eps, id)
			w.in.Subjects = append(w.in.Subjects, Subject{Endpoint: id, Identity: e.ID, Labels: labels, IPv4: row, Ports: ports})
		}
	}
	for _, raw := range append(m.Policies, m.Policy) {
		if raw != nil {
			o := decodeObject(t, raw)
			if o.Namespace == "" {
				o.Namespace = m.Namespace
			}
			o.Name = fmt.Sprint(o.Name, "-", len(w.in.Objects))
			w.in.Objects = append(w.in.Objects, o)
		}
	}
	return w
}

// inside finds an address of a prefix that is in none of the narrower ones.
func inside(p netip.Prefix, taken []netip.Prefix) netip.Addr {
	a := p.Addr()
	for ; p.Contains(a); a = a.Next() {
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
	panic("no address left in " + p.String())
}

func (m *matrixCase) check(t *testing.T, name string, s *tally) {
	w := m.world(t)
	e, err := New(Options{AllowLocalhost: LocalhostPolicy, Carry: Carry{Proxy: Redirected, Kafka: Ignored, L7Proto: Ignored, Authentication: Ignored}}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	out := e.Update(w.in)
	if out.Err != nil {
		t.Errorf("%s: %v", name, out.Err)
	}
	kernel := NewState()
	for _, op := range out.Ops {
		kernel.Apply(op)
	}
	s.cases++
	wrong := 0
	for _, matrix := range m.Matrices {
		for d, rows := range [][]string{Egress: matrix.Eg, Ingress: matrix.In} {
			for i, row := range rows {
				for j, want := range row {
					s.verdicts++
					protocol := protocolNumbers[matrix.Proto]
					got := kernel.Decide(w.eps[i], Direction(d), w.addrs[j], protocol, matrix.Port)
					if !w.addrs[j].IsValid() {
						got = kernel.DecidePeer(w.eps[i], Direction(d), kernel.IdentityPeer[m.Entities[j].ID], protocol, matrix.Port)
					}
					if letter := "X.LA"[got.Verdict]; rune(letter) != want {
						if ipBlocksOverPods[name] && letter == '.' {
							s.deviations++
							continue
						}
						if wrong++; wrong <= 3 {
							t.Errorf("%s: %s %s/%d of %s with %s: want %c, got %c (%v) %v", name, []string{"egress", "ingress"}[d], matrix.Proto, matrix.Port,
								m.Entities[i].Name, m.Entities[j].Name, want, letter, got, out.Objects)
						}
					}
				}
			}
		}
	}
	if wrong > 0 {
		s.wrong += wrong
		s.files++
	}
}

func testMatrices(t *testing.T, name string) {
	s := &tally{}
	for _, file := range corpus(t, name) {
		var m matrixCase
		readJSON(t, file, &m)
		m.check(t, filepath.Base(file), s)
	}
	t.Logf("%s: %v", name, s)
}

func TestRandomPoliciesGetTheVerdictsOfTheCorpus(t *testing.T) { testMatrices(t, "random") }

func TestPublishedPoliciesGetTheVerdictsOfTheCorpus(t *testing.T) { testMatrices(t, "real") }
