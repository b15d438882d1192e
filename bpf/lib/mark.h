/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Marks of packets. None ever leaves the node or enters a pod, and a pod cannot
 * set one: they are cleared when a packet changes its namespace. */

enum mark {
	MARK_CHECKED = 0x57e10001,    /* sent by a program of ours through a device with another one, which clears it */
	MARK_TO_PROXY = 0x57e10002,   /* a rule of the node's routing leads it to a local socket */
	MARK_FROM_PROXY = 0x57e10003, /* of every socket of the proxy */
};
