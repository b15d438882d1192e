// SPDX-License-Identifier: Apache-2.0

// Package flow is the wire form of flows: what the Hubble API calls package flow.
package flow

//go:generate ../../deploy/build/protobuf api/flow/flow.proto
