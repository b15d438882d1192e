/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The uplinks: masquerading, and pods' packets that are routed without a tunnel.
 * What is not a pod's passes untouched. */

#include "lib/admit.h"
#include "lib/deliver.h"
#include "lib/masquerade.h"
#include "lib/translate.h"

static __always_inline int is_tunnel(const struct packet *p)
{
	return cfg_tunnel && p->protocol == PROTO_UDP && p->destination_port == htons(cfg_tunnel_port);
}

/* Only other nodes' packets and the world's come this way. With a tunnel, pods'
 * packets do not: such a source is forged. */
static __always_inline int is_forged(const struct party *from)
{
	if (from->id || (from->flags & (IPCACHE_HOST | IPCACHE_LOCAL_PODS)))
		return 1;
	return cfg_tunnel && (from->flags & (IPCACHE_POD | IPCACHE_REMOTE_PODS));
}

/* Established: the row holds for p, which is for a pod of this node. */
static __always_inline int is_established(const struct packet *p, const struct flow *f)
{
	__u32 side = sender_side(f, p);

	if (cfg_tunnel && f->node)
		return 0; /* its packets come through the tunnel: this one is forged */
	if (f->endpoint[side] || !side_current(f, !side, endpoint_at(f->endpoint[!side])))
		return 0;
	return !flow_reopens(f, p) && flow_fresh(f);
}

enum {
	NOT_FOR_POD = -1,
	FOR_STACK = -2, /* of the world: to_pod judges it on its way through the stack */
};

/* First packets and those of stale rows. Returns 0 when `flows` has a row for
 * key that allows p, NOT_FOR_POD, FOR_STACK, or a drop reason. */
__global int admit_from_net(struct __sk_buff *skb, struct packet *p, struct flow_key *key)
{
	struct opening *o = opening_new();

	if (!o || !p || !key)
		return REASON_INVALID_PACKET;
	party_find(&o->party[1], &p->destination);
	if (!o->party[1].id)
		return NOT_FOR_POD;
	party_find(&o->party[0], &p->source);
	p->endpoint = o->party[1].id;
	p->source_identity = o->party[0].identity;
	p->destination_identity = o->party[1].identity;
	if (is_forged(&o->party[0]))
		return REASON_UNKNOWN_SENDER;
	if (cfg_tunnel || !o->party[0].node)
		return FOR_STACK;
	if (!(o->party[1].flags & PARTY_READY))
		return REASON_ENDPOINT_NOT_READY;
	if (p->flags & PACKET_ICMP_ERROR)
		return relate(skb, p, key);
	opening_of(o, p);
	return admit(skb, p, key, o);
}

/* To a pod of this node, routed without a tunnel. */
static __always_inline int route_to_pod(struct __sk_buff *skb, struct packet *p)
{
	struct flow_key key;
	struct flow *f;
	__u32 side;
	int reason;

	flow_key_of(p, &key);
	f = bpf_map_lookup_elem(&flows, &key);
	if (!f || !is_established(p, f)) {
		reason = admit_from_net(skb, p, &key);
		if (reason == NOT_FOR_POD || reason == FOR_STACK)
			return TC_ACT_OK;
		if (reason)
			return drop(skb, p, reason);
		f = bpf_map_lookup_elem(&flows, &key);
		if (!f)
			return drop(skb, p, REASON_CT_INSERT_FAILED);
	}
	if (f->flags & FLOW_VIA_STACK)
		return TC_ACT_OK;
	side = sender_side(f, p);
	track(skb, f, p, side);
	reason = decrement_ttl(skb, p);
	if (!reason && f->service && side == RESPONDER)
		reason = untranslate(skb, p, f->service, f->endpoint[INITIATOR]);
	if (reason)
		return drop(skb, p, reason);
	return deliver(skb, p, f->endpoint[!side]);
}

/* What comes in from outside. */
SEC("tc")
int from_net(struct __sk_buff *skb)
{
	struct packet p = { .point = POINT_FROM_NETWORK, .ingress = 1 };
	struct addr own;
	int reason;

	if (parse(skb, &p))
		return TC_ACT_OK;
	masquerade_addr(&p, &own);
	if (!addr_equal(&p.destination, &own))
		return route_to_pod(skb, &p);
	if (is_tunnel(&p) || !masquerades(&p))
		return TC_ACT_OK;
	reason = p.flags & PACKET_ICMP_ERROR ? unmasquerade_error(skb, &p) : unmasquerade(skb, &p);
	if (reason && reason != NOT_MASQUERADED)
		return drop(skb, &p, reason);
	return TC_ACT_OK;
}

/* Whether a destination is reached with the pod's own address. */
static __always_inline int is_cluster(const struct ipcache_entry *to)
{
	return to && (to->flags & (IPCACHE_CLUSTER_ROUTE | IPCACHE_POD | IPCACHE_REMOTE_PODS));
}

/* A packet of a pod, on its way out of the node. */
__global int leave(struct __sk_buff *skb, struct packet *p)
{
	struct ipcache_entry *to;

	if (!p)
		return REASON_INVALID_PACKET;
	to = ipcache_of(&p->destination);
	if (to && (to->flags & IPCACHE_LOCAL_PODS))
		return REASON_STALE_UNROUTABLE;
	if (is_cluster(to) || !masquerades(p))
		return 0;
	if (p->flags & PACKET_ICMP_ERROR)
		return masquerade_error(skb, p);
	return masquerade(skb, p);
}

/* An error that this host's stack made about a packet for a pod, which the world
 * knows by the node's address only. All others are the host's own matter. */
static __always_inline int leave_host(struct __sk_buff *skb, struct packet *p)
{
	int reason;

	if (!(p->flags & PACKET_ICMP_ERROR) || !masquerades(p))
		return TC_ACT_OK;
	reason = masquerade_error(skb, p);
	if (reason == REASON_WRITE_ERROR || reason == REASON_CSUM_L3 || reason == REASON_CSUM_L4)
		return drop(skb, p, reason);
	return TC_ACT_OK;
}

/* What leaves the node. Host packets cost one comparison or one lookup. */
SEC("tc")
int to_net(struct __sk_buff *skb)
{
	struct packet p = { .point = POINT_TO_NETWORK };
	struct endpoint *ep = NULL;
	struct addr own;
	int reason;

	if (skb->mark == MARK_CHECKED) {
		skb->mark = 0;
		return TC_ACT_OK;
	}
	if (parse(skb, &p))
		return TC_ACT_OK;
	masquerade_addr(&p, &own);
	if (addr_equal(&p.source, &own))
		return leave_host(skb, &p);
	p.endpoint = endpoint_of(&p.source, &ep);
	if (!p.endpoint)
		return TC_ACT_OK;
	reason = leave(skb, &p);
	return reason ? drop(skb, &p, reason) : TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
