/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Errors that programs write themselves: a packet does not fit into the tunnel, so
 * its sender is told the size that does, as a router between the nodes would (RFC
 * 792 and 1191, RFC 4443); a service has no backend. */

#include "checksum.h"
#include "deliver.h"

enum {
	QUOTE = 68, /* bytes of the packet in the error: any IPv4 header and 8 bytes of L4 */
	ICMP_FRAGMENTATION_NEEDED = 4,
	ICMP_PORT_UNREACHABLE = 3,
	ICMP6_PORT_UNREACHABLE = 4,
};

struct error4 {
	struct ip4_header ip;
	struct icmp_header icmp; /* sequence: MTU */
	__u8 quote[QUOTE];
};

struct error6 {
	struct ip6_header ip;
	__u8 type, code;
	__be16 checksum;
	__be32 word; /* packet too big: MTU */
	__u8 quote[QUOTE];
};

/* What is segmented later has the size of its segments, not of itself. */
static __always_inline int is_too_big(const struct __sk_buff *skb, const struct packet *p)
{
	return unlikely(skb->len > cfg_mtu + ETH_LEN) && !skb->gso_size && (p->flags & PACKET_DONT_FRAGMENT);
}

/* Puts an error about p in its place. mtu 0: port unreachable, otherwise too big. */
static __always_inline int write_error4(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	struct error4 e = {};

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
	e.icmp.code = mtu ? ICMP_FRAGMENTATION_NEEDED : ICMP_PORT_UNREACHABLE;
	e.icmp.sequence = htons((__u16)mtu);
	e.icmp.checksum = fold(bpf_csum_diff(NULL, 0, &e.icmp, sizeof(e) - sizeof(e.ip), 0));
	if (bpf_skb_change_tail(skb, ETH_LEN + sizeof(e), 0) || bpf_skb_store_bytes(skb, ETH_LEN, &e, sizeof(e), 0))
		return REASON_WRITE_ERROR;
	return 0;
}

static __always_inline int write_error6(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	__be32 pseudo[2] = { htonl(sizeof(struct error6) - sizeof(struct ip6_header)), htonl(PROTO_ICMP6) };
	struct error6 e = {};
	__u32 sum;

	if (bpf_skb_load_bytes(skb, ETH_LEN, e.quote, QUOTE))
		return REASON_CT_TRUNCATED;
	e.ip.version_class_label = htonl(6 << 28);
	e.ip.length = htons(sizeof(e) - sizeof(e.ip));
	e.ip.next = PROTO_ICMP6;
	e.ip.hop_limit = TTL;
	e.ip.source = p->destination;
	e.ip.destination = p->source;
	e.type = mtu ? ICMP6_PACKET_TOO_BIG : ICMP6_UNREACHABLE;
	e.code = mtu ? 0 : ICMP6_PORT_UNREACHABLE;
	e.word = htonl(mtu);
	sum = bpf_csum_diff(NULL, 0, &e.ip.source, 32, 0);
	sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), sum);
	e.checksum = fold(bpf_csum_diff(NULL, 0, &e.type, sizeof(e) - sizeof(e.ip), sum));
	if (bpf_skb_change_tail(skb, ETH_LEN + sizeof(e), 0) || bpf_skb_store_bytes(skb, ETH_LEN, &e, sizeof(e), 0))
		return REASON_WRITE_ERROR;
	return 0;
}

/* Makes p an error about itself, whose quote has at most what p has. */
static __always_inline int write_error(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	/* A short packet is filled up: the quote has one length, which the checksum covers. */
	if (skb->len < ETH_LEN + QUOTE && bpf_skb_change_tail(skb, ETH_LEN + QUOTE, 0))
		return REASON_WRITE_ERROR;
	return p->flags & PACKET_IPV6 ? write_error6(skb, p, mtu) : write_error4(skb, p, mtu);
}

/* Sends the pod of p (p->endpoint) an error instead of p. */
static __always_inline int error_to_pod(struct __sk_buff *skb, struct packet *p, __u32 mtu)
{
	struct endpoint *ep = endpoint_at(p->endpoint);
	struct eth_header eth = {};

	if (!ep || write_error(skb, p, mtu))
		return TC_ACT_SHOT;
	__builtin_memcpy(eth.destination, ep->mac, 6);
	__builtin_memcpy(eth.source, ep->node_mac, 6);
	eth.protocol = p->flags & PACKET_IPV6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP);
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return TC_ACT_SHOT;
	skb->mark = MARK_CHECKED; /* to_pod lets it in */
	return bpf_redirect(skb->ifindex, 0);
}

/* Drops p and tells its pod. */
__global int answer_too_big(struct __sk_buff *skb, struct packet *p)
{
	if (!p)
		return TC_ACT_SHOT;
	drop(skb, p, REASON_FRAG_NEEDED);
	return error_to_pod(skb, p, cfg_mtu);
}

__global int reject_pod(struct __sk_buff *skb, struct packet *p)
{
	if (!p)
		return TC_ACT_SHOT;
	drop(skb, p, REASON_NO_SERVICE_BACKEND);
	if (!cfg_reject || (p->protocol != PROTO_TCP && p->protocol != PROTO_UDP))
		return TC_ACT_SHOT;
	return error_to_pod(skb, p, 0);
}

/* Sends an error back to where p came from: the next hop is who sent it. */
__global int error_back(struct __sk_buff *skb, struct packet *p, __u32 mtu)
{
	struct eth_header eth;

	if (!p || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) || write_error(skb, p, mtu))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, 0, eth.source, 6, 0) || bpf_skb_store_bytes(skb, 6, eth.destination, 6, 0))
		return TC_ACT_SHOT;
	skb->mark = MARK_CHECKED;
	return bpf_redirect(skb->ifindex, 0);
}

__global int reject_back(struct __sk_buff *skb, struct packet *p)
{
	if (!p)
		return TC_ACT_SHOT;
	drop(skb, p, REASON_NO_SERVICE_BACKEND);
	if (!cfg_reject || (p->protocol != PROTO_TCP && p->protocol != PROTO_UDP))
		return TC_ACT_SHOT;
	return error_back(skb, p, 0);
}
