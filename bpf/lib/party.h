/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Who is behind an address: a pod of this node, or what the ipcache says. */

#include "endpoint.h"
#include "ipcache.h"
#include "packet.h"

enum {
	PARTY_READY = 1 << 15, /* endpoint: ENDPOINT_READY */
};

struct party {
	__u32 identity;
	__u32 peer;
	__u32 slots;       /* endpoint: egress | ingress << 16 */
	__u32 incarnation; /* endpoint */
	__u32 ifindex;     /* endpoint */
	__u16 id;          /* endpoint of this node; 0: none */
	__u16 node;        /* index into `nodes` of another node; 0: none */
	__u16 flags;       /* IPCACHE_*, PARTY_READY */
	__u16 pad;
};

static __always_inline struct endpoint *endpoint_at(__u32 id)
{
	return bpf_map_lookup_elem(&endpoints, &id);
}

/* Endpoint id of an address, 0 if it is none of this node's pods. The row must
 * carry the address: between two pods of one address the map may lag behind. */
static __always_inline __u32 endpoint_of(const struct addr *a, struct endpoint **ep)
{
	struct addr key = *a;
	__u32 *id = bpf_map_lookup_elem(&endpoint_addrs, &key);

	if (!id)
		return 0;
	*ep = endpoint_at(*id);
	if (!*ep || !(*ep)->ifindex)
		return 0;
	if (!addr_equal(a, addr_is4(a) ? &(*ep)->ip4 : &(*ep)->ip6))
		return 0;
	return *id;
}

static __always_inline struct ipcache_entry *ipcache_of(const struct addr *a)
{
	struct ipcache_key key = { .prefixlen = 128 };

	__builtin_memcpy(key.addr, a, sizeof(key.addr));
	return bpf_map_lookup_elem(&ipcache, &key);
}

/* Fills in all of *who. An address that nobody knows is identity and peer 0. */
__global int party_find(struct party *who, const struct addr *a)
{
	struct ipcache_entry *entry;
	struct endpoint *ep = NULL;

	if (!who || !a)
		return 0;
	__builtin_memset(who, 0, sizeof(*who));
	who->id = endpoint_of(a, &ep);
	if (who->id && ep) {
		who->identity = ep->identity;
		who->peer = addr_is4(a) ? ep->peer4 : ep->peer6;
		who->slots = ep->slots;
		who->incarnation = ep->incarnation;
		who->ifindex = ep->ifindex;
		who->flags = ep->flags & ENDPOINT_READY ? PARTY_READY : 0;
		return 0;
	}
	entry = ipcache_of(a);
	if (!entry)
		return 0;
	who->identity = entry->identity;
	who->peer = entry->peer;
	who->node = entry->node == cfg_node_index ? 0 : entry->node;
	who->flags = entry->flags;
	return 0;
}

static __always_inline int is_world_identity(__u32 identity)
{
	return identity == IDENTITY_WORLD || identity == IDENTITY_WORLD_IPV4 || identity == IDENTITY_WORLD_IPV6;
}

/* A client outside that comes with the address of a node which balances it here:
 * what this node knows about the world as a whole counts for it. */
static __always_inline int become_world(const struct packet *p, struct party *from)
{
	struct ipcache_entry *world;
	struct addr any = {};

	if (!cfg_services)
		return REASON_IDENTITY_MISMATCH;
	if (!(p->flags & PACKET_IPV6))
		addr_set4(&any, 0);
	world = ipcache_of(&any);
	if (!world)
		return REASON_IDENTITY_UNKNOWN;
	from->identity = world->identity;
	from->peer = world->peer;
	return 0;
}
