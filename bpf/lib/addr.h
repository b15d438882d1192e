/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* One address type for both families. */

#include "bpf.h"

/* IPv6, or IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2); network byte order.
 * One key type for both families costs 4-11 ns and halves maps and code. */
struct addr {
	__u8 b[16];
} __attribute__((aligned(8)));
