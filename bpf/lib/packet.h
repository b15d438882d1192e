/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* The packet in hand: what its headers say, and what was found out about it.
 *
 * Parsing goes by a cursor (an offset from the start of the frame). Every
 * parser returns 0 or a drop reason; PACKET_NOT_IP is for what policy does not
 * know about. */

#include "addr.h"
#include "config.h"
#include "flow.h"
#include "reasons.h"

enum {
	ETH_LEN = 14,
	ETH_P_IP = 0x0800,
	ETH_P_ARP = 0x0806,
	ETH_P_IPV6 = 0x86dd,

	PROTO_HOPOPTS = 0,
	PROTO_ICMP = 1,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_ROUTING = 43,
	PROTO_FRAGMENT = 44,
	PROTO_AUTH = 51,
	PROTO_ICMP6 = 58,
	PROTO_DSTOPTS = 60,
	PROTO_SCTP = 132,
	PROTO_MOBILITY = 135,

	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,

	ICMP_ECHO_REPLY = 0,
	ICMP_UNREACHABLE = 3,
	ICMP_ECHO = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER = 12,
	ICMP6_UNREACHABLE = 1,
	ICMP6_PACKET_TOO_BIG = 2,
	ICMP6_PARAMETER = 4,
	ICMP6_ECHO = 128,
	ICMP6_ECHO_REPLY = 129,
	ICMP6_QUERY = 130, /* first of multicast listener and neighbour discovery */
	ICMP6_SOLICITATION = 135,
	ICMP6_ADVERTISEMENT = 136,
	ICMP6_REDIRECT = 137, /* last of them */
	ICMP6_REPORT2 = 143,

	PACKET_NOT_IP = 1, /* no drop reason has this number */
	EXTENSION_HEADERS_MAX = 6,
	HEADERS_PULLED = 128, /* bytes made linear where headers are not */
	HEADERS_MAX = 512, /* bytes from the start of the frame in which L4 must begin */
};

struct eth_header {
	__u8 destination[6], source[6];
	__be16 protocol;
};

struct ip4_header {
	__u8 version_length, tos;
	__be16 length, id, fragment;
	__u8 ttl, protocol;
	__be16 checksum;
	__be32 source, destination;
};

struct ip6_header {
	__be32 version_class_label;
	__be16 length;
	__u8 next, hop_limit;
	struct addr source, destination;
};

struct fragment_header {
	__u8 next, reserved;
	__be16 offset; /* in units of 8 bytes, in the upper 13 bits */
	__be32 id;
};

/* Enough of TCP for its flags; UDP, SCTP and ICMP use the beginning. */
struct l4_header {
	__be16 source, destination; /* ICMP: type, code; checksum */
	__be16 id, sequence;        /* ICMP echo: identifier */
	__be32 acknowledgement;
	__u8 offset, flags;
};

struct icmp_header {
	__u8 type, code;
	__be16 checksum;
	__be16 id, sequence;
};

enum packet_flag {
	PACKET_IPV6 = 1,
	PACKET_LATER = 2,    /* not the first fragment: no L4 header here */
	PACKET_NO_PORTS = 4, /* a fragment whose first one was not seen */
	PACKET_ICMP_ERROR = 8,
	PACKET_RELATED = 16, /* ICMP error about a flow, which is now in the flow key */
	PACKET_DONT_FRAGMENT = 32,
	PACKET_REPLY = 64, /* to the initiator of its flow */
	PACKET_OPTIONS = 128, /* IPv4 options, or destination options right after the IPv6 header */
	PACKET_FROM_PROXY = 256,
	PACKET_TO_PROXY = 512,   /* for the pod behind a mapping that the proxy uses */
	PACKET_FRAGMENT = 1024, /* any of them */
};

struct packet {
	struct addr source, destination;
	__be16 source_port, destination_port; /* as in struct flow_key */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 icmp_type, icmp_code;
	__u16 flags;
	__u16 l4;     /* offset of the L4 header */
	__u8 from_b;  /* the sender is b of the flow key */
	__u8 ingress; /* direction of drops and metrics, from the pod */
	__u8 point;   /* enum event_point of the hook */
	__u8 verdict;
	/* Filled in on the way, for events. */
	__u32 source_identity, destination_identity;
	__u32 peer, generation;
	__u16 endpoint, slot, set, row;
	__u16 source_mac[3];
	__u16 pad;
	__u32 service; /* id of the one that was translated; 0: none */
};

/* Returns a pointer to len bytes at offset, or NULL. offset must be bounded. */
static __always_inline void *packet_at(const struct __sk_buff *skb, __u32 offset, __u32 len)
{
	void *data = (void *)(long)skb->data;

	if (data + offset + len > (void *)(long)skb->data_end)
		return NULL;
	return data + offset;
}

/* Bytes that packet_at can reach. */
static __always_inline __u32 linear(const struct __sk_buff *skb)
{
	return (void *)(long)skb->data_end - (void *)(long)skb->data;
}

static __always_inline int icmp_is_error(__u8 protocol, __u8 type)
{
	if (protocol == PROTO_ICMP)
		return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER;
	return type >= ICMP6_UNREACHABLE && type <= ICMP6_PARAMETER;
}

/* Talk of the link itself (RFC 2710, 3810, 4861): ends at the veth, no policy sees it. */
static __always_inline int is_link_talk(const struct packet *p)
{
	return p->protocol == PROTO_ICMP6 &&
	       (p->icmp_type == ICMP6_REPORT2 || (p->icmp_type >= ICMP6_QUERY && p->icmp_type <= ICMP6_REDIRECT));
}

/* VXLAN to whoever listens there: with a node's address it could forge identities. */
static __always_inline int is_tunnelled(const struct packet *p)
{
	return cfg_tunnel && p->protocol == PROTO_UDP && p->destination_port == htons(cfg_tunnel_port);
}

/* The side that asks has the identifier as its port; see struct flow_key. An
 * identifier of 0 would look like "no port", so it counts as 65535. */
static __always_inline void parse_icmp(struct packet *p, __u8 type, __be16 id)
{
	__u8 echo = p->protocol == PROTO_ICMP ? ICMP_ECHO : ICMP6_ECHO;
	__u8 reply = p->protocol == PROTO_ICMP ? ICMP_ECHO_REPLY : ICMP6_ECHO_REPLY;

	p->icmp_type = type;
	if (!id)
		id = 0xffff;
	if (type == echo) {
		p->source_port = id;
	} else if (type == reply) {
		p->destination_port = id;
	} else {
		p->source_port = htons(type);
		p->destination_port = htons(type);
		if (icmp_is_error(p->protocol, type))
			p->flags |= PACKET_ICMP_ERROR;
	}
}

/* Ports, flags and types from the L4 header at p->l4. */
static __always_inline int parse_l4(struct __sk_buff *skb, struct packet *p)
{
	struct l4_header *h;
	__u32 at = p->l4 & (HEADERS_MAX - 1);

	switch (p->protocol) {
	case PROTO_TCP:
		h = packet_at(skb, at, sizeof(*h));
		if (!h)
			return REASON_CT_TRUNCATED;
		p->tcp_flags = h->flags;
		break;
	case PROTO_UDP:
	case PROTO_SCTP:
		h = packet_at(skb, at, 8);
		if (!h)
			return REASON_CT_TRUNCATED;
		break;
	case PROTO_ICMP:
	case PROTO_ICMP6:
		h = packet_at(skb, at, 8);
		if (!h)
			return REASON_CT_TRUNCATED;
		p->icmp_code = ((__u8 *)h)[1];
		parse_icmp(p, *(__u8 *)h, h->id);
		return 0;
	default:
		return REASON_CT_UNKNOWN_L4;
	}
	p->source_port = h->source;
	p->destination_port = h->destination;
	return 0;
}

/* Ports of a fragment: the first one has them and leaves them for the others,
 * which may come in any order: without ports only rules for all ports apply. */
__global int parse_fragment(struct __sk_buff *skb, struct packet *p, __be32 id, __u32 first)
{
	struct fragment_key key = {};
	struct fragment ports = {};
	struct fragment *known;
	int reason;

	if (!p)
		return REASON_INVALID_PACKET;
	key.source = p->source;
	key.destination = p->destination;
	key.id = id;
	key.protocol = p->protocol;
	key.device = skb->ifindex;
	p->flags |= PACKET_FRAGMENT;
	if (first) {
		reason = parse_l4(skb, p);
		if (reason)
			return reason;
		ports.source_port = p->source_port;
		ports.destination_port = p->destination_port;
		bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
		return 0;
	}
	p->flags |= PACKET_LATER;
	known = bpf_map_lookup_elem(&fragments, &key);
	if (!known) {
		p->flags |= PACKET_NO_PORTS;
		return 0;
	}
	p->source_port = known->source_port;
	p->destination_port = known->destination_port;
	return 0;
}

static __always_inline int parse_ip4(struct __sk_buff *skb, struct packet *p)
{
	struct ip4_header *ip = packet_at(skb, ETH_LEN, sizeof(*ip));
	__u32 length;

	if (!ip)
		return REASON_INVALID_PACKET;
	length = (ip->version_length & 15) * 4;
	if (ip->version_length >> 4 != 4 || length < sizeof(*ip))
		return REASON_INVALID_PACKET;
	addr_set4(&p->source, ip->source);
	addr_set4(&p->destination, ip->destination);
	p->protocol = ip->protocol;
	p->l4 = ETH_LEN + length;
	if (unlikely(length != sizeof(*ip)))
		p->flags |= PACKET_OPTIONS;
	if (ip->fragment & htons(0x4000))
		p->flags |= PACKET_DONT_FRAGMENT;
	if (unlikely(ip->fragment & htons(0x3fff)))
		return parse_fragment(skb, p, ip->id, !(ip->fragment & htons(0x1fff)));
	return parse_l4(skb, p);
}

/* Walks the extension headers up to L4. Bounded twice: the count of headers and
 * the distance, so that the verifier (and a sender's imagination) ends. */
__global int parse_ip6_extensions(struct __sk_buff *skb, struct packet *p)
{
	__u32 at = ETH_LEN + sizeof(struct ip6_header);
	__be32 fragment = 0;
	__u16 offset = 0;
	__u8 next;
	int i;

	if (!p)
		return REASON_INVALID_PACKET;
	next = p->protocol;
	for (i = 0; i < EXTENSION_HEADERS_MAX; i++) {
		__u8 *h;

		at &= HEADERS_MAX - 1;
		if (next != PROTO_HOPOPTS && next != PROTO_ROUTING && next != PROTO_FRAGMENT && next != PROTO_AUTH &&
		    next != PROTO_DSTOPTS && next != PROTO_MOBILITY)
			break;
		h = packet_at(skb, at, 8);
		if (!h)
			return REASON_INVALID_EXTHDR;
		if (next == PROTO_FRAGMENT) {
			fragment = *(__be32 *)(h + 4);
			offset = ntohs(*(__be16 *)(h + 2));
			at += 8;
		} else if (next == PROTO_AUTH) {
			at += (h[1] + 2) * 4;
		} else {
			at += (h[1] + 1) * 8;
		}
		next = h[0];
		if (at >= HEADERS_MAX)
			return REASON_INVALID_EXTHDR;
		if (offset >> 3)
			break; /* what follows is data of the first fragment's last header */
	}
	if (i == EXTENSION_HEADERS_MAX)
		return REASON_INVALID_EXTHDR;
	p->protocol = next;
	p->l4 = at;
	if (offset & ~6)
		return parse_fragment(skb, p, fragment, !(offset >> 3));
	return parse_l4(skb, p);
}

static __always_inline int parse_ip6(struct __sk_buff *skb, struct packet *p)
{
	struct ip6_header *ip = packet_at(skb, ETH_LEN, sizeof(*ip));

	if (!ip || (*(__u8 *)ip) >> 4 != 6)
		return REASON_INVALID_PACKET;
	__builtin_memcpy(&p->source, &ip->source, sizeof(p->source));
	__builtin_memcpy(&p->destination, &ip->destination, sizeof(p->destination));
	/* A mapped address on the wire would pass for an IPv4 one. */
	if (addr_is4(&p->source) || addr_is4(&p->destination))
		return REASON_INVALID_PACKET;
	p->protocol = ip->next;
	p->flags = PACKET_IPV6 | PACKET_DONT_FRAGMENT;
	p->l4 = ETH_LEN + sizeof(*ip);
	if (likely(ip->next == PROTO_TCP || ip->next == PROTO_UDP || ip->next == PROTO_ICMP6))
		return parse_l4(skb, p);
	if (ip->next == PROTO_DSTOPTS)
		p->flags |= PACKET_OPTIONS;
	return parse_ip6_extensions(skb, p);
}

/* Bytes that parsing reads. Exact for the usual headers: TCP's data often begins
 * in another buffer right behind its header, and pulling it costs 220 ns. */
static __always_inline __u32 headers_length(const struct __sk_buff *skb)
{
	struct eth_header *eth = packet_at(skb, 0, ETH_LEN + sizeof(struct ip4_header));
	struct ip4_header *ip = (void *)(eth + 1);
	struct ip6_header *ip6 = (void *)(eth + 1);

	if (!eth)
		return HEADERS_PULLED;
	if (eth->protocol == htons(ETH_P_IP))
		return ETH_LEN + (ip->version_length & 15) * 4 + (ip->protocol == PROTO_TCP ? sizeof(struct l4_header) : 8);
	if (ip6->next == PROTO_TCP)
		return ETH_LEN + sizeof(*ip6) + sizeof(struct l4_header);
	return ip6->next == PROTO_UDP ? ETH_LEN + sizeof(*ip6) + 8 : HEADERS_PULLED;
}

/* Fills in p, which must be zero. Returns 0, PACKET_NOT_IP or a drop reason. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p)
{
	struct eth_header *eth;

	if (unlikely(linear(skb) < headers_length(skb) && skb->len > linear(skb)))
		bpf_skb_pull_data(skb, skb->len < HEADERS_PULLED ? skb->len : HEADERS_PULLED);
	eth = packet_at(skb, 0, sizeof(*eth));
	if (!eth)
		return REASON_INVALID_PACKET;
	__builtin_memcpy(p->source_mac, eth->source, 6);
	if (cfg_ipv4 && eth->protocol == htons(ETH_P_IP))
		return parse_ip4(skb, p);
	if (cfg_ipv6 && eth->protocol == htons(ETH_P_IPV6))
		return parse_ip6(skb, p);
	return PACKET_NOT_IP;
}
