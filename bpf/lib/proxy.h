/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* The proxy of the node: what policy redirects goes to its sockets.
 *
 * What opens a connection is assigned to the proxy's listener on a loopback
 * address. The rest finds its socket by its tuple, because the proxy's sockets
 * have the addresses of the connection: a mark and a rule of the node's routing
 * make the packet local. */

#include "mark.h"
#include "packet.h"
#include "report.h"

struct proxy_ports {
	__be16 tcp4, tcp6, udp4, udp6; /* listeners on 127.0.0.1 and ::1; 0: none */
};

/* One row. Written by the proxy. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct proxy_ports);
} proxy_ports SEC(".maps");

/* Port of the listener for p; 0: there is none. */
static __always_inline __be16 proxy_port(const struct packet *p)
{
	__u32 zero = 0;
	struct proxy_ports *ports = bpf_map_lookup_elem(&proxy_ports, &zero);

	if (!ports)
		return 0;
	if (p->protocol == PROTO_TCP)
		return p->flags & PACKET_IPV6 ? ports->tcp6 : ports->tcp4;
	return p->flags & PACKET_IPV6 ? ports->udp6 : ports->udp4;
}

/* Policy redirects p. Returns 0 if that can be done, or a drop reason. */
static __always_inline int redirectable(const struct packet *p)
{
	if (p->flags & PACKET_FROM_PROXY)
		return 0;
	if (p->protocol != PROTO_TCP && p->protocol != PROTO_UDP)
		return REASON_PROXY_UNSUPPORTED;
	return proxy_port(p) ? 0 : REASON_PROXY_NOT_RUNNING;
}

static __always_inline __u32 sock_tuple_of(const struct packet *p, struct bpf_sock_tuple *t)
{
	if (p->flags & PACKET_IPV6) {
		__builtin_memcpy(t->ipv6.saddr, &p->source, 16);
		__builtin_memcpy(t->ipv6.daddr, &p->destination, 16);
		t->ipv6.sport = p->source_port;
		t->ipv6.dport = p->destination_port;
		return sizeof(t->ipv6);
	}
	t->ipv4.saddr = addr_word(&p->source, 3);
	t->ipv4.daddr = addr_word(&p->destination, 3);
	t->ipv4.sport = p->source_port;
	t->ipv4.dport = p->destination_port;
	return sizeof(t->ipv4);
}

/* A socket of the proxy takes p, which is TCP and opens nothing. */
__global int proxy_holds(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sock;
	int own;

	if (!p || !proxy_port(p))
		return 0;
	sock = bpf_sk_lookup_tcp(skb, &t, sock_tuple_of(p, &t), BPF_F_CURRENT_NETNS, 0);
	if (!sock)
		return 0;
	own = sock->mark == MARK_FROM_PROXY;
	bpf_sk_release(sock);
	return own;
}

/* A listener of the host would take p, which has the address of somebody else. */
static __always_inline int host_listens(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock_tuple t = {};
	__u32 size = sock_tuple_of(p, &t);
	struct bpf_sock *sock;

	if (p->flags & PACKET_IPV6) {
		__builtin_memset(t.ipv6.saddr, 0, 16);
		t.ipv6.sport = 0;
	} else {
		t.ipv4.saddr = 0;
		t.ipv4.sport = 0;
	}
	sock = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	if (!sock)
		return 0;
	bpf_sk_release(sock);
	return 1;
}

enum {
	ASSIGN = -51,
};

/* p is a SYN. Returns ASSIGN, 0 if the socket of its connection takes it, which
 * came again or too early, or a drop reason. */
__global int find_connection(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sock;
	__u32 state;

	if (!p)
		return REASON_INVALID_PACKET;
	sock = bpf_skc_lookup_tcp(skb, &t, sock_tuple_of(p, &t), BPF_F_CURRENT_NETNS, 0);
	if (!sock)
		return ASSIGN;
	state = sock->state;
	bpf_sk_release(sock);
	if (state == TCP_LISTEN)
		return ASSIGN;
	/* The kernel makes way for a SYN if it finds a listener, and only then. */
	return state == TCP_TIME_WAIT && host_listens(skb, p) ? REASON_SOCKET_LOOKUP : 0;
}

/* Gives p to a socket of the proxy: its listener, or the one that is connected with
 * the sender of p. Returns 0 or a drop reason. */
__global int assign(struct __sk_buff *skb, const struct packet *p, __u32 listener)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sock;
	__u32 size;
	int reason;

	if (!p)
		return REASON_INVALID_PACKET;
	if (!listener) {
		size = sock_tuple_of(p, &t);
	} else if (p->flags & PACKET_IPV6) {
		size = sizeof(t.ipv6);
		t.ipv6.daddr[3] = htonl(1);
		t.ipv6.dport = proxy_port(p);
	} else {
		size = sizeof(t.ipv4);
		t.ipv4.daddr = htonl(0x7f000001);
		t.ipv4.dport = proxy_port(p);
	}
	if (p->protocol == PROTO_TCP)
		sock = bpf_sk_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	else
		sock = bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	reason = listener ? REASON_PROXY_NOT_RUNNING : REASON_SOCKET_LOOKUP;
	if (!sock)
		return reason;
	/* Whoever else has the port gets nothing. */
	if (sock->mark == MARK_FROM_PROXY)
		reason = bpf_sk_assign(skb, sock, 0) ? REASON_SOCKET_ASSIGN : 0;
	bpf_sk_release(sock);
	return reason;
}

/* Finds the socket for p, so that no other one of the node ever gets it: what opens
 * and every datagram is assigned, other TCP finds none but that of its tuple. */
static __always_inline int socket_for(struct __sk_buff *skb, const struct packet *p, __u32 initiator)
{
	int reason;

	if (p->protocol == PROTO_UDP) {
		if (initiator && (p->flags & PACKET_FRAGMENT))
			return REASON_FRAG_UNSUPPORTED; /* what was assigned is lost when they are joined */
		return assign(skb, p, initiator);
	}
	if (p->protocol != PROTO_TCP)
		return 0; /* an error about the proxy's own packets */
	if (p->flags & PACKET_FRAGMENT)
		return REASON_FRAG_UNSUPPORTED;
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return 0;
	reason = find_connection(skb, p);
	return reason == ASSIGN ? assign(skb, p, 1) : reason;
}

/* p, of a flow with FLOW_PROXIED, to the proxy; initiator: it was sent by the
 * side that opened. */
__global int to_proxy(struct __sk_buff *skb, struct packet *p, __u32 initiator)
{
	int reason;

	if (!p)
		return TC_ACT_SHOT;
	reason = socket_for(skb, p, initiator);
	if (reason)
		return drop(skb, p, reason);
	count(skb, REASON_FORWARDED, p->ingress);
	trace(skb, p, POINT_TO_PROXY);
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	skb->mark = MARK_TO_PROXY;
	return TC_ACT_OK;
}

/* Notes that the proxy sent p. */
static __always_inline void see_proxy(const struct __sk_buff *skb, struct packet *p)
{
	if (skb->mark == MARK_FROM_PROXY)
		p->flags |= PACKET_FROM_PROXY;
}

/* What the host itself answers the proxy: nothing becomes local on its way out, so
 * it comes in once more by a device of our own. */
__global int host_to_proxy(struct __sk_buff *skb, struct packet *p)
{
	__u8 mac[6];
	int i;

	if (!p)
		return TC_ACT_SHOT;
	for (i = 0; i < 6; i++)
		mac[i] = cfg_host_mac[i];
	if (bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0))
		return drop(skb, p, REASON_WRITE_ERROR);
	count(skb, REASON_FORWARDED, p->ingress);
	trace(skb, p, POINT_TO_PROXY);
	skb->mark = MARK_TO_PROXY;
	return bpf_redirect(cfg_host_ifindex, BPF_F_INGRESS);
}

/* p may leave the stack on a row with FLOW_PROXIED. The stack resets connections
 * for which the proxy has no socket any more. */
static __always_inline int is_of_proxy(const struct packet *p)
{
	return (p->flags & PACKET_FROM_PROXY) || (p->tcp_flags & TCP_RST);
}

/* The proxy speaks on a row that was direct. */
static __always_inline int takes_over(const struct flow *f, const struct packet *p)
{
	return (p->flags & PACKET_FROM_PROXY) && !(f->flags & FLOW_PROXIED);
}
