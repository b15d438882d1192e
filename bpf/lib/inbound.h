/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Clients outside, for services: what comes in from the network gets a backend.
 *
 * The row in service_flows, keyed by the tuple that the client uses, remembers it.
 * A pod of this node sees the client's address, and its answers leave by the
 * uplink. A backend elsewhere sees this node's address (an inward row of `nat` leads
 * its answers back), unless the service says DSR (direct.h). */

#include "choose.h"
#include "direct.h"
#include "masquerade.h"

/* The client may use the service. */
static __always_inline int may_use(const struct packet *p, const struct service *s)
{
	struct source_range key = { .prefixlen = 32 + 128 };
	int listed;

	if (!(s->flags & (SERVICE_SOURCE_ALLOW | SERVICE_SOURCE_DENY)))
		return 1;
	key.service = s->id;
	__builtin_memcpy(key.addr, &p->source, sizeof(key.addr));
	listed = bpf_map_lookup_elem(&source_ranges, &key) != NULL;
	return s->flags & SERVICE_SOURCE_ALLOW ? listed : !listed;
}

/* Only other nodes' packets and the world's come in by an uplink. With a tunnel,
 * pods' packets do not: such a source is forged. */
static __always_inline int is_forged(const struct party *from)
{
	if (from->id || (from->flags & (IPCACHE_HOST | IPCACHE_LOCAL_PODS)))
		return 1;
	return cfg_tunnel && (from->flags & (IPCACHE_POD | IPCACHE_REMOTE_PODS));
}

/* The known translation still holds for p. */
static __always_inline int holds(const struct packet *p, const struct service_flow *known)
{
	if (!opens(p))
		return 1;
	return !(known->tcp & (TCP_FIN | TCP_RST)) && backend_stands(known);
}

/* Chooses a backend for the first packet of a connection. */
static __always_inline int choose_first(const struct packet *p, const struct scratch *space)
{
	if (!service_of(p, SCOPE_EXTERNAL, 0))
		return is_rest(p, SCOPE_EXTERNAL) ? REASON_NO_SERVICE_BACKEND : NO_SERVICE;
	if (!may_use(p, &space->service))
		return REASON_NOT_IN_SOURCE_RANGE;
	if (!space->service.count && (space->service.flags & SERVICE_LOCAL))
		return REASON_NO_SERVICE_BACKEND; /* another node has one: silence makes the network try it */
	return choose(p);
}

/* Where p, which came in from the network, goes: 0 with `to` in scratch, NO_SERVICE,
 * REJECT or a drop reason. Leaves the key of the row in scratch. */
__global int inbound_to(struct packet *p)
{
	struct scratch *space = scratch();
	struct service_flow *known, *to;
	int reason;

	if (!space || !p)
		return NO_SERVICE;
	flow_key_of(p, &space->service_key);
	space->service_key.leg = LEG_SERVICE;
	space->asked = p->destination;
	space->asked_port = p->destination_port;
	to = &space->to;
	known = bpf_map_lookup_elem(&service_flows, &space->service_key);
	if (known && holds(p, known)) {
		known->last = bpf_jiffies64();
		if ((known->tcp | p->tcp_flags) != known->tcp)
			known->tcp |= p->tcp_flags;
		*to = *known;
		return 0;
	}
	reason = choose_first(p, space);
	if (reason)
		return reason;
	party_find(&space->opening.party[0], &p->source);
	if (is_forged(&space->opening.party[0]))
		return REASON_UNKNOWN_SENDER;
	to->place = place_of(&to->addr, space->service.flags & SERVICE_DSR);
	to->last = bpf_jiffies64();
	to->tcp = p->tcp_flags;
	return bpf_map_update_elem(&service_flows, &space->service_key, to, BPF_ANY) ? REASON_CT_INSERT_FAILED : 0;
}

/* The inward row of a port leads back to the client of p. */
static __always_inline int snat_stands(const struct packet *p, const struct service_flow *to, const struct addr *own)
{
	struct nat_entry *back;
	struct nat_key in = {};

	if (!to->snat_port)
		return 0;
	in.remote = to->addr;
	in.local = *own;
	in.remote_port = to->port;
	in.local_port = to->snat_port;
	in.protocol = p->protocol;
	in.direction = NAT_IN;
	back = bpf_map_lookup_elem(&nat, &in);
	if (!back || back->service != to->service || back->port != p->source_port || !addr_equal(&back->addr, &p->source))
		return 0;
	back->last = to->last;
	return 1;
}

/* Gives p this node's address and the backend's. any_port: p goes through the
 * tunnel, so every port above the NodePorts will do. */
__global int snat(struct __sk_buff *skb, struct packet *p, __u32 any_port)
{
	struct scratch *space = scratch();
	struct nat_entry mapping = {};
	struct service_flow *to;
	struct nat_key out = {};
	int reason;

	if (!space || !p)
		return REASON_NAT_NO_MAPPING;
	to = &space->to;
	if (!any_port && cfg_tunnel && p->protocol == PROTO_UDP && to->port == htons(cfg_tunnel_port))
		return REASON_ENCAP_PROHIBITED; /* the backend would take this node for the sender */
	masquerade_addr(p, &mapping.addr);
	if (!snat_stands(p, to, &mapping.addr)) {
		out.remote = to->addr;
		out.local = p->source;
		out.remote_port = to->port;
		out.local_port = p->source_port;
		out.protocol = p->protocol;
		mapping.service = to->service;
		mapping.last = to->last;
		mapping.flags = any_port ? NAT_ANY_PORT : 0;
		reason = take_port(skb, &out, &mapping);
		if (reason)
			return reason;
		to->snat_port = mapping.port;
		bpf_map_update_elem(&service_flows, &space->service_key, to, BPF_ANY);
	}
	reason = rewrite(skb, p, &mapping.addr, to->snat_port, 0);
	return reason ? reason : rewrite(skb, p, &to->addr, to->port, 1);
}

/* Not 0: this host itself serves clients outside, so its packets may be answers
 * that need the service's address. Written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} host_serves SEC(".maps");

static __always_inline void host_key_of(const struct packet *p, struct nat_key *key, __u32 client_is_source)
{
	nat_key_of(p, key, client_is_source ? NAT_IN : NAT_OUT);
	key->direction = NAT_HOST;
}

/* Gives p the address of this host's own backend, and remembers what the client asked for. */
__global int to_own_host(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *space = scratch();
	struct service_flow *to;
	struct nat_entry row = {};
	struct nat_key key;
	__u32 zero = 0;
	__u32 *gate = bpf_map_lookup_elem(&host_serves, &zero);
	int reason;

	if (!p || !space || !gate)
		return REASON_NAT_NO_MAPPING;
	to = &space->to;
	row.addr = space->asked;
	row.port = space->asked_port;
	row.service = to->service;
	row.last = to->last;
	row.tcp = p->tcp_flags;
	reason = rewrite(skb, p, &to->addr, to->port, 1);
	if (reason)
		return reason;
	p->service = to->service;
	host_key_of(p, &key, 1);
	if (bpf_map_update_elem(&nat, &key, &row, BPF_ANY))
		return REASON_NAT_NO_MAPPING;
	if (!*gate)
		*gate = 1;
	return 0;
}

/* p is of this host: an answer to a client outside gets the address that the client knows. */
__global int from_own_host(struct __sk_buff *skb, struct packet *p)
{
	struct nat_entry *known;
	struct nat_entry row;
	struct nat_key key;

	if (!p)
		return 0;
	host_key_of(p, &key, 0);
	known = bpf_map_lookup_elem(&nat, &key);
	if (!known)
		return 0;
	known->last = bpf_jiffies64();
	row = *known;
	p->service = row.service;
	return rewrite(skb, p, &row.addr, row.port, 0);
}

static __always_inline int host_has_clients(void)
{
	__u32 zero = 0;
	__u32 *gate = bpf_map_lookup_elem(&host_serves, &zero);

	return cfg_services && gate && *gate;
}

/* Gives p, and the answer that it is about, the addresses that the backend knows. */
static __always_inline int error_to_backend(struct __sk_buff *skb, struct packet *p, struct scratch *space)
{
	const struct service_flow *to = &space->to;
	int reason;

	reason = rewrite_inner(skb, p, &space->inner, &to->addr, INNER_SOURCE(to->port));
	if (!reason && to->place == BACKEND_ELSEWHERE && to->snat_port) {
		masquerade_addr(p, &space->asked);
		reason = rewrite_inner(skb, p, &space->inner, &space->asked, INNER_DESTINATION(to->snat_port));
	}
	return reason ? reason : rewrite(skb, p, &to->addr, p->destination_port, 1);
}
