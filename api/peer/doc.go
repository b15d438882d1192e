// SPDX-License-Identifier: Apache-2.0

// Package peer is the service by which a relay finds its nodes: what the Hubble API calls package peer.
package peer

//go:generate ../../deploy/build/protobuf api/peer/peer.proto
