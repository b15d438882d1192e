/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Pods speak to the world with the node's address. A mapping is two rows, one
 * for each direction, made inwards first: who has the inward row has the port. */

#include "nat.h"
#include "party.h"
#include "related.h"
#include "rewrite.h"
#include "service.h"

enum {
	PORT_TRIES = 24,
	NOT_MASQUERADED = -1, /* no row: the packet is not of a pod, or the world knows it by its own address */
	OUTSIDE = -3,	      /* translated for a client outside: it goes there */
};

/* By value: a pointer into .rodata with an offset is beyond the verifier of 6.1. */
static __always_inline void masquerade_addr(const struct packet *p, struct addr *a)
{
	const volatile struct addr *from = p->flags & PACKET_IPV6 ? &cfg_masquerade_addr6 : &cfg_masquerade_addr4;

	((__u64 *)a)[0] = ((const volatile __u64 *)from)[0];
	((__u64 *)a)[1] = ((const volatile __u64 *)from)[1];
}

/* Off without an address: a node may lack one of a family. */
static __always_inline int masquerades(const struct packet *p)
{
	struct addr own;

	masquerade_addr(p, &own);
	return (p->flags & PACKET_IPV6 ? cfg_masquerade6 : cfg_masquerade4) && (addr_high(&own) | addr_low(&own));
}

/* A socket of the host would take the answers to this port. */
static __always_inline int host_owns(struct __sk_buff *skb, const struct nat_key *in)
{
	int v4 = addr_is4(&in->remote);
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sock = NULL;
	__u32 size = v4 ? sizeof(tuple.ipv4) : sizeof(tuple.ipv6);

	if (v4) {
		tuple.ipv4.saddr = addr_word(&in->remote, 3);
		tuple.ipv4.daddr = addr_word(&in->local, 3);
		tuple.ipv4.sport = in->remote_port;
		tuple.ipv4.dport = in->local_port;
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, &in->remote, 16);
		__builtin_memcpy(tuple.ipv6.daddr, &in->local, 16);
		tuple.ipv6.sport = in->remote_port;
		tuple.ipv6.dport = in->local_port;
	}
	if (in->protocol == PROTO_TCP)
		sock = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (in->protocol == PROTO_UDP)
		sock = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sock)
		return 0;
	bpf_sk_release(sock);
	return 1;
}

static __always_inline int keeps_port(const struct nat_entry *mapping, __u16 port)
{
	return (mapping->flags & NAT_ANY_PORT) && port > cfg_node_port_max;
}

/* Takes a port of the node for out, which is the pod's own tuple. Returns 0
 * with mapping->port set, or a drop reason. */
__global int take_port(struct __sk_buff *skb, const struct nat_key *out, struct nat_entry *mapping)
{
	struct scratch *s = scratch();
	__u32 width = cfg_nat_port_max - cfg_nat_port_min + 1;
	__u16 port;
	int i;

	if (!s || !out || !mapping)
		return REASON_NAT_NO_MAPPING;
	s->inward = *out;
	s->inward.local = mapping->addr;
	s->inward.direction = NAT_IN;
	__builtin_memset(&s->inward_row, 0, sizeof(s->inward_row));
	s->inward_row.addr = out->local;
	s->inward_row.port = out->local_port;
	s->inward_row.endpoint = mapping->endpoint;
	s->inward_row.incarnation = mapping->incarnation;
	s->inward_row.last = mapping->last;
	s->inward_row.service = mapping->service;
	s->inward_row.flags = mapping->flags & NAT_PROXIED;
	port = ntohs(out->local_port);
	for (i = 0; i < PORT_TRIES; i++) {
		/* Its own port is kept where no host socket is given one by the kernel. */
		if (out->protocol != PROTO_SCTP &&
		    (i || ((port < cfg_nat_port_min || port > cfg_nat_port_max) && !keeps_port(mapping, port))))
			port = cfg_nat_port_min + bpf_get_prandom_u32() % width;
		s->inward.local_port = htons(port);
		if (host_owns(skb, &s->inward))
			continue;
		if (!bpf_map_update_elem(&nat, &s->inward, &s->inward_row, BPF_NOEXIST)) {
			mapping->port = s->inward.local_port;
			return 0;
		}
		if (out->protocol == PROTO_SCTP)
			return REASON_NAT_UNSUPPORTED_PROTO;
	}
	return REASON_NAT_NO_MAPPING;
}

/* The inward row of a mapping still leads back to the pod; LRU may have taken it. */
static __always_inline int leads_back(const struct nat_key *out, const struct nat_entry *mapping)
{
	struct nat_key in = *out;
	struct nat_entry *back;

	in.local = mapping->addr;
	in.local_port = mapping->port;
	in.direction = NAT_IN;
	back = bpf_map_lookup_elem(&nat, &in);
	if (!back || back->port != out->local_port || !addr_equal(&back->addr, &out->local) ||
	    back->incarnation != mapping->incarnation || back->service != mapping->service)
		return 0;
	back->last = mapping->last;
	if (back->flags != mapping->flags)
		back->flags = mapping->flags;
	return 1;
}

static __always_inline void nat_key_of(const struct packet *p, struct nat_key *key, __u32 direction)
{
	int out = direction == NAT_OUT;

	key->remote = out ? p->destination : p->source;
	key->local = out ? p->source : p->destination;
	key->remote_port = out ? p->destination_port : p->source_port;
	key->local_port = out ? p->source_port : p->destination_port;
	key->protocol = p->protocol;
	key->direction = direction;
	key->pad = 0;
}

/* The world opened the connection of p to a pod's own address, and knows it by
 * that one; p was sent by this side of it. */
static __always_inline int world_opened(struct packet *p, __u32 side)
{
	struct scratch *s = scratch();
	struct flow *f;

	if (!s)
		return 0;
	flow_key_of(p, &s->key);
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (!f || sender_side(f, p) != side || f->endpoint[INITIATOR])
		return 0;
	return side_current(f, RESPONDER, endpoint_at(f->endpoint[RESPONDER]));
}

/* The node's address and port for a packet of a pod. Returns 0, NOT_MASQUERADED
 * for answers to the world, or a drop reason. */
static __always_inline int mapping_of(struct __sk_buff *skb, struct packet *p, const struct nat_key *out,
				      struct nat_entry *mapping)
{
	struct nat_entry *known = bpf_map_lookup_elem(&nat, out);
	struct endpoint *ep = endpoint_at(p->endpoint);
	int reason;

	if (!ep)
		return REASON_NAT_NO_MAPPING;
	masquerade_addr(p, &mapping->addr);
	mapping->endpoint = p->endpoint;
	mapping->incarnation = ep->incarnation;
	mapping->flags = p->flags & PACKET_FROM_PROXY ? NAT_PROXIED : 0;
	mapping->last = bpf_jiffies64();
	if (known && known->incarnation == ep->incarnation && addr_equal(&known->addr, &mapping->addr)) {
		mapping->port = known->port;
		known->last = mapping->last;
		if (leads_back(out, mapping))
			return 0;
	}
	/* Here and not before, so that a mapping's packets cost no lookup of their flow. */
	if (world_opened(p, RESPONDER))
		return NOT_MASQUERADED;
	reason = take_port(skb, out, mapping);
	if (reason)
		return reason;
	return bpf_map_update_elem(&nat, out, mapping, BPF_ANY) ? REASON_NAT_NO_MAPPING : 0;
}

/* p is a pod's (p->endpoint) and leaves the cluster: gives it the node's address. */
__global int masquerade(struct __sk_buff *skb, struct packet *p)
{
	struct nat_entry mapping = {};
	struct nat_key out;
	int reason;

	if (!p)
		return REASON_NAT_NO_MAPPING;
	if ((p->protocol == PROTO_ICMP || p->protocol == PROTO_ICMP6) && p->source_port && p->destination_port)
		return REASON_NAT_UNSUPPORTED_PROTO; /* no identifier to tell answers apart */
	if (p->flags & PACKET_NO_PORTS)
		return REASON_FRAG_FIRST_MISSING;
	nat_key_of(p, &out, NAT_OUT);
	reason = mapping_of(skb, p, &out, &mapping);
	if (reason)
		return reason == NOT_MASQUERADED ? 0 : reason;
	if (is_tunnelled(p))
		return REASON_ENCAP_PROHIBITED; /* a node may have the address: it would take this node for the sender */
	return rewrite(skb, p, &mapping.addr, mapping.port, 0);
}

/* p is an ICMP error of a pod about a packet that came in through a mapping. */
__global int masquerade_error(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *s = scratch();
	struct packet *inner;
	struct nat_entry *known;
	struct nat_entry mapping;
	struct nat_key out;
	int reason;

	if (!s || !p)
		return REASON_NAT_NO_MAPPING;
	inner = packet_new(s);
	reason = parse_inner(skb, p, inner);
	if (reason)
		return reason;
	nat_key_of(inner, &out, NAT_IN); /* the inner sender is the remote side */
	out.direction = NAT_OUT;
	known = bpf_map_lookup_elem(&nat, &out);
	if (!known)
		return world_opened(inner, INITIATOR) ? 0 : REASON_NAT_NO_MAPPING;
	mapping = *known;
	reason = rewrite_inner(skb, p, inner, &mapping.addr, INNER_DESTINATION(mapping.port));
	if (reason)
		return reason;
	return rewrite(skb, p, &mapping.addr, p->source_port, 0);
}

/* The pod behind a mapping, if it still lives: rows of the dead lead nowhere. */
static __always_inline int inward(const struct nat_key *in, struct nat_entry *mapping, __u8 tcp_flags)
{
	struct nat_entry *known = bpf_map_lookup_elem(&nat, in);
	struct endpoint *ep;

	if (!known)
		return 0;
	ep = endpoint_at(known->endpoint);
	if (!known->service && (!ep || ep->incarnation != known->incarnation))
		return 0;
	known->last = bpf_jiffies64();
	if (known->service)
		known->tcp |= tcp_flags;
	*mapping = *known;
	return 1;
}

/* p is a backend's answer to a client outside: it gets the addresses of the
 * connection that the client opened. */
__global int answer_outside(struct __sk_buff *skb, struct packet *p, const struct nat_entry *mapping)
{
	struct service_vip *known;
	struct service_vip vip;
	__u32 id;
	int reason;

	if (!p || !mapping)
		return NOT_MASQUERADED;
	id = mapping->service;
	known = bpf_map_lookup_elem(&service_vips, &id);
	if (!known)
		return REASON_NO_SERVICE_BACKEND;
	vip = *known;
	p->service = id;
	reason = rewrite(skb, p, &mapping->addr, mapping->port, 1);
	if (!reason)
		reason = rewrite(skb, p, &vip.vip, vip.port, 0);
	return reason ? reason : OUTSIDE;
}

/* p is an error about what a client outside sent to a backend elsewhere. */
__global int error_outside(struct __sk_buff *skb, struct packet *p, struct packet *inner, __u32 id)
{
	struct service_vip *known = bpf_map_lookup_elem(&service_vips, &id);
	struct service_vip vip;
	int reason;

	if (!p || !inner || !known)
		return REASON_NO_SERVICE_BACKEND;
	vip = *known;
	p->service = id;
	reason = rewrite_inner(skb, p, inner, &vip.vip, INNER_DESTINATION(vip.port));
	return reason ? reason : OUTSIDE;
}

/* p came for the node's address: gives it back to the pod that it answers.
 * Returns 0, NOT_MASQUERADED or a drop reason. */
__global int unmasquerade(struct __sk_buff *skb, struct packet *p)
{
	struct nat_entry mapping;
	struct nat_key in;

	if (!p)
		return NOT_MASQUERADED;
	nat_key_of(p, &in, NAT_IN);
	if (!inward(&in, &mapping, p->tcp_flags))
		return NOT_MASQUERADED;
	p->endpoint = mapping.endpoint;
	if (mapping.service)
		return answer_outside(skb, p, &mapping);
	if (mapping.flags & NAT_PROXIED)
		p->flags |= PACKET_TO_PROXY;
	return rewrite(skb, p, &mapping.addr, mapping.port, 1);
}

/* The same for an ICMP error about a packet that a pod had sent. */
__global int unmasquerade_error(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *s = scratch();
	struct packet *inner;
	struct nat_entry mapping;
	struct nat_key in;
	int reason;

	if (!s || !p)
		return NOT_MASQUERADED;
	inner = packet_new(s);
	if (parse_inner(skb, p, inner))
		return NOT_MASQUERADED;
	nat_key_of(inner, &in, NAT_OUT); /* the inner sender is the node */
	in.direction = NAT_IN;
	if (!inward(&in, &mapping, 0))
		return NOT_MASQUERADED;
	p->endpoint = mapping.endpoint;
	reason = rewrite_inner(skb, p, inner, &mapping.addr, INNER_SOURCE(mapping.port));
	if (!reason)
		reason = rewrite(skb, p, &mapping.addr, p->destination_port, 1);
	if (mapping.flags & NAT_PROXIED)
		p->flags |= PACKET_TO_PROXY;
	if (reason || !mapping.service)
		return reason;
	return error_outside(skb, p, inner, mapping.service);
}
