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

// Delta is a change of input: what is new or different, and what is gone. What
// is in both is new; what is the same as before, or gone already, is no change.
type Delta struct {
	Subjects     []Subject
	SubjectsGone []uint16

	Identities     map[identity.ID]label.Set
	IdentitiesGone []identity.ID

	Addresses     []Address
	AddressesGone []netip.Prefix

	Ports map[netip.Addr][]endpoint.Port // as in Input; none: gone

	Objects     []Object
	ObjectsGone []string // by Object.Key

	References *References // nil: as before
}

// difference is what leads from the input that the engine has to another.
func (e *Engine) difference(in *Input) Delta {
	d := Delta{Subjects: in.Subjects, Identities: in.Identities, Objects: in.Objects, References: cmp.Or(in.References, noReferences), Ports: map[netip.Addr][]endpoint.Port{}}
	subjects := make(map[uint16]bool, len(in.Subjects))
	for i := range in.Subjects {
		subjects[in.Subjects[i].Endpoint] = true
	}
	for id := range e.subjects {
		if !subjects[id] {
			d.SubjectsGone = append(d.SubjectsGone, id)
		}
	}
	reserved := identity.Reserved()
	for id, i := range e.ids.byID {
		_, said := in.Identities[id]
		_, always := reserved[id]
		if !said && i.known && (always || !isLocalCIDR(id)) {
			d.IdentitiesGone = append(d.IdentitiesGone, id)
		}
	}
	rows := make(map[netip.Prefix]Address, len(in.Addresses))
	for _, a := range in.Addresses {
		if a.Prefix.IsValid() {
			a.Prefix = a.Prefix.Masked()
			rows[a.Prefix] = a
		}
	}
	for p, a := range e.addr.rows.All() {
		if want, ok := rows[p]; !ok && a.isGiven {
			d.AddressesGone = append(d.AddressesGone, p)
		} else if ok && a.isGiven && a.given == want {
			delete(rows, p)
		}
	}
	d.Addresses = slices.Collect(maps.Values(rows))
	for ip := range e.addr.given {
		if len(in.Ports[ip]) == 0 {
			d.Ports[ip] = nil
		}
	}
	maps.Copy(d.Ports, in.Ports)
	objects := make(map[string]bool, len(in.Objects))
	for _, o := range in.Objects {
		objects[o.Key()] = true
	}
	for key := range e.objects {
		if !objects[key] {
			d.ObjectsGone = append(d.ObjectsGone, key)
		}
	}
	return d
}

// touched is what one change has touched so far.
type touched struct {
	first    bool
	names    map[string]bool        // port names, by nameKey
	selected map[string][]selection // by labels

	slotted    map[uint16]bool // endpoints whose slots may be others
	endpoints  map[uint16]bool // endpoints whose row may be another
	gone       []uint16        // endpoints
	newSlots   []*slot
	leftSlots  []*slot
	freedSlots []*slot
	columns    []uint16 // numbers of slots that are new or gone, in order

	portOwners []netip.Addr
	portsAt    []netip.Prefix
	rows       []netip.Prefix // that may be others
	wanted     []netip.Prefix // that policy speaks of now, or no longer
	looked     []*address     // whose peer may be another
	idents     []*ident       // whose own peer may be another
	doubtful   []*ident       // that may be forgotten

	bases     []*base
	newGroups []*group
	newUses   []*use
	leftUses  []*use
	newborn   []*peer
	left      []*peer  // that lost a reference
	dead      []uint32 // numbers of peers that are gone
	regrouped []*peer
	leftRows  []*row
	deadRows  []*row

	objects  bool // some object changed
	statuses bool // so did what became of one
	local    LocalIdentities
}

func (t *touched) changeRow(p netip.Prefix) { t.rows = append(t.rows, p) }

func (t *touched) sweep(b *base) {
	if !b.swept {
		b.swept = true
		t.bases = append(t.bases, b)
	}
}

// lookAt marks a row whose peer may be another.
func (t *touched) lookAt(e *Engine, a *address) {
	if a.stamp != e.stamp {
		a.stamp = e.stamp
		t.looked = append(t.looked, a)
	}
}

func (t *touched) lookAtIdent(e *Engine, i *ident) {
	if i.stamp != e.stamp {
		i.stamp = e.stamp
		t.idents = append(t.idents, i)
	}
}

// Apply carries a change of input out in what the engine wants, and gives the
// steps that bring the kernel there. They must be carried out in order, all of
// them; if one fails, start again with a new engine over the kernel's state.
// The work is in proportion to what changes.
func (e *Engine) Apply(d Delta) Outcome {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stamp++
	e.now = &touched{
		first: e.stamp == 1, names: map[string]bool{}, selected: map[string][]selection{},
		slotted: map[uint16]bool{}, endpoints: map[uint16]bool{},
		local: LocalIdentities{New: map[identity.ID]label.Set{}},
	}
	e.retry()
	e.takeObjects(&d)
	e.takeSubjects(&d)
	e.takePorts(&d)
	e.settleSlots()
	e.sortSlots()

	c := newChange(e)
	c.planSlots()
	e.settleUses()
	e.takeIdentities(&d)
	e.takeAddresses(&d)
	e.settleRows()
	e.splitUses()
	e.lookAround()
	e.settlePeers()
	e.settleEndpoints()
	e.bury()
	e.settleCells()
	ops := c.run()
	e.clean()
	return e.outcome(ops, c.errs)
}

func (e *Engine) takeObjects(d *Delta) {
	given := make(map[string]Object, len(d.Objects))
	for _, o := range d.Objects {
		given[o.Key()] = o
	}
	for _, key := range slices.Sorted(slices.Values(d.ObjectsGone)) {
		if _, again := given[key]; !again {
			e.dropObject(key)
		}
	}
	if d.References != nil && d.References != e.refs {
		e.refs = d.References
		for key, c := range e.objects {
			if _, other := given[key]; !other && c.parsed.refers {
				given[key] = c.object
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(given)) {
		e.putObject(given[key])
	}
	for key := range e.inherited {
		if e.now.first && e.objects[key] == nil {
			e.now.objects = true
		}
	}
	e.inherited = nil
}

func (e *Engine) takeSubjects(d *Delta) {
	for _, id := range slices.Sorted(slices.Values(d.SubjectsGone)) {
		if !slices.ContainsFunc(d.Subjects, func(s Subject) bool { return s.Endpoint == id }) {
			e.dropSubject(id)
		}
	}
	order := slices.Clone(d.Subjects)
	slices.SortStableFunc(order, func(a, b Subject) int { return cmp.Compare(a.Endpoint, b.Endpoint) })
	for i := range order {
		e.putSubject(order[i])
	}
}

func (e *Engine) takePorts(d *Delta) {
	for ip, ports := range d.Ports {
		if len(ports) > 0 {
			e.addr.given[ip] = ports
		} else {
			delete(e.addr.given, ip)
		}
		e.settlePorts(ip)
	}
	for _, ip := range e.now.portOwners {
		e.settlePorts(ip)
	}
	e.settleNames()
}

func (e *Engine) takeIdentities(d *Delta) {
	reserved := identity.Reserved()
	if e.now.first {
		for _, id := range slices.Sorted(maps.Keys(reserved)) {
			e.putIdent(id, reserved[id])
		}
	}
	for _, id := range slices.Sorted(slices.Values(d.IdentitiesGone)) {
		if _, said := d.Identities[id]; said {
			continue
		}
		if labels, ok := reserved[id]; ok {
			e.putIdent(id, labels)
		} else {
			e.dropIdent(id)
		}
	}
	var changed []identity.ID
	for id, labels := range d.Identities {
		if i := e.ids.byID[id]; i == nil || !i.known || !sameSet(i.labels, labels) {
			changed = append(changed, id)
		}
	}
	slices.Sort(changed)
	for _, id := range changed {
		e.putIdent(id, d.Identities[id])
	}
}

// putIdent gives an identity its labels.
func (e *Engine) putIdent(id identity.ID, labels label.Set) {
	i := e.ids.get(id)
	if i.known && sameSet(i.labels, labels) {
		return
	}
	was, at := i.known, i.place
	if was {
		e.ids.forget(i)
	}
	e.ids.learn(i, labels)
	e.moveIdent(i, e.groups.base(e.ids.usesOf(labels)), false)
	if !was || at != i.place {
		e.lookAtAll(i, at)
	}
}

// dropIdent forgets the labels of an identity.
func (e *Engine) dropIdent(id identity.ID) {
	i := e.ids.byID[id]
	if i == nil || !i.known {
		return
	}
	at := i.place
	e.ids.forget(i)
	e.now.sweep(i.base)
	i.base.leave(i)
	e.lookAtAll(i, at)
	e.now.doubtful = append(e.now.doubtful, i)
}

// lookAtAll marks all peers of an identity, and what lies inside its rows if
// they are the world's now or were.
func (e *Engine) lookAtAll(i *ident, was place) {
	e.now.lookAtIdent(e, i)
	for _, a := range i.addresses {
		e.now.lookAt(e, a)
		if (was == placeWorld) != (i.place == placeWorld) && e.addr.wanted.Len() > 0 {
			for p := range e.addr.wanted.Inside(a.Prefix) {
				e.now.wanted = append(e.now.wanted, p)
			}
		}
	}
}

func (e *Engine) takeAddresses(d *Delta) {
	for _, p := range d.AddressesGone {
		if !p.IsValid() {
			continue
		}
		if a, ok := e.addr.rows.Get(p); ok && a.isGiven {
			a.isGiven = false
			e.now.changeRow(p.Masked())
		}
	}
	for _, given := range d.Addresses {
		if !given.Prefix.IsValid() {
			continue
		}
		given.Prefix = given.Prefix.Masked()
		a := e.row(given.Prefix)
		a.isGiven, a.given = true, given
	}
	if e.now.first {
		for _, w := range worldsOf(&e.opts) {
			e.row(w.Prefix)
		}
		for p := range e.cidrs {
			e.now.wanted = append(e.now.wanted, p)
		}
		for p := range e.state.Addresses {
			e.now.changeRow(p)
		}
	}
}

// lookAround marks the rows that new or former selectors may tell apart.
func (e *Engine) lookAround() {
	for _, list := range [][]*use{e.now.leftUses, e.now.newUses} {
		for _, u := range list {
			if u.sel.byAddress() {
				e.lookAtUse(u)
			}
		}
	}
	if len(e.addr.byPort) > 0 {
		for _, p := range e.now.portsAt {
			if a, ok := e.addr.rows.Get(p); ok {
				e.now.lookAt(e, a)
			}
		}
	}
}
