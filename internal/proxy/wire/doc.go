// SPDX-License-Identifier: Apache-2.0

// Package wire is the unix socket between the agent and the proxy of a node.
//
// The agent serves: rules go to the proxy, records come back. Both ends may
// begin first and come back at any time; the proxy goes on with what it has.
package wire
