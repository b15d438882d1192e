/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Endpoints: the pods of this node. */

#include "addr.h"

enum endpoint_limit {
	ENDPOINTS_MAX = 4096, /* ids 1..4095 */
};

struct endpoint {
	__u32 ifindex;     /* of the host's side of the pod's veth; 0: no such endpoint */
	__u32 incarnation; /* differs each time the id is given out again */
	__u32 identity;    /* number of the pod's label set */
	__u32 peer4;       /* index into `peers` of (identity, IPv4 address) */
	__u32 peer6;       /* the same of the IPv6 address */
	__u32 slots;       /* egress slot | ingress slot << 16, changed by one store */
	__u32 flags;       /* ENDPOINT_* */
	__u8 mac[6];       /* inside the pod */
	__u8 node_mac[6];  /* the host's side */
	__u32 pad;
	struct addr ip4; /* mapped; zero: none */
	struct addr ip6;
};

enum endpoint_flag {
	ENDPOINT_READY = 1, /* its policy is in force; without it every packet is dropped */
};

/* Endpoint id -> endpoint. Written by the agent, row first, address after. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ENDPOINTS_MAX);
	__type(key, __u32);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

/* Address of a pod of this node -> endpoint id. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * ENDPOINTS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, __u32);
} endpoint_addrs SEC(".maps");
