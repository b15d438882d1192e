// SPDX-License-Identifier: Apache-2.0

// Package observer is the service that hands out flows: what the Hubble API calls package observer.
package observer

//go:generate ../../deploy/build/protobuf api/observer/observer.proto
