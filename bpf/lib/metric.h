/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Exact counters of what was forwarded and dropped. */

#include "bpf.h"

struct metric {
	__u64 packets;
	__u64 bytes;
};

/* Index: reason * 2 + direction (0 egress from a pod, 1 ingress to a pod). Reason 0
 * is "forwarded"; others are in reasons.def. Summed over CPUs by the reader. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, struct metric);
} metrics SEC(".maps");

static __always_inline void count(const struct __sk_buff *skb, __u32 reason, __u32 ingress)
{
	__u32 index = (reason & 255) * 2 + (ingress & 1);
	struct metric *m = bpf_map_lookup_elem(&metrics, &index);

	if (m) {
		m->packets++;
		m->bytes += skb->len;
	}
}
