/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* ICMP errors: they pass only as part of the flow that they are about. */

#include "admit.h"

/* Reads the packet inside an ICMP error at p->l4 + 8 into inner. */
static __always_inline int parse_inner(struct __sk_buff *skb, const struct packet *p, struct packet *inner)
{
	__u32 at = p->l4 + sizeof(struct icmp_header);
	struct ip4_header ip4;
	struct fragment_header fragment;
	struct ip6_header ip6;
	struct icmp_header l4;

	if (p->protocol == PROTO_ICMP) {
		if (bpf_skb_load_bytes(skb, at, &ip4, sizeof(ip4)))
			return REASON_CT_TRUNCATED;
		if (ip4.version_length >> 4 != 4 || (ip4.fragment & htons(0x1fff)))
			return REASON_INVALID_PACKET;
		addr_set4(&inner->source, ip4.source);
		addr_set4(&inner->destination, ip4.destination);
		inner->protocol = ip4.protocol;
		inner->l4 = at + (ip4.version_length & 15) * 4;
	} else {
		if (bpf_skb_load_bytes(skb, at, &ip6, sizeof(ip6)))
			return REASON_CT_TRUNCATED;
		inner->source = ip6.source;
		inner->destination = ip6.destination;
		inner->protocol = ip6.next;
		inner->l4 = at + sizeof(ip6);
		/* A fragment is where sizes matter; the first one has the ports. */
		if (ip6.next == PROTO_FRAGMENT) {
			if (bpf_skb_load_bytes(skb, inner->l4, &fragment, sizeof(fragment)))
				return REASON_CT_TRUNCATED;
			if (fragment.offset & htons(0xfff8))
				return REASON_INVALID_PACKET;
			inner->protocol = fragment.next;
			inner->l4 += sizeof(fragment);
		}
	}
	/* Eight bytes of L4 is what every error must carry (RFC 792): no TCP flags. */
	if (bpf_skb_load_bytes(skb, inner->l4, &l4, sizeof(l4)))
		return REASON_CT_TRUNCATED;
	if (inner->protocol == PROTO_ICMP || inner->protocol == PROTO_ICMP6) {
		parse_icmp(inner, l4.type, l4.id);
		return 0;
	}
	inner->source_port = *(__be16 *)&l4;
	inner->destination_port = l4.checksum;
	return 0;
}

/* p is an ICMP error: finds the row it is about and leaves its key in key, with
 * p as a packet from the other side to the one that sent the inner packet. The
 * row must be fresh; a stale one waits for its next own packet. */
__global int relate(struct __sk_buff *skb, struct packet *p, struct flow_key *key)
{
	struct scratch *s = scratch();
	struct packet *inner;
	struct flow *f;
	int reason;

	if (!s || !p || !key)
		return REASON_INVALID_PACKET;
	inner = packet_new(s);
	reason = parse_inner(skb, p, inner);
	if (reason)
		return reason;
	if (!addr_equal(&inner->source, &p->destination))
		return REASON_POLICY_DENIED;
	flow_key_of(inner, &s->key);
	*key = s->key;
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (!f || !flow_fresh(f))
		return REASON_POLICY_DENIED;
	p->from_b = !inner->from_b;
	p->flags |= PACKET_RELATED;
	return 0;
}

/* The connection, translated on the wire, whose answer the ICMP error p is about;
 * leaves that answer in `inner` of scratch. */
static __always_inline struct service_flow *answered_flow(struct __sk_buff *skb, struct packet *p, struct scratch *space)
{
	struct packet *inner = packet_new(space);

	if (parse_inner(skb, p, inner) || !addr_equal(&inner->source, &p->destination))
		return NULL;
	flow_key_of(inner, &space->service_key);
	space->service_key.leg = LEG_SERVICE;
	return bpf_map_lookup_elem(&service_flows, &space->service_key);
}
