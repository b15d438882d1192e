// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/prefix"
)

// address is a row of the ipcache as it is to be. Its content comes from the
// strongest of: the input, an endpoint whose address it is, the world, policy.
type address struct {
	Address         // in force
	given   Address // by the input
	isGiven bool
	claims  []uint16 // endpoints whose own address it is, in order
	local   bool     // a row of the engine's own, for a prefix that policy speaks of

	ident   *ident // nil: no row is in force
	identAt int
	peer    *peer
	stamp   uint64 // of the last change that looked at its peer
}

// rangeUse is one prefix of one selector.
type rangeUse struct {
	use    *use
	except []netip.Prefix
	k8s    bool
}

// addresses are all rows, and what tells those of one identity apart.
type addresses struct {
	rows   prefix.Table[*address]
	ranges prefix.Table[[]rangeUse]
	wanted prefix.Table[int] // prefixes and exceptions that policy speaks of, with how often

	given map[netip.Addr][]endpoint.Port // named ports of pods elsewhere
	ports map[netip.Addr][]endpoint.Port // of all pods
	named map[portName]map[netip.Addr]bool
	names map[string][]portName // numbers that pods give to port names, by nameKey; never changed, only replaced

	byPort   []*use // uses that are named ports
	unplaced *use
}

func newAddresses() *addresses {
	return &addresses{
		given: map[netip.Addr][]endpoint.Port{}, ports: map[netip.Addr][]endpoint.Port{},
		named: map[portName]map[netip.Addr]bool{}, names: map[string][]portName{},
	}
}

// row finds or makes the row of a prefix and marks it as changed.
func (e *Engine) row(p netip.Prefix) *address {
	a, ok := e.addr.rows.Get(p)
	if !ok {
		a = &address{}
		a.Prefix = p
		e.addr.rows.Put(p, a)
	}
	e.now.changeRow(p)
	return a
}

// settleRows brings rows into force: first those that say who is where, then
// those of the engine's own.
func (e *Engine) settleRows() {
	slices.SortFunc(e.now.rows, comparePrefix)
	e.now.rows = slices.Compact(e.now.rows)
	for _, p := range e.now.rows {
		e.settle(p)
	}
	slices.SortFunc(e.now.wanted, comparePrefix)
	for _, p := range slices.Compact(e.now.wanted) {
		e.settleOwn(p)
	}
}

// settle finds what a row is without regard to policy.
func (e *Engine) settle(p netip.Prefix) {
	a, ok := e.addr.rows.Get(p)
	if !ok {
		return
	}
	want := Address{}
	switch world, isWorld := e.world(p); {
	case a.isGiven:
		want = a.given
	case len(a.claims) > 0:
		want = e.subjects[a.claims[0]].own(p)
	case isWorld:
		want = world
	}
	was := a.Address
	switch {
	case want.Prefix.IsValid():
		e.putRow(a, want, false)
	case !a.local:
		e.dropRow(a)
	}
	if a.ident == nil && len(a.claims) == 0 {
		e.addr.rows.Delete(p)
	}
	if e.addr.wanted.Len() > 0 && (a.Identity != was.Identity || a.Node != was.Node || a.Flags != was.Flags || a.ident == nil || a.local) {
		for q := range e.addr.wanted.Inside(p) {
			e.now.wanted = append(e.now.wanted, q)
		}
	}
}

// settleOwn adds or removes the row that policy needs for a prefix. Inside the
// ranges of pods and nodes there is none: there an address is what the cluster
// says or nothing.
func (e *Engine) settleOwn(p netip.Prefix) {
	a, ok := e.addr.rows.Get(p)
	if ok && a.ident != nil && !a.local {
		e.dropCIDR(p)
		return
	}
	if n, _ := e.addr.wanted.Get(p); n > 0 {
		if outer := e.outer(p); outer != nil && outer.ident.place == placeWorld {
			if !ok {
				a = &address{}
				a.Prefix = p
				e.addr.rows.Put(p, a)
			}
			e.putRow(a, Address{Prefix: p, Identity: e.cidrIdentity(p), Node: outer.Node, Flags: outer.Flags}, true)
			return
		}
	}
	e.dropCIDR(p)
	if ok && a.local {
		e.dropRow(a)
		if len(a.claims) == 0 {
			e.addr.rows.Delete(p)
		}
	}
}

// outer is the row around a prefix that is not the engine's own.
func (e *Engine) outer(p netip.Prefix) *address {
	for q, a := range e.addr.rows.Containing(p) {
		if q != p && a.ident != nil && !a.local {
			return a
		}
	}
	return nil
}

// putRow brings content into force.
func (e *Engine) putRow(a *address, want Address, local bool) {
	if a.ident != nil && a.Address == want && a.local == local {
		return
	}
	e.now.changeRow(want.Prefix)
	a.local = local
	if i := e.ids.get(want.Identity); a.ident != i {
		if a.ident != nil {
			a.leave()
		}
		a.ident, a.identAt = i, len(i.addresses)
		i.addresses = append(i.addresses, a)
	}
	a.Address = want
	e.now.lookAt(e, a)
}

func (a *address) leave() {
	i := a.ident
	i.addresses = swapOut(i.addresses, a.identAt)
	if a.identAt < len(i.addresses) {
		i.addresses[a.identAt].identAt = a.identAt
	}
	a.ident = nil
}

// dropRow takes a row out of force.
func (e *Engine) dropRow(a *address) {
	if a.ident == nil {
		return
	}
	i := a.ident
	a.leave()
	e.point(a.peer, nil)
	a.peer = nil
	a.Address = Address{Prefix: a.Prefix}
	a.local = false
	e.now.changeRow(a.Prefix)
	e.now.doubtful = append(e.now.doubtful, i)
}

func comparePrefix(a, b netip.Prefix) int {
	if n := a.Addr().Compare(b.Addr()); n != 0 {
		return n
	}
	return a.Bits() - b.Bits()
}

// addUse takes a selector into account that tells addresses apart.
func (e *Engine) addUse(u *use) {
	s := u.sel
	for _, r := range s.ranges {
		have, _ := e.addr.ranges.Get(r.prefix)
		e.addr.ranges.Put(r.prefix, append(slices.Clone(have), rangeUse{use: u, except: r.except, k8s: s.k8s}))
		e.want(r, 1)
	}
	switch {
	case s.port != nil:
		e.addr.byPort = append(e.addr.byPort, u)
	case s.unplaced:
		e.addr.unplaced = u
	}
}

// dropUse is the opposite of addUse.
func (e *Engine) dropUse(u *use) {
	s := u.sel
	for _, r := range s.ranges {
		have, _ := e.addr.ranges.Get(r.prefix)
		if left := slices.DeleteFunc(slices.Clone(have), func(x rangeUse) bool { return x.use == u }); len(left) > 0 {
			e.addr.ranges.Put(r.prefix, left)
		} else {
			e.addr.ranges.Delete(r.prefix)
		}
		e.want(r, -1)
	}
	switch {
	case s.port != nil:
		e.addr.byPort = slices.DeleteFunc(e.addr.byPort, func(x *use) bool { return x == u })
	case s.unplaced:
		e.addr.unplaced = nil
	}
}

// want counts how often policy speaks of the prefixes of a range.
func (e *Engine) want(r cidrRange, more int) {
	one := func(p netip.Prefix) {
		n, _ := e.addr.wanted.Get(p)
		if n += more; n > 0 {
			e.addr.wanted.Put(p, n)
		} else {
			e.addr.wanted.Delete(p)
		}
		if n <= 1 {
			e.now.wanted = append(e.now.wanted, p)
		}
	}
	one(r.prefix)
	for _, x := range r.except {
		one(x)
	}
}

// lookAtUse marks the rows that a selector by address may tell from others.
func (e *Engine) lookAtUse(u *use) {
	s := u.sel
	for _, r := range s.ranges {
		for p, a := range e.addr.rows.Inside(r.prefix) {
			if a.ident != nil && (s.k8s || e.lenient(a.ident.place)) && !isCut(r.except, p) {
				e.now.lookAt(e, a)
			}
		}
	}
	if s.port != nil {
		n := *s.port
		n.loose = false
		for ip := range e.addr.named[n] {
			if a, ok := e.addr.rows.Get(netip.PrefixFrom(ip, ip.BitLen())); ok {
				e.now.lookAt(e, a)
			}
		}
	}
	if s.unplaced || s.port != nil && s.port.loose {
		for _, i := range e.ids.list {
			if i != nil && s.unplaced == (i.place == placePod) {
				e.now.lookAtIdent(e, i)
				if !s.unplaced {
					for _, a := range i.addresses {
						e.now.lookAt(e, a)
					}
				}
			}
		}
	}
}

func isCut(except []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(except, func(x netip.Prefix) bool { return holds(x, p) })
}

// lenient tells whether CIDR rules of the Cilium kinds match there.
func (e *Engine) lenient(at place) bool {
	return at == placeWorld || at == placeNode && e.opts.CIDRMatchNodes || at == placePod && e.opts.CIDRMatchPods
}

// settlePeers gives every row that was marked its peer.
func (e *Engine) settlePeers() {
	slices.SortFunc(e.now.looked, func(a, b *address) int { return comparePrefix(a.Prefix, b.Prefix) })
	for _, a := range e.now.looked {
		if a.ident == nil {
			continue
		}
		if p := e.peerAt(a.Prefix, a.ident); p != a.peer {
			e.point(a.peer, p)
			a.peer = p
			e.now.changeRow(a.Prefix)
			for _, id := range a.claims {
				e.now.endpoints[id] = true
			}
		}
	}
	slices.SortFunc(e.now.idents, func(a, b *ident) int { return int(int64(a.id) - int64(b.id)) })
	for _, i := range e.now.idents {
		var p *peer
		if i.known && i.id.Crosses() {
			p = e.peerAt(netip.Prefix{}, i)
		}
		if p != i.named {
			e.point(i.named, p)
			i.named = p
		}
		if i.subjects > 0 {
			for id, s := range e.subjects {
				if s.Identity == i.id {
					e.now.endpoints[id] = true
				}
			}
		}
	}
}

// peerAt gives the peer of an identity at a prefix; without one, of the identity alone.
func (e *Engine) peerAt(p netip.Prefix, i *ident) *peer {
	if !i.known {
		if i.id >= identity.MinAllocated && i.id < identity.LocalCIDR {
			return e.unresolved
		}
		return e.unknown
	}
	uses := e.holding(p, i.place)
	for _, u := range e.addr.byPort {
		if e.hasPort(p, i.place, u.sel.port) {
			uses = append(uses, u.id)
		}
	}
	if u := e.addr.unplaced; u != nil && i.place == placePod && !p.IsValid() {
		uses = append(uses, u.id)
	}
	slices.Sort(uses)
	return e.peerOf(i, e.groups.extra(slices.Compact(uses)))
}

// holding are the range selectors that hold all of a prefix.
func (e *Engine) holding(p netip.Prefix, at place) []int32 {
	if e.addr.ranges.Len() == 0 || !p.IsValid() {
		return nil
	}
	var out []int32
	lenient := e.lenient(at)
	for _, uses := range e.addr.ranges.Containing(p) {
		for _, u := range uses {
			if (u.k8s || lenient) && !isCut(u.except, p) {
				out = append(out, u.use.id)
			}
		}
	}
	return out
}

// hasPort tells whether a peer gives a named port this number.
func (e *Engine) hasPort(p netip.Prefix, at place, want *portName) bool {
	if want.loose && at != placePod {
		return true
	}
	return p.IsValid() && p.IsSingleIP() && slices.ContainsFunc(e.addr.ports[p.Addr()], func(have endpoint.Port) bool {
		return have.Number == want.number && have.Protocol == want.protocol && strings.EqualFold(have.Name, want.name)
	})
}

// settlePorts finds the named ports of whoever has an address.
func (e *Engine) settlePorts(ip netip.Addr) {
	row := netip.PrefixFrom(ip, ip.BitLen())
	want := e.addr.given[ip]
	a, ok := e.addr.rows.Get(row)
	if ok {
		for _, id := range a.claims {
			if ports := e.subjects[id].Ports; len(ports) > 0 {
				want = ports
				break
			}
		}
	}
	was := e.addr.ports[ip]
	if slices.Equal(was, want) {
		return
	}
	for _, n := range portNames(was) {
		if delete(e.addr.named[n], ip); len(e.addr.named[n]) == 0 {
			delete(e.addr.named, n)
			e.now.names[nameKey(n.name, n.protocol)] = true
		}
	}
	for _, n := range portNames(want) {
		if e.addr.named[n] == nil {
			e.addr.named[n] = map[netip.Addr]bool{}
			e.now.names[nameKey(n.name, n.protocol)] = true
		}
		e.addr.named[n][ip] = true
	}
	if len(want) > 0 {
		e.addr.ports[ip] = want
	} else {
		delete(e.addr.ports, ip)
	}
	e.now.portsAt = append(e.now.portsAt, row)
}

func portNames(ports []endpoint.Port) []portName {
	var out []portName
	for _, p := range ports {
		out = append(out, portName{name: strings.ToLower(p.Name), protocol: p.Protocol, number: p.Number})
	}
	return out
}

// settleNames writes down which numbers pods give to port names.
func (e *Engine) settleNames() {
	if len(e.now.names) == 0 {
		return
	}
	names := make(map[string][]portName, len(e.addr.names))
	for n := range e.addr.named {
		k := nameKey(n.name, n.protocol)
		names[k] = append(names[k], n)
	}
	for _, l := range names {
		slices.SortFunc(l, func(a, b portName) int { return int(a.number) - int(b.number) })
	}
	e.addr.names = names
	for id, s := range e.subjects {
		if s.speaksOf(e.now.names) {
			e.now.slotted[id] = true
		}
	}
}
