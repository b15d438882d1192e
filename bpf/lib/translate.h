/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Services on the wire: for what was not translated at its socket. The client's
 * node translates towards a backend and back; policy sees the backend. */

#include "party.h"
#include "related.h"
#include "rewrite.h"
#include "service.h"
#include "service_flow.h"

enum {
	BACKEND_TRIES = 4,
	HAIRPIN4 = 0xa9fe2a01, /* 169.254.42.1 */
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

/* A backend that takes p. Another one is chosen rather than a flow overwritten. */
static __always_inline int choose(const struct packet *p, const struct service *s, struct service_flow *to)
{
	struct backend *b;
	__u32 index;
	int i;

	if (!s->count)
		return REASON_NO_SERVICE_BACKEND;
	for (i = 0; i < BACKEND_TRIES; i++) {
		index = s->first + bpf_get_prandom_u32() % s->count;
		b = backend_at(index, &to->backend);
		if (!b)
			return REASON_NO_SERVICE_BACKEND;
		to->addr = b->addr;
		to->port = b->port;
		to->service = s->id;
		if (is_usable(p, to))
			return 0;
	}
	return REASON_CT_INSERT_FAILED;
}

/* The known translation still stands; an opening packet only keeps one whose flow is open. */
static __always_inline int stands(const struct packet *p, const struct service *s, const struct service_flow *known)
{
	struct flow *f;

	if (known->service != s->id)
		return 0;
	if (p->protocol != PROTO_TCP || (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return 1;
	f = translated_flow(p, known);
	return f && !flow_reopens(f, p);
}

/* Chooses where p goes, by the row of its connection or anew. */
__global int backend_of(const struct packet *p, struct flow_key *key, const struct service *s, struct service_flow *to)
{
	struct service_flow *known, row = {};
	struct scratch *space = scratch();
	int reason;

	if (!space || !p || !key || !s || !to)
		return REASON_NO_SERVICE_BACKEND;
	space->service_key = *key;
	space->service_key.leg = LEG_SERVICE;
	known = bpf_map_lookup_elem(&service_flows, &space->service_key);
	if (known && stands(p, s, known)) {
		known->last = bpf_jiffies64();
		*to = *known;
		return 0;
	}
	reason = choose(p, s, &row);
	if (reason)
		return reason;
	row.last = bpf_jiffies64();
	*to = row;
	return bpf_map_update_elem(&service_flows, &space->service_key, &row, BPF_ANY) ? REASON_CT_INSERT_FAILED : 0;
}

/* If p is for a service: gives it a backend, in the packet, in p and in key. */
__global int translate(struct __sk_buff *skb, struct packet *p, struct flow_key *key)
{
	struct service_key vip = {};
	struct service_flow to = {};
	struct service *known, s;
	struct addr self;
	int reason;

	if (!p || !key)
		return REASON_INVALID_PACKET;
	vip.vip = p->destination;
	vip.port = p->destination_port;
	vip.protocol = p->protocol;
	known = bpf_map_lookup_elem(&services, &vip);
	if (!known)
		return 0;
	s = *known;
	p->service = s.id;
	reason = backend_of(p, key, &s, &to);
	if (reason)
		return reason;
	if (addr_equal(&to.addr, &p->source)) {
		hairpin_addr(p, &self);
		reason = rewrite(skb, p, &self, p->source_port, 0);
		if (reason)
			return reason;
	}
	reason = rewrite(skb, p, &to.addr, to.port, 1);
	flow_key_of(p, key);
	return reason;
}

/* A pod answers itself: only its own flow leads there. */
static __always_inline int admit_hairpin(const struct packet *p, const struct flow_key *key)
{
	struct flow_key own = *key;
	struct flow *f = bpf_map_lookup_elem(&flows, &own);

	return f && f->endpoint[INITIATOR] == p->endpoint && f->endpoint[RESPONDER] == p->endpoint && f->service &&
			       flow_fresh(f)
		       ? 0
		       : REASON_UNKNOWN_L3_TARGET;
}

/* p goes to a client that knows only the service: a reply gets the service's
 * address, an ICMP error gets it inside. Returns 0 or a drop reason. */
__global int untranslate(struct __sk_buff *skb, struct packet *p, __u32 id, __u32 client)
{
	struct service_vip *known = bpf_map_lookup_elem(&service_vips, &id);
	struct service_vip vip;
	struct scratch *s = scratch();
	struct packet *inner;
	struct endpoint *ep;
	struct addr self;
	int reason;

	if (!s || !known || !p)
		return REASON_NO_SERVICE_BACKEND;
	vip = *known;
	p->service = id;
	if (p->flags & PACKET_RELATED) {
		inner = packet_new(s);
		reason = parse_inner(skb, p, inner);
		return reason ? reason : rewrite_inner(skb, p, inner, &vip.vip, INNER_DESTINATION(vip.port));
	}
	reason = rewrite(skb, p, &vip.vip, vip.port, 0);
	if (reason || !is_hairpin(&p->destination))
		return reason;
	ep = endpoint_at(client);
	if (!ep)
		return REASON_STALE_UNROUTABLE;
	self = p->flags & PACKET_IPV6 ? ep->ip6 : ep->ip4;
	return rewrite(skb, p, &self, p->destination_port, 1);
}
