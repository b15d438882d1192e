/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Settings of the node, constant for the life of a program: they live in
 * .rodata, so the verifier removes what is switched off. The loader sets them
 * (internal/datapath/load); a change loads new programs. */

#include "addr.h"

volatile const __u8 cfg_ipv4 = 1;        /* IPv4 for pods */
volatile const __u8 cfg_ipv6 = 1;        /* IPv6 for pods */
volatile const __u8 cfg_tunnel = 1;      /* 1: VXLAN between nodes, 0: native routing */
volatile const __u8 cfg_masquerade4 = 1; /* source address of the node for IPv4 that leaves the cluster */
volatile const __u8 cfg_masquerade6 = 1;
volatile const __u16 cfg_tunnel_port = 8472; /* UDP destination port of VXLAN, host byte order */
volatile const __u16 cfg_node_index = 0;     /* this node's row in `nodes` */
volatile const __u32 cfg_mtu = 1500;         /* of pod interfaces, bytes of the L3 packet */
volatile const __u32 cfg_overlay_ifindex = 0;
volatile const __u32 cfg_uplink_ifindex = 0;          /* device of direct routing and of this copy of from_net/to_net */
volatile const __u32 cfg_host_ifindex = 0;            /* stentor_host */
volatile const __u8 cfg_host_mac[6] = {};             /* its own */
volatile const struct addr cfg_masquerade_addr4 = {}; /* mapped; address of the uplink */
volatile const struct addr cfg_masquerade_addr6 = {};
volatile const __u16 cfg_nat_port_min = 61000; /* ports of masqueraded flows, host byte order, inclusive */
volatile const __u16 cfg_nat_port_max = 65535;
volatile const __u8 cfg_services = 0;         /* every kind of service, for clients outside, too; 0: ClusterIP for pods */
volatile const __u8 cfg_reject = 1;           /* a service without backends answers */
volatile const __u8 cfg_host_sockets = 0;     /* only sockets of the host are translated */
volatile const __u8 cfg_bind_protection = 0;  /* no socket may bind to a NodePort */
volatile const __u16 cfg_node_port_min = 30000; /* host byte order, inclusive */
volatile const __u16 cfg_node_port_max = 32767;
volatile const __u64 cfg_host_netns = 0;      /* cookie of the host's network namespace */
volatile const __u64 cfg_maglev_seed = 0;     /* the same on all nodes */
volatile const __u32 cfg_hz = 250;       /* jiffies per second */
volatile const __u8 cfg_event_level = 1; /* 0 none (drops only), 1 connections, 2 every packet */
