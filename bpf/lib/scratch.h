/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* What does not fit on the stack: 512 bytes are all that a chain of calls has.
 * Only the slow path uses it. */

#include "flow.h"
#include "nat.h"
#include "party.h"
#include "service.h"
#include "service_flow.h"

/* A connection as seen from the packet in hand: party 0 opened, or would have. */
struct opening {
	struct party party[2];
	__be16 port[2];
	__u8 protocol;
	__u8 initiator_b; /* party 0 is b of the flow key */
	__u16 flags;      /* FLOW_* of a new row */
};

struct scratch {
	struct opening opening;      /* of an admit_* function */
	struct flow_key key;         /* of a lookup in `flows`: a key from elsewhere is copied here */
	struct flow_key service_key; /* of a lookup in `service_flows` */
	struct flow row;             /* to be inserted */
	struct service service;      /* that the packet in hand is for */
	struct service_flow to;      /* its backend */
	struct affinity_key client;
	struct addr asked; /* address and port that were asked for a service */
	__be16 asked_port;
	__u16 pad[3];
	struct service_flow answer;
	struct nat_key inward;       /* row of a mapping that is to be made */
	struct nat_entry inward_row;
	struct packet inner;         /* another packet than the one in hand */
};

/* One row a CPU: programs of a device run to their end before another one starts there. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch_rows SEC(".maps");

static __always_inline struct scratch *scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch_rows, &zero);
}

/* An empty opening, NULL never in fact. */
static __always_inline struct opening *opening_new(void)
{
	struct scratch *s = scratch();

	if (!s)
		return NULL;
	__builtin_memset(&s->opening, 0, sizeof(s->opening));
	return &s->opening;
}

/* An empty packet for what is not in hand. */
static __always_inline struct packet *packet_new(struct scratch *s)
{
	__builtin_memset(&s->inner, 0, sizeof(s->inner));
	return &s->inner;
}
