/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Packets that do not fit into the tunnel: the pod is told the size that does
 * (RFC 792 and 1191, RFC 4443), as a router between the nodes would. */

#include "checksum.h"
#include "deliver.h"

enum {
	QUOTE = 68, /* bytes of the packet in the error: any IPv4 header and 8 bytes of L4 */
	ICMP_FRAGMENTATION_NEEDED = 4,
};

struct too_big4 {
	struct ip4_header ip;
	struct icmp_header icmp; /* sequence: MTU */
	__u8 quote[QUOTE];
};

struct too_big6 {
	struct ip6_header ip;
	__u8 type, code;
	__be16 checksum;
	__be32 mtu;
	__u8 quote[QUOTE];
};

/* What is segmented later has the size of its segments, not of itself. */
static __always_inline int is_too_big(const struct __sk_buff *skb, const struct packet *p)
{
	return unlikely(skb->len > cfg_mtu + ETH_LEN) && !skb->gso_size && (p->flags & PACKET_DONT_FRAGMENT);
}

static __always_inline int write_too_big4(struct __sk_buff *skb, const struct packet *p)
{
	struct too_big4 e = {};

	if (bpf_skb_load_bytes(skb, ETH_LEN, e.quote, QUOTE))
		return REASON_CT_TRUNCATED;
	e.ip.version_length = 0x45;
	e.ip.length = htons(sizeof(e));
	e.ip.ttl = TTL;
	e.ip.protocol = PROTO_ICMP;
	e.ip.source = addr_word(&p->destination, 3);
	e.ip.destination = addr_word(&p->source, 3);
	e.ip.checksum = fold(bpf_csum_diff(NULL, 0, &e.ip, sizeof(e.ip), 0));
	e.icmp.type = ICMP_UNREACHABLE;
	e.icmp.code = ICMP_FRAGMENTATION_NEEDED;
	e.icmp.sequence = htons(cfg_mtu);
	e.icmp.checksum = fold(bpf_csum_diff(NULL, 0, &e.icmp, sizeof(e) - sizeof(e.ip), 0));
	if (bpf_skb_change_tail(skb, ETH_LEN + sizeof(e), 0) || bpf_skb_store_bytes(skb, ETH_LEN, &e, sizeof(e), 0))
		return REASON_WRITE_ERROR;
	return 0;
}

static __always_inline int write_too_big6(struct __sk_buff *skb, const struct packet *p)
{
	__be32 pseudo[2] = { htonl(sizeof(struct too_big6) - sizeof(struct ip6_header)), htonl(PROTO_ICMP6) };
	struct too_big6 e = {};
	__u32 sum;

	if (bpf_skb_load_bytes(skb, ETH_LEN, e.quote, QUOTE))
		return REASON_CT_TRUNCATED;
	e.ip.version_class_label = htonl(6 << 28);
	e.ip.length = htons(sizeof(e) - sizeof(e.ip));
	e.ip.next = PROTO_ICMP6;
	e.ip.hop_limit = TTL;
	e.ip.source = p->destination;
	e.ip.destination = p->source;
	e.type = ICMP6_PACKET_TOO_BIG;
	e.mtu = htonl(cfg_mtu);
	sum = bpf_csum_diff(NULL, 0, &e.ip.source, 32, 0);
	sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), sum);
	e.checksum = fold(bpf_csum_diff(NULL, 0, &e.type, sizeof(e) - sizeof(e.ip), sum));
	if (bpf_skb_change_tail(skb, ETH_LEN + sizeof(e), 0) || bpf_skb_store_bytes(skb, ETH_LEN, &e, sizeof(e), 0))
		return REASON_WRITE_ERROR;
	return 0;
}

/* Drops p and sends its pod (p->endpoint) the error instead. */
__global int answer_too_big(struct __sk_buff *skb, struct packet *p)
{
	struct eth_header eth = {};
	struct endpoint *ep;
	int reason;

	if (!p)
		return TC_ACT_SHOT;
	drop(skb, p, REASON_FRAG_NEEDED);
	ep = endpoint_at(p->endpoint);
	if (!ep)
		return TC_ACT_SHOT;
	reason = p->flags & PACKET_IPV6 ? write_too_big6(skb, p) : write_too_big4(skb, p);
	if (reason)
		return TC_ACT_SHOT;
	__builtin_memcpy(eth.destination, ep->mac, 6);
	__builtin_memcpy(eth.source, ep->node_mac, 6);
	eth.protocol = p->flags & PACKET_IPV6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP);
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0); /* through to_pod, where it is part of the flow */
}
