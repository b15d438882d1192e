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
