// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

var update = flag.Bool("update", false, "write what the stories gave into their files")

// story is a file of sections, step by step: N/pods, N/policies and N/options
// go in, N/verdicts, N/status, N/sets and N/steps are what must come out. A
// section holds until a later step gives it again. testdata/stories/README.md
// describes the lines.
type story struct {
	t       *testing.T
	archive *txtar.Archive
	opts    Options
	engine  *Engine
	why     *Explainer
	kernel  State
	pods    string
	yaml    string
	named   string // YAML of what policies name
	numbers map[string]identity.ID
	names   map[string]netip.Addr // pod -> first address
	local   map[string]uint16
}

func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/stories/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for range 5 { // the same steps every time
				s := &story{t: t, archive: a, kernel: NewState(), numbers: map[string]identity.ID{}}
				s.run()
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func (s *story) section(step int, name string) *txtar.File {
	want := fmt.Sprintf("%d/%s", step, name)
	for i := range s.archive.Files {
		if s.archive.Files[i].Name == want {
			return &s.archive.Files[i]
		}
	}
	return nil
}

func (s *story) has(step int) bool {
	return bytes.Contains(txtar.Format(s.archive), []byte(fmt.Sprintf("-- %d/", step)))
}

func (s *story) run() {
	for step := 1; s.has(step); step++ {
		for name, into := range map[string]*string{"pods": &s.pods, "policies": &s.yaml, "named": &s.named} {
			if f := s.section(step, name); f != nil {
				*into = string(f.Data)
			}
		}
		if f := s.section(step, "options"); f != nil || s.engine == nil {
			s.restart(f)
		}
		in := s.input()
		out := s.engine.Update(in)
		for _, op := range out.Ops {
			s.kernel.Apply(op)
		}
		s.why = out.Explainer
		if out.Err != nil {
			s.t.Errorf("step %d: %v", step, out.Err)
		}
		s.golden(step, "status", s.status(out))
		s.golden(step, "verdicts", s.verdicts(step))
		s.golden(step, "sets", s.sets())
		s.golden(step, "steps", describe(out.Ops))
	}
}

func (s *story) restart(f *txtar.File) {
	if f != nil {
		s.opts = Options{}
		for _, line := range lines(string(f.Data)) {
			key, value, _ := strings.Cut(line, "=")
			switch key {
			case "enable-policy":
				s.opts.Enforcement = value
			case "allow-localhost":
				s.opts.AllowLocalhost = value
			case "proxy":
				c := &s.opts.Carry
				c.HTTP, c.DNS, c.TLS, c.Listener = Redirected, Redirected, Redirected, Redirected
			case "policy-cidr-match-mode":
				s.opts.CIDRMatchNodes, s.opts.CIDRMatchPods = strings.Contains(value, "nodes"), strings.Contains(value, "pods")
			case "policy-audit-mode":
				s.opts.Audit = value == "true"
			case "enable-node-selector-labels":
				s.opts.NodeLabels = value == "true"
			case "ipv6":
				s.opts.IPv4, s.opts.IPv6 = true, value != "false"
			default:
				s.t.Fatalf("option %q", line)
			}
		}
	}
	e, err := New(s.opts, s.kernel)
	if err != nil {
		s.t.Fatal(err)
	}
	s.engine = e
}

func lines(text string) (out []string) {
	for _, l := range strings.Split(text, "\n") {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
			out = append(out, l)
		}
	}
	return out
}

// input reads the pods: "ENDPOINT NAMESPACE/NAME ADDRESS... KEY=VALUE... PORTNAME:NUMBER/PROTOCOL...";
// endpoint "-" is on another node. "identity N ADDRESS LABEL..." is somebody else.
func (s *story) input() Input {
	in := Input{Identities: identity.Reserved(), Ports: map[netip.Addr][]endpoint.Port{}}
	s.names, s.local = map[string]netip.Addr{}, map[string]uint16{}
	for _, line := range lines(s.pods) {
		words := strings.Fields(line)
		if words[0] == "identity" {
			n, _ := strconv.Atoi(words[1])
			if len(words) > 3 {
				in.Identities[identity.ID(n)] = label.ParseSet(words[3:])
			}
			in.Addresses = append(in.Addresses, Address{Prefix: netip.MustParsePrefix(words[2]), Identity: identity.ID(n)})
			continue
		}
		s.pod(&in, words)
	}
	for _, doc := range documents(s.yaml) {
		in.Objects = append(in.Objects, decodeObject(s.t, doc))
	}
	in.References = s.references()
	return in
}

// documents are the YAML documents of a section, as JSON.
func documents(text string) (out []json.RawMessage) {
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		var doc rawJSON
		if err := decoder.Decode(&doc); err != nil {
			return out
		}
		if len(doc) > 0 && string(doc) != "null" {
			out = append(out, json.RawMessage(doc))
		}
	}
}

// references reads the groups, the Services and their EndpointSlices.
func (s *story) references() *References {
	var groups []Group
	services := map[string]*Service{}
	backends := map[string][]netip.Addr{}
	for _, doc := range documents(s.named) {
		var head struct{ Kind string }
		group, svc, slice := ciliumv2.CiliumCIDRGroup{}, corev1.Service{}, discoveryv1.EndpointSlice{}
		into := map[string]any{"CiliumCIDRGroup": &group, "Service": &svc, "EndpointSlice": &slice}
		if err := json.Unmarshal(doc, &head); err != nil || into[head.Kind] == nil {
			s.t.Fatalf("%s: %v", doc, err)
		}
		if err := json.Unmarshal(doc, into[head.Kind]); err != nil {
			s.t.Fatal(err)
		}
		switch head.Kind {
		case "CiliumCIDRGroup":
			g := Group{Name: group.Name, Labels: group.Labels}
			for _, c := range group.Spec.ExternalCIDRs {
				g.CIDRs = append(g.CIDRs, string(c))
			}
			groups = append(groups, g)
		case "Service":
			services[svc.Namespace+"/"+svc.Name] = &Service{Namespace: svc.Namespace, Name: svc.Name, Labels: svc.Labels, Selector: svc.Spec.Selector}
		case "EndpointSlice":
			key := slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]
			for _, e := range slice.Endpoints {
				for _, a := range e.Addresses {
					backends[key] = append(backends[key], netip.MustParseAddr(a))
				}
			}
		}
	}
	var list []Service
	for _, k := range sortedKeys(services) {
		services[k].Backends = backends[k]
		list = append(list, *services[k])
	}
	return NewReferences(groups, list)
}

// rawJSON keeps a document as it is.
type rawJSON []byte

func (r *rawJSON) UnmarshalJSON(b []byte) error { *r = append((*r)[:0], b...); return nil }

func (s *story) pod(in *Input, words []string) {
	namespace, _, _ := strings.Cut(words[1], "/")
	own, names := map[string]string{}, map[string]string{"kubernetes.io/metadata.name": namespace}
	var addrs []Address
	var ports []endpoint.Port
	audit := false
	for _, w := range words[2:] {
		if a, err := netip.ParseAddr(w); err == nil {
			addrs = append(addrs, Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Flags: AddressPod})
		} else if k, v, ok := strings.Cut(w, "="); ok {
			if key, isNamespace := strings.CutPrefix(k, "ns."); isNamespace {
				names[key] = v
			} else {
				own[k] = v
			}
		} else if name, rest, ok := strings.Cut(w, ":"); ok {
			number, protocol, _ := strings.Cut(rest, "/")
			n, _ := strconv.Atoi(number)
			ports = append(ports, endpoint.Port{Name: name, Number: uint16(n), Protocol: protocolNumbers[strings.ToUpper(protocol)]})
		} else if w == "audit" {
			audit = true
		} else {
			s.t.Fatalf("pod %q: %q", words[1], w)
		}
	}
	labels := podLabels(namespace, own, names)
	id, ok := s.numbers[labels.Key()]
	if !ok {
		id = 1001 + identity.ID(len(s.numbers))
		s.numbers[labels.Key()] = id
	}
	in.Identities[id] = labels
	subject := Subject{Identity: id, Labels: labels, Ports: ports, Audit: audit}
	for _, a := range addrs {
		a.Identity = id
		in.Addresses = append(in.Addresses, a)
		if in.Ports[a.Prefix.Addr()] = ports; a.Prefix.Addr().Is4() {
			subject.IPv4 = a
		} else {
			subject.IPv6 = a
		}
	}
	s.names[words[1]] = addrs[0].Prefix.Addr()
	if n, err := strconv.Atoi(words[0]); err == nil {
		subject.Endpoint = uint16(n)
		s.local[words[1]] = subject.Endpoint
		in.Subjects = append(in.Subjects, subject)
	}
}

// verdicts judges the lines "egress red/web 10.0.0.1 tcp/80" of the section.
func (s *story) verdicts(step int) string {
	f := s.section(step, "verdicts")
	if f == nil {
		return ""
	}
	var b strings.Builder
	for _, line := range lines(string(f.Data)) {
		left, _, _ := strings.Cut(line, " = ")
		words := strings.Fields(left)
		if len(words) != 4 {
			s.t.Fatalf("verdict %q", line)
		}
		fmt.Fprintf(&b, "%s = %s\n", strings.TrimSpace(left), s.verdict(words))
	}
	return b.String()
}

func (s *story) verdict(words []string) string {
	q := Question{Endpoint: s.local[words[1]]}
	if words[0] == "ingress" {
		q.Direction = Ingress
	}
	if a, ok := s.names[words[2]]; ok {
		q.Peer = a
	} else {
		q.Peer = netip.MustParseAddr(words[2])
	}
	protocol, port, some := strings.Cut(words[3], "/")
	number, ok := protocolNumbers[strings.ToUpper(protocol)]
	if !ok {
		n, err := strconv.Atoi(protocol)
		if err != nil {
			s.t.Fatalf("protocol %q", protocol)
		}
		number = uint8(n)
	}
	q.Protocol, q.Port = number, -1
	if some {
		q.Port, _ = strconv.Atoi(port)
	}
	d := s.kernel.Decide(q.Endpoint, q.Direction, q.Peer, q.Protocol, q.Port)
	a, err := s.why.Explain(q)
	if err != nil || a.Verdict != d.Verdict {
		s.t.Errorf("%v: the kernel says %v, the explanation %+v (%v)", words, d, a, err)
	}
	why := a.Why()
	for _, n := range a.Near {
		why += fmt.Sprintf("; near: %v, but %s", n.Origin, strings.Join(n.Missing, ", "))
	}
	return why
}

func (s *story) status(out Outcome) string {
	var b strings.Builder
	for _, o := range out.Objects {
		fmt.Fprintf(&b, "%s valid=%t %s\n", o.Key, o.Valid, o.Reason)
	}
	return b.String()
}

func (s *story) sets() string {
	var b strings.Builder
	for _, n := range sortedKeys(s.kernel.Sets) {
		for _, r := range s.kernel.Sets[n] {
			fmt.Fprintf(&b, "set %d row %d: protocol %d port %d/%d -> %s\n", n, r.Row, r.Protocol, r.Port, r.PortBits, [...]string{"deny", "allow", "redirect", "audit"}[r.Verdict])
		}
	}
	return b.String()
}

// describe writes steps, one in a line.
func describe(ops []Op) string {
	var b strings.Builder
	for _, op := range ops {
		switch o := op.(type) {
		case WriteClass:
			cells := ""
			for slot, set := range o.Row {
				if set != 0 {
					cells += fmt.Sprintf(" %d:%d", slot, set)
				}
			}
			fmt.Fprintf(&b, "class %d =%s\n", o.Class, cells)
		case WriteSet:
			fmt.Fprintf(&b, "set %d = %d rows\n", o.Set, len(o.Rows))
		case DeleteSet:
			fmt.Fprintf(&b, "delete set %d\n", o.Set)
		case SetPeer:
			fmt.Fprintf(&b, "peer %d -> class %d\n", o.Peer, o.Class)
		case SetCell:
			fmt.Fprintf(&b, "class %d slot %d -> set %d\n", o.Class, o.Slot, o.Set)
		case SetIdentityPeer:
			fmt.Fprintf(&b, "identity %d -> peer %d\n", o.Identity, o.Peer)
		case DeleteIdentityPeer:
			fmt.Fprintf(&b, "delete identity %d\n", o.Identity)
		case PutAddress:
			fmt.Fprintf(&b, "address %v -> identity %d peer %d\n", o.Prefix, o.Entry.Identity, o.Entry.Peer)
		case DeleteAddress:
			fmt.Fprintf(&b, "delete address %v\n", o.Prefix)
		case SetEndpoint:
			fmt.Fprintf(&b, "endpoint %d -> identity %d peers %d %d slots %d %d\n", o.Endpoint, o.Row.Identity, o.Row.Peer4, o.Row.Peer6, o.Row.Egress, o.Row.Ingress)
		case BumpEndpoint:
			fmt.Fprintf(&b, "bump endpoint %d\n", o.Endpoint)
		case BumpPeer:
			fmt.Fprintf(&b, "bump %v\n", o.Addr)
		case BumpPeers:
			fmt.Fprintf(&b, "bump all peers\n")
		case Grace:
			fmt.Fprintf(&b, "grace\n")
		}
	}
	return b.String()
}

// golden compares a section that the story has with what came out.
func (s *story) golden(step int, name, got string) {
	f := s.section(step, name)
	if f == nil {
		return
	}
	if *update {
		f.Data = []byte(got)
		return
	}
	if strings.TrimSpace(string(f.Data)) != strings.TrimSpace(got) {
		s.t.Errorf("step %d, %s:\n%s\nwant:\n%s", step, name, got, f.Data)
	}
}
