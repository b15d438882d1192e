/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Flow rows: keys, freshness, counting. What may enter a row is in admit.h. */

#include "flow.h"
#include "packet.h"
#include "party.h"
#include "policy.h"

enum {
	INITIATOR = 0,
	RESPONDER = 1,
	GENERATION_MASK = 0xffffff,
	SIDE_SHIFT = 48, /* of FLOW_SIDE_* in a side word */
};

static __always_inline __u32 now(void)
{
	return bpf_jiffies64();
}

/* Compares addresses and ports as bytes. */
static __always_inline int tuple_after(const struct addr *a, __be16 port_a, const struct addr *b, __be16 port_b)
{
	if (addr_high(a) != addr_high(b))
		return be64_to_host(addr_high(a)) > be64_to_host(addr_high(b));
	if (addr_low(a) != addr_low(b))
		return be64_to_host(addr_low(a)) > be64_to_host(addr_low(b));
	return ntohs(port_a) > ntohs(port_b);
}

/* The canonical key of p; says in p whether the sender is its b. */
static __always_inline void flow_key_of(struct packet *p, struct flow_key *key)
{
	p->from_b = tuple_after(&p->source, p->source_port, &p->destination, p->destination_port);
	if (p->from_b) {
		key->a = p->destination;
		key->b = p->source;
		key->port_a = p->destination_port;
		key->port_b = p->source_port;
	} else {
		key->a = p->source;
		key->b = p->destination;
		key->port_a = p->source_port;
		key->port_b = p->destination_port;
	}
	key->protocol = p->protocol;
	key->leg = LEG_DIRECT;
	key->pad = 0;
}

/* INITIATOR or RESPONDER: the side of the flow that sent p. */
static __always_inline __u32 sender_side(const struct flow *f, const struct packet *p)
{
	__u32 side = f->flags / FLOW_FROM_B ^ p->from_b; /* without a branch */

	barrier_var(side); /* the verifier of 6.1 forgets the bounds at the ^: they come after it */
	return side & 1;
}

/* Pure SYN of a new connection on the ports of one that has ended. The proxy opens
 * its own to the server when its client's may have ended already. */
static __always_inline int flow_reopens(const struct flow *f, const struct packet *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && ((f->tcp[0] | f->tcp[1]) & (TCP_FIN | TCP_RST)) &&
	       !(p->flags & PACKET_FROM_PROXY);
}

static __always_inline struct generations *generations(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&policy_gens, &zero);
}

/* Generations of one side: its endpoint's, and those of whoever has the other address. */
static __always_inline __u64 side_generations(const struct generations *g, __u32 endpoint, __u32 shard)
{
	return (__u64)(g->endpoint[endpoint & (GENERATIONS_MAX - 1)] & GENERATION_MASK) |
	       (__u64)(g->peer[shard & (GENERATIONS_MAX - 1)] & GENERATION_MASK) << 24;
}

/* Both verdicts still hold. A row only exists while both allow. */
static __always_inline int flow_fresh(const struct flow *f)
{
	struct generations *g = generations();
	__u64 stale;

	if (!g)
		return 0;
	stale = f->side[INITIATOR] ^ side_generations(g, f->endpoint[INITIATOR], f->shard[RESPONDER]);
	stale |= f->side[RESPONDER] ^ side_generations(g, f->endpoint[RESPONDER], f->shard[INITIATOR]);
	return !(stale << (64 - SIDE_SHIFT));
}

/* The endpoint of a side is still the one the row was made for. Its addresses
 * are those of the key then, because an incarnation never changes addresses. */
static __always_inline int side_current(const struct flow *f, __u32 side, const struct endpoint *ep)
{
	return ep && ep->incarnation == f->incarnation[side & 1] && (ep->flags & ENDPOINT_READY);
}

static __always_inline void track(const struct __sk_buff *skb, struct flow *f, struct packet *p, __u32 side)
{
	__u32 jiffies = now();
	__u8 seen;

	side &= 1;
	if (cfg_event_level >= 2) { /* every packet is reported */
		p->source_identity = f->identity[side];
		p->destination_identity = f->identity[!side];
		p->flags |= side ? PACKET_REPLY : 0;
	}
	if (p->flags & PACKET_RELATED)
		return;
	if (f->last != jiffies)
		f->last = jiffies;
	seen = f->tcp[side];
	if ((seen | p->tcp_flags) != seen) {
		f->tcp[side] = seen | p->tcp_flags;
		if ((p->tcp_flags & TCP_RST) || (f->tcp[0] & f->tcp[1] & TCP_FIN))
			f->flags |= FLOW_CLOSING;
	}
	if (side && !(f->flags & FLOW_REPLIED))
		f->flags |= FLOW_REPLIED;
	if (p->flags & PACKET_FROM_PROXY)
		return; /* counted once, as it came to the proxy */
	f->packets[side]++;
	f->bytes[side] += skb->len;
}
