/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Telling the agent: drops, verdicts, traces, misses. */

#include "config.h"
#include "event.h"
#include "metric.h"
#include "packet.h"

enum {
	EVENT_BACKLOG = 64 << 10, /* bytes; the reader is woken when the backlog crosses them */
};

static __always_inline void event_submit(struct event *e)
{
	__u64 backlog = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);

	/* Once per crossing: waking a reader costs 12 us, so never for every event. */
	bpf_ringbuf_submit(e, backlog - EVENT_BACKLOG < sizeof(*e) + 8 ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

/* One event about p. The sequence counts also what the ring had no room for. */
__global int report(struct __sk_buff *skb, struct packet *p, __u32 type, __u32 reason)
{
	__u32 zero = 0;
	__u64 *sequence = bpf_map_lookup_elem(&event_sequence, &zero);
	struct event *e;

	if (!sequence || !p)
		return 0;
	++*sequence;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e)
		return 0;
	e->time = bpf_ktime_get_ns();
	e->sequence = *sequence;
	e->source = p->source;
	e->destination = p->destination;
	e->source_port = p->source_port;
	e->destination_port = p->destination_port;
	if (p->protocol == PROTO_ICMP || p->protocol == PROTO_ICMP6) {
		e->source_port = htons(p->icmp_type << 8 | p->icmp_code);
		e->destination_port = 0;
	}
	e->type = type;
	e->reason = reason;
	e->verdict = p->verdict;
	e->point = p->point;
	e->protocol = p->protocol;
	e->tcp_flags = p->tcp_flags;
	e->ingress = p->ingress;
	e->flags = p->flags & PACKET_IPV6 ? EVENT_F_IPV6 : 0;
	if (p->flags & PACKET_REPLY)
		e->flags |= EVENT_F_REPLY;
	e->source_identity = p->source_identity;
	e->destination_identity = p->destination_identity;
	e->peer = p->peer;
	e->endpoint = p->endpoint;
	e->slot = p->slot;
	e->set = p->set;
	e->row = p->row;
	e->cpu = bpf_get_smp_processor_id();
	e->service = p->service;
	e->ifindex = skb->ifindex;
	e->length = skb->len;
	e->generation = p->generation;
	event_submit(e);
	return 0;
}

/* The only way to drop: counts exactly, tells why. */
__global int drop(struct __sk_buff *skb, struct packet *p, __u32 reason)
{
	if (!p)
		return TC_ACT_SHOT;
	count(skb, reason, p->ingress);
	report(skb, p, EVENT_DROP, reason);
	return TC_ACT_SHOT;
}

static __always_inline void trace(struct __sk_buff *skb, struct packet *p, __u8 point)
{
	if (cfg_event_level < 2)
		return;
	p->point = point;
	report(skb, p, EVENT_TRACE, 0);
}
