/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Who is behind an address, and where. */

#include "addr.h"

enum identity {
	IDENTITY_UNKNOWN = 0,
	IDENTITY_HOST = 1,
	IDENTITY_WORLD = 2,
	IDENTITY_UNMANAGED = 3,
	IDENTITY_HEALTH = 4,
	IDENTITY_INIT = 5,
	IDENTITY_REMOTE_NODE = 6,
	IDENTITY_KUBE_APISERVER = 7,
	IDENTITY_INGRESS = 8,
	IDENTITY_WORLD_IPV4 = 9,
	IDENTITY_WORLD_IPV6 = 10,
};

struct ipcache_key {
	__u32 prefixlen; /* 96 + length for IPv4 */
	__u8 addr[16];   /* as struct addr */
};

struct ipcache_entry {
	__u32 identity;
	__u32 peer;  /* index into `peers` */
	__u16 node;  /* index into `nodes`; 0: none */
	__u16 flags; /* IPCACHE_* */
	__u32 pad;
};

enum ipcache_flag {
	IPCACHE_HOST = 1,           /* an address of this node: goes to its stack */
	IPCACHE_NODE = 2,           /* an address of another node */
	IPCACHE_POD = 4,            /* a pod, known by its full address */
	IPCACHE_LOCAL_PODS = 8,     /* PodCIDR of this node: no endpoint means drop */
	IPCACHE_REMOTE_PODS = 16,   /* PodCIDR of another node: this address is not known yet */
	IPCACHE_TUNNEL = 32,        /* reached through the overlay */
	IPCACHE_CLUSTER_ROUTE = 64, /* natively routed inside the cluster: never masqueraded */
};

/* Prefix -> identity, peer, node. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 512000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipcache_key);
	__type(value, struct ipcache_entry);
} ipcache SEC(".maps");
