// SPDX-License-Identifier: Apache-2.0

// Package l7 is what the proxy and the agent agree on: which rules a connection
// is under, what they say about a request, and what is recorded of it.
//
// It is pure. Sockets are in internal/proxy, the kernel's tables in
// internal/datapath.
package l7
