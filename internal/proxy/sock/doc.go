// SPDX-License-Identifier: Apache-2.0

// Package sock makes the sockets of the proxy: listeners for connections to
// somebody else, and connections from somebody else's address. All carry the
// mark by which the programs know what the proxy sends; that and foreign
// addresses need CAP_NET_ADMIN.
//
// Sockets belong to the network namespace of the calling thread.
package sock
