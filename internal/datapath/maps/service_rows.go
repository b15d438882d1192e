// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/service"
)

// backendRows numbers backends; each has one number, whichever services it is in.
type backendRows struct {
	numbers *numbers
	byName  map[backendName]*backendRow
	byID    map[uint32]*backendRow
}

type backendName struct {
	addr     netip.Addr
	port     uint16
	protocol uint8
}

type backendRow struct {
	name  backendName
	id    uint32
	refs  int
	flags uint8 // as the kernel has them
}

func newBackendRows(size uint32) *backendRows {
	return &backendRows{numbers: newNumbers(size), byName: map[backendName]*backendRow{}, byID: map[uint32]*backendRow{}}
}

func nameOf(b service.Backend) backendName { return backendName{b.Addr, b.Port, b.Protocol} }

func backendFlags(b service.Backend) uint8 {
	if b.State == service.Terminating {
		return abi.BackendUsed | abi.BackendTerminating
	}
	return abi.BackendUsed
}

// hold refers to a backend, whose row is made if there is none.
func (v *services) hold(b service.Backend) (uint32, error) {
	n, flags := nameOf(b), backendFlags(b)
	r := v.backends.byName[n]
	if r != nil {
		if r.flags != flags {
			if err := v.writeBackend(n, r.id, flags); err != nil {
				return 0, err
			}
			r.flags = flags
		}
		r.refs++
		return r.id, nil
	}
	id, ok := v.backends.numbers.take()
	if !ok {
		v.release()
		if id, ok = v.backends.numbers.take(); !ok {
			return 0, &FullError{abi.MapBackends, 2 * uint32(len(v.backends.numbers.used))}
		}
	}
	if err := v.writeBackend(n, id, flags); err != nil {
		v.backends.numbers.put(id)
		return 0, err
	}
	r = &backendRow{name: n, id: id, refs: 1, flags: flags}
	v.backends.byName[n], v.backends.byID[id] = r, r
	return id, nil
}

// unhold ends a reference. Without any the row says so at once, but keeps the
// address for who is about to read it; the number rests.
func (v *services) unhold(id uint32) error {
	r := v.backends.byID[id]
	if r == nil {
		return nil
	}
	if r.refs--; r.refs > 0 {
		return nil
	}
	delete(v.backends.byName, r.name)
	delete(v.backends.byID, id)
	v.resting.backends = append(v.resting.backends, id)
	return v.writeBackend(r.name, id, 0)
}

func (v *services) writeBackend(n backendName, id uint32, flags uint8) error {
	return v.maps(abi.MapBackends).Put(id, abi.Backend{Addr: mapped(n.addr), Port: swap(n.port), Protocol: n.protocol, Flags: flags})
}

// placeSlots returns the range with these backends, which is written if there is none.
func (v *services) placeSlots(ids []uint32) (*piece, error) {
	key := keyOfIDs(ids)
	if p := v.ranges[key]; p != nil {
		p.refs++
		return p, nil
	}
	p := &piece{key: key, refs: 1}
	if len(ids) > 0 {
		first, ok := v.slots.take(len(ids))
		if !ok {
			v.release()
			if first, ok = v.slots.take(len(ids)); !ok {
				return nil, &FullError{abi.MapServiceSlots, 2 * max(v.slots.size, uint32(len(ids)))}
			}
		}
		keys, rows := make([]uint32, len(ids)), make([]abi.ServiceSlot, len(ids))
		for i, id := range ids {
			keys[i], rows[i].Backend = first+uint32(i), id
		}
		if _, err := v.maps(abi.MapServiceSlots).BatchUpdate(keys, rows, nil); err != nil {
			v.slots.put(first)
			return nil, err
		}
		p.first = first
	}
	v.ranges[key] = p
	return p, nil
}

func keyOfIDs(ids []uint32) string {
	b := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	return string(b)
}

// maglevOptions of tables: size is a prime, the seed the same on all nodes.
type maglevOptions struct {
	size int
	seed uint64
}

// placeTable returns the Maglev table of these backends, which is made if there is none.
func (v *services) placeTable(takers []service.Backend, ids []uint32) (*piece, error) {
	key := []byte(keyOfIDs(ids))
	for _, b := range takers {
		key = binary.LittleEndian.AppendUint16(key, b.Weight)
	}
	if p := v.maglevs[string(key)]; p != nil {
		p.refs++
		return p, nil
	}
	rows := maglevRows(service.MaglevTable(takers, v.how.size, v.how.seed), ids)
	if p := v.found[contentOf(rows)]; p != nil { // from before the start
		delete(v.found, contentOf(rows))
		p.key = string(key)
		p.refs++
		v.maglevs[p.key] = p
		return p, nil
	}
	first, ok := v.tables.take(len(rows))
	if !ok {
		v.release()
		if first, ok = v.tables.take(len(rows)); !ok {
			return nil, &FullError{abi.MapMaglevRows, 2 * max(v.tables.size, uint32(len(rows)))}
		}
	}
	keys := make([]uint32, len(rows))
	for i := range keys {
		keys[i] = first + uint32(i)
	}
	if _, err := v.maps(abi.MapMaglevRows).BatchUpdate(keys, rows, nil); err != nil {
		v.tables.put(first)
		return nil, err
	}
	p := &piece{key: string(key), first: first, refs: 1}
	v.maglevs[p.key] = p
	return p, nil
}

// contentOf tells tables apart.
func contentOf(rows []abi.MaglevRow) [32]byte {
	size := len(rows) * int(unsafe.Sizeof(abi.MaglevRow{}))
	return sha256.Sum256(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(rows))), size))
}

func maglevRows(table []int, ids []uint32) []abi.MaglevRow {
	rows := make([]abi.MaglevRow, (len(table)+abi.MaglevWidth-1)/abi.MaglevWidth)
	for i, b := range table {
		rows[i/abi.MaglevWidth].Backend[i%abi.MaglevWidth] = ids[b]
	}
	return rows
}

func (v *services) set(name string, key any, add bool) error {
	if !add {
		return absentIsFine(v.maps(name).Delete(key))
	}
	return v.full(v.maps(name).Put(key, uint32(1)), name)
}

func isFull(err error) bool {
	return errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) || errors.Is(err, ebpf.ErrKeyExist)
}
