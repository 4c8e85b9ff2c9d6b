// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#define PLAIN_OWN 3
#define PLAIN_ADD 7
#include "plain.bpf.c"
