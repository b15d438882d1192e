/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* What sockets were translated to, for the way back. */

#include "addr.h"

/* The one translation of a connected socket. */
struct socket_peer {
	struct addr backend, vip;
	__be16 backend_port, vip_port;
	__u32 pad;
};

/* UDP socket -> its translation, exact: recvmsg needs it for every datagram. Goes
 * with the socket; making it costs 700 ns, once. Written and read by sock_*. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_peer);
} socket_peers SEC(".maps");

/* A row of what stored_sockets lists (sockets.c). */
struct stored_row {
	__u64 cookie; /* of the socket */
	struct socket_peer peer;
};

/* The same for TCP, where only getpeername asks. A new socket takes the row of an
 * older one whose number ends in the same bits, about SOCKET_ROWS translated
 * connections ago: that one then tells of its backend. Two rows share a cache line. */
enum {
	SOCKET_ROWS = 16384, /* a power of two */
};

struct socket_row {
	__u64 cookie; /* of the socket; 0: unused */
	struct addr vip;
	__be16 vip_port;
	__u16 pad;
	__u32 backend; /* row in backends */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SOCKET_ROWS);
	__type(key, __u32);
	__type(value, struct socket_row);
} socket_rows SEC(".maps");

/* An unconnected UDP socket speaks to many: one row for each backend it was sent to. */
struct socket_key {
	__u64 cookie;
	struct addr backend;
	__be16 port;
	__u16 pad[3];
};

struct socket_vip {
	struct addr vip;
	__be16 port;
	__u16 pad[3];
};

/* (socket, backend) -> virtual address. Written by sendmsg, read by recvmsg. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct socket_key);
	__type(value, struct socket_vip);
} socket_vips SEC(".maps");
