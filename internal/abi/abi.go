// SPDX-License-Identifier: Apache-2.0

// Package abi holds the layouts that user space shares with the BPF programs.
//
// Everything but this file is generated from bpf/lib by internal/datapath/bpf/abigen. Fields that
// are __be16 or __be32 in C hold network byte order in memory; ReasonText and
// PeerShard are what both sides must compute alike.
package abi

//go:generate go run ../datapath/bpf/abigen ../..

import (
	"encoding/binary"
	"strconv"
)

// ReasonText returns what a drop reason means, or its number if it has no text.
func ReasonText(reason uint8) string {
	if text, ok := Reasons[reason]; ok {
		return text
	}
	return strconv.Itoa(int(reason))
}

// PeerShard returns the index of an address in Generations.Peer, as peer_shard of bpf/lib/policy.h.
func PeerShard(a Addr) uint32 {
	var x uint32
	for i := 0; i < len(a.B); i += 4 {
		x ^= binary.NativeEndian.Uint32(a.B[i:])
	}
	return x * 0x9E3779B1 >> 20
}

// HintRow returns the row of a frontend in service_hints, as service_hint_row of bpf/lib/service.h.
func HintRow(k ServiceKey) uint32 {
	x := uint32(k.Port)<<8 ^ uint32(k.Protocol)
	for i := 0; i < len(k.VIP.B); i += 4 {
		x ^= binary.NativeEndian.Uint32(k.VIP.B[i:])
	}
	return x * 0x9E3779B1 >> (32 - HintRowsBits)
}

// Hint is the word of service_hints for a frontend and its slots; false: they do not fit.
func Hint(id, first, count uint32) (uint64, bool) {
	if id >= 1<<HintIDBits || first >= 1<<HintFirstBits || count >= 1<<HintCountBits {
		return 0, false
	}
	return uint64(id) | uint64(first)<<HintIDBits | uint64(count)<<(HintIDBits+HintFirstBits), true
}
