/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* The kernel's UAPI as far as the programs need it, without CO-RE: relocation
 * against the kernel's BTF costs 9 ms a load and buys nothing for UAPI types. */
