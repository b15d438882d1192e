// SPDX-License-Identifier: Apache-2.0

// Package test sends packets through the real BPF objects with BPF_PROG_TEST_RUN.
//
// A node of the harness has one set of maps for all of its programs, as in a
// cluster. The bytes that one program puts out are what the next one gets. What
// a program asks of the kernel beyond its return value (which device, which
// tunnel) is seen by a spy: the calls of those helpers are led through small
// functions that note the arguments; nothing else of the object changes.
//
// The tests need root. They run in a network namespace of their own.
package test
