// SPDX-License-Identifier: Apache-2.0

// Package datapath is the node's datapath as the agent drives it.
//
// Start makes what is missing and adopts what runs; Close leaves everything in
// the kernel forwarding; Cleanup takes it all away. Between them the agent puts
// rows in: pods, nodes, services, steps of policy. Below it are the packages bpf
// (compiled programs), maps (tables), load (programs into the kernel) and link
// (devices and routes). README.md says how to look at its state.
package datapath
