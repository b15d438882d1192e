/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Both ends of a pod's veth, seen from the host's side. */

#include "lib/admit.h"
#include "lib/deliver.h"
#include "lib/direct.h"
#include "lib/icmp_error.h"
#include "lib/neighbor.h"
#include "lib/related.h"
#include "lib/reset.h"
#include "lib/translate.h"

enum {
	SOLICITATION = -11,  /* of a neighbour: to be answered */
	ADVERTISEMENT = -12, /* the pod's answer to the host */
};

/* The sender is the pod of this device, with its own MAC. */
static __always_inline int is_sender(const struct __sk_buff *skb, const struct packet *p, const struct endpoint *ep)
{
	return ep->ifindex == skb->ifindex && *(__u16 *)&ep->mac[0] == p->source_mac[0] &&
	       *(__u16 *)&ep->mac[2] == p->source_mac[1] && *(__u16 *)&ep->mac[4] == p->source_mac[2];
}

/* Established: the row holds for p, and p comes from the pod of the row. */
static __always_inline int is_established_from_pod(struct __sk_buff *skb, const struct packet *p, const struct flow *f)
{
	__u32 side = sender_side(f, p);
	struct endpoint *ep = endpoint_at(f->endpoint[side]);

	if (!side_current(f, side, ep) || !is_sender(skb, p, ep))
		return 0;
	if (f->endpoint[!side] && !side_current(f, !side, endpoint_at(f->endpoint[!side])))
		return 0;
	return !flow_reopens(f, p) && flow_fresh(f);
}

/* Nobody of the cluster: virtual addresses are such, too. */
static __always_inline int is_world(const struct party *to)
{
	return !to->id && !to->node && !(to->flags & (IPCACHE_POD | IPCACHE_HOST | IPCACHE_NODE | IPCACHE_LOCAL_PODS | IPCACHE_REMOTE_PODS));
}

/* Whether a packet may leave for `to`. Addresses of pod ranges without a pod
 * never leave by the default route. */
static __always_inline int reachable(const struct party *to)
{
	if (to->id || (to->flags & (IPCACHE_POD | IPCACHE_HOST | IPCACHE_NODE)))
		return 0;
	if (to->flags & IPCACHE_LOCAL_PODS)
		return REASON_STALE_UNROUTABLE;
	if (to->flags & IPCACHE_REMOTE_PODS)
		return REASON_IDENTITY_UNKNOWN;
	return 0;
}

/* Talk of the link that ends at the host: no policy sees it, so it goes no further. */
static __always_inline int is_for_host(const struct __sk_buff *skb, const struct packet *p, const struct party *to)
{
	const __u8 *a = p->destination.b;

	return is_on_link(skb) &&
	       ((to->flags & IPCACHE_HOST) || (a[0] == 0xfe && (a[1] & 0xc0) == 0x80) || (a[0] == 0xff && a[1] == 2));
}

/* p answers a client outside whom another node balances here, with its own address:
 * the row knows who that is. */
static __always_inline int answers_world(const struct packet *p, const struct flow_key *key)
{
	struct flow_key own = *key;
	struct flow *f = bpf_map_lookup_elem(&flows, &own);

	return f && sender_side(f, p) == RESPONDER && is_world_identity(f->identity[INITIATOR]);
}

/* First packets and those of stale rows. Returns 0 when `flows` has a row for
 * key that allows p, SOLICITATION, ADVERTISEMENT, REJECT, or a drop reason. */
__global int admit_from_pod(struct __sk_buff *skb, struct packet *p, struct flow_key *key)
{
	struct opening *o = opening_new();
	struct endpoint *ep;
	int reason;

	if (!o || !p || !key)
		return REASON_INVALID_PACKET;
	if (p->protocol == PROTO_ICMP6 && p->icmp_type == ICMP6_SOLICITATION)
		return SOLICITATION;
	if (is_link_talk(p) && p->icmp_type != ICMP6_ADVERTISEMENT)
		return REASON_FORBIDDEN_ICMP6;
	party_find(&o->party[0], &p->source);
	p->endpoint = o->party[0].id;
	p->source_identity = o->party[0].identity;
	if (!o->party[0].id || o->party[0].ifindex != skb->ifindex)
		return REASON_INVALID_SOURCE_IP;
	ep = endpoint_at(o->party[0].id);
	if (!ep || !is_sender(skb, p, ep))
		return REASON_INVALID_SOURCE_MAC;
	if (!(o->party[0].flags & PARTY_READY))
		return REASON_ENDPOINT_NOT_READY;
	if (is_link_talk(p)) {
		party_find(&o->party[1], &p->destination);
		return is_for_host(skb, p, &o->party[1]) ? ADVERTISEMENT : REASON_FORBIDDEN_ICMP6;
	}
	if (p->flags & PACKET_ICMP_ERROR) {
		reason = translate_error(skb, p);
		return reason ? reason : relate(skb, p, key);
	}
	reason = translate(skb, p, key);
	if (reason)
		return reason;
	if (is_hairpin(&p->destination))
		return admit_hairpin(p, key);
	party_find(&o->party[1], &p->destination);
	if (!p->service && (o->party[1].flags & (IPCACHE_HOST | IPCACHE_NODE))) {
		reason = translate_node_port(skb, p, key);
		if (reason)
			return reason;
		if (p->service)
			party_find(&o->party[1], &p->destination);
		else if ((o->party[1].flags & IPCACHE_NODE) && answers_world(p, key))
			reason = become_world(p, &o->party[1]);
		if (reason)
			return reason;
	}
	p->destination_identity = o->party[1].identity;
	if (!p->service && is_world(&o->party[1]) && is_rest(p, SCOPE_INTERNAL))
		return REASON_NO_SERVICE_BACKEND;
	if (is_tunnelled(p) && (o->party[1].flags & (IPCACHE_HOST | IPCACHE_NODE)))
		return REASON_ENCAP_PROHIBITED;
	reason = reachable(&o->party[1]);
	if (reason == REASON_IDENTITY_UNKNOWN)
		report(skb, p, EVENT_MISS, 0);
	if (reason)
		return reason;
	if (is_hairpin(&p->source))
		o->party[0] = o->party[1]; /* to itself through its own service */
	opening_of(o, p);
	if (!o->party[1].id && !o->party[1].node)
		o->flags = FLOW_VIA_STACK;
	return admit(skb, p, key, o);
}

/* p has its row: to the pod, the node or the stack that the row names. */
static __always_inline int forward_from_pod(struct __sk_buff *skb, struct packet *p, struct flow *f, __u32 side)
{
	int reason;

	side &= 1;
	if (unlikely(f->flags & FLOW_PROXIED))
		return to_proxy(skb, p, side == INITIATOR);
	if (f->flags & FLOW_VIA_STACK)
		return to_stack(skb, p);
	if (unlikely(f->service && side == RESPONDER)) {
		reason = untranslate(skb, p, f->service, f->endpoint[INITIATOR]);
		if (reason)
			return drop(skb, p, reason);
	}
	if (f->endpoint[!side])
		return deliver(skb, p, f->endpoint[!side]);
	if (!f->node)
		return f->service ? to_uplink(skb, p) : to_stack(skb, p); /* a client outside, or the stack's own */
	p->endpoint = f->endpoint[side];
	if (is_too_big(skb, p))
		return answer_too_big(skb, p);
	if (cfg_tunnel)
		/* A pod that answers with an address of this node comes as this node. */
		return to_overlay_device(skb, p, f->node, f->service && side == RESPONDER ? IDENTITY_HOST : f->identity[side]);
	return to_uplink(skb, p);
}

/* What a pod sends. */
SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	struct packet p = { .point = POINT_FROM_POD };
	struct flow_key key;
	struct flow *f;
	__u32 side;
	int reason;

	reason = parse(skb, &p);
	if (unlikely(reason))
		return reason == PACKET_NOT_IP ? not_ip_from_pod(skb, &p) : drop(skb, &p, reason);
	if (unlikely(skb->vlan_present))
		return drop(skb, &p, REASON_UNSUPPORTED_L2); /* the tag would go along */
	if (unlikely(p.flags & PACKET_OPTIONS) && names_frontend(skb, &p))
		return drop(skb, &p, REASON_UNKNOWN_FRONTEND); /* what only nodes tell each other */
	flow_key_of(&p, &key);
	f = bpf_map_lookup_elem(&flows, &key);
	if (unlikely(!f || !is_established_from_pod(skb, &p, f))) {
		reason = admit_from_pod(skb, &p, &key);
		if (reason == SOLICITATION)
			return advertise(skb, &p);
		if (reason == ADVERTISEMENT)
			return to_stack(skb, &p);
		if (reason == REJECT)
			return reject_pod(skb, &p);
		if (reason == REASON_FLOW_NOW_REDIRECTED)
			return reset(skb, &p);
		if (reason)
			return drop(skb, &p, reason);
		f = bpf_map_lookup_elem(&flows, &key);
		if (!f)
			return drop(skb, &p, REASON_CT_INSERT_FAILED);
	}
	side = sender_side(f, &p);
	track(skb, f, &p, side);
	return forward_from_pod(skb, &p, f, side);
}

/* Established: the row holds for p, and its receiver is the pod of this device. */
static __always_inline int is_established_to_pod(struct __sk_buff *skb, const struct packet *p, const struct flow *f)
{
	__u32 side = sender_side(f, p);
	struct endpoint *ep = endpoint_at(f->endpoint[!side]);

	if (!side_current(f, !side, ep) || ep->ifindex != skb->ifindex)
		return 0;
	if (f->endpoint[side] && !side_current(f, side, endpoint_at(f->endpoint[side])))
		return 0;
	return !flow_reopens(f, p) && flow_fresh(f);
}

/* First packets that the stack sends to a pod: of the host, of the world, of
 * another pod through kube-proxy. Returns as admit_from_pod. */
__global int admit_to_pod(struct __sk_buff *skb, struct packet *p, struct flow_key *key)
{
	struct opening *o = opening_new();

	if (!o || !p || !key)
		return REASON_INVALID_PACKET;
	if (is_link_talk(p))
		return REASON_FORBIDDEN_ICMP6;
	party_find(&o->party[1], &p->destination);
	p->endpoint = o->party[1].id;
	p->destination_identity = o->party[1].identity;
	if (!o->party[1].id || o->party[1].ifindex != skb->ifindex)
		return REASON_UNKNOWN_L3_TARGET;
	if (!(o->party[1].flags & PARTY_READY))
		return REASON_ENDPOINT_NOT_READY;
	if (p->flags & PACKET_ICMP_ERROR)
		return relate(skb, p, key);
	party_find(&o->party[0], &p->source);
	opening_of(o, p);
	o->flags = FLOW_VIA_STACK;
	return admit(skb, p, key, o);
}

/* Neighbour discovery between the host and the pod stays on the veth. What the
 * host forwards for somebody else is none. */
static __always_inline int is_neighbor_discovery(const struct __sk_buff *skb, const struct packet *p)
{
	return p->protocol == PROTO_ICMP6 &&
	       (p->icmp_type == ICMP6_SOLICITATION || p->icmp_type == ICMP6_ADVERTISEMENT) && is_on_link(skb);
}

/* What the host's stack sends to a pod. */
SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	struct packet p = { .point = POINT_FROM_STACK, .ingress = 1 };
	struct flow_key key;
	struct flow *f;
	__u32 side;
	int reason;

	if (skb->mark == MARK_CHECKED) {
		skb->mark = 0;
		return TC_ACT_OK;
	}
	reason = parse(skb, &p);
	if (unlikely(reason))
		return reason == PACKET_NOT_IP ? TC_ACT_OK : drop(skb, &p, reason);
	if (is_neighbor_discovery(skb, &p))
		return TC_ACT_OK;
	see_proxy(skb, &p);
	flow_key_of(&p, &key);
	f = bpf_map_lookup_elem(&flows, &key);
	if (!f || !is_established_to_pod(skb, &p, f) || unlikely(takes_over(f, &p))) {
		reason = admit_to_pod(skb, &p, &key);
		if (reason)
			return drop(skb, &p, reason);
		f = bpf_map_lookup_elem(&flows, &key);
		if (!f)
			return drop(skb, &p, REASON_CT_INSERT_FAILED);
	}
	side = sender_side(f, &p);
	track(skb, f, &p, side);
	if (unlikely((f->flags & FLOW_PROXIED) && !(p.flags & PACKET_FROM_PROXY))) {
		if (!f->endpoint[side])
			return host_to_proxy(skb, &p);
		if (!is_of_proxy(&p))
			return drop(skb, &p, REASON_NOT_FROM_PROXY);
	}
	if (unlikely(f->service && side == RESPONDER)) {
		reason = untranslate(skb, &p, f->service, f->endpoint[INITIATOR]);
		if (reason)
			return drop(skb, &p, reason);
	}
	count(skb, REASON_FORWARDED, 1);
	trace(skb, &p, POINT_TO_POD);
	if (skb->mark)
		skb->mark = 0;
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
