// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"reflect"
	"slices"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// feed remembers what the engine was given, so that it is given only what is new.
type feed struct {
	remotes    *table.Cursor[endpoint.Remote]
	identities *table.Cursor[identity.Identity]
	policies   *table.Cursor[policy.Object]

	whole     bool                         // the next step gives everything
	ips       map[string][]netip.Addr      // of each endpoint of the cluster, by key
	endpoints map[uint16]endpoint.Endpoint // of this node
}

// news is what changed in tables that may be long.
type news struct {
	remotes    []table.Change[endpoint.Remote]
	identities []table.Change[identity.Identity]
	policies   []table.Change[policy.Object]
}

// read gives what changed since the last call.
func (d *feed) read(t *tables) (n news) {
	if d.remotes == nil {
		d.remotes, d.identities, d.policies = t.remotes.Changes(), t.identities.Changes(), t.policies.Changes()
		d.whole = true
	}
	n.remotes, _ = d.remotes.Next()
	n.identities, _ = d.identities.Next()
	n.policies, _ = d.policies.Next()
	return n
}

// surroundings are inputs that seldom change. What follows from them is derived
// as a whole.
type surroundings struct {
	nodes      []node.Node // with the addresses that each keeps
	conflicts  []string    // about addresses that several claim
	hostIPs    []netip.Addr
	apiServers []netip.Addr

	revisions [3]uint64
	started   bool
}

// read takes them from the tables, and tells whether they are the same as before.
func (s *surroundings) read(t *tables) bool {
	endpointSlices := t.slices.Snapshot()
	now := [3]uint64{t.nodes.Revision(), t.hostAddresses.Revision(), endpointSlices.Revision()}
	if s.started && now == s.revisions {
		return true
	}
	next := surroundings{
		hostIPs: rowsOf(t.hostAddresses), apiServers: service.APIServers(endpointSlices), revisions: now, started: true,
	}
	next.nodes, next.conflicts = settleClaims(rowsOf(t.nodes))
	same := s.started && reflect.DeepEqual(s.nodes, next.nodes) && slices.Equal(s.hostIPs, next.hostIPs) && slices.Equal(s.apiServers, next.apiServers)
	*s = next
	return same
}

// deriveAddresses derives the rows of all addresses and shows them.
func (f *enforcer) deriveAddresses(subjects []endpoint.Endpoint) []Address {
	var native []netip.Prefix
	for _, p := range []netip.Prefix{f.opts.NativeCIDR4, f.opts.NativeCIDR6} {
		if p.IsValid() {
			native = append(native, p)
		}
	}
	f.book = newAddressBook(addressInput{
		Endpoints: subjects, Remotes: rowsOf(f.tables.remotes), Nodes: f.around.nodes, Index: f.numbers.byName,
		HostIPs: f.around.hostIPs, APIServers: f.around.apiServers, NodeLabels: f.opts.NodeLabels,
		IPv4: f.opts.IPv4, IPv6: f.opts.IPv6, Tunnel: f.opts.Routing == RoutingTunnel, Native: native,
	})
	rows := f.book.rows()
	f.addresses.Replace(rows, func(a, b Address) bool { return a == b })
	if f.opts.NodeLabels {
		f.nodeIDs = identitiesOfNodes(f.around.nodes, rows, f.around.apiServers)
	}
	return rows
}

// input is everything that policy depends on.
func (f *enforcer) input(subjects []endpoint.Endpoint, rows []Address) policy.Input {
	in := policy.Input{
		Identities: f.ids.known(),
		Ports:      map[netip.Addr][]endpoint.Port{},
		Objects:    rowsOf(f.tables.policies),
		References: f.refs.update(f.tables),
		Addresses:  make([]policy.Address, 0, len(rows)),
	}
	for id, labels := range reservedLabels(rows, f.around.apiServers) {
		in.Identities[id] = labels
	}
	for id, labels := range f.nodeIDs {
		in.Identities[id] = labels
	}
	f.feed.ips = map[string][]netip.Addr{}
	remotes := rowsOf(f.tables.remotes)
	for _, r := range remotes {
		f.feed.ips[r.Key()] = r.IPs
	}
	for ip, r := range claims(remotes, f.book.byIP) {
		if len(r.Ports) > 0 {
			in.Ports[ip] = r.Ports
		}
	}
	for _, a := range rows {
		in.Addresses = append(in.Addresses, a.Address)
	}
	f.feed.endpoints = map[uint16]endpoint.Endpoint{}
	for _, e := range subjects {
		f.feed.endpoints[e.ID] = e
		for _, ip := range addrsOf(e) { // of a pod elsewhere that had the address before
			delete(in.Ports, ip)
		}
		in.Subjects = append(in.Subjects, subjectOf(e))
		in.Identities[e.Identity] = e.Labels // also if its object was deleted by mistake
	}
	return in
}

// subjectOf is an endpoint as policy sees it.
func subjectOf(e endpoint.Endpoint) policy.Subject {
	s := policy.Subject{Endpoint: e.ID, Incarnation: e.Incarnation, Identity: e.Identity, Labels: e.Labels, Ports: e.Ports, Audit: e.Audit}
	own := func(a netip.Addr) policy.Address {
		if !a.IsValid() {
			return policy.Address{}
		}
		return policy.Address{Prefix: host(a), Identity: e.Identity, Node: localNode, Flags: policy.AddressPod}
	}
	s.IPv4, s.IPv6 = own(e.IPv4), own(e.IPv6)
	return s
}

// changedAddress is a prefix with its row, if it still has one.
type changedAddress struct {
	prefix netip.Prefix
	row    Address
	exists bool
}

// delta is what changed for policy. It is not ok where only everything will do.
func (f *enforcer) delta(subjects []endpoint.Endpoint, n news) (d policy.Delta, changed []changedAddress, ok bool) {
	d = policy.Delta{Identities: map[identity.ID]label.Set{}, Ports: map[netip.Addr][]endpoint.Port{}, References: f.refs.update(f.tables)}
	ips := map[netip.Addr]bool{}
	ids := map[identity.ID]bool{}
	f.endpointChanges(subjects, &d, ips, ids)
	for _, c := range n.remotes {
		for _, ip := range f.feed.ips[c.Key] {
			ips[ip] = true
		}
		delete(f.feed.ips, c.Key)
		if !c.Deleted {
			f.feed.ips[c.Key] = c.Row.IPs
			for _, ip := range c.Row.IPs {
				ips[ip] = true
			}
		}
	}
	for _, c := range n.identities {
		ids[c.Row.ID] = true
	}
	for _, c := range n.policies {
		if c.Deleted {
			d.ObjectsGone = append(d.ObjectsGone, c.Key)
		} else {
			d.Objects = append(d.Objects, c.Row)
		}
	}
	for ip := range ips {
		if f.book.isAPIServer(ip) {
			return d, nil, false // whose labels depend on who has its addresses
		}
		changed = append(changed, f.changeAddress(ip, &d))
	}
	f.identityChanges(subjects, ids, &d)
	return d, changed, true
}

// endpointChanges compares the endpoints of this node with those that the engine has.
func (f *enforcer) endpointChanges(subjects []endpoint.Endpoint, d *policy.Delta, ips map[netip.Addr]bool, ids map[identity.ID]bool) {
	touch := func(e endpoint.Endpoint) {
		ids[e.Identity] = true
		for _, ip := range addrsOf(e) {
			ips[ip] = true
		}
	}
	current := make(map[uint16]bool, len(subjects))
	var changed []endpoint.Endpoint
	for _, e := range subjects {
		current[e.ID] = true
		old, known := f.feed.endpoints[e.ID]
		if known && sameForPolicy(&old, &e) {
			continue
		}
		if known {
			f.book.dropEndpoint(old)
			touch(old)
		}
		changed = append(changed, e)
		d.Subjects = append(d.Subjects, subjectOf(e))
	}
	for id, old := range f.feed.endpoints {
		if !current[id] {
			delete(f.feed.endpoints, id)
			f.book.dropEndpoint(old)
			touch(old)
			d.SubjectsGone = append(d.SubjectsGone, id)
		}
	}
	for _, e := range changed {
		f.feed.endpoints[e.ID] = e
		f.book.putEndpoint(e)
		touch(e)
	}
}

func sameForPolicy(a, b *endpoint.Endpoint) bool {
	return a.Incarnation == b.Incarnation && a.Identity == b.Identity && a.IPv4 == b.IPv4 && a.IPv6 == b.IPv6 && a.Audit == b.Audit &&
		a.Namespace == b.Namespace && a.Pod == b.Pod && slices.Equal(a.Labels, b.Labels) && slices.Equal(a.Ports, b.Ports)
}

// changeAddress finds out who has an address.
func (f *enforcer) changeAddress(ip netip.Addr, d *policy.Delta) changedAddress {
	var claim endpoint.Remote
	claimed := false
	for _, r := range f.tables.remotes.Snapshot().Index("ip", ip.String()) {
		if isElsewhere(r, f.book.byIP) && (!claimed || outranks(r, claim)) {
			claim, claimed = r, true
		}
	}
	f.book.dropRemote(ip)
	if claimed {
		f.book.putRemote(ip, claim)
	}
	d.Ports[ip] = claim.Ports
	c := changedAddress{prefix: host(ip)}
	if c.row, c.exists = f.book.row(c.prefix); !c.exists {
		d.AddressesGone = append(d.AddressesGone, c.prefix)
		return c
	}
	if c.row.Source == SourceEndpoint {
		d.Ports[ip] = nil
	}
	d.Addresses = append(d.Addresses, c.row.Address)
	return c
}

// identityChanges finds the labels of identities: those of an endpoint count
// also if the object was deleted by mistake.
func (f *enforcer) identityChanges(subjects []endpoint.Endpoint, ids map[identity.ID]bool, d *policy.Delta) {
	for _, i := range f.ids.fresh() {
		ids[i] = true
	}
	for id := range ids {
		if labels, ok := f.ids.labelsOf(id); ok {
			d.Identities[id] = labels
		} else if id.IsAllocated() {
			d.IdentitiesGone = append(d.IdentitiesGone, id)
		}
	}
	for i := range subjects {
		if ids[subjects[i].Identity] {
			d.Identities[subjects[i].Identity] = subjects[i].Labels
		}
	}
}

// storeAddresses shows the rows that changed.
func (f *enforcer) storeAddresses(changed []changedAddress) {
	f.addresses.Update(func(tx *table.Tx[Address]) {
		for _, c := range changed {
			key := c.prefix.String()
			if !c.exists {
				tx.Delete(key)
			} else if old, ok := tx.Get(key); !ok || old != c.row {
				tx.Upsert(c.row)
			}
		}
	})
}
