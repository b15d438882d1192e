/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Connections that were translated on the wire. */

#include "flow.h"

/* Where a frontend stands for any address there is a second row, of leg LEG_ANSWER:
 * the tuple after translation -> the address and port that were asked. */
/* A connection translated on the wire: the tuple before translation -> the chosen
 * backend. Key: struct flow_key with leg LEG_SERVICE. Written by the programs. */
struct service_flow {
	struct addr addr;
	__be16 port;
	__u8 tcp;   /* flags seen from a client outside */
	__u8 place; /* enum backend_place */
	__u32 service;
	__u32 backend; /* row in `backends` */
	__u32 last;    /* jiffies */
	__be16 snat_port; /* this node's port towards a backend elsewhere; 0: none */
	__u8 told; /* the node of a direct backend knows the frontend */
	__u8 pad2[5];
};

enum backend_place {
	BACKEND_ELSEWHERE = 0,
	BACKEND_POD = 1,  /* of this node */
	BACKEND_HOST = 2, /* this node itself */
	BACKEND_DIRECT = 3, /* elsewhere: its node answers the client itself */
};

/* Written by from_pod; expired by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct flow_key);
	__type(value, struct service_flow);
} service_flows SEC(".maps");
