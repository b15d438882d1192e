// SPDX-License-Identifier: Apache-2.0

// Package load brings the compiled programs into the kernel.
//
// The settings of the node become constants of the programs, the pinned maps
// their tables. Programs for devices are classifier filters with a fixed handle,
// so that a restart replaces each by one netlink message without a gap; programs
// for sockets are pinned links that are updated in place.
package load
