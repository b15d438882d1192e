/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The VXLAN device between the nodes: the identity of the sender is the VNI. */

#include "lib/admit.h"
#include "lib/deliver.h"
#include "lib/masquerade.h"
#include "lib/related.h"
#include "lib/reset.h"
#include "lib/translate.h"

enum {
	IDENTITY_LOCAL_MIN = 1 << 24, /* numbers from here on mean something on one node only */
	IDENTITY_CLUSTER_MIN = 256,   /* numbers of label sets begin here */
};

/* What the outer header says. */
struct outer {
	struct addr source;
	__u32 identity; /* VNI */
};

static __always_inline int read_outer(struct __sk_buff *skb, struct outer *o)
{
	struct bpf_tunnel_key key = {};

	if (!bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, 0)) {
		addr_set4(&o->source, htonl(key.remote_ipv4));
	} else {
		if (bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, BPF_F_TUNINFO_IPV6))
			return REASON_TUNNEL_KEY;
		__builtin_memcpy(&o->source, key.remote_ipv6, sizeof(o->source));
	}
	o->identity = key.tunnel_id;
	return 0;
}

static __always_inline int is_from_node(const struct outer *o, __u32 index)
{
	struct node *n = bpf_map_lookup_elem(&nodes, &index);

	return n && (n->flags & NODE_USED) && addr_equal(&n->underlay, &o->source);
}

/* Established: the row holds for p, came from the node of the row, and is for a pod of this node. */
static __always_inline int is_established(const struct packet *p, const struct outer *o, const struct flow *f)
{
	__u32 side = sender_side(f, p);

	if (!f->node || f->endpoint[side] || !is_from_node(o, f->node))
		return 0;
	if (!side_current(f, !side, endpoint_at(f->endpoint[!side])))
		return 0;
	return !flow_reopens(f, p) && flow_fresh(f);
}

/* The sender as the tunnel claims it, checked against what this node knows: the
 * outer source is a node, the inner one lives there and has that identity. An
 * address that is not known yet is judged by the identity alone. */
static __always_inline int identify(struct packet *p, const struct outer *o, struct party *from)
{
	struct addr source = o->source;
	__u32 *node = bpf_map_lookup_elem(&node_addrs, &source);
	__u32 claimed = o->identity;
	__u32 *peer;

	if (!node || *node == cfg_node_index)
		return REASON_UNKNOWN_SENDER;
	party_find(from, &p->source);
	if (from->id || from->node != *node)
		return REASON_UNKNOWN_SENDER;
	if (claimed == IDENTITY_HOST)
		claimed = IDENTITY_REMOTE_NODE;
	p->source_identity = claimed;
	if (claimed == IDENTITY_UNKNOWN || claimed >= IDENTITY_LOCAL_MIN)
		return REASON_INVALID_IDENTITY;
	if ((from->flags & IPCACHE_NODE) && is_world_identity(claimed))
		return become_world(p, from);
	if (from->flags & IPCACHE_NODE)
		/* A node that runs the API server has that identity here. */
		return claimed == IDENTITY_REMOTE_NODE ? 0 : REASON_IDENTITY_MISMATCH;
	if (from->flags & IPCACHE_POD)
		return from->identity == claimed ? 0 : REASON_IDENTITY_MISMATCH;
	if (!(from->flags & IPCACHE_REMOTE_PODS) || claimed < IDENTITY_CLUSTER_MIN)
		return REASON_UNKNOWN_SENDER;
	peer = bpf_map_lookup_elem(&identity_peer, &claimed);
	if (!peer)
		return REASON_IDENTITY_UNKNOWN;
	from->identity = claimed;
	from->peer = *peer;
	return 0;
}

enum {
	FOR_HOST = -31, /* an address of this node: the stack's, without a row */
};

/* What only this node knows, it translates for pods elsewhere, which reach every
 * other service without coming here: its host ports, and the NodePorts whose traffic
 * policy is Local. */
static __always_inline int own_port(struct __sk_buff *skb, struct packet *p, struct flow_key *key)
{
	struct scratch *space = scratch();

	if (!space || (p->flags & PACKET_ICMP_ERROR) || !service_of(p, SCOPE_INTERNAL, 0))
		return 0;
	if (space->service.kind == SERVICE_NODE_PORT) {
		if (!service_of(p, SCOPE_EXTERNAL, 0) || !(space->service.flags & SERVICE_LOCAL))
			return 0;
		if (!space->service.count)
			return REASON_NO_SERVICE_BACKEND;
		return translate_to(skb, p, key);
	}
	return space->service.kind == SERVICE_HOST_PORT ? translate_to(skb, p, key) : 0;
}

/* First packets and those of stale rows. Returns 0 when `flows` has a row for
 * key that allows p, FOR_HOST, or a drop reason. */
__global int admit_from_overlay(struct __sk_buff *skb, struct packet *p, struct flow_key *key, struct outer *outer)
{
	struct opening *o = opening_new();
	int reason;

	if (!o || !p || !key || !outer)
		return REASON_INVALID_PACKET;
	reason = identify(p, outer, &o->party[0]);
	if (reason == REASON_IDENTITY_UNKNOWN || reason == REASON_IDENTITY_MISMATCH)
		report(skb, p, EVENT_MISS, 0);
	if (reason)
		return reason;
	party_find(&o->party[1], &p->destination);
	if (cfg_services && (o->party[1].flags & IPCACHE_HOST)) {
		reason = own_port(skb, p, key);
		if (reason)
			return reason;
		party_find(&o->party[1], &p->destination);
	}
	p->endpoint = o->party[1].id;
	p->destination_identity = o->party[1].identity;
	if (o->party[1].flags & IPCACHE_HOST)
		return FOR_HOST;
	if (!o->party[1].id)
		return o->party[1].flags & IPCACHE_LOCAL_PODS ? REASON_STALE_UNROUTABLE : REASON_UNKNOWN_L3_TARGET;
	if (!(o->party[1].flags & PARTY_READY))
		return REASON_ENDPOINT_NOT_READY;
	if (p->flags & PACKET_ICMP_ERROR)
		return relate(skb, p, key);
	opening_of(o, p);
	return admit(skb, p, key, o);
}

static __always_inline int to_own_stack(struct __sk_buff *skb, struct packet *p)
{
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST); /* the inner frame names the other node's device */
	return to_stack(skb, p);
}

/* To an address of this node: an answer for a client outside, or the stack's. */
static __always_inline int to_host(struct __sk_buff *skb, struct packet *p)
{
	int reason = NOT_MASQUERADED;

	if (cfg_services)
		reason = p->flags & PACKET_ICMP_ERROR ? unmasquerade_error(skb, p) : unmasquerade(skb, p);
	if (reason == OUTSIDE)
		return to_uplink(skb, p);
	if (reason > 0)
		return drop(skb, p, reason);
	return to_own_stack(skb, p);
}

/* The way back to the node that p came from, for a reset of its sender. */
__global int aim_back(struct __sk_buff *skb, const struct packet *p, const struct outer *outer)
{
	struct addr source;
	__u32 *node;

	if (!p || !outer)
		return REASON_INVALID_PACKET;
	source = outer->source;
	node = bpf_map_lookup_elem(&node_addrs, &source);
	if (!node)
		return REASON_UNKNOWN_SENDER;
	return set_tunnel(skb, *node, p->service ? IDENTITY_HOST : p->destination_identity);
}

/* What other nodes send through the tunnel. */
SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	struct packet p = { .point = POINT_FROM_OVERLAY, .ingress = 1 };
	struct outer outer;
	struct flow_key key;
	struct flow *f;
	__u32 side;
	int reason;

	reason = parse(skb, &p);
	if (reason)
		return drop(skb, &p, reason == PACKET_NOT_IP ? REASON_UNSUPPORTED_L3 : reason);
	reason = read_outer(skb, &outer);
	if (reason)
		return drop(skb, &p, reason);
	flow_key_of(&p, &key);
	f = bpf_map_lookup_elem(&flows, &key);
	if (unlikely(!f || !is_established(&p, &outer, f))) {
		reason = admit_from_overlay(skb, &p, &key, &outer);
		if (reason == FOR_HOST)
			return to_host(skb, &p);
		if (reason == REASON_FLOW_NOW_REDIRECTED)
			return aim_back(skb, &p, &outer) ? drop(skb, &p, reason) : reset(skb, &p);
		if (reason)
			return drop(skb, &p, reason);
		f = bpf_map_lookup_elem(&flows, &key);
		if (!f)
			return drop(skb, &p, REASON_CT_INSERT_FAILED);
	}
	side = sender_side(f, &p);
	track(skb, f, &p, side);
	if (unlikely(f->flags & FLOW_PROXIED))
		return to_proxy(skb, &p, side == INITIATOR);
	if (f->flags & FLOW_VIA_STACK)
		return to_own_stack(skb, &p);
	if (unlikely(f->service && side == RESPONDER)) {
		reason = untranslate(skb, &p, f->service, f->endpoint[INITIATOR]);
		if (reason)
			return drop(skb, &p, reason);
	}
	return deliver(skb, &p, f->endpoint[!side]);
}

/* What the stack sends to another node's pods: the host's own packets, and those
 * of pods that kube-proxy translated, which are flows of the pod. */
__global int admit_to_overlay(struct __sk_buff *skb, struct packet *p, struct flow_key *key, struct party *from)
{
	struct opening *o = opening_new();

	if (!o || !p || !key || !from)
		return REASON_INVALID_PACKET;
	if (is_link_talk(p))
		return REASON_FORBIDDEN_ICMP6;
	party_find(&o->party[0], &p->source);
	party_find(&o->party[1], &p->destination);
	*from = o->party[0];
	from->node = o->party[1].node;
	p->endpoint = from->id;
	p->source_identity = from->identity;
	p->destination_identity = o->party[1].identity;
	if (!from->node)
		return REASON_NO_TUNNEL_ENDPOINT;
	if (from->flags & IPCACHE_HOST)
		return 0;
	if (!from->id)
		return REASON_UNKNOWN_SENDER;
	if (p->flags & PACKET_ICMP_ERROR)
		return relate(skb, p, key);
	opening_of(o, p);
	o->flags = FLOW_VIA_STACK;
	return admit(skb, p, key, o);
}

/* What leaves through the tunnel. Programs of ours have set the tunnel already. */
SEC("tc")
int to_overlay(struct __sk_buff *skb)
{
	struct packet p = { .point = POINT_FROM_STACK };
	struct party from = {};
	__u32 side, identity;
	struct flow_key key;
	struct flow *f;
	int reason;

	if (skb->mark == MARK_CHECKED) {
		skb->mark = 0;
		return TC_ACT_OK;
	}
	reason = parse(skb, &p);
	if (reason)
		return drop(skb, &p, reason == PACKET_NOT_IP ? REASON_UNSUPPORTED_L3 : reason);
	see_proxy(skb, &p);
	flow_key_of(&p, &key);
	reason = admit_to_overlay(skb, &p, &key, &from);
	if (reason)
		return drop(skb, &p, reason);
	identity = from.id ? from.identity : IDENTITY_HOST;
	f = from.id ? bpf_map_lookup_elem(&flows, &key) : NULL;
	if (f) {
		if ((f->flags & FLOW_PROXIED) && !is_of_proxy(&p))
			return drop(skb, &p, REASON_NOT_FROM_PROXY);
		side = sender_side(f, &p);
		track(skb, f, &p, side);
		if ((f->flags & FLOW_PROXIED) && f->service && side == RESPONDER) {
			reason = untranslate(skb, &p, f->service, f->endpoint[INITIATOR]);
			identity = IDENTITY_HOST; /* with an address of this node it comes as this node */
		}
	}
	if (!reason)
		reason = set_tunnel(skb, from.node, identity);
	if (reason)
		return drop(skb, &p, reason);
	count(skb, REASON_FORWARDED, 0);
	trace(skb, &p, POINT_TO_OVERLAY);
	if (p.flags & PACKET_FROM_PROXY)
		skb->mark = 0;
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
