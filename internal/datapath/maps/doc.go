// SPDX-License-Identifier: Apache-2.0

// Package maps is the kernel's tables as the agent sees them.
//
// Set opens or creates the pinned maps of a node; each concern has a file with
// the accessors that keep its order of writing: what is pointed to is written
// first, then one store flips. Rows are those of bpf/lib, read from the compiled
// programs into package abi. Addresses in rows are 16 bytes, IPv4 as
// ::ffff:a.b.c.d, ports in rows are in network byte order; the Go side of every
// accessor speaks netip and host byte order.
package maps
