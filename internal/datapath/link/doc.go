// SPDX-License-Identifier: Apache-2.0

// Package link keeps the network devices of a node as the datapath needs them.
//
// It owns what it makes: devices named stentor_* and stp*, and routes whose
// protocol is RouteProtocol. Everything is idempotent: what is there and right
// stays untouched, so a restart never interrupts traffic. The node's namespace
// is that of the thread that calls New; sysctls are written on the caller's
// thread, which must be in the same namespace.
package link
