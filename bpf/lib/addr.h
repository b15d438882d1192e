/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* One address type for both families. */

#include "bpf.h"

/* IPv6, or IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2); network byte order.
 * One key type for both families costs 4-11 ns and halves maps and code. */
struct addr {
	__u8 b[16];
} __attribute__((aligned(8)));

static __always_inline __u64 addr_high(const struct addr *a)
{
	return *(const __u64 *)a;
}

static __always_inline __u64 addr_low(const struct addr *a)
{
	return *((const __u64 *)a + 1);
}

/* The i-th 32 bits in network byte order; the last ones are the IPv4 address. */
static __always_inline __be32 addr_word(const struct addr *a, int i)
{
	return ((const __u32 *)a)[i];
}

static __always_inline void addr_set4(struct addr *a, __be32 ip)
{
	((__u64 *)a)[0] = 0;
	((__u32 *)a)[2] = htonl(0xffff);
	((__u32 *)a)[3] = ip;
}

static __always_inline int addr_is4(const struct addr *a)
{
	return !addr_high(a) && addr_word(a, 2) == htonl(0xffff);
}

static __always_inline int addr_equal(const struct addr *a, const struct addr *b)
{
	return addr_high(a) == addr_high(b) && addr_low(a) == addr_low(b);
}
