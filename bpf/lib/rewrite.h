/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Changing addresses and ports of a packet, with all checksums. */

#include "packet.h"

enum {
	IP4_CHECKSUM = 10,
	IP4_SOURCE = 12,
	IP4_DESTINATION = 16,
	IP6_SOURCE = 8,
	IP6_DESTINATION = 24,
	ICMP_CHECKSUM = 2,
	ICMP_ID = 4,
	TCP_CHECKSUM = 16,
	UDP_CHECKSUM = 6,
};

/* Offset of the checksum within L4, 0 if it has none that covers addresses or ports. */
static __always_inline __u32 checksum_offset(__u8 protocol)
{
	switch (protocol) {
	case PROTO_TCP:
		return TCP_CHECKSUM;
	case PROTO_UDP:
		return UDP_CHECKSUM;
	case PROTO_ICMP:
	case PROTO_ICMP6:
		return ICMP_CHECKSUM;
	}
	return 0;
}

/* Offset of a port within L4. An echo's identifier is the port of whoever asks. */
static __always_inline __u32 port_offset(__u8 protocol, __u32 destination)
{
	if (protocol == PROTO_ICMP || protocol == PROTO_ICMP6)
		return ICMP_ID;
	return destination ? 2 : 0;
}

/* Writes an address at `at`; sum is where its L4 checksum is, 0 if there is
 * none to correct. Returns 0 or a drop reason. */
static __always_inline int rewrite_address(struct __sk_buff *skb, const struct packet *p, const struct addr *from,
					   const struct addr *to, __u32 sum, __u32 destination)
{
	__u64 flags = BPF_F_PSEUDO_HDR | (p->protocol == PROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0);
	__u32 at = ETH_LEN;
	__be32 old, new;
	__u32 diff;

	if (p->flags & PACKET_IPV6) {
		diff = bpf_csum_diff(from, sizeof(*from), to, sizeof(*to), 0);
		if (sum && bpf_l4_csum_replace(skb, sum, 0, diff, flags))
			return REASON_CSUM_L4;
		at += destination ? IP6_DESTINATION : IP6_SOURCE;
		return bpf_skb_store_bytes(skb, at, to, sizeof(*to), 0) ? REASON_WRITE_ERROR : 0;
	}
	old = addr_word(from, 3);
	new = addr_word(to, 3);
	if (sum && p->protocol != PROTO_ICMP && bpf_l4_csum_replace(skb, sum, old, new, flags | sizeof(new)))
		return REASON_CSUM_L4;
	if (bpf_l3_csum_replace(skb, at + IP4_CHECKSUM, old, new, sizeof(new)))
		return REASON_CSUM_L3;
	at += destination ? IP4_DESTINATION : IP4_SOURCE;
	return bpf_skb_store_bytes(skb, at, &new, sizeof(new), 0) ? REASON_WRITE_ERROR : 0;
}

/* Gives p another source or destination, in the packet and in *p. Fragments
 * without L4 get the address only. Returns 0 or a drop reason. */
__global int rewrite(struct __sk_buff *skb, struct packet *p, const struct addr *to, __be16 port, __u32 destination)
{
	__u64 flags = sizeof(port);
	__be16 old;
	__u32 sum;
	int reason;

	if (!p || !to)
		return REASON_WRITE_ERROR;
	sum = checksum_offset(p->protocol);
	sum = sum && !(p->flags & PACKET_LATER) ? p->l4 + sum : 0;
	reason = rewrite_address(skb, p, destination ? &p->destination : &p->source, to, sum, destination);
	if (reason)
		return reason;
	old = destination ? p->destination_port : p->source_port;
	if (destination)
		p->destination = *to;
	else
		p->source = *to;
	if (old == port)
		return 0;
	if (destination)
		p->destination_port = port;
	else
		p->source_port = port;
	if (p->flags & PACKET_LATER)
		return 0;
	if (!sum)
		return REASON_NAT_UNSUPPORTED_PROTO; /* SCTP sums over its ports with CRC32c */
	if (p->protocol == PROTO_UDP)
		flags |= BPF_F_MARK_MANGLED_0;
	if (bpf_l4_csum_replace(skb, sum, old, port, flags))
		return REASON_CSUM_L4;
	if (bpf_skb_store_bytes(skb, p->l4 + port_offset(p->protocol, destination), &port, sizeof(port), 0))
		return REASON_WRITE_ERROR;
	return 0;
}

/* Gives the packet inside the ICMP error p another source or destination. The
 * inner IPv4 header corrects itself, everything else counts for the outer
 * checksum; the inner L4 checksum may not even be there and stays. */
__global int rewrite_inner(struct __sk_buff *skb, struct packet *p, struct packet *inner, const struct addr *to,
			   __u32 port)
{
	__u32 destination = port >> 16; /* five arguments are all there are */
	__be16 new = port, old;
	__be32 from4, to4;
	__u32 at, sum, diff;

	if (!p || !inner || !to)
		return REASON_WRITE_ERROR;
	at = p->l4 + sizeof(struct icmp_header);
	sum = p->l4 + ICMP_CHECKSUM;
	if (p->flags & PACKET_IPV6) {
		diff = bpf_csum_diff(destination ? &inner->destination : &inner->source, 16, to, 16, 0);
		if (bpf_l4_csum_replace(skb, sum, 0, diff, 0) ||
		    bpf_skb_store_bytes(skb, at + (destination ? IP6_DESTINATION : IP6_SOURCE), to, 16, 0))
			return REASON_WRITE_ERROR;
	} else {
		from4 = addr_word(destination ? &inner->destination : &inner->source, 3);
		to4 = addr_word(to, 3);
		if (bpf_l3_csum_replace(skb, at + IP4_CHECKSUM, from4, to4, sizeof(to4)) ||
		    bpf_skb_store_bytes(skb, at + (destination ? IP4_DESTINATION : IP4_SOURCE), &to4, sizeof(to4), 0))
			return REASON_WRITE_ERROR;
	}
	old = destination ? inner->destination_port : inner->source_port;
	if (old == new)
		return 0;
	if (bpf_l4_csum_replace(skb, sum, old, new, sizeof(new)) ||
	    bpf_skb_store_bytes(skb, inner->l4 + port_offset(inner->protocol, destination), &new, sizeof(new), 0))
		return REASON_WRITE_ERROR;
	return 0;
}

#define INNER_SOURCE(port) (port)
#define INNER_DESTINATION(port) ((port) | 1 << 16)
