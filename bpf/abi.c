/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Not a program: names every type that user space shares with the programs, so
 * that its BTF holds them all. internal/abi is generated from it. */

#include "lib/config.h"
#include "lib/endpoint.h"
#include "lib/event.h"
#include "lib/flow.h"
#include "lib/ipcache.h"
#include "lib/mark.h"
#include "lib/metric.h"
#include "lib/nat.h"
#include "lib/node.h"
#include "lib/policy.h"
#include "lib/proxy.h"
#include "lib/reasons.h"
#include "lib/service.h"
#include "lib/service_flow.h"
#include "lib/socket.h"

struct abi_structs {
	struct addr addr;
	struct endpoint endpoint;
	struct event event;
	struct flow_key flow_key;
	struct flow flow;
	struct fragment_key fragment_key;
	struct fragment fragment;
	struct ipcache_key ipcache_key;
	struct ipcache_entry ipcache_entry;
	struct metric metric;
	struct nat_key nat_key;
	struct nat_entry nat_entry;
	struct node node;
	struct class_row class_row;
	struct set_key set_key;
	struct set_entry set_entry;
	struct generations generations;
	struct proxy_ports proxy_ports;
	struct service_key service_key;
	struct service service;
	struct service_slot service_slot;
	struct backend backend;
	struct maglev_row maglev_row;
	struct service_vip service_vip;
	struct affinity_key affinity_key;
	struct affinity affinity;
	struct affinity_backend affinity_backend;
	struct source_range source_range;
	struct service_skip service_skip;
	struct direct_backend direct_backend;
	struct service_flow service_flow;
	struct socket_peer socket_peer;
	struct stored_row stored_row;
	struct socket_row socket_row;
	struct socket_key socket_key;
	struct socket_vip socket_vip;
} abi_structs;

struct abi_enums {
	enum endpoint_limit endpoint_limit;
	enum endpoint_flag endpoint_flag;
	enum event_type event_type;
	enum event_point event_point;
	enum event_flag event_flag;
	enum flow_leg flow_leg;
	enum flow_side flow_side;
	enum flow_flag flow_flag;
	enum identity identity;
	enum mark mark;
	enum ipcache_flag ipcache_flag;
	enum nat_direction nat_direction;
	enum nat_flag nat_flag;
	enum node_limit node_limit;
	enum node_flag node_flag;
	enum policy_limit policy_limit;
	enum policy_slot policy_slot;
	enum policy_class policy_class;
	enum policy_set policy_set;
	enum policy_prefix policy_prefix;
	enum policy_verdict policy_verdict;
	enum reason reason;
	enum service_scope service_scope;
	enum service_flag service_flag;
	enum service_kind service_kind;
	enum backend_flag backend_flag;
	enum affinity_limit affinity_limit;
	enum maglev_limit maglev_limit;
	enum service_hint service_hint;
} abi_enums;
