// SPDX-License-Identifier: Apache-2.0

// Package proxyd is the program `stentor proxy`: it takes the connections that
// the kernel's programs send it, finds the rules each is under, and gives it to
// the package of its protocol.
//
// It goes on without an agent: policy is read from the kernel's tables, the L7
// rules from the last that an agent sent, which a file keeps.
package proxyd
