// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/policy"
)

// Endpoint is what a row says about a pod's interface; policy owns the rest of the row.
type Endpoint struct {
	ID           uint16 // 1..4095
	Incarnation  uint32 // differs each time the id is given out
	IfIndex      int    // of the host's side
	MAC, NodeMAC [6]byte
	IPv4, IPv6   netip.Addr
	Ready        bool // out: traffic passes as policy says
}

func (e Endpoint) validate() error {
	if e.ID == 0 || e.ID >= abi.EndpointsMax {
		return fmt.Errorf("endpoint id %d is not within 1..%d", e.ID, abi.EndpointsMax-1)
	}
	if e.IfIndex <= 0 {
		return fmt.Errorf("endpoint %d has no interface", e.ID)
	}
	if !e.IPv4.IsValid() && !e.IPv6.IsValid() {
		return fmt.Errorf("endpoint %d has no address", e.ID)
	}
	return nil
}

// row is the memory of an endpoint's row.
func (s *Set) row(id uint16) *abi.Endpoint {
	return (*abi.Endpoint)(unsafe.Pointer(s.endpoints.word(uint32(id), 0)))
}

// PutEndpoint writes a row without ENDPOINT_READY: until it is enabled every
// packet is dropped. A row that says the same already is left as it is, with
// its policy and its readiness: that is how a restart adopts endpoints.
func (s *Set) PutEndpoint(e Endpoint) error {
	if err := e.validate(); err != nil {
		return err
	}
	old, exists := s.endpoint(e.ID)
	old.Ready = false
	if e.Ready = false; exists && old == e {
		return nil
	}
	if exists {
		if err := s.RemoveEndpoint(e.ID); err != nil {
			return err
		}
	}
	r := s.row(e.ID)
	r.Incarnation, r.MAC, r.NodeMAC = e.Incarnation, e.MAC, e.NodeMAC
	r.IP4, r.IP6 = mapped(e.IPv4), mapped(e.IPv6)
	// Closed in both directions until policy has said which slots it has.
	r.Slots = policy.SlotClosed | policy.SlotClosed<<16
	// From here on the row exists.
	s.endpoints.store32(uint32(e.ID), 0, uint32(e.IfIndex))
	return nil
}

// EnableEndpoint makes the pod's addresses known, then sets ENDPOINT_READY.
func (s *Set) EnableEndpoint(id uint16) error {
	e, ok := s.endpoint(id)
	if !ok {
		return fmt.Errorf("endpoint %d does not exist", id)
	}
	for _, a := range e.addresses() {
		if err := s.maps[abi.MapEndpointAddrs].Put(mapped(a), uint32(id)); err != nil {
			return fmt.Errorf("add address %s of endpoint %d: %w", a, id, err)
		}
	}
	s.endpoints.store32(uint32(id), endpointFlags, s.endpoints.load32(uint32(id), endpointFlags)|abi.EndpointReady)
	return nil
}

// RemoveEndpoint takes a pod off: no packet passes from the first store on;
// then its addresses, its flows, translations and fragments, and the row go.
// Absent is fine.
func (s *Set) RemoveEndpoint(id uint16) error {
	e, ok := s.endpoint(id)
	if !ok {
		return nil
	}
	s.endpoints.store32(uint32(id), endpointFlags, 0)
	var errs []error
	for _, a := range e.addresses() {
		var owner uint32
		m := s.maps[abi.MapEndpointAddrs]
		if m.Lookup(mapped(a), &owner) == nil && owner == uint32(id) {
			errs = append(errs, absentIsFine(m.Delete(mapped(a))))
		}
	}
	s.endpoints.store32(uint32(id), 0, 0)
	_, err := s.ForgetAddresses(e.addresses()...)
	errs = append(errs, err)
	*s.row(id) = abi.Endpoint{}
	return errors.Join(errs...)
}

// Endpoints are the rows that exist.
func (s *Set) Endpoints() []Endpoint {
	var out []Endpoint
	for id := range uint16(s.endpoints.rows()) {
		if e, ok := s.endpoint(id); ok {
			out = append(out, e)
		}
	}
	return out
}

func (s *Set) endpoint(id uint16) (Endpoint, bool) {
	r := s.row(id)
	if r.Ifindex == 0 {
		return Endpoint{}, false
	}
	return Endpoint{ID: id, Incarnation: r.Incarnation, IfIndex: int(r.Ifindex), MAC: r.MAC, NodeMAC: r.NodeMAC,
		IPv4: unmapped(r.IP4), IPv6: unmapped(r.IP6), Ready: r.Flags&abi.EndpointReady != 0}, true
}

func (e Endpoint) addresses() (out []netip.Addr) {
	for _, a := range []netip.Addr{e.IPv4, e.IPv6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}
