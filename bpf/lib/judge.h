/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Asking policy: two arrays and, if the cell does not say it all, one LPM. */

#include "packet.h"
#include "policy.h"
#include "proxy.h"
#include "report.h"

struct question {
	__u32 slot; /* of the endpoint's direction */
	__u32 peer;
	__be16 port; /* ICMP: type */
	__u8 protocol;
	__u8 any_port; /* a fragment without ports: only rules for all ports apply */
};

static __always_inline __u32 class_of(__u32 peer)
{
	__u32 *class = bpf_map_lookup_elem(&peers, &peer);

	return class ? *class : CLASS_UNKNOWN;
}

/* The cell of (class, slot). Whatever is missing denies. */
static __always_inline __u32 cell_of(__u32 class, __u32 slot)
{
	__u32 bank = class / CLASS_BANK, index = class % CLASS_BANK;
	void *rows = bpf_map_lookup_elem(&classes, &bank);
	struct class_row *row;

	if (!rows || slot >= SLOTS_MAX)
		return SET_DENY;
	row = bpf_map_lookup_elem(rows, &index);
	return row ? row->set[slot & (SLOTS_MAX - 1)] : SET_DENY;
}

/* Returns 0 for yes or a drop reason; leaves in p what the event names. */
__global int judge(struct packet *p, const struct question *q)
{
	struct set_key key = {};
	struct set_entry *entry;
	__u32 set, class;
	int reason;

	if (!p || !q)
		return REASON_INVALID_PACKET;
	class = class_of(q->peer);
	set = q->slot == SLOT_OPEN ? SET_ALLOW : cell_of(class, q->slot);
	p->peer = q->peer;
	p->slot = q->slot;
	p->set = set;
	p->row = 0;
	p->verdict = VERDICT_DENY;
	if (set == SET_ALLOW) {
		p->verdict = VERDICT_ALLOW;
		return 0;
	}
	if (set != SET_DENY) {
		key.prefixlen = q->any_port ? PREFIX_PROTOCOL : PREFIX_PORT;
		key.set = set;
		key.protocol = q->protocol;
		key.port = q->port;
		entry = bpf_map_lookup_elem(&sets, &key);
		if (entry) {
			p->row = entry->row;
			p->verdict = entry->verdict;
		}
	}
	if (p->verdict == VERDICT_ALLOW || p->verdict == VERDICT_AUDIT)
		return 0;
	if (p->verdict == VERDICT_REDIRECT) {
		reason = redirectable(p);
		if (reason)
			p->verdict = VERDICT_DENY;
		else if (p->flags & PACKET_FROM_PROXY)
			p->verdict = VERDICT_ALLOW;
		return reason;
	}
	p->verdict = VERDICT_DENY;
	if (class == CLASS_UNKNOWN || class == CLASS_UNRESOLVED)
		return REASON_IDENTITY_UNKNOWN;
	return q->any_port ? REASON_FRAG_FIRST_MISSING : REASON_POLICY_DENIED;
}
