// SPDX-License-Identifier: Apache-2.0

// Package dnsname is DNS names: their one canonical form, the patterns that
// rules select them by, and a cache of the addresses that were learned for them.
//
// It is pure: the caller brings time and bytes. The proxy feeds the cache and
// reads it, policy uses names and patterns.
package dnsname
