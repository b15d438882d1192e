// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/policy"
)

// rows is a table whose rows are written by the bpf system call.
type rows interface {
	Put(key, value any) error
	Delete(key any) error
}

// Policy carries out the steps of the policy engine, one change at a time.
type Policy struct {
	sets, identityPeer, ipcache rows
	peers, gens, endpoints      *memory
	bank                        func(class uint32) (memory, error)
	grace                       func() error

	mu      sync.Mutex
	keys    map[uint32][]abi.SetKey // rows that a set has in the kernel
	pending struct {                // to be bumped once more after a grace period
		sync.Mutex
		endpoints, peers map[uint32]bool
	}
	highest atomic.Uint32 // class written so far
}

// StepError says which step of a change could not be carried out; those before it were.
type StepError struct {
	Index int
	Op    policy.Op
	Err   error
}

func (e *StepError) Error() string {
	return fmt.Sprintf("step %d (%s): %v", e.Index, describe(e.Op), e.Err)
}

func (e *StepError) Unwrap() error { return e.Err }

func describe(op policy.Op) string {
	switch o := op.(type) {
	case policy.WriteClass:
		return fmt.Sprintf("write class %d", o.Class)
	case policy.WriteSet:
		return fmt.Sprintf("write set %d of %d rows", o.Set, len(o.Rows))
	}
	return fmt.Sprintf("%T %+v", op, op)
}

// Apply carries out the steps in order and stops at the first that fails.
func (p *Policy) Apply(ops []policy.Op) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, op := range ops {
		if err := p.step(op); err != nil {
			return &StepError{Index: i, Op: op, Err: err}
		}
	}
	return nil
}

func (p *Policy) step(op policy.Op) error {
	switch o := op.(type) {
	case policy.WriteClass:
		return p.writeClass(o)
	case policy.WriteSet:
		return p.writeSet(o)
	case policy.DeleteSet:
		return p.deleteSet(o.Set)
	case policy.SetPeer:
		if int(o.Peer) >= p.peers.rows() {
			return fmt.Errorf("only %d peers are possible", p.peers.rows())
		}
		p.peers.store32(o.Peer, 0, o.Class)
	case policy.SetCell:
		if o.Slot >= abi.SlotsMax {
			return fmt.Errorf("only %d slots are possible", abi.SlotsMax)
		}
		mem, err := p.bank(o.Class)
		if err != nil {
			return err
		}
		mem.store16(o.Class%abi.ClassBank, uintptr(o.Slot)*2, o.Set)
	case policy.SetIdentityPeer:
		return p.identityPeer.Put(uint32(o.Identity), o.Peer)
	case policy.DeleteIdentityPeer:
		return absentIsFine(p.identityPeer.Delete(uint32(o.Identity)))
	case policy.PutAddress:
		return p.ipcache.Put(lpmKey(o.Prefix), abi.IpcacheEntry{Identity: uint32(o.Entry.Identity),
			Peer: o.Entry.Peer, Node: o.Entry.Node, Flags: o.Entry.Flags})
	case policy.DeleteAddress:
		return absentIsFine(p.ipcache.Delete(lpmKey(o.Prefix)))
	case policy.SetEndpoint:
		return p.setEndpoint(o)
	case policy.BumpEndpoint:
		return p.bumpEndpoint(uint32(o.Endpoint))
	case policy.BumpPeer:
		p.bumpPeers(abi.PeerShard(mapped(o.Addr)))
	case policy.BumpPeers:
		all := make([]uint32, abi.GenerationsMax)
		for i := range all {
			all[i] = uint32(i)
		}
		p.bumpPeers(all...)
	case policy.Grace:
		return p.grace()
	default:
		return fmt.Errorf("unknown step %T", op)
	}
	return nil
}

// writeClass fills a row that no peer points to, cell by cell.
func (p *Policy) writeClass(o policy.WriteClass) error {
	mem, err := p.bank(o.Class)
	if err != nil {
		return err
	}
	for slot, set := range o.Row {
		mem.store16(o.Class%abi.ClassBank, uintptr(slot)*2, set)
	}
	for {
		h := p.highest.Load()
		if o.Class <= h || p.highest.CompareAndSwap(h, o.Class) {
			return nil
		}
	}
}

// writeSet stores the rows of a set; what a former owner of the number left is removed.
func (p *Policy) writeSet(o policy.WriteSet) error {
	if o.Set < policy.SetFirst {
		return fmt.Errorf("set %d has no rows: it ends the lookup at the cell", o.Set)
	}
	keys := make([]abi.SetKey, 0, len(o.Rows))
	for _, r := range o.Rows {
		keys = append(keys, setKeyOf(o.Set, r))
	}
	stale := slices.DeleteFunc(p.keys[o.Set], func(k abi.SetKey) bool { return slices.Contains(keys, k) })
	// Noted ahead: what a step that fails half-way has written must be found by
	// the next owner of the number, or it would answer for it.
	p.keys[o.Set] = slices.Concat(keys, stale)
	for i, r := range o.Rows {
		if err := p.sets.Put(keys[i], abi.SetEntry{Verdict: uint8(r.Verdict), L7: r.L7, Row: r.Row}); err != nil {
			return fmt.Errorf("row %d: %w", r.Row, err)
		}
	}
	for _, k := range stale {
		if err := absentIsFine(p.sets.Delete(k)); err != nil {
			return err
		}
	}
	p.keys[o.Set] = keys
	return nil
}

func (p *Policy) deleteSet(set uint32) error {
	for _, k := range p.keys[set] {
		if err := absentIsFine(p.sets.Delete(k)); err != nil {
			return err
		}
	}
	delete(p.keys, set)
	return nil
}

func setKeyOf(set uint32, r policy.SetRow) abi.SetKey {
	k := abi.SetKey{Set: set, Prefixlen: abi.PrefixAny}
	if r.Protocol == 0 && r.PortBits == 0 {
		return k
	}
	k.Protocol, k.Prefixlen = r.Protocol, abi.PrefixProtocol+uint32(r.PortBits)
	k.Port = swap(r.Port &^ (0xffff >> r.PortBits))
	return k
}

func setRowOf(k abi.SetKey, e abi.SetEntry) policy.SetRow {
	r := policy.SetRow{Protocol: k.Protocol, Port: swap(k.Port), Verdict: policy.Verdict(e.Verdict),
		L7: e.L7, Row: e.Row}
	if k.Prefixlen > abi.PrefixProtocol {
		r.PortBits = uint8(k.Prefixlen - abi.PrefixProtocol)
	}
	return r
}

// Offsets of the words of an endpoint that change while it lives.
var (
	endpointIdentity    = unsafe.Offsetof(abi.Endpoint{}.Identity)
	endpointPeer4       = unsafe.Offsetof(abi.Endpoint{}.Peer4)
	endpointPeer6       = unsafe.Offsetof(abi.Endpoint{}.Peer6)
	endpointSlots       = unsafe.Offsetof(abi.Endpoint{}.Slots)
	endpointFlags       = unsafe.Offsetof(abi.Endpoint{}.Flags)
	endpointIncarnation = unsafe.Offsetof(abi.Endpoint{}.Incarnation)
)

// setEndpoint stores who the endpoint is, then both of its slots in one store.
func (p *Policy) setEndpoint(o policy.SetEndpoint) error {
	id := uint32(o.Endpoint)
	if int(id) >= p.endpoints.rows() {
		return fmt.Errorf("only %d endpoints are possible", p.endpoints.rows())
	}
	p.endpoints.store32(id, endpointIdentity, uint32(o.Row.Identity))
	p.endpoints.store32(id, endpointPeer4, o.Row.Peer4)
	p.endpoints.store32(id, endpointPeer6, o.Row.Peer6)
	p.endpoints.store32(id, endpointSlots, uint32(o.Row.Egress)|uint32(o.Row.Ingress)<<16)
	return nil
}

func absentIsFine(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// Generations of endpoints come before those of peers in the one row of policy_gens.
func (p *Policy) bumpEndpoint(id uint32) error {
	if id >= abi.GenerationsMax {
		return fmt.Errorf("only %d endpoints are possible", abi.GenerationsMax)
	}
	atomic.AddUint32(p.gens.word(0, uintptr(id)*4), 1)
	p.pending.Lock()
	defer p.pending.Unlock()
	p.pending.endpoints[id] = true
	return nil
}

func (p *Policy) bumpPeers(shards ...uint32) {
	p.pending.Lock()
	defer p.pending.Unlock()
	for _, shard := range shards {
		atomic.AddUint32(p.gens.word(0, uintptr(abi.GenerationsMax+shard)*4), 1)
		p.pending.peers[shard] = true
	}
}

// Settle bumps what was bumped since the last call once more after a grace
// period: a CPU that saw the new generation before the new cell may have cached
// the old verdict under it. It reports whether there was anything to do.
func (p *Policy) Settle() (bool, error) {
	p.pending.Lock()
	endpoints, peers := p.pending.endpoints, p.pending.peers
	p.pending.endpoints, p.pending.peers = map[uint32]bool{}, map[uint32]bool{}
	p.pending.Unlock()
	if len(endpoints)+len(peers) == 0 {
		return false, nil
	}
	if err := p.grace(); err != nil {
		return true, err
	}
	for id := range endpoints {
		atomic.AddUint32(p.gens.word(0, uintptr(id)*4), 1)
	}
	for shard := range peers {
		atomic.AddUint32(p.gens.word(0, uintptr(abi.GenerationsMax+shard)*4), 1)
	}
	return true, nil
}

// Grace waits until every program that runs now has ended (an RCU grace period).
func Grace() error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0)
	if errno != 0 {
		return fmt.Errorf("membarrier: %w", errno)
	}
	return nil
}

// newPolicy is the executor over the real tables.
func (s *Set) newPolicy() (*Policy, error) {
	p := &Policy{sets: s.maps["sets"], identityPeer: s.maps["identity_peer"], ipcache: s.maps["ipcache"],
		peers: &s.peers, gens: &s.gens, endpoints: &s.endpoints, bank: s.bankOf, grace: Grace,
		keys: map[uint32][]abi.SetKey{}}
	p.pending.endpoints, p.pending.peers = map[uint32]bool{}, map[uint32]bool{}
	err := each(s.maps["sets"], func(k abi.SetKey, _ abi.SetEntry) {
		p.keys[k.Set] = append(p.keys[k.Set], k)
	})
	return p, err
}

// GrowBanks adds the next bank of classes before the last one is full, so that
// no change of policy has to wait for it.
func (s *Set) GrowBanks() error {
	next := int(s.policy.highest.Load()+abi.ClassBank/2) / abi.ClassBank
	if next >= len(s.banks) {
		return nil
	}
	_, err := s.bankOf(uint32(next * abi.ClassBank))
	return err
}

// ReadPolicy returns what the kernel's policy tables hold.
func (s *Set) ReadPolicy() (policy.State, error) {
	st := policy.State{Peers: map[uint32]uint32{}, Classes: map[uint32]*[512]uint16{}, Sets: map[uint32][]policy.SetRow{},
		IdentityPeer: map[identity.ID]uint32{}, Addresses: map[netip.Prefix]policy.Entry{}, Endpoints: map[uint16]policy.EndpointRow{}}
	used := map[uint32]bool{policy.ClassUnknown: true, policy.ClassUnresolved: true}
	for i := range uint32(s.peers.rows()) {
		if c := s.peers.load32(i, 0); c != 0 {
			st.Peers[i] = c
			used[c] = true
		}
	}
	s.readClasses(st.Classes, used)
	err := errors.Join(
		each(s.maps["sets"], func(k abi.SetKey, e abi.SetEntry) { st.Sets[k.Set] = append(st.Sets[k.Set], setRowOf(k, e)) }),
		each(s.maps["identity_peer"], func(id, peer uint32) { st.IdentityPeer[identity.ID(id)] = peer }),
		each(s.maps["ipcache"], func(k abi.IpcacheKey, e abi.IpcacheEntry) {
			st.Addresses[prefixOf(k)] = policy.Entry{Identity: identity.ID(e.Identity), Peer: e.Peer, Node: e.Node, Flags: e.Flags}
		}))
	for _, rows := range st.Sets {
		slices.SortFunc(rows, func(a, b policy.SetRow) int { return int(a.Row) - int(b.Row) })
	}
	for id := range uint32(s.endpoints.rows()) {
		if s.endpoints.load32(id, 0) == 0 {
			continue
		}
		both := s.endpoints.load32(id, endpointSlots)
		st.Endpoints[uint16(id)] = policy.EndpointRow{Identity: identity.ID(s.endpoints.load32(id, endpointIdentity)),
			Peer4: s.endpoints.load32(id, endpointPeer4), Peer6: s.endpoints.load32(id, endpointPeer6),
			Egress: uint16(both), Ingress: uint16(both >> 16)}
	}
	return st, err
}

// readClasses reads the rows that peers point to and those that hold a cell.
func (s *Set) readClasses(out map[uint32]*[512]uint16, used map[uint32]bool) {
	for n, b := range s.banks {
		if b.mem.b == nil {
			continue
		}
		for i := range uint32(abi.ClassBank) {
			class := uint32(n)*abi.ClassBank + i
			row := (*[abi.SlotsMax]uint16)(unsafe.Pointer(b.mem.word(i, 0)))
			if used[class] || *row != [abi.SlotsMax]uint16{} {
				c := *row
				out[class] = &c
			}
		}
	}
}
