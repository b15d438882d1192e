/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Services: virtual addresses and what is behind them. */

#include "addr.h"

struct service_key {
	struct addr vip;
	__be16 port;
	__u8 protocol;
	__u8 scope; /* 0: inside the cluster, 1: outside (external traffic policy) */
	__u32 pad;
};

struct service {
	__u32 first;    /* row of the first backend in `backends` */
	__u32 count;    /* backends that take new connections */
	__u32 affinity; /* client affinity in seconds; 0: none */
	__u16 id;       /* row in `service_vips` */
	__u16 flags;    /* SERVICE_* */
};

enum service_flag {
	SERVICE_CLUSTER_IP = 1,
};

/* (address, port, protocol) -> service. Written by the agent, last. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

struct backend {
	struct addr addr;
	__be16 port;
	__u16 flags;
	__u32 id;
};

/* Runs of backends, one run a service; a changed service gets a new run first. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

struct service_vip {
	struct addr vip;
	__be16 port;
	__u8 protocol;
	__u8 pad;
	__u32 pad2;
};

/* Service id -> what clients asked for, for the way back. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct service_vip);
} service_vips SEC(".maps");
