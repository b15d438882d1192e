/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Nodes of the cluster, as the underlay sees them. */

#include "addr.h"

enum node_limit {
	NODES_MAX = 8192,
};

struct node {
	struct addr underlay; /* outer address of tunnels, next hop of direct routes; mapped IPv4 or IPv6 */
	__u32 flags;          /* NODE_* */
	__u32 pad;
};

enum node_flag {
	NODE_USED = 1,
	NODE_UNDERLAY6 = 2, /* underlay is IPv6 */
};

/* Node index -> node. Row 0 stays empty. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NODES_MAX);
	__type(key, __u32);
	__type(value, struct node);
} nodes SEC(".maps");

/* Any address of a node -> node index. Tells tunnel peers from strangers. Written by
 * the agent, which makes it larger when it is full. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, __u32);
} node_addrs SEC(".maps");
