/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Where packets leave to: a pod, another node, the stack. */

#include "mark.h"
#include "node.h"
#include "party.h"
#include "report.h"

enum {
	TUNNEL_KEY_SIZE = 28, /* of struct bpf_tunnel_key without local addresses beyond IPv4: known to every kernel */
	TTL = 64,
};

static __always_inline int to_stack(struct __sk_buff *skb, struct packet *p)
{
	count(skb, REASON_FORWARDED, p->ingress);
	trace(skb, p, POINT_TO_STACK);
	return TC_ACT_OK;
}

/* Into the pod's namespace, past the stacks of both ends of its veth. */
static __always_inline int deliver(struct __sk_buff *skb, struct packet *p, __u32 id)
{
	struct endpoint *ep = endpoint_at(id);
	struct eth_header *eth = packet_at(skb, 0, sizeof(*eth));

	if (!ep || !eth)
		return drop(skb, p, REASON_INVALID_PACKET);
	__builtin_memcpy(eth->destination, ep->mac, 6);
	__builtin_memcpy(eth->source, ep->node_mac, 6);
	p->ingress = 1;
	count(skb, REASON_FORWARDED, 1);
	trace(skb, p, POINT_TO_POD);
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	if (skb->mark)
		skb->mark = 0;
	return bpf_redirect_peer(ep->ifindex, 0);
}

/* Marks the packet for the tunnel to a node, with the sender's identity as VNI. */
static __always_inline int set_tunnel(struct __sk_buff *skb, __u32 index, __u32 identity)
{
	struct node *n = bpf_map_lookup_elem(&nodes, &index);
	struct bpf_tunnel_key key = {};
	__u64 flags = BPF_F_ZERO_CSUM_TX; /* IPv6 receivers want the outer checksum (RFC 8200, 8.1) */

	if (!n || !(n->flags & NODE_USED))
		return REASON_NO_TUNNEL_ENDPOINT;
	key.tunnel_id = identity;
	key.tunnel_ttl = TTL;
	if (n->flags & NODE_UNDERLAY6) {
		__builtin_memcpy(key.remote_ipv6, &n->underlay, sizeof(key.remote_ipv6));
		flags = BPF_F_TUNINFO_IPV6;
	} else {
		key.remote_ipv4 = ntohl(addr_word(&n->underlay, 3));
	}
	if (bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, flags))
		return REASON_NO_TUNNEL_ENDPOINT;
	return 0;
}

static __always_inline int to_overlay_device(struct __sk_buff *skb, struct packet *p, __u32 node, __u32 identity)
{
	int reason = set_tunnel(skb, node, identity);

	if (reason)
		return drop(skb, p, reason);
	count(skb, REASON_FORWARDED, 0);
	trace(skb, p, POINT_TO_OVERLAY);
	skb->mark = MARK_CHECKED;
	return bpf_redirect(cfg_overlay_ifindex, 0);
}

/* One hop less to live, as every router must. Returns 0 or a drop reason. */
static __always_inline int decrement_ttl(struct __sk_buff *skb, const struct packet *p)
{
	struct ip6_header *ip6;
	struct ip4_header *ip4;
	__u32 sum;

	if (p->flags & PACKET_IPV6) {
		ip6 = packet_at(skb, ETH_LEN, sizeof(*ip6));
		if (!ip6)
			return REASON_INVALID_PACKET;
		if (ip6->hop_limit <= 1)
			return REASON_TTL_EXCEEDED;
		ip6->hop_limit--;
		return 0;
	}
	ip4 = packet_at(skb, ETH_LEN, sizeof(*ip4));
	if (!ip4)
		return REASON_INVALID_PACKET;
	if (ip4->ttl <= 1)
		return REASON_TTL_EXCEEDED;
	ip4->ttl--;
	/* RFC 1624: the sum grows by what the field shrank. */
	sum = ip4->checksum + htons(0x0100);
	ip4->checksum = sum + (sum >> 16);
	return 0;
}

/* To another node without a tunnel, past the stack: the route is looked up, the
 * neighbour is resolved by the kernel if it is not known yet. */
__global int to_uplink(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_fib_lookup fib = {};
	struct bpf_redir_neigh next = {};
	int reason;
	long found;

	if (!p)
		return TC_ACT_SHOT;
	reason = decrement_ttl(skb, p);
	if (reason)
		return drop(skb, p, reason);
	fib.ifindex = skb->ifindex;
	if (p->flags & PACKET_IPV6) {
		fib.family = AF_INET6;
		__builtin_memcpy(fib.ipv6_src, &p->source, 16);
		__builtin_memcpy(fib.ipv6_dst, &p->destination, 16);
	} else {
		fib.family = AF_INET;
		fib.ipv4_src = addr_word(&p->source, 3);
		fib.ipv4_dst = addr_word(&p->destination, 3);
	}
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return drop(skb, p, REASON_FIB_LOOKUP_FAILED);
	next.nh_family = fib.family;
	__builtin_memcpy(next.ipv6_nh, fib.ipv6_dst, 16);
	count(skb, REASON_FORWARDED, 0);
	trace(skb, p, POINT_TO_NETWORK);
	skb->mark = MARK_CHECKED;
	return bpf_redirect_neigh(fib.ifindex, &next, sizeof(next), 0);
}
