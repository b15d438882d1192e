/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Resets that programs write themselves (RFC 9293, 3.5.2): a connection that was
 * direct must open anew, through the proxy. */

#include "checksum.h"
#include "deliver.h"
#include "translate.h"

struct tcp_header {
	__be16 source, destination;
	__be32 sequence, acknowledgement;
	__u8 offset, flags;
	__be16 window, checksum, urgent;
};

struct reset4 {
	struct ip4_header ip;
	struct tcp_header tcp;
};

struct reset6 {
	struct ip6_header ip;
	struct tcp_header tcp;
};

/* The reset that p, which acknowledges something, is answered with. */
static __always_inline int tcp_reset(struct __sk_buff *skb, const struct packet *p, struct tcp_header *tcp)
{
	if (bpf_skb_load_bytes(skb, p->l4 + 8, &tcp->sequence, sizeof(tcp->sequence)))
		return REASON_CT_TRUNCATED;
	tcp->source = p->destination_port;
	tcp->destination = p->source_port;
	tcp->offset = sizeof(*tcp) / 4 << 4;
	tcp->flags = TCP_RST;
	return 0;
}

static __always_inline int write_reset4(struct __sk_buff *skb, const struct packet *p)
{
	__be32 pseudo[3] = { addr_word(&p->destination, 3), addr_word(&p->source, 3),
			     htonl(PROTO_TCP << 16 | sizeof(struct tcp_header)) };
	struct reset4 r = {};
	__u32 sum;

	if (tcp_reset(skb, p, &r.tcp))
		return REASON_CT_TRUNCATED;
	r.ip.version_length = 0x45;
	r.ip.length = htons(sizeof(r));
	r.ip.fragment = htons(0x4000);
	r.ip.ttl = TTL;
	r.ip.protocol = PROTO_TCP;
	r.ip.source = pseudo[0];
	r.ip.destination = pseudo[1];
	r.ip.checksum = fold(bpf_csum_diff(NULL, 0, &r.ip, sizeof(r.ip), 0));
	sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), 0);
	r.tcp.checksum = fold(bpf_csum_diff(NULL, 0, &r.tcp, sizeof(r.tcp), sum));
	if (bpf_skb_change_tail(skb, ETH_LEN + sizeof(r), 0) || bpf_skb_store_bytes(skb, ETH_LEN, &r, sizeof(r), 0))
		return REASON_WRITE_ERROR;
	return 0;
}

static __always_inline int write_reset6(struct __sk_buff *skb, const struct packet *p)
{
	__be32 pseudo[2] = { htonl(sizeof(struct tcp_header)), htonl(PROTO_TCP) };
	struct reset6 r = {};
	__u32 sum;

	if (tcp_reset(skb, p, &r.tcp))
		return REASON_CT_TRUNCATED;
	r.ip.version_class_label = htonl(6 << 28);
	r.ip.length = htons(sizeof(r.tcp));
	r.ip.next = PROTO_TCP;
	r.ip.hop_limit = TTL;
	r.ip.source = p->destination;
	r.ip.destination = p->source;
	sum = bpf_csum_diff(NULL, 0, &r.ip.source, 32, 0);
	sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), sum);
	r.tcp.checksum = fold(bpf_csum_diff(NULL, 0, &r.tcp, sizeof(r.tcp), sum));
	if (bpf_skb_change_tail(skb, ETH_LEN + sizeof(r), 0) || bpf_skb_store_bytes(skb, ETH_LEN, &r, sizeof(r), 0))
		return REASON_WRITE_ERROR;
	return 0;
}

/* Drops p and makes the segment that resets its sender of it, with p as its
 * description, from what policy sees as the other end. Returns 0 or a drop reason. */
__global int write_reset(struct __sk_buff *skb, struct packet *p)
{
	struct addr source;
	__be16 port;
	int reason;

	if (!p)
		return REASON_INVALID_PACKET;
	drop(skb, p, REASON_FLOW_NOW_REDIRECTED);
	if ((p->tcp_flags & TCP_RST) || !(p->tcp_flags & TCP_ACK))
		return REASON_INVALID_PACKET;
	reason = p->flags & PACKET_IPV6 ? write_reset6(skb, p) : write_reset4(skb, p);
	if (reason)
		return reason;
	source = p->source;
	port = p->source_port;
	p->source = p->destination;
	p->source_port = p->destination_port;
	p->destination = source;
	p->destination_port = port;
	p->l4 = ETH_LEN + (p->flags & PACKET_IPV6 ? sizeof(struct ip6_header) : sizeof(struct ip4_header));
	return 0;
}

/* Back by the device that it came by. */
__global int send_back(struct __sk_buff *skb)
{
	struct eth_header eth;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, 0, eth.source, 6, 0) || bpf_skb_store_bytes(skb, 6, eth.destination, 6, 0))
		return TC_ACT_SHOT;
	skb->mark = MARK_CHECKED;
	return bpf_redirect(skb->ifindex, 0);
}

/* The connection of p must open anew: resets its sender. The other end is reset
 * by its own next packet. */
static __always_inline int reset(struct __sk_buff *skb, struct packet *p)
{
	if (write_reset(skb, p))
		return TC_ACT_SHOT;
	if (p->service && untranslate(skb, p, p->service, p->endpoint))
		return TC_ACT_SHOT;
	return send_back(skb);
}
