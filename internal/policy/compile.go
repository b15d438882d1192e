// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/prefix"
)

// model is what the kernel is to hold, before peers, classes and slots have
// numbers: those are found by comparing with what it holds now.
type model struct {
	slots     []*slot
	rows      [][]uint16 // set by slot; the first two are those of ClassUnknown and ClassUnresolved
	peers     []wantPeer // the first two are PeerUnknown and PeerUnresolved
	addresses prefix.Table[*wantAddress]
	order     []*wantAddress        // the same, sorted
	identity  map[identity.ID]int32 // peer of an identity whose address is not known
	endpoints map[uint16]wantEndpoint
	local     map[identity.ID]label.Set
	groups    []group
	uses      []*selector // by which groups differ
	useIndex  map[string]int32
	ports     map[netip.Addr][]endpoint.Port
	ranges    prefix.Table[[]rangeUse]
	names     map[string][]portName // numbers that pods give to port names, by nameKey
	errs      []error
}

type wantPeer struct {
	identity identity.ID
	group    int32
	row      int32
}

type wantAddress struct {
	Address
	peer  int32
	local bool // a row of the engine's own, for a prefix that policy speaks of

	old   Entry // what the kernel holds
	exist bool
}

type wantEndpoint struct {
	subject      *Subject
	slots        [2]int // by Direction
	enforcing    [2]bool
	peer4, peer6 int32
	policies     []string
	rules        [2][]*rule // that select it, by Direction
}

// group is all peers that match the same selectors.
type group struct {
	parent, use int32
	row         int32
	taken       bool
}

// rangeUse is one prefix of one selector.
type rangeUse struct {
	use    int32
	except []netip.Prefix
	k8s    bool
}

// compiler makes a model from input.
type compiler struct {
	e      *Engine
	in     *Input
	m      *model
	next   map[uint64]int32 // (group, use) -> group
	byKey  map[peerKey]int32
	byPort []int32 // uses that are named ports
	base   []int32 // identity index -> group by labels
}

type peerKey struct {
	identity identity.ID
	group    int32
}

func (e *Engine) compile(in *Input, rules []*rule) *model {
	c := &compiler{e: e, in: in, m: &model{peers: []wantPeer{{row: ClassUnknown}, {row: ClassUnresolved}}, endpoints: map[uint16]wantEndpoint{}, useIndex: map[string]int32{}}, next: map[uint64]int32{}, byKey: map[peerKey]int32{}}
	c.m.ports = c.namedPorts()
	c.subjects(rules)
	c.selectors()
	c.prefixes()
	e.matcher.update(in.Identities, c.m.local, c.unsaid())
	c.group()
	c.addressPeers()
	c.identityPeers()
	c.endpointPeers()
	c.cells()
	return c.m
}

// namedPorts are the named ports of every pod by address.
func (c *compiler) namedPorts() map[netip.Addr][]endpoint.Port {
	out := maps.Clone(c.in.Ports)
	if out == nil {
		out = map[netip.Addr][]endpoint.Port{}
	}
	for i := range c.in.Subjects {
		s := &c.in.Subjects[i]
		for _, a := range []Address{s.IPv4, s.IPv6} {
			if a.Prefix.IsValid() && len(s.Ports) > 0 {
				out[a.Prefix.Addr()] = s.Ports
			}
		}
	}
	return out
}

// portNames are the numbers that pods give to port names.
func (c *compiler) portNames() map[string][]portName {
	names := map[string][]portName{}
	for _, ports := range c.m.ports {
		for _, p := range ports {
			n := portName{name: strings.ToLower(p.Name), protocol: p.Protocol, number: p.Number}
			if k := nameKey(n.name, n.protocol); !slices.Contains(names[k], n) {
				names[k] = append(names[k], n)
			}
		}
	}
	for _, l := range names {
		slices.SortFunc(l, func(a, b portName) int { return int(a.number) - int(b.number) })
	}
	return names
}

// subjects finds the rules and the slots of every endpoint.
func (c *compiler) subjects(rules []*rule) {
	names := c.portNames()
	c.m.names = names
	b := newSlotBuilder(&c.e.opts, names)
	selected := map[string][2][]*rule{}
	order := make([]*Subject, len(c.in.Subjects))
	for i := range c.in.Subjects {
		order[i] = &c.in.Subjects[i]
	}
	slices.SortStableFunc(order, func(a, b *Subject) int {
		return cmp.Or(c.e.age(a)-c.e.age(b), cmp.Compare(a.Endpoint, b.Endpoint))
	})
	for _, s := range order {
		k := s.Labels.Key()
		mine, ok := selected[k]
		if !ok {
			mine = selecting(rules, s.Labels)
			selected[k] = mine
		}
		w := wantEndpoint{subject: s, rules: mine}
		for _, d := range []Direction{Egress, Ingress} {
			w.slots[d], w.enforcing[d] = b.slotFor(d, mine[d], s)
			for _, r := range mine[d] {
				if !slices.Contains(w.policies, r.origin.Object) {
					w.policies = append(w.policies, r.origin.Object)
				}
			}
		}
		slices.Sort(w.policies)
		c.m.endpoints[s.Endpoint] = w
	}
	c.m.slots = b.slots
	c.closeSurplus()
}

// closeSurplus lets nothing pass where there are more slots than numbers: all
// surplus ones become the closed slot.
func (c *compiler) closeSurplus() {
	if len(c.m.slots) <= SlotClosed {
		return
	}
	c.m.errs = append(c.m.errs, fmt.Errorf("%d different slots are more than the %d there are: the surplus endpoints are closed", len(c.m.slots), SlotClosed))
	closed := SlotClosed
	c.m.slots = append(c.m.slots[:closed:closed], &slot{key: "closed", closed: true})
	for id, w := range c.m.endpoints {
		for d, s := range w.slots {
			w.slots[d] = min(s, closed)
		}
		c.m.endpoints[id] = w
	}
}

// selecting are the rules, by direction, that select labels.
func selecting(rules []*rule, labels label.Set) (out [2][]*rule) {
	known := map[*selector]bool{}
	for _, r := range rules {
		hit, ok := known[r.subject]
		if !ok {
			hit = r.subject.matches(labels)
			known[r.subject] = hit
		}
		if hit {
			out[r.direction] = append(out[r.direction], r)
		}
	}
	return out
}

// selectors gathers what tells peers apart in any slot: label selectors first.
func (c *compiler) selectors() {
	all := map[string]*selector{}
	for _, s := range c.m.slots {
		for _, u := range s.uses {
			all[u.key] = u
		}
	}
	for _, byAddress := range []bool{false, true} {
		for _, k := range slices.Sorted(maps.Keys(all)) {
			if s := all[k]; s.byAddress() == byAddress {
				c.m.useIndex[k] = int32(len(c.m.uses))
				c.m.uses = append(c.m.uses, s)
			}
		}
	}
	for i, s := range c.m.uses {
		if s.port != nil {
			c.byPort = append(c.byPort, int32(i))
		}
		for _, r := range s.ranges {
			have, _ := c.m.ranges.Get(r.prefix)
			c.m.ranges.Put(r.prefix, append(have, rangeUse{use: int32(i), except: r.except, k8s: s.k8s}))
		}
	}
}

// group sorts the identities by the label selectors that match them.
func (c *compiler) group() {
	c.m.groups = append(c.m.groups[:0], group{parent: -1, use: -1})
	c.base = make([]int32, len(c.e.matcher.list))
	for i, s := range c.m.uses {
		if s.byAddress() {
			break
		}
		hit := c.e.matcher.match(s)
		hit.stamp = c.e.stamp
		hit.each(func(k int32) { c.base[k] = c.step(c.base[k], int32(i)) })
	}
}

// step is the group of those of a group that match one more selector.
func (c *compiler) step(g, use int32) int32 {
	key := uint64(g)<<32 | uint64(use)
	n, ok := c.next[key]
	if !ok {
		n = int32(len(c.m.groups))
		c.m.groups = append(c.m.groups, group{parent: g, use: use})
		c.next[key] = n
	}
	return n
}

// path gives the selectors of a group, as a test by index.
func (m *model) path(g int32) []int32 {
	var out []int32
	for ; g > 0; g = m.groups[g].parent {
		out = append(out, m.groups[g].use)
	}
	return out
}

func (c *compiler) peer(id identity.ID, g int32) int32 {
	k := peerKey{id, g}
	if p, ok := c.byKey[k]; ok {
		return p
	}
	p := int32(len(c.m.peers))
	c.byKey[k] = p
	c.m.groups[g].taken = true
	c.m.peers = append(c.m.peers, wantPeer{identity: id, group: g})
	return p
}

// identityPeers gives every identity that a tunnel header can carry a peer,
// also those without an address yet.
func (c *compiler) identityPeers() {
	c.m.identity = make(map[identity.ID]int32, len(c.e.matcher.index))
	for _, id := range slices.Sorted(maps.Keys(c.e.matcher.index)) {
		if id.Crosses() {
			c.m.identity[id] = c.addressPeer(netip.Prefix{}, id)
		}
	}
}

func (c *compiler) endpointPeers() {
	for id, w := range c.m.endpoints {
		w.peer4, w.peer6 = c.subjectPeer(w.subject, w.subject.IPv4), c.subjectPeer(w.subject, w.subject.IPv6)
		c.m.endpoints[id] = w
	}
}

func (c *compiler) subjectPeer(s *Subject, a Address) int32 {
	if a.Prefix.IsValid() {
		if row, ok := c.m.addresses.Get(a.Prefix); ok && row.Identity == s.Identity {
			return row.peer
		}
	}
	if p, ok := c.m.identity[s.Identity]; ok {
		return p
	}
	return c.addressPeer(netip.Prefix{}, s.Identity)
}

// cells computes the row of every group: one set for each slot.
func (c *compiler) cells() {
	m := c.m
	taken := []int32{}
	with := make([][]int32, len(m.uses)) // selector -> places in taken
	for g := range m.groups {
		if m.groups[g].taken {
			for _, u := range m.path(int32(g)) {
				with[u] = append(with[u], int32(len(taken)))
			}
			taken = append(taken, int32(g))
		}
	}
	n := len(m.slots)
	cells := make([]uint16, (len(taken)+2)*n) // the two pessimistic rows first
	for s, slot := range m.slots {
		cells[s] = c.e.set(slot, slot.pessimistic(false))
		cells[n+s] = c.e.set(slot, slot.pessimistic(true))
		c.column(s, slot, with, len(taken), func(group int, set uint16) { cells[(group+2)*n+s] = set })
	}
	m.rows = [][]uint16{cells[:n:n], cells[n : 2*n : 2*n]}
	index := map[string]int32{}
	key := make([]byte, 2*n)
	for i, g := range taken {
		row := cells[(i+2)*n : (i+3)*n : (i+3)*n]
		for j, v := range row {
			key[2*j], key[2*j+1] = byte(v), byte(v>>8)
		}
		r, ok := index[string(key)]
		if !ok {
			r = int32(len(m.rows))
			m.rows = append(m.rows, row)
			index[string(key)] = r
		}
		m.groups[g].row = r
	}
	for i := range m.peers {
		if i >= PeerFirst {
			m.peers[i].row = m.groups[m.peers[i].group].row
		}
	}
}

// column computes a slot's set for every group: groups that match the same of
// the slot's selectors share one fold.
func (c *compiler) column(s int, slot *slot, with [][]int32, groups int, store func(group int, set uint16)) {
	state := make([]int32, groups)
	type node struct{ parent, use int32 }
	nodes := []node{{-1, -1}}
	next := map[uint64]int32{}
	for _, u := range slot.uses {
		use := c.m.useIndex[u.key]
		for _, g := range with[use] {
			key := uint64(state[g])<<32 | uint64(use)
			n, ok := next[key]
			if !ok {
				n = int32(len(nodes))
				nodes = append(nodes, node{state[g], use})
				next[key] = n
			}
			state[g] = n
		}
	}
	sets := make([]int32, len(nodes))
	for i := range sets {
		sets[i] = -1
	}
	for g, n := range state {
		if sets[n] < 0 {
			has := map[string]bool{}
			for k := n; k > 0; k = nodes[k].parent {
				has[c.m.uses[nodes[k].use].key] = true
			}
			sets[n] = int32(c.e.set(slot, slot.matching(func(k string) bool { return has[k] })))
		}
		store(g, uint16(sets[n]))
	}
}
