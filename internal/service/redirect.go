// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/table"
)

// RedirectPort is a port of a redirect's frontend or backend.
type RedirectPort struct {
	Name     string // lower case; may be empty where there is one port only
	Port     uint16
	Protocol uint8
}

func (p RedirectPort) String() string {
	text := fmt.Sprintf("%d/%s", p.Port, protocol(p.Protocol))
	if p.Name != "" {
		text = p.Name + " (" + text + ")"
	}
	return text
}

// Redirect is a CiliumLocalRedirectPolicy: clients of a node reach pods of the
// same node in the place of an address or a Service. It is a row of the raw table
// `redirects`.
type Redirect struct {
	Namespace, Name, UID string
	Addr                 netip.Addr     // that is redirected; invalid: Service is
	Service              string         // name of a Service of the same namespace
	Ports                []RedirectPort // of Addr or Service; none: all of the Service
	Backends             []RedirectPort // of the pods
	Selector             labels.Selector
	Skip                 bool   // the pods themselves reach what is redirected
	Err                  string // why the object is set aside; empty: it is carried out
}

// Key is namespace/name.
func (r Redirect) Key() string { return r.Namespace + "/" + r.Name }

// ServiceKey is namespace/name of the Service that is redirected, or of the one
// that stands for the redirected address.
func (r Redirect) ServiceKey() string {
	if r.Addr.IsValid() || r.Service == "" {
		return r.Key() + ":local-redirect"
	}
	return r.Namespace + "/" + r.Service
}

// NewRedirectTable makes the raw table `redirects`.
func NewRedirectTable() (*table.Table[Redirect], *table.Writer[Redirect]) {
	return table.New(table.Options[Redirect]{
		Name: "redirects",
		Key:  Redirect.Key,
		Columns: []table.Column[Redirect]{
			{Name: "POLICY", Value: Redirect.Key},
			{Name: "REDIRECTS", Value: func(r Redirect) string {
				if r.Addr.IsValid() {
					return r.Addr.String()
				}
				return r.ServiceKey()
			}},
			{Name: "PORTS", Value: func(r Redirect) string { return portList(r.Ports) }},
			{Name: "TO-PORTS", Value: func(r Redirect) string { return portList(r.Backends) }},
			{Name: "INVALID", Value: func(r Redirect) string { return r.Err }},
		},
	})
}

func portList(list []RedirectPort) string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return strings.Join(out, ",")
}

// LocalPod is a pod of this node that a redirect may send to.
type LocalPod struct {
	endpoint.Pod
	NetNS uint64 // cookie of its network namespace; 0: not known (yet)
}

// OfRedirect derives the frontends of a redirect from the pods of this node, and
// from the Service that it names; s is nil if there is none. A frontend without
// a pod that is ready has no row: its clients go where they went without the
// redirect.
func OfRedirect(r Redirect, s *Service, pods []LocalPod, at Place) Derived {
	d := redirector{redirect: r, at: at}
	if r.Err != "" {
		d.problem("set aside: %s", r.Err)
		return d.Derived
	}
	if r.Addr.IsValid() {
		d.address(pods)
	} else {
		d.service(s, pods)
	}
	slices.Sort(d.Problems)
	d.Problems = slices.Compact(d.Problems)
	return d.Derived
}

type redirector struct {
	Derived
	redirect Redirect
	at       Place
}

func (d *redirector) problem(format string, args ...any) {
	d.Problems = append(d.Problems, fmt.Sprintf(format, args...))
}

func (d *redirector) address(pods []LocalPod) {
	r := d.redirect
	if len(d.at.RedirectRanges) > 0 && !slices.ContainsFunc(d.at.RedirectRanges, func(p netip.Prefix) bool { return p.Contains(r.Addr) }) {
		d.problem("set aside: %s is not within lrp-address-matcher-cidrs %v", r.Addr, d.at.RedirectRanges)
		return
	}
	for _, p := range d.at.Around.PodRanges {
		if p.Contains(r.Addr) {
			d.problem("set aside: %s is an address of pods (%s)", r.Addr, p)
			return
		}
	}
	if slices.ContainsFunc(d.at.Around.APIServers, func(p netip.AddrPort) bool { return p.Addr() == r.Addr }) {
		d.problem("set aside: %s is an address of the API server", r.Addr)
		return
	}
	for _, p := range r.Ports {
		d.port(p, d.backendPort(p, len(r.Ports) == 1, true), []netip.Addr{r.Addr}, 0, pods)
	}
}

func (d *redirector) service(s *Service, pods []LocalPod) {
	r := d.redirect
	switch {
	case s == nil:
		d.problem("there is no Service %s", r.ServiceKey())
		return
	case s.Headless || len(s.ClusterIPs) == 0:
		d.problem("Service %s has no cluster IP", r.ServiceKey())
		return
	}
	one := len(s.Ports) == 1
	if len(r.Ports) > 0 {
		one = len(r.Ports) == 1
	}
	for _, want := range r.Ports {
		if !slices.ContainsFunc(s.Ports, func(p Port) bool { return want.is(p, one) }) {
			d.problem("Service %s has no port %s", s.Key(), want)
		}
	}
	for _, p := range s.Ports {
		if len(r.Ports) > 0 && !slices.ContainsFunc(r.Ports, func(want RedirectPort) bool { return want.is(p, one) }) {
			continue
		}
		front := RedirectPort{Name: strings.ToLower(p.Name), Port: p.Port, Protocol: p.Protocol}
		d.port(front, d.backendPort(front, one, len(r.Ports) > 0), s.ClusterIPs, s.AffinitySeconds, pods)
	}
}

// is tells whether a port of a Service is meant; names count where there are several.
func (p RedirectPort) is(of Port, one bool) bool {
	return p.Port == of.Port && p.Protocol == of.Protocol && (one || p.Name == strings.ToLower(of.Name))
}

// backendPort is the port of the pods that stands for a frontend's. The only one
// needs no name. asked tells that the policy names the port, so that something is
// wrong if there is none.
func (d *redirector) backendPort(front RedirectPort, one, asked bool) *RedirectPort {
	for _, b := range d.redirect.Backends {
		if b.Protocol == front.Protocol && (one || b.Name == front.Name) {
			return &b
		}
	}
	if asked {
		d.problem("no port of redirectBackend stands for %s: it goes on as without the policy", front)
	}
	return nil
}

// port adds the frontends of one port, one for each address.
func (d *redirector) port(front RedirectPort, to *RedirectPort, addrs []netip.Addr, affinity uint32, pods []LocalPod) {
	if to == nil {
		return
	}
	r := d.redirect
	for _, a := range addrs {
		if a.Is4() && !d.at.IPv4 || a.Is6() && !d.at.IPv6 {
			continue
		}
		f := Frontend{Addr: a, Port: front.Port, Protocol: front.Protocol, Scope: Internal, Kind: LocalRedirect, Service: r.ServiceKey(),
			PortName: front.Name, Affinity: affinity, Algorithm: Random, Forwarding: SNAT, Redirect: r.Key()}
		f.Backends, f.SkipNetNS = d.backends(front, *to, a.Is4(), pods)
		if !slices.ContainsFunc(f.Backends, func(b Backend) bool { return b.State == Active }) {
			continue
		}
		d.Frontends = append(d.Frontends, f)
		for _, b := range f.Backends {
			b.Service = r.Key() + ":local-redirect"
			if !slices.Contains(d.Backends, b) {
				d.Backends = append(d.Backends, b)
			}
		}
	}
}

// backends are the chosen pods that declare the port, sorted, and the namespaces
// that the redirect leaves alone.
func (d *redirector) backends(front, to RedirectPort, four bool, pods []LocalPod) (out []Backend, skip []uint64) {
	r := d.redirect
	for _, p := range pods {
		if p.Namespace != r.Namespace || p.HostNetwork || !p.Ready || p.Phase != "Running" || !r.Selector.Matches(labels.Set(p.Labels)) ||
			!slices.ContainsFunc(p.Declared, func(c endpoint.Port) bool { return c.Number == to.Port && c.Protocol == to.Protocol }) {
			continue
		}
		state := Active
		if p.Deleting {
			state = Terminating
		}
		for _, ip := range p.IPs {
			if ip.Is4() == four {
				out = append(out, Backend{Service: r.ServiceKey(), PortName: front.Name, Addr: ip, Port: to.Port, Protocol: to.Protocol,
					State: state, Weight: DefaultWeight, Node: d.at.Node, Zone: d.at.Zone, Pod: p.Key()})
			}
		}
		if r.Skip && p.NetNS != 0 {
			skip = append(skip, p.NetNS)
		}
	}
	slices.SortFunc(out, compareBackends)
	slices.Sort(skip)
	return out, slices.Compact(skip)
}
