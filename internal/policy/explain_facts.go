// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// facts are what an Explainer asks for beyond the rules: who is who.
type facts interface {
	subject(endpoint uint16) (Subject, bool)
	// rowOf is the longest row that holds an address.
	rowOf(netip.Addr) (netip.Prefix, identity.ID)
	labelsOf(identity.ID) (label.Set, bool)
	// portsOf are the named ports of the pod that has an address.
	portsOf(netip.Addr) []endpoint.Port
	// portNames are the numbers that pods give to port names, by nameKey.
	portNames() map[string][]portName
	known() map[identity.ID]label.Set
	references() *References
	// podPrefixes are the ranges of pods and the pods that are known, in order.
	podPrefixes() []netip.Prefix
}

// The engine's own facts are those of the moment of the question.

func (e *Engine) subject(id uint16) (Subject, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if s := e.subjects[id]; s != nil {
		return s.Subject, true
	}
	return Subject{}, false
}

func (e *Engine) rowOf(a netip.Addr) (netip.Prefix, identity.ID) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	p, row, ok := e.addr.rows.Lookup(a)
	if !ok {
		return netip.Prefix{}, identity.Unknown
	}
	return p, row.Identity
}

func (e *Engine) labelsOf(id identity.ID) (label.Set, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if i := e.ids.byID[id]; i != nil && i.known {
		return i.labels, true
	}
	return nil, false
}

func (e *Engine) portsOf(a netip.Addr) []endpoint.Port {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.addr.ports[a]
}

func (e *Engine) portNames() map[string][]portName {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.addr.names
}

func (e *Engine) known() map[identity.ID]label.Set {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := make(map[identity.ID]label.Set, len(e.ids.byID))
	for id, i := range e.ids.byID {
		if i.known {
			out[id] = i.labels
		}
	}
	return out
}

func (e *Engine) references() *References {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.refs
}

// podFlags mark what is a pod's, or a range of pods.
const podFlags = AddressPod | AddressLocalPods | AddressRemotePods

func (e *Engine) podPrefixes() []netip.Prefix {
	e.mu.RLock()
	defer e.mu.RUnlock()
	var out []netip.Prefix
	for p, row := range e.addr.rows.All() {
		if row.Flags&podFlags != 0 {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, comparePrefix)
	return out
}

// inputFacts are those of input that no engine has seen.
type inputFacts struct {
	opts *Options
	in   *Input
}

func (f *inputFacts) subject(id uint16) (Subject, bool) {
	for i := range f.in.Subjects {
		if f.in.Subjects[i].Endpoint == id {
			return f.in.Subjects[i], true
		}
	}
	return Subject{}, false
}

func (f *inputFacts) rowOf(a netip.Addr) (netip.Prefix, identity.ID) {
	var row netip.Prefix
	var id identity.ID
	try := func(p netip.Prefix, owner identity.ID) {
		if p.IsValid() && p.Contains(a) && (!row.IsValid() || p.Bits() >= row.Bits()) {
			row, id = p.Masked(), owner
		}
	}
	for _, w := range worldsOf(f.opts) {
		try(w.Prefix, w.Identity)
	}
	for i := range f.in.Subjects { // weaker than a row of the input
		s := &f.in.Subjects[i]
		try(s.IPv4.Prefix, s.Identity)
		try(s.IPv6.Prefix, s.Identity)
	}
	for i := range f.in.Addresses {
		try(f.in.Addresses[i].Prefix, f.in.Addresses[i].Identity)
	}
	return row, id
}

func (f *inputFacts) labelsOf(id identity.ID) (label.Set, bool) {
	if l, ok := f.in.Identities[id]; ok {
		return l, true
	}
	l, ok := identity.Reserved()[id]
	return l, ok
}

func (f *inputFacts) portsOf(a netip.Addr) []endpoint.Port {
	for i := range f.in.Subjects {
		s := &f.in.Subjects[i]
		if len(s.Ports) > 0 && (s.IPv4.Prefix.IsValid() && s.IPv4.Prefix.Addr() == a || s.IPv6.Prefix.IsValid() && s.IPv6.Prefix.Addr() == a) {
			return s.Ports
		}
	}
	return f.in.Ports[a]
}

func (f *inputFacts) portNames() map[string][]portName {
	owners := slices.Collect(maps.Keys(f.in.Ports))
	for i := range f.in.Subjects {
		s := &f.in.Subjects[i]
		owners = append(owners, s.IPv4.Prefix.Addr(), s.IPv6.Prefix.Addr())
	}
	var names map[string][]portName
	for _, a := range owners {
		names = withNames(names, f.portsOf(a))
	}
	return names
}

func (f *inputFacts) known() map[identity.ID]label.Set {
	out := identity.Reserved()
	maps.Copy(out, f.in.Identities)
	return out
}

func (f *inputFacts) references() *References { return cmp.Or(f.in.References, noReferences) }

func (f *inputFacts) podPrefixes() []netip.Prefix {
	var out []netip.Prefix
	for i := range f.in.Addresses {
		if f.in.Addresses[i].Flags&podFlags != 0 {
			out = append(out, f.in.Addresses[i].Prefix)
		}
	}
	slices.SortFunc(out, comparePrefix)
	return out
}
