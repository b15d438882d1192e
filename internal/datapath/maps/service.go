// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/service"
)

// services keeps the kernel's services equal to the frontends. A service points
// to a run of backends: a change writes a new run, then flips the service's row;
// the old run rests until a grace period is over.
type services struct {
	rows     *ebpf.Map
	vips     *ebpf.Map
	backends *ebpf.Map
	grace    func() error

	mu      sync.Mutex
	known   map[abi.ServiceKey]entry
	used    []bool // rows of backends
	ids     []bool
	lastID  int // ids are given out in turn, so that a number rests long before it comes back
	ids32   map[backendName]uint32
	lastB   uint32
	resting []run // of backends and ids, free after the next grace period
}

type entry struct {
	row      abi.Service
	backends []service.Backend
}

type run struct{ first, count, id int }

type backendName struct {
	service.Backend
	protocol uint8
}

func (s *Set) newServices() (*services, error) {
	v := &services{rows: s.maps[abi.MapServices], vips: s.maps[abi.MapServiceVIPs], backends: s.maps[abi.MapBackends],
		grace: Grace, known: map[abi.ServiceKey]entry{}, ids32: map[backendName]uint32{}}
	if v.rows == nil {
		return v, nil
	}
	v.used, v.ids = make([]bool, v.backends.MaxEntries()), make([]bool, v.vips.MaxEntries())
	v.ids[0] = true // 0 means none
	return v, v.load()
}

// load reads what the kernel holds, so that numbers are kept over a restart.
func (v *services) load() error {
	all := map[uint32]abi.Backend{}
	err := each(v.backends, func(i uint32, b abi.Backend) {
		if b.ID != 0 {
			all[i] = b
			v.lastB = max(v.lastB, b.ID)
		}
	})
	if err != nil {
		return err
	}
	return each(v.rows, func(k abi.ServiceKey, r abi.Service) {
		e := entry{row: r}
		for i := r.First; i < r.First+r.Count && int(i) < len(v.used); i++ {
			b := all[i]
			v.used[i] = true
			back := service.Backend{Addr: unmapped(b.Addr), Port: swap(b.Port)}
			e.backends = append(e.backends, back)
			v.ids32[backendName{back, k.Protocol}] = b.ID
		}
		v.ids[r.ID] = true
		v.lastID = max(v.lastID, int(r.ID))
		v.known[k] = e
	})
}

// SetFrontends makes the kernel's services exactly those of the list. It goes on
// after a service that fails; the errors are joined.
func (s *Set) SetFrontends(list []service.Frontend) error {
	v := s.services
	v.mu.Lock()
	defer v.mu.Unlock()
	want := map[abi.ServiceKey]bool{}
	var errs []error
	for _, f := range list {
		k := abi.ServiceKey{VIP: mapped(f.Addr), Port: swap(f.Port), Protocol: f.Protocol}
		want[k] = true
		if err := v.put(k, f); err != nil {
			errs = append(errs, fmt.Errorf("service %s %s: %w", f.Service, f.Key(), err))
		}
	}
	for k, e := range v.known {
		if want[k] {
			continue
		}
		if err := absentIsFine(v.rows.Delete(k)); err != nil {
			errs = append(errs, fmt.Errorf("remove service %s: %w", unmapped(k.VIP), err))
			continue
		}
		delete(v.known, k)
		v.resting = append(v.resting, run{int(e.row.First), int(e.row.Count), int(e.row.ID)})
	}
	return errors.Join(errs...)
}

func (v *services) put(k abi.ServiceKey, f service.Frontend) (err error) {
	old, exists := v.known[k]
	row := abi.Service{First: old.row.First, Count: uint32(len(f.Backends)), Affinity: f.AffinitySeconds, ID: old.row.ID}
	if f.Type == "" || f.Type == "ClusterIP" {
		row.Flags |= abi.ServiceClusterIP
	}
	moved := !exists || !slices.Equal(old.backends, f.Backends)
	if !moved && row == old.row {
		return nil
	}
	var taken run
	defer func() { // a service that fails is tried again and again: what it took must come back
		if err != nil {
			v.resting = append(v.resting, taken)
		}
	}()
	if moved {
		first, err := v.place(f)
		if err != nil {
			return err
		}
		row.First = uint32(first)
		taken.first, taken.count = first, len(f.Backends)
	}
	if !exists {
		id, err := v.newID()
		if err != nil {
			return err
		}
		row.ID, taken.id = uint16(id), id
		if err := v.vips.Put(uint32(id), abi.ServiceVIP{VIP: k.VIP, Port: k.Port, Protocol: k.Protocol}); err != nil {
			return err
		}
	}
	if err := v.rows.Put(k, row); err != nil {
		return err
	}
	v.known[k] = entry{row: row, backends: slices.Clone(f.Backends)}
	if moved && exists {
		v.resting = append(v.resting, run{first: int(old.row.First), count: int(old.row.Count)})
	}
	return nil
}

// place writes a new run of backends and returns its first row.
func (v *services) place(f service.Frontend) (int, error) {
	n := len(f.Backends)
	if n == 0 {
		return 0, nil
	}
	first, ok := v.gap(n)
	if !ok {
		v.release()
		if first, ok = v.gap(n); !ok {
			return 0, fmt.Errorf("no room for %d backends in a table of %d rows", n, len(v.used))
		}
	}
	for i, b := range f.Backends {
		row := abi.Backend{Addr: mapped(b.Addr), Port: swap(b.Port), ID: v.backendID(b, f.Protocol)}
		if err := v.backends.Put(uint32(first+i), row); err != nil {
			return 0, err
		}
		v.used[first+i] = true
	}
	return first, nil
}

func (v *services) gap(n int) (int, bool) {
	free := 0
	for i, used := range v.used {
		if free++; used {
			free = 0
		}
		if free == n {
			return i - n + 1, true
		}
	}
	return 0, false
}

// backendID numbers a backend for its life; the same in every service.
func (v *services) backendID(b service.Backend, protocol uint8) uint32 {
	name := backendName{b, protocol}
	id := v.ids32[name]
	if id == 0 {
		v.lastB++
		id = v.lastB
		v.ids32[name] = id
	}
	return id
}

func (v *services) newID() (int, error) {
	for range 2 {
		for i := range v.ids {
			id := (v.lastID + 1 + i) % len(v.ids)
			if !v.ids[id] {
				v.ids[id], v.lastID = true, id
				return id, nil
			}
		}
		v.release()
	}
	return 0, fmt.Errorf("all %d service numbers are in use", len(v.ids)-1)
}

// release frees what rested once no program can still read it.
func (v *services) release() {
	if len(v.resting) == 0 || v.grace() != nil {
		return
	}
	for _, r := range v.resting {
		for i := r.first; i < r.first+r.count; i++ {
			v.used[i] = false
		}
		if r.id != 0 {
			v.ids[r.id] = false
		}
	}
	v.resting = nil
	v.forgetBackends()
}

// forgetBackends drops the names of backends that no service has any more.
// Their numbers do not come back.
func (v *services) forgetBackends() {
	live := make(map[backendName]bool, len(v.ids32))
	for k, e := range v.known {
		for _, b := range e.backends {
			live[backendName{b, k.Protocol}] = true
		}
	}
	maps.DeleteFunc(v.ids32, func(n backendName, _ uint32) bool { return !live[n] })
}

// SettleServices frees the rows of services that changed; off the hot path,
// since it waits for a grace period.
func (s *Set) SettleServices() {
	s.services.mu.Lock()
	defer s.services.mu.Unlock()
	s.services.release()
}
