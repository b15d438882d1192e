/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* The internet checksum (RFC 1071) of what programs write themselves. */

#include "bpf.h"

/* From the 32 bits of bpf_csum_diff to what a header holds. */
static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}
