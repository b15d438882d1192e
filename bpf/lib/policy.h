/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Policy as cells: peer -> class -> cell of the slot -> set -> answer. */

#include "addr.h"

enum policy_limit {
	PEERS_MAX = 131072,
	CLASS_BANK = 256, /* classes of one inner map */
	CLASS_BANKS = 256,
	SLOTS_MAX = 512,
	GENERATIONS_MAX = 4096,
};

enum policy_slot {
	SLOT_OPEN = 0, /* slot without policy: every cell is SET_ALLOW */
};

enum policy_prefix {          /* prefixlen of a set_key */
	PREFIX_ANY = 32,      /* every protocol and port */
	PREFIX_PROTOCOL = 48, /* one protocol, every port */
	PREFIX_PORT = 64,     /* exactly this port */
};

enum policy_class {           /* judged pessimistically */
	CLASS_UNKNOWN = 0,    /* peer that nobody knows */
	CLASS_UNRESOLVED = 1, /* identity of this cluster whose labels are not here yet */
	CLASS_FIRST = 2,
};

enum policy_set { /* end the lookup at the cell */
	SET_DENY = 0,
	SET_ALLOW = 1,
	SET_FIRST = 2,
};

enum policy_verdict {
	VERDICT_DENY = 0,
	VERDICT_ALLOW = 1,
	VERDICT_REDIRECT = 2,
	VERDICT_AUDIT = 3, /* passes; told as what would be denied */
};

/* Peer -> class. BPF_F_MMAPABLE: the agent changes it by plain aligned stores. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PEERS_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32);
} peers SEC(".maps");

struct class_row {
	__u16 set[SLOTS_MAX]; /* by slot */
};

struct class_bank {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLASS_BANK);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(key_size, 4);
	__uint(value_size, sizeof(struct class_row));
};

/* Class / CLASS_BANK -> bank of class rows. A bank is added ahead of need and never replaced. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, CLASS_BANKS);
	__type(key, __u32);
	__array(values, struct class_bank);
} classes SEC(".maps");

struct set_key {
	__u32 prefixlen; /* bits of what follows: 32 all protocols, 48 one protocol, 49..64 port prefix */
	__u32 set;       /* host byte order: always compared whole */
	__u8 protocol;
	__u8 pad;    /* 0 */
	__be16 port; /* ICMP: type */
};

struct set_entry {
	__u8 verdict; /* enum policy_verdict */
	__u8 flags;
	__u16 row; /* number of the row within its set, for the trace */
	__u32 l7;  /* of a redirect: number of the L7 rules, for the proxy */
};

/* (set, protocol, port prefix) -> answer; no row: deny. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct set_key);
	__type(value, struct set_entry);
} sets SEC(".maps");

/* Identity -> peer, for the identity in a tunnel header. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} identity_peer SEC(".maps");

struct generations {
	__u32 endpoint[GENERATIONS_MAX]; /* by endpoint id: its slots, or a cell of them, changed */
	__u32 peer[GENERATIONS_MAX];     /* by hash of the peer's address: who is behind it changed */
};

/* What cached verdicts were judged under; one row. BPF_F_MMAPABLE: the agent bumps after the cells. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct generations);
} policy_gens SEC(".maps");

/* Shard of an address in generations.peer: the four words (as stored, network
 * order read as native integers) xored, times 0x9E3779B1, top 12 bits. */
static __always_inline __u32 peer_shard(const struct addr *a)
{
	const __u32 *w = (const __u32 *)a;

	return ((w[0] ^ w[1] ^ w[2] ^ w[3]) * 0x9E3779B1u) >> 20;
}
