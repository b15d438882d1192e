// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/l7"
)

// ErrNoFlow: the connection has no row that leads it through the proxy, or its
// pods are not those of the row any more.
var ErrNoFlow = errors.New("no flow through the proxy has these addresses")

// Asker asks the node's tables what policy says about connections through the
// proxy, as the programs do for packets. It needs no agent and changes nothing
// but the ports of the proxy. It implements l7.Judge.
type Asker struct {
	dir                                    string
	flows, sets, ipcache, identities, port *ebpf.Map
	peers, gens, endpoints                 memory
	banks                                  [abi.ClassBanks]atomic.Pointer[memory]
	opened                                 []*ebpf.Map
}

// OpenAsker opens the tables that an agent has pinned in dir.
func OpenAsker(dir string) (*Asker, error) {
	a := &Asker{dir: dir}
	if err := a.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the node's tables: %w", err), a.Close())
	}
	return a, nil
}

func (a *Asker) open() error {
	for name, to := range map[string]**ebpf.Map{abi.MapFlows: &a.flows, abi.MapSets: &a.sets, abi.MapIpcache: &a.ipcache,
		abi.MapIdentityPeer: &a.identities, abi.MapProxyPorts: &a.port} {
		var err error
		if *to, err = a.pinned(name); err != nil {
			return err
		}
	}
	for name, mem := range map[string]*memory{abi.MapPeers: &a.peers, abi.MapPolicyGens: &a.gens, abi.MapEndpoints: &a.endpoints} {
		m, err := a.pinned(name)
		if err == nil {
			err = mem.openAs(m, unix.PROT_READ)
		}
		if err != nil {
			return err
		}
	}
	return a.checkSizes()
}

func (a *Asker) pinned(name string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(a.dir, name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("map %s: %w (no agent has run on this node yet)", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", name, err)
	}
	a.opened = append(a.opened, m)
	return m, nil
}

// checkSizes refuses tables of a version with other rows.
func (a *Asker) checkSizes() error {
	want := map[string]uintptr{abi.MapFlows: unsafe.Sizeof(abi.Flow{}), abi.MapSets: unsafe.Sizeof(abi.SetEntry{}),
		abi.MapIpcache: unsafe.Sizeof(abi.IpcacheEntry{}), abi.MapProxyPorts: unsafe.Sizeof(abi.ProxyPorts{}),
		abi.MapEndpoints: unsafe.Sizeof(abi.Endpoint{}), abi.MapPolicyGens: unsafe.Sizeof(abi.Generations{})}
	for _, m := range a.opened {
		if size, ok := want[name(m)]; ok && m.ValueSize() != uint32(size) {
			return &LayoutError{Map: name(m), Path: filepath.Join(a.dir, name(m)), Difference: fmt.Sprintf("rows of %d bytes, want %d", m.ValueSize(), size)}
		}
	}
	return nil
}

// Close lets go of the tables.
func (a *Asker) Close() error {
	errs := []error{a.peers.close(), a.gens.close(), a.endpoints.close()}
	for i := range a.banks {
		if mem := a.banks[i].Swap(nil); mem != nil {
			errs = append(errs, mem.close())
		}
	}
	for _, m := range a.opened {
		errs = append(errs, m.Close())
	}
	a.opened = nil
	return errors.Join(errs...)
}

// Listeners are the ports of the proxy on the loopback addresses; 0: none.
type Listeners struct{ TCP4, TCP6, UDP4, UDP6 uint16 }

// Publish tells the programs where the proxy listens.
func (a *Asker) Publish(l Listeners) error {
	err := a.port.Put(uint32(0), abi.ProxyPorts{TCP4: swap(l.TCP4), TCP6: swap(l.TCP6), UDP4: swap(l.UDP4), UDP6: swap(l.UDP6)})
	if err != nil {
		return fmt.Errorf("publish the proxy's ports: %w", err)
	}
	return nil
}

// Published is what the last Publish said, by this process or another.
func (a *Asker) Published() (Listeners, error) {
	var p abi.ProxyPorts
	if err := a.port.Lookup(uint32(0), &p); err != nil {
		return Listeners{}, fmt.Errorf("read the proxy's ports: %w", err)
	}
	return Listeners{TCP4: swap(p.TCP4), TCP6: swap(p.TCP6), UDP4: swap(p.UDP4), UDP6: swap(p.UDP6)}, nil
}

// end is one end of a connection.
type end struct {
	addr        netip.Addr
	id          uint16 // endpoint of this node; 0: none
	incarnation uint32
	identity    identity.ID // as the row has it
}

// Judge implements l7.Judge.
func (a *Asker) Judge(c l7.Connection) (l7.Ruling, error) {
	ends, err := a.ends(c)
	if err != nil {
		return l7.Ruling{}, err
	}
	r := l7.Ruling{Client: ends[l7.Egress].identity, Server: ends[l7.Ingress].identity}
	for side := range ends {
		// Before anything is judged: what changes meanwhile is judged again.
		r.Generations[side] = a.generations(ends[side].id, ends[1-side].addr)
	}
	for side := range ends {
		own, other := &ends[side], &ends[1-side]
		if own.id == 0 {
			continue
		}
		if !a.current(own) {
			return l7.Ruling{}, ErrNoFlow
		}
		if own.id == other.id {
			continue // a pod always reaches itself
		}
		if err := a.judgeSide(&r, l7.Side(side), own, other, c); err != nil {
			return l7.Ruling{}, err
		}
	}
	return r, nil
}

// Holds implements l7.Judge. It reads shared memory only.
func (a *Asker) Holds(c l7.Connection, r *l7.Ruling) bool {
	return r.Generations[l7.Egress] == a.generations(uint16(r.Generations[l7.Egress]>>endpointShift), c.Server.Addr()) &&
		r.Generations[l7.Ingress] == a.generations(uint16(r.Generations[l7.Ingress]>>endpointShift), c.Client.Addr())
}

// In a generations word the endpoint's id follows the two numbers that a side
// word of a flow has, so that Holds need not look for it.
const (
	generationBits = 24
	endpointShift  = 2 * generationBits
)

func (a *Asker) generations(id uint16, other netip.Addr) uint64 {
	const mask = 1<<generationBits - 1
	endpoint := a.gens.load32(0, uintptr(id%abi.GenerationsMax)*4)
	peer := a.gens.load32(0, uintptr(abi.GenerationsMax+abi.PeerShard(mapped(other)))*4)
	return uint64(endpoint&mask) | uint64(peer&mask)<<generationBits | uint64(id)<<endpointShift
}

// ends finds the row of the connection, and both of its ends there.
func (a *Asker) ends(c l7.Connection) (out [2]end, err error) {
	client, server := mapped(c.Client.Addr()), mapped(c.Server.Addr())
	key := flowKey(client, swap(c.Client.Port()), server, swap(c.Server.Port()), c.Protocol)
	var f abi.Flow
	if err := a.flows.Lookup(key, &f); errors.Is(err, ebpf.ErrKeyNotExist) || err == nil && f.Flags&abi.FlowProxied == 0 {
		return out, ErrNoFlow
	} else if err != nil {
		return out, fmt.Errorf("look a flow up: %w", err)
	}
	// Who opened in the eyes of the row; after a loss of rows that may be the server.
	opener := key.A
	if f.Flags&abi.FlowFromB != 0 {
		opener = key.B
	}
	first := 0
	if opener != client {
		first = 1
	}
	out[first] = end{id: f.Endpoint[0], incarnation: f.Incarnation[0], identity: identity.ID(f.Identity[0])}
	out[1-first] = end{id: f.Endpoint[1], incarnation: f.Incarnation[1], identity: identity.ID(f.Identity[1])}
	out[l7.Egress].addr, out[l7.Ingress].addr = c.Client.Addr().Unmap(), c.Server.Addr().Unmap()
	return out, nil
}

// current: the endpoint is still the one of the row.
func (a *Asker) current(e *end) bool {
	return e.id < abi.EndpointsMax && a.endpoints.load32(uint32(e.id), endpointIncarnation) == e.incarnation &&
		a.endpoints.load32(uint32(e.id), endpointFlags)&abi.EndpointReady != 0
}

// judgeSide asks the policy of own about other.
func (a *Asker) judgeSide(r *l7.Ruling, side l7.Side, own, other *end, c l7.Connection) error {
	slot := a.endpoints.load32(uint32(own.id), endpointSlots)
	if side == l7.Ingress {
		slot >>= 16
	}
	slot &= 0xffff
	if slot == abi.SlotOpen {
		return nil
	}
	peer, err := a.peerOf(other)
	if err != nil {
		return err
	}
	set := a.cell(a.class(peer), slot)
	if set == abi.SetAllow {
		return nil
	}
	var row abi.SetEntry
	if set != abi.SetDeny {
		key := abi.SetKey{Prefixlen: abi.PrefixPort, Set: uint32(set), Protocol: c.Protocol, Port: swap(c.Server.Port())}
		if err := a.sets.Lookup(key, &row); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("look a set up: %w", err)
		}
	}
	switch row.Verdict {
	case abi.VerdictAllow, abi.VerdictAudit:
	case abi.VerdictRedirect:
		r.Limits = append(r.Limits, l7.Limit{Side: side, Endpoint: own.id, Set: row.L7})
	default:
		r.Denied = true
	}
	return nil
}

// peerOf is the peer of a pod of this node, or what the address or, for a pod of
// another node whose address is not known yet, the identity says.
func (a *Asker) peerOf(e *end) (uint32, error) {
	if e.id != 0 {
		if !a.current(e) {
			return 0, ErrNoFlow
		}
		if e.addr.Is4() {
			return a.endpoints.load32(uint32(e.id), endpointPeer4), nil
		}
		return a.endpoints.load32(uint32(e.id), endpointPeer6), nil
	}
	var entry abi.IpcacheEntry
	err := a.ipcache.Lookup(lpmKey(netip.PrefixFrom(e.addr, e.addr.BitLen())), &entry)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look an address up: %w", err)
	}
	if entry.Identity == uint32(e.identity) || e.identity == 0 {
		return entry.Peer, nil
	}
	if entry.Flags&(abi.IpcachePod|abi.IpcacheRemotePods) == abi.IpcacheRemotePods {
		peer := uint32(0)
		err = a.identities.Lookup(uint32(e.identity), &peer)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, fmt.Errorf("look an identity up: %w", err)
		}
		return peer, nil
	}
	if entry.Flags&abi.IpcacheNode != 0 && isWorld(e.identity) {
		return a.world(e.addr) // a client outside, with the address of the node that balances it here
	}
	return entry.Peer, nil // it has become somebody else
}

func isWorld(id identity.ID) bool {
	return id == abi.IdentityWorld || id == abi.IdentityWorldIPv4 || id == abi.IdentityWorldIPv6
}

// world is the peer of the world as a whole.
func (a *Asker) world(like netip.Addr) (uint32, error) {
	any := netip.IPv6Unspecified()
	if like.Is4() {
		any = netip.IPv4Unspecified()
	}
	var entry abi.IpcacheEntry
	err := a.ipcache.Lookup(lpmKey(netip.PrefixFrom(any, any.BitLen())), &entry)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("look the world up: %w", err)
	}
	return entry.Peer, nil
}

func (a *Asker) class(peer uint32) uint32 {
	if int(peer) >= a.peers.rows() {
		return abi.ClassUnknown
	}
	return a.peers.load32(peer, 0)
}

// cell reads a cell of classes. Whatever is missing denies.
func (a *Asker) cell(class, slot uint32) uint16 {
	n := class / abi.ClassBank
	if n >= abi.ClassBanks || slot >= abi.SlotsMax {
		return abi.SetDeny
	}
	mem := a.banks[n].Load()
	if mem == nil {
		if mem = a.openBank(int(n)); mem == nil {
			return abi.SetDeny
		}
	}
	return mem.load16(class%abi.ClassBank, uintptr(slot)*2)
}

// openBank maps a bank that is used for the first time; it is never replaced.
func (a *Asker) openBank(n int) *memory {
	m, err := ebpf.LoadPinnedMap(filepath.Join(a.dir, bankName(n)), nil)
	if err != nil {
		return nil
	}
	defer m.Close() // the mapping keeps it
	mem := new(memory)
	if mem.openAs(m, unix.PROT_READ) != nil {
		return nil
	}
	if !a.banks[n].CompareAndSwap(nil, mem) {
		_ = mem.close()
	}
	return a.banks[n].Load()
}
