// SPDX-License-Identifier: Apache-2.0

// Package relay is what a relay tells about its nodes: what the Hubble API calls package relay.
package relay

//go:generate ../../deploy/build/protobuf api/relay/relay.proto
