/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Lists the translations of connected UDP sockets, of all network namespaces, as
 * rows of struct stored_row: the agent closes those whose backend has gone. */

#include "lib/socket.h"

/* What the kernel gives to an iterator over a storage of sockets; the layout is
 * that of its arguments. */
struct iteration {
	void *seq;
};

struct stored_socket {
	struct iteration *meta;
	void *map;
	void *sk;
	struct socket_peer *peer;
};

SEC("iter/bpf_sk_storage_map")
int stored_sockets(struct stored_socket *ctx)
{
	struct socket_peer *peer = ctx->peer;
	void *sk = ctx->sk;
	struct stored_row row;

	if (!sk || !peer)
		return 0;
	row.cookie = bpf_get_socket_cookie(sk);
	row.peer = *peer;
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
