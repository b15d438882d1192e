// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
)

// layoutVersion counts changes of rows whose size stayed the same; a change of
// size is seen without it.
const layoutVersion = 1

const layoutMap = "layout"

// LayoutError says that a pinned map was made by a version with other rows.
type LayoutError struct {
	Map, Path, Difference string
}

func (e *LayoutError) Error() string {
	return fmt.Sprintf("map %s at %s was made by a version with another layout (%s): run `stentor cleanup` on this node, which interrupts its pods until the agent is up again",
		e.Map, e.Path, e.Difference)
}

// mapped into memory, so that one row or cell changes by one store.
var shared = []string{"peers", "policy_gens", "endpoints", "service_hints"}

// Adapt makes map specs ready for Open: what the agent maps into its memory
// says so. The programs do not depend on it.
func Adapt(specs map[string]*ebpf.MapSpec) {
	for name, s := range specs {
		s.Pinning = ebpf.PinNone
		if slices.Contains(shared, name) {
			s.Flags |= unix.BPF_F_MMAPABLE
		}
		if name == "classes" && s.InnerMap != nil {
			s.InnerMap.Flags |= unix.BPF_F_MMAPABLE
		}
	}
}

// Set is the pinned maps of a node.
type Set struct {
	dir   string
	specs map[string]*ebpf.MapSpec
	maps  map[string]*ebpf.Map

	largerMu sync.RWMutex
	larger   map[string]*ebpf.Map // in the place of maps of the same name: see Grow
	smaller  map[string]*ebpf.Map // what Grow replaced, until Grown

	peers, gens, endpoints memory

	bankSpec *ebpf.MapSpec
	banksMu  sync.Mutex
	banks    []bank // by number; memory is nil where there is none

	clock clock

	policy   *Policy
	services *services
	nodesMu  sync.Mutex
}

type bank struct {
	m   *ebpf.Map
	mem memory
}

// Open opens the maps of dir or creates those that are missing. A map of
// another layout is an error of type *LayoutError; nothing is changed then.
func Open(dir string, specs map[string]*ebpf.MapSpec) (*Set, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create %s: %w", dir, err)
	}
	s := &Set{dir: dir, maps: map[string]*ebpf.Map{}}
	if err := s.open(specs); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Set) open(specs map[string]*ebpf.MapSpec) error {
	specs = maps.Clone(specs)
	// Constants and globals belong to a program, not to the node.
	maps.DeleteFunc(specs, func(name string, _ *ebpf.MapSpec) bool { return strings.HasPrefix(name, ".") })
	Adapt(specs)
	s.specs = specs
	if err := s.checkLayout(specs); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		m, err := openOrCreate(filepath.Join(s.dir, name), name, specs[name])
		if err != nil {
			return err
		}
		s.maps[name] = m
	}
	for name, mem := range map[string]*memory{"peers": &s.peers, "policy_gens": &s.gens, "endpoints": &s.endpoints} {
		if err := mem.open(s.maps[name]); err != nil {
			return fmt.Errorf("map %s into memory: %w", name, err)
		}
	}
	if specs["classes"] != nil {
		s.bankSpec = specs["classes"].InnerMap
		s.banks = make([]bank, specs["classes"].MaxEntries)
		if err := s.openBanks(); err != nil {
			return err
		}
	}
	var err error
	if s.policy, err = s.newPolicy(); err != nil {
		return err
	}
	s.services, err = s.newServices()
	return err
}

// Policy is the executor of changes of policy.
func (s *Set) Policy() *Policy { return s.policy }

// checkLayout looks at all pinned maps before any is created.
func (s *Set) checkLayout(specs map[string]*ebpf.MapSpec) error {
	layout := &ebpf.MapSpec{Name: layoutMap, Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	for name, spec := range specs {
		if err := s.checkPin(name, spec); err != nil {
			return err
		}
	}
	if classes := specs["classes"]; classes != nil {
		for n := range int(classes.MaxEntries) {
			if err := s.checkPin(bankName(n), classes.InnerMap); err != nil {
				return err
			}
		}
	}
	m, err := openOrCreate(filepath.Join(s.dir, layoutMap), layoutMap, layout)
	if err != nil {
		return err
	}
	defer m.Close()
	var v uint32
	if err := m.Lookup(uint32(0), &v); err != nil {
		return fmt.Errorf("read layout version: %w", err)
	}
	if v != 0 && v != layoutVersion {
		return &LayoutError{Map: layoutMap, Path: filepath.Join(s.dir, layoutMap), Difference: fmt.Sprintf("version %d, this one has %d", v, layoutVersion)}
	}
	return m.Put(uint32(0), uint32(layoutVersion))
}

// checkPin wants nothing at the place of a map, or such a map.
func (s *Set) checkPin(name string, spec *ebpf.MapSpec) error {
	path := filepath.Join(s.dir, name)
	at, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && at.IsDir() {
		return &LayoutError{Map: name, Path: path, Difference: "it is a directory"}
	}
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("open map %s: %w", path, err)
	}
	if err == nil {
		if growable(name) && m.MaxEntries() > spec.MaxEntries {
			spec = spec.Copy()
			spec.MaxEntries = m.MaxEntries()
		}
		err = spec.Compatible(m)
		m.Close()
	}
	if err != nil {
		return &LayoutError{Map: name, Path: path, Difference: strings.TrimSuffix(err.Error(), ": "+ebpf.ErrMapIncompatible.Error())}
	}
	return nil
}

func openOrCreate(path, name string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil {
		return m, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open map %s: %w", path, err)
	}
	if m, err = ebpf.NewMap(spec); errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("create map %s: %w", name, unix.EPERM) // the library guesses at a memory limit that is none
	} else if err != nil {
		return nil, fmt.Errorf("create map %s: %w", name, err)
	}
	if err := m.Pin(path); err != nil {
		m.Close()
		return nil, fmt.Errorf("pin map %s: %w", name, err)
	}
	return m, nil
}

// Maps are those that programs are loaded with, by name.
func (s *Set) Maps() map[string]*ebpf.Map {
	out := maps.Clone(s.maps)
	s.largerMu.RLock()
	defer s.largerMu.RUnlock()
	maps.Copy(out, s.larger)
	return out
}

// Map returns one of them, nil if this version has none of that name.
func (s *Set) Map(name string) *ebpf.Map {
	s.largerMu.RLock()
	defer s.largerMu.RUnlock()
	if m := s.larger[name]; m != nil {
		return m
	}
	return s.maps[name]
}

// Close lets go of the maps; they stay pinned.
func (s *Set) Close() error {
	var errs []error
	if s.services != nil {
		errs = append(errs, s.services.hints.close())
	}
	for _, mem := range []*memory{&s.peers, &s.gens, &s.endpoints} {
		errs = append(errs, mem.close())
	}
	for _, b := range s.banks {
		errs = append(errs, b.mem.close())
		if b.m != nil {
			errs = append(errs, b.m.Close())
		}
	}
	for _, m := range s.maps {
		errs = append(errs, m.Close())
	}
	for _, m := range s.larger {
		errs = append(errs, m.Close())
	}
	s.maps, s.larger, s.banks = map[string]*ebpf.Map{}, nil, nil
	return errors.Join(append(errs, s.clock.close())...)
}

func bankName(n int) string { return "class_bank_" + strconv.Itoa(n) }

// openBanks finds the pinned banks of class rows and makes the first.
func (s *Set) openBanks() error {
	for n := range s.banks {
		path := filepath.Join(s.dir, bankName(n))
		if _, err := os.Stat(path); err != nil && n > 0 {
			continue
		}
		if err := s.openBank(n); err != nil {
			return err
		}
	}
	return nil
}

// openBank adds a bank to the outer map, which waits for a grace period: done
// ahead of need. A bank is never replaced.
func (s *Set) openBank(n int) error {
	name := bankName(n)
	m, err := openOrCreate(filepath.Join(s.dir, name), name, s.bankSpec)
	if err != nil {
		return err
	}
	b := bank{m: m}
	if err := b.mem.open(m); err != nil {
		m.Close()
		return fmt.Errorf("map %s into memory: %w", name, err)
	}
	info, err := m.Info()
	if err != nil {
		return fmt.Errorf("look at %s: %w", name, err)
	}
	id, _ := info.ID()
	var inside ebpf.MapID
	err = s.maps["classes"].Lookup(uint32(n), &inside)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("look up %s: %w", name, err)
	}
	if err != nil || inside != id {
		if err := s.maps["classes"].Put(uint32(n), m); err != nil {
			return fmt.Errorf("add %s: %w", name, err)
		}
	}
	s.banks[n] = b
	return nil
}

// bankOf returns the memory of the bank that holds a class.
func (s *Set) bankOf(class uint32) (memory, error) {
	n := int(class / abi.ClassBank)
	s.banksMu.Lock()
	defer s.banksMu.Unlock()
	if n >= len(s.banks) {
		return memory{}, fmt.Errorf("class %d: only %d classes are possible", class, len(s.banks)*abi.ClassBank)
	}
	if s.banks[n].mem.b == nil {
		if err := s.openBank(n); err != nil {
			return memory{}, err
		}
	}
	return s.banks[n].mem, nil
}
