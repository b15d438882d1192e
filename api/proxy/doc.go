// SPDX-License-Identifier: Apache-2.0

// Package proxy is what the agent and the proxy of a node tell each other: the
// agent serves it on a unix socket, the proxy calls.
package proxy

//go:generate ../../deploy/build/protobuf api/proxy/proxy.proto
