/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The uplinks: masquerading, and pods' packets that are routed without a tunnel.
 * What is not a pod's passes untouched. */

#include "lib/admit.h"
#include "lib/deliver.h"
#include "lib/icmp_error.h"
#include "lib/inbound.h"
#include "lib/masquerade.h"
#include "lib/reset.h"
#include "lib/translate.h"

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
	NOT_FOR_POD = -21,
	FOR_STACK = -22, /* of the world: to_pod judges it on its way through the stack */
	ROUTE = -23,	 /* perhaps for a pod */
};

/* p is an ICMP error about a connection of the proxy, whose socket wants to know it. */
static __always_inline int relate_proxied(struct __sk_buff *skb, struct packet *p, struct flow_key *key)
{
	struct flow_key related;
	struct flow *f;

	if (relate(skb, p, key))
		return 0;
	related = *key;
	f = bpf_map_lookup_elem(&flows, &related);
	return f && (f->flags & FLOW_PROXIED);
}

/* First packets and those of stale rows. Returns 0 when `flows` has a row for
 * key that allows p, NOT_FOR_POD, FOR_STACK, or a drop reason. proxied: the row
 * that it has is the proxy's, to which only this program can hand it. */
__global int admit_from_net(struct __sk_buff *skb, struct packet *p, struct flow_key *key, __u32 proxied)
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
	if (cfg_tunnel || !o->party[0].node) {
		if (p->flags & PACKET_ICMP_ERROR)
			return relate_proxied(skb, p, key) ? 0 : FOR_STACK;
		if (!proxied)
			return FOR_STACK;
		o->flags = FLOW_VIA_STACK;
	}
	if (!(o->party[1].flags & PARTY_READY))
		return REASON_ENDPOINT_NOT_READY;
	if (p->flags & PACKET_ICMP_ERROR)
		return relate(skb, p, key);
	opening_of(o, p);
	return admit(skb, p, key, o);
}

/* A connection of a client outside with a pod of this node, whose addresses p has. */
__global int admit_inbound(struct __sk_buff *skb, struct packet *p, struct flow_key *key)
{
	struct opening *o = opening_new();

	if (!o || !p || !key)
		return REASON_INVALID_PACKET;
	party_find(&o->party[0], &p->source);
	party_find(&o->party[1], &p->destination);
	p->endpoint = o->party[1].id;
	p->source_identity = o->party[0].identity;
	p->destination_identity = o->party[1].identity;
	if (is_forged(&o->party[0]))
		return REASON_UNKNOWN_SENDER;
	if (!(o->party[1].flags & PARTY_READY))
		return REASON_ENDPOINT_NOT_READY;
	o->party[0].node = 0; /* its answers leave as they came: by the uplink */
	opening_of(o, p);
	return admit(skb, p, key, o);
}

/* To a backend that is a pod of this node. */
static __always_inline int serve_here(struct __sk_buff *skb, struct packet *p, struct flow_key *key, const struct service_flow *to)
{
	struct flow *f;
	__u32 side;
	int reason;

	reason = decrement_ttl(skb, p);
	if (!reason)
		reason = rewrite(skb, p, &to->addr, to->port, 1);
	if (reason)
		return drop(skb, p, reason);
	p->service = to->service;
	flow_key_of(p, key);
	f = bpf_map_lookup_elem(&flows, key);
	if (f && f->service != to->service && !flow_reopens(f, p))
		return drop(skb, p, REASON_CT_INSERT_FAILED); /* the client has this connection by another address */
	if (!f || !is_established(p, f)) {
		reason = admit_inbound(skb, p, key);
		if (reason == REASON_FLOW_NOW_REDIRECTED)
			return reset(skb, p);
		if (reason)
			return drop(skb, p, reason);
		f = bpf_map_lookup_elem(&flows, key);
		if (!f)
			return drop(skb, p, REASON_CT_INSERT_FAILED);
	}
	side = sender_side(f, p);
	track(skb, f, p, side);
	if (f->flags & FLOW_PROXIED)
		return to_proxy(skb, p, side == INITIATOR);
	return deliver(skb, p, f->endpoint[!side]);
}

/* What a backend elsewhere is, in the VNI: a client of the world, not this node. */
static __always_inline __u32 world_of(const struct packet *p)
{
	if (cfg_ipv4 && cfg_ipv6)
		return p->flags & PACKET_IPV6 ? IDENTITY_WORLD_IPV6 : IDENTITY_WORLD_IPV4;
	return IDENTITY_WORLD;
}

static __always_inline int goes_through_tunnel(const struct party *to)
{
	return cfg_tunnel && to->node && !(to->flags & IPCACHE_NODE);
}

/* Apart, for the stack of from_net. */
__global int through_tunnel(struct __sk_buff *skb, struct packet *p, __u32 node)
{
	int reason;

	if (!p)
		return TC_ACT_SHOT;
	reason = decrement_ttl(skb, p);
	return reason ? drop(skb, p, reason) : to_overlay_device(skb, p, node, world_of(p));
}

/* An error about an answer, from the client or on the way to it: it goes to the
 * backend that sent the answer. */
__global int error_inbound(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *space = scratch();
	struct service_flow *known, *to;
	struct opening *o;
	int reason;

	if (!p || !space)
		return TC_ACT_OK;
	known = answered_flow(skb, p, space);
	if (!known)
		return TC_ACT_OK;
	to = &space->to;
	*to = *known;
	p->service = to->service;
	reason = error_to_backend(skb, p, space);
	if (reason)
		return drop(skb, p, reason);
	if (to->place == BACKEND_POD || to->place == BACKEND_HOST)
		return to_stack(skb, p); /* to_pod judges it */
	o = opening_new();
	if (!o)
		return TC_ACT_SHOT;
	party_find(&o->party[1], &to->addr);
	if (!goes_through_tunnel(&o->party[1]))
		return to_uplink(skb, p);
	masquerade_addr(p, &space->asked);
	reason = rewrite(skb, p, &space->asked, p->source_port, 0); /* the other node knows this one only */
	return reason ? drop(skb, p, reason) : through_tunnel(skb, p, o->party[1].node);
}

/* To a backend elsewhere: a pod of another node, a host, or the world. */
static __always_inline int serve_elsewhere(struct __sk_buff *skb, struct packet *p, const struct service_flow *to)
{
	struct opening *o = opening_new();
	int tunnel, reason;

	if (!o)
		return TC_ACT_SHOT;
	party_find(&o->party[1], &to->addr);
	tunnel = goes_through_tunnel(&o->party[1]);
	if (!(o->party[1].flags & IPCACHE_POD) && (o->party[1].flags & (IPCACHE_LOCAL_PODS | IPCACHE_REMOTE_PODS)))
		return drop(skb, p, o->party[1].flags & IPCACHE_LOCAL_PODS ? REASON_STALE_UNROUTABLE : REASON_IDENTITY_UNKNOWN);
	if (tunnel && unlikely(skb->len > cfg_mtu + ETH_LEN) && !skb->gso_size && (p->flags & PACKET_DONT_FRAGMENT)) {
		drop(skb, p, REASON_FRAG_NEEDED);
		return error_back(skb, p, cfg_mtu);
	}
	p->service = to->service;
	reason = snat(skb, p, tunnel);
	if (reason)
		return drop(skb, p, reason);
	if (!tunnel)
		return to_uplink(skb, p);
	return through_tunnel(skb, p, o->party[1].node);
}

/* To a backend of another node, which answers itself. */
static __always_inline int serve_direct(struct __sk_buff *skb, struct packet *p)
{
	int reason = forward_direct(skb, p);

	if (reason == NO_ROOM && (p->flags & PACKET_DONT_FRAGMENT)) {
		drop(skb, p, REASON_FRAG_NEEDED);
		return error_back(skb, p, cfg_mtu - frontend_size(p));
	}
	if (reason == NO_ROOM)
		return NO_ROOM;
	return reason ? drop(skb, p, reason) : to_uplink(skb, p);
}

/* To a backend that is this host itself: its answers pass to_net. */
static __always_inline int serve_host(struct __sk_buff *skb, struct packet *p)
{
	int reason = to_own_host(skb, p);

	return reason ? drop(skb, p, reason) : to_stack(skb, p);
}

/* p is for no pod: perhaps for a service. told: its place is in scratch already. */
static __always_inline int serve(struct __sk_buff *skb, struct packet *p, struct flow_key *key, int told)
{
	struct scratch *space = scratch();
	int reason = 0;

	if (!cfg_services)
		return TC_ACT_OK;
	if (p->flags & PACKET_ICMP_ERROR)
		return error_inbound(skb, p);
	if (!told)
		reason = space ? inbound_to(p) : NO_SERVICE;
	if (reason == NO_SERVICE)
		return TC_ACT_OK;
	if (reason == REJECT)
		return reject_back(skb, p);
	if (reason)
		return drop(skb, p, reason);
	if (!space)
		return TC_ACT_OK;
	if (space->to.place == BACKEND_POD)
		return serve_here(skb, p, key, &space->to);
	if (space->to.place == BACKEND_HOST)
		return serve_host(skb, p);
	if (space->to.place == BACKEND_DIRECT) {
		reason = serve_direct(skb, p);
		if (reason != NO_ROOM)
			return reason;
		space->to.place = BACKEND_ELSEWHERE; /* of this connection, then: it works, though not with its address */
	}
	return serve_elsewhere(skb, p, &space->to);
}

/* To a pod of this node, routed without a tunnel. */
static __always_inline int route_to_pod(struct __sk_buff *skb, struct packet *p, struct flow_key *key)
{
	struct flow *f;
	__u32 side;
	int reason;

	flow_key_of(p, key);
	f = bpf_map_lookup_elem(&flows, key);
	if (!f || !is_established(p, f)) {
		reason = admit_from_net(skb, p, key, f && (f->flags & FLOW_PROXIED));
		if (reason == NOT_FOR_POD)
			return NOT_FOR_POD;
		if (reason == FOR_STACK)
			return TC_ACT_OK;
		if (reason == REASON_FLOW_NOW_REDIRECTED)
			return reset(skb, p);
		if (reason)
			return drop(skb, p, reason);
		f = bpf_map_lookup_elem(&flows, key);
		if (!f)
			return drop(skb, p, REASON_CT_INSERT_FAILED);
	}
	side = sender_side(f, p);
	if (unlikely(f->flags & FLOW_PROXIED)) {
		track(skb, f, p, side);
		return to_proxy(skb, p, side == INITIATOR);
	}
	if (f->flags & FLOW_VIA_STACK)
		return TC_ACT_OK;
	track(skb, f, p, side);
	reason = decrement_ttl(skb, p);
	if (!reason && f->service && side == RESPONDER)
		reason = untranslate(skb, p, f->service, f->endpoint[INITIATOR]);
	if (reason)
		return drop(skb, p, reason);
	return deliver(skb, p, f->endpoint[!side]);
}

/* To this host's own address: an answer for a pod, for a client outside, or neither. */
static __always_inline int to_node(struct __sk_buff *skb, struct packet *p)
{
	int reason = NOT_MASQUERADED;

	if (is_tunnelled(p))
		return TC_ACT_OK;
	if (cfg_services || masquerades(p))
		reason = p->flags & PACKET_ICMP_ERROR ? unmasquerade_error(skb, p) : unmasquerade(skb, p);
	if (reason == NOT_MASQUERADED)
		return NOT_FOR_POD;
	if (reason == OUTSIDE)
		return to_uplink(skb, p);
	if (reason)
		return drop(skb, p, reason);
	return p->flags & PACKET_TO_PROXY ? ROUTE : TC_ACT_OK;
}

/* What comes in from outside. */
SEC("tc")
int from_net(struct __sk_buff *skb)
{
	struct packet p = { .point = POINT_FROM_NETWORK, .ingress = 1 };
	struct flow_key key;
	struct addr own;
	int told = NOT_TOLD;
	int action;

	if (parse(skb, &p))
		return TC_ACT_OK;
	if (unlikely(p.flags & PACKET_OPTIONS))
		told = take_frontend(skb, &p);
	if (told > 0)
		return drop(skb, &p, told);
	if (told == NOT_TOLD) {
		masquerade_addr(&p, &own);
		action = addr_equal(&p.destination, &own) ? to_node(skb, &p) : ROUTE;
		if (action == ROUTE)
			action = route_to_pod(skb, &p, &key);
		if (action != NOT_FOR_POD)
			return action;
	}
	return serve(skb, &p, &key, !told);
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

enum {
	ANSWERED = -41, /* has the addresses that the client outside knows */
};

/* What the proxy sends for a pod needs a row, as a packet of that pod. Returns 0,
 * ANSWERED or a drop reason. */
__global int admit_from_proxy(struct __sk_buff *skb, struct packet *p)
{
	struct opening *o = opening_new();
	struct flow_key key;
	struct flow *f;
	__u32 side;
	int reason;

	if (!o || !p)
		return REASON_INVALID_PACKET;
	party_find(&o->party[0], &p->source);
	party_find(&o->party[1], &p->destination);
	opening_of(o, p);
	o->flags = FLOW_VIA_STACK;
	flow_key_of(p, &key);
	o->initiator_b = p->from_b;
	reason = admit(skb, p, &key, o);
	if (reason)
		return reason;
	f = bpf_map_lookup_elem(&flows, &key);
	if (!f)
		return REASON_CT_INSERT_FAILED;
	side = sender_side(f, p);
	track(skb, f, p, side);
	if (!f->service || side == INITIATOR)
		return 0;
	reason = untranslate(skb, p, f->service, f->endpoint[INITIATOR]);
	return reason ? reason : ANSWERED;
}

/* An error that this host's stack made about a packet for a pod, which the world
 * knows by the node's address only. All others are the host's own matter. */
static __always_inline int leave_host(struct __sk_buff *skb, struct packet *p)
{
	int reason;

	if (!(p->flags & PACKET_ICMP_ERROR)) {
		reason = host_has_clients() && !is_tunnelled(p) ? from_own_host(skb, p) : 0;
		return reason ? drop(skb, p, reason) : TC_ACT_OK;
	}
	if (!masquerades(p))
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
	see_proxy(skb, &p);
	if (p.flags & PACKET_FROM_PROXY)
		skb->mark = 0;
	masquerade_addr(&p, &own);
	if (addr_equal(&p.source, &own))
		return leave_host(skb, &p);
	p.endpoint = endpoint_of(&p.source, &ep);
	if (!p.endpoint)
		return leave_host(skb, &p);
	reason = p.flags & PACKET_FROM_PROXY ? admit_from_proxy(skb, &p) : 0;
	if (reason == ANSWERED)
		return TC_ACT_OK;
	if (!reason)
		reason = leave(skb, &p);
	return reason ? drop(skb, &p, reason) : TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
