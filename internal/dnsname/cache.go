// SPDX-License-Identifier: Apache-2.0

package dnsname

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Limits of a cache. Zero means the default.
type Limits struct {
	MinTTL    time.Duration // an address is good for at least so long; 0: as the answer says
	Addresses int           // of one name for one endpoint whose time is not over; 1000
	Entries   int           // of one endpoint whose time is not over, over all names; 100,000
	Zombies   int           // of one endpoint whose time is over; 10,000
	Grace     time.Duration // an answer may be used for so long, even if its time was shorter; 1 minute
}

func (l Limits) defaults() Limits {
	l.Addresses = cmp.Or(l.Addresses, 1000)
	l.Entries = cmp.Or(l.Entries, 100_000)
	l.Zombies = cmp.Or(l.Zombies, 10_000)
	l.Grace = cmp.Or(l.Grace, time.Minute)
	return l
}

// Entry is an address that an endpoint of this node learned for a name.
type Entry struct {
	Endpoint uint16
	Name     string // canonical
	Addr     netip.Addr
	Learned  time.Time // last
	Expires  time.Time // of a zombie: when its time was over, or it had to make room
	// Zombie: its time is over, and nobody has told yet that no connection uses it.
	Zombie bool
}

// Cache holds what endpoints learned. An address whose time is over stays, as a
// zombie, until Sweep finds that nothing uses it, or until there are too many of
// them. So does the one that was learned first when a name has too many: it may
// be in use. The clock is the caller's; it is safe for use by many.
type Cache struct {
	limits Limits

	mu        sync.Mutex
	endpoints map[uint16]*endpoint
	order     uint64 // of what was learned, to tell apart what has the same time
}

// endpoint is what one endpoint learned.
type endpoint struct {
	names   map[string]*nameEntries
	addrs   map[netip.Addr]*entry // head of the list of those with the address
	live    queue                 // time is not over
	zombies queue                 // time is over: the one that was over first goes first
}

type nameEntries struct {
	name  string
	addrs map[netip.Addr]*entry
	live  queue
}

type entry struct {
	name             *nameEntries
	addr             netip.Addr
	learned, expires int64 // Unix time in nanoseconds
	order            uint64
	at               [places]int32
	zombie           bool
	next, prev       *entry // with the same address, in no order
}

// NewCache makes an empty one.
func NewCache(l Limits) *Cache {
	return &Cache{limits: l.defaults(), endpoints: map[uint16]*endpoint{}}
}

// Learn notes that an endpoint was told the addresses of a canonical name, for
// ttl seconds. It tells which addresses the endpoint had for no name before, and
// which entries had to go: they were zombies, one too many.
func (c *Cache) Learn(now time.Time, id uint16, name string, addrs []netip.Addr, ttl uint32) (fresh []netip.Addr, gone []Entry) {
	if ttl > math.MaxInt32 { // RFC 2181, section 8
		ttl = 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	expires := now.Add(max(time.Duration(ttl)*time.Second, c.limits.MinTTL)).UnixNano()
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		if ep := c.endpoints[id]; ep == nil || ep.addrs[a] == nil {
			fresh = append(fresh, a)
		}
		gone = c.learn(gone, id, name, a, now.UnixNano(), expires)
	}
	return fresh, gone
}

// learn takes one address in. A time that was told before and is longer stays.
func (c *Cache) learn(gone []Entry, id uint16, name string, a netip.Addr, now, expires int64) []Entry {
	ep := c.endpoint(id)
	n := ep.names[name]
	if n == nil {
		n = &nameEntries{name: name, addrs: map[netip.Addr]*entry{}, live: queue{in: ofName}}
		ep.names[name] = n
	}
	c.order++
	e := n.addrs[a]
	switch {
	case e == nil:
		e = &entry{name: n, addr: a, learned: now, expires: expires, order: c.order}
		ep.add(e)
	case e.zombie:
		ep.zombies.remove(e)
		e.zombie, e.learned, e.expires, e.order = false, now, expires, c.order
		ep.enliven(e)
	default:
		e.learned, e.expires, e.order = now, max(e.expires, expires), c.order
		ep.live.moved(e)
		n.live.moved(e)
	}
	if len(n.live.list) > c.limits.Addresses {
		ep.retire(n.live.first(), now)
	}
	if len(ep.live.list) > c.limits.Entries {
		ep.retire(ep.live.first(), now)
	}
	return c.bound(gone, id, ep)
}

func (c *Cache) endpoint(id uint16) *endpoint {
	ep := c.endpoints[id]
	if ep == nil {
		ep = &endpoint{
			names: map[string]*nameEntries{}, addrs: map[netip.Addr]*entry{},
			live: queue{in: ofEndpoint}, zombies: queue{in: ofEndpoint},
		}
		c.endpoints[id] = ep
	}
	return ep
}

// add takes in a new entry.
func (ep *endpoint) add(e *entry) {
	e.name.addrs[e.addr] = e
	if e.next = ep.addrs[e.addr]; e.next != nil {
		e.next.prev = e
	}
	ep.addrs[e.addr] = e
	ep.enliven(e)
}

func (ep *endpoint) enliven(e *entry) {
	ep.live.push(e)
	e.name.live.push(e)
}

// retire makes a zombie of an entry: its time is over now, if it was not before.
func (ep *endpoint) retire(e *entry, now int64) {
	ep.live.remove(e)
	e.name.live.remove(e)
	e.zombie, e.expires = true, min(e.expires, now)
	ep.zombies.push(e)
}

// drop removes a zombie.
func (ep *endpoint) drop(e *entry) {
	ep.zombies.remove(e)
	delete(e.name.addrs, e.addr)
	if len(e.name.addrs) == 0 {
		delete(ep.names, e.name.name)
	}
	switch {
	case e.prev != nil:
		e.prev.next = e.next
	case e.next != nil:
		ep.addrs[e.addr] = e.next
	default:
		delete(ep.addrs, e.addr)
	}
	if e.next != nil {
		e.next.prev = e.prev
	}
}

// bound keeps the number of an endpoint's zombies.
func (c *Cache) bound(gone []Entry, id uint16, ep *endpoint) []Entry {
	for len(ep.zombies.list) > c.limits.Zombies {
		e := ep.zombies.first()
		ep.drop(e)
		gone = append(gone, e.entry(id))
	}
	return gone
}

func (e *entry) entry(id uint16) Entry {
	return Entry{
		Endpoint: id, Name: e.name.name, Addr: e.addr, Zombie: e.zombie,
		Learned: time.Unix(0, e.learned), Expires: time.Unix(0, e.expires),
	}
}

// Sweep makes zombies of what is over, and forgets those that no connection of
// their endpoint uses and that were not learned just now. alive tells, and must
// not call the cache. What is forgotten comes back in a fixed order.
func (c *Cache) Sweep(now time.Time, alive func(endpoint uint16, addr netip.Addr) bool) (gone []Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, ep := range c.endpoints {
		for e := ep.live.first(); e != nil && e.expires <= now.UnixNano(); e = ep.live.first() {
			ep.retire(e, now.UnixNano())
		}
		for _, e := range slices.Clone(ep.zombies.list) {
			if now.UnixNano()-e.learned >= int64(c.limits.Grace) && !alive(id, e.addr) {
				ep.drop(e)
				gone = append(gone, e.entry(id))
			}
		}
		gone = c.bound(gone, id, ep)
		if len(ep.names) == 0 {
			delete(c.endpoints, id)
		}
	}
	slices.SortFunc(gone, compare)
	return gone
}

// Forget drops what an endpoint, or all with id 0, learned for names that match,
// used or not.
func (c *Cache) Forget(id uint16, p Pattern) (gone []Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at, ep := range c.endpoints {
		if id != 0 && id != at {
			continue
		}
		for name, n := range ep.names {
			if !p.Match(name) {
				continue
			}
			for _, e := range n.addrs {
				gone = append(gone, e.entry(at))
				if !e.zombie {
					ep.retire(e, math.MaxInt64)
				}
				ep.drop(e)
			}
		}
		if len(ep.names) == 0 {
			delete(c.endpoints, at)
		}
	}
	slices.SortFunc(gone, compare)
	return gone
}

// compare orders by endpoint, name and address.
func compare(a, b Entry) int {
	return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Name, b.Name), a.Addr.Compare(b.Addr))
}

// Names are those that an endpoint learned an address for, in order.
func (c *Cache) Names(id uint16, a netip.Addr) (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ep := c.endpoints[id]; ep != nil {
		for e := ep.addrs[a.Unmap().WithZone("")]; e != nil; e = e.next {
			names = append(names, e.name.name)
		}
	}
	slices.Sort(names)
	return names
}

// Addresses are those of names that match, of every endpoint, in order and each once.
func (c *Cache) Addresses(p Pattern) (addrs []netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ep := range c.endpoints {
		if p.kind == matchExact {
			addrs = ep.names[p.rest].append(addrs)
			continue
		}
		for name, n := range ep.names {
			if p.Match(name) {
				addrs = n.append(addrs)
			}
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

func (n *nameEntries) append(addrs []netip.Addr) []netip.Addr {
	if n != nil {
		for a := range n.addrs {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// Entries are all there are, by endpoint, name and address.
func (c *Cache) Entries() []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Entry
	for id, ep := range c.endpoints {
		for _, n := range ep.names {
			for _, e := range n.addrs {
				all = append(all, e.entry(id))
			}
		}
	}
	slices.SortFunc(all, compare)
	return all
}
