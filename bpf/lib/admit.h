/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* The slow path: what becomes a flow, and what stays one.
 *
 * Rules: a row is made only after every side of this node has allowed. A packet
 * of either direction with a stale row judges the forward tuple again; denied,
 * the packet drops and the row stays stale. Generations are read before judging. */

#include "judge.h"
#include "scratch.h"
#include "track.h"

/* What judging says for a row: its side words and the shards they hang on. */
struct verdicts {
	__u64 side[2];
	__u16 shard[2];
	__u32 pad;
};

static __always_inline void opening_of(struct opening *o, const struct packet *p)
{
	o->port[0] = p->source_port;
	o->port[1] = p->destination_port;
	o->protocol = p->protocol;
	o->initiator_b = p->from_b;
}

static __always_inline void opening_turn(struct opening *o)
{
	struct party party = o->party[0];
	__be16 port = o->port[0];

	o->party[0] = o->party[1];
	o->party[1] = party;
	o->port[0] = o->port[1];
	o->port[1] = port;
	o->initiator_b ^= 1;
}

/* What policy sees as the port: the responder's, or the type that an ICMP
 * exchange began with, which the ports of the key tell (see parse_icmp). */
static __always_inline __be16 policy_port(const struct opening *o)
{
	int v6 = o->protocol == PROTO_ICMP6;

	if (o->protocol != PROTO_ICMP && !v6)
		return o->port[1];
	if (o->port[0] && !o->port[1])
		return v6 ? htons(ICMP6_ECHO) : htons(ICMP_ECHO);
	if (!o->port[0] && o->port[1])
		return v6 ? htons(ICMP6_ECHO_REPLY) : htons(ICMP_ECHO_REPLY);
	return o->port[0];
}

/* One side's verdict as a side word without generations, in *word. */
static __always_inline int judge_side(struct __sk_buff *skb, struct packet *p, const struct opening *o, __u32 side,
				      __u64 *word)
{
	const struct party *own = &o->party[side & 1], *other = &o->party[!side];
	struct question q = {};
	int reason;

	if (!own->id) {
		*word = FLOW_SIDE_ELSEWHERE;
		return 0;
	}
	p->endpoint = own->id;
	p->ingress = side;
	if (!(own->flags & PARTY_READY))
		return REASON_ENDPOINT_NOT_READY;
	*word = FLOW_SIDE_ALLOW;
	if (own->id == other->id)
		return 0; /* a pod always reaches itself */
	q.slot = side ? own->slots >> 16 : own->slots & 0xffff;
	q.peer = other->peer;
	q.port = policy_port(o);
	q.protocol = o->protocol;
	q.any_port = !o->port[0] && !o->port[1];
	reason = judge(p, &q);
	if (p->verdict == VERDICT_REDIRECT)
		*word = FLOW_SIDE_REDIRECT;
	/* An audit is told as a drop is, however little is told of what passes. */
	if (!reason && q.slot != SLOT_OPEN && (cfg_event_level || p->verdict == VERDICT_AUDIT))
		report(skb, p, EVENT_VERDICT, 0);
	return reason;
}

/* Judges both sides into v. */
__global int judge_sides(struct __sk_buff *skb, struct packet *p, const struct opening *o, const struct flow_key *key,
			 struct verdicts *v)
{
	struct generations *g = generations();
	__u64 generation[2], word[2] = {};
	__u32 sender;
	int reason;

	if (!g || !p || !o || !key || !v)
		return REASON_IDENTITY_UNKNOWN;
	sender = (o->initiator_b ^ p->from_b) & 1;
	v->shard[0] = peer_shard(o->initiator_b ? &key->b : &key->a);
	v->shard[1] = peer_shard(o->initiator_b ? &key->a : &key->b);
	generation[0] = side_generations(g, o->party[0].id, v->shard[1]);
	generation[1] = side_generations(g, o->party[1].id, v->shard[0]);
	p->source_identity = o->party[sender].identity;
	p->destination_identity = o->party[!sender].identity;
	p->generation = generation[0] & GENERATION_MASK;
	reason = judge_side(skb, p, o, INITIATOR, &word[0]);
	if (reason)
		return reason;
	p->generation = generation[1] & GENERATION_MASK;
	reason = judge_side(skb, p, o, RESPONDER, &word[1]);
	if (reason)
		return reason;
	v->side[0] = generation[0] | word[0] << SIDE_SHIFT;
	v->side[1] = generation[1] | word[1] << SIDE_SHIFT;
	return 0;
}

/* The row's endpoints are the parties of the packet: the same pods, the same incarnations. */
static __always_inline int flow_same_parties(const struct flow *f, const struct opening *o, __u32 sender)
{
	sender &= 1;
	return f->endpoint[sender] == o->party[0].id && f->incarnation[sender] == o->party[0].incarnation &&
	       f->endpoint[!sender] == o->party[1].id && f->incarnation[!sender] == o->party[1].incarnation;
}

static __always_inline int both_ready(const struct opening *o)
{
	return (!o->party[0].id || (o->party[0].flags & PARTY_READY)) &&
	       (!o->party[1].id || (o->party[1].flags & PARTY_READY));
}

/* A policy of this node decided. */
static __always_inline int is_limited(const struct opening *o)
{
	return (o->party[0].id && (o->party[0].slots & 0xffff) != SLOT_OPEN) ||
	       (o->party[1].id && o->party[1].slots >> 16 != SLOT_OPEN);
}

/* Makes the row of the key in scratch. */
__global int insert(const struct packet *p, const struct opening *o, const struct verdicts *v)
{
	struct scratch *s = scratch();
	struct flow *f;

	if (!s || !p || !o || !v)
		return REASON_CT_INSERT_FAILED;
	f = &s->row;
	__builtin_memset(f, 0, sizeof(*f));
	f->side[0] = v->side[0];
	f->side[1] = v->side[1];
	f->shard[0] = v->shard[0];
	f->shard[1] = v->shard[1];
	f->last = now();
	f->endpoint[0] = o->party[0].id;
	f->endpoint[1] = o->party[1].id;
	f->incarnation[0] = o->party[0].incarnation;
	f->incarnation[1] = o->party[1].incarnation;
	f->identity[0] = o->party[0].identity;
	f->identity[1] = o->party[1].identity;
	f->node = o->party[0].node ? o->party[0].node : o->party[1].node;
	f->flags = o->flags | (o->initiator_b & 1) * FLOW_FROM_B;
	f->service = p->service;
	return bpf_map_update_elem(&flows, &s->key, f, BPF_ANY) ? REASON_CT_INSERT_FAILED : 0;
}

/* A row that stays: places first, then each side word by one store, so that no
 * reader joins a new generation to an old verdict. */
static __always_inline void renew(struct flow *f, const struct opening *o, const struct verdicts *v)
{
	f->identity[0] = o->party[0].identity;
	f->identity[1] = o->party[1].identity;
	f->node = o->party[0].node ? o->party[0].node : o->party[1].node;
	*(volatile __u64 *)&f->side[0] = v->side[0];
	*(volatile __u64 *)&f->side[1] = v->side[1];
}

/* A TCP packet that opens nothing and has no row, after a loss of rows. */
static __always_inline int opens_nothing(const struct packet *p)
{
	return p->protocol == PROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN;
}

/* One side's policy wants the proxy. */
static __always_inline int redirects(const struct verdicts *v)
{
	return ((v->side[0] | v->side[1]) >> SIDE_SHIFT & FLOW_SIDE_REDIRECT) != 0;
}

/* A TCP packet without a row, which policy lets pass: is it the proxy's? */
static __always_inline int pick_up(struct __sk_buff *skb, const struct packet *p, struct opening *o, const struct verdicts *v)
{
	if (p->flags & PACKET_FROM_PROXY)
		return 0;
	if (proxy_holds(skb, p)) {
		o->flags |= FLOW_PROXIED;
		return 0;
	}
	return redirects(v) ? REASON_FLOW_NOW_REDIRECTED : 0;
}

enum {
	ANEW = -31, /* the packet opens a connection: it gets another row */
};

/* The row was direct, and now is the proxy's. Datagrams move; the ends of a
 * connection cannot, so both are reset and it counts as ended. */
static __always_inline int move(struct flow *f, const struct packet *p)
{
	int syn = p->protocol == PROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;

	if (syn)
		return p->flags & PACKET_FROM_PROXY ? REASON_NOT_OF_PROXY : ANEW;
	if (p->protocol != PROTO_TCP || (p->flags & PACKET_FROM_PROXY)) {
		f->flags |= FLOW_PROXIED;
		return 0;
	}
	f->tcp[0] |= TCP_RST;
	f->flags |= FLOW_CLOSING;
	return REASON_FLOW_NOW_REDIRECTED;
}

/* Admits p, whose sender is party 0 of o. Returns 0 when `flows` has a row for
 * key that allows it, or a drop reason. */
__global int admit(struct __sk_buff *skb, struct packet *p, struct flow_key *key, struct opening *o)
{
	struct scratch *s = scratch();
	struct verdicts v = {};
	struct flow *known;
	int reason, keep = 0;

	if (!s || !p || !key || !o)
		return REASON_INVALID_PACKET;
	s->key = *key;
	known = bpf_map_lookup_elem(&flows, &s->key);
	if (known && !flow_reopens(known, p))
		keep = flow_same_parties(known, o, sender_side(known, p));
	if (keep && known && both_ready(o) && flow_fresh(known) && !takes_over(known, p))
		return 0; /* nothing has changed: its packets only take this way, as translated ones do */
	if (keep && known && sender_side(known, p) == RESPONDER)
		opening_turn(o);
	if (o->initiator_b != p->from_b)
		p->flags |= PACKET_REPLY;
	reason = judge_sides(skb, p, o, key, &v);
	if (!keep && opens_nothing(p)) {
		o->flags |= FLOW_PICKED_UP;
		if (reason) { /* perhaps the other side opened it */
			opening_turn(o);
			if (!judge_sides(skb, p, o, key, &v))
				reason = 0;
		}
		if (!reason)
			reason = pick_up(skb, p, o, &v);
	}
	if (!reason && keep && known && !(known->flags & FLOW_PROXIED) && (redirects(&v) || takes_over(known, p)))
		reason = move(known, p);
	if (reason == ANEW)
		reason = keep = 0;
	/* No socket can be assigned on the way out. */
	if (!reason && !keep && redirects(&v) && p->point == POINT_FROM_STACK && !(o->flags & FLOW_PROXIED))
		reason = REASON_PROXY_FROM_STACK;
	if (reason == REASON_IDENTITY_UNKNOWN)
		report(skb, p, EVENT_MISS, 0);
	if (reason) {
		/* A denied flow keeps its row: it remembers who opened. Without it the
		 * next packet could pass as the reply to a flow of the other side. */
		if (known && !keep)
			bpf_map_delete_elem(&flows, &s->key);
		return reason;
	}
	if (keep && known) {
		renew(known, o, &v);
		return 0;
	}
	if (redirects(&v) || (p->flags & PACKET_FROM_PROXY))
		o->flags |= FLOW_PROXIED;
	reason = insert(p, o, &v);
	if (!reason && cfg_event_level && !is_limited(o))
		report(skb, p, EVENT_TRACE, 0); /* no verdict told of this connection */
	return reason;
}
