// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/stentor-net/stentor/internal/identity"
)

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// probe is a connection to judge.
type probe struct {
	endpoint uint16
	d        Direction
	addr     netip.Addr
	protocol uint8
	port     int
}

var probePorts = []struct {
	protocol uint8
	port     int
}{{protoTCP, 80}, {protoTCP, 70}, {protoTCP, 8080}, {protoTCP, 63}, {protoTCP, 127}, {protoTCP, 128}, {protoUDP, 53}, {protoUDP, 80}, {protoICMP, 8}, {protoSCTP, 53}, {47, -1}, {protoTCP, -1}}

var probeAddrs = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.9", "10.1.0.1",
	"172.16.0.1", "172.16.0.2", "172.16.0.3", "192.0.2.5", "192.0.2.6", "192.0.2.77", "198.51.100.1", "203.0.113.1",
	"fd00::1", "fd00::5", "fd00::77", "2001:db8::5", "2001:db8::6", "2001:db9::1"}

func probes(endpoints []uint16) (out []probe) {
	for _, ep := range endpoints {
		for _, d := range []Direction{Egress, Ingress} {
			for _, a := range probeAddrs {
				for _, p := range probePorts {
					out = append(out, probe{ep, d, netip.MustParseAddr(a), p.protocol, p.port})
				}
			}
		}
	}
	return out
}

func (p probe) decide(s *State) Verdict {
	return s.Decide(p.endpoint, p.d, p.addr, p.protocol, p.port).Verdict
}

// decideLocally looks a pod of this node up by its endpoint, as the datapath does.
func (p probe) decideLocally(s *State, local map[netip.Addr]uint16) Verdict {
	id, ok := local[p.addr]
	if !ok {
		return p.decide(s)
	}
	peer := s.Endpoints[id].Peer4
	if p.addr.Is6() {
		peer = s.Endpoints[id].Peer6
	}
	return s.DecidePeer(p.endpoint, p.d, peer, p.protocol, p.port).Verdict
}

// localPods are the addresses of endpoints.
func localPods(in Input, endpoints []uint16) map[netip.Addr]uint16 {
	out := map[netip.Addr]uint16{}
	for _, s := range in.Subjects {
		if slices.Contains(endpoints, s.Endpoint) {
			out[s.IPv4.Prefix.Addr()], out[s.IPv6.Prefix.Addr()] = s.Endpoint, s.Endpoint
		}
	}
	return out
}

// change draws one event.
func (d draw) change(c *drawn) string {
	i := d.n("which", len(c.pods)-1)
	switch d.n("event", 11) {
	case 8:
		d.references(c)
		return "groups and services changed"
	case 9:
		c.labelled = !c.labelled
		return "identities of nodes changed"
	case 10:
		c.pods[i].audit = !c.pods[i].audit
		return "an endpoint's audit switched"
	case 0, 1:
		d.addPolicy(c)
		return "policy written"
	case 2, 3:
		if keys := sortedKeys(c.policies); len(keys) > 0 {
			delete(c.policies, keys[d.n("victim", len(keys)-1)])
		}
		return "policy deleted"
	case 4:
		c.pods[i].app = d.of("app", "web", "db")
		c.pods[i].tier = d.of("tier", "front", "back", "")
		return fmt.Sprint("labels changed: ", c.pods[i].addr)
	case 5: // the address is given to another pod
		p := d.pod(i)
		p.incarnation = c.pods[i].incarnation + 1
		c.pods[i] = p
		return fmt.Sprint("address reused: ", p.addr)
	case 6:
		if len(c.pods) > 2 {
			c.pods = c.pods[:len(c.pods)-1]
		}
		return "pod gone"
	case 7:
		if len(c.pods) < 7 {
			c.pods = append(c.pods, d.pod(len(c.pods)))
		}
		return "pod new"
	}
	for _, id := range sortedKeys(maps.Collect(invert(c.numbers))) {
		c.late[id] = d.chance("late", 4)
	}
	return "labels late or here"
}

func invert(m map[string]identity.ID) func(func(identity.ID, bool) bool) {
	return func(yield func(identity.ID, bool) bool) {
		for _, id := range m {
			if !yield(id, true) {
				return
			}
		}
	}
}

func (d draw) options() Options {
	return Options{
		Enforcement:    d.of("enforcement", EnforceDefault, EnforceDefault, EnforceDefault, EnforceAlways, EnforceNever),
		AllowLocalhost: d.of("localhost", LocalhostAlways, LocalhostPolicy),
		CIDRMatchNodes: d.chance("nodes", 3),
		CIDRMatchPods:  d.chance("pods", 3),
		NodeLabels:     !d.chance("without node labels", 4),
		Audit:          d.chance("audit", 10),
		Carry:          Carry{HTTP: Redirected, DNS: Redirected, TLS: Redirected, Listener: Redirected},
	}
}

// agree fails if the kernel and the oracle judge any probe differently.
// It fails, too, if the explanation has another verdict or no reason.
func agree(t *rapid.T, opts Options, in *Input, x *Explainer, kernel *State, after string) {
	o := newOracle(opts, in)
	second := &evaluator{opts: o.opts, in: in}
	for i := range in.Subjects {
		s := &in.Subjects[i]
		for _, p := range probes([]uint16{s.Endpoint}) {
			want, got := o.judge(s, p.d, p.addr, p.protocol, p.port), p.decide(kernel)
			if got != want {
				t.Fatalf("after %s: %+v: the oracle says %d, the kernel %v", after, p, want, kernel.Decide(p.endpoint, p.d, p.addr, p.protocol, p.port))
			}
			if want, known := second.judge(s, p.d, p.addr, p.protocol, p.port); known && got != want {
				t.Fatalf("after %s: %+v: by the documents it is %d, the kernel says %v", after, p, want, kernel.Decide(p.endpoint, p.d, p.addr, p.protocol, p.port))
			}
			if p.port == 80 {
				a, err := x.Explain(Question{Endpoint: p.endpoint, Direction: p.d, Peer: p.addr, Protocol: p.protocol, Port: p.port})
				if err != nil || a.Verdict != got || got == Deny && len(a.Deciding)+len(a.Default) == 0 && opts.Enforcement != EnforceAlways {
					t.Fatalf("after %s: %+v: verdict %d is explained as %+v (%v)", after, p, got, a, err)
				}
			}
		}
	}
}

func TestTheKernelAgreesWithTheNaiveOracleThroughRandomChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw{t}
		c, opts := d.cluster(), d.options()
		kernel := NewState()
		e, err := New(opts, kernel)
		if err != nil {
			t.Fatal(err)
		}
		for step := range 1 + d.n("steps", 4) {
			event := "the start"
			if step > 0 {
				event = d.change(c)
			}
			in := c.input()
			out := e.Update(in)
			if out.Err != nil {
				t.Fatal(out.Err)
			}
			for _, op := range out.Ops {
				kernel.Apply(op)
			}
			agree(t, opts, &in, out.Explainer, &kernel, event)
			if again := e.Update(in); len(again.Ops) > 0 {
				t.Fatalf("after %s: the same input again gives %d steps: %#v", event, len(again.Ops), again.Ops)
			}
			fresh, err := New(opts, kernel)
			if err != nil {
				t.Fatal(err)
			}
			if out := fresh.Update(in); len(out.Ops) > 0 {
				t.Fatalf("after %s: a restart gives %d steps: %#v", event, len(out.Ops), out.Ops)
			}
		}
	})
}

// Breadth instead of depth: many clusters, each judged once, by every seventh probe.
func TestThousandsOfClustersAreJudgedAsTheDocumentsSay(t *testing.T) {
	const clusters, stride = 20, 7 // for each of rapid's checks
	rapid.Check(t, func(t *rapid.T) {
		d := draw{t}
		for range clusters {
			c, opts := d.cluster(), d.options()
			e, err := New(opts, NewState())
			if err != nil {
				t.Fatal(err)
			}
			in := c.input()
			kernel := NewState()
			for _, op := range e.Update(in).Ops {
				kernel.Apply(op)
			}
			documents := &evaluator{opts: newOracle(opts, &in).opts, in: &in}
			skip := d.n("skip", stride-1)
			for i := range in.Subjects {
				s := &in.Subjects[i]
				for n, p := range probes([]uint16{s.Endpoint}) {
					if n%stride != skip {
						continue
					}
					if want, known := documents.judge(s, p.d, p.addr, p.protocol, p.port); known && p.decide(&kernel) != want {
						t.Fatalf("%+v: by the documents it is %d, the kernel says %v", p, want, kernel.Decide(p.endpoint, p.d, p.addr, p.protocol, p.port))
					}
				}
			}
		}
	})
}

func TestEveryStepJudgesAsBeforeOrAsAfterTheChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw{t}
		c, opts := d.cluster(), d.options()
		kernel := NewState()
		e, err := New(opts, kernel)
		if err != nil {
			t.Fatal(err)
		}
		in := c.input()
		for _, op := range e.Update(in).Ops {
			kernel.Apply(op)
		}
		for range 1 + d.n("steps", 2) {
			before := kernel.Clone()
			old := in
			event := d.change(c)
			in = c.input()
			out := e.Update(in)
			steps(t, event, &kernel, &before, out.Ops, survivors(old, in), in)
		}
	})
}

// survivors are the endpoints that exist before and after, as the same pod.
func survivors(before, after Input) (out []uint16) {
	for _, a := range before.Subjects {
		for _, b := range after.Subjects {
			if a.Endpoint == b.Endpoint && a.Incarnation == b.Incarnation {
				out = append(out, a.Endpoint)
			}
		}
	}
	return out
}

// failer is a *testing.T or a *rapid.T.
type failer interface {
	Fatalf(format string, args ...any)
}

// steps carries out the steps one by one, and judges every probe after each.
func steps(t failer, event string, kernel, before *State, ops []Op, endpoints []uint16, in Input) {
	after := kernel.Clone()
	for _, op := range ops {
		after.Apply(op)
	}
	if bad := violations(kernel, before, &after, ops, endpoints, nil); bad != "" {
		t.Fatalf("%s: %s", event, bad)
	}
	kernel2 := before.Clone()
	if bad := violations(&kernel2, before, &after, ops, endpoints, localPods(in, endpoints)); bad != "" {
		t.Fatalf("%s, pods of this node by endpoint: %s", event, bad)
	}
}

// violations carries out the steps and describes the first verdict that is
// neither that of before nor that of after, or a flow that in the end keeps a
// verdict that is no longer true: flows are judged again only when bumped.
func violations(kernel, before, after *State, ops []Op, endpoints []uint16, local map[netip.Addr]uint16) string {
	all := slices.DeleteFunc(probes(endpoints), func(p probe) bool { // enough to tell sets apart
		return !(p.protocol == protoTCP && (p.port == 80 || p.port == 70) || p.protocol == protoUDP && p.port == 53 || p.protocol == 47)
	})
	flows := make([]Verdict, len(all))
	was, will := make([]Verdict, len(all)), make([]Verdict, len(all))
	for i, p := range all {
		was[i], will[i] = p.decideLocally(before, local), p.decideLocally(after, local)
		flows[i] = was[i]
	}
	for n, op := range ops {
		kernel.Apply(op)
		for i, p := range all {
			if p.bumpedBy(op) {
				flows[i] = p.decideLocally(kernel, local)
			}
			if got := p.decideLocally(kernel, local); got != was[i] && got != will[i] {
				return fmt.Sprintf("after step %d of %d, %#v: %+v is judged %d; before it was %d, after it will be %d", n, len(ops), op, p, got, was[i], will[i])
			}
		}
	}
	for i, p := range all {
		if flows[i] != will[i] {
			return fmt.Sprintf("a flow of %+v keeps the verdict %d; now it is %d", p, flows[i], will[i])
		}
	}
	return ""
}

// bumpedBy tells whether a step makes flows of the probe be judged again.
func (p probe) bumpedBy(op Op) bool {
	switch o := op.(type) {
	case BumpEndpoint:
		return o.Endpoint == p.endpoint
	case BumpPeer:
		return o.Addr == p.addr
	case BumpPeers:
		return true
	}
	return false
}
