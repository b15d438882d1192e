// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/ipam"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/table"
)

// maxEndpoint is the highest id of an endpoint.
const maxEndpoint = abi.EndpointsMax - 1

// endpoints owns the pods' interfaces of this node. Its table is what all
// others read; the files in state are what a restart reads.
//
// Locking: mu guards pools, ids and policies; busy serializes the calls for one
// container. The table's rows are changed in transactions only.
type endpoints struct {
	log     *slog.Logger
	opts    Options
	metrics *metrics
	dp      Datapath
	state   stateDir
	writer  *table.Writer[endpoint.Endpoint]
	table   *table.Table[endpoint.Endpoint]

	busy    keyedMutex
	leaving sync.Mutex // an endpoint is opened or relabelled, or on its way out, not both

	mu     sync.Mutex
	pools  map[int]*ipam.Pool // by family
	lastID uint16
	coming map[uint16]bool // ids given out whose row is not in the table yet
	dirty  map[uint16]bool // ids that are gone, but policy may not know it yet

	policies map[uint16][]string // keys of the policies that select an endpoint
}

func newEndpoints(log *slog.Logger, o Options, m *metrics, w *table.Writer[endpoint.Endpoint]) *endpoints {
	return &endpoints{
		log: log, opts: o, metrics: m, state: stateDir(o.RunDir), writer: w, table: w.Table(),
		busy: keyedMutex{held: map[string]chan struct{}{}}, coming: map[uint16]bool{}, dirty: map[uint16]bool{}, pools: map[int]*ipam.Pool{},
		lastID: uint16(rand.Uint32N(maxEndpoint)),
	}
}

// setPools gives the ranges to take addresses from.
func (m *endpoints) setPools(ranges []netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.opts.families() {
		var own []netip.Prefix
		for _, r := range ranges {
			if familyOf(r.Addr()) == f {
				own = append(own, r)
			}
		}
		p, err := ipam.New(ipam.Options{Ranges: own, Rest: m.opts.AddressRest})
		if err != nil {
			return fmt.Errorf("IPv%d: %w", f, err)
		}
		m.pools[f] = p
	}
	return nil
}

// usage of the addresses of a family.
type usage struct {
	family int
	taken  int // without the router
	size   float64
}

func (m *endpoints) usage() []usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []usage
	for _, f := range m.opts.families() {
		if p := m.pools[f]; p != nil {
			u := usage{family: f, size: p.Size() - 1}
			for _, owner := range p.Taken() {
				if owner != ipam.OwnerRouter {
					u.taken++
				}
			}
			out = append(out, u)
		}
	}
	return out
}

// attachment says what ADD wants.
type attachment struct {
	ContainerID, IfName, NetNS string
	Pod                        endpoint.Pod
	Labels                     label.Set
	Identity                   identity.ID
}

// find returns the endpoint of a container's interface.
func (m *endpoints) find(containerID, ifName string) (endpoint.Endpoint, bool) {
	for _, e := range m.table.Snapshot().Index("container", containerID) {
		if ifName == "" || e.ContainerIfName == ifName {
			return e, true
		}
	}
	return endpoint.Endpoint{}, false
}

// attach makes the endpoint and leaves it waiting for policy; settle opens it.
// An interface that is attached already is returned as it is.
func (m *endpoints) attach(ctx context.Context, a attachment) (endpoint.Endpoint, error) {
	if e, ok := m.find(a.ContainerID, a.IfName); ok {
		if e.NetNS == a.NetNS && e.State != endpoint.StateDisconnecting && e.State != endpoint.StateNotReady {
			return e, nil
		}
		if err := m.remove(ctx, e); err != nil { // what an interrupted ADD left
			return endpoint.Endpoint{}, err
		}
	}
	e := endpoint.Endpoint{
		ContainerID: a.ContainerID, ContainerIfName: a.IfName, NetNS: a.NetNS,
		Namespace: a.Pod.Namespace, Pod: a.Pod.Name, PodUID: a.Pod.UID, Ports: a.Pod.Ports,
		Labels: a.Labels, Identity: a.Identity, Created: time.Now(), State: endpoint.StateWaitingToRegenerate,
	}
	if err := m.reserve(&e); err != nil {
		return e, err
	}
	err := m.plug(ctx, &e)
	if err != nil {
		e.State, e.Error = endpoint.StateNotReady, err.Error()
	}
	m.writer.Upsert(e)
	m.mu.Lock()
	delete(m.coming, e.ID)
	m.mu.Unlock()
	if err != nil {
		// If this fails too, the row stays, and DEL or a restart tries again.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		err = errors.Join(err, m.remove(ctx, e))
	}
	return e, err
}

// cleanupTimeout bounds what is undone after a call has failed.
const cleanupTimeout = 10 * time.Second

// reserve gives the endpoint its id and addresses.
func (m *endpoints) reserve(e *endpoint.Endpoint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, err := m.freeID()
	if err != nil {
		return err
	}
	owner := owner(*e)
	for _, f := range m.opts.families() {
		pool := m.pools[f]
		if pool == nil {
			err = errors.New("this node has no pod range yet")
			break
		}
		var a netip.Addr
		if a, err = pool.Allocate(owner); err != nil {
			break
		}
		m.metrics.countAddress("allocate", f)
		if f == 4 {
			e.IPv4 = a
		} else {
			e.IPv6 = a
		}
	}
	if err != nil {
		m.releaseAddresses(*e)
		return err
	}
	e.ID, e.Incarnation = id, max(1, rand.Uint32())
	m.coming[id] = true
	return nil
}

// freeID picks the next id that neither an endpoint nor policy uses.
func (m *endpoints) freeID() (uint16, error) {
	s := m.table.Snapshot()
	for range maxEndpoint {
		if m.lastID++; m.lastID > maxEndpoint {
			m.lastID = 1
		}
		if _, used := s.Get(fmt.Sprint(m.lastID)); !used && !m.dirty[m.lastID] && !m.coming[m.lastID] {
			return m.lastID, nil
		}
	}
	return 0, fmt.Errorf("this node has %d endpoints, which is all it can have", maxEndpoint)
}

// plug makes the link and the row in the kernel. The file comes first, so that
// a restart finds what is half done.
func (m *endpoints) plug(ctx context.Context, e *endpoint.Endpoint) error {
	if err := m.state.save(*e, false); err != nil {
		return err
	}
	link := podLink(*e)
	if err := m.dp.AddPodLink(ctx, &link); err != nil {
		return err
	}
	e.Interface, e.MAC, e.NodeMAC, e.IfIndex = link.HostIfName, link.MAC, link.NodeMAC, link.IfIndex
	if err := m.dp.PutEndpoint(base(*e)); err != nil {
		return err
	}
	return m.state.save(*e, true)
}

// remove takes an endpoint away. What is absent already is no error.
func (m *endpoints) remove(ctx context.Context, e endpoint.Endpoint) error {
	m.leaving.Lock()
	m.change(e.ID, e.Incarnation, func(row *endpoint.Endpoint) { row.State = endpoint.StateDisconnecting })
	m.leaving.Unlock()
	// Flows and rows first: the address must be clean before anyone gets it.
	if err := m.dp.RemoveEndpoint(e.ID); err != nil {
		return fmt.Errorf("remove endpoint %d: %w", e.ID, err)
	}
	if err := m.dp.DelPodLink(ctx, podLink(e)); err != nil {
		return fmt.Errorf("remove link of endpoint %d: %w", e.ID, err)
	}
	if err := m.state.forget(e.ID); err != nil {
		return err
	}
	m.mu.Lock()
	m.dirty[e.ID] = true
	m.releaseAddresses(e)
	m.mu.Unlock()
	m.writer.Delete(fmt.Sprint(e.ID))
	return nil
}

// evict removes an endpoint that nobody asked to remove, unless a call for its
// container was quicker.
func (m *endpoints) evict(ctx context.Context, e endpoint.Endpoint) error {
	unlock, err := m.busy.lock(ctx, e.ContainerID)
	if err != nil {
		return err
	}
	defer unlock()
	if now, ok := m.table.Get(fmt.Sprint(e.ID)); !ok || now.Incarnation != e.Incarnation {
		return nil
	}
	return m.remove(ctx, e)
}

// releaseAddresses gives back what the endpoint holds. The caller holds mu.
func (m *endpoints) releaseAddresses(e endpoint.Endpoint) {
	for _, a := range []netip.Addr{e.IPv4, e.IPv6} {
		if a.IsValid() && m.pools[familyOf(a)] != nil {
			m.pools[familyOf(a)].Release(a, owner(e))
			m.metrics.countAddress("release", familyOf(a))
		}
	}
}

// change edits a row if it still is of the same incarnation, and reports whether it was.
func (m *endpoints) change(id uint16, incarnation uint32, edit func(*endpoint.Endpoint)) (found bool) {
	m.writer.Update(func(tx *table.Tx[endpoint.Endpoint]) {
		row, ok := tx.Get(fmt.Sprint(id))
		if !ok || row.Incarnation != incarnation {
			return
		}
		found = true
		edit(&row)
		tx.Upsert(row)
	})
	return found
}

// waitReady returns the endpoint once its policy is in force.
func (m *endpoints) waitReady(ctx context.Context, e endpoint.Endpoint) (endpoint.Endpoint, error) {
	var now endpoint.Endpoint
	var found bool
	err := m.table.Wait(ctx, func(s table.Snapshot[endpoint.Endpoint]) bool {
		now, found = s.Get(fmt.Sprint(e.ID))
		found = found && now.Incarnation == e.Incarnation
		return !found || now.State == endpoint.StateReady
	})
	switch {
	case err != nil && now.Error != "":
		return e, fmt.Errorf("policy is not in force: %s", now.Error)
	case err != nil:
		return e, fmt.Errorf("wait for policy: %w", err)
	case !found:
		return e, errors.New("the pod was removed meanwhile")
	}
	return now, nil
}

// relabel gives an endpoint new labels and their identity.
func (m *endpoints) relabel(e endpoint.Endpoint, labels label.Set, id identity.ID, ports []endpoint.Port) error {
	m.leaving.Lock() // a file that is written after remove forgot it would come back at a restart
	defer m.leaving.Unlock()
	var row endpoint.Endpoint
	found := m.change(e.ID, e.Incarnation, func(r *endpoint.Endpoint) {
		r.Labels, r.Identity, r.Ports = labels, id, ports
		row = *r
	})
	if !found || row.State == endpoint.StateDisconnecting {
		return nil
	}
	return m.state.save(row, true)
}

// audit lets pass what policy denies an endpoint, or ends that. A restart finds it again.
func (m *endpoints) audit(e endpoint.Endpoint, on bool) error {
	m.leaving.Lock()
	defer m.leaving.Unlock()
	var row endpoint.Endpoint
	found := m.change(e.ID, e.Incarnation, func(r *endpoint.Endpoint) {
		r.Audit = on
		row = *r
	})
	if !found || row.State == endpoint.StateDisconnecting {
		return nil
	}
	return m.state.save(row, true)
}

// taken lists the addresses in use with their owners.
func (m *endpoints) taken() map[netip.Addr]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[netip.Addr]string{}
	for _, p := range m.pools {
		for a, o := range p.Taken() {
			out[a] = o
		}
	}
	return out
}

// forgotten says that policy has been computed without the ids that were gone
// before: they may be given out again.
func (m *endpoints) forgotten(ids []uint16) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if _, used := m.table.Get(fmt.Sprint(id)); !used {
			delete(m.dirty, id)
		}
	}
}

// gone lists the ids that wait for forgotten.
func (m *endpoints) gone() []uint16 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []uint16
	for id := range m.dirty {
		if _, used := m.table.Get(fmt.Sprint(id)); !used {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func owner(e endpoint.Endpoint) string { return e.PodKey() + " " + e.ContainerID }

func podLink(e endpoint.Endpoint) PodLink {
	return PodLink{
		NetNS: e.NetNS, ContainerIfName: e.ContainerIfName, HostIfName: e.Interface,
		IPv4: e.IPv4, IPv6: e.IPv6, MAC: e.MAC, NodeMAC: e.NodeMAC, IfIndex: e.IfIndex,
	}
}

func base(e endpoint.Endpoint) EndpointBase {
	return EndpointBase{
		ID: e.ID, Incarnation: e.Incarnation, IfIndex: e.IfIndex, MAC: e.MAC, NodeMAC: e.NodeMAC, IPv4: e.IPv4, IPv6: e.IPv6,
	}
}

// keyedMutex serializes what is done for one key.
type keyedMutex struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock returns the function that unlocks the key.
func (k *keyedMutex) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		other, taken := k.held[key]
		if !taken {
			mine := make(chan struct{})
			k.held[key] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// router is the node's own address in the pod network, by which pods reach
// everything else.
func (m *endpoints) router(family int) netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pools[family]; p != nil {
		return ipam.Router(p.Ranges()[0])
	}
	return netip.Addr{}
}
