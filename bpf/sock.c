/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Services at the socket: translated once per connection, free for each packet.
 * One path for both families: an IPv4 address is a mapped one here, as it is for
 * an IPv6 socket that speaks IPv4. */

#include "lib/config.h"
#include "lib/node.h"
#include "lib/service.h"
#include "lib/socket.h"

enum {
	REFUSE = 0,
	PASS = 1,
	PROTO_TCP = 6,
};

/* State of the choice of backends; a lost update only repeats a number. */
__u32 xorshift = 2463534242;

static __always_inline __u32 random(void)
{
	__u32 x = xorshift;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	xorshift = x;
	return x;
}

static __always_inline void read_addr(const struct bpf_sock_addr *ctx, int six, struct addr *a)
{
	__u32 *w = (__u32 *)a;

	if (!six) {
		addr_set4(a, ctx->user_ip4);
		return;
	}
	w[0] = ctx->user_ip6[0];
	w[1] = ctx->user_ip6[1];
	w[2] = ctx->user_ip6[2];
	w[3] = ctx->user_ip6[3];
}

static __always_inline void write_addr(struct bpf_sock_addr *ctx, int six, const struct addr *a, __be16 port)
{
	ctx->user_port = port;
	if (!six) {
		ctx->user_ip4 = addr_word(a, 3);
		return;
	}
	ctx->user_ip6[0] = addr_word(a, 0);
	ctx->user_ip6[1] = addr_word(a, 1);
	ctx->user_ip6[2] = addr_word(a, 2);
	ctx->user_ip6[3] = addr_word(a, 3);
}

static __always_inline int is_node_port(__be16 port)
{
	__u16 number = ntohs(port);

	return cfg_services && number >= cfg_node_port_min && number <= cfg_node_port_max;
}

static __always_inline int in_host(void *ctx)
{
	return bpf_get_netns_cookie(ctx) == cfg_host_netns;
}

/* 127.0.0.0/8 or ::1. */
static __always_inline int is_loopback(const struct addr *a)
{
	if (addr_is4(a))
		return (addr_word(a, 3) & htonl(0xff000000)) == htonl(0x7f000000);
	return !addr_high(a) && addr_low(a) == be64_to_host(1ULL);
}

/* The NodePort at vip, which has no row of its own: NodePorts are the same at
 * every address of every node, and at the host's loopback for the host. With
 * traffic policy Local another node's are left to it. */
static __always_inline struct service *node_port(void *ctx, const struct service_key *vip)
{
	struct service_key any = {};
	struct service *s;
	int loopback;

	if (!is_node_port(vip->port))
		return NULL;
	loopback = is_loopback(&vip->vip);
	if (loopback) {
		if (!in_host(ctx))
			return NULL;
	} else if (!bpf_map_lookup_elem(&node_addrs, &vip->vip)) {
		return NULL;
	}
	if (addr_is4(&vip->vip))
		addr_set4(&any.vip, 0);
	any.port = vip->port;
	any.protocol = vip->protocol;
	s = bpf_map_lookup_elem(&services, &any);
	return s && (s->flags & SERVICE_LOCAL) && !loopback ? NULL : s;
}

/* Nothing is at this port of a virtual address. */
static __always_inline int is_rest(const struct service_key *vip)
{
	struct service_key rest = {};

	rest.vip = vip->vip;
	return cfg_services && bpf_map_lookup_elem(&services, &rest) != NULL;
}

/* The socket's pod is left alone: it is a backend of the redirect of this address,
 * or the address is its own loopback. */
static __always_inline int is_skipped(void *ctx, const struct service *s, const struct service_key *vip)
{
	struct service_skip key = {};

	if (s->flags & SERVICE_LOOPBACK)
		return !in_host(ctx);
	key.vip = vip->vip;
	key.netns = bpf_get_netns_cookie(ctx);
	key.port = vip->port;
	key.protocol = vip->protocol;
	return bpf_map_lookup_elem(&service_skips, &key) != NULL;
}

static __always_inline __u32 any_of(__u32 first, __u32 count)
{
	__u32 index = first + (__u32)(((__u64)random() * count) >> 32);
	struct service_slot *slot = bpf_map_lookup_elem(&service_slots, &index);

	return slot ? slot->backend : 0;
}

static __always_inline __u32 any_backend(const struct service *s)
{
	return any_of(s->first, s->count);
}

/* A backend by the hint of the address; 0: `services` has to be asked. */
static __always_inline __u32 hinted_backend(const struct service_key *vip)
{
	__u32 row = service_hint_row(vip);
	__u64 *hint = bpf_map_lookup_elem(&service_hints, &row);
	struct service_vip *whose;
	__u64 h;
	__u32 id;

	if (!hint)
		return 0;
	h = *(volatile __u64 *)hint;
	id = h & ((1 << HINT_ID_BITS) - 1);
	whose = bpf_map_lookup_elem(&service_vips, &id);
	if (!whose || whose->port != vip->port || whose->protocol != vip->protocol || !addr_equal(&whose->vip, &vip->vip))
		return 0;
	return any_of(h >> HINT_ID_BITS & ((1 << HINT_FIRST_BITS) - 1), h >> (HINT_ID_BITS + HINT_FIRST_BITS));
}

/* The backend that this network namespace has already, or a new one for a while. */
static __always_inline __u32 sticky_backend(void *ctx, const struct service *s)
{
	struct affinity_backend member = { .service = s->id };
	struct affinity_key client = { .service = s->id, .is_cookie = 1 };
	struct affinity *known;
	struct affinity row;
	__u32 now = bpf_jiffies64();

	*(__u64 *)&client.client = bpf_get_netns_cookie(ctx);
	known = bpf_map_lookup_elem(&affinities, &client);
	if (known && now - known->last <= s->affinity * cfg_hz) {
		member.backend = known->backend;
		if (bpf_map_lookup_elem(&affinity_backends, &member)) {
			known->last = now;
			return member.backend;
		}
	}
	row.backend = any_backend(s);
	row.last = now;
	bpf_map_update_elem(&affinities, &client, &row, BPF_ANY);
	return row.backend;
}

/* A backend for the address in ctx, which is left in vip, and its row. Returns PASS with
 * *chosen NULL for what is no service, REFUSE for a service without backends. */
static __always_inline int choose(struct bpf_sock_addr *ctx, int six, struct service_key *vip, struct backend **chosen,
				  __u32 *row)
{
	struct service *s;
	__u32 id = 0;

	*chosen = NULL;
	if (cfg_host_sockets && !in_host(ctx))
		return PASS;
	read_addr(ctx, six, &vip->vip);
	vip->port = ctx->user_port;
	vip->protocol = ctx->protocol;
	id = hinted_backend(vip);
	if (id)
		goto chosen;
	s = bpf_map_lookup_elem(&services, vip);
	if (!s) {
		s = node_port(ctx, vip);
		if (!s && is_rest(vip))
			goto refuse;
		if (!s)
			return PASS;
	}
	if ((s->flags & (SERVICE_SKIPPED | SERVICE_LOOPBACK)) && is_skipped(ctx, s, vip))
		return PASS;
	if (s->count)
		id = s->affinity ? sticky_backend(ctx, s) : any_backend(s);
	if (!id)
		goto refuse;
chosen:
	*row = id;
	*chosen = bpf_map_lookup_elem(&backends, &id);
	if (*chosen)
		return PASS;
refuse:
	bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

/* The row of a TCP socket, which may still be another one's. */
static __always_inline struct socket_row *socket_row(__u64 cookie)
{
	__u32 index = cookie & (SOCKET_ROWS - 1);

	return bpf_map_lookup_elem(&socket_rows, &index);
}

static __always_inline void remember_tcp(struct bpf_sock_addr *ctx, const struct service_key *vip, __u32 backend)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct socket_row *row = socket_row(cookie);

	if (!row)
		return;
	row->cookie = cookie;
	row->vip = vip->vip;
	row->vip_port = vip->port;
	row->backend = backend;
}

static __always_inline void remember_udp(struct bpf_sock_addr *ctx, const struct service_key *vip, const struct backend *b)
{
	struct socket_peer *peer;

	peer = bpf_sk_storage_get(&socket_peers, (void *)ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!peer)
		return;
	peer->backend = b->addr;
	peer->vip = vip->vip;
	peer->backend_port = b->port;
	peer->vip_port = vip->port;
}

static __always_inline int connect(struct bpf_sock_addr *ctx, int six)
{
	struct service_key vip = {};
	struct backend *b;
	__u32 id = 0;
	int verdict = choose(ctx, six, &vip, &b, &id);

	if (!b)
		return verdict;
	if (ctx->protocol == PROTO_TCP)
		remember_tcp(ctx, &vip, id);
	else
		remember_udp(ctx, &vip, b);
	write_addr(ctx, six, &b->addr, b->port);
	return PASS;
}

static __always_inline int sendmsg(struct bpf_sock_addr *ctx, int six)
{
	struct service_key vip = {};
	struct socket_key key = {};
	struct socket_vip value = {};
	struct socket_vip *known;
	struct backend *b;
	__u32 id = 0;
	int verdict = choose(ctx, six, &vip, &b, &id);

	if (!b)
		return verdict;
	key.cookie = bpf_get_socket_cookie(ctx);
	key.backend = b->addr;
	key.port = b->port;
	value.vip = vip.vip;
	value.port = vip.port;
	known = bpf_map_lookup_elem(&socket_vips, &key);
	if (!known || known->port != vip.port || !addr_equal(&known->vip, &vip.vip))
		bpf_map_update_elem(&socket_vips, &key, &value, BPF_ANY);
	write_addr(ctx, six, &b->addr, b->port);
	return PASS;
}

/* Gives back what the program asked for, if the address in ctx is the backend's that
 * the socket was connected to. */
static __always_inline int reverse_udp(struct bpf_sock_addr *ctx, int six)
{
	struct socket_peer *peer = bpf_sk_storage_get(&socket_peers, (void *)ctx->sk, NULL, 0);
	struct socket_key key = {};
	struct socket_vip *known;

	read_addr(ctx, six, &key.backend);
	key.port = ctx->user_port;
	if (peer && peer->backend_port == key.port && addr_equal(&peer->backend, &key.backend)) {
		write_addr(ctx, six, &peer->vip, peer->vip_port);
		return PASS;
	}
	key.cookie = bpf_get_socket_cookie(ctx);
	known = bpf_map_lookup_elem(&socket_vips, &key);
	if (known)
		write_addr(ctx, six, &known->vip, known->port);
	return PASS;
}

static __always_inline int reverse_tcp(struct bpf_sock_addr *ctx, int six)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct socket_row *row = socket_row(cookie);
	struct backend *b;
	struct addr now;

	if (!row || row->cookie != cookie)
		return PASS;
	b = bpf_map_lookup_elem(&backends, &row->backend);
	read_addr(ctx, six, &now);
	if (b && b->port == ctx->user_port && addr_equal(&b->addr, &now))
		write_addr(ctx, six, &row->vip, row->vip_port);
	return PASS;
}

static __always_inline int getpeername(struct bpf_sock_addr *ctx, int six)
{
	if (ctx->protocol == PROTO_TCP)
		return reverse_tcp(ctx, six);
	return reverse_udp(ctx, six);
}

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *ctx)
{
	return connect(ctx, 0);
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *ctx)
{
	return connect(ctx, 1);
}

SEC("cgroup/sendmsg4")
int sock_sendmsg4(struct bpf_sock_addr *ctx)
{
	return sendmsg(ctx, 0);
}

SEC("cgroup/sendmsg6")
int sock_sendmsg6(struct bpf_sock_addr *ctx)
{
	return sendmsg(ctx, 1);
}

SEC("cgroup/recvmsg4")
int sock_recvmsg4(struct bpf_sock_addr *ctx)
{
	return reverse_udp(ctx, 0);
}

SEC("cgroup/recvmsg6")
int sock_recvmsg6(struct bpf_sock_addr *ctx)
{
	return reverse_udp(ctx, 1);
}

SEC("cgroup/getpeername4")
int sock_getpeername4(struct bpf_sock_addr *ctx)
{
	return getpeername(ctx, 0);
}

SEC("cgroup/getpeername6")
int sock_getpeername6(struct bpf_sock_addr *ctx)
{
	return getpeername(ctx, 1);
}

/* The host's own programs leave the NodePorts alone: a connection to one would
 * never reach them. */
static __always_inline int may_bind(struct bpf_sock *ctx, int six)
{
	struct service_key any = {};

	if (!cfg_bind_protection || ctx->src_port < cfg_node_port_min || ctx->src_port > cfg_node_port_max || !in_host(ctx))
		return PASS;
	any.port = htons((__u16)ctx->src_port);
	any.protocol = ctx->protocol;
	if (six && bpf_map_lookup_elem(&services, &any))
		return REFUSE;
	addr_set4(&any.vip, 0);
	return bpf_map_lookup_elem(&services, &any) ? REFUSE : PASS;
}

SEC("cgroup/post_bind4")
int sock_post_bind4(struct bpf_sock *ctx)
{
	return may_bind(ctx, 0);
}

SEC("cgroup/post_bind6")
int sock_post_bind6(struct bpf_sock *ctx)
{
	return may_bind(ctx, 1);
}

char _license[] SEC("license") = "Dual BSD/GPL";
