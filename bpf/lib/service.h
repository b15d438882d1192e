/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Services: virtual addresses and what is behind them.
 *
 *   services[address, port, protocol, scope] -> service
 *     first, count -> service_slots -> backends     whom new connections may get
 *     maglev       -> maglev_rows   -> backends     whom a tuple gets, if not at random
 *     id           -> service_vips                  what clients asked for
 *   service_hints[address, port, protocol] -> the same without hashing, for sockets
 *
 * What a row of `services` points at is written first; then the row changes by
 * one update. All of it is written by the agent; the tables are made larger by
 * new ones, which programs are loaded with (docs/design/services.md). */

#include "addr.h"

enum service_scope {
	SCOPE_INTERNAL = 0, /* clients are pods and hosts of the cluster */
	SCOPE_EXTERNAL = 1, /* clients come in from the network */
};

/* Port and protocol 0: all of the address that has no row of its own. The
 * address may be the unspecified one of its family: any address of any node. */
struct service_key {
	struct addr vip;
	__be16 port;
	__u8 protocol;
	__u8 scope; /* enum service_scope */
	__u32 pad;
};

struct service {
	__u32 id;          /* row in service_vips, number of the frontend; 0: of no port (SERVICE_REST) */
	__u32 first;       /* its first row in service_slots */
	__u32 count;       /* rows: backends that get new connections */
	__u32 affinity;    /* a client keeps its backend for so many seconds; 0: none */
	__u32 maglev;      /* its first row in maglev_rows; 0: backends are chosen at random */
	__u32 maglev_size; /* positions of its Maglev table */
	__u16 flags;       /* SERVICE_* */
	__u8 kind;         /* enum service_kind */
	__u8 pad;
};

enum service_flag {
	SERVICE_REST = 1,         /* the rest of an address: dropped, never routed on */
	SERVICE_LOCAL = 2,        /* traffic policy Local: only backends of this node; without one, dropped */
	SERVICE_DSR = 4,          /* a backend of another node answers the client itself */
	SERVICE_SOURCE_ALLOW = 8, /* only clients with a row in source_ranges */
	SERVICE_SOURCE_DENY = 16, /* all clients but those */
	SERVICE_SKIPPED = 32,     /* some network namespaces reach the address untranslated: service_skips */
	SERVICE_LOOPBACK = 64,    /* an address of the host's loopback: only sockets of the host know it */
};

enum service_kind {
	SERVICE_CLUSTER_IP = 0,
	SERVICE_NODE_PORT = 1,
	SERVICE_EXTERNAL_IP = 2,
	SERVICE_LOAD_BALANCER = 3,
	SERVICE_HOST_PORT = 4,
	SERVICE_LOCAL_REDIRECT = 5,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

struct service_slot {
	__u32 backend; /* row in backends */
	__u32 pad;
};

/* Ranges of backends. Frontends with the same backends share one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct service_slot);
} service_slots SEC(".maps");

struct backend {
	struct addr addr;
	__be16 port;
	__u8 protocol;
	__u8 flags; /* BACKEND_*; 0: no such backend (any more) */
	__u32 pad;
};

enum backend_flag {
	BACKEND_USED = 1,
	BACKEND_TERMINATING = 2, /* keeps its connections */
};

/* A backend has one row, whichever services it is in. Row 0 stays empty. A row
 * that became free rests before it is used again. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

enum maglev_limit {
	MAGLEV_WIDTH = 16,
};

/* A part of a Maglev table: position i is in row i / MAGLEV_WIDTH. */
struct maglev_row {
	__u32 backend[MAGLEV_WIDTH];
};

/* Row 0 stays empty. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct maglev_row);
} maglev_rows SEC(".maps");

struct service_vip {
	struct addr vip;
	__be16 port;
	__u8 protocol;
	__u8 pad;
	__u32 pad2;
};

/* Service id -> what clients asked for, for the way back. Row 0 stays empty. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct service_vip);
} service_vips SEC(".maps");

/* A hint is one word: id | first << 20 | count << 44. */
enum service_hint {
	HINT_ROWS_BITS = 13,
	HINT_ROWS = 1 << HINT_ROWS_BITS,
	HINT_ID_BITS = 20,
	HINT_FIRST_BITS = 24,
	HINT_COUNT_BITS = 20,
};

/* Hash of an internal frontend -> the frontend and its slots, if any of its backends
 * will do for any client. A lookup in `services` costs a socket 30 to 50 ns, most of it
 * cache misses; this one 5. Whose hint it is stands in service_vips; a frontend whose
 * row is another one's has none. BPF_F_MMAPABLE: the agent changes it by one store. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HINT_ROWS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} service_hints SEC(".maps");

/* Row of service_hints: the words of the address (as stored, read as native integers),
 * the port << 8 (as stored) and the protocol xored, times 0x9E3779B1, top bits. */
static __always_inline __u32 service_hint_row(const struct service_key *k)
{
	const __u32 *w = (const __u32 *)&k->vip;

	return ((w[0] ^ w[1] ^ w[2] ^ w[3] ^ (__u32)k->port << 8 ^ k->protocol) * 0x9E3779B1u) >> (32 - HINT_ROWS_BITS);
}

struct affinity_key {
	struct addr client; /* address, or the cookie of its network namespace in the first 8 bytes */
	__u32 service;
	__u32 is_cookie;
};

struct affinity {
	__u32 backend;
	__u32 last; /* connection, jiffies */
};

enum affinity_limit {
	AFFINITIES = 32768, /* rows of `affinities` where a service has affinity */
};

/* Client and service -> its backend. Written by the programs. An LRU takes all its
 * memory at once: made with its rows when the first service with affinity comes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinities SEC(".maps");

struct affinity_backend {
	__u32 service;
	__u32 backend;
};

/* Backends that a service with affinity has now. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct affinity_backend);
	__type(value, __u32);
} affinity_backends SEC(".maps");

struct source_range {
	__u32 prefixlen; /* 32 + 96 + length for IPv4, 32 + length for IPv6 */
	__u32 service;
	__u8 addr[16]; /* as struct addr */
};

/* Clients that a service allows or denies. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_range);
	__type(value, __u32);
} source_ranges SEC(".maps");

struct direct_backend {
	struct addr addr;
	__be16 port;
	__u8 protocol;
	__u8 pad;
	__u32 service;
};

/* Backends of this node for clients that another node sends here with their own
 * address (SERVICE_DSR). Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct direct_backend);
	__type(value, __u32);
} direct_backends SEC(".maps");

struct service_skip {
	struct addr vip;
	__u64 netns; /* cookie */
	__be16 port;
	__u8 protocol;
	__u8 pad[5];
};

/* Pods that a redirect leaves alone: its own backends. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_skip);
	__type(value, __u32);
} service_skips SEC(".maps");

/* The backend in a slot, NULL if there is none. */
static __always_inline struct backend *backend_at(__u32 slot, __u32 *id)
{
	struct service_slot *s = bpf_map_lookup_elem(&service_slots, &slot);

	if (!s)
		return NULL;
	*id = s->backend;
	return bpf_map_lookup_elem(&backends, id);
}
