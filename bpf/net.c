/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#include "lib/config.h"
#include "lib/endpoint.h"
#include "lib/event.h"
#include "lib/flow.h"
#include "lib/ipcache.h"
#include "lib/metric.h"
#include "lib/node.h"
#include "lib/policy.h"

SEC("tc")
int from_net(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

SEC("tc")
int to_net(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
