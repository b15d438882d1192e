/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Masquerading: pods speak to the world with the node's address, and so do clients
 * outside with backends of other nodes. */

#include "addr.h"

enum nat_direction {
	NAT_OUT = 0, /* key: remote, and the pod; value: the node's address and port */
	NAT_IN = 1,  /* key: remote, and the node; value: the pod's address and port */
	NAT_HOST = 2, /* key: client outside, and this host's own backend; value: what the client asked for */
};

struct nat_key {
	struct addr remote, local;
	__be16 remote_port, local_port; /* ICMP echo: local is the identifier, remote 0 */
	__u8 protocol;
	__u8 direction;
	__u16 pad;
};

struct nat_entry {
	struct addr addr;
	__be16 port;
	__u16 endpoint;    /* id of the pod */
	__u32 incarnation; /* of the pod: a reused address never inherits a mapping */
	__u32 last;        /* last packet, jiffies */
	__u32 service;     /* of a connection from outside to a backend elsewhere; 0: of a pod's own */
	__u8 tcp;          /* flags seen in this direction, of a service's connection */
	__u8 flags;        /* NAT_* */
	__u16 pad;
	__u32 pad2;
};

enum nat_flag {
	NAT_ANY_PORT = 1, /* may have any port: no socket of the host speaks from that address and device */
	NAT_PROXIED = 2,  /* inward: the proxy speaks through it for the pod */
};

/* Written by from_net/to_net; expired by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct nat_key);
	__type(value, struct nat_entry);
} nat SEC(".maps");
