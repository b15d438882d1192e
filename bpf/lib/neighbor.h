/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* ARP (RFC 826) and neighbour discovery (RFC 4861): to its pod, the host's side
 * of the veth is the neighbour with every address but the pod's own. */

#include "checksum.h"
#include "deliver.h"

struct arp_packet {
	struct eth_header eth;
	__be16 hardware, protocol;
	__u8 hardware_length, protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender_ip[4];
	__u8 target_mac[6];
	__u8 target_ip[4];
};

enum {
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
	NA_FLAGS = 0xe0, /* router, solicited, override */
	OPTION_TARGET_MAC = 2,
	NDP_HOP_LIMIT = 255,
};

/* No router has forwarded this IPv6 packet: only the link itself could send it. */
static __always_inline int is_on_link(const struct __sk_buff *skb)
{
	struct ip6_header *ip = packet_at(skb, ETH_LEN, sizeof(*ip));

	return ip && ip->hop_limit == NDP_HOP_LIMIT;
}

__global int arp_from_pod(struct __sk_buff *skb, struct packet *p)
{
	struct arp_packet *arp = packet_at(skb, 0, sizeof(*arp));
	struct endpoint *ep = NULL;
	__u8 asked[4];

	if (!p)
		return TC_ACT_SHOT;
	if (!arp)
		return drop(skb, p, REASON_INVALID_PACKET);
	addr_set4(&p->source, *(__be32 *)arp->sender_ip);
	addr_set4(&p->destination, *(__be32 *)arp->target_ip);
	p->endpoint = endpoint_of(&p->source, &ep);
	if (!p->endpoint || !ep || ep->ifindex != skb->ifindex)
		return drop(skb, p, REASON_INVALID_SOURCE_IP);
	/* Its own address is asked for by a pod that looks for duplicates. */
	if (arp->operation != htons(ARP_REQUEST) || addr_equal(&p->source, &p->destination))
		return drop(skb, p, REASON_UNSUPPORTED_L2);
	__builtin_memcpy(asked, arp->target_ip, 4);
	__builtin_memcpy(arp->eth.destination, arp->sender_mac, 6);
	__builtin_memcpy(arp->eth.source, ep->node_mac, 6);
	arp->operation = htons(ARP_REPLY);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, 6);
	__builtin_memcpy(arp->target_ip, arp->sender_ip, 4);
	__builtin_memcpy(arp->sender_mac, ep->node_mac, 6);
	__builtin_memcpy(arp->sender_ip, asked, 4);
	return bpf_redirect(skb->ifindex, 0);
}

/* What is not IP: ARP is answered, everything else ends here. */
static __always_inline int not_ip_from_pod(struct __sk_buff *skb, struct packet *p)
{
	struct eth_header *eth = packet_at(skb, 0, sizeof(*eth));

	if (cfg_ipv4 && eth && eth->protocol == htons(ETH_P_ARP))
		return arp_from_pod(skb, p);
	return drop(skb, p, REASON_UNSUPPORTED_L3);
}

struct advertisement {
	__u8 type, code;
	__be16 checksum;
	__u8 flags, reserved[3];
	struct addr target;
	__u8 option, option_length;
	__u8 mac[6];
};

struct advertisement_packet {
	struct ip6_header ip;
	struct advertisement na;
};

/* Internet checksum over the advertisement and its pseudo header. */
static __always_inline __be16 advertisement_checksum(struct advertisement_packet *reply)
{
	__be32 pseudo[2] = { htonl(sizeof(reply->na)), htonl(PROTO_ICMP6) };
	__u32 sum;

	sum = bpf_csum_diff(NULL, 0, &reply->ip.source, 32, 0);
	sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), sum);
	return fold(bpf_csum_diff(NULL, 0, &reply->na, sizeof(reply->na), sum));
}

/* p is a neighbour solicitation of a pod. */
__global int advertise(struct __sk_buff *skb, struct packet *p)
{
	struct advertisement_packet reply = {};
	struct endpoint *ep = NULL;
	struct eth_header eth = {};

	if (!p)
		return TC_ACT_SHOT;
	p->endpoint = endpoint_of(&p->source, &ep);
	if (!p->endpoint || !ep || ep->ifindex != skb->ifindex)
		return drop(skb, p, REASON_INVALID_SOURCE_IP);
	if (bpf_skb_load_bytes(skb, p->l4 + 8, &reply.na.target, 16))
		return drop(skb, p, REASON_INVALID_PACKET);
	if (addr_equal(&p->source, &reply.na.target))
		return drop(skb, p, REASON_FORBIDDEN_ICMP6);
	reply.ip.version_class_label = htonl(6 << 28);
	reply.ip.length = htons(sizeof(reply.na));
	reply.ip.next = PROTO_ICMP6;
	reply.ip.hop_limit = NDP_HOP_LIMIT;
	reply.ip.source = reply.na.target;
	reply.ip.destination = p->source;
	reply.na.type = ICMP6_ADVERTISEMENT;
	reply.na.flags = NA_FLAGS;
	reply.na.option = OPTION_TARGET_MAC;
	reply.na.option_length = 1; /* in units of 8 bytes */
	__builtin_memcpy(reply.na.mac, ep->node_mac, 6);
	reply.na.checksum = advertisement_checksum(&reply);
	__builtin_memcpy(eth.destination, ep->mac, 6);
	__builtin_memcpy(eth.source, ep->node_mac, 6);
	eth.protocol = htons(ETH_P_IPV6);
	if (bpf_skb_change_tail(skb, ETH_LEN + sizeof(reply), 0) || bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0) ||
	    bpf_skb_store_bytes(skb, ETH_LEN, &reply, sizeof(reply), 0))
		return drop(skb, p, REASON_WRITE_ERROR);
	return bpf_redirect(skb->ifindex, 0);
}
