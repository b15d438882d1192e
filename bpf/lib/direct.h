/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Direct return: the node that a client outside asked gives the packet a backend of
 * another node and keeps the client's address; that node answers the client itself.
 * It must know what the client asked for, so packets that open a connection carry the
 * frontend behind their IP header: an option of IPv4 or a destination option of IPv6,
 * of the number that RFC 4727 keeps for experiments. It never reaches a pod. */

#include "choose.h"
#include "node.h"
#include "rewrite.h"

enum {
	FRONTEND_OPTION = 0x1e, /* IPv4: not copied into fragments; IPv6: skipped by those who do not know it */
	FRONTEND_OPTION6_LENGTH = 20,
	FRONTEND_HEADER6_LENGTH = 2, /* in units of 8 bytes, without the first ones */
	IP4_HEADER_MAX = 60,
	/* Beside drop reasons: */
	NOT_TOLD = -4, /* no frontend in the packet */
	NO_ROOM = -5,  /* it would not fit */
};

struct frontend_option4 {
	__u8 type, length;
	__be16 port;
	__be32 addr;
};

/* With the extension header that it is alone in. */
struct frontend_option6 {
	__u8 next, header_length;
	__u8 type, length;
	__be16 port, reserved;
	struct addr addr;
};

static __always_inline __u32 frontend_size(const struct packet *p)
{
	return p->flags & PACKET_IPV6 ? sizeof(struct frontend_option6) : sizeof(struct frontend_option4);
}

/* Where a backend is; direct: other nodes answer for themselves. */
static __always_inline __u8 place_of(const struct addr *a, __u32 direct)
{
	struct ipcache_entry *entry;
	struct endpoint *ep = NULL;

	if (endpoint_of(a, &ep))
		return BACKEND_POD;
	entry = ipcache_of(a);
	if (!entry)
		return BACKEND_ELSEWHERE;
	if (entry->flags & IPCACHE_HOST)
		return BACKEND_HOST;
	if (!cfg_tunnel && direct && entry->node && entry->node != cfg_node_index)
		return BACKEND_DIRECT;
	return BACKEND_ELSEWHERE;
}

/* Reads the frontend in p. Returns 0 or NOT_TOLD. */
static __always_inline int frontend_in(struct __sk_buff *skb, const struct packet *p, struct addr *asked, __be16 *port)
{
	struct frontend_option4 o4;
	struct frontend_option6 o6;

	if (p->flags & PACKET_IPV6) {
		if (bpf_skb_load_bytes(skb, ETH_LEN + sizeof(struct ip6_header), &o6, sizeof(o6)) ||
		    o6.type != FRONTEND_OPTION || o6.length != FRONTEND_OPTION6_LENGTH ||
		    o6.header_length != FRONTEND_HEADER6_LENGTH)
			return NOT_TOLD;
		*asked = o6.addr;
		*port = o6.port;
		return 0;
	}
	if (p->l4 < ETH_LEN + sizeof(struct ip4_header) + sizeof(o4) ||
	    bpf_skb_load_bytes(skb, ETH_LEN + sizeof(struct ip4_header), &o4, sizeof(o4)) || o4.type != FRONTEND_OPTION ||
	    o4.length != sizeof(o4))
		return NOT_TOLD;
	addr_set4(asked, o4.addr);
	*port = o4.port;
	return 0;
}

/* Somebody tells a frontend in p. Apart, for the stack. */
__global int names_frontend(struct __sk_buff *skb, const struct packet *p)
{
	struct addr asked = {};
	__be16 port = 0;

	return p && frontend_in(skb, p, &asked, &port) != NOT_TOLD;
}

/* The IPv4 header grows by the option o, or shrinks by it (sign -1). */
static __always_inline int resize4(struct __sk_buff *skb, const struct frontend_option4 *o, int sign)
{
	struct ip4_header *ip = packet_at(skb, ETH_LEN, sizeof(*ip));
	__be32 before[3] = {}, after[3] = {};
	__s64 diff;

	if (!ip)
		return REASON_INVALID_PACKET;
	before[0] = *(__be32 *)ip;
	ip->version_length += sign * (int)(sizeof(*o) / 4);
	ip->length = htons(ntohs(ip->length) + sign * (int)sizeof(*o));
	after[0] = *(__be32 *)ip;
	__builtin_memcpy(sign > 0 ? &after[1] : &before[1], o, sizeof(*o));
	diff = bpf_csum_diff(before, sizeof(before), after, sizeof(after), 0);
	return bpf_l3_csum_replace(skb, ETH_LEN + IP4_CHECKSUM, 0, diff, 0) ? REASON_CSUM_L3 : 0;
}

static __always_inline int put_option4(struct __sk_buff *skb, const struct addr *asked, __be16 port)
{
	struct frontend_option4 o = { .type = FRONTEND_OPTION, .length = sizeof(o), .port = port, .addr = addr_word(asked, 3) };

	if (bpf_skb_adjust_room(skb, sizeof(o), BPF_ADJ_ROOM_NET, 0))
		return NO_ROOM;
	if (bpf_skb_store_bytes(skb, ETH_LEN + sizeof(struct ip4_header), &o, sizeof(o), 0))
		return REASON_WRITE_ERROR;
	return resize4(skb, &o, 1);
}

/* The payload of the IPv6 packet grows by size, and next comes first. */
static __always_inline int resize6(struct __sk_buff *skb, __u8 next, int size)
{
	struct ip6_header *ip = packet_at(skb, ETH_LEN, sizeof(*ip));
	struct { __be16 length; __u8 next, hop_limit; } h;

	if (!ip)
		return REASON_INVALID_PACKET;
	h.length = htons(ntohs(ip->length) + size);
	h.next = next;
	h.hop_limit = ip->hop_limit;
	return bpf_skb_store_bytes(skb, ETH_LEN + 4, &h, sizeof(h), BPF_F_RECOMPUTE_CSUM) ? REASON_WRITE_ERROR : 0;
}

static __always_inline int put_option6(struct __sk_buff *skb, const struct addr *asked, __be16 port)
{
	struct ip6_header *ip = packet_at(skb, ETH_LEN, sizeof(*ip));
	struct frontend_option6 o = {
		.header_length = FRONTEND_HEADER6_LENGTH, .type = FRONTEND_OPTION, .length = FRONTEND_OPTION6_LENGTH, .port = port
	};

	if (!ip)
		return REASON_INVALID_PACKET;
	o.next = ip->next;
	o.addr = *asked;
	if (bpf_skb_adjust_room(skb, sizeof(o), BPF_ADJ_ROOM_NET, 0))
		return NO_ROOM;
	if (bpf_skb_store_bytes(skb, ETH_LEN + sizeof(struct ip6_header), &o, sizeof(o), BPF_F_RECOMPUTE_CSUM))
		return REASON_WRITE_ERROR;
	return resize6(skb, PROTO_DSTOPTS, sizeof(o));
}

/* Puts the frontend in scratch into p. */
static __always_inline int put_frontend(struct __sk_buff *skb, struct packet *p, const struct scratch *space)
{
	int reason = p->flags & PACKET_IPV6 ? put_option6(skb, &space->asked, space->asked_port) :
					      put_option4(skb, &space->asked, space->asked_port);

	if (!reason)
		p->l4 += frontend_size(p);
	return reason;
}

/* Takes the frontend out of p. */
static __always_inline int remove_frontend(struct __sk_buff *skb, struct packet *p)
{
	struct frontend_option4 o4;
	__u8 next;
	int reason;

	if (p->flags & PACKET_IPV6) {
		if (bpf_skb_load_bytes(skb, ETH_LEN + sizeof(struct ip6_header), &next, sizeof(next)))
			return REASON_INVALID_PACKET;
		reason = resize6(skb, next, -(int)sizeof(struct frontend_option6));
	} else {
		if (bpf_skb_load_bytes(skb, ETH_LEN + sizeof(struct ip4_header), &o4, sizeof(o4)))
			return REASON_INVALID_PACKET;
		reason = resize4(skb, &o4, -1);
	}
	if (reason)
		return reason;
	if (bpf_skb_adjust_room(skb, p->flags & PACKET_IPV6 ? -(int)sizeof(struct frontend_option6) : -(int)sizeof(o4), BPF_ADJ_ROOM_NET, 0))
		return REASON_WRITE_ERROR;
	p->l4 -= frontend_size(p);
	p->flags &= ~PACKET_OPTIONS;
	return 0;
}

/* Packets that tell: those that open a connection. A datagram may be one, so each
 * tells: the backend's node learns the frontend again if it lost the first, or the row. */
static __always_inline int tells(const struct packet *p)
{
	return opens(p) && !(p->flags & PACKET_LATER);
}

static __always_inline int has_room(const struct __sk_buff *skb, const struct packet *p)
{
	__u32 size = frontend_size(p);

	if (skb->gso_size || skb->len + size > cfg_mtu + ETH_LEN)
		return 0;
	return (p->flags & PACKET_IPV6) || p->l4 + size <= ETH_LEN + IP4_HEADER_MAX;
}

/* Gives p the backend in scratch, keeps its source and tells the backend's node.
 * Returns 0, NO_ROOM with p unchanged, or a drop reason. */
__global int forward_direct(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *space = scratch();
	struct service_flow *to;
	int reason;

	if (!p || !space)
		return REASON_INVALID_PACKET;
	to = &space->to;
	p->service = to->service;
	if ((p->flags & PACKET_OPTIONS) && names_frontend(skb, p))
		return REASON_UNKNOWN_FRONTEND; /* clients have nothing to tell */
	if (tells(p)) {
		if (has_room(skb, p)) {
			reason = put_frontend(skb, p, space);
			if (reason)
				return reason;
			if (!to->told) {
				to->told = 1;
				bpf_map_update_elem(&service_flows, &space->service_key, to, BPF_ANY);
			}
		} else if (!to->told || (p->flags & PACKET_DONT_FRAGMENT)) {
			return NO_ROOM;
		}
	}
	return rewrite(skb, p, &to->addr, to->port, 1);
}

/* The number of the frontend that p's sender names, if p's destination is its backend
 * here; else 0. Frontends of any address of a node have one number for all of them. */
static __always_inline __u32 told_service(const struct packet *p, const struct scratch *space, int *any)
{
	struct direct_backend member = { .addr = p->destination, .port = p->destination_port, .protocol = p->protocol };
	struct service_key key = { .vip = space->asked, .port = space->asked_port, .protocol = p->protocol, .scope = SCOPE_EXTERNAL };
	struct service *s = bpf_map_lookup_elem(&services, &key);

	*any = !s;
	if (!s) {
		if (!bpf_map_lookup_elem(&node_addrs, &key.vip))
			return 0;
		__builtin_memset(&key.vip, 0, sizeof(key.vip));
		if (!(p->flags & PACKET_IPV6))
			addr_set4(&key.vip, 0);
		key.scope = SCOPE_INTERNAL;
		s = bpf_map_lookup_elem(&services, &key);
		if (!s)
			return 0;
	}
	member.service = s->id;
	return bpf_map_lookup_elem(&direct_backends, &member) ? member.service : 0;
}

/* Remembers for answers which node's address p's client asked. */
static __always_inline int remember_asked(struct packet *p, struct scratch *space)
{
	struct service_flow *known;
	struct flow *f;

	flow_key_of(p, &space->service_key);
	space->key = space->service_key;
	space->service_key.leg = LEG_ANSWER;
	known = bpf_map_lookup_elem(&service_flows, &space->service_key);
	if (known && known->service == space->to.service && addr_equal(&known->addr, &space->asked)) {
		known->last = space->to.last;
		return 0;
	}
	if (known) {
		f = bpf_map_lookup_elem(&flows, &space->key);
		if (f && !flow_reopens(f, p))
			return REASON_CT_INSERT_FAILED; /* the client asks two nodes from one port */
	}
	space->answer = space->to;
	space->answer.addr = space->asked;
	space->answer.port = space->asked_port;
	return bpf_map_update_elem(&service_flows, &space->service_key, &space->answer, BPF_ANY) ? REASON_CT_INSERT_FAILED : 0;
}

/* p comes in from the network for a backend of this node, and perhaps tells which
 * frontend its client asked: takes that out, and leaves in `to` of scratch where p
 * goes. Any sender can write it, so only what it may lead to is believed: a frontend
 * that this node knows, with p's destination as a backend of this node; what it
 * decides is the address that the client is answered from. Returns 0, NOT_TOLD or a
 * drop reason. */
__global int take_frontend(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *space = scratch();
	struct ipcache_entry *from;
	struct addr asked = {};
	__be16 port = 0;
	int any = 0, reason;

	if (!p || !space || !cfg_services || cfg_tunnel || frontend_in(skb, p, &asked, &port) == NOT_TOLD)
		return NOT_TOLD;
	__builtin_memset(&space->to, 0, sizeof(space->to));
	space->asked = asked;
	space->asked_port = port;
	space->to.place = place_of(&p->destination, 0);
	if (space->to.place == BACKEND_ELSEWHERE)
		return NOT_TOLD;
	space->to.addr = p->destination;
	space->to.port = p->destination_port;
	space->to.last = bpf_jiffies64();
	space->to.service = told_service(p, space, &any);
	if (!space->to.service || (p->flags & PACKET_LATER))
		return REASON_UNKNOWN_FRONTEND;
	from = ipcache_of(&p->source);
	if (from && (from->flags & (IPCACHE_HOST | IPCACHE_POD | IPCACHE_LOCAL_PODS | IPCACHE_REMOTE_PODS)))
		return REASON_UNKNOWN_SENDER;
	reason = any ? remember_asked(p, space) : 0;
	return reason ? reason : remove_frontend(skb, p);
}
