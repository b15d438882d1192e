/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Flows: what was decided for a connection, for both of its sides. */

#include "addr.h"

enum flow_leg {
	LEG_DIRECT = 0,
	LEG_SERVICE = 3, /* keyed by the tuple before translation, see service_flow.h */
	LEG_ANSWER = 4,	 /* keyed by the tuple after it */
};

/* The tuple in canonical order: (a, port_a) <= (b, port_b) as bytes. ICMP echo:
 * the port of the side that asks is the identifier, the other is 0, so that two
 * sides that ask each other with the same identifier are two flows. Other ICMP:
 * both ports are the type. */
struct flow_key {
	struct addr a, b;
	__be16 port_a, port_b;
	__u8 protocol;
	__u8 leg;
	__u16 pad;
};

/* side word: endpoint generation (24 bits) | peer generation << 24 | FLOW_SIDE_* << 48.
 * Written by one store, so that a new generation never joins an old verdict. */
enum flow_side {
	FLOW_SIDE_ALLOW = 1,
	FLOW_SIDE_REDIRECT = 2,
	FLOW_SIDE_ELSEWHERE = 4, /* judged by another node, or by nobody (host, world) */
};

struct flow {
	__u64 side[2];     /* 0: initiator's egress, 1: responder's ingress */
	__u32 last;        /* last packet, jiffies, low 32 bits */
	__u16 endpoint[2]; /* endpoint ids of initiator and responder; 0: not of this node */
	__u16 node;        /* node of the side that is not here; 0: none */
	__u16 flags;       /* FLOW_* */
	__u8 tcp[2];       /* TCP flags seen from the initiator, from the responder */
	__u16 pad;
	__u32 service; /* id of the service that was translated; 0: none */
	__u32 identity[2];
	__u32 incarnation[2]; /* of the endpoints */
	__u32 packets[2];
	__u16 shard[2]; /* of the initiator's and the responder's address in generations.peer */
	__u64 bytes[2];
};

enum flow_flag {
	FLOW_VIA_STACK = 1, /* first seen coming from the host's stack: replies go there */
	FLOW_PICKED_UP = 2, /* first packet was not an opening one */
	FLOW_CLOSING = 4,   /* FIN from both sides, or RST */
	FLOW_REPLIED = 8,   /* seen from both sides */
	FLOW_MASQUERADED = 16,
	FLOW_PROXIED = 32, /* two connections of the node's proxy: what is not from it goes to it */
	FLOW_FROM_B = 1 << 15, /* b of the key opened, not a */
};

/* Tuple -> flow. Written by the programs; expired by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* Datagram -> ports of its first fragment. */
struct fragment_key {
	struct addr source, destination;
	__be32 id; /* IPv4: in the low 16 bits */
	__u8 protocol;
	__u8 pad;
	__u16 device; /* low bits of the ifindex: no pod leaves ports for another one's fragments */
};

struct fragment {
	__be16 source_port, destination_port;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");
