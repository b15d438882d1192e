/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Which backend a packet's connection gets: its client's, the one its tuple has
 * in the Maglev table, or any. Sockets choose in sock.c. */

#include "party.h"
#include "reasons.h"
#include "scratch.h"
#include "service.h"
#include "service_flow.h"
#include "track.h"

enum {
	BACKEND_TRIES = 4,
	HAIRPIN4 = 0xa9fe2a01, /* 169.254.42.1 */
	/* Beside drop reasons: */
	NO_SERVICE = -1, /* the destination is none */
	REJECT = -2,	 /* a service without backends: the client is told */
};

/* The client's address towards itself, when a service chose its own client. */
static __always_inline void hairpin_addr(const struct packet *p, struct addr *a)
{
	if (p->flags & PACKET_IPV6) {
		((__u64 *)a)[0] = be64_to_host(0xfe80ULL << 48);
		((__u64 *)a)[1] = be64_to_host(1ULL);
	} else {
		addr_set4(a, htonl(HAIRPIN4));
	}
}

static __always_inline int is_hairpin(const struct addr *a)
{
	if (addr_high(a) == be64_to_host(0xfe80ULL << 48))
		return addr_low(a) == be64_to_host(1ULL);
	return addr_is4(a) && addr_word(a, 3) == htonl(HAIRPIN4);
}

/* The flow that p would belong to after translation; nothing is written to the packet. */
static __always_inline struct flow *translated_flow(const struct packet *p, const struct service_flow *to)
{
	struct scratch *s = scratch();
	struct packet *after;

	if (!s)
		return NULL;
	after = packet_new(s);
	after->source = p->source;
	after->source_port = p->source_port;
	after->protocol = p->protocol;
	after->destination = to->addr;
	after->destination_port = to->port;
	if (addr_equal(&after->source, &to->addr))
		hairpin_addr(p, &after->source);
	flow_key_of(after, &s->key);
	return bpf_map_lookup_elem(&flows, &s->key);
}

/* Whether the tuple after translation is free, or this service's own. */
static __always_inline int is_usable(const struct packet *p, const struct service_flow *to)
{
	struct flow *f = translated_flow(p, to);

	return !f || f->service == to->service;
}

/* Spreads every bit over all (the finalizer of SplitMix64). */
static __always_inline __u64 mix(__u64 x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

/* The same on every node, so that a connection finds its backend through any. With
 * affinity all ports of a client are one. */
static __always_inline __u32 tuple_hash(const struct packet *p, const struct service *s)
{
	__u64 ports = (__u64)p->destination_port << 16 | p->protocol;

	if (!s->affinity)
		ports |= (__u64)p->source_port << 32;
	return mix(mix(mix(cfg_maglev_seed ^ addr_high(&p->source)) ^ addr_low(&p->source)) ^ ports) >> 32;
}

/* The number of the backend at p's position of the table, 0 if there is none. */
static __always_inline __u32 maglev_backend(const struct packet *p, const struct service *s)
{
	__u32 position = tuple_hash(p, s) % s->maglev_size;
	__u32 index = s->maglev + position / MAGLEV_WIDTH;
	struct maglev_row *row = bpf_map_lookup_elem(&maglev_rows, &index);

	position &= MAGLEV_WIDTH - 1;
	barrier_var(position);
	return row ? row->backend[position & (MAGLEV_WIDTH - 1)] : 0;
}

static __always_inline __u32 random_backend(const struct service *s)
{
	__u32 index = s->first + bpf_get_prandom_u32() % s->count;
	struct service_slot *slot = bpf_map_lookup_elem(&service_slots, &index);

	return slot ? slot->backend : 0;
}

/* The backend that this client had, while it is one and the time is not over; else 0. */
static __always_inline __u32 sticky_backend(const struct affinity_key *key, __u32 seconds)
{
	struct affinity_backend member = { .service = key->service };
	struct affinity *known = bpf_map_lookup_elem(&affinities, key);

	if (!known || (__u32)bpf_jiffies64() - known->last > seconds * cfg_hz)
		return 0;
	member.backend = known->backend;
	if (!bpf_map_lookup_elem(&affinity_backends, &member))
		return 0;
	known->last = bpf_jiffies64();
	return member.backend;
}

static __always_inline void stick(const struct affinity_key *key, __u32 backend)
{
	struct affinity row = { .backend = backend, .last = bpf_jiffies64() };

	bpf_map_update_elem(&affinities, key, &row, BPF_ANY);
}

/* A backend of the service in scratch that takes p, into `to` there. Another one
 * is chosen rather than a flow overwritten. */
__global int choose(const struct packet *p)
{
	struct scratch *space = scratch();
	struct service_flow *to;
	struct service *s;
	struct backend *b;
	__u32 id = 0, known = 0;
	int i;

	if (!p || !space || !space->service.count)
		return REJECT;
	s = &space->service;
	to = &space->to;
	__builtin_memset(to, 0, sizeof(*to));
	if (s->affinity) {
		space->client.client = p->source;
		space->client.service = s->id;
		space->client.is_cookie = 0;
		known = sticky_backend(&space->client, s->affinity);
	}
	for (i = 0; i < BACKEND_TRIES; i++) {
		id = i ? 0 : known;
		if (!id && !i && s->maglev && s->maglev_size)
			id = maglev_backend(p, s);
		if (!id)
			id = random_backend(s);
		b = bpf_map_lookup_elem(&backends, &id);
		if (!b)
			return REASON_NO_SERVICE_BACKEND;
		to->addr = b->addr;
		to->port = b->port;
		to->service = s->id;
		to->backend = id;
		if (!is_usable(p, to))
			continue;
		if (s->affinity && id != known)
			stick(&space->client, id);
		return 0;
	}
	return REASON_CT_INSERT_FAILED;
}

/* The backend of a translation is still one. */
static __always_inline int backend_stands(const struct service_flow *to)
{
	__u32 id = to->backend;
	struct backend *b = bpf_map_lookup_elem(&backends, &id);

	return b && b->flags && b->port == to->port && addr_equal(&b->addr, &to->addr);
}

static __always_inline int opens(const struct packet *p)
{
	return p->protocol != PROTO_TCP || (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

enum {
	ANY_ADDRESS = 1, /* of any node, instead of p's destination */
};

/* Copies the row of p's destination to scratch; false if it is no port of a service. */
__global int service_of(const struct packet *p, __u32 scope, __u32 flags)
{
	struct scratch *space = scratch();
	struct service_key vip = {};
	struct service *known;

	if (!p || !space)
		return 0;
	if (!(flags & ANY_ADDRESS))
		vip.vip = p->destination;
	else if (!(p->flags & PACKET_IPV6))
		addr_set4(&vip.vip, 0);
	vip.port = p->destination_port;
	vip.protocol = p->protocol;
	vip.scope = scope;
	known = bpf_map_lookup_elem(&services, &vip);
	if (!known || (known->flags & SERVICE_LOOPBACK))
		return 0;
	if ((flags & ANY_ADDRESS) && (known->flags & SERVICE_LOCAL))
		return 0; /* the other node knows its own backends */
	space->service = *known;
	return 1;
}

/* The destination is a virtual address without such a port. */
__global int is_rest(const struct packet *p, __u32 scope)
{
	struct service_key vip = {};

	if (!p)
		return 0;
	vip.vip = p->destination;
	vip.scope = scope;
	return bpf_map_lookup_elem(&services, &vip) != NULL;
}
