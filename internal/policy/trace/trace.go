// SPDX-License-Identifier: Apache-2.0

// Package trace says what policy decides about a connection between two ends, and why.
package trace

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/policy"
)

// Party is one end of a connection, found.
type Party struct {
	Name     string // as people know it
	Pod      string // namespace/name
	Node     string // that has it; empty: not known, or none
	Addrs    []netip.Addr
	Identity identity.ID
	Labels   label.Set
	Ports    []endpoint.Port

	Subject  bool   // policy is judged for it: it is a pod
	Endpoint uint16 // of the node that is asked; 0: another node's, or nobody's
}

// World is what a trace asks.
type World struct {
	Explainer *policy.Explainer
	Node      string // whose policy is asked; empty: none, as in files
	Find      func(rest.TraceParty) (Party, error)
}

// Trace answers a request.
func (w World) Trace(q rest.TraceRequest) (rest.TraceResult, error) {
	var out rest.TraceResult
	protocol, err := ProtocolNumber(q.Protocol)
	if err != nil {
		return out, err
	}
	port := q.Port
	if q.AnyPort {
		port = -1
	} else if port < 0 || port > 65535 {
		return out, fmt.Errorf("port %d is out of range", port)
	}
	from, err := w.find("source", q.Source)
	if err != nil {
		return out, err
	}
	to, err := w.find("destination", q.Destination)
	if err != nil {
		return out, err
	}
	x := w.Explainer
	if len(q.Manifests) > 0 {
		if x, out.Objects, err = overlay(x, q.Manifests); err != nil {
			return out, err
		}
	}
	fromAddr, toAddr, err := family(&from, &to, q.Family)
	if err != nil {
		return out, err
	}
	out.Protocol, out.Port = ProtocolName(protocol), port
	out.Source, out.Destination = from.end(fromAddr), to.end(toAddr)
	if from.Pod != "" && from.Pod == to.Pod {
		out.Verdict, out.Notes = rest.TraceAllowed, []string{"a pod always reaches itself"}
		return out, nil
	}
	c := connection{world: w, x: x, protocol: protocol, port: port}
	if out.Egress, err = c.side(policy.Egress, &from, &to, toAddr); err != nil {
		return out, err
	}
	if out.Ingress, err = c.side(policy.Ingress, &to, &from, fromAddr); err != nil {
		return out, err
	}
	if out.Egress == nil && out.Ingress == nil {
		out.Notes = append(out.Notes, "neither end is a pod: no policy is judged for them")
	}
	Conclude(&out)
	return out, nil
}

func (w World) find(end string, p rest.TraceParty) (Party, error) {
	given := 0
	for _, have := range []bool{p.Pod != "", p.IP != "", p.Identity != 0, len(p.Labels) > 0} {
		if have {
			given++
		}
	}
	if given != 1 {
		return Party{}, fmt.Errorf("the %s needs exactly one of pod, ip, identity and labels", end)
	}
	out, err := w.Find(p)
	if err != nil {
		return Party{}, fmt.Errorf("%s: %w", end, err)
	}
	return out, nil
}

// Conclude sets the verdict of a connection from those of its sides.
func Conclude(out *rest.TraceResult) {
	out.Verdict = rest.TraceAllowed
	for _, s := range []*rest.TraceSide{out.Egress, out.Ingress} {
		switch {
		case s == nil:
		case s.Verdict == rest.TraceDenied:
			out.Verdict = rest.TraceDenied
			return
		case s.Verdict == rest.TraceRedirected:
			out.Verdict = rest.TraceRedirected
		}
	}
}

// family picks the address of each end: both of one family, if both have addresses.
func family(from, to *Party, want int) (a, b netip.Addr, err error) {
	of := func(p *Party, f int) netip.Addr {
		for _, a := range p.Addrs {
			if a.Is4() == (f == 4) {
				return a
			}
		}
		return netip.Addr{}
	}
	families := []int{4, 6}
	if want != 0 {
		families = []int{want}
	}
	for _, f := range families {
		a, b = of(from, f), of(to, f)
		if (a.IsValid() || len(from.Addrs) == 0) && (b.IsValid() || len(to.Addrs) == 0) {
			return a, b, nil
		}
	}
	return a, b, fmt.Errorf("%s and %s have no address of the same family", from.Name, to.Name)
}

func (p *Party) end(a netip.Addr) rest.TraceEnd {
	e := rest.TraceEnd{Name: p.Name, Pod: p.Pod, Node: p.Node, Identity: int64(p.Identity), Labels: p.Labels.Strings()}
	if a.IsValid() {
		e.IP = a.String()
	}
	return e
}

// connection is what both sides of a trace share.
type connection struct {
	world    World
	x        *policy.Explainer
	protocol uint8
	port     int
}

// side judges one direction; nil if no policy is judged for the end.
func (c *connection) side(d policy.Direction, own, peer *Party, addr netip.Addr) (*rest.TraceSide, error) {
	if !own.Subject {
		return nil, nil
	}
	q := policy.Question{Endpoint: own.Endpoint, Direction: d, Peer: addr, Identity: peer.Identity, PeerPorts: peer.Ports,
		Protocol: c.protocol, Port: c.port}
	if own.Endpoint == 0 {
		q.Subject = &policy.Subject{Identity: own.Identity, Labels: own.Labels, Ports: own.Ports}
	}
	if !addr.IsValid() && len(peer.Labels) > 0 {
		q.PeerLabels = peer.Labels
	}
	a, err := c.x.Explain(q)
	if err != nil {
		return nil, err
	}
	s := Side(a)
	s.Judged, s.Revision = c.world.Node, int64(c.x.Revision())
	s.Elsewhere = own.Node != "" && own.Node != c.world.Node
	return s, nil
}

// Side writes an answer for people and programs.
func Side(a policy.Answer) *rest.TraceSide {
	s := &rest.TraceSide{
		Verdict: map[policy.Verdict]string{policy.Allow: rest.TraceAllowed, policy.Redirect: rest.TraceRedirected, policy.Deny: rest.TraceDenied}[a.Verdict],
		Why:     a.Why(), Enforcing: a.Enforcing,
		Deciding: rules(a.Deciding), Default: rules(a.Default),
	}
	for _, m := range a.Matching {
		r := Rule(m.Origin)
		r.Verdict, r.Tier = m.Verdict, m.Tier
		s.Matching = append(s.Matching, r)
	}
	for _, n := range a.Near {
		r := Rule(n.Origin)
		r.Missing = n.Missing
		s.Nearest = append(s.Nearest, r)
	}
	return s
}

func rules(list []policy.Origin) []rest.RuleRef {
	var out []rest.RuleRef
	for _, o := range list {
		out = append(out, Rule(o))
	}
	return out
}

// Rule names a rule by the parts of its object's key.
func Rule(o policy.Origin) rest.RuleRef {
	r := rest.RuleRef{Name: o.Object, Path: o.Path}
	if parts := strings.SplitN(o.Object, "/", 3); len(parts) == 3 {
		r.Kind, r.Namespace, r.Name = parts[0], parts[1], parts[2]
	}
	_, section, found := strings.Cut(o.Path, ".")
	if open := strings.IndexByte(section, '['); found && open >= 0 {
		if end := strings.IndexByte(section[open:], ']'); end > 0 {
			if n, err := strconv.Atoi(section[open+1 : open+end]); err == nil {
				r.Index = &n
			}
		}
	}
	return r
}

// protocols by name, as people write them.
var protocols = map[string]uint8{"ICMP": 1, "ICMPV4": 1, "TCP": 6, "UDP": 17, "ICMPV6": 58, "SCTP": 132}

// ProtocolNumber reads a name or a number of a protocol; empty is TCP.
func ProtocolNumber(text string) (uint8, error) {
	if text == "" {
		return protocols["TCP"], nil
	}
	if n, ok := protocols[strings.ToUpper(text)]; ok {
		return n, nil
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("protocol %q is not one of TCP, UDP, SCTP, ICMP, ICMPv6 or a number", text)
	}
	return uint8(n), nil
}

// ProtocolName is the other way round.
func ProtocolName(n uint8) string {
	switch n {
	case 1:
		return "ICMP"
	case 6:
		return "TCP"
	case 17:
		return "UDP"
	case 58:
		return "ICMPv6"
	case 132:
		return "SCTP"
	}
	return strconv.Itoa(int(n))
}

// overlay judges manifests in place of what is stored.
func overlay(x *policy.Explainer, manifests []string) (*policy.Explainer, []rest.ObjectFit, error) {
	var objects []policy.Object
	for i, text := range manifests {
		m, err := ReadManifest([]byte(text))
		if err != nil {
			return nil, nil, fmt.Errorf("manifest %d: %w", i+1, err)
		}
		objects = append(objects, m.Policies...)
	}
	if len(objects) == 0 {
		return nil, nil, fmt.Errorf("the manifests hold no policy")
	}
	next, _ := x.With(objects)
	return next, Fit(x, objects), nil
}

// Fit says what would become of objects, and what in them can hardly be meant.
func Fit(x *policy.Explainer, objects []policy.Object) []rest.ObjectFit {
	var out []rest.ObjectFit
	for _, o := range objects {
		status, findings := x.Lint(o)
		f := rest.ObjectFit{Object: status.Key, Valid: status.Valid, Reason: status.Reason}
		for _, w := range findings {
			f.Warnings = append(f.Warnings, rest.FitWarning{Path: w.Path, Text: w.Text})
		}
		out = append(out, f)
	}
	slices.SortStableFunc(out, func(a, b rest.ObjectFit) int { return strings.Compare(a.Object, b.Object) })
	return out
}
