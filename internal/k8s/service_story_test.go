// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// TestStoriesOfServices plays testdata/services/*.txtar: objects as kubectl takes
// them, and the frontends that follow. A story is a list of steps:
//
//	-- place --  this node, from here on
//	-- put --    objects, separated by ---
//	-- delete -- kind namespace/name, one a line
//	-- want --   frontends, problems
//
// At every `want` the objects are also played in other orders; the result must be
// the same. STENTOR_UPDATE=1 writes what is there into `want`.
func TestStoriesOfServices(t *testing.T) {
	files, err := filepath.Glob("testdata/services/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { playStory(t, file) })
	}
}

func playStory(t *testing.T, file string) {
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := newStory()
	wants := 0
	for i, f := range a.Files {
		switch f.Name {
		case "place":
			s.place(t, f.Data)
		case "put":
			for _, doc := range bytes.Split(f.Data, []byte("\n---\n")) {
				s.put(t, doc)
			}
		case "delete":
			for _, line := range strings.Fields(strings.ReplaceAll(string(f.Data), " ", "/")) {
				s.delete(t, line)
			}
		case "want":
			wants++
			s.take()
			got := s.shown(s.balance)
			if os.Getenv("STENTOR_UPDATE") != "" {
				a.Files[i].Data = []byte(got)
			} else if d := cmp.Diff(string(f.Data), got); d != "" {
				t.Errorf("step %d (-want +got):\n%s", i+1, d)
			}
			s.otherOrders(t, got)
		default:
			t.Fatalf("step %d: %q is no kind of step", i+1, f.Name)
		}
	}
	if wants == 0 {
		t.Error("nothing is wanted")
	}
	if os.Getenv("STENTOR_UPDATE") != "" {
		if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// story is a world of objects, with what follows from them.
type story struct {
	services *table.Writer[service.Service]
	slices   *table.Writer[service.Slice]
	pods     *table.Writer[endpoint.Pod]
	policies *table.Writer[service.Redirect]
	at       service.Place
	balance  *service.Balance
	told     map[string]service.Frontend // as the changes told
}

func newStory() *story {
	s := &story{balance: service.NewBalance(), told: map[string]service.Frontend{}}
	_, s.services = service.NewServiceTable()
	_, s.slices = service.NewSliceTable()
	_, s.pods = endpoint.NewPodTable()
	_, s.policies = service.NewRedirectTable()
	return s
}

func (s *story) place(t *testing.T, data []byte) {
	t.Helper()
	var p struct {
		Node, Zone, Algorithm, Mode, Proxy           string
		Labels                                       map[string]string
		Addresses, PodRanges, Nodes, Redirects       []string
		APIServers                                   []netip.AddrPort
		Partial, ExternalClusterIP, RangesForAll, V4 bool
		Tunnel                                       bool
	}
	if err := yaml.UnmarshalStrict(data, &p); err != nil {
		t.Fatal(err)
	}
	s.at = service.Place{Node: p.Node, Zone: p.Zone, Labels: p.Labels, IPv4: true, IPv6: !p.V4, AllKinds: !p.Partial, Topology: true,
		ExternalClusterIP: p.ExternalClusterIP, RangesForAll: p.RangesForAll, ProxyName: p.Proxy, Algorithm: service.Algorithm(p.Algorithm), Forwarding: p.Mode, Tunnel: p.Tunnel}
	for _, text := range p.Addresses {
		s.at.Addresses = append(s.at.Addresses, netip.MustParseAddr(text))
	}
	s.at.NodePort = s.at.Addresses
	s.at.Around = service.Around{APIServers: p.APIServers, NodePorts: []uint16{10250}, PortMin: 30000, PortMax: 32767}
	for _, text := range p.PodRanges {
		s.at.Around.PodRanges = append(s.at.Around.PodRanges, netip.MustParsePrefix(text))
	}
	for _, text := range p.Nodes {
		s.at.Around.Nodes = append(s.at.Around.Nodes, netip.MustParseAddr(text))
	}
	for _, text := range p.Redirects {
		s.at.RedirectRanges = append(s.at.RedirectRanges, netip.MustParsePrefix(text))
	}
	for key := range s.services.Table().Snapshot().All() {
		s.follow(key)
	}
	for key := range s.pods.Table().Snapshot().All() {
		s.follow("pod/" + key)
	}
	s.followRedirects()
}

// followRedirects derives all of them again: from a change of a pod or Service.
func (s *story) followRedirects() {
	for key := range s.policies.Table().Snapshot().All() {
		s.follow("lrp/" + key)
	}
}

func (s *story) put(t *testing.T, doc []byte) {
	t.Helper()
	var kind struct{ Kind string }
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	read := func(into any) {
		t.Helper()
		if err := yaml.UnmarshalStrict(doc, into); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
	}
	switch kind.Kind {
	case "Service":
		var o corev1.Service
		read(&o)
		row := ServiceRow(&o)
		s.services.Upsert(row)
		s.follow(row.Key())
	case "EndpointSlice":
		var o discoveryv1.EndpointSlice
		read(&o)
		if row, ok := SliceRow(&o); ok {
			s.slices.Upsert(row)
			s.follow(row.Namespace + "/" + row.Service)
		}
	case "Pod":
		var o corev1.Pod
		read(&o)
		row := PodRow(&o)
		s.pods.Upsert(row)
		s.follow("pod/" + row.Key())
	case "CiliumLocalRedirectPolicy":
		var o ciliumv2.CiliumLocalRedirectPolicy
		read(&o)
		row := service.ReadRedirect(&o)
		s.policies.Upsert(row)
		s.follow("lrp/" + row.Key())
	default:
		t.Fatalf("kind %q", kind.Kind)
	}
	s.followRedirects()
}

func (s *story) delete(t *testing.T, name string) {
	t.Helper()
	kind, key, _ := strings.Cut(name, "/")
	switch kind {
	case "Service":
		s.services.Delete(key)
		s.follow(key)
	case "EndpointSlice":
		row, ok := s.slices.Table().Get(key)
		if !ok {
			t.Fatalf("no EndpointSlice %s", key)
		}
		s.slices.Delete(key)
		s.follow(row.Namespace + "/" + row.Service)
	case "Pod":
		s.pods.Delete(key)
		s.follow("pod/" + key)
	case "CiliumLocalRedirectPolicy":
		s.policies.Delete(key)
		s.follow("lrp/" + key)
	default:
		t.Fatalf("delete %q", name)
	}
	s.followRedirects()
}

func (s *story) follow(owner string) { s.derive(s.balance, owner) }

// derive is what the agent does for a changed owner.
func (s *story) derive(b *service.Balance, owner string) {
	var d service.Derived
	if pod, ok := strings.CutPrefix(owner, "pod/"); ok {
		if p, ok := s.pods.Table().Get(pod); ok && len(p.HostPorts) > 0 {
			d = service.OfPod(p, s.at)
		}
	} else if policy, ok := strings.CutPrefix(owner, "lrp/"); ok {
		if r, ok := s.policies.Table().Get(policy); ok {
			d = s.redirect(r)
		}
	} else if row, ok := s.services.Table().Get(owner); ok {
		d = service.Of(row, s.slices.Table().Snapshot(), s.at)
	}
	b.Set(owner, d)
}

// redirect derives a redirect; the namespace of a pod has the number that its
// annotation stentor.io/netns says.
func (s *story) redirect(r service.Redirect) service.Derived {
	var named *service.Service
	if row, ok := s.services.Table().Get(r.ServiceKey()); ok {
		named = &row
	}
	var pods []service.LocalPod
	for _, p := range s.pods.Table().Snapshot().All() {
		if p.NodeName == s.at.Node {
			number, _ := strconv.ParseUint(p.Annotations["stentor.io/netns"], 10, 64)
			pods = append(pods, service.LocalPod{Pod: p, NetNS: number})
		}
	}
	return service.OfRedirect(r, named, pods, s.at)
}

// take follows the changes that the agent would pass on.
func (s *story) take() {
	c := s.balance.Take()
	for _, f := range c.Remove {
		delete(s.told, f.Key())
	}
	for _, f := range c.Put {
		s.told[f.Key()] = f
	}
}

// otherOrders derives from the same objects in other orders, with what is not
// there any more put and deleted between.
func (s *story) otherOrders(t *testing.T, want string) {
	t.Helper()
	var told []string
	for _, f := range slices.SortedFunc(maps.Values(s.told), func(a, b service.Frontend) int { return strings.Compare(a.Key(), b.Key()) }) {
		told = append(told, f.Key())
	}
	var all []string
	for _, f := range s.balance.All() {
		all = append(all, f.Key())
	}
	slices.Sort(all)
	if d := cmp.Diff(all, told); d != "" {
		t.Errorf("the changes do not add up (-is +told):\n%s", d)
	}
	var owners []string
	for key := range s.services.Table().Snapshot().All() {
		owners = append(owners, key)
	}
	for key := range s.pods.Table().Snapshot().All() {
		owners = append(owners, "pod/"+key)
	}
	for key := range s.policies.Table().Snapshot().All() {
		owners = append(owners, "lrp/"+key)
	}
	r := rand.New(rand.NewPCG(1, uint64(len(want))))
	for range 12 {
		b := service.NewBalance()
		empty := newStory()
		empty.at = s.at
		r.Shuffle(len(owners), func(i, j int) { owners[i], owners[j] = owners[j], owners[i] })
		for i, o := range owners {
			if i%2 == 0 {
				s.derive(b, o)
				b.Take()
				empty.derive(b, o) // it goes, and comes again
			}
			s.derive(b, o)
			b.Take()
		}
		if got := s.shown(b); got != want {
			t.Fatalf("in the order %v (-first +now):\n%s", owners, cmp.Diff(want, got))
		}
	}
}

// shown is one line for each frontend, both scopes in one where they are equal.
func (s *story) shown(b *service.Balance) string {
	type row struct{ line, scope string }
	var rows []row
	seen := map[string]int{}
	rest := map[string][]string{}
	for _, f := range b.All() {
		if f.Rest() {
			rest[f.Addr.String()] = append(rest[f.Addr.String()], f.Scope.String())
			continue
		}
		var to []string
		for _, x := range f.Takers() {
			to = append(to, netip.AddrPortFrom(x.Addr, x.Port).String())
		}
		if len(to) == 0 {
			to = []string{"none: " + f.Why}
		}
		line := fmt.Sprintf("%s %s %s", f.Socket(), f.Kind, f.Service)
		if f.PortName != "" {
			line += "/" + f.PortName
		}
		for _, o := range []struct {
			cond bool
			text string
		}{{f.Local, "local"}, {f.Affinity > 0, fmt.Sprintf("affinity=%d", f.Affinity)}, {f.Algorithm == service.Maglev, "maglev"}, {f.Forwarding == service.DSR, "dsr"},
			{len(f.Sources) > 0 && !f.SourcesDeny, fmt.Sprint("allow=", f.Sources)}, {len(f.Sources) > 0 && f.SourcesDeny, fmt.Sprint("deny=", f.Sources)},
			{f.HealthCheck > 0, fmt.Sprint("health-check=", f.HealthCheck)}, {len(f.Direct) > 0, fmt.Sprint("direct=", f.Direct)},
			{f.Redirect != "", "by " + f.Redirect}, {len(f.SkipNetNS) > 0, fmt.Sprint("not from ", f.SkipNetNS)}} {
			if o.cond {
				line += " " + o.text
			}
		}
		line += " = " + strings.Join(to, " ")
		if i, ok := seen[line]; ok {
			rows[i].scope = "both"
			continue
		}
		seen[line] = len(rows)
		rows = append(rows, row{line, f.Scope.String()})
	}
	var out strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&out, "%s (%s)\n", r.line, r.scope)
	}
	for _, a := range slices.Sorted(maps.Keys(rest)) {
		fmt.Fprintf(&out, "rest of %s drops (%s)\n", a, strings.Join(rest[a], ", "))
	}
	for _, o := range b.Owners() {
		for _, p := range b.Problems(o) {
			fmt.Fprintf(&out, "problem in %s: %s\n", o, p)
		}
	}
	return out.String()
}
