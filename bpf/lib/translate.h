/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Services on the wire: for what was not translated at its socket. The client's
 * node translates towards a backend and back; policy sees the backend. */

#include "choose.h"
#include "related.h"
#include "rewrite.h"

/* The known translation still stands. An opening packet only keeps one whose flow
 * is open, UDP only one whose backend is one. */
static __always_inline int stands(const struct packet *p, const struct service *s, const struct service_flow *known)
{
	struct flow *f;

	if (known->service != s->id)
		return 0;
	if (!opens(p))
		return 1;
	if (p->protocol != PROTO_TCP)
		return backend_stands(known);
	f = translated_flow(p, known);
	return f && !flow_reopens(f, p);
}

/* Chooses where p goes, by the row of its connection or anew, for `to` in scratch. */
static __always_inline int backend_of(const struct packet *p, struct flow_key *key, struct scratch *space)
{
	struct service_flow *known;
	int reason;

	space->service_key = *key;
	space->service_key.leg = LEG_SERVICE;
	known = bpf_map_lookup_elem(&service_flows, &space->service_key);
	if (known && stands(p, &space->service, known)) {
		known->last = bpf_jiffies64();
		space->to = *known;
		return 0;
	}
	reason = choose(p);
	if (reason)
		return reason;
	space->to.last = bpf_jiffies64();
	return bpf_map_update_elem(&service_flows, &space->service_key, &space->to, BPF_ANY) ? REASON_CT_INSERT_FAILED : 0;
}

/* Gives p a backend of the service in scratch, in the packet, in p and in key. */
__global int translate_to(struct __sk_buff *skb, struct packet *p, struct flow_key *key)
{
	struct scratch *space = scratch();
	struct addr self;
	int reason;

	if (!p || !key || !space)
		return REASON_INVALID_PACKET;
	p->service = space->service.id;
	reason = backend_of(p, key, space);
	if (reason)
		return reason;
	if (addr_equal(&space->to.addr, &p->source)) {
		hairpin_addr(p, &self);
		reason = rewrite(skb, p, &self, p->source_port, 0);
		if (reason)
			return reason;
	}
	reason = rewrite(skb, p, &space->to.addr, space->to.port, 1);
	flow_key_of(p, key);
	return reason;
}

/* If p is for a service: gives it a backend. */
static __always_inline int translate(struct __sk_buff *skb, struct packet *p, struct flow_key *key)
{
	struct scratch *space = scratch();

	if (!space || !service_of(p, SCOPE_INTERNAL, 0))
		return 0;
	/* Sockets are translated: who still asks for the address is left alone by its redirect. */
	if ((space->service.flags & SERVICE_SKIPPED) && !cfg_host_sockets)
		return 0;
	return translate_to(skb, p, key);
}

/* If p is for a NodePort of any node: the same. */
static __always_inline int translate_node_port(struct __sk_buff *skb, struct packet *p, struct flow_key *key)
{
	struct scratch *space = scratch();
	__u16 port = ntohs(p->destination_port);
	int reason;

	if (!space || !cfg_services || port < cfg_node_port_min || port > cfg_node_port_max)
		return 0;
	if (!service_of(p, SCOPE_INTERNAL, ANY_ADDRESS))
		return 0;
	space->asked = p->destination;
	reason = translate_to(skb, p, key);
	if (reason)
		return reason;
	space->answer = space->to;
	space->answer.addr = space->asked;
	space->answer.port = htons(port);
	space->service_key = *key;
	space->service_key.leg = LEG_ANSWER;
	return bpf_map_update_elem(&service_flows, &space->service_key, &space->answer, BPF_ANY) ? REASON_CT_INSERT_FAILED : 0;
}

/* What the client of p's flow asked for, of a frontend for any address. */
static __always_inline int asked_of(const struct packet *p, const struct packet *inner, struct service_vip *vip)
{
	struct scratch *space = scratch();
	struct service_flow *row;
	struct packet *own = (struct packet *)(inner ? inner : p);

	if (!space)
		return REASON_NO_SERVICE_BACKEND;
	flow_key_of(own, &space->service_key);
	space->service_key.leg = LEG_ANSWER;
	row = bpf_map_lookup_elem(&service_flows, &space->service_key);
	if (!row)
		return REASON_NO_SERVICE_BACKEND;
	row->last = bpf_jiffies64();
	vip->vip = row->addr;
	return 0;
}

static __always_inline int is_any(const struct addr *a)
{
	return !addr_high(a) && (!addr_low(a) || (addr_is4(a) && !addr_word(a, 3)));
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
 * address, an ICMP error gets it inside. client: endpoint, 0 of none here. Returns 0 or
 * a drop reason. */
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
		if (!reason && is_any(&vip.vip))
			reason = asked_of(p, inner, &vip);
		if (!reason)
			reason = rewrite_inner(skb, p, inner, &vip.vip, INNER_DESTINATION(vip.port));
		/* Outside the cluster nobody knows the backend. */
		return reason || client ? reason : rewrite(skb, p, &vip.vip, p->source_port, 0);
	}
	reason = is_any(&vip.vip) ? asked_of(p, NULL, &vip) : 0;
	if (!reason)
		reason = rewrite(skb, p, &vip.vip, vip.port, 0);
	if (reason || !is_hairpin(&p->destination))
		return reason;
	ep = endpoint_at(client);
	if (!ep)
		return REASON_STALE_UNROUTABLE;
	self = p->flags & PACKET_IPV6 ? ep->ip6 : ep->ip4;
	return rewrite(skb, p, &self, p->destination_port, 1);
}

/* p is an ICMP error of a client: one about an answer of a service goes to the backend
 * that sent it. Returns 0, also for every other error, or a drop reason. */
__global int translate_error(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *space = scratch();
	struct service_flow *known;
	int reason;

	if (!p || !space)
		return REASON_INVALID_PACKET;
	known = answered_flow(skb, p, space);
	if (!known)
		return 0;
	space->to = *known;
	p->service = space->to.service;
	reason = rewrite_inner(skb, p, &space->inner, &space->to.addr, INNER_SOURCE(space->to.port));
	return reason ? reason : rewrite(skb, p, &space->to.addr, p->destination_port, 1);
}
