// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"net/netip"

	"github.com/stentor-net/stentor/internal/abi"
)

// mapped stores an address as the kernel does; the invalid address is zero.
func mapped(a netip.Addr) abi.Addr {
	if !a.IsValid() {
		return abi.Addr{}
	}
	return abi.Addr{B: a.As16()}
}

// unmapped reads an address of the kernel; zero is invalid.
func unmapped(a abi.Addr) netip.Addr {
	if a == (abi.Addr{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(a.B).Unmap()
}

// Addr reads an address as the kernel stores it; zero is invalid.
func Addr(a abi.Addr) netip.Addr { return unmapped(a) }

// Port reads a port as the kernel stores it.
func Port(p uint16) uint16 { return swap(p) }

// swap turns a port of the network's byte order into the host's, or back.
func swap(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

func lpmKey(p netip.Prefix) abi.IpcacheKey {
	p = p.Masked()
	n := p.Bits()
	if p.Addr().Is4() {
		n += 96
	}
	return abi.IpcacheKey{Prefixlen: uint32(n), Addr: p.Addr().As16()}
}

func prefixOf(k abi.IpcacheKey) netip.Prefix {
	a := netip.AddrFrom16(k.Addr)
	if n := int(k.Prefixlen); a.Is4In6() && n >= 96 {
		return netip.PrefixFrom(a.Unmap(), n-96)
	}
	return netip.PrefixFrom(a, int(k.Prefixlen))
}

// stride is the distance of rows in the memory of an array map.
func stride(valueSize uint32) int { return int(valueSize+7) &^ 7 }
