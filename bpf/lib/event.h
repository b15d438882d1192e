/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* What the programs tell the agent, one struct for every kind. */

#include "addr.h"

enum event_type { /* numbers as known from the monitor */
	EVENT_DROP = 1,
	EVENT_TRACE = 4,
	EVENT_VERDICT = 5,
	EVENT_MISS = 200, /* an identity or address that the agent should look up at once */
};

enum event_point {
	POINT_TO_POD = 0,
	POINT_TO_PROXY = 1,
	POINT_TO_HOST = 2,
	POINT_TO_STACK = 3,
	POINT_TO_OVERLAY = 4,
	POINT_FROM_POD = 5,
	POINT_FROM_PROXY = 6,
	POINT_FROM_HOST = 7,
	POINT_FROM_STACK = 8,
	POINT_FROM_OVERLAY = 9,
	POINT_FROM_NETWORK = 10,
	POINT_TO_NETWORK = 11,
};

struct event {
	__u64 time;     /* ns since boot */
	__u64 sequence; /* per CPU, without gaps; see event_sequence */
	struct addr source, destination;
	__be16 source_port, destination_port; /* ICMP: type << 8 | code in the first */
	__u8 type;                            /* enum event_type */
	__u8 reason;                          /* EVENT_DROP: drop reason */
	__u8 verdict;                         /* EVENT_VERDICT: enum policy_verdict */
	__u8 point;                           /* enum event_point */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 ingress; /* EVENT_VERDICT, EVENT_DROP: 1 seen as ingress to the endpoint, 0 as egress */
	__u8 flags;   /* EVENT_F_* */
	__u32 source_identity, destination_identity;
	__u32 peer;     /* that the verdict was looked up for */
	__u16 endpoint; /* whose policy decided, or who sent the packet */
	__u16 slot;
	__u16 set;
	__u16 row; /* of the set */
	__u16 cpu;
	__u16 pad;
	__u32 ifindex;
	__u32 length;     /* bytes of the packet with its L2 header */
	__u32 generation; /* of the endpoint when judged */
	__u32 service;    /* id of the service that was translated; 0: none */
	__u32 pad2;
};

enum event_flag {
	EVENT_F_REPLY = 1,
	EVENT_F_IPV6 = 2,
};

/* To the agent. Never woken per event: the reader polls. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 << 20);
} events SEC(".maps");

/* Next sequence number, by CPU. Pinned: a gap is a counted loss also across restarts of the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} event_sequence SEC(".maps");
