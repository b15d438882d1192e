// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/policy/trace"
)

// maxTraceRequest limits the body of a question, manifests included.
const maxTraceRequest = 8 << 20

// errNoPolicyYet says that nothing was judged so far.
var errNoPolicyYet = httpError{http.StatusServiceUnavailable, "no policy is in force yet: the agent is starting"}

// policyTrace answers POST /v1/policy/trace.
func (a *Agent) policyTrace(r *http.Request) (any, error) {
	var q rest.TraceRequest
	if err := readBody(r, &q); err != nil {
		return nil, err
	}
	x := a.past.current()
	if x == nil {
		return nil, errNoPolicyYet
	}
	out, err := a.traceWorld(x).Trace(q)
	if err != nil {
		return nil, httpError{http.StatusBadRequest, err.Error()}
	}
	out.Notes = append(out.Notes, a.serviceNote(&out)...)
	return out, nil
}

// policyValidate answers POST /v1/policy/validate.
func (a *Agent) policyValidate(r *http.Request) (any, error) {
	var q rest.ValidateRequest
	if err := readBody(r, &q); err != nil {
		return nil, err
	}
	x := a.past.current()
	if x == nil {
		return nil, errNoPolicyYet
	}
	out := []rest.ObjectFit{}
	for _, text := range q.Manifests {
		m, err := trace.ReadManifest([]byte(text))
		if err != nil {
			return nil, httpError{http.StatusBadRequest, err.Error()}
		}
		out = append(out, trace.Fit(x, m.Policies)...)
	}
	return out, nil
}

func readBody(r *http.Request, into any) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxTraceRequest+1))
	if err == nil && len(text) > maxTraceRequest {
		err = fmt.Errorf("the request is larger than %d bytes", maxTraceRequest)
	}
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return httpError{http.StatusBadRequest, "read the request: " + err.Error()}
	}
	return nil
}

func (a *Agent) traceWorld(x *policy.Explainer) trace.World {
	return trace.World{Explainer: x, Node: a.opts.NodeName, Find: func(p rest.TraceParty) (trace.Party, error) { return a.traceParty(x, p) }}
}

// traceParty finds one end of a connection in the tables.
func (a *Agent) traceParty(x *policy.Explainer, p rest.TraceParty) (trace.Party, error) {
	switch {
	case p.Pod != "":
		return a.tracePod(x, p.Pod)
	case p.IP != "":
		return a.traceAddress(x, p.IP)
	case p.Identity != 0:
		id := identity.ID(p.Identity)
		labels, ok := x.Known()[id]
		if !ok {
			return trace.Party{}, fmt.Errorf("identity %d is not known on this node", p.Identity)
		}
		return trace.Party{Name: "identity " + id.String(), Identity: id, Labels: labels, Subject: id.IsAllocated()}, nil
	}
	labels, pod := trace.PodLabels(p.Labels, a.opts.ClusterName, func(name string) map[string]string {
		n, _ := a.tables.namespaces.Get(name)
		return n.Labels
	})
	out := trace.Party{Name: strings.Join(p.Labels, ","), Labels: labels, Subject: pod}
	if id, ok := a.ids.lookup(labels); ok {
		out.Identity = id
	}
	return out, nil
}

func (a *Agent) tracePod(x *policy.Explainer, name string) (trace.Party, error) {
	if !strings.Contains(name, "/") {
		name = "default/" + name
	}
	for _, e := range a.tables.endpoints.Snapshot().Index("pod", name) {
		return a.traceEndpoint(e), nil
	}
	if r, ok := a.tables.remotes.Get(name); ok {
		return a.traceRemote(x, r), nil
	}
	return trace.Party{}, fmt.Errorf("no pod %s has an interface of this network, as far as node %s knows", name, a.opts.NodeName)
}

func (a *Agent) traceEndpoint(e endpoint.Endpoint) trace.Party {
	out := trace.Party{Name: e.PodKey(), Pod: e.PodKey(), Node: a.opts.NodeName, Identity: e.Identity, Labels: e.Labels, Ports: e.Ports, Subject: true, Endpoint: e.ID}
	for _, ip := range []netip.Addr{e.IPv4, e.IPv6} {
		if ip.IsValid() {
			out.Addrs = append(out.Addrs, ip)
		}
	}
	return out
}

func (a *Agent) traceRemote(x *policy.Explainer, r endpoint.Remote) trace.Party {
	out := trace.Party{Name: r.Key(), Pod: r.Key(), Identity: r.Identity, Labels: x.Known()[r.Identity], Ports: r.Ports, Addrs: r.IPs, Subject: true}
	for _, n := range a.tables.nodes.Snapshot().All() {
		for _, ip := range n.InternalIP {
			if ip == r.NodeIP {
				out.Node = n.Name
			}
		}
	}
	return out
}

func (a *Agent) traceAddress(x *policy.Explainer, text string) (trace.Party, error) {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return trace.Party{}, fmt.Errorf("%q is no address", text)
	}
	ip = ip.Unmap()
	for _, e := range a.tables.endpoints.Snapshot().Index("ip", ip.String()) {
		out := a.traceEndpoint(e)
		out.Addrs = []netip.Addr{ip}
		return out, nil
	}
	for _, r := range a.tables.remotes.Snapshot().Index("ip", ip.String()) {
		out := a.traceRemote(x, r)
		out.Addrs = []netip.Addr{ip}
		return out, nil
	}
	out := trace.Party{Name: ip.String(), Addrs: []netip.Addr{ip}}
	out.Identity, out.Labels = x.Who(ip)
	if row, ok := a.tables.addresses.Get(host(ip).String()); ok && row.Name != "" {
		out.Name, out.Node = "node "+row.Name, row.Name
	}
	return out, nil
}

// serviceNote warns about an address that policy never sees.
func (a *Agent) serviceNote(r *rest.TraceResult) []string {
	for _, f := range a.tables.frontends.Snapshot().All() {
		if f.Addr.IsValid() && f.Addr.String() == r.Destination.IP {
			return []string{fmt.Sprintf("%s is the address of service %s: policy is judged for the backend that a packet is sent to", f.Addr, f.Service)}
		}
	}
	return nil
}

// policyWhy answers POST /v1/policy/why: what policy said about the packet of an event.
func (a *Agent) policyWhy(r *http.Request) (any, error) {
	var e rest.Event
	if err := readBody(r, &e); err != nil {
		return nil, err
	}
	if e.Node != "" && e.Node != a.opts.NodeName {
		return nil, httpError{http.StatusBadRequest, fmt.Sprintf("the event is of node %s, this is %s", e.Node, a.opts.NodeName)}
	}
	at, err := time.Parse(time.RFC3339Nano, e.Time)
	if err != nil {
		return nil, httpError{http.StatusBadRequest, fmt.Sprintf("time %q: %v", e.Time, err)}
	}
	if e.Type != rest.EventVerdict && !byPolicy(e) {
		return nil, httpError{http.StatusBadRequest, "policy did not decide about this packet: " + whatHappened(e)}
	}
	list, reach := a.past.around(at)
	if a.past.current() == nil {
		return nil, errNoPolicyYet
	}
	w := &whyer{agent: a, event: e}
	if !reach {
		w.notes = append(w.notes, fmt.Sprintf("the policy of that moment is no longer kept (%v): this is the policy of now", pastFor))
		list = []*policy.Explainer{a.past.current()}
	}
	out, err := w.answer(list)
	if err != nil {
		return nil, httpError{http.StatusBadRequest, err.Error()}
	}
	return out, nil
}

// byPolicy tells whether a drop is a verdict of policy, also one about a peer that nobody knew.
func byPolicy(e rest.Event) bool {
	return deniedByPolicy(e) || e.Type == rest.EventDrop && e.Endpoint != 0 &&
		(e.Reason == abi.ReasonIdentityUnknown || e.Reason == abi.ReasonFragFirstMissing)
}

func whatHappened(e rest.Event) string {
	if e.Type == rest.EventDrop {
		return fmt.Sprintf("dropped for %q", e.ReasonText)
	}
	return fmt.Sprintf("an event of type %q", e.Type)
}

// whyer explains one event.
type whyer struct {
	agent *Agent
	event rest.Event
	notes []string
}

// answer takes the first explainer whose verdict is that of the event.
func (w *whyer) answer(list []*policy.Explainer) (*rest.TraceResult, error) {
	var first *rest.TraceResult
	for _, x := range list {
		out, err := w.under(x)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = out
		}
		if out.Verdict == w.verdict() {
			return out, nil
		}
	}
	first.Notes = append(first.Notes, fmt.Sprintf("the packet was %s by a state of policy that is not kept: this is the nearest one", w.verdict()))
	return first, nil
}

func (w *whyer) verdict() string {
	switch {
	case w.event.Type == rest.EventDrop || w.event.Verdict == "deny":
		return rest.TraceDenied
	case w.event.Verdict == "redirect":
		return rest.TraceRedirected
	}
	return rest.TraceAllowed
}

func (w *whyer) under(x *policy.Explainer) (*rest.TraceResult, error) {
	e := w.event
	protocol, err := trace.ProtocolNumber(e.Protocol)
	if err != nil {
		return nil, err
	}
	from, to := e.Source, e.Dest
	if e.Reply { // the connection is judged as it was opened
		from, to = to, from
	}
	q := policy.Question{Endpoint: e.Endpoint, Protocol: protocol, Port: policyPort(e, protocol, from, to)}
	own, peer := from, to
	if e.Direction == "ingress" {
		own, peer, q.Direction = to, from, policy.Ingress
	}
	if err := w.subject(x, &q, own); err != nil {
		return nil, err
	}
	w.peer(x, &q, peer)
	a, err := x.Explain(q)
	if err != nil {
		return nil, err
	}
	side := trace.Side(a)
	side.Judged, side.Revision = w.agent.opts.NodeName, int64(x.Revision())
	out := &rest.TraceResult{Verdict: side.Verdict, Source: eventEnd(from), Destination: eventEnd(to), Protocol: trace.ProtocolName(protocol), Port: q.Port, Notes: w.notes}
	if q.Direction == policy.Ingress {
		out.Ingress = side
	} else {
		out.Egress = side
	}
	return out, nil
}

// subject is the endpoint as it was: by the identity that the event names, even
// if the pod has other labels now, or is gone.
func (w *whyer) subject(x *policy.Explainer, q *policy.Question, own rest.EventParty) error {
	labels, known := x.Known()[identity.ID(own.Identity)]
	row, here := w.agent.tables.endpoints.Get(fmt.Sprint(w.event.Endpoint))
	here = here && (own.IP == "" || own.IP == row.IPv4.String() || own.IP == row.IPv6.String())
	switch {
	case here && (own.Identity == 0 || row.Identity == identity.ID(own.Identity)):
		return nil
	case known && here:
		q.Subject = &policy.Subject{Endpoint: row.ID, Identity: identity.ID(own.Identity), Labels: labels, Ports: row.Ports}
	case known:
		q.Subject = &policy.Subject{Endpoint: w.event.Endpoint, Identity: identity.ID(own.Identity), Labels: labels}
	default:
		return fmt.Errorf("endpoint %d is gone from this node, and so are the labels of identity %d", w.event.Endpoint, own.Identity)
	}
	return nil
}

// peer is who the kernel took it for, not who is known by now.
func (w *whyer) peer(x *policy.Explainer, q *policy.Question, peer rest.EventParty) {
	if c := w.event.Cell; c != nil && c.Peer < policy.PeerFirst {
		q.Stranger = policy.StrangerUnknown
		if c.Peer == policy.PeerUnresolved {
			q.Stranger = policy.StrangerUnresolved
		}
	}
	q.Identity = identity.ID(peer.Identity)
	if ip, err := netip.ParseAddr(peer.IP); err == nil {
		if id, _ := x.Who(ip); id == q.Identity || peer.Identity == 0 || q.Identity.Scope() == identity.ScopeLocalCIDR {
			q.Peer = ip
		}
	}
}

// policyPort is what policy saw as the port: that of the connection's
// destination, or the type that an ICMP exchange began with.
func policyPort(e rest.Event, protocol uint8, from, to rest.EventParty) int {
	switch {
	case protocol == 1 && e.Reply && e.ICMPType == 0:
		return 8
	case protocol == 58 && e.Reply && e.ICMPType == 129:
		return 128
	case protocol == 1 || protocol == 58:
		return e.ICMPType
	case from.Port == 0 && to.Port == 0:
		return -1
	}
	return int(to.Port)
}

func eventEnd(p rest.EventParty) rest.TraceEnd {
	name := p.Pod
	if name == "" {
		name = p.IP
	}
	return rest.TraceEnd{Name: name, Pod: p.Pod, Node: p.Node, IP: p.IP, Identity: p.Identity, Labels: p.Labels}
}
