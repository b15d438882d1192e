/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once
/* Drop reasons as an enum, from reasons.def. */

enum reason {
	REASON_FORWARDED = 0,
#define REASON(number, name, text) REASON_##name = number,
#include "reasons.def"
#undef REASON
};
